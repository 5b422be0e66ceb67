/**
 * Consuming a list: consumers share what waits, and each keeps what it has in a hash of its own until it is settled.
 *
 * A consumer that finds nothing waits by a blocked move from the list to the one before it. That wakes it and no more: whoever
 * asks next takes the message from there, so none is lost with a connection that ends in the middle.
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

/** Shared by all that is done by one driver; times in milliseconds. */
export interface Lists {
  readonly connection: Client.Client
  /** Channels that this process has declared temporary. */
  readonly temporary: Set<string>
  /** A consumer without a sign of life for so long is dead. */
  readonly claim: number
  /** How long Redis may hold an answer back until there is something to tell. */
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

  /** Keeps the consumer alive until interrupted; fails when others took it for dead. */
  readonly keep: Effect.Effect<never, Failed> = Effect.forever(
    Effect.andThen(
      Effect.suspend(() => Effect.sleep(this.lists.claim / 3)),
      Effect.suspend(() => this.run("settle", Scripts.beat, [this.keys.alive], [this.name, this.lists.claim]))
    )
  )

  /** The engine holds what waits for its next attempt, so what is not given back is done. */
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
    // what a script can unpack; a broker of 4,096 messages in flight hardly has more
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
      // the script answers values
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

  /** Waits until there is something; it goes first then. */
  private readonly wait: Effect.Effect<unknown, Failed> = Effect.suspend(() => {
    const args = [this.options.channel, this.keys.first, "LEFT", "RIGHT", this.lists.maximumWait / 1000]
    return Effect.catchIf(
      this.reading.attempt("consume", () => this.reading.send("BLMOVE", args), this.options),
      // a full server moves nothing unless a script does
      (error) => error.reason === "Full",
      () => Effect.sleep(this.lists.maximumWait)
    )
  })

  /** Gives back what is left; where that fails, others do when the claim is over. */
  get leave(): Effect.Effect<void> {
    const { alive, first } = this.keys
    return Effect.ignore(this.run("settle", Scripts.leave, [alive, this.taken, first], [this.name]))
  }
}

/** Runs until interrupted; fails when a connection ends, or when others took this consumer for dead. */
export const consume = (
  lists: Lists,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const where = { channel: options.channel, group: options.group }
    if (options.temporary === true) {
      // after a failure the engine consumes again
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
    // the sign of life goes on while the engine drains, until the scope closes
    yield* Effect.forkScoped(Effect.catch(member.keep, (error) => Deferred.fail(gone, error)))
    sink.ready()
    return yield* Effect.raceAllFirst([
      member.read,
      Deferred.await(gone),
      reading.ended("consume", where),
      lists.connection.ended(options.channel, "consume", where)
    ])
  })
