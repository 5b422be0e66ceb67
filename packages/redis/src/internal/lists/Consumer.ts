/**
 * Consumes a list: consumers share its messages, and each keeps its unsettled messages in a hash of its own.
 *
 * A consumer of an empty list waits by a blocked move (`BLMOVE`) from the list to the `first` list. The move only wakes the
 * consumer: the next consumer that asks takes the message from `first`, so a connection that breaks loses none.
 */
import { BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { Deferred, Effect, Random, type Scope } from "effect"
import type * as Client from "../client/Client.ts"
import * as Codec from "../client/Codec.ts"
import * as Errors from "../client/Errors.ts"
import * as Scripts from "./Scripts.ts"
import { originOf } from "../client/Origin.ts"
import * as Topology from "./Topology.ts"

type Failed = BrokerError.BrokerError

/** State that all parts of one driver share; times in milliseconds. */
export interface Lists {
  readonly connection: Client.Client
  /** Channels that this process has declared temporary. */
  readonly temporary: Set<string>
  /** How long a consumer may go without a heartbeat before it counts as dead. */
  readonly claim: number
  /** How long Redis may block a read of an empty list. */
  readonly maximumWait: number
}

class Member {
  private readonly lists: Lists
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly reading: Client.Connection
  private readonly name: string
  private readonly keys: ReturnType<typeof Topology.keysOf>
  private readonly taken: string
  private readonly origin: Origin
  private readonly lease: Driver.Lease
  private next = 1

  constructor(
    lists: Lists,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    reading: Client.Connection,
    name: string
  ) {
    this.lists = lists
    this.options = options
    this.sink = sink
    this.reading = reading
    this.name = name
    const { channel, group, handler } = options
    this.keys = Topology.keysOf(channel)
    this.taken = `${this.keys.taken}${name}`
    this.origin = originOf(channel, group, handler)
    this.lease = { partition: 0, settle: (batch) => this.settle(batch) }
  }

  private run(
    operation: Failed["operation"],
    script: Client.Script,
    keys: ReadonlyArray<string>,
    args: ReadonlyArray<Client.Argument>
  ): Effect.Effect<unknown, Failed> {
    return this.lists.connection.perform(operation, script, keys, args, this.options)
  }

  readonly join: Effect.Effect<void, Failed> = Effect.suspend(() => {
    const { channel, from, group } = this.options
    const { alive, first, group: owner } = this.keys
    const args = [this.name, group, this.lists.claim, from]
    return Effect.flatMap(this.run("consume", Scripts.join, [alive, owner, channel, first], args), (reply) => {
      if (reply === 1) return Effect.void
      return Effect.fail(
        reply === 0
          ? Errors.unsupported(
            "consume",
            `A list is a queue: a new group of ${channel} begins with what waits in it. Say from: "earliest", or use RedisStreams.`
          )
          : BrokerError.make({
            system: "redis",
            operation: "consume",
            reason: "Conflict",
            message: `A list has one group, and ${channel} belongs to ${
              String(reply)
            }: use that name or another list, use RedisStreams for several groups, or delete the key ${owner}.`
          })
      )
    })
  })

  /** Sends heartbeats until interrupted; fails when another consumer took this one for dead. */
  readonly keep: Effect.Effect<never, Failed> = Effect.forever(
    Effect.andThen(
      Effect.suspend(() => Effect.sleep(this.lists.claim / 3)),
      Effect.suspend(() => this.run("settle", Scripts.beat, [this.keys.alive], [this.name, this.lists.claim]))
    )
  )

  /** Settles a batch: released and retried messages return to the list, others are done. The engine holds delayed retries. */
  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    const done: Array<number> = []
    const back: Array<number> = []
    for (const { delivery, outcome } of batch) {
      if (outcome._tag === "Release" || outcome._tag === "Retry") back.push(delivery.position)
      else done.push(delivery.position)
    }
    const { alive, first } = this.keys
    const tell = (done: ReadonlyArray<number>, back: ReadonlyArray<number>) =>
      this.run("settle", Scripts.settle, [alive, this.taken, first], [this.name, done.length, ...done, ...back])
    // the most values that a script can unpack; 4,096 messages in flight hardly give more
    if (back.length <= 4000) return Effect.asVoid(tell(done, back))
    return Effect.andThen(
      tell(done, back.slice(4000)),
      Effect.asVoid(tell([], back.slice(0, 4000)))
    )
  }

  readonly read: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    const { batch, bytes, channel } = this.options
    const { alive, first, taken } = this.keys
    this.sink.open(this.lease)
    while (true) {
      const reply = yield* this.run("consume", Scripts.take, [alive, first, channel, this.taken], [
        this.name,
        this.next,
        batch,
        bytes,
        taken
      ])
      this.sink.polled()
      // the script returns values
      const values = reply as ReadonlyArray<Buffer>
      if (values.length > 0) yield* this.sink.offer(this.lease, this.deliveries(values))
      else yield* this.wait
    }
  })

  private deliveries(values: ReadonlyArray<Buffer>): Array<Delivery> {
    return values.map((value) => {
      const envelope = Codec.open(value)
      return delivery(this.origin, Codec.reader, envelope, this.next++, Codec.bodyOf(envelope), 1)
    })
  }

  /** Waits until the list has a message; the move puts it into `first`. */
  private readonly wait: Effect.Effect<unknown, Failed> = Effect.suspend(() => {
    const args = [this.options.channel, this.keys.first, "LEFT", "RIGHT", this.lists.maximumWait / 1000]
    return Effect.catchIf(
      this.reading.attempt("consume", () => this.reading.send("BLMOVE", args), this.options),
      // on a full server BLMOVE fails, and only scripts can move messages
      (error) => error.reason === "Full",
      () => Effect.sleep(this.lists.maximumWait)
    )
  })

  /** Returns the remaining messages; if that fails, other consumers do so when the claim ends. */
  get leave(): Effect.Effect<void> {
    const { alive, first } = this.keys
    return Effect.ignore(this.run("settle", Scripts.leave, [alive, this.taken, first], [this.name]))
  }
}

/** Runs until interrupted; fails when a connection ends, or when another consumer took this one for dead. */
export const consume = (
  lists: Lists,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const where = { channel: options.channel, group: options.group }
    if (options.temporary === true) {
      // no cleanup after a failure: the engine consumes again
      yield* Effect.addFinalizer((exit) =>
        exit._tag === "Success" ? Topology.end(lists.connection, lists.temporary, options.channel) : Effect.void
      )
    }
    const reading = yield* lists.connection.separate(options.channel)
    const chance = yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)
    const member = new Member(lists, options, sink, reading, `${options.handler}:${chance.toString(36)}`)
    yield* Effect.acquireRelease(member.join, () => member.leave)
    if (lists.temporary.has(options.channel)) yield* Effect.forkScoped(Topology.keep(lists.connection, options.channel))
    const gone = yield* Deferred.make<never, Failed>()
    // heartbeats continue while the engine drains, until the scope closes
    yield* Effect.forkScoped(Effect.catch(member.keep, (error) => Deferred.fail(gone, error)))
    sink.ready()
    return yield* Effect.raceAllFirst([
      member.read,
      Deferred.await(gone),
      reading.ended("consume", where),
      lists.connection.ended(options.channel, "consume", where)
    ])
  })
