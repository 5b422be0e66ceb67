/**
 * A message as a row, and a row as the message: nothing of it is lost on the way, whatever text of a database cannot hold.
 */
import { type Headers, type NativeParts, Outgoing } from "@millrace/core"

/** How many parts the work of an outbox has; so many relays share it at most. A part is a lane's hash modulo this. */
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

// text of PostgreSQL holds every character but this; a half of a pair is not UTF-8
const storable = (text: string): string => text.replaceAll("\0", "\ufffd").toWellFormed()

const base64 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64")

const bytes = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"))

/** FNV-1a in two halves that begin apart, 53 bits of it; equal for equal channels and keys, in every process. */
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

/** The row of a message; `id` is its message id where it has none, `spread` its shard where it has no key. */
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
  readonly outgoing: Outgoing<Uint8Array>
}

const textOf = (value: unknown): string | null => value === null || value === undefined ? null : String(value)

/** Reads a row; numbers may come as text, which is how PostgreSQL sends its largest ones. */
export const read = (record: { readonly [column: string]: unknown }): Stored => {
  // `write` made both texts
  const parts = JSON.parse(textOf(record["native"]) ?? "{}") as Native
  const headers = Object.assign(
    Object.create(null) as { [name: string]: string },
    JSON.parse(textOf(record["headers"]) ?? "{}") as Headers.Headers
  )
  const native: NativeParts | undefined = record["native"] === null || record["native"] === undefined ? undefined : {
    keyBytes: parts.keyBytes === undefined ? undefined : bytes(parts.keyBytes),
    fields: parts.fields?.map(([name, value]) => [name, value === null ? null : bytes(value)]),
    tombstone: parts.tombstone,
    partition: parts.partition,
    timestamp: parts.timestamp
  }
  const payload = record["payload"]
  return {
    id: String(record["id"]),
    lane: textOf(record["lane"]),
    attempts: Number(record["attempts"]),
    createdAt: Number(record["created_at"]),
    outgoing: new Outgoing(
      parts.channel ?? String(record["channel"]),
      payload instanceof Uint8Array ? payload : new Uint8Array(0),
      parts.key ?? textOf(record["key"]) ?? undefined,
      headers,
      native
    )
  }
}
