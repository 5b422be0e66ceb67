/**
 * Encodes messages as single values, for lists and Pub/Sub, which have no fields.
 *
 * A message with only a body is stored as the body, so any program can write and read it. A message with a key or headers has a
 * line before the body: `millrace/1 ` and JSON, e.g. `millrace/1 {"key":"k","headers":[["content-type","text/plain"]]}`. Bytes
 * that are not UTF-8 are `{"base64":"…"}`, a header without a value is null, and `"tombstone":true` marks a null body.
 */
import { Headers, type Outgoing, type Reader } from "@millrace/core"

/** A raw value, and the offset of its body: 0 if the value has no envelope line. */
export interface Envelope {
  readonly value: Buffer
  readonly from: number
  /** The parsed line, once it was read. */
  parts: Parts | undefined
}

type Packed = string | { readonly base64: string } | null

interface Parts {
  readonly key?: Packed
  readonly headers?: ReadonlyArray<readonly [string, Packed]>
  readonly tombstone?: boolean
}

const mark = Buffer.from("millrace/1 ")
const newline = 10

/** Whether a value begins with an envelope line. */
const isMarked = (value: Uint8Array): boolean =>
  value.length >= mark.length && mark.every((byte, i) => value[i] === byte)

/** Finds where the body begins; a value whose line does not end is only a body. */
export const open = (value: Buffer): Envelope => ({
  value,
  from: value[0] === mark[0] && isMarked(value) ? value.indexOf(newline) + 1 : 0,
  parts: undefined
})

const nothing: Parts = {}

/** Parses the line once; a malformed line of another program counts as empty. */
const partsOf = (envelope: Envelope): Parts => {
  if (envelope.parts !== undefined) return envelope.parts
  if (envelope.from === 0) return envelope.parts = nothing
  try {
    const found: unknown = JSON.parse(envelope.value.toString("utf8", mark.length, envelope.from - 1))
    // callers check each part when they read it
    envelope.parts = typeof found === "object" && found !== null ? found : nothing
  } catch {
    envelope.parts = nothing
  }
  return envelope.parts
}

const bytesOf = (packed: unknown): Buffer | null | undefined => {
  if (packed === null) return null
  if (typeof packed === "string") return Buffer.from(packed)
  if (typeof packed !== "object") return undefined
  const base64: unknown = Reflect.get(packed, "base64")
  return typeof base64 === "string" ? Buffer.from(base64, "base64") : undefined
}

const fieldsOf = (envelope: Envelope): Array<Headers.Field> => {
  const { headers } = partsOf(envelope)
  const fields: Array<Headers.Field> = []
  if (!Array.isArray(headers)) return fields
  for (const field of headers) {
    const name: unknown = Array.isArray(field) ? field[0] : undefined
    const value = Array.isArray(field) ? bytesOf(field[1]) : undefined
    if (typeof name === "string" && value !== undefined) fields.push([name, value])
  }
  return fields
}

const keyOf = (envelope: Envelope): Buffer | undefined => bytesOf(partsOf(envelope).key ?? undefined) ?? undefined

/** Reads keys, headers and bodies of values; the line is parsed on first use. */
export const reader: Reader<Envelope> = {
  // equal bytes give equal text even if they are not UTF-8, which is enough for order by key
  key: (envelope) => keyOf(envelope)?.toString(),
  keyBytes: keyOf,
  headers: (envelope) => envelope.from === 0 ? Headers.empty : Headers.fromFields(fieldsOf(envelope)),
  fields: fieldsOf,
  // Redis stores no timestamp with a value
  timestamp: () => undefined
}

/** The body, or null for a tombstone. */
export const bodyOf = (envelope: Envelope): Buffer | null => {
  const { from, value } = envelope
  if (from === 0) return value
  // only an empty body can be a tombstone
  if (from === value.length && partsOf(envelope).tombstone === true) return null
  return value.subarray(from)
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const pack = (bytes: Uint8Array | null): Packed => {
  if (bytes === null) return null
  try {
    return strict.decode(bytes)
  } catch {
    return { base64: Buffer.from(bytes).toString("base64") }
  }
}

const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** Encodes a message as one value. */
export const toValue = (outgoing: Outgoing<Uint8Array>): Buffer => {
  const { fields, keyBytes, native, payload } = outgoing
  const isTombstone = native?.tombstone === true
  // a body that begins like an envelope line gets a line before it, or readers would mistake it for one
  if (keyBytes === undefined && fields.length === 0 && !isTombstone && !isMarked(payload)) return buffer(payload)
  const parts: Parts = {
    ...(keyBytes === undefined ? {} : { key: pack(keyBytes) }),
    ...(fields.length === 0 ? {} : { headers: fields.map(([name, value]) => [name, pack(value)] as const) }),
    ...(isTombstone ? { tombstone: true } : {})
  }
  const line = Buffer.from(`${mark.toString()}${JSON.stringify(parts)}\n`)
  return isTombstone ? line : Buffer.concat([line, payload])
}
