/**
 * Values of AMQP's header tables: their text for handlers, and their types for copies.
 *
 * amqplib reads every number as a double and loses its type. So the driver reads the exact value from the frame, and
 * remembers the value behind a header field's bytes: a dead letter or a replay of this process writes the type again.
 *
 * Types: https://www.rabbitmq.com/amqp-0-9-1-errata#section_3
 */

import { isUtf8 } from "node:buffer"

/** The decoder's character for bytes that are not valid text. */
export const replacement = "\uFFFD"

/** A value with its AMQP type, in the form that amqplib writes. */
export class Typed {
  readonly "!": string
  readonly value: unknown

  constructor(type: string, value: unknown) {
    this["!"] = type
    this.value = value
  }
}

/** A table of values. */
export interface Table {
  readonly [name: string]: unknown
}

/** Whether a value is a table; amqplib's own typed values count, too. */
export const isTable = (value: unknown): value is Table =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !Buffer.isBuffer(value)

const isTyped = (value: Table): value is Table & { readonly "!": string; readonly value: unknown } =>
  value instanceof Typed || (Object.keys(value).length === 2 && typeof value["!"] === "string" && "value" in value)

/** Formats AMQP's decimal: `digits` with the point before the last `places`. */
const decimal = (value: unknown): string => {
  const digits = isTable(value) && typeof value["digits"] === "number" ? value["digits"] : 0
  const places = isTable(value) && typeof value["places"] === "number" ? value["places"] : 0
  const text = String(digits).padStart(places + 1, "0")
  return places === 0 ? text : `${text.slice(0, -places)}.${text.slice(-places)}`
}

const plain = (value: unknown): string => {
  if (typeof value === "number" && !Number.isFinite(value)) return "null"
  return typeof value === "object" || typeof value === "undefined" ? "null" : String(value)
}

const json = (value: unknown): string => {
  if (typeof value === "string") return JSON.stringify(value)
  if (Buffer.isBuffer(value)) return JSON.stringify(value.toString("base64"))
  if (Array.isArray(value)) return `[${value.map(json).join(",")}]`
  if (!isTable(value)) return plain(value)
  if (isTyped(value)) return value["!"] === "decimal" ? decimal(value.value) : json(value.value)
  return `{${Object.keys(value).map((name) => `${JSON.stringify(name)}:${json(value[name])}`).join(",")}}`
}

/** Formats a value that is neither text nor bytes: a number in decimal, a timestamp as Unix seconds, a table or list as JSON. */
export const textOf = (value: unknown): string => {
  if (typeof value === "number") return String(value)
  return isTable(value) && isTyped(value) && typeof value.value === "number" ? String(value.value) : json(value)
}

const encoder = new TextEncoder()
const written = new WeakMap<Uint8Array, unknown>()

/** Encodes a value's text; `valueOf` finds the value again. */
export const remember = (text: string, value: unknown): Uint8Array => {
  const bytes = encoder.encode(text)
  written.set(bytes, value)
  return bytes
}

/** Finds the value from which a header's bytes were made; undefined for text and bytes. */
export const valueOf = (bytes: Uint8Array): unknown => written.get(bytes)

/** Reads a table in its wire format. */
class Wire {
  private readonly bytes: Buffer
  private at: number

  constructor(bytes: Buffer, at: number) {
    this.bytes = bytes
    this.at = at
  }

  skipShort(): void {
    this.at += 1 + this.bytes.readUInt8(this.at)
  }

  private take(length: number): number {
    const { at } = this
    this.at += length
    return at
  }

  private long(): { readonly from: number; readonly to: number } {
    const length = this.bytes.readUInt32BE(this.take(4))
    const from = this.take(length)
    return { from, to: from + length }
  }

  table(): Table {
    const { to } = this.longHere()
    const table: Record<string, unknown> = Object.create(null)
    while (this.at < to) {
      const length = this.bytes.readUInt8(this.take(1))
      const from = this.take(length)
      table[this.bytes.toString("utf8", from, from + length)] = this.value()
    }
    return table
  }

  private longHere(): { readonly to: number } {
    const length = this.bytes.readUInt32BE(this.take(4))
    return { to: this.at + length }
  }

  private list(): ReadonlyArray<unknown> {
    const { to } = this.longHere()
    const list: Array<unknown> = []
    while (this.at < to) list.push(this.value())
    return list
  }

  private value(): unknown {
    const { bytes } = this
    const tag = String.fromCharCode(bytes.readUInt8(this.take(1)))
    switch (tag) {
      case "S": {
        const { from, to } = this.long()
        const text = bytes.toString("utf8", from, to)
        // RabbitMQ 4 returns bytes from a stream as a string
        return text.includes(replacement) && !isUtf8(bytes.subarray(from, to)) ? bytes.subarray(from, to) : text
      }
      case "x": {
        const { from, to } = this.long()
        return bytes.subarray(from, to)
      }
      case "V":
        return null
      case "t":
        return bytes.readUInt8(this.take(1)) !== 0
      case "b":
        return new Typed("int8", bytes.readInt8(this.take(1)))
      case "B":
        return new Typed("uint8", bytes.readUInt8(this.take(1)))
      case "s":
        return new Typed("int16", bytes.readInt16BE(this.take(2)))
      case "u":
        return new Typed("uint16", bytes.readUInt16BE(this.take(2)))
      case "I":
        return new Typed("int32", bytes.readInt32BE(this.take(4)))
      case "i":
        return new Typed("uint32", bytes.readUInt32BE(this.take(4)))
      case "l":
        return new Typed("int64", bytes.readBigInt64BE(this.take(8)))
      case "T":
        return new Typed("timestamp", bytes.readBigUInt64BE(this.take(8)))
      case "f":
        return new Typed("float", bytes.readFloatBE(this.take(4)))
      case "d":
        return new Typed("double", bytes.readDoubleBE(this.take(8)))
      case "D": {
        const places = bytes.readUInt8(this.take(1))
        return new Typed("decimal", { places, digits: bytes.readUInt32BE(this.take(4)) })
      }
      case "A":
        return this.list()
      case "F":
        return this.table()
      default:
        throw new RangeError(`unknown type ${tag}`)
    }
  }
}

// a frame's type, channel and length; the class, its weight and the length of the body
const beforeFlags = 19
const flags = { contentType: 0x8000, contentEncoding: 0x4000, headers: 0x2000 }

/** Reads the header table of a frame of type 2 from its first byte; undefined if it is not readable. */
export const tableOf = (frame: Buffer): Table | undefined => {
  try {
    const found = frame.readUInt16BE(beforeFlags)
    if ((found & flags.headers) === 0) return undefined
    const wire = new Wire(frame, beforeFlags + 2)
    if ((found & flags.contentType) !== 0) wire.skipShort()
    if ((found & flags.contentEncoding) !== 0) wire.skipShort()
    return wire.table()
  } catch {
    return undefined
  }
}

/** Converts a value to one that amqplib can write: a table that amqplib would mistake for a typed value becomes its text. */
export const writable = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(writable)
  if (!isTable(value) || value instanceof Typed) return value
  if ("!" in value) return isTyped(value) ? value : json(value)
  const table: Record<string, unknown> = Object.create(null)
  for (const name of Object.keys(value)) table[name] = writable(value[name])
  return table
}

const isInfinite = (value: unknown): boolean => typeof value === "number" && !Number.isFinite(value)

/**
 * Whether RabbitMQ would close the connection because of this value in a message for a stream (seen with 3.10 and 4.3):
 * decimals, infinities and NaN.
 */
export const breaksStreams = (value: unknown): boolean => {
  if (Array.isArray(value)) return value.some(breaksStreams)
  if (!isTable(value)) return isInfinite(value)
  return isTyped(value)
    ? value["!"] === "decimal" || isInfinite(value.value)
    : Object.values(value).some(breaksStreams)
}

/** Whether a stream loses a header of this value: a list, a table, or a value that breaks streams. */
export const isDropped = (value: unknown): boolean =>
  Array.isArray(value) || breaksStreams(value) || (isTable(value) && !isTyped(value))

const encoded = (value: unknown): unknown => {
  if (value === null || typeof value === "string" || typeof value === "boolean") return value
  if (typeof value === "number") return { type: "number", value: String(value) }
  if (Buffer.isBuffer(value)) return { type: "bytes", value: value.toString("base64") }
  if (Array.isArray(value)) return value.map(encoded)
  if (!isTable(value)) return null
  if (isTyped(value)) {
    return { type: value["!"], value: isTable(value.value) ? value.value : String(value.value) }
  }
  return { type: "table", value: Object.fromEntries(Object.keys(value).map((name) => [name, encoded(value[name])])) }
}

const whole: ReadonlySet<string> = new Set(["int64", "timestamp"])
const isReal = (type: string): boolean => /^(?:u?int(?:8|16|32)|float|double)$/.test(type)

const decodedTyped = (type: unknown, value: unknown): unknown => {
  if (typeof type !== "string") return null
  if (type === "table" && isTable(value)) return decodedTable(value)
  if (type === "decimal" && isTable(value)) return new Typed(type, { places: value["places"], digits: value["digits"] })
  if (typeof value !== "string") return null
  if (type === "bytes") return Buffer.from(value, "base64")
  if (type === "number") return Number(value)
  if (whole.has(type) && /^-?\d{1,20}$/.test(value)) return new Typed(type, BigInt(value))
  return isReal(type) ? new Typed(type, Number(value)) : value
}

const decodedValue = (value: unknown): unknown => {
  if (Array.isArray(value)) return value.map(decodedValue)
  return isTable(value) ? decodedTyped(value["type"], value["value"]) : value
}

const decodedTable = (value: Table): Table => {
  const table: Record<string, unknown> = Object.create(null)
  for (const name of Object.keys(value)) table[name] = decodedValue(value[name])
  return table
}

/** Encodes values as JSON text, for a stream that would drop them. */
export const encode = (values: Table): string =>
  JSON.stringify(Object.fromEntries(Object.keys(values).map((name) => [name, encoded(values[name])])))

/** Decodes a text of `encode`; any other text gives no values. */
export const decode = (text: unknown): Table => {
  if (typeof text !== "string") return {}
  try {
    const parsed: unknown = JSON.parse(text)
    return isTable(parsed) ? decodedTable(parsed) : {}
  } catch {
    return {}
  }
}
