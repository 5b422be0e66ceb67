/**
 * Publishes batches through one outbound queue and replies to the caller's queue, and declares missing channels if the option
 * says so.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { Effect, type Scope } from "effect"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import { OutboundQueue } from "./OutboundQueue.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

/** Publishes batches. */
export interface Publisher {
  readonly publish: (batch: Batch) => Effect.Effect<void, Failed>
}

const isReply = ({ native }: Outgoing<Uint8Array>): boolean => native?.isReply === true

/**
 * Publishes a batch. A reply goes to the channel that its caller named, or else to the queue of that name: other clients name
 * a queue that is not bound to an exchange.
 */
const replying = (outbound: OutboundQueue, batch: Batch): Effect.Effect<void, Failed> => {
  const [reply] = batch
  if (batch.length !== 1 || reply === undefined || !isReply(reply)) return outbound.publish(batch)
  return Effect.catchIf(
    outbound.publish(batch),
    Errors.isAbsent,
    () => outbound.publish(batch, true)
  )
}

/**
 * Makes a publisher; closing the scope waits for messages in flight, for at most `requestTimeout`.
 *
 * @category constructors
 */
export const make = (
  connection: Connection,
  declare: (channel: string) => Effect.Effect<void, Failed>
): Effect.Effect<Publisher, never, Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const outbound = new OutboundQueue(connection, context)
    yield* Effect.addFinalizer(() =>
      Effect.ignore(Effect.timeoutOption(outbound.close, connection.resolved.requestTimeout))
    )
    yield* Effect.forkScoped(outbound.watch)
    if (connection.resolved.missingChannels === "refuse") return { publish: (batch) => replying(outbound, batch) }
    const known = new Set<string>()
    const known1000 = (channel: string) => {
      if (known.size >= 1000) known.clear()
      known.add(channel)
    }
    return {
      publish: (batch) => {
        const fresh = [...new Set(batch.filter((each) => !isReply(each)).map(({ channel }) => channel))].filter((
          channel
        ) => !known.has(channel) && !connection.resolved.channels.has(channel))
        if (fresh.length === 0) return replying(outbound, batch)
        return Effect.andThen(
          Effect.forEach(fresh, (channel) => Effect.map(declare(channel), () => known1000(channel)), { discard: true }),
          Effect.suspend(() => outbound.publish(batch))
        )
      }
    }
  })
