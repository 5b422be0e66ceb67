/**
 * Publishes with kafkajs's producer.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect } from "effect"
import type { Kafka, Message, RetryOptions, TopicMessages } from "kafkajs"
import * as Errors from "../Errors.ts"
import { acksOf, type ResolvedOptions } from "../Options.ts"
import type { Producers } from "../Publisher.ts"
import * as Connection from "./Connection.ts"
import { partitioner, toRecord } from "./Codec.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>

/** Groups messages by topic, in order of first use. */
export const byTopic = (batch: Batch): Array<TopicMessages> => {
  const topics = new Map<string, Array<Message>>()
  for (const outgoing of batch) {
    const messages = topics.get(outgoing.channel)
    if (messages === undefined) topics.set(outgoing.channel, [toRecord(outgoing)])
    else messages.push(toRecord(outgoing))
  }
  return Array.from(topics, ([topic, messages]) => ({ topic, messages }))
}

/** The options of a producer that retries for about `producer.retryFor`. */
export const retrying = ({ producer }: ResolvedOptions): RetryOptions => ({
  initialRetryTime: 100,
  maxRetryTime: 1000,
  multiplier: 2,
  factor: 0.2,
  retries: 4 + Math.ceil(producer.retryFor / 1000)
})

/** kafkajs's idempotent producers. */
export const producers = (settings: ResolvedOptions, kafka: Kafka): Producers => {
  const compression = Connection.compressionOf(settings)
  const open = Effect.suspend(() => {
    const producer = kafka.producer({
      // an idempotent producer waits for all replicas
      idempotent: settings.producer.acks === "all",
      allowAutoTopicCreation: settings.missingTopics === "create",
      createPartitioner: partitioner,
      metadataMaxAge: settings.consumer.metadataMaxAge,
      retry: retrying(settings)
    })
    const close = Connection.disconnect(producer)
    return Errors.attempt(settings.place, "connect", () => producer.connect()).pipe(
      Effect.onError(() => close),
      Effect.as({
        send: (batch: Batch) =>
          producer.sendBatch({
            acks: acksOf(settings),
            topicMessages: byTopic(batch),
            compression
          }),
        close
      })
    )
  }) satisfies Effect.Effect<unknown, BrokerError.BrokerError>
  // kafkajs groups the records of a request by partition in quadratic time
  return { open, mostMessages: 1000 }
}
