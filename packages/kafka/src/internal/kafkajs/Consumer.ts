/**
 * Consumes messages; each assigned partition is one lease. kafkajs's batches go to the engine as they arrive, and the engine
 * decides when offsets are committed.
 *
 * kafkajs awaits no callback before partitions are revoked. The closest hook: before kafkajs joins a group again, it looks up
 * the coordinator on a cluster object that it passes to the partition assigner. The lookup waits until the engine has closed
 * its leases, so running messages may finish and are committed under the old generation; heartbeats continue meanwhile. Kafka
 * waits for that no longer than `consumer.rebalanceTimeout`.
 *
 * The engine controls backpressure, so no batch is held until its messages are settled: a message that waits for its next
 * attempt does not block other partitions.
 */
import { BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { Effect, Exit, type Fiber, type Scope } from "effect"
import kafkajs, { type Consumer, type EachBatchPayload, type KafkaMessage, type PartitionAssigner } from "kafkajs"
import { assigner, deal } from "../Assigner.ts"
import { begin, type Begun, type Place } from "../Beginning.ts"
import type { Cluster } from "../Cluster.ts"
import * as Errors from "../Errors.ts"
import * as Membership from "../Membership.ts"
import type { ResolvedOptions } from "../Options.ts"
import { Progress } from "../Progress.ts"
import * as TopicSet from "../TopicSet.ts"
import * as Topology from "../Topology.ts"
import { type Broker, type Sync, tap } from "./Brokers.ts"
import * as Connection from "./Connection.ts"
import { reader } from "./Codec.ts"

type Failed = BrokerError.BrokerError

// a coordinator that still loads its groups fails the first join, which kafkajs then repeats
const firstJoins = 10

/** Converts kafkajs's records to deliveries of one partition. */
export const deliveriesOf = (
  origin: Origin,
  records: ReadonlyArray<KafkaMessage>,
  from: number,
  to: number
): Array<Delivery> => {
  const deliveries = new Array<Delivery>(to - from)
  for (let i = from; i < to; i++) {
    const record = records[i]!
    deliveries[i - from] = delivery(origin, reader, record, Topology.positionOf(record.offset), record.value, 1)
  }
  return deliveries
}

const { MemberAssignment, MemberMetadata } = kafkajs.AssignerProtocol

/**
 * Assigns partitions by the subscription of each member, whereas kafkajs's own assigner knows only the leader's topics; and
 * makes kafkajs wait for `gate` before each join.
 */
const dealing = (
  gate: () => Promise<void>,
  synced: (coordinator: Broker, sync: Sync) => Promise<void>,
  count: (topic: string) => Promise<number>
): PartitionAssigner =>
({ cluster }) => {
  tap(cluster, synced)
  const find = cluster.findGroupCoordinator
  cluster.findGroupCoordinator = async (group) => {
    await gate()
    return find.call(cluster, group)
  }
  const version = 0
  return {
    name: assigner,
    version,
    protocol: ({ topics }) => ({
      name: assigner,
      metadata: MemberMetadata.encode({ version, topics, userData: Buffer.alloc(0) })
    }),
    assign: async ({ members }) => {
      const readers = members.map(({ memberId, memberMetadata }) => ({
        memberId,
        topics: MemberMetadata.decode(memberMetadata)?.topics ?? []
      }))
      const topics = Array.from(new Set(readers.flatMap(({ topics }) => topics)))
      const counts = new Map(await Promise.all(topics.map(async (topic) => [topic, await count(topic)] as const)))
      return Array.from(deal(readers, counts), ([memberId, dealt]) => {
        const assignment: Record<string, Array<number>> = Object.create(null)
        for (const { partition, topic } of dealt) (assignment[topic] ??= []).push(partition)
        return {
          memberId,
          memberAssignment: MemberAssignment.encode({ version, assignment, userData: Buffer.alloc(0) })
        }
      })
    }
  }
}

interface Open {
  readonly topic: string
  readonly lease: Driver.Lease
  readonly origin: Origin
  /** Undefined until the first messages reveal the starting position. */
  progress: Progress | undefined
}

/** The assignment of a lease. */
interface Assignment extends Sync {
  readonly coordinator: Broker
}

const keyOf = (topic: string, partition: number): string => `${topic}:${partition}`

class Member {
  private readonly settings: ResolvedOptions
  private readonly cluster: Cluster
  private readonly begun: Begun
  private readonly options: Driver.ConsumeOptions
  private readonly subscribed: TopicSet.TopicNames
  private readonly sink: Driver.Sink
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  private readonly leases = new Map<string, Open>()
  /** Callbacks that end every wait for room. */
  private readonly waiters = new Set<() => void>()
  /** `out` of the group or joining it, a `member`, or `leaving` a generation for the next. */
  private state: "out" | "member" | "leaving" = "out"
  private stopped = false
  private generation = 0
  private restarts = 0
  /** kafkajs's functions for the group; those of any batch work. */
  private calls: EachBatchPayload | undefined
  private assignment: Assignment | undefined
  private consumer: Consumer | undefined
  private end: (error: Failed) => void = () => {}

  constructor(
    settings: ResolvedOptions,
    cluster: Cluster,
    begun: Begun,
    options: Driver.ConsumeOptions,
    subscribed: TopicSet.TopicNames,
    sink: Driver.Sink,
    fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  ) {
    this.settings = settings
    this.cluster = cluster
    this.begun = begun
    this.options = options
    this.subscribed = subscribed
    this.sink = sink
    this.fork = fork
  }

  private get where() {
    return { channel: this.options.channel, group: this.options.group }
  }

  private failure(error: unknown): Failed {
    return Errors.fromUnknown(error, "consume", { ...this.settings.place, ...this.where })
  }

  open(log: Connection.Log): Consumer {
    const {
      heartbeatInterval,
      maximumWait,
      metadataMaxAge,
      partitionBytes,
      read,
      rebalanceTimeout,
      sessionTimeout
    } = this.settings.consumer
    return this.consumer = Connection.make(this.settings, log).consumer({
      groupId: this.options.group,
      allowAutoTopicCreation: this.settings.missingTopics === "create",
      sessionTimeout,
      heartbeatInterval,
      rebalanceTimeout,
      maxWaitTimeInMs: maximumWait,
      metadataMaxAge,
      maxBytesPerPartition: partitionBytes,
      readUncommitted: read === "uncommitted",
      partitionAssigners: [
        dealing(
          () => this.gate(),
          (coordinator, sync) => this.synced({ ...sync, coordinator }),
          (topic) => this.count(topic)
        )
      ],
      // after the first membership, the engine restarts the consumer by its own schedule
      retry: {
        ...steady,
        restartOnFailure: async () => this.generation === 0 && !this.stopped && this.restarts++ < firstJoins
      }
    })
  }

  /** Reads until interrupted; fails when kafkajs gives up. */
  readonly read: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    const consumer = this.consumer!
    this.end = (error) => resume(this.explained(error))
    consumer.on(
      "consumer.group_join",
      ({ payload }) => this.joined(payload.memberAssignment)
    )
    consumer.on("consumer.rebalancing", () => this.leaveGeneration())
    consumer.on("consumer.fetch", () => this.sink.polled())
    // also emitted for batches without messages
    consumer.on("consumer.end_batch_process", ({ payload }) => this.passed(payload))
    consumer.on("consumer.crash", ({ payload }) => {
      if (!payload.restart) this.end(this.failure(payload.error))
    })
    consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      partitionsConsumedConcurrently: 64,
      eachBatch: (batch) => this.pass(batch)
    }).catch((error) => this.end(this.failure(error)))
    return Effect.sync(() => this.stop())
  })

  /**
   * Checks whether the topic was deleted, which may first show as a lost membership. Skipped for a pattern, where any of its
   * topics may disappear.
   */
  private explained(error: Failed): Effect.Effect<never, Failed> {
    const { channel } = this.options
    if (error.reason !== "Lost" || !this.subscribed.includes(channel)) return Effect.fail(error)
    return Effect.tryPromise({ try: () => this.cluster.leaders(channel), catch: (cause) => this.failure(cause) }).pipe(
      Effect.timeoutOrElse({ duration: asked, orElse: () => Effect.fail(error) }),
      Effect.mapError((found) => found.reason === "NotFound" ? found : error),
      Effect.andThen(Effect.fail(error))
    )
  }

  /** Sends heartbeats regularly, even while handlers are slow or a batch waits for room. */
  get beat(): Effect.Effect<never> {
    const { heartbeatInterval } = this.settings.consumer
    return Effect.forever(Effect.andThen(Effect.sleep(heartbeatInterval), Effect.promise(() => this.heartbeat())))
  }

  private async heartbeat(): Promise<void> {
    const { generation } = this
    try {
      await this.calls?.heartbeat()
    } catch (error) {
      // an answer for an older generation does not concern this one
      if (!Errors.isLost(error) || generation !== this.generation) return
      // kafkajs gets the same answer at its own next heartbeat, which comes once no batch waits for room
      this.leaveGeneration()
      // the partitions belong to other members by now: start again
      if (Errors.typeOf(error) === "UNKNOWN_MEMBER_ID") this.end(this.failure(error))
    }
  }

  /** Takes no new messages; the member leaves the group with the scope, after the engine's last commit. */
  private stop(): void {
    this.stopped = true
    // without a pause kafkajs would fetch the same messages again and again
    try {
      this.consumer?.pause(this.subscribed.map((topic) => ({ topic })))
    } catch {
      // the consumer was not running
    }
    this.wake()
  }

  /** Counts the partitions of a topic; 0 if the topic is gone, though another member subscribes to it. */
  private async count(topic: string): Promise<number> {
    try {
      return (await this.cluster.leaders(topic)).length
    } catch (error) {
      if (Errors.typeOf(error) === "UNKNOWN_TOPIC_OR_PARTITION") return 0
      throw error
    }
  }

  private wake(): void {
    for (const waiter of this.waiters) waiter()
  }

  /** Takes no more messages of this generation; batches stop waiting for room. */
  private leaveGeneration(): void {
    if (this.state === "member") this.state = "leaving"
    this.wake()
  }

  private joined(assignment: Readonly<Record<string, ReadonlyArray<number>>>): void {
    this.state = "member"
    this.generation++
    // a draining consumer stays a member, and takes no new partitions
    if (this.stopped) return
    for (const topic of this.subscribed) for (const partition of assignment[topic] ?? []) this.take(topic, partition)
    this.sink.ready()
  }

  /** Runs between the assignment and kafkajs's lookup of its positions, so a new group has its starting offsets by then. */
  private async synced(assignment: Assignment): Promise<void> {
    this.assignment = assignment
    if (this.stopped) return
    const { begun, cluster, options, settings, subscribed } = this
    const ends = (topic: string) =>
      Effect.map(
        Topology.bounds(settings, cluster, "consume", topic),
        (found) => found.map(({ high, partition }): Place => ({ topic, partition, position: high }))
      )
    const beginning = begin(
      { settings, cluster, begun, options, topics: subscribed },
      ends,
      (places) => Errors.attempt(settings.place, "consume", () => commitTo(assignment, places), this.where)
    )
    const exit = await new Promise<Exit.Exit<void, Failed>>((resolve) => this.fork(beginning).addObserver(resolve))
    if (Exit.isSuccess(exit)) return
    const error = exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
    // kafkajs joins the group again
    if (error !== undefined && Errors.isLost(error.cause)) throw error.cause
    if (error !== undefined) this.end(error)
    throw Object.assign(new Error("The group could not be given its place"), { retriable: false })
  }

  private take(channel: string, partition: number): void {
    const { group, handler } = this.options
    const only = { topic: channel, partitions: [partition] }
    const lease: Driver.Lease = {
      channel,
      partition,
      commit: (position) => this.commit(channel, lease, position),
      pause: Effect.sync(() => {
        if (!this.stopped) this.consumer?.pause([only])
      }),
      resume: Effect.sync(() => {
        if (!this.stopped) this.consumer?.resume([only])
      })
    }
    const origin: Origin = {
      system: "kafka",
      channel,
      group,
      partition,
      handler,
      holdLimit: Number.POSITIVE_INFINITY,
      lasting: true
    }
    const key = keyOf(channel, partition)
    const assignment = this.assignment!
    this.leases.set(key, { topic: channel, lease, origin, progress: undefined })
    Membership.remember(origin, {
      lanes: this.options.lanes,
      held: () => this.leases.get(key)?.lease === lease,
      moves: false,
      member: () => ({ generation: assignment.generationId, memberId: assignment.memberId }),
      confirm: Errors.attempt(this.settings.place, "publish", () => confirm(assignment), this.where)
    })
    this.sink.open(lease)
  }

  /** Ends all leases gracefully: running messages are finished and committed. */
  get release(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const open = Array.from(this.leases.values(), ({ lease }) => lease)
      return Effect.forEach(open, (lease) => this.sink.close(lease, "revoke"), {
        concurrency: "unbounded",
        discard: true
      })
    }).pipe(Effect.andThen(Effect.sync(() => this.leases.clear())))
  }

  /** Drops all leases: from here on the partitions belong to other members. */
  get forget(): Effect.Effect<void> {
    return Effect.sync(() => this.leases.clear())
  }

  /** Runs before a join: closes the leases of the ending generation. */
  private async gate(): Promise<void> {
    const unasked = this.state === "member"
    this.leaveGeneration()
    if (this.leases.size > 0) {
      const closing = this.fork(this.release)
      await new Promise<void>((resolve) => closing.addObserver(() => resolve()))
    }
    this.state = "out"
    // The assignment changed during a fetch, or the group forgot this member: kafkajs would join with answers to older
    // fetches in flight, and mistake them for messages at its new position. The consumer restarts from the committed offset
    // instead.
    if (!unasked) return
    // kafkajs would report this only as a crash by an error of no known type
    this.end(this.forgotten())
    throw Object.assign(new Error("The assignment changed under a running consumer"), { retriable: false })
  }

  private async pass(batch: EachBatchPayload): Promise<void> {
    this.calls = batch
    const { messages, partition, topic } = batch.batch
    const key = keyOf(topic, partition)
    const open = this.leases.get(key)
    if (this.stopped || this.state !== "member" || open === undefined) return
    const first = Topology.positionOf(messages[0]!.offset)
    if (open.progress !== undefined && first < open.progress.next) return this.end(this.anew(topic, partition))
    open.progress ??= this.progress(open, first)
    open.progress.found(
      Topology.positionOf(messages.at(-1)!.offset),
      Topology.positionOf(batch.batch.lastOffset()) + 1
    )
    try {
      for (let from = 0; from < messages.length; from += this.options.batch) {
        // Resolved offsets count as read in the current generation, whichever that is, so resolve none after the lease has
        // ended.
        if (this.stopped || this.state !== "member" || this.leases.get(key) !== open) return
        const to = Math.min(from + this.options.batch, messages.length)
        const room = this.sink.offer(open.lease, deliveriesOf(open.origin, messages, from, to))
        batch.resolveOffset(messages[to - 1]!.offset)
        if (!Exit.isExit(room)) await this.until(room)
      }
    } catch (error) {
      this.end(this.failure(error))
    }
  }

  /** The error if kafkajs went back by itself: this lease's committed positions now denote other messages. */
  private anew(topic: string, partition: number): Failed {
    return BrokerError.make({
      system: "kafka",
      operation: "consume",
      reason: "Lost",
      message:
        `Partition ${partition} of ${topic} goes on at an earlier offset: the topic was made anew, or its log was cut.`
    })
  }

  private forgotten(): Failed {
    const { group } = this.options
    return BrokerError.make({
      system: "kafka",
      operation: "consume",
      reason: "Lost",
      message:
        `The group ${group} no longer knows this member, or assigned its partitions anew while it read: it joins again.`
    })
  }

  private progress({ lease, topic }: Open, from: number): Progress {
    return new Progress(from, (position) => this.send(topic, lease, position))
  }

  /** Moves past transaction markers and aborted messages. */
  private passed(
    { batchSize, firstOffset, lastOffset, partition, topic }: {
      readonly batchSize: number
      readonly firstOffset: string
      readonly lastOffset: string
      readonly partition: number
      readonly topic: string
    }
  ): void {
    const open = this.leases.get(keyOf(topic, partition))
    if (batchSize > 0 || open === undefined || this.stopped || this.state !== "member") return
    try {
      const next = Topology.positionOf(lastOffset) + 1
      const progress = open.progress ??= this.progress(
        open,
        Math.min(next, Topology.positionOf(firstOffset ?? lastOffset))
      )
      if (next > progress.next) progress.found(undefined, next)
      if (progress.isAhead) this.fork(progress.catchUp)
    } catch (error) {
      this.end(this.failure(error))
    }
  }

  /** Waits for room, at most until the generation ends. */
  private until(room: Effect.Effect<void>): Promise<void> {
    return new Promise((resolve) => {
      const fiber = this.fork(room)
      const done = () => {
        this.waiters.delete(done)
        fiber.interruptUnsafe()
        resolve()
      }
      this.waiters.add(done)
      fiber.addObserver(done)
    })
  }

  private commit(channel: string, lease: Driver.Lease, position: number): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const open = this.leases.get(keyOf(channel, lease.partition))
      if (open?.lease !== lease || open.progress === undefined) return this.send(channel, lease, position)
      return open.progress.commit(position)
    }).pipe(
      Effect.tapError((error) => {
        if (!Errors.isLost(error.cause)) return Effect.void
        return this.sink.close(lease, "lost")
      })
    )
  }

  private send(channel: string, lease: Driver.Lease, position: number): Effect.Effect<void, Failed> {
    const { group } = this.options
    const key = keyOf(channel, lease.partition)
    const gone = () =>
      BrokerError.make({
        system: "kafka",
        operation: "settle",
        reason: "Lost",
        message: `Partition ${lease.partition} of ${channel} is no longer assigned to this member of ${group}.`
      })
    return Effect.suspend(() => {
      const { assignment, calls } = this
      if (assignment === undefined || this.leases.get(key)?.lease !== lease) return Effect.fail(gone())
      const topics = [{ topic: channel, partitions: [{ partition: lease.partition, offset: String(position) }] }]
      // not consumer.commitOffsets, which reports success without a commit when the consumer is about to stop
      return Effect.asVoid(Errors.attempt(
        this.settings.place,
        "settle",
        () =>
          calls === undefined
            ? commitTo(assignment, [{ topic: channel, partition: lease.partition, position }])
            : calls.commitOffsetsIfNecessary({ topics }),
        this.where
      ))
    })
  }
}

/** Commits as the member of an assignment, also beyond the positions that kafkajs has read. */
const commitTo = (
  { coordinator, generationId, groupId, memberId }: Assignment,
  places: ReadonlyArray<Place>
): Promise<unknown> =>
  coordinator.offsetCommit({
    groupId,
    groupGenerationId: generationId,
    memberId,
    topics: Array.from(Map.groupBy(places, ({ topic }) => topic), ([topic, of]) => ({
      topic,
      partitions: of.map(({ partition, position }) => ({ partition, offset: String(position) }))
    }))
  })

/** Checks a membership; a member that must join again still is one. */
const confirm = async ({ coordinator, generationId, groupId, memberId }: Assignment): Promise<void> => {
  try {
    await coordinator.heartbeat({ groupId, groupGenerationId: generationId, memberId })
  } catch (error) {
    if (Errors.typeOf(error) !== "REBALANCE_IN_PROGRESS") throw error
  }
}

// an unreachable Kafka does not answer; report the original error after this time
const asked = "2 seconds"

const steady = { initialRetryTime: 100, maxRetryTime: 1000, multiplier: 2, factor: 0.2, retries: 5 }

/**
 * Prepares a membership that reads the topics until interrupted and fails when the connection or the membership is lost. The
 * member leaves the group with the scope.
 */
const read = (
  settings: ResolvedOptions,
  cluster: Cluster,
  begun: Begun,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink,
  subscribed: TopicSet.TopicNames
): Effect.Effect<TopicSet.Reading, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* Connection.logger(settings)
    const context = yield* Effect.context<never>()
    const member = new Member(settings, cluster, begun, options, subscribed, sink, Effect.runForkWith(context))
    const consumer = yield* Effect.acquireRelease(
      Effect.sync(() => member.open(log)),
      (consumer) => Effect.andThen(member.forget, Connection.disconnect(consumer))
    )
    const where = { channel: options.channel, group: options.group }
    yield* Errors.attempt(settings.place, "connect", () => consumer.connect(), where)
    // A group that begins at the end has its offsets before kafkajs looks them up. A partition without an offset, or with one
    // that retention deleted, starts at its first remaining message.
    yield* Errors.attempt(
      settings.place,
      "consume",
      () => consumer.subscribe({ topics: Array.from(subscribed), fromBeginning: true }),
      where
    )
    // heartbeats continue while the engine drains, until the member leaves the group
    yield* Effect.forkScoped(member.beat)
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
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  TopicSet.run(
    settings,
    cluster,
    begun,
    options,
    sink,
    (subscribed) => read(settings, cluster, begun, options, sink, subscribed)
  )
