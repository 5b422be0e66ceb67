/**
 * Transactions: several messages, and how far a group has come, become visible together or not at all.
 *
 * What reads them must read what is committed, as consumers here do by default. A handler that publishes by a transaction
 * and is then acknowledged by the engine has its position committed twice, which is harmless.
 */
import { BrokerError, type Delivery, type Outgoing } from "@millrace/core"
import { Context, Effect, Exit, Layer, Semaphore } from "effect"
import type { Producer, Transaction } from "kafkajs"
import * as KafkaClient from "./KafkaClient.ts"
import { partitioner } from "./KafkaMessage.ts"
import type { Connection, Options } from "./KafkaOptions.ts"
import { byTopic, retrying } from "./KafkaPublisher.ts"

type Failed = BrokerError.BrokerError

/** One transaction at a time for each layer; others wait. */
export class KafkaTransaction extends Context.Service<KafkaTransaction, {
  /**
   * Publishes all of the messages and, with `after`, moves the groups that these deliveries came by behind them: all or
   * nothing. Completes when the transaction is committed.
   *
   * The deliveries must be all that came before them too, in their partitions: a position has no gaps. When it fails nothing
   * has happened, except after `Lost`, when the broker may still have committed it.
   */
  readonly publish: (
    messages: ReadonlyArray<Outgoing<Uint8Array>>,
    options?: { readonly after?: ReadonlyArray<Delivery> | undefined }
  ) => Effect.Effect<void, Failed>
}>()("@millrace/kafka/KafkaTransaction/KafkaTransaction") {}

/** Options of a transactional producer. */
export interface TransactionOptions extends Options {
  /** The producer's own name, the same over restarts: a second one with the name fences off the first. */
  readonly transactionalId: string
}

interface Offsets {
  readonly consumerGroupId: string
  readonly topics: Array<
    { readonly topic: string; readonly partitions: Array<{ readonly partition: number; readonly offset: string }> }
  >
}

/** The position behind the last of the deliveries, for each group, topic and partition. */
const behind = (deliveries: ReadonlyArray<Delivery>): Array<Offsets> => {
  const groups = new Map<string, Map<string, Map<number, number>>>()
  for (const { channel, origin, partition, position } of deliveries) {
    let topics = groups.get(origin.group)
    if (topics === undefined) groups.set(origin.group, topics = new Map())
    let partitions = topics.get(channel)
    if (partitions === undefined) topics.set(channel, partitions = new Map())
    partitions.set(partition, Math.max(partitions.get(partition) ?? 0, position + 1))
  }
  return Array.from(groups, ([consumerGroupId, topics]) => ({
    consumerGroupId,
    topics: Array.from(topics, ([topic, partitions]) => ({
      topic,
      partitions: Array.from(partitions, ([partition, position]) => ({ partition, offset: String(position) }))
    }))
  }))
}

const make = (connection: Connection, transactionalId: string) =>
  Effect.gen(function*() {
    const kafka = connection.client(yield* KafkaClient.logger(connection))
    const one = yield* Semaphore.make(1)
    let producer: Producer | undefined
    const drop = Effect.suspend(() => {
      const old = producer
      producer = undefined
      return old === undefined ? Effect.void : KafkaClient.disconnect(old)
    })
    yield* Effect.addFinalizer(() => drop)
    const connected = Effect.suspend(() => {
      if (producer !== undefined) return Effect.succeed(producer)
      const fresh = producer = kafka.producer({
        transactionalId,
        idempotent: true,
        maxInFlightRequests: 1,
        allowAutoTopicCreation: connection.missingTopics === "create",
        createPartitioner: partitioner,
        retry: retrying(connection)
      })
      return Effect.as(KafkaClient.attempt(connection, "connect", () => fresh.connect()), fresh)
    })
    const all = async (
      transaction: Transaction,
      messages: ReadonlyArray<Outgoing<Uint8Array>>,
      offsets: Array<Offsets>
    ) => {
      if (messages.length > 0) {
        await transaction.sendBatch({
          acks: -1,
          topicMessages: byTopic(messages),
          compression: connection.producer.compression
        })
      }
      for (const each of offsets) await transaction.sendOffsets(each)
    }
    const call = <A>(run: () => Promise<A>) => KafkaClient.attempt(connection, "publish", run)
    const publish: KafkaTransaction["Service"]["publish"] = (messages, options) => {
      const offsets = behind(options?.after ?? [])
      if (messages.length === 0 && offsets.length === 0) return Exit.void
      // interrupted in the middle it would stay open, and hold up its readers, until the broker gives it up
      return one.withPermit(Effect.uninterruptible(
        Effect.gen(function*() {
          const open = yield* connected
          const transaction = yield* call(() => open.transaction())
          yield* call(() => all(transaction, messages, offsets)).pipe(
            Effect.onError(() => Effect.ignore(call(() => transaction.abort())))
          )
          yield* call(() => transaction.commit())
        }).pipe(Effect.onError(() => drop))
      ))
    }
    yield* connected
    return KafkaTransaction.of({ publish })
  })

/**
 * Transactional publishing as a layer, connected at once.
 *
 * Fails with a `BrokerError` when an option is bad or Kafka cannot be reached.
 *
 * @category layers
 */
export const layer = (options: TransactionOptions): Layer.Layer<KafkaTransaction, Failed> =>
  Layer.effect(
    KafkaTransaction,
    Effect.gen(function*() {
      const connection = yield* KafkaClient.make(options)
      if (options.transactionalId === "") {
        return yield* Effect.fail(BrokerError.make({
          system: "kafka",
          operation: "connect",
          reason: "Invalid",
          message: "Kafka: transactionalId is empty: give each producer a name of its own that stays over restarts."
        }))
      }
      return yield* make(connection, options.transactionalId)
    })
  )
