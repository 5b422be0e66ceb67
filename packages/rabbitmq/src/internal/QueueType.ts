/**
 * The type of a queue that another program has declared. AMQP does not tell it, so the queue is declared with a type: RabbitMQ
 * refuses what differs, and says what there is.
 */
import type { Options } from "amqplib"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"

/** `unknown` where the user may not declare queues. */
export type QueueType = "quorum" | "classic" | "stream" | "unknown"

// arguments of a queue that may differ, one refusal each
const most = 16

const typeOf = (name: string): QueueType =>
  name === "quorum" || name === "stream" ? name : name === "classic" || name === "" ? "classic" : "unknown"

/** The sentence of a refusal about an argument: `inequivalent arg 'NAME' for queue …: received … but current is …`. */
const differs = (error: unknown): { readonly name: string; readonly current: string } | undefined => {
  if (Errors.replyOf(error) !== 406) return undefined
  const text = error instanceof Error ? error.message : String(error)
  const [, name, current] =
    /inequivalent arg '([^']+)' .*but current is (?:none|(?:the value )?'([^']*)')/.exec(text) ?? []
  return name === undefined ? undefined : { name, current: current ?? "" }
}

/** Asks for the type of a queue that exists. */
export const ask = async (connection: Connection, queue: string): Promise<QueueType> => {
  const wanted: Record<string, string | number | boolean> = { "x-queue-type": "stream" }
  const options: Options.AssertQueue = { arguments: wanted }
  for (let i = 0; i < most; i++) {
    try {
      await Channels.using(connection, Channels.plain, async (channel) => {
        // it must not be made here, if it was deleted meanwhile
        await channel.checkQueue(queue)
        await channel.assertQueue(queue, options)
      })
      return "stream"
    } catch (error) {
      const found = differs(error)
      if (found === undefined) {
        if (Errors.replyOf(error) === 403) return "unknown"
        throw error
      }
      const { current, name } = found
      if (name === "x-queue-type") return typeOf(current)
      // quorum queues and streams are durable and stay
      if (!name.startsWith("x-")) return "classic"
      wanted[name] = /^\d+$/.test(current)
        ? Number(current)
        : current === "true" || current === "false"
        ? current === "true"
        : current
    }
  }
  return "unknown"
}
