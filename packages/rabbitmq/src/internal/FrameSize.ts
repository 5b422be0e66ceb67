/**
 * Computes the bytes that the properties of a message take: a frame of properties is never split, and RabbitMQ closes the
 * connection if one is longer than `frame_max`.
 */
import type { ChannelModel } from "amqplib"
import type { Properties } from "./Properties.ts"

/** amqplib's own limit in bytes: it refuses a message with a longer frame of properties. */
const longest = 66_000

/** The frame's header and end, the class, weight and body length, and two bytes of flags. */
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

/** Computes the length of the frame of properties in bytes; numbers count with their largest size. */
export const frameSize = (properties: Properties): number => {
  let size = overhead
  for (const [name, value] of Object.entries(properties)) {
    if (name === "headers") size += value === undefined ? 0 : tableSize(value)
    // other properties are flags, one byte, or a timestamp
    else size += typeof value === "string" ? textSize(value) : 9
  }
  return size
}

/** Finds the longest frame of properties on a connection; Infinity if amqplib's own limit is lower. */
export const maximumOf = (model: ChannelModel): number => {
  const maximum: unknown = Reflect.get(model.connection, "frameMax")
  return typeof maximum === "number" && maximum < longest ? maximum : Number.POSITIVE_INFINITY
}
