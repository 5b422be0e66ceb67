/**
 * Reading what is in a channel without consuming it: its log, up to where it is when the reading begins.
 */
import { type BrokerError, type Delivery, delivery, type Origin } from "@millrace/core"
import type { ConsumeMessage } from "amqplib"
import { type Cause, Effect, type Fiber, Queue, Random, Stream } from "effect"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import * as RabbitMqLog from "./RabbitMqLog.ts"
import { MessageReader } from "./RabbitMqMessage.ts"

type Failed = BrokerError.BrokerError

const offsetOf = (message: ConsumeMessage): number => {
  const offset: unknown = message.properties.headers?.["x-stream-offset"]
  return typeof offset === "number" ? offset : 0
}

/**
 * What the log of a channel keeps, oldest first, at positions that are its offsets; then its end. Fails with `NotFound` where
 * the channel was not declared, and with `Unsupported` where channels have no log.
 */
export const browse = (link: RabbitMqClient.Link, channel: string): Stream.Stream<Delivery, Failed> => {
  const { connection } = link
  if (connection.log === "none" || connection.channels.has(channel)) {
    return Stream.fail(RabbitMqError.make(
      "browse",
      "Unsupported",
      `${channel} has no log, so it cannot be browsed: leave the option log at "stream" and declare it, or look into its queues by RabbitMQ's management pages.`
    ))
  }
  return Stream.callback<Delivery, Failed>((queue) => fill(link, channel, queue), { bufferSize: 1024 })
}

const fill = (
  link: RabbitMqClient.Link,
  channel: string,
  queue: Queue.Queue<Delivery, Failed | Cause.Done>
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { connection } = link
    const where = { channel }
    const origin: Origin = {
      system: "rabbitmq",
      channel,
      group: "",
      partition: 0,
      handler: "",
      holdLimit: Number.POSITIVE_INFINITY
    }
    const reader = new MessageReader({ exchange: connection.exchange, queue: channel })
    const mark = `browse ${yield* Random.nextIntBetween(0, 1_000_000_000)} ${yield* Random.nextIntBetween(
      0,
      1_000_000_000
    )}`
    yield* RabbitMqClient.ask(connection, "browse", () => RabbitMqLog.mark(link, channel, mark), where)
    const run = Effect.runForkWith(yield* Effect.context<never>())
    const offering = new Set<Fiber.Fiber<unknown>>()
    let closed = false
    const visit = async (messages: ReadonlyArray<ConsumeMessage>, found: string | undefined) => {
      if (closed) return "enough" as const
      const fiber = run(Queue.offerAll(
        queue,
        messages.map((each) => delivery(origin, reader, each, offsetOf(each), each.content, 1))
      ))
      offering.add(fiber)
      await new Promise<void>((resolve) => fiber.addObserver(() => resolve()))
      offering.delete(fiber)
      return found === mark ? "enough" as const : "more" as const
    }
    yield* Effect.onInterrupt(
      RabbitMqClient.attempt(connection, "browse", () => RabbitMqLog.read(link, channel, visit), where),
      () =>
        Effect.sync(() => {
          // nobody reads any more
          closed = true
          for (const fiber of offering) fiber.interruptUnsafe()
        })
    )
    yield* Queue.end(queue)
  })
