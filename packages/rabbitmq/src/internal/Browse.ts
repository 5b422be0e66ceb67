/**
 * Reads the messages of a channel without consuming them: its log, up to the log's end at the start of the reading.
 */
import { type BrokerError, type Delivery, delivery, type Origin } from "@millrace/core"
import type { ConsumeMessage } from "amqplib"
import { type Cause, Effect, type Fiber, Queue, Random, Stream } from "effect"
import { MessageReader } from "./Codec.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as Log from "./Log.ts"
import * as Requests from "./Requests.ts"

type Failed = BrokerError.BrokerError

const offsetOf = (message: ConsumeMessage): number => {
  const offset: unknown = message.properties.headers?.["x-stream-offset"]
  return typeof offset === "number" ? offset : 0
}

/**
 * Streams the messages of a channel's log, oldest first, with the log's offsets as positions, and then ends. Fails with
 * `NotFound` if the channel was not declared, and with `Unsupported` if channels have no log.
 */
export const browse = (connection: Connection, channel: string): Stream.Stream<Delivery, Failed> => {
  const { resolved } = connection
  if (resolved.log === "none" || resolved.channels.has(channel)) {
    return Stream.fail(Errors.make(
      "browse",
      "Unsupported",
      `${channel} has no log, so it cannot be browsed: leave the option log at "stream" and declare it, or look into its queues by RabbitMQ's management pages.`
    ))
  }
  return Stream.callback<Delivery, Failed>((queue) => fill(connection, channel, queue), { bufferSize: 1024 })
}

const fill = (
  connection: Connection,
  channel: string,
  queue: Queue.Queue<Delivery, Failed | Cause.Done>
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { resolved } = connection
    const where = { channel }
    const origin: Origin = {
      system: "rabbitmq",
      channel,
      group: "",
      partition: 0,
      handler: "",
      holdLimit: Number.POSITIVE_INFINITY
    }
    const reader = new MessageReader({ exchange: resolved.exchange, queue: channel })
    const mark = `browse ${yield* Random.nextIntBetween(0, 1_000_000_000)} ${yield* Random.nextIntBetween(
      0,
      1_000_000_000
    )}`
    yield* Requests.ask(resolved, "browse", () => Log.mark(connection, channel, mark), where)
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
      Requests.attempt(resolved, "browse", () => Log.read(connection, channel, visit), where),
      () =>
        Effect.sync(() => {
          // the reader is gone
          closed = true
          for (const fiber of offering) fiber.interruptUnsafe()
        })
    )
    yield* Queue.end(queue)
  })
