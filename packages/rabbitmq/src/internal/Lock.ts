/**
 * A lock among all programs: of the consumers of a queue with a single active one, RabbitMQ serves the oldest, and the next
 * when its channel is gone. The message that comes to the active one tells it so.
 */
import type { ConsumeMessage } from "amqplib"
import { Effect, type Scope } from "effect"
import type { BrokerError } from "@millrace/core"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import * as Requests from "./Requests.ts"

// a lock of a beginning that nobody waits for is gone after an hour
const unused = 3_600_000

type Arguments = Readonly<Record<string, string | number | boolean>>

/**
 * The queue of a lock that members declare at the same time. It is a classic one: of a quorum queue that two declare at once,
 * the second may be told that it is there before it is, and ends its connection by using it (seen with 3.10).
 */
export const brief: Arguments = {
  "x-queue-type": "classic",
  "x-single-active-consumer": true,
  "x-max-length": 1,
  "x-expires": unused
}

/** The queue of a lock that lasts, as safe as the queues of groups; declared by one at a time. */
export const lasting = (queueType: "quorum" | "classic"): Arguments => ({
  "x-queue-type": queueType,
  "x-single-active-consumer": true,
  "x-max-length": 1
})

/** A place in the line for a lock; it is left with the scope. */
export interface Place {
  /** Completes when the lock is held. */
  readonly held: Promise<void>
  /** Completes when it no longer is, or never will be. */
  readonly lost: Promise<BrokerError.BrokerError>
}

/** Stands in line for a lock; completes at once. */
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
        // the last one is kept, to be given to the next
        if (token !== undefined) channel.ack(token)
        token = message
        hold()
      })
      channel.sendToQueue(name, Buffer.alloc(0), { persistent: true })
    }, { queue: name })
    // RabbitMQ lets nobody hold a message longer than its consumer_timeout; and one that was purged is missed by nobody else
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(
      Effect.sleep(resolved.consumerTimeout / 3),
      Effect.sync(() => {
        try {
          channel.sendToQueue(name, Buffer.alloc(0), { persistent: true })
        } catch {
          // the channel has ended, and whoever stands here knows
        }
      })
    )))
    return { held, lost }
  })
