/**
 * Messages as one value each, for lists and Pub/Sub, which hold no fields.
 *
 * A message that is nothing but a body is its body, so any program can write and read it. One with a key or headers has a line
 * before the body: `millrace/1 ` and JSON, e.g. `millrace/1 {"key":"k","headers":[["content-type","text/plain"]]}`. Bytes that
 * are no text are `{"base64":"…"}`, a header without a value is null, and `"tombstone":true` says that the body is null.
 */
import { Headers, type Outgoing, type Reader } from "@millrace/core"

/** A value as it came, and where its body begins: 0 where it is nothing but a body. */
export interface Envelope {
  readonly value: Buffer
  readonly from: number
  /** The line, once it was read. */
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

/** Whether a value begins with a line of ours. */
const isMarked = (value: Uint8Array): boolean =>
  value.length >= mark.length && mark.every((byte, i) => value[i] === byte)

/** Looks where the body begins; a value whose line does not end is nothing but a body. */
export const open = (value: Buffer): Envelope => ({
  value,
  from: value[0] === mark[0] && isMarked(value) ? value.indexOf(newline) + 1 : 0,
  parts: undefined
})

const nothing: Parts = {}

/** The line, read once; one that somebody else wrote may be anything, and is nothing then. */
const partsOf = (envelope: Envelope): Parts => {
  if (envelope.parts !== undefined) return envelope.parts
  if (envelope.from === 0) return envelope.parts = nothing
  try {
    const found: unknown = JSON.parse(envelope.value.toString("utf8", mark.length, envelope.from - 1))
    // each part is looked at where it is read
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

/** How values are read: the line before the body is not before somebody asks. */
export const reader: Reader<Envelope> = {
  // equal bytes give equal text, also where they are not UTF-8: order by key needs no more
  key: (envelope) => keyOf(envelope)?.toString(),
  keyBytes: keyOf,
  headers: (envelope) => envelope.from === 0 ? Headers.empty : Headers.fromFields(fieldsOf(envelope)),
  fields: fieldsOf,
  // Redis keeps no time of it
  timestamp: () => undefined
}

/** The body, or null where it is a tombstone. */
export const bodyOf = (envelope: Envelope): Buffer | null => {
  const { from, value } = envelope
  if (from === 0) return value
  // only an empty body can be one
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

/** The value that holds a message. */
export const toValue = (outgoing: Outgoing<Uint8Array>): Buffer => {
  const { fields, keyBytes, native, payload } = outgoing
  const isTombstone = native?.tombstone === true
  // a body that looks like a line of ours gets one of its own, or it would be read as one
  if (keyBytes === undefined && fields.length === 0 && !isTombstone && !isMarked(payload)) return buffer(payload)
  const parts: Parts = {
    ...(keyBytes === undefined ? {} : { key: pack(keyBytes) }),
    ...(fields.length === 0 ? {} : { headers: fields.map(([name, value]) => [name, pack(value)] as const) }),
    ...(isTombstone ? { tombstone: true } : {})
  }
  const line = Buffer.from(`${mark.toString()}${JSON.stringify(parts)}\n`)
  return isTombstone ? line : Buffer.concat([line, payload])
}
