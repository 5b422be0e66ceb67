/**
 * Messages in both directions: amqplib's records as the core reads them, and the core's messages as amqplib writes them.
 */
import { type BrokerError, Features, Headers, type Outgoing, type Reader } from "@millrace/core"
import type { Message, Options } from "amqplib"
import * as RabbitMqError from "./RabbitMqError.ts"

/** Headers that are the driver's own: no subscription sees them. */
export const names = {
  /** The message's key, as text or as bytes. */
  key: "millrace-key",
  /** The number of the next attempt of a message that waits for it. */
  attempt: "millrace-attempt",
  /** The channel of a message that comes back from its wait. */
  channel: "millrace-channel",
  /** Marks the end of a log at one moment. */
  mark: "millrace-mark"
} as const

const own: ReadonlySet<string> = new Set([...Object.values(names), "x-delivery-count", "x-stream-offset"])

const encoder = new TextEncoder()

/** One header's bytes: text and bytes as they are, what other clients write (numbers, tables, times) as text. */
const bytesOf = (value: unknown): Uint8Array | null => {
  if (value === null) return null
  if (typeof value === "string") return encoder.encode(value)
  if (Buffer.isBuffer(value)) return value
  return encoder.encode(typeof value === "object" ? JSON.stringify(value) : String(value))
}

/** RabbitMQ's book of a message's waits is not the message's. */
export const isOfWaits = (name: string): boolean => /^x-(?:death|(?:first|last)-death-)/.test(name)

const fieldsOf = (record: Message): Array<Headers.Field> => {
  const fields: Array<Headers.Field> = []
  const headers: Readonly<Record<string, unknown>> | undefined = record.properties.headers
  if (headers === undefined) return fields
  const hasWaited = headers[names.attempt] !== undefined
  for (const name in headers) {
    if (own.has(name) || (hasWaited && isOfWaits(name))) continue
    const value = headers[name]
    // a list of plain values is a name that was given several times
    if (
      Array.isArray(value) && value.every((each) => each === null || typeof each === "string" || Buffer.isBuffer(each))
    ) {
      for (const each of value) fields.push([name, bytesOf(each)])
    } else fields.push([name, bytesOf(value)])
  }
  return fields
}

const keyOf = (record: Message): unknown => record.properties.headers?.[names.key]

// Seconds by the protocol; some clients write milliseconds.
const latest = 100_000_000_000

/** How amqplib's records are read: nothing is decoded before it is asked for. */
export const reader: Reader<Message> = {
  key: (record) => {
    const key = keyOf(record)
    // equal bytes give equal text, also where they are not UTF-8: order by key needs no more
    return typeof key === "string" ? key : Buffer.isBuffer(key) ? key.toString() : undefined
  },
  keyBytes: (record) => {
    const key = keyOf(record)
    return typeof key === "string" ? encoder.encode(key) : Buffer.isBuffer(key) ? key : undefined
  },
  headers: (record) => Headers.fromFields(fieldsOf(record)),
  fields: fieldsOf,
  timestamp: (record) => {
    const at: unknown = record.properties.timestamp
    return typeof at !== "number" || at <= 0 ? undefined : at < latest ? at * 1000 : at
  }
}

/** How often a message was delivered, this time included: what a retry wrote down, and what the queue has counted since. */
export const attemptOf = (record: Message): number => {
  const { headers } = record.properties
  if (headers === undefined) return 1
  const written: unknown = headers[names.attempt]
  const counted: unknown = headers["x-delivery-count"]
  return (typeof written === "number" && written >= 1 ? written : 1) + (typeof counted === "number" ? counted : 0)
}

/** A view of the same memory. */
export const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

const text = (bytes: Uint8Array): string | Buffer => Headers.textOf(bytes) ?? buffer(bytes)

type Value = string | Buffer | null

/** Headers as AMQP's table: names once, and a list where one was given several times. */
const tableOf = (outgoing: Outgoing<Uint8Array>): Record<string, Value | Array<Value>> | undefined => {
  const { headers, key, native } = outgoing
  const table: Record<string, Value | Array<Value>> = Object.create(null)
  let isEmpty = true
  if (native?.fields === undefined || native.fields.length === 0) {
    for (const name in headers) {
      table[name] = headers[name]!
      isEmpty = false
    }
  } else {
    for (const [name, bytes] of outgoing.fields) {
      const value = bytes === null ? null : text(bytes)
      const before = table[name]
      table[name] = before === undefined ? value : Array.isArray(before) ? [...before, value] : [before, value]
      isEmpty = false
    }
  }
  if (native?.keyBytes !== undefined) {
    table[names.key] = text(native.keyBytes)
    isEmpty = false
  } else if (key !== undefined) {
    table[names.key] = key
    isEmpty = false
  }
  return isEmpty ? undefined : table
}

// RabbitMQ takes these as more routing keys
const routing = ["CC", "BCC"]

/** Headers that RabbitMQ, or a plugin of its, obeys: more routing keys, the delay of a delayed exchange, an id against duplicates. */
export const instructions: ReadonlyArray<string> = ["cc", "bcc", "x-delay", "x-deduplication-header"]

/** What RabbitMQ can do of what a publisher may ask beside body, key and headers; AMQP's timestamp counts seconds. */
export const features: Features.Deciding = { tombstones: false, partitions: false, timestamps: "seconds" }

/** What of a message RabbitMQ or its client can never take. */
export const refuse = (outgoing: Outgoing<Uint8Array>): BrokerError.BrokerError | undefined => {
  const { channel, headers, native } = outgoing
  const refused = Features.refuse("rabbitmq", features, outgoing)
  if (refused !== undefined) return refused
  for (const name of routing) {
    if (headers[name] !== undefined || native?.fields?.some(([each]) => each === name) === true) {
      return RabbitMqError.invalid(
        "publish",
        `A message for ${channel} has the header ${name}, which RabbitMQ reads as routing keys: give it another name.`
      )
    }
  }
  return undefined
}

/** The properties of a message as amqplib writes them; `seconds` is now, in Unix time. */
export const toProperties = (outgoing: Outgoing<Uint8Array>, seconds: number): Options.Publish => {
  const headers = tableOf(outgoing)
  const chosen = outgoing.native?.timestamp
  const timestamp = chosen === undefined ? seconds : Math.floor(chosen / 1000)
  return headers === undefined
    ? { persistent: true, mandatory: true, timestamp }
    : { persistent: true, mandatory: true, timestamp, headers }
}
