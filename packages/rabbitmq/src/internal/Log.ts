/**
 * A channel's log: a stream that keeps published messages, and that readers do not empty.
 *
 * AMQP 0-9-1 does not report the end of a stream. So the reader writes a mark into it: messages before the mark were there
 * already.
 */
import type { ConsumeMessage } from "amqplib"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import { markOf, names } from "./OwnHeaders.ts"

// messages in flight to a reader
const ahead = 1000

/** Writes a mark into a log, behind all messages confirmed before. Rejects with 404 if there is no such log. */
export const mark = (connection: Connection, log: string, id: string): Promise<void> =>
  Channels.using(connection, Channels.confirming, async (channel) => {
    // a missing log fails here, with its name
    await channel.checkQueue(log)
    channel.sendToQueue(log, Buffer.alloc(0), { persistent: true, headers: { [names.mark]: id } })
    await connection.confirmed(channel)
  })

/**
 * Reads a log from its beginning, in parts, until `visit` returns "enough". A mark ends a part: `visit` gets the messages
 * before the mark, and the mark's id.
 */
export const read = async (
  connection: Connection,
  log: string,
  visit: (messages: ReadonlyArray<ConsumeMessage>, mark: string | undefined) => Promise<"more" | "enough">
): Promise<void> => {
  let wake = () => {}
  let over = false
  let cancelled = false
  const buffer: Array<ConsumeMessage> = []
  const { channel, why } = await connection.channel(Channels.plain, () => {
    over = true
    wake()
  })
  try {
    await channel.prefetch(ahead)
    await channel.consume(log, (message) => {
      if (message === null) cancelled = true
      else buffer.push(message)
      wake()
    }, { arguments: { "x-stream-offset": "first" } })
    while (true) {
      if (over) throw why()
      if (cancelled) throw Errors.make("browse", "NotFound", `The log of ${log} was deleted while it was read.`)
      if (buffer.length === 0) {
        await new Promise<void>((resolve) => wake = resolve)
        continue
      }
      const messages = buffer.splice(0)
      let from = 0
      for (let i = 0; i <= messages.length; i++) {
        const id = i < messages.length ? markOf(messages[i]!, log) : undefined
        if (i < messages.length && id === undefined) continue
        if (await visit(messages.slice(from, i), id) === "enough") return
        from = i + 1
      }
      channel.ack(messages[messages.length - 1]!, true)
    }
  } finally {
    await Channels.close(channel)
  }
}
