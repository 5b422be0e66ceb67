/**
 * Reads the messages of a topic without consuming them: with a group of its own that never commits, and is deleted
 * afterwards.
 */
import type { BrokerError, Delivery } from "@millrace/core"
import { Cause, Clock, Effect, type Fiber, Queue, Random, type Scope, Stream } from "effect"
import { PartitionAssigners } from "kafkajs"
import * as Connection from "./Connection.ts"
import { tap } from "./Brokers.ts"
import { deliveriesOf } from "./Consumer.ts"
import type { Cluster } from "../Cluster.ts"
import * as Errors from "../Errors.ts"
import type { ResolvedOptions } from "../Options.ts"
import * as Topology from "../Topology.ts"

type Failed = BrokerError.BrokerError

/**
 * Streams the messages that are readable when the stream starts, in order within each partition, and then ends. The stream
 * does not wait for later messages, nor for those of a transaction whose end its partitions have not recorded, which takes a
 * moment after the commit. Fails with `NotFound` if the topic does not exist.
 */
export const browse = (settings: ResolvedOptions, cluster: Cluster, channel: string): Stream.Stream<Delivery, Failed> =>
  // unread messages stay at the broker
  Stream.callback<Delivery, Failed>((queue) => fill(settings, cluster, channel, queue), { bufferSize: 1024 })

const fill = (
  settings: ResolvedOptions,
  cluster: Cluster,
  channel: string,
  queue: Queue.Queue<Delivery, Failed | Cause.Done>
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const where = { channel }
    // checked first: kafkajs assumes that an unknown topic is being created
    yield* Errors.attempt(settings.place, "browse", () => cluster.leaders(channel), where)
    const bounds = yield* Topology.bounds(settings, cluster, "browse", channel)
    const ends = new Map(bounds.filter(({ high, low }) => high > low).map(({ high, partition }) => [partition, high]))
    if (ends.size === 0) {
      yield* Queue.end(queue)
      return
    }

    const now = yield* Clock.currentTimeMillis
    const chance = yield* Random.nextIntBetween(0, 1_000_000_000)
    const group = `millrace-browse-${now}-${chance}`
    const log = yield* Connection.logger(settings)
    const context = yield* Effect.context<never>()
    const run = Effect.runForkWith(context)
    const offering = new Set<Fiber.Fiber<unknown>>()
    let closed = false
    const consumer = yield* Effect.acquireRelease(
      Effect.sync(() =>
        Connection.make(settings, log).consumer({
          groupId: group,
          allowAutoTopicCreation: false,
          maxWaitTimeInMs: settings.consumer.maximumWait,
          sessionTimeout: settings.consumer.sessionTimeout,
          heartbeatInterval: settings.consumer.heartbeatInterval,
          partitionAssigners: [(config) => {
            tap(config.cluster)
            return PartitionAssigners.roundRobin(config)
          }],
          retry: { retries: 5, restartOnFailure: async () => true }
        })
      ),
      (consumer) =>
        Effect.sync(() => {
          // the reader is gone: a batch that waits for it would delay the disconnect
          closed = true
          for (const fiber of offering) fiber.interruptUnsafe()
        }).pipe(
          Effect.andThen(Connection.disconnect(consumer)),
          Effect.andThen(Effect.ignore(Effect.tryPromise(() => cluster.deleteGroup(group))))
        )
    )
    const fail = (error: unknown) =>
      Queue.failCauseUnsafe(
        queue,
        Cause.fail(Errors.fromUnknown(error, "browse", { ...settings.place, channel, group }))
      )
    const read = (partition: number, last: string) => {
      const end = ends.get(partition)
      if (end === undefined || Number(last) + 1 < end) return
      ends.delete(partition)
      if (ends.size === 0) Queue.endUnsafe(queue)
      else consumer.pause([{ topic: channel, partitions: [partition] }])
    }
    // also emitted for batches with transaction markers only
    consumer.on("consumer.end_batch_process", ({ payload }) => read(payload.partition, payload.lastOffset))
    consumer.on("consumer.crash", ({ payload }) => {
      if (!payload.restart) fail(payload.error)
    })
    yield* Errors.attempt(settings.place, "browse", () => consumer.connect(), where)
    yield* Errors.attempt(
      settings.place,
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
        const origin = Topology.browsed(channel, partition)
        const upTo = messages.findIndex(({ offset }) => Number(offset) >= end)
        const found = deliveriesOf(origin, messages, 0, upTo < 0 ? messages.length : upTo)
        const fiber = run(Queue.offerAll(queue, found))
        offering.add(fiber)
        await new Promise<void>((resolve) => fiber.addObserver(() => resolve()))
        offering.delete(fiber)
      }
    }).catch(fail)
  })
