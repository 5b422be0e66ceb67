/**
 * Consumes messages; each assigned partition is one lease. The consumer fetches from each broker continuously, on one
 * connection for each broker. Heartbeats and commits use other connections, so none waits for a fetch.
 *
 * If messages of a partition wait for room, at most one more answer is fetched for that partition, and other partitions are
 * still read.
 */
import { BrokerError, type Delivery, type Driver } from "@millrace/core"
import { Clock, Deferred, Effect, Exit, type Fiber, FiberSet, Random, Schedule, type Scope } from "effect"
import { ProtocolError } from "@platformatic/kafka"
import type { Assigned } from "../Assigner.ts"
import { begin, type Begun, type Place } from "../Beginning.ts"
import type { Cluster, Position } from "../Cluster.ts"
import * as Errors from "../Errors.ts"
import * as Membership from "../Membership.ts"
import type { ResolvedOptions } from "../Options.ts"
import { Progress } from "../Progress.ts"
import { decode } from "../SettledRanges.ts"
import * as TopicSet from "../TopicSet.ts"
import * as ClassicGroup from "./ClassicGroup.ts"
import * as ConsumerGroup from "./ConsumerGroup.ts"
import { fetch, type Fetched } from "./Fetch.ts"
import { Coordinator, type Group, type Holder } from "./Group.ts"
import { Leaders } from "./Leaders.ts"
import { keyOf, Partition } from "./Partition.ts"
import * as Offsets from "./Offsets.ts"
import * as Codec from "./Codec.ts"
import { type Connection, open as openConnection } from "./Connection.ts"

type Failed = BrokerError.BrokerError

/** Kafka's group protocols. */
export type GroupProtocol = "classic" | "consumer"

// codes of a partition after which its leader is looked up again: https://kafka.apache.org/protocol#protocol_error_codes
const moved = new Set([3, 5, 6, 9, 56, 74, 75, 76, 78, 100, 103])
const outOfRange = 1
// the longest fetch, in milliseconds, while a partition waits for room, so that it is fetched again soon after it gets room
const shortWait = 20

class Member implements Holder {
  private readonly settings: ResolvedOptions
  private readonly cluster: Cluster
  private readonly begun: Begun
  private readonly options: Driver.ConsumeOptions
  private readonly subscribed: TopicSet.TopicNames
  private readonly sink: Driver.Sink
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  private readonly clock: Clock.Clock
  private readonly leaders: Leaders
  private readonly connection: Connection
  private readonly data: Connection
  private readonly coordinator: Coordinator
  private readonly partitions = new Map<string, Partition>()
  private readonly nodes = new Set<number>()
  private readonly ended = Deferred.makeUnsafe<never, Failed>()
  private bell = Deferred.makeUnsafe<void>()
  private fetchers: FiberSet.FiberSet<void, Failed> | undefined
  private readonly moves: boolean
  private stopping = false
  /** Rotates the partition that comes first in a request, for fairness. */
  private turn = 0
  readonly group: Group

  constructor(parts: {
    readonly settings: ResolvedOptions
    readonly cluster: Cluster
    readonly begun: Begun
    readonly options: Driver.ConsumeOptions
    readonly subscribed: TopicSet.TopicNames
    readonly sink: Driver.Sink
    readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
    readonly clock: Clock.Clock
    readonly connection: Connection
    readonly data: Connection
    readonly protocol: GroupProtocol
    readonly memberId: string
  }) {
    this.settings = parts.settings
    this.cluster = parts.cluster
    this.begun = parts.begun
    this.options = parts.options
    this.subscribed = parts.subscribed
    this.sink = parts.sink
    this.fork = parts.fork
    this.clock = parts.clock
    this.connection = parts.connection
    this.data = parts.data
    this.leaders = new Leaders(parts.settings, parts.connection, parts.subscribed)
    this.coordinator = new Coordinator(parts.settings, parts.connection, this.where)
    this.moves = parts.protocol === "consumer"
    this.group = parts.protocol === "consumer"
      ? ConsumerGroup.make(this.coordinator, parts.memberId, parts.subscribed, this, this.ids)
      : ClassicGroup.make(this.coordinator, parts.subscribed, this, this.counts)
  }

  private get where() {
    return { channel: this.options.channel, group: this.options.group }
  }

  private attempt<A>(call: () => Promise<A>, channel = this.options.channel): Effect.Effect<A, Failed> {
    return Errors.attempt(this.settings.place, "consume", call, { channel, group: this.options.group })
  }

  private get ids(): Effect.Effect<ReadonlyMap<string, string>, Failed> {
    return Effect.suspend(() =>
      Effect.map(this.leaders.known, ({ topics }) => new Map(Array.from(topics, ([name, { id }]) => [name, id])))
    )
  }

  private readonly counts = (topics: ReadonlyArray<string>): Effect.Effect<ReadonlyMap<string, number>, Failed> =>
    Effect.map(
      // members of one group may read other topics than this one
      new Leaders({ ...this.settings, missingTopics: "refuse" }, this.connection, topics).refresh,
      (found) => new Map(Array.from(found.topics, ([name, { leaders }]) => [name, leaders.length]))
    )

  /** Fetches the topics' metadata and joins the group; the membership ends with the scope. */
  get join(): Effect.Effect<void, Failed, Scope.Scope> {
    return Effect.andThen(
      this.leaders.start,
      Effect.forkScoped(Effect.catch(this.group.stay, (error) => this.fail(error)))
    )
  }

  /** Fetches until interrupted. */
  get read(): Effect.Effect<never, Failed> {
    return Effect.scoped(Effect.gen({ self: this }, function*() {
      this.fetchers = yield* FiberSet.make<void, Failed>()
      this.ring()
      return yield* Effect.raceFirst(Deferred.await(this.ended), Effect.forever(this.find))
    })).pipe(Effect.onExit(() =>
      Effect.sync(() => {
        this.stopping = true
        this.fetchers = undefined
      })
    ))
  }

  get release(): Effect.Effect<void> {
    return Effect.suspend(() => this.revoke(this.held()))
  }

  /** Leaves the group; its partitions then move to other members. */
  get leave(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.partitions.clear()
      return this.group.leave
    })
  }

  stopped(): boolean {
    return this.stopping
  }

  held(): ReadonlyArray<Assigned> {
    return Array.from(this.partitions.values(), ({ origin, topic }) => ({ topic, partition: origin.partition }))
  }

  private fail(error: Failed): Effect.Effect<void> {
    return Effect.asVoid(Deferred.fail(this.ended, error))
  }

  private ring(): void {
    const { bell } = this
    this.bell = Deferred.makeUnsafe()
    Deferred.doneUnsafe(bell, Exit.void)
  }

  assign(assigned: ReadonlyArray<Assigned>): Effect.Effect<void, Failed> {
    return Effect.gen({ self: this }, function*() {
      yield* this.begin
      for (const [topic, of] of Map.groupBy(assigned, ({ topic }) => topic)) {
        const positions = yield* this.positions(topic, of.map(({ partition }) => partition))
        const { topics } = yield* this.leaders.known
        const topicId = topics.get(topic)?.id
        for (const place of positions.values()) {
          // a draining consumer takes no new partitions
          if (!this.stopping && topicId !== undefined) this.take(topic, topicId, place)
        }
      }
      if (this.stopping) return
      this.ring()
      this.sink.ready()
    })
  }

  revoke(assigned: ReadonlyArray<Assigned>): Effect.Effect<void> {
    return Effect.suspend(() => {
      const found = assigned.flatMap(({ partition, topic }) => this.partitions.get(keyOf(topic, partition)) ?? [])
      for (const partition of found) partition.end()
      return Effect.forEach(
        found,
        (partition) =>
          Effect.andThen(
            this.sink.close(partition.lease, "revoke"),
            Effect.sync(() => this.partitions.delete(partition.key))
          ),
        { concurrency: "unbounded", discard: true }
      )
    })
  }

  private get begin(): Effect.Effect<void, Failed> {
    const { begun, cluster, options, settings, subscribed } = this
    const ends = (topic: string): Effect.Effect<ReadonlyArray<Place>, Failed> =>
      Effect.flatMap(this.leaders.known, ({ topics }) =>
        Effect.map(
          this.bounds(topic, Array.from(topics.get(topic)?.leaders.keys() ?? []), "latest"),
          (found) => found.map((place) => ({ topic, ...place }))
        ))
    return begin({ settings, cluster, begun, options, topics: subscribed }, ends, this.group.commit)
  }

  /** Finds the start of partitions: the committed position, otherwise the first message. */
  private positions(topic: string, partitions: ReadonlyArray<number>): Effect.Effect<Map<number, Position>, Failed> {
    return Effect.gen({ self: this }, function*() {
      const committed = yield* this.coordinator.ask(
        "consume",
        (connection, coordinator) => Offsets.committed(connection, coordinator, this.options.group, topic, partitions)
      )
      const found = new Map(committed.map((place) => [place.partition, place]))
      const fresh = partitions.filter((partition) => !found.has(partition))
      if (fresh.length === 0) return found
      for (const place of yield* this.bounds(topic, fresh, "earliest")) found.set(place.partition, place)
      return found
    })
  }

  /** Reads the first or the next positions; waits up to 5 seconds for leaders. */
  private bounds(topic: string, partitions: ReadonlyArray<number>, which: "earliest" | "latest") {
    const { read } = this.settings.consumer
    return Effect.flatMap(this.leaders.refresh, (found) =>
      this.attempt(
        () => Offsets.list(this.connection, found, topic, partitions, which, read),
        topic
      )).pipe(
        Effect.retry({
          while: (error) => leaderless.has(Errors.typeOf(error.cause) ?? ""),
          schedule: every,
          times: 100
        })
      )
  }

  private take(channel: string, topicId: string, { metadata, partition, position }: Position): void {
    const { group, handler } = this.options
    const keepsBeyond = this.settings.consumer.progress === "metadata"
    const key = keyOf(channel, partition)
    const pausing = (paused: boolean) => Effect.sync(() => this.partitions.get(key)?.pause(paused))
    const lease: Driver.Lease = {
      channel,
      partition,
      keepsBeyond,
      commit: (position, beyond) => this.commit(channel, lease, position, beyond),
      pause: pausing(true),
      resume: pausing(false)
    }
    const origin = {
      system: "kafka",
      channel,
      group,
      partition,
      handler,
      holdLimit: Number.POSITIVE_INFINITY,
      lasting: true
    }
    const send = (position: number, metadata: string | null) =>
      this.group.commit([{ topic: channel, partition, position, metadata }])
    const settled = keepsBeyond ? decode(position, metadata ?? null) : undefined
    const taken = new Partition(
      { topic: channel, topicId, origin, lease, progress: new Progress(position, send, settled) },
      this.engine,
      () => this.ring()
    )
    this.partitions.set(key, taken)
    Membership.remember(origin, {
      lanes: this.options.lanes,
      held: () => this.partitions.get(key)?.lease === lease,
      moves: this.moves,
      member: this.group.member,
      confirm: this.group.confirm
    })
    this.sink.open(lease)
  }

  private get engine() {
    return { sink: this.sink, options: this.options, fork: this.fork }
  }

  private commit(
    channel: string,
    lease: Driver.Lease,
    position: number,
    beyond: (() => ReadonlyArray<Driver.Range>) | undefined
  ): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const found = this.partitions.get(keyOf(channel, lease.partition))
      if (found?.lease !== lease) {
        return Effect.fail(BrokerError.make({
          system: "kafka",
          operation: "settle",
          reason: "Lost",
          message:
            `Partition ${lease.partition} of ${channel} is no longer assigned to this member of ${this.options.group}.`
        }))
      }
      return found.progress.commit(position, beyond).pipe(
        Effect.tapError((error) => {
          if (!Errors.isLost(error.cause)) return Effect.void
          found.end()
          this.partitions.delete(found.key)
          return this.sink.close(lease, "lost")
        })
      )
    })
  }

  /** Starts a fetcher for each broker that leads a held partition. */
  private get find(): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const { bell } = this
      let leaderless = false
      for (const partition of this.partitions.values()) {
        const node = this.nodeOf(partition)
        if (node < 0) leaderless = true
        else if (!this.nodes.has(node) && this.fetchers !== undefined) {
          this.nodes.add(node)
          FiberSet.addUnsafe(
            this.fetchers,
            this.fork(
              this.ask(node).pipe(
                Effect.onExit(() => Effect.sync(() => this.nodes.delete(node))),
                Effect.catch((error) => this.fail(error))
              )
            )
          )
        }
      }
      return leaderless
        ? Effect.andThen(Effect.sleep("100 millis"), Effect.asVoid(this.leaders.refresh))
        : Deferred.await(bell)
    })
  }

  /** Finds the broker to fetch a partition from: the leader, or temporarily the nearer replica that the leader has named. */
  private nodeOf(partition: Partition): number {
    const { near, origin, topic } = partition
    if (near !== undefined && near.until > this.clock.currentTimeMillisUnsafe() && this.leaders.broker(near.node)) {
      return near.node
    }
    partition.near = undefined
    return this.leaders.leader(topic, origin.partition)
  }

  /** Fetches from one broker until the broker leads none of the held partitions. */
  private ask(node: number): Effect.Effect<void, Failed> {
    return Effect.gen({ self: this }, function*() {
      let failures = 0
      while (true) {
        const led = turned(Array.from(this.partitions.values()), this.turn++).filter((partition) =>
          this.nodeOf(partition) === node
        )
        const broker = this.leaders.broker(node)
        // its last partition may have moved to a broker without a fetcher
        if (led.length === 0) return this.ring()
        if (broker === undefined) return
        const hungry = led.filter((partition) => partition.hungry)
        // the bell signals room or the end of a pause; an empty fetch after each wait checks that the broker is alive
        if (hungry.length === 0) {
          yield* Effect.timeoutOption(Deferred.await(this.bell), this.settings.consumer.maximumWait)
        }
        const wanted = hungry.map(({ origin, progress, topicId }) => ({
          topicId,
          partition: origin.partition,
          position: progress.next
        }))
        const asked = yield* Effect.result(this.attempt(() =>
          fetch(this.data, broker, wanted, {
            ...this.settings.consumer,
            maximumWait: led.some((partition) => partition.full)
              ? Math.min(shortWait, this.settings.consumer.maximumWait)
              : this.settings.consumer.maximumWait
          })
        ))
        if (asked._tag === "Success") {
          failures = 0
          this.sink.polled()
          yield* this.give(hungry, asked.success)
        } else {
          const passes = asked.failure.reason === "Lost" || asked.failure.reason === "Unreachable"
          if (!passes || ++failures * 200 > this.settings.consumer.sessionTimeout) {
            return yield* Effect.fail(asked.failure)
          }
          for (const partition of led) partition.near = undefined
          yield* Effect.sleep("200 millis")
          yield* Effect.ignore(this.leaders.refresh)
        }
      }
    })
  }

  /** Passes on fetched messages, partition by partition. */
  private give(asked: ReadonlyArray<Partition>, found: ReadonlyArray<Fetched>): Effect.Effect<void, Failed> {
    const byId = new Map(asked.map((partition) => [keyOf(partition.topicId, partition.origin.partition), partition]))
    let again = false
    let moves = false
    let lost: Partition | undefined
    try {
      for (const fetched of found) {
        const partition = byId.get(keyOf(fetched.topicId, fetched.partition))
        // the partition may have been revoked meanwhile
        if (partition === undefined || partition.closed) continue
        if (fetched.replica >= 0) {
          const until = this.clock.currentTimeMillisUnsafe() + this.settings.consumer.metadataMaxAge
          partition.near = { node: fetched.replica, until }
          moves = true
        }
        if (fetched.error !== 0 && partition.near !== undefined) {
          // the follower may lag or follow no longer; ask the leader
          partition.near = undefined
          moves = true
        } else if (fetched.error === outOfRange) lost = partition
        else if (moved.has(fetched.error)) again = true
        else if (fetched.error !== 0) throw new ProtocolError(fetched.error)
        else if (fetched.bytes !== undefined) this.pass(partition, fetched, fetched.bytes)
      }
    } catch (error) {
      return Effect.fail(Errors.fromUnknown(error, "consume", { ...this.settings.place, ...this.where }))
    }
    if (moves) this.ring()
    if (lost !== undefined) return this.reset(lost)
    return again ? Effect.andThen(Effect.sleep("100 millis"), this.renew) : Effect.void
  }

  private pass(partition: Partition, { aborted }: Fetched, bytes: Buffer): void {
    const found: Array<Delivery> = []
    const { progress } = partition
    const next = Codec.read(bytes, partition.origin, progress.next, aborted, found)
    const deliveries = progress.unsettled(found)
    progress.found(deliveries.at(-1)?.position, next)
    if (deliveries.length > 0) partition.add(deliveries)
    else if (progress.isAhead) this.fork(progress.catchUp)
  }

  /** Refreshes the leaders; fails if a topic was recreated under its name. */
  private get renew(): Effect.Effect<void, Failed> {
    return Effect.flatMap(this.leaders.refresh, ({ topics }) => {
      for (const { topic, topicId } of this.partitions.values()) {
        if (topics.get(topic)?.id !== topicId) {
          return Effect.fail(BrokerError.make({
            system: "kafka",
            operation: "consume",
            reason: "Lost",
            message: `The topic ${topic} was deleted and made anew.`
          }))
        }
      }
      this.ring()
      return Effect.void
    })
  }

  /** Moves to an existing position: retention deleted the next one, or the log was truncated after a broker lost its disk. */
  private reset(partition: Partition): Effect.Effect<void, Failed> {
    const { origin, topic } = partition
    return Effect.gen({ self: this }, function*() {
      const [first] = yield* this.bounds(topic, [origin.partition], "earliest")
      const [next] = yield* this.bounds(topic, [origin.partition], "latest")
      const before = partition.progress.next
      const at = Math.max(first!.position, Math.min(before, next!.position))
      partition.progress.forget()
      partition.progress.found(undefined, at)
      yield* Effect.logWarning(
        `Partition ${origin.partition} of ${topic} has nothing at ${before} any more, so ${this.options.group} goes on at ${at}.`
      )
    })
  }
}

// a new partition, or one whose leader has just died, has no leader for a moment
const leaderless = new Set(["NOT_LEADER_OR_FOLLOWER", "LEADER_NOT_AVAILABLE", "REPLICA_NOT_AVAILABLE"])
const every = Schedule.spaced("50 millis")

/**
 * Rotates the list. A broker fills its answer in the order of the request, and sends a batch of records above the partition's
 * limit only if nothing precedes it (KIP-74).
 */
const turned = <A>(list: ReadonlyArray<A>, turn: number): ReadonlyArray<A> => {
  const at = turn % Math.max(1, list.length)
  return [...list.slice(at), ...list.slice(0, at)]
}

const read = (
  settings: ResolvedOptions,
  cluster: Cluster,
  begun: Begun,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink,
  protocol: GroupProtocol,
  subscribed: TopicSet.TopicNames
): Effect.Effect<TopicSet.Reading, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const fork = Effect.runForkWith(yield* Effect.context<never>())
    const { rebalanceTimeout } = settings.consumer
    // Kafka answers a join only after all other members have joined, too
    const connection = yield* openConnection({
      ...settings,
      requestTimeout: Math.max(settings.requestTimeout, rebalanceTimeout + 5000)
    })
    const data = yield* openConnection(settings)
    const chance = Effect.map(Random.nextIntBetween(0, 0x7fff_ffff), (number) => number.toString(36))
    const memberId = `${settings.clientId}-${yield* chance}${yield* chance}${yield* chance}`
    const member = new Member({
      settings,
      cluster,
      begun,
      options,
      subscribed,
      sink,
      fork,
      clock: yield* Clock.Clock,
      connection,
      data,
      protocol,
      memberId
    })
    yield* Effect.addFinalizer(() => Effect.asVoid(Effect.timeoutOption(member.leave, "5 seconds")))
    yield* member.join
    return { read: member.read, release: member.release }
  })

/**
 * Consumes until interrupted; fails when the connection or the membership is lost. The member leaves the group with the
 * scope.
 */
export const consume = (
  settings: ResolvedOptions,
  cluster: Cluster,
  begun: Begun,
  protocol: GroupProtocol,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  TopicSet.run(
    settings,
    cluster,
    begun,
    options,
    sink,
    (subscribed) => read(settings, cluster, begun, options, sink, protocol, subscribed)
  )
