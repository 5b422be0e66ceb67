/**
 * A lock among all programs: RabbitMQ serves the oldest consumer of a queue with a single active consumer, and the next one
 * when that consumer's channel is gone. A message delivered to the active consumer tells it that it holds the lock.
 */
import type { ConsumeMessage } from "amqplib"
import { Effect, type Scope } from "effect"
import type { BrokerError } from "@millrace/core"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as Requests from "./Requests.ts"

// RabbitMQ deletes the lock of a group's beginning after an hour without consumers
const unused = 3_600_000

type Arguments = Readonly<Record<string, string | number | boolean>>

/**
 * The arguments of a lock's queue that several members declare at the same time. The queue is classic: if two members declare
 * a quorum queue at once, the second may be told that it exists before it does, and lose its connection by using it (seen
 * with 3.10).
 */
export const brief: Arguments = {
  "x-queue-type": "classic",
  "x-single-active-consumer": true,
  "x-max-length": 1,
  "x-expires": unused
}

/** Makes the arguments of a permanent lock's queue, as safe as the queues of groups; one member at a time declares it. */
export const lasting = (queueType: "quorum" | "classic"): Arguments => ({
  "x-queue-type": queueType,
  "x-single-active-consumer": true,
  "x-max-length": 1
})

/** A place in the line for a lock; the scope gives it up. */
export interface Place {
  /** Completes when the lock is held. */
  readonly held: Promise<void>
  /** Completes when the lock is lost, or can never be held. */
  readonly lost: Promise<BrokerError.BrokerError>
}

/** Joins the line for a lock; does not wait for the lock. */
export const stand = (
  connection: Connection,
  name: string,
  settings: Arguments
): Effect.Effect<Place, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const { resolved } = connection
    let hold = () => {}
    let lose: (error: BrokerError.BrokerError) => void = () => {}
    const held = new Promise<void>((resolve) => hold = resolve)
    const lost = new Promise<BrokerError.BrokerError>((resolve) => lose = resolve)
    let why: () => unknown = () => new Error("Channel closed")
    const opened = yield* Effect.acquireRelease(
      Requests.ask(resolved, "consume", () =>
        connection.channel(
          Channels.plain,
          () => lose(Errors.fromUnknown(why(), "consume", { ...resolved.place, queue: name }))
        ), { queue: name }),
      ({ channel }) => Effect.promise(() => Channels.close(channel))
    )
    why = opened.why
    const { channel } = opened
    yield* Requests.ask(resolved, "consume", async () => {
      await channel.assertQueue(name, { arguments: settings })
      let token: ConsumeMessage | undefined
      await channel.consume(name, (message) => {
        if (message === null) {
          lose(Errors.make("consume", "Lost", `The lock ${name} was deleted.`))
          return
        }
        // the newest message stays unacknowledged, so the next consumer gets it
        if (token !== undefined) channel.ack(token)
        token = message
        hold()
      })
      channel.sendToQueue(name, Buffer.alloc(0), { persistent: true })
    }, { queue: name })
    // Sends a new message regularly: RabbitMQ closes the channel of a consumer that holds one beyond consumer_timeout, and no
    // other program replaces a purged one.
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(
      Effect.sleep(resolved.consumerTimeout / 3),
      Effect.sync(() => {
        try {
          channel.sendToQueue(name, Buffer.alloc(0), { persistent: true })
        } catch {
          // the channel has ended, and `lost` reports it
        }
      })
    )))
    return { held, lost }
  })
