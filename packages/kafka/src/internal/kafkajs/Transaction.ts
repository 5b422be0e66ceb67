/**
 * Transactions by kafkajs's producer.
 */
import { Effect } from "effect"
import type { ResolvedOptions } from "../Options.ts"
import type { TransactionalProducer, TransactionalProducers } from "../Transaction.ts"
import * as Connection from "./Connection.ts"
import { byTopic, retrying } from "./Publisher.ts"
import { partitioner } from "./Codec.ts"

/** kafkajs's transactional producers. Their offset commits name no member: kafkajs uses TxnOffsetCommit below version 3. */
export const transactional = (
  settings: ResolvedOptions,
  transactionalId: string
): Effect.Effect<TransactionalProducers> =>
  Effect.map(Connection.logger(settings), (log) => {
    const kafka = Connection.make(settings, log)
    const compression = Connection.compressionOf(settings)
    const open = (): TransactionalProducer => {
      const producer = kafka.producer({
        transactionalId,
        idempotent: true,
        maxInFlightRequests: 1,
        allowAutoTopicCreation: settings.missingTopics === "create",
        createPartitioner: partitioner,
        metadataMaxAge: settings.consumer.metadataMaxAge,
        retry: retrying(settings)
      })
      return {
        connect: () => producer.connect(),
        begin: async () => {
          const transaction = await producer.transaction()
          return {
            send: (batch) => transaction.sendBatch({ acks: -1, topicMessages: byTopic(batch), compression }),
            sendOffsets: ({ group, partition, position, topic }) =>
              transaction.sendOffsets({
                consumerGroupId: group,
                topics: [{ topic, partitions: [{ partition, offset: String(position) }] }]
              }),
            commit: () => transaction.commit(),
            abort: () => transaction.abort()
          }
        },
        close: Connection.disconnect(producer)
      }
    }
    return { guarantee: "at least once", open }
  })
