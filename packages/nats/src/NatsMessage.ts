/**
 * Messages in both directions: what is in a message of NATS as the core reads it, and the core's messages as NATS holds them.
 *
 * Header fields of NATS are lines of text: names keep their case and may come again, and the client cuts white space off
 * values. What a line cannot hold is written as `=?bytes?B?…?=` (base64), a null value as `=?null?B??=`. The key is the field
 * `Millrace-Key`. Source: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-4.md
 */
import { type BrokerError, Features, Headers, type Outgoing, type Reader } from "@millrace/core"
import { headers, type Msg, type MsgHdrs } from "@nats-io/transport-node"
import * as NatsError from "./NatsError.ts"
import * as NatsNames from "./NatsNames.ts"

type Failed = BrokerError.BrokerError

/** The field that holds the key. */
export const keyName = "Millrace-Key"

const encoder = new TextEncoder()
// a byte order mark is part of the text
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

const bytesOf = (text: string): Uint8Array | null =>
  text === nothing
    ? null
    : text.startsWith(marked) && text.endsWith("?=")
    ? new Uint8Array(Buffer.from(text.slice(marked.length, -2), "base64"))
    : encoder.encode(text)

// what the client cannot read as fields, e.g. names with blanks, it throws away whole
const headersOf = (message: Msg): MsgHdrs | undefined => {
  try {
    return message.headers
  } catch {
    return undefined
  }
}

const keyLine = (message: Msg): string | undefined => {
  const found = headersOf(message)
  return found === undefined || !found.has(keyName) ? undefined : found.get(keyName)
}

const keyBytes = (message: Msg): Uint8Array | undefined => {
  const found = keyLine(message)
  return found === undefined ? undefined : bytesOf(found) ?? undefined
}

/** Fields that tell the server what to do with a message; those of a message that was read are no part of it. */
const isOrder = (name: string): boolean => name.startsWith("Nats-")

const fieldsOf = (message: Msg): Array<Headers.Field> => {
  const fields: Array<Headers.Field> = []
  for (const [name, values] of headersOf(message) ?? []) {
    if (name === keyName || isOrder(name)) continue
    for (const value of values) fields.push([name, bytesOf(value)])
  }
  return fields
}

/** The name of the header in which the subject for answers travels. */
export const replyName = "reply-to"

/** How a native record that holds a message of the client is read: nothing is decoded before it is asked for. */
export const readerOf = <Native>(
  messageOf: (native: Native) => Msg,
  timestamp: (native: Native) => number | undefined,
  replyOf?: (native: Native) => string | undefined
): Reader<Native> => ({
  // equal bytes give equal text, also where they are not UTF-8: order by key needs no more
  key: (native) => {
    const found = keyLine(messageOf(native))
    return found === undefined || isLine(found) ? found : Buffer.from(bytesOf(found) ?? []).toString()
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

/** The fields of a message as the client writes them, undefined where it has none. */
export const toHeaders = (outgoing: Outgoing<Uint8Array>): MsgHdrs | undefined | Failed => {
  const { key, native } = outgoing
  let found: MsgHdrs | undefined
  const add = (name: string, value: string): Failed | undefined => {
    if (!nameShape.test(name)) {
      return NatsError.invalid(
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

/** What NATS can do of what a publisher may ask beside body, key and headers. */
export const features: Features.Deciding = { tombstones: false, partitions: false, timestamps: "none" }

/** Refuses what NATS can never take; `most` is what the server says. */
export const refuse = (outgoing: Outgoing<Uint8Array>, most: number | undefined): Failed | undefined => {
  const { channel, payload } = outgoing
  const name = NatsNames.refuse(channel)
  if (name !== undefined) return NatsError.invalid("publish", name)
  const refused = Features.refuse("nats", features, outgoing)
  if (refused !== undefined) return refused
  return most !== undefined && payload.length > most ? tooLarge(channel, payload.length, most) : undefined
}

/** A body, or a body with its headers, that is longer than the server takes. */
export const tooLarge = (channel: string, bytes: number, most: number): Failed =>
  NatsError.make(
    "publish",
    "TooLarge",
    `A message for ${channel} has a body of ${bytes} bytes, and the server takes ${most} for body and headers together: shorten it, or raise max_payload of the server.`
  )
