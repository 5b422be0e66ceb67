/**
 * Transactions by kafkajs's producer.
 */
import { Effect } from "effect"
import type { Settings } from "../client/Options.ts"
import type { Transactional } from "../client/Transaction.ts"
import * as Client from "./Client.ts"
import { byTopic, retrying } from "./Producing.ts"
import { partitioner } from "./Records.ts"

/** kafkajs's transactional producers. */
export const transactional = (settings: Settings, transactionalId: string): Effect.Effect<() => Transactional> =>
  Effect.map(Client.logger(settings), (log) => {
    const kafka = Client.make(settings, log)
    const compression = Client.compressionOf(settings)
    return () => {
      const producer = kafka.producer({
        transactionalId,
        idempotent: true,
        maxInFlightRequests: 1,
        allowAutoTopicCreation: settings.missingTopics === "create",
        createPartitioner: partitioner,
        retry: retrying(settings)
      })
      return {
        connect: () => producer.connect(),
        begin: async () => {
          const transaction = await producer.transaction()
          return {
            send: (batch) => transaction.sendBatch({ acks: -1, topicMessages: byTopic(batch), compression }),
            sendOffsets: (offsets) => transaction.sendOffsets(offsets),
            commit: () => transaction.commit(),
            abort: () => transaction.abort()
          }
        },
        close: Client.disconnect(producer)
      }
    }
  })
