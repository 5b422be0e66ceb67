/**
 * Transactions by kafkajs's producer.
 */
import { Effect } from "effect"
import type { Settings } from "../client/Options.ts"
import type { Transactional, Transactions } from "../client/Transaction.ts"
import * as Client from "./Client.ts"
import { byTopic, retrying } from "./Producing.ts"
import { partitioner } from "./Records.ts"

/** kafkajs's transactional producers. Their positions name no member: kafkajs speaks TxnOffsetCommit before version 3. */
export const transactional = (settings: Settings, transactionalId: string): Effect.Effect<Transactions> =>
  Effect.map(Client.logger(settings), (log) => {
    const kafka = Client.make(settings, log)
    const compression = Client.compressionOf(settings)
    const open = (): Transactional => {
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
        close: Client.disconnect(producer)
      }
    }
    return { guarantee: "at least once", open }
  })
