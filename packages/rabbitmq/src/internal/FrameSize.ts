/**
 * The bytes that the properties of a message take: a frame of properties is never split, and RabbitMQ ends the connection over one
 * that is longer than `frame_max`.
 */
import type { ChannelModel } from "amqplib"
import type { Properties } from "./Properties.ts"

/** amqplib writes no longer frames of properties: it refuses the message. */
const longest = 66_000

/** The frame with its header and end, class, weight and length of the body, and two bytes of flags. */
const overhead = 8 + 12 + 2

const textSize = (text: unknown): number => typeof text === "string" ? 1 + Buffer.byteLength(text) : 0

const valueSize = (value: unknown): number => {
  if (typeof value === "string") return 5 + Buffer.byteLength(value)
  if (value instanceof Uint8Array) return 5 + value.length
  if (Array.isArray(value)) return value.reduce((sum: number, each) => sum + valueSize(each), 5)
  if (typeof value !== "object" || value === null) return 9
  return "!" in value ? 9 : 1 + tableSize(value)
}

const tableSize = (table: object): number => {
  let size = 4
  for (const [name, value] of Object.entries(table)) size += textSize(name) + valueSize(value)
  return size
}

/** The length of the frame of properties, in bytes; of numbers the most that they may take. */
export const frameSize = (properties: Properties): number => {
  let size = overhead
  for (const [name, value] of Object.entries(properties)) {
    if (name === "headers") size += value === undefined ? 0 : tableSize(value)
    // the others are flags, one byte, or a timestamp
    else size += typeof value === "string" ? textSize(value) : 9
  }
  return size
}

/** The longest frame of properties on a connection; Infinity where amqplib writes none as long. */
export const maximumOf = (model: ChannelModel): number => {
  const maximum: unknown = Reflect.get(model.connection, "frameMax")
  return typeof maximum === "number" && maximum < longest ? maximum : Number.POSITIVE_INFINITY
}
