/**
 * Publishes with one idempotent producer, one request at a time. Messages published while a request is in flight form the
 * next one.
 *
 * Kafka confirms a batch when every in-sync replica has it (`acks=all`). The publisher retries transient errors for
 * `producer.retryFor`. A permanent error fails at once, and fails only the message's own publish call, not others in the same
 * request.
 */
import { BrokerError, Features, type Outgoing } from "@millrace/core"
import { type Context, Deferred, Effect, Exit, Schedule, type Scope } from "effect"
import { capabilities } from "./capabilities.ts"
import type { Cluster } from "./Cluster.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

/** An idempotent producer of a client library. */
export interface Producer {
  /** Sends one request to each broker, acknowledged by all in-sync replicas; retries transient errors. */
  readonly send: (batch: Batch) => Promise<unknown>
  readonly close: Effect.Effect<void>
}

/** The producers of a client library. */
export interface Producers {
  /** Connects a new producer; it must not share sequence numbers with earlier producers. */
  readonly open: Effect.Effect<Producer, Failed>
  /** The most messages in one request. */
  readonly mostMessages: number
}

/** Publishes batches. */
export interface Publisher {
  readonly publish: (batch: Batch) => Effect.Effect<void, Failed>
}

// the batch of one partition must stay below the topic's max.message.bytes, 1 MiB by default
const mostBytes = 512 * 1024
// Kafka's default limit for one request; it drops the connection of a longer one
const longest = 100 * 1024 * 1024 - 1024

/** One call of `publish`. */
interface PublishCall {
  readonly batch: Batch
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
}

// keys and headers are counted only for messages with bodies longer than this
const nearLongest = longest / 2

/** The bytes of a message: the body, plus key and headers if the body has `nearLongest` bytes or more. */
const sizeOf = (outgoing: Outgoing<Uint8Array>): number => {
  const { length } = outgoing.payload
  if (length < nearLongest) return length
  const fields = outgoing.fields.reduce((sum, [name, value]) => sum + name.length + (value?.length ?? 0) + 10, 0)
  return length + fields + (outgoing.keyBytes?.length ?? 0)
}

/** Refuses messages that client libraries would retry for ever. */
const refuse = ({ place }: ResolvedOptions, batch: Batch): Failed | undefined => {
  for (const outgoing of batch) {
    const { channel } = outgoing
    const refused = Features.refuse("kafka", capabilities, outgoing)
    if (refused !== undefined) return refused
    if (channel === "") return Errors.invalid("publish", "A message names no topic.")
    if (sizeOf(outgoing) > longest) {
      return BrokerError.make({
        system: "kafka",
        operation: "publish",
        reason: "TooLarge",
        message: `A message for ${channel} has ${
          sizeOf(outgoing)
        } bytes, and Kafka at ${place.brokers} reads no request of more than 100 MiB: store the body elsewhere and publish its name.`
      })
    }
  }
  return undefined
}

const parts = (batch: Batch, mostMessages: number): Array<Batch> => {
  const found: Array<Batch> = []
  let from = 0
  let bytes = 0
  for (let i = 0; i < batch.length; i++) {
    bytes += batch[i]!.payload.length + 64
    if (i > from && (bytes > mostBytes || i - from >= mostMessages)) {
      found.push(batch.slice(from, i))
      from = i
      bytes = batch[i]!.payload.length + 64
    }
  }
  if (from === 0) return [batch]
  found.push(batch.slice(from))
  return found
}

class OutboundQueue {
  private readonly settings: ResolvedOptions
  private readonly producers: Producers
  private readonly cluster: Cluster
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => unknown
  private readonly queue: Array<PublishCall> = []
  private readonly known = new Set<string>()
  /** The number of partitions of each topic, as last fetched. */
  private readonly counts = new Map<string, number>()
  private producer: Producer | undefined
  private busy = false
  private closed: Deferred.Deferred<void> | undefined

  constructor(settings: ResolvedOptions, producers: Producers, cluster: Cluster, context: Context.Context<never>) {
    this.settings = settings
    this.producers = producers
    this.cluster = cluster
    this.fork = Effect.runForkWith(context)
  }

  publish(batch: Batch): Effect.Effect<void, Failed> {
    if (batch.length === 0) return Exit.void
    const refused = refuse(this.settings, batch)
    if (refused !== undefined) return Exit.fail(refused)
    return Effect.callback<void, Failed>((resume) => {
      if (this.closed !== undefined) {
        resume(
          Exit.fail(Errors.invalid("publish", "The broker's layer is closed: publish while its scope is open."))
        )
        return
      }
      const entry: PublishCall = { batch, resume }
      this.queue.push(entry)
      if (!this.busy) this.begin()
      // messages in flight cannot be cancelled
      return Effect.sync(() => {
        const at = this.queue.indexOf(entry)
        if (at >= 0) this.queue.splice(at, 1)
      })
    })
  }

  /** Writes the queued messages, then closes the producer. */
  get close(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const idle = this.closed ??= Deferred.makeUnsafe<void>()
      return this.busy ? Deferred.await(idle) : Effect.void
    }).pipe(Effect.andThen(Effect.suspend(() => this.drop())))
  }

  private begin(): void {
    this.busy = true
    // yielding once puts concurrent publish calls into one request
    this.fork(Effect.andThen(Effect.yieldNow, this.work))
  }

  private readonly work: Effect.Effect<void> = Effect.suspend(() => {
    const group: Array<PublishCall> = []
    let bytes = 0
    let messages = 0
    while (this.queue.length > 0 && messages < this.producers.mostMessages && bytes < mostBytes) {
      const entry = this.queue.shift()!
      group.push(entry)
      messages += entry.batch.length
      for (const outgoing of entry.batch) bytes += outgoing.payload.length + 64
    }
    if (group.length === 0) {
      this.busy = false
      if (this.closed !== undefined) Deferred.doneUnsafe(this.closed, Exit.void)
      return Effect.void
    }
    return Effect.andThen(this.settle(group), this.work)
  })

  /**
   * Publishes the calls of a group; after a permanent error, each call by itself. `written` holds the messages that Kafka has
   * already confirmed.
   */
  private settle(
    group: ReadonlyArray<PublishCall>,
    written: Set<Outgoing<Uint8Array>> = new Set()
  ): Effect.Effect<void> {
    const batch = group.flatMap((entry) => entry.batch).filter((outgoing) => !written.has(outgoing))
    return Effect.flatMap(Effect.exit(this.write(batch, written)), (exit) => {
      // one bad message must not fail the other calls of its request
      const error = exit._tag === "Failure"
        ? exit.cause.reasons.find((reason) => reason._tag === "Fail")?.error
        : undefined
      if (group.length > 1 && error !== undefined && !error.retriable) {
        return Effect.forEach(group, (entry) => this.settle([entry], written), { discard: true })
      }
      for (const entry of group) entry.resume(exit)
      return Effect.void
    })
  }

  private write(batch: Batch, written: Set<Outgoing<Uint8Array>>): Effect.Effect<void, Failed> {
    if (batch.length === 0) return Effect.void
    return Effect.forEach(parts(batch, this.producers.mostMessages), (part) => this.send(part, written), {
      discard: true
    })
  }

  /**
   * Sends a batch; if it is too large, sends its halves. Kafka's size limit applies to the batch of a partition, so a message
   * may fit alone.
   */
  private send(batch: Batch, written: Set<Outgoing<Uint8Array>>): Effect.Effect<void, Failed> {
    return this.sendOnce(batch).pipe(
      Effect.andThen(Effect.sync(() => {
        for (const outgoing of batch) written.add(outgoing)
      })),
      Effect.catch((error) => {
        if (error.reason !== "TooLarge" || batch.length === 1) return Effect.fail(error)
        const half = batch.length >> 1
        return Effect.andThen(this.send(batch.slice(0, half), written), this.send(batch.slice(half), written))
      })
    )
  }

  private sendOnce(batch: Batch): Effect.Effect<void, Failed> {
    const topics = new Set<string>()
    for (const { channel } of batch) topics.add(channel)
    const where = { channel: Array.from(topics).join(", ") }
    return Errors.attempt(this.settings.place, "publish", () => this.exist(topics), where).pipe(
      Effect.andThen(this.fit(batch)),
      Effect.andThen(this.connected),
      Effect.flatMap((producer) => Errors.attempt(this.settings.place, "publish", () => producer.send(batch), where)),
      // The broker may have written the batch: the client would give its sequence number to the next one, which Kafka would
      // drop as a duplicate.
      Effect.onError(() => this.drop()),
      Effect.asVoid
    )
  }

  /**
   * Refuses a partition that the topic does not have: kafkajs confirms such a message without sending it, @platformatic/kafka
   * sends it to another partition.
   */
  private fit(batch: Batch): Effect.Effect<void, Failed> {
    const chosen = batch.filter(({ native }) => native?.partition !== undefined)
    if (chosen.length === 0) return Effect.void
    return Effect.forEach(chosen, ({ channel, native }) => {
      const partition = native?.partition ?? 0
      if (partition < (this.counts.get(channel) ?? 0)) return Effect.void
      // partitions may have been added
      return Errors.attempt(this.settings.place, "publish", () => this.count(channel), { channel }).pipe(
        Effect.flatMap((count) => {
          this.counts.set(channel, count)
          return partition < count
            ? Effect.void
            : Effect.fail(Features.noPartition("kafka", channel, partition, count))
        })
      )
    }, { discard: true })
  }

  private async count(topic: string): Promise<number> {
    try {
      return (await this.cluster.leaders(topic)).length
    } catch (error) {
      const isMissing = Errors.typeOf(error) === "UNKNOWN_TOPIC_OR_PARTITION"
      if (!isMissing || this.settings.missingTopics !== "create") throw error
      await this.cluster.create(topic, undefined, {})
      return (await this.cluster.leaders(topic)).length
    }
  }

  /** Refuses unknown topics: clients assume that such a topic is being created, and retry for as long as they may. */
  private async exist(topics: Iterable<string>): Promise<void> {
    if (this.settings.missingTopics === "create") return
    for (const topic of topics) {
      if (this.known.has(topic)) continue
      try {
        await this.cluster.leaders(topic)
        this.known.add(topic)
      } catch (error) {
        // the producer meets any other error itself and retries
        const type = Errors.typeOf(error)
        if (
          type === "UNKNOWN_TOPIC_OR_PARTITION" || type === "INVALID_TOPIC_EXCEPTION" ||
          type === "TOPIC_AUTHORIZATION_FAILED"
        ) {
          throw Errors.fromUnknown(error, "publish", { ...this.settings.place, channel: topic })
        }
      }
    }
  }

  private readonly connected: Effect.Effect<Producer, Failed> = Effect.suspend(() => {
    if (this.producer !== undefined) return Effect.succeed(this.producer)
    return Effect.retry(Effect.map(this.producers.open, (producer) => this.producer = producer), {
      while: (error) => error.retriable,
      schedule: Schedule.spaced("1 second"),
      times: Math.floor(this.settings.producer.retryFor / 1000)
    })
  })

  private drop(): Effect.Effect<void> {
    const { producer } = this
    this.producer = undefined
    this.known.clear()
    return producer === undefined ? Effect.void : producer.close
  }
}

/**
 * Makes a publisher; closing the scope writes the queued messages.
 *
 * @category constructors
 */
export const make = (
  settings: ResolvedOptions,
  producers: Producers,
  cluster: Cluster
): Effect.Effect<Publisher, never, Scope.Scope> =>
  Effect.gen(function*() {
    const line = new OutboundQueue(settings, producers, cluster, yield* Effect.context<never>())
    yield* Effect.addFinalizer(() => line.close)
    return { publish: (batch) => line.publish(batch) }
  })
