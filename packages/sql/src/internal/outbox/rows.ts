/**
 * Converts a message to a row and back without loss, including characters that a database's text cannot hold.
 */
import { type Headers, type NativeParts, Outgoing } from "@millrace/core"

/** The number of shards of an outbox, and so the most relays that share it. A shard is a lane's hash modulo this. */
export const shards = 64

/** A row as it is inserted, in the order of `columns`. */
export interface Row {
  readonly message: string
  readonly shard: number
  readonly lane: number | null
  readonly channel: string
  readonly key: string | null
  readonly headers: string
  readonly native: string | null
  readonly payload: Uint8Array
  readonly size: number
}

interface Native {
  readonly channel?: string
  readonly key?: string
  readonly keyBytes?: string
  readonly fields?: ReadonlyArray<readonly [string, string | null]>
  readonly tombstone?: true
  readonly partition?: number
  readonly timestamp?: number
}

const encoder = new TextEncoder()

// text of PostgreSQL holds every character but NUL; a lone surrogate is not UTF-8
const storable = (text: string): string => text.replaceAll("\0", "\ufffd").toWellFormed()

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64")

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"))

/** Hashes channel and key to 53 bits, the same in every process: FNV-1a, and a variant with another seed and multiplier. */
const laneOf = (channel: string, key: Uint8Array): number => {
  let a = 0x811c9dc5
  let b = 0x01000193
  const mix = (byte: number) => {
    a = Math.imul(a ^ byte, 0x01000193)
    b = Math.imul(b ^ byte, 0x85ebca6b)
    b ^= b >>> 13
  }
  for (const byte of encoder.encode(channel)) mix(byte)
  mix(0xff)
  for (let i = 0; i < key.length; i++) mix(key[i]!)
  return (a >>> 0) * 0x20_0000 + (b >>> 11)
}

const nativeOf = (outgoing: Outgoing<Uint8Array>): string | null => {
  const { channel, key, native } = outgoing
  const found: { -readonly [K in keyof Native]: Native[K] } = {}
  if (storable(channel) !== channel) found.channel = channel
  if (key !== undefined && storable(key) !== key) found.key = key
  if (native?.keyBytes !== undefined) found.keyBytes = base64(native.keyBytes)
  if (native?.fields !== undefined) {
    found.fields = native.fields.map(([name, value]) => [name, value === null ? null : base64(value)])
  }
  if (native?.tombstone === true) found.tombstone = true
  if (native?.partition !== undefined) found.partition = native.partition
  if (native?.timestamp !== undefined) found.timestamp = native.timestamp
  return Object.keys(found).length === 0 ? null : JSON.stringify(found)
}

/** Makes the row of a message; `id` is the default of its message id, `spread` selects the shard of a message without a key. */
export const write = (outgoing: Outgoing<Uint8Array>, id: string, spread: number): Row => {
  const { channel, headers, keyBytes, payload } = outgoing
  const lane = keyBytes === undefined ? null : laneOf(channel, keyBytes)
  const named = headers["message-id"] === undefined ? { ...headers, "message-id": id } : headers
  const text = JSON.stringify(named)
  const native = nativeOf(outgoing)
  return {
    message: storable(named["message-id"] ?? id),
    shard: lane === null ? spread % shards : lane % shards,
    lane,
    channel: storable(channel),
    key: outgoing.key === undefined ? null : storable(outgoing.key),
    headers: text,
    native,
    payload,
    size: payload.length + text.length + (native?.length ?? 0)
  }
}

/** A row as the relay reads it. */
export interface Stored {
  readonly id: string
  readonly lane: string | null
  readonly attempts: number
  readonly createdAt: number
  readonly bytes: number
  readonly outgoing: Outgoing<Uint8Array>
  /** Why the row cannot be sent; `outgoing` then has the readable parts. */
  readonly unreadable: string | undefined
}

const textOf = (value: unknown): string | null => value === null || value === undefined ? null : String(value)

const isText = (value: unknown): value is string => typeof value === "string"

const isRecord = (value: unknown): value is { readonly [name: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

/** The parsed JSON of a column, or undefined if it is malformed. */
const parsed = (text: string | null): unknown => {
  try {
    return text === null ? undefined : JSON.parse(text)
  } catch {
    return undefined
  }
}

const headersOf = (text: string | null): Headers.Headers | undefined => {
  const found = parsed(text)
  if (!isRecord(found)) return undefined
  const headers: { [name: string]: string } = Object.create(null)
  for (const [name, value] of Object.entries(found)) {
    if (!isText(value)) return undefined
    headers[name] = value
  }
  return headers
}

const isField = (value: unknown): value is readonly [string, string | null] =>
  Array.isArray(value) && value.length === 2 && isText(value[0]) && (value[1] === null || isText(value[1]))

const nativePartsOf = (text: string): Native | undefined => {
  const found = parsed(text)
  if (!isRecord(found)) return undefined
  const { channel, fields, key, keyBytes, partition, timestamp, tombstone } = found
  const isKnown = [channel, key, keyBytes].every((part) => part === undefined || isText(part)) &&
    [partition, timestamp].every((part) => part === undefined || typeof part === "number") &&
    (tombstone === undefined || tombstone === true) &&
    (fields === undefined || (Array.isArray(fields) && fields.every(isField)))
  // each part was checked just above
  return isKnown ? found as Native : undefined
}

/**
 * Reads a row; PostgreSQL sends its largest numbers as text. Other programs may write rows too, so each part is checked. Pass
 * `payload` if the row does not carry it because of its size.
 */
export const read = (record: { readonly [column: string]: unknown }, payload: unknown = record["payload"]): Stored => {
  const id = String(record["id"])
  const native = textOf(record["native"])
  const parts = native === null ? {} : nativePartsOf(native)
  const headers = headersOf(textOf(record["headers"]))
  const wrong = record["is_wide"] === true || record["is_wide"] === 1
    ? "its headers and its key are too large to be read"
    : headers === undefined
    ? "its headers are no JSON object of texts"
    : parts === undefined
    ? "its native parts are not what Outbox writes"
    : payload instanceof Uint8Array
    ? undefined
    : "its payload is missing"
  const nativeParts: NativeParts | undefined = native === null || parts === undefined ? undefined : {
    keyBytes: parts.keyBytes === undefined ? undefined : bytes(parts.keyBytes),
    fields: parts.fields?.map(([name, value]) => [name, value === null ? null : bytes(value)]),
    tombstone: parts.tombstone,
    partition: parts.partition,
    timestamp: parts.timestamp
  }
  return {
    id,
    lane: textOf(record["lane"]),
    attempts: Number(record["attempts"]),
    createdAt: Number(record["created_at"]),
    bytes: Number(record["bytes"]),
    unreadable: wrong === undefined ? undefined : `Row ${id} of the outbox cannot be read: ${wrong}`,
    outgoing: new Outgoing(
      parts?.channel ?? String(record["channel"]),
      payload instanceof Uint8Array ? payload : new Uint8Array(0),
      parts?.key ?? textOf(record["key"]) ?? undefined,
      headers ?? Object.create(null),
      nativeParts
    )
  }
}
