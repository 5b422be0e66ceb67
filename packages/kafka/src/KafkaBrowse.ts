/**
 * Reading what is in a topic without consuming it: a group of its own that never commits, and is gone afterwards.
 */
import type { BrokerError, Delivery, Origin } from "@millrace/core"
import { Cause, Clock, Effect, type Fiber, Queue, Random, type Scope, Stream } from "effect"
import type { Admin } from "kafkajs"
import * as KafkaClient from "./KafkaClient.ts"
import { deliveriesOf } from "./KafkaConsumer.ts"
import * as KafkaError from "./KafkaError.ts"
import type { Connection } from "./KafkaOptions.ts"
import * as KafkaTopics from "./KafkaTopics.ts"

type Failed = BrokerError.BrokerError

/**
 * What can be read of the topic when the stream starts, in order within each partition, and then its end. Messages that come
 * later are not waited for, nor are those of a transaction that its partitions have not heard the end of: they do a little
 * after it was committed. Fails with `NotFound` where there is no such topic.
 */
export const browse = (connection: Connection, admin: Admin, channel: string): Stream.Stream<Delivery, Failed> =>
  // what is not read yet waits at the broker
  Stream.callback<Delivery, Failed>((queue) => fill(connection, admin, channel, queue), { bufferSize: 1024 })

const fill = (
  connection: Connection,
  admin: Admin,
  channel: string,
  queue: Queue.Queue<Delivery, Failed | Cause.Done>
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const where = { channel }
    // asked first: kafkajs takes an unknown topic for one that is about to come
    yield* KafkaClient.attempt(connection, "browse", () => admin.fetchTopicMetadata({ topics: [channel] }), where)
    const offsets = yield* KafkaTopics.offsets(connection, admin, "browse", channel)
    const ends = new Map(
      offsets.filter(({ high, low }) => Number(high) > Number(low)).map((
        { high, partition }
      ) => [partition, Number(high)])
    )
    if (ends.size === 0) {
      yield* Queue.end(queue)
      return
    }

    const now = yield* Clock.currentTimeMillis
    const chance = yield* Random.nextIntBetween(0, 1_000_000_000)
    const group = `millrace-browse-${now}-${chance}`
    const log = yield* KafkaClient.logger(connection)
    const context = yield* Effect.context<never>()
    const run = Effect.runForkWith(context)
    const offering = new Set<Fiber.Fiber<unknown>>()
    let closed = false
    const consumer = yield* Effect.acquireRelease(
      Effect.sync(() =>
        connection.client(log).consumer({
          groupId: group,
          allowAutoTopicCreation: false,
          maxWaitTimeInMs: connection.consumer.maximumWait,
          sessionTimeout: connection.consumer.sessionTimeout,
          heartbeatInterval: connection.consumer.heartbeatInterval,
          retry: { retries: 5, restartOnFailure: async () => true }
        })
      ),
      (consumer) =>
        Effect.sync(() => {
          // nobody reads any more: a batch that waits for its reader would hold up the end
          closed = true
          for (const fiber of offering) fiber.interruptUnsafe()
        }).pipe(
          Effect.andThen(KafkaClient.disconnect(consumer)),
          Effect.andThen(Effect.ignore(Effect.tryPromise(() => admin.deleteGroups([group]))))
        )
    )
    const fail = (error: unknown) =>
      Queue.failCauseUnsafe(
        queue,
        Cause.fail(KafkaError.fromUnknown(error, "browse", { ...connection.place, channel, group }))
      )
    const read = (partition: number, last: string) => {
      const end = ends.get(partition)
      if (end === undefined || Number(last) + 1 < end) return
      ends.delete(partition)
      if (ends.size === 0) Queue.endUnsafe(queue)
      else consumer.pause([{ topic: channel, partitions: [partition] }])
    }
    // also told of batches in which there is nothing but the marks of transactions
    consumer.on("consumer.end_batch_process", ({ payload }) => read(payload.partition, payload.lastOffset))
    consumer.on("consumer.crash", ({ payload }) => {
      if (!payload.restart) fail(payload.error)
    })
    yield* KafkaClient.attempt(connection, "browse", () => consumer.connect(), where)
    yield* KafkaClient.attempt(
      connection,
      "browse",
      () => consumer.subscribe({ topics: [channel], fromBeginning: true }),
      where
    )
    consumer.run({
      autoCommit: false,
      partitionsConsumedConcurrently: 16,
      eachBatch: async ({ batch: { messages, partition } }) => {
        const end = ends.get(partition)
        if (end === undefined || closed) return
        const origin: Origin = {
          system: "kafka",
          channel,
          group: "",
          partition,
          handler: "",
          holdLimit: Number.POSITIVE_INFINITY
        }
        const upTo = messages.findIndex(({ offset }) => Number(offset) >= end)
        const found = deliveriesOf(origin, messages, 0, upTo < 0 ? messages.length : upTo)
        const fiber = run(Queue.offerAll(queue, found))
        offering.add(fiber)
        await new Promise<void>((resolve) => fiber.addObserver(() => resolve()))
        offering.delete(fiber)
      }
    }).catch(fail)
  })
