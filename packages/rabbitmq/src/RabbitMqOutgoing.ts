/**
 * The core's messages as amqplib writes them, and copies of messages that amqplib has read.
 */
import { Headers, type Outgoing } from "@millrace/core"
import type { Message, Options } from "amqplib"
import { buffer, exactHeaders, hasWaited, isOfDeaths, names, originalOf, written } from "./RabbitMqMessage.ts"
import {
  exchangeName,
  type Properties,
  put,
  routingKeyName,
  unrepeatable,
  userIdName,
  type Way
} from "./RabbitMqProperties.ts"
import { breaksStreams, encode, isDropped, textOf, valueOf, writable } from "./RabbitMqValue.ts"

type Plain = string | Buffer | null

const text = (bytes: Uint8Array): string | Buffer => Headers.textOf(bytes) ?? buffer(bytes)

/** The fields of a message: properties where AMQP has them, and a table with a list where a name was given several times. */
const putFields = (outgoing: Outgoing<Uint8Array>, properties: Properties, way: Way): Record<string, unknown> => {
  const table: Record<string, unknown> = Object.create(null)
  const lists = new Map<string, Array<Plain>>()
  const values: Record<string, unknown> = Object.create(null)
  let isKeeping = false
  for (const [name, bytes] of outgoing.fields) {
    const value = bytes === null ? null : text(bytes)
    const typed = bytes === null ? undefined : valueOf(bytes)
    if (typeof value === "string" && typed === undefined && put(properties, name, value, way)) continue
    if (Object.hasOwn(table, name)) {
      // a list of texts and bytes: a value with a type becomes its text here
      const list = lists.get(name) ?? [firstOf(table[name])]
      list.push(value)
      lists.set(name, list)
      values[name] = table[name] = list
      isKeeping = true
    } else if (typed === undefined) table[name] = value
    else {
      table[name] = breaksStreams(typed) ? value : writable(typed)
      if (!isDropped(typed)) continue
      values[name] = typed
      isKeeping = true
    }
  }
  if (isKeeping) table[names.values] = encode(values)
  return table
}

const firstOf = (value: unknown): Plain =>
  value === null || typeof value === "string" || Buffer.isBuffer(value) ? value : textOf(value)

/** The properties of a message as amqplib writes them; `seconds` is now, in Unix time. */
export const toProperties = (outgoing: Outgoing<Uint8Array>, seconds: number, way: Way): Properties => {
  const { headers, key, native } = outgoing
  const chosen = native?.timestamp
  const timestamp = chosen === undefined ? seconds : Math.floor(chosen / 1000)
  const properties: Properties = { persistent: true, mandatory: true, timestamp }
  let table: Record<string, unknown> | undefined
  if (native?.fields !== undefined && native.fields.length > 0) table = putFields(outgoing, properties, way)
  else {
    for (const name in headers) {
      const value = headers[name]!
      if (put(properties, name, value, way)) continue
      table ??= Object.create(null) as Record<string, unknown>
      table[name] = value
    }
  }
  const keyed = native?.keyBytes === undefined ? key : text(native.keyBytes)
  if (keyed !== undefined) {
    table ??= Object.create(null) as Record<string, unknown>
    table[names.key] = keyed
  }
  if (table !== undefined) properties.headers = table
  return properties
}

/** Headers of the driver that mean something only in the copy that they were written into. */
const ofCopies: ReadonlySet<string> = new Set([names.attempt, names.channel, names.original, names.mark])

const tableOf = (record: Message): Record<string, unknown> => {
  const exact = exactHeaders(record)
  const table: Record<string, unknown> = Object.create(null)
  for (const name in exact) {
    // what RabbitMQ wrote is said of the delivery, and what it reads as routing keys has done its work
    if (written.has(name) || ofCopies.has(name) || name === "CC" || name === "BCC") continue
    table[name] = writable(exact[name])
  }
  return table
}

const propertiesOf = (record: Message): Options.Publish => {
  const { clusterId: _, headers: __, userId: ___, ...properties } = record.properties
  return { ...properties, persistent: true, mandatory: true }
}

/** The properties of a message of a log, for its copy in the queue of a group. */
export const copied = (record: Message): Options.Publish => {
  const headers = tableOf(record)
  const { userId } = record.properties
  // RabbitMQ accepts no publisher that names another user
  if (typeof userId === "string") headers[userIdName] ??= userId
  return { ...propertiesOf(record), headers }
}

/** The properties of a delivery, for the copy of it that waits for its next attempt. */
export const waiting = (
  record: Message,
  place: { readonly queue: string; readonly exchange: string },
  attempt: number,
  channel: string
): Options.Publish => {
  const table = tableOf(record)
  // RabbitMQ counts the deaths of a wait among those that the message had before
  let original: Record<string, unknown>
  if (hasWaited(record, place.queue)) {
    original = { ...originalOf(record, place.queue) }
    for (const name in table) if (isOfDeaths(name)) delete table[name]
  } else {
    original = unrepeatable(record.properties)
    const { exchange, routingKey } = record.fields
    if (exchange !== "" && exchange !== place.exchange) {
      original[exchangeName] = exchange
      original[routingKeyName] = routingKey
    }
    const deaths: Record<string, unknown> = Object.create(null)
    let hasDied = false
    for (const name in table) {
      if (!isOfDeaths(name)) continue
      deaths[name] = table[name]
      delete table[name]
      hasDied = true
    }
    if (hasDied) original["deaths"] = deaths
  }
  table[names.attempt] = attempt
  table[names.channel] = channel
  if (Object.keys(original).length > 0) table[names.original] = writable(original)
  const { expiration: _, ...properties } = propertiesOf(record)
  return { ...properties, headers: table }
}
