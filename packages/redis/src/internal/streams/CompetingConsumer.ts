/**
 * Consuming where order does not matter: the consumers of a group share its messages, and take over those of who is gone.
 *
 * New messages come by a blocked read on a connection of its own. Beside it a sweep looks for what else may run: delayed
 * messages that are due, what others gave back, what nobody has kept alive for the length of a claim.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Duration, Effect, Exit, Latch, type Scope } from "effect"
import type * as Client from "../client/Client.ts"
import * as Errors from "../client/Errors.ts"
import * as Keys from "../client/Keys.ts"
import { type Again, idOf, Maker } from "./Deliveries.ts"
import type { Entry } from "./Codec.ts"
import * as Scripts from "./Scripts.ts"
import type { Streams } from "./Streams.ts"
import { originOf } from "../client/Origin.ts"

type Failed = BrokerError.BrokerError

/** Names of consumers that are ours. */
const prefix = "millrace:"
/** Who has what was given back: nobody. */
const released = "millrace:released"

class Member {
  readonly lease: Driver.Lease
  private readonly streams: Streams
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly reading: Client.Connection
  private readonly name: string
  private readonly keys: ReadonlyArray<string>
  private readonly maker: Maker
  /** Open when there may be something to sweep before its time. */
  private readonly soon = Latch.makeUnsafe(false)
  private next = 0
  private isFull = false
  /** When to look next for what nobody keeps alive, in milliseconds of the monotonic clock. */
  private nextLook = Number.NEGATIVE_INFINITY

  constructor(
    streams: Streams,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    reading: Client.Connection,
    name: string
  ) {
    this.streams = streams
    this.options = options
    this.sink = sink
    this.reading = reading
    this.name = name
    const { channel, group, handler } = options
    this.keys = [channel, Keys.beside(channel, group, "delayed")]
    this.maker = new Maker(originOf(channel, group, handler), options.batch, options.bytes)
    this.lease = {
      partition: 0,
      claim: streams.times.claim,
      settle: (batch) => this.settle(batch),
      extend: (batch) => this.run("settle", Scripts.extend, [group, name, ...batch.map(idOf)])
    }
  }

  private get where() {
    return { channel: this.options.channel, group: this.options.group }
  }

  private run(
    operation: Failed["operation"],
    script: Client.Script,
    args: ReadonlyArray<Client.Argument>
  ): Effect.Effect<void, Failed> {
    return Effect.asVoid(this.streams.connection.perform(operation, script, this.keys, args, this.where))
  }

  /** What is done is acknowledged by one command, whoever has taken it over meanwhile: it is done. */
  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    const { channel, group } = this.options
    const done: Array<Client.Argument> = [channel, group]
    const later: Array<Client.Argument> = [group, this.name]
    const back: Array<Client.Argument> = [group, this.name, released]
    for (const { delivery, outcome } of batch) {
      const id = idOf(delivery)
      if (outcome._tag === "Retry") {
        const after = outcome.after === undefined ? 0 : Duration.toMillis(outcome.after)
        later.push(id, Math.max(0, Math.round(after)), delivery.attempt)
        this.next = Math.min(this.next, after)
      } else if (outcome._tag === "Release") back.push(id)
      else done.push(id)
    }
    const { connection } = this.streams
    const acknowledged = done.length === 2
      ? Effect.void
      : connection.attempt("settle", () => connection.send(channel, "XACK", done), this.where)
    if (later.length === 2 && back.length === 3) return Effect.asVoid(acknowledged)
    return Effect.gen({ self: this }, function*() {
      yield* acknowledged
      if (later.length > 2) {
        for (const some of Scripts.inPieces(later.slice(2), 3 * 1000)) {
          yield* this.run("settle", Scripts.delay, [group, this.name, ...some])
        }
        this.soon.openUnsafe()
      }
      if (back.length > 3) yield* this.run("settle", Scripts.release, back)
    })
  }

  /** Reads what is new until interrupted. */
  readonly read: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    const id = yield* Effect.orElseSucceed(
      this.reading.attempt("consume", () => this.reading.send("CLIENT", ["ID"])),
      () => undefined
    )
    while (true) {
      const entries = yield* this.block(typeof id === "number" ? id : undefined)
      this.sink.polled()
      if (entries.length === 0) continue
      const room = this.sink.offer(this.lease, this.maker.fresh(entries))
      if (Exit.isExit(room)) continue
      this.isFull = true
      yield* room
      this.isFull = false
    }
  })

  /** One blocked read. Interrupted, it makes Redis let go, and gives back what came all the same. */
  private block(id: number | undefined): Effect.Effect<ReadonlyArray<Entry>, Failed> {
    const { channel, group } = this.options
    return Effect.callback((resume) => {
      const reply = this.reading.send("XREADGROUP", [
        "GROUP",
        group,
        this.name,
        "COUNT",
        this.maker.count,
        "BLOCK",
        this.streams.times.maximumWait,
        "STREAMS",
        channel,
        ">"
      ]).then((found) => {
        // one stream was asked for, so one is answered
        const [[, entries]] = found as [[Buffer, ReadonlyArray<Entry>]] | null ?? [[undefined, []]]
        return entries
      })
      reply.then(
        (entries) => resume(Exit.succeed(entries)),
        (error: unknown) => resume(Exit.fail(Errors.fromUnknown(error, "consume", this.reading.place, this.where)))
      )
      if (id === undefined) return
      // what is not given back here is when the group is left
      return Effect.tryPromise(async () => {
        // at another server the number is that of another client
        await this.streams.connection.beside(channel, this.reading)?.send("CLIENT", ["UNBLOCK", id])
        const entries = await reply
        if (entries.length === 0) return
        await this.streams.connection.run(Scripts.release, this.keys, [
          group,
          this.name,
          released,
          ...entries.map(([each]) => each)
        ])
      }).pipe(Effect.timeoutOption("1 second"), Effect.ignore)
    })
  }

  /** Looks for what else may run, again and again. */
  readonly sweep: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    while (true) {
      const more = this.isFull ? false : yield* this.sweepOnce()
      if (more) continue
      yield* Effect.timeoutOption(this.soon.await, Math.max(1, this.isFull ? this.streams.times.sweep : this.next))
      this.soon.closeUnsafe()
    }
  })

  /** Answers whether there may be more at once. */
  private sweepOnce(): Effect.Effect<boolean, Failed> {
    const { group } = this.options
    const { connection, times } = this.streams
    return Effect.gen({ self: this }, function*() {
      // the wall clock may be set back, and claims of dead consumers would wait for as long
      const now = yield* Effect.clockWith((clock) => Effect.sync(() => Number(clock.monotonicTimeNanosUnsafe()) / 1e6))
      const look = now >= this.nextLook
      if (look) this.nextLook = now + times.claim / 2
      const count = Math.min(this.maker.count, 256)
      this.next = times.sweep
      const args = [group, this.name, released, count, look ? times.claim : 0, prefix]
      const reply = yield* connection.perform("consume", Scripts.sweep, this.keys, args, this.where)
      // as the script answers
      const [entries, next, gone] = reply as [ReadonlyArray<Again>, number, number]
      if (next >= 0) this.next = Math.min(this.next, next)
      if (gone > 0) yield* this.streams.trimmed(this.options, gone)
      if (entries.length === 0) return false
      // a read that ended meanwhile may be waiting for room, too: a batch more than asked for, at the most
      yield* this.sink.offer(this.lease, this.maker.again(entries))
      if (entries.length < count) return false
      // dead consumers may have had more than fits into one answer
      if (look) this.nextLook = now
      return true
    })
  }

  /** Gives back what is left, and leaves the group; what fails here is taken over when its claim is over. */
  get leave(): Effect.Effect<void> {
    return Effect.ignore(this.run("settle", Scripts.leave, [this.options.group, this.name, released]))
  }
}

/** Runs until interrupted; fails when a connection ends. */
export const consume = (
  streams: Streams,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { connection } = streams
    const where = { channel: options.channel, group: options.group }
    yield* streams.begin(options)
    const name = `${prefix}${options.handler}:${yield* streams.token}`
    const member = yield* Effect.acquireRelease(
      Effect.map(
        connection.separate(options.channel),
        (reading) => [reading, new Member(streams, options, sink, reading, name)] as const
      ),
      ([, member]) => member.leave
    )
    sink.open(member[1].lease)
    sink.ready()
    return yield* Effect.raceAllFirst([
      member[1].read,
      member[1].sweep,
      member[0].ended("consume", where),
      connection.ended(options.channel, "consume", where)
    ])
  })
