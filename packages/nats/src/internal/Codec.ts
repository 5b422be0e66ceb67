/**
 * Messages in both directions: reads NATS messages for the core, and encodes the core's messages for NATS.
 *
 * A value that does not fit into a NATS header line is written as `=?bytes?B?…?=` (base64), a null value as `=?null?B??=`.
 * The key is the field `Millrace-Key`. Source:
 * https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-4.md
 */
import { type BrokerError, Features, Headers, type Outgoing, type Reader } from "@millrace/core"
import { headers, type Msg, type MsgHdrs } from "@nats-io/transport-node"
import * as Errors from "./Errors.ts"
import * as HeaderLines from "./HeaderLines.ts"
import * as Names from "./Names.ts"

type Failed = BrokerError.BrokerError

/** The header that holds the key. */
export const keyName = "Millrace-Key"

const encoder = new TextEncoder()
// keeps a byte order mark as part of the text
const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const marked = "=?bytes?B?"
const nothing = "=?null?B??="

const textOf = (bytes: Uint8Array): string | undefined => {
  try {
    return strict.decode(bytes)
  } catch {
    return undefined
  }
}

const isLine = (text: string): boolean =>
  !/[\r\n]/.test(text) && text.trim() === text && !text.startsWith(marked) && text !== nothing && text.isWellFormed()

const line = (text: string | undefined, bytes: () => Uint8Array): string =>
  text !== undefined && isLine(text) ? text : `${marked}${Buffer.from(bytes()).toString("base64")}?=`

const lineOf = (value: Uint8Array | null): string => value === null ? nothing : line(textOf(value), () => value)

const latin1 = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1")

/** Decodes the value of a header line. */
const valueOf = (line: Uint8Array): Uint8Array | null => {
  // "=", with which few values begin
  if (line[0] !== 61) return line
  const text = latin1(line)
  return text === nothing
    ? null
    : text.startsWith(marked) && text.endsWith("?=")
    ? new Uint8Array(Buffer.from(text.slice(marked.length, -2), "base64"))
    : line
}

const keyLine = (message: Msg): Uint8Array | undefined => HeaderLines.valueOf(message, keyName)

const keyBytes = (message: Msg): Uint8Array | undefined => {
  const found = keyLine(message)
  return found === undefined ? undefined : valueOf(found) ?? undefined
}

const fieldsOf = (message: Msg): Array<Headers.Field> => {
  const fields: Array<Headers.Field> = []
  for (const [name, value] of HeaderLines.linesOf(message)) {
    if (name !== keyName) fields.push([name, valueOf(value)])
  }
  return fields
}

/** Headers that the server obeys: ids against duplicates, expected sequences, expiry, roll-up, schedules. */
export const instructions: ReadonlyArray<string> = ["nats-*"]

/** The header that carries the reply subject. */
export const replyName = "reply-to"

/**
 * Makes a reader for a native record that holds a message of the client. The reader decodes a part only when it is
 * requested.
 */
export const readerOf = <Native>(
  messageOf: (native: Native) => Msg,
  timestamp: (native: Native) => number | undefined,
  replyOf?: (native: Native) => string | undefined
): Reader<Native> => ({
  // equal bytes give equal text, even if they are not UTF-8: order by key needs no more
  key: (native) => {
    const found = keyBytes(messageOf(native))
    return found === undefined ? undefined : Buffer.from(found.buffer, found.byteOffset, found.byteLength).toString()
  },
  keyBytes: (native) => keyBytes(messageOf(native)),
  headers: (native) => {
    const fields = fieldsOf(messageOf(native))
    const found = fields.length === 0 ? Headers.empty : Headers.fromFields(fields)
    const reply = replyOf?.(native)
    return reply === undefined || reply === "" || found[replyName] !== undefined
      ? found
      : Headers.set(found, replyName, reply)
  },
  fields: (native) => fieldsOf(messageOf(native)),
  timestamp
})

const nameShape = /^[\x21-\x39\x3b-\x7e]+$/

/** Encodes the headers of a message for the client; undefined if it has none. */
export const toHeaders = (outgoing: Outgoing<Uint8Array>): MsgHdrs | undefined | Failed => {
  const { key, native } = outgoing
  let found: MsgHdrs | undefined
  const add = (name: string, value: string): Failed | undefined => {
    if (!nameShape.test(name)) {
      return Errors.invalid(
        "publish",
        `A header of NATS cannot be named ${JSON.stringify(name)}: use visible ASCII characters without a colon.`
      )
    }
    ;(found ??= headers()).append(name, value)
    return undefined
  }
  if (native?.fields !== undefined && native.fields.length > 0) {
    for (const [name, value] of outgoing.fields) {
      const failed = add(name, lineOf(value))
      if (failed !== undefined) return failed
    }
  } else {
    for (const name in outgoing.headers) {
      const value = outgoing.headers[name]!
      const failed = add(name, line(value, () => encoder.encode(value)))
      if (failed !== undefined) return failed
    }
  }
  if (native?.keyBytes !== undefined) add(keyName, lineOf(native.keyBytes))
  else if (key !== undefined) add(keyName, line(key, () => encoder.encode(key)))
  return found
}

/** The optional publisher features (beside body, key and headers) that NATS supports. */
export const features: Features.Deciding = { tombstones: false, partitions: false, timestamps: "none" }

/** Refuses a message that NATS can never accept; `most` is the server's `max_payload`. */
export const refuse = (outgoing: Outgoing<Uint8Array>, most: number | undefined): Failed | undefined => {
  const { channel, payload } = outgoing
  const name = Names.refuse(channel)
  if (name !== undefined) return Errors.invalid("publish", name)
  const refused = Features.refuse("nats", features, outgoing)
  if (refused !== undefined) return refused
  return most !== undefined && payload.length > most ? tooLarge(outgoing, undefined, most) : undefined
}

/** Bytes of the header fields, including the version line and the empty line at the end. */
const sizeOf = (fields: MsgHdrs): number => {
  let size = 12
  for (const [name, values] of fields) {
    for (const value of values) size += name.length + Buffer.byteLength(value) + 4
  }
  return size
}

/** The error for a body, or a body with its headers, above the server's `max_payload`. */
export const tooLarge = (
  { channel, payload }: Outgoing<Uint8Array>,
  fields: MsgHdrs | undefined,
  most: number
): Failed => {
  const headers = fields === undefined ? "" : ` and ${sizeOf(fields)} bytes of headers and key`
  return Errors.make(
    "publish",
    "TooLarge",
    `A message for ${channel} has ${payload.length} bytes of body${headers}, and the server takes ${most} for all of it: shorten it, or raise max_payload of the server.`
  )
}
