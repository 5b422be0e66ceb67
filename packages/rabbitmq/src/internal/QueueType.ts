/**
 * Finds the type of a queue that another program has declared. AMQP has no request for it, so the queue is declared with a
 * type: RabbitMQ refuses a difference, and names the actual value.
 */
import type { Options } from "amqplib"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"

/** `unknown` if the user may not declare queues, or the refusals do not reveal the type. */
export type QueueType = "quorum" | "classic" | "stream" | "unknown"

// the most arguments of a queue that may differ, with one refusal each
const most = 16

const typeOf = (name: string): QueueType =>
  name === "quorum" || name === "stream" ? name : name === "classic" || name === "" ? "classic" : "unknown"

/** Parses the refusal of an argument: `inequivalent arg 'NAME' for queue …: received … but current is …`. */
const differs = (error: unknown): { readonly name: string; readonly current: string } | undefined => {
  if (Errors.replyOf(error) !== 406) return undefined
  const text = error instanceof Error ? error.message : String(error)
  const [, name, current] =
    /inequivalent arg '([^']+)' .*but current is (?:none|(?:the value )?'([^']*)')/.exec(text) ?? []
  return name === undefined ? undefined : { name, current: current ?? "" }
}

/** Finds the type of an existing queue. */
export const ask = async (connection: Connection, queue: string): Promise<QueueType> => {
  const wanted: Record<string, string | number | boolean> = { "x-queue-type": "stream" }
  const options: Options.AssertQueue = { arguments: wanted }
  for (let i = 0; i < most; i++) {
    try {
      await Channels.using(connection, Channels.plain, async (channel) => {
        // the declaration must not create the queue if it was deleted meanwhile
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
      // quorum queues and streams are always durable and never auto-deleted
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
