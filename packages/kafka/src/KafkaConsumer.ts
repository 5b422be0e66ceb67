/**
 * Consuming: each assigned partition is one lease, kafkajs's batches go to the engine as they come, and positions go back
 * whenever the engine says so.
 *
 * kafkajs has no callback that is awaited before partitions are taken away. What comes closest: before it joins a group
 * again it looks up the coordinator, on a cluster object that it hands to the partition assigner. The lookup is made to wait
 * until the engine has closed its leases, so what runs may finish and its position is committed under the old generation;
 * heartbeats go on meanwhile. Kafka waits for that no longer than `consumer.rebalanceTimeout`.
 *
 * The engine decides when there is room, so no batch is held until it is settled: a message that waits for its next attempt
 * keeps no other partition from being read.
 */
import { BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { Effect, Exit, Fiber, type Scope } from "effect"
import {
  type Admin,
  type Consumer,
  type EachBatchPayload,
  type KafkaMessage,
  type PartitionAssigner,
  PartitionAssigners
} from "kafkajs"
import * as KafkaClient from "./KafkaClient.ts"
import * as KafkaError from "./KafkaError.ts"
import { reader } from "./KafkaMessage.ts"
import type { Connection, Log } from "./KafkaOptions.ts"
import * as KafkaTopics from "./KafkaTopics.ts"

type Failed = BrokerError.BrokerError

// a coordinator that still loads its groups ends the first join, which kafkajs then repeats
const firstJoins = 10

/** A position as a number; larger ones would lose their last digits. */
const positionOf = (offset: string): number => {
  const position = Number(offset)
  if (Number.isSafeInteger(position)) return position
  throw KafkaError.invalid(
    "consume",
    `The offset ${offset} is beyond 2^53, which no number here holds: recreate the topic.`
  )
}

/** kafkajs's records as deliveries of one partition. */
export const deliveriesOf = (
  origin: Origin,
  records: ReadonlyArray<KafkaMessage>,
  from: number,
  to: number
): Array<Delivery> => {
  const deliveries = new Array<Delivery>(to - from)
  for (let i = from; i < to; i++) {
    const record = records[i]!
    deliveries[i - from] = delivery(origin, reader, record, positionOf(record.offset), record.value, 1)
  }
  return deliveries
}

/** Makes kafkajs wait for `gate` before each join. */
const waitingFor = (gate: () => Promise<void>, assigner: PartitionAssigner): PartitionAssigner => (config) => {
  const { cluster } = config
  const find = cluster.findGroupCoordinator
  cluster.findGroupCoordinator = async (group) => {
    await gate()
    return find.call(cluster, group)
  }
  return assigner(config)
}

interface Open {
  readonly lease: Driver.Lease
  readonly origin: Origin
}

class Member {
  private readonly connection: Connection
  private readonly admin: Admin
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  private readonly leases = new Map<number, Open>()
  /** Called when nobody may wait for room any more. */
  private readonly waiters = new Set<() => void>()
  /** `out` of the group or on the way in, a `member`, or `leaving` a generation for the next. */
  private state: "out" | "member" | "leaving" = "out"
  private stopped = false
  private generation = 0
  private restarts = 0
  /** kafkajs's own calls for the group: any batch's do. */
  private calls: EachBatchPayload | undefined
  private consumer: Consumer | undefined
  private end: (error: Failed) => void = () => {}

  constructor(
    connection: Connection,
    admin: Admin,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  ) {
    this.connection = connection
    this.admin = admin
    this.options = options
    this.sink = sink
    this.fork = fork
  }

  private get where() {
    return { channel: this.options.channel, group: this.options.group }
  }

  private failure(error: unknown): Failed {
    return KafkaError.fromUnknown(error, "consume", { ...this.connection.place, ...this.where })
  }

  open(log: Log): Consumer {
    const { heartbeatInterval, maximumWait, partitionBytes, read, rebalanceTimeout, sessionTimeout } =
      this.connection.consumer
    return this.consumer = this.connection.client(log).consumer({
      groupId: this.options.group,
      allowAutoTopicCreation: this.connection.missingTopics === "create",
      sessionTimeout,
      heartbeatInterval,
      rebalanceTimeout,
      maxWaitTimeInMs: maximumWait,
      maxBytesPerPartition: partitionBytes,
      readUncommitted: read === "uncommitted",
      partitionAssigners: [waitingFor(() => this.gate(), PartitionAssigners.roundRobin)],
      // once it was a member, the engine starts it again by its own schedule
      retry: {
        ...steady,
        restartOnFailure: async () => this.generation === 0 && !this.stopped && this.restarts++ < firstJoins
      }
    })
  }

  /** Reads until interrupted; fails when kafkajs gives up. */
  readonly read: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    const consumer = this.consumer!
    this.end = (error) => resume(Effect.fail(error))
    consumer.on(
      "consumer.group_join",
      ({ payload }) => this.joined(payload.memberAssignment[this.options.channel] ?? [])
    )
    consumer.on("consumer.rebalancing", () => this.leaveGeneration())
    consumer.on("consumer.fetch", () => this.sink.polled())
    consumer.on("consumer.crash", ({ payload }) => {
      if (!payload.restart) this.end(this.failure(payload.error))
    })
    consumer.run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      partitionsConsumedConcurrently: 64,
      eachBatch: (batch) => this.take(batch)
    }).catch((error) => this.end(this.failure(error)))
    return Effect.sync(() => this.stop())
  })

  /** A sign of life now and then, also while handlers are slow or a batch waits for room. */
  get beat(): Effect.Effect<never> {
    const { heartbeatInterval } = this.connection.consumer
    return Effect.forever(Effect.andThen(Effect.sleep(heartbeatInterval), Effect.promise(() => this.heartbeat())))
  }

  private async heartbeat(): Promise<void> {
    const { generation } = this
    try {
      await this.calls?.heartbeat()
    } catch (error) {
      // an answer to an older generation says nothing of this one
      if (!KafkaError.isLost(error) || generation !== this.generation) return
      // kafkajs meets the same answer at its own next heartbeat, which comes once no batch waits for room
      this.leaveGeneration()
      // whatever it had is somebody else's by now: it begins anew
      if (KafkaError.typeOf(error) === "UNKNOWN_MEMBER_ID") this.end(this.failure(error))
    }
  }

  /** Takes nothing new; the group is left with the scope, after the engine's last commit. */
  private stop(): void {
    this.stopped = true
    // without a pause kafkajs would fetch what nobody takes, again and again
    try {
      this.consumer?.pause([{ topic: this.options.channel }])
    } catch {
      // it was not running
    }
    this.wake()
  }

  private wake(): void {
    for (const waiter of this.waiters) waiter()
  }

  /** Nothing more of this generation is taken; batches that wait for room let go. */
  private leaveGeneration(): void {
    if (this.state === "member") this.state = "leaving"
    this.wake()
  }

  private joined(partitions: ReadonlyArray<number>): void {
    const { channel, group, handler } = this.options
    this.state = "member"
    this.generation++
    // in a drain the membership goes on, and nothing new is taken
    if (this.stopped) return
    for (const partition of partitions) {
      const lease: Driver.Lease = {
        partition,
        commit: (position) => this.commit(lease, position),
        pause: Effect.sync(() => {
          if (!this.stopped) this.consumer?.pause([{ topic: channel, partitions: [partition] }])
        }),
        resume: Effect.sync(() => {
          if (!this.stopped) this.consumer?.resume([{ topic: channel, partitions: [partition] }])
        })
      }
      const origin: Origin = {
        system: "kafka",
        channel,
        group,
        partition,
        handler,
        holdLimit: Number.POSITIVE_INFINITY
      }
      this.leases.set(partition, { lease, origin })
      this.sink.open(lease)
    }
    if (this.options.from === "earliest") this.sink.ready()
    else this.begin(partitions).then(() => this.sink.ready(), (error) => this.end(this.failure(error)))
  }

  /**
   * Gives a new group its position at the end, and only then is it ready: kafkajs would look for the end at its first fetch,
   * and pass over what is published until then, or until a first commit if it is started again.
   */
  private async begin(partitions: ReadonlyArray<number>): Promise<void> {
    const { channel, group } = this.options
    const committed = await this.admin.fetchOffsets({ groupId: group, topics: [channel] })
    const known = new Set(
      committed.flatMap((topic) => topic.partitions).filter(({ offset }) => Number(offset) >= 0).map(({ partition }) =>
        partition
      )
    )
    const fresh = partitions.filter((partition) => !known.has(partition))
    if (fresh.length === 0) return
    const ends = await Effect.runPromise(
      Fiber.join(this.fork(KafkaTopics.offsets(this.connection, this.admin, "consume", channel)))
    )
    const positions = ends.filter(({ partition }) => fresh.includes(partition))
      .map(({ high, partition }) => ({ topic: channel, partition, offset: high }))
    for (const position of positions) this.consumer?.seek(position)
    await this.consumer?.commitOffsets(positions)
  }

  /** Before a join: closes the leases of the generation that ends. */
  private async gate(): Promise<void> {
    const unasked = this.state === "member"
    this.leaveGeneration()
    const open = Array.from(this.leases.values(), ({ lease }) => lease)
    if (open.length > 0) {
      const closing = this.fork(
        Effect.forEach(open, (lease) => this.sink.close(lease, "revoke"), { concurrency: "unbounded", discard: true })
      )
      await new Promise<void>((resolve) => closing.addObserver(() => resolve()))
      this.leases.clear()
    }
    this.state = "out"
    // Partitions changed under a running fetch, or the group forgot this member: kafkajs would join with answers to older
    // fetches still on their way, and take them for what follows its new position. It starts again from the committed one.
    if (unasked) throw Object.assign(new Error("The assignment changed under a running consumer"), { retriable: false })
  }

  private async take(batch: EachBatchPayload): Promise<void> {
    this.calls = batch
    const { messages, partition } = batch.batch
    const open = this.leases.get(partition)
    try {
      for (let from = 0; from < messages.length; from += this.options.batch) {
        // What is resolved counts as read in whatever generation is current, so nothing is after the lease has ended.
        if (this.stopped || this.state !== "member" || open === undefined || this.leases.get(partition) !== open) return
        const to = Math.min(from + this.options.batch, messages.length)
        const room = this.sink.offer(open.lease, deliveriesOf(open.origin, messages, from, to))
        batch.resolveOffset(messages[to - 1]!.offset)
        if (!Exit.isExit(room)) await this.until(room)
      }
    } catch (error) {
      this.end(this.failure(error))
    }
  }

  /** Waits for room, but not beyond the end of the generation. */
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

  private commit(lease: Driver.Lease, position: number): Effect.Effect<void, Failed> {
    const { channel, group } = this.options
    const gone = () =>
      BrokerError.make({
        system: "kafka",
        operation: "settle",
        reason: "Lost",
        message: `Partition ${lease.partition} of ${channel} is no longer assigned to this member of ${group}.`
      })
    return Effect.suspend(() => {
      const { calls } = this
      if (calls === undefined || this.leases.get(lease.partition)?.lease !== lease) return Effect.fail(gone())
      const topics = [{ topic: channel, partitions: [{ partition: lease.partition, offset: String(position) }] }]
      // not consumer.commitOffsets, which answers as if it had committed when the consumer is about to stop
      return KafkaClient.attempt(
        this.connection,
        "settle",
        () => calls.commitOffsetsIfNecessary({ topics }),
        this.where
      )
    }).pipe(
      Effect.tapError((error) => {
        if (!KafkaError.isLost(error.cause)) return Effect.void
        return this.sink.close(lease, "lost")
      })
    )
  }
}

const steady = { initialRetryTime: 100, maxRetryTime: 1000, multiplier: 2, factor: 0.2, retries: 5 }

/** Runs until interrupted; fails when the connection or the membership is gone. The group is left with the scope. */
export const consume = (
  connection: Connection,
  admin: Admin,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const log = yield* KafkaClient.logger(connection)
    const context = yield* Effect.context<never>()
    const member = new Member(connection, admin, options, sink, Effect.runForkWith(context))
    const consumer = yield* Effect.acquireRelease(Effect.sync(() => member.open(log)), KafkaClient.disconnect)
    const where = { channel: options.channel, group: options.group }
    yield* KafkaClient.attempt(connection, "connect", () => consumer.connect(), where)
    yield* KafkaClient.attempt(
      connection,
      "consume",
      () => consumer.subscribe({ topics: [options.channel], fromBeginning: options.from === "earliest" }),
      where
    )
    // the sign of life goes on while the engine drains, until the group is left
    yield* Effect.forkScoped(member.beat)
    return yield* member.read
  })
