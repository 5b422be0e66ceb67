/**
 * Consumes in order: one consumer of a group reads while the others stand by.
 *
 * The reader holds a lock that expires. Reading and settling happen in scripts that check the lock first, so a reader that was
 * paused can neither take nor settle messages once another consumer has taken over. The next reader begins with
 * all pending messages, in the order of the stream.
 */
import { type BrokerError, type Driver } from "@millrace/core"
import { Deferred, Effect, type Scope } from "effect"
import type * as Client from "../client/Client.ts"
import * as Keys from "../client/Keys.ts"
import { type Again, idOf, Maker } from "./Deliveries.ts"
import type { Entry } from "./Codec.ts"
import { Lock } from "./Lock.ts"
import * as Scripts from "./Scripts.ts"
import type { Streams } from "./Streams.ts"
import { originOf } from "../client/Origin.ts"

type Failed = BrokerError.BrokerError

/** The consumer name of all readers of a group; the lock tells them apart. */
const name = "millrace:reader"

class Reader {
  private readonly streams: Streams
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly reading: Client.Connection
  private readonly lock: Lock
  private readonly maker: Maker
  private readonly lease: Driver.Lease

  constructor(
    streams: Streams,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    reading: Client.Connection,
    lock: Lock
  ) {
    this.streams = streams
    this.options = options
    this.sink = sink
    this.reading = reading
    this.lock = lock
    const { channel, group, handler } = options
    this.maker = new Maker(originOf(channel, group, handler), options.batch, options.bytes)
    this.lease = { partition: 0, settle: (batch) => this.settle(batch) }
  }

  private run(
    operation: Failed["operation"],
    script: Client.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Client.Argument>
  ): Effect.Effect<unknown, Failed> {
    return this.streams.connection.perform(operation, script, keys, args, this.options)
  }

  /** Settles a batch: released and retried messages stay pending for the next reader. The engine holds delayed retries. */
  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    const { channel, group } = this.options
    const ids: Array<Client.Argument> = []
    for (const { delivery, outcome } of batch) {
      if (outcome._tag !== "Release" && outcome._tag !== "Retry") ids.push(idOf(delivery))
    }
    if (ids.length === 0) return Effect.void
    const tell = (some: ReadonlyArray<Client.Argument>) =>
      this.run("settle", Scripts.settle, [channel, this.lock.key], [group, this.lock.token, ...some])
    return ids.length <= Scripts.most
      ? Effect.asVoid(tell(ids))
      : Effect.forEach(Scripts.inPieces(ids, Scripts.most), tell, { discard: true })
  }

  readonly read: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    const { channel, group } = this.options
    this.sink.open(this.lease)
    yield* this.takeOver
    while (true) {
      const reply = yield* this.run("consume", Scripts.read, [channel, this.lock.key], [
        group,
        name,
        this.maker.count,
        this.lock.token
      ])
      this.sink.polled()
      if (Buffer.isBuffer(reply)) yield* this.wait(reply)
      else {
        // the script returns an id or entries
        yield* this.sink.offer(this.lease, this.maker.fresh(reply as ReadonlyArray<Entry>))
      }
    }
  })

  /** Waits until the stream has an entry after the id; takes nothing. */
  private wait(id: Buffer): Effect.Effect<unknown, Failed> {
    const args = ["COUNT", 1, "BLOCK", this.streams.times.maximumWait, "STREAMS", this.options.channel, id]
    return this.reading.attempt("consume", () => this.reading.send("XREAD", args), this.options)
  }

  /** Takes over all pending messages of the group, in the order of the stream. */
  private readonly takeOver: Effect.Effect<void, Failed> = Effect.gen({ self: this }, function*() {
    const { channel, group } = this.options
    const delayed = Keys.beside(channel, group, "delayed")
    while ((yield* this.run("consume", Scripts.undelay, [channel, delayed], [group, name, 1000])) === 1000);
    let from: Client.Argument = "-"
    while (true) {
      const reply = yield* this.run("consume", Scripts.takeOver, [channel, this.lock.key], [
        group,
        name,
        this.maker.count,
        from,
        this.lock.token
      ])
      // the shape of the script's reply
      const [last, entries, gone] = reply as [Buffer, ReadonlyArray<Again>, number]
      if (gone > 0) yield* this.streams.trimmed(this.options, gone)
      if (last.length === 0) return
      if (entries.length > 0) yield* this.sink.offer(this.lease, this.maker.again(entries))
      from = `(${last.toString()}`
    }
  })
}

/** Runs until interrupted; fails when a connection or the lock is lost. */
export const consume = (
  streams: Streams,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { connection } = streams
    const where = { channel: options.channel, group: options.group }
    yield* streams.begin(options)
    const reading = yield* connection.separate(options.channel)
    const lock = new Lock(streams, options, yield* streams.token)
    const reader = new Reader(streams, options, sink, reading, lock)
    sink.ready()
    yield* Effect.addFinalizer(() => lock.release)
    const ends = [reading.ended("consume", where), connection.ended(options.channel, "consume", where)] as const
    yield* Effect.raceAllFirst([lock.acquire(() => sink.polled()), ...ends])
    const gone = yield* Deferred.make<never, Failed>()
    // the lock is kept while the engine drains, until the scope closes
    yield* Effect.forkScoped(Effect.catch(lock.keep, (error) => Deferred.fail(gone, error)), { startImmediately: true })
    return yield* Effect.raceAllFirst([reader.read, Deferred.await(gone), ...ends])
  })
