/**
 * A full broker in memory: partitions, groups, rebalancing, redelivery, positions that outlive a subscription, tombstones,
 * native headers. The broker uses the program's clock, so tests can run in virtual time.
 */
import { type Clock, Deferred, type Duration, Effect, Exit, Latch, Layer, type Scope, Stream } from "effect"
import { Broker } from "../broker/Broker.ts"
import { type BrokerError, make as failure } from "../driver/BrokerError.ts"
import type { Capabilities, ConsumeOptions, Declaration, Driver, Lag, Sink } from "../driver/Driver.ts"
import * as Features from "../driver/Features.ts"
import * as Engine from "../internal/engine/Engine.ts"
import type { Pattern } from "../message/Address.ts"
import { type Delivery, type Outgoing } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import { isDone } from "../pipeline/Eager.ts"
import { Group, Member, type Owned, type Rules } from "./MemoryGroup.ts"
import { Log, Publication } from "./MemoryLog.ts"

/** Options of a memory broker. */
export interface Options {
  /** Partitions of an undeclared channel. Default: 4. */
  readonly partitions?: number | undefined
  /**
   * How messages are acknowledged: everything below a position, as in Kafka, or each message alone, as in queues; the latter
   * also delays retries by itself. Default: `position`.
   */
  readonly settlement?: "position" | "message" | undefined
  /**
   * With settlement `message`: how long a message may stay unsettled before redelivery. The engine extends the claims of
   * messages that it handles. Default: until its subscription ends.
   */
  readonly claim?: Duration.Input | undefined
  /**
   * The number of messages of a partition that stay after every group has settled them, for later groups and for browsing.
   * Default: 1,000. Messages that a group has not settled are never dropped.
   */
  readonly retention?: number | undefined
  /** The longest body in bytes, from 1. Default: no limit. */
  readonly maximumBytes?: number | undefined
}

/** A memory broker, with controls for tests. */
export interface MemoryBroker {
  readonly driver: Driver
  readonly broker: Broker["Service"]
  /** Cuts every connection: subscriptions lose their leases and reconnect; publishes fail until `start`. */
  readonly stop: Effect.Effect<void>
  readonly start: Effect.Effect<void>
  /** Returns, for each partition of a channel, the position below which a group has settled every message. */
  readonly positions: (channel: string, group: string) => ReadonlyArray<number>
  /** Returns, for each partition of a channel, the position after the last message. */
  readonly ends: (channel: string) => ReadonlyArray<number>
}

const check = OptionCheck.make("MemoryBroker")

// the number of messages beyond the retention that are dropped at once
const step = 64

class State {
  readonly logs = new Map<string, Log>()
  readonly groups = new Map<string, Map<string, Group>>()
  readonly connections = new Map<Member, Deferred.Deferred<never, BrokerError>>()
  /** Groups that already read a pattern: they read channels created later from the beginning. */
  private readonly begun = new Set<string>()
  /** Channels that end with their subscription. */
  readonly temporary = new Set<string>()
  /** Callbacks for new channels. */
  readonly watchers = new Set<(channel: string) => void>()
  running = true
  private readonly partitions: number
  private readonly retention: number
  readonly rules: Rules

  constructor(options: Options, now: () => number) {
    this.partitions = check.count("partitions", options.partitions ?? 4)
    this.retention = check.count("retention", options.retention ?? 1000)
    if (options.maximumBytes !== undefined) check.count("maximumBytes", options.maximumBytes)
    this.rules = {
      settlement: check.oneOf("settlement", options.settlement ?? "position", ["position", "message"]),
      claim: check.millis("claim", options.claim ?? Number.POSITIVE_INFINITY, { infinite: true }),
      now
    }
  }

  log(channel: string, partitions = this.partitions): Log {
    let log = this.logs.get(channel)
    if (log === undefined) {
      this.logs.set(channel, log = new Log(partitions))
      for (const watch of this.watchers) watch(channel)
    }
    return log
  }

  group(options: ConsumeOptions): Group {
    let groups = this.groups.get(options.channel)
    if (groups === undefined) this.groups.set(options.channel, groups = new Map())
    let group = groups.get(options.group)
    if (group === undefined) {
      group = new Group(
        options.group,
        options.channel,
        this.log(options.channel),
        this.rules,
        options.from,
        (p) => this.trim(options.channel, p)
      )
      groups.set(options.group, group)
    }
    return group
  }

  /** Removes a temporary group, and the channel that was declared for it. */
  forget({ channel, group }: ConsumeOptions): void {
    this.groups.get(channel)?.delete(group)
    if (!this.temporary.delete(channel)) return
    this.logs.delete(channel)
    this.groups.delete(channel)
  }

  /** Returns where a group begins in the channels of a pattern that it has not read yet. */
  begin({ channel, from, group }: ConsumeOptions): ConsumeOptions["from"] {
    const name = JSON.stringify([group, channel])
    if (this.begun.has(name)) return "earliest"
    this.begun.add(name)
    return from
  }

  lag(channel: string, group: string): ReadonlyArray<Lag> {
    return this.groups.get(channel)?.get(group)?.lag ?? []
  }

  /** Marks all connections as cut before it notifies any: partitions that one member releases must not go to the next. */
  stop(): void {
    this.running = false
    for (const member of this.connections.keys()) member.cut = true
    for (const cut of Array.from(this.connections.values())) Deferred.doneUnsafe(cut, Exit.fail(down("consume")))
  }

  /** Wakes the members that wait for messages of a channel. */
  announce(channel: string | undefined, log: Log | undefined): void {
    if (channel === undefined || log === undefined) return
    const groups = this.groups.get(channel)
    if (groups !== undefined) { for (const group of groups.values()) group.announce(log) }
    log.fresh.fill(0)
  }

  private trim(channel: string, p: number): void {
    const partition = this.logs.get(channel)!.partitions[p]!
    if (partition.end - partition.base < this.retention + step) return
    let low = partition.end - this.retention
    for (const group of this.groups.get(channel)!.values()) low = Math.min(low, group.doneOf(p))
    partition.trim(low)
  }
}

const down = (operation: BrokerError["operation"]): BrokerError =>
  failure({ system: "memory", operation, reason: "Unreachable", message: "The memory broker is stopped: start it." })

const capabilities = (options: Options): Capabilities => ({
  settlement: options.settlement ?? "position",
  ordering: "partition",
  redelivery: true,
  delay: options.settlement === "message",
  deadLetter: false,
  attempts: options.settlement === "message",
  groups: true,
  fanOut: true,
  retention: true,
  replay: true,
  persistence: false,
  browse: true,
  tombstones: true,
  partitions: true,
  timestamps: "milliseconds",
  transactions: false,
  patterns: true,
  lag: true,
  maximumBytes: options.maximumBytes
})

const consume = (state: State, options: ConsumeOptions, sink: Sink) =>
  Effect.gen(function*() {
    const member = new Member(
      options,
      sink,
      yield* Effect.withFiber((fiber) => Effect.succeed(fiber.currentDispatcher))
    )
    const cut = Deferred.makeUnsafe<never, BrokerError>()
    if (options.temporary === true) {
      yield* Effect.addFinalizer((exit) =>
        exit._tag === "Success" ? Effect.sync(() => state.forget(options)) : Effect.void
      )
    }
    const group = yield* Effect.acquireRelease(
      Effect.suspend(() => {
        if (!state.running) return Effect.fail(down("consume"))
        const group = state.group(options)
        // before joining, which may wait for other members to release partitions
        state.connections.set(member, cut)
        return Effect.as(group.join(member), group)
      }),
      (group) => {
        state.connections.delete(member)
        return group.leave(member)
      }
    )
    if (member.cut) return yield* Deferred.await(cut)
    const scope = yield* Effect.scope
    sink.ready()
    // the loop ends only with the race below
    const read: Effect.Effect<void, BrokerError> = Effect.whileLoop({
      while: () => true,
      step: () => {},
      body: () => {
        if (member.cut) return Deferred.await(cut)
        const found = group.next(member)
        if (found !== undefined) {
          sink.polled()
          const { batch, owned } = found
          const room = sink.offer(owned.lease, batch)
          if (isDone(room)) return room
          // the other partitions continue meanwhile
          owned.isFull = true
          return Effect.asVoid(Effect.forkIn(Effect.onExit(room, () => roomOf(owned, member)), scope))
        }
        member.news.closeUnsafe()
        // a claim or a delay may end without a publish
        const wait = group.wakes(member) - state.rules.now()
        return wait === Number.POSITIVE_INFINITY
          ? member.news.await
          : Effect.asVoid(Effect.timeoutOption(member.news.await, Math.max(0, wait)))
      }
    })
    return yield* Effect.raceFirst(read, Deferred.await(cut))
  })

const roomOf = (owned: Owned, member: Member): Effect.Effect<void> =>
  Effect.sync(() => {
    owned.isFull = false
    member.wake()
  })

/** Runs one reader for each matching channel. Channels created after the group began are read from their beginning. */
const consumeAll = (state: State, pattern: Pattern, options: ConsumeOptions, sink: Sink) =>
  Effect.gen(function*() {
    const fits = (channel: string) => pattern.match(channel) !== undefined
    const waiting = Array.from(state.logs.keys()).filter(fits)
    const news = Latch.makeUnsafe(false)
    const watch = (channel: string) => {
      if (!fits(channel)) return
      waiting.push(channel)
      news.openUnsafe()
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => state.watchers.add(watch)),
      () => Effect.sync(() => state.watchers.delete(watch))
    )
    const failed = Deferred.makeUnsafe<never, BrokerError>()
    const one = { ...sink, ready: () => {} }
    let from = state.begin(options)
    let isReady = false
    const read: Effect.Effect<never, BrokerError, Scope.Scope> = Effect.forever(Effect.suspend(() => {
      news.closeUnsafe()
      const start = Effect.forEach(waiting.splice(0), (channel) =>
        consume(state, { ...options, channel, from }, one).pipe(
          Effect.onError((cause) =>
            Deferred.failCause(failed, cause)
          ),
          Effect.forkChild({ startImmediately: true })
        ), { discard: true })
      return Effect.andThen(
        start,
        Effect.suspend(() => {
          if (!isReady) {
            sink.ready()
          }
          isReady = true
          from = "earliest"
          return news.await
        })
      )
    }))
    return yield* Effect.raceFirst(read, Deferred.await(failed))
  })

const refuse = (state: State, options: Options, outgoing: Outgoing<Uint8Array>): BrokerError | undefined => {
  const refused = Features.refuse("memory", capabilities(options), outgoing)
  const partition = outgoing.native?.partition
  if (refused !== undefined || partition === undefined) return refused
  const count = state.log(outgoing.channel).partitions.length
  return partition < count ? undefined : Features.noPartition("memory", outgoing.channel, partition, count)
}

const publish =
  (state: State, options: Options, clock: Clock.Clock) =>
  (batch: ReadonlyArray<Outgoing<Uint8Array>>): Exit.Exit<void, BrokerError> => {
    if (!state.running) return Exit.fail(down("publish"))
    const { maximumBytes } = options
    for (let i = 0; i < batch.length; i++) {
      const refused = batch[i]!.native === undefined ? undefined : refuse(state, options, batch[i]!)
      if (refused !== undefined) return Exit.fail(refused)
    }
    if (maximumBytes !== undefined) {
      for (const { channel, payload } of batch) {
        if (payload.length > maximumBytes) {
          return Exit.fail(failure({
            system: "memory",
            operation: "publish",
            reason: "TooLarge",
            message: `A message of ${payload.length} bytes for ${channel} is longer than maximumBytes, ${maximumBytes}.`
          }))
        }
      }
    }
    const publication = new Publication(clock.currentTimeMillisUnsafe())
    let channel: string | undefined
    let log: Log | undefined
    for (let i = 0; i < batch.length; i++) {
      const outgoing = batch[i]!
      if (outgoing.channel !== channel || log === undefined) {
        state.announce(channel, log)
        channel = outgoing.channel
        log = state.log(channel)
      }
      log.append(outgoing, publication)
    }
    state.announce(channel, log)
    return Exit.void
  }

const declare = (state: State) => (declaration: Declaration): Effect.Effect<void, BrokerError> =>
  Effect.suspend(() => {
    const { channel, partitions } = declaration
    if (partitions !== undefined && !(Number.isInteger(partitions) && partitions > 0)) {
      return Effect.fail(failure({
        system: "memory",
        operation: "declare",
        reason: "Invalid",
        message: `${channel} cannot have ${partitions} partitions: declare an integer from 1.`
      }))
    }
    if (declaration.temporary === true && !state.logs.has(channel)) state.temporary.add(channel)
    const log = state.log(channel, partitions)
    if (partitions === undefined || log.partitions.length === partitions) return Effect.void
    return Effect.fail(failure({
      system: "memory",
      operation: "declare",
      reason: "Conflict",
      message:
        `${channel} has ${log.partitions.length} partitions, not ${partitions}: declare it before it is first used.`
    }))
  })

const browse = (state: State) => (channel: string): Stream.Stream<Delivery, BrokerError> =>
  Stream.suspend(() =>
    state.running
      ? Stream.fromIterable(
        (state.logs.get(channel)?.partitions ?? []).flatMap((partition, p) => {
          const origin = {
            system: "memory",
            channel,
            group: "",
            partition: p,
            handler: "",
            holdLimit: Number.POSITIVE_INFINITY,
            lasting: true
          }
          return Array.from(
            { length: partition.end - partition.base },
            (_, i) => partition.deliver(origin, partition.base + i, 1)
          )
        })
      )
      : Stream.fail(down("browse"))
  )

/**
 * Makes a memory broker.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const make = (options: Options = {}): Effect.Effect<MemoryBroker> =>
  Effect.map(Effect.clockWith((clock) => Effect.succeed(clock)), (clock) => {
    const state = new State(options, () => clock.currentTimeMillisUnsafe())
    const driver: Driver = {
      system: "memory",
      capabilities: capabilities(options),
      consume: (consumer, sink) =>
        consumer.pattern === undefined
          ? consume(state, consumer, sink)
          : consumeAll(state, consumer.pattern, consumer, sink),
      publish: publish(state, options, clock),
      declare: declare(state),
      browse: browse(state),
      check: Effect.suspend(() => state.running ? Effect.void : Effect.fail(down("check"))),
      lag: (channel, group) =>
        Effect.suspend(() => state.running ? Effect.succeed(state.lag(channel, group)) : Effect.fail(down("lag")))
    }
    return {
      driver,
      broker: Engine.make(driver),
      stop: Effect.sync(() => state.stop()),
      start: Effect.sync(() => {
        state.running = true
      }),
      positions: (channel, group) => state.groups.get(channel)?.get(group)?.done ?? [],
      ends: (channel) => (state.logs.get(channel)?.partitions ?? []).map((partition) => partition.end)
    }
  })

/**
 * A memory broker as a layer.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<Broker> =>
  Layer.effect(Broker, Effect.map(make(options), ({ broker }) => broker))
