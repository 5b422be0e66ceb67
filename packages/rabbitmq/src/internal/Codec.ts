/**
 * Converts amqplib's records for the core, and the core's messages for amqplib: properties and headers of AMQP become header
 * fields.
 */
import { Headers, type Outgoing, type Reader } from "@millrace/core"
import type { Message } from "amqplib"
import { exactHeaders, hasWaited, isOfDeaths, names, originalOf, own } from "./OwnHeaders.ts"
import { exchangeName, type Properties, propertiesOf, put, routingKeyName, type Way } from "./Properties.ts"
import {
  breaksStreams,
  decode,
  encode,
  isDropped,
  isTable,
  remember,
  replacement,
  type Table,
  textOf,
  valueOf,
  writable
} from "./Values.ts"

const encoder = new TextEncoder()

const isPlain = (value: unknown): value is string | Buffer | null =>
  value === null || typeof value === "string" || Buffer.isBuffer(value)

/** Whether amqplib has read the value without loss. */
const isExact = (value: unknown): value is string | Buffer | null =>
  typeof value === "string" ? !value.includes(replacement) : isPlain(value)

/** Finds the original value of a header that was written as its text. */
const kept = (values: Table | undefined, name: string, text: unknown): unknown => {
  const value = values?.[name]
  return breaksStreams(value) && text === textOf(value) ? value : undefined
}

const bytesOf = (value: string | Buffer | null): Uint8Array | null =>
  typeof value === "string" ? encoder.encode(value) : value

/** Adds the fields of one header: one for each value of a list of several texts, and one for any other value. */
const push = (fields: Array<Headers.Field>, name: string, value: unknown): void => {
  if (isPlain(value)) fields.push([name, bytesOf(value)])
  else if (Array.isArray(value) && value.length > 1 && value.every(isPlain)) {
    for (const each of value) fields.push([name, bytesOf(each)])
  } else {
    const [first] = Array.isArray(value) && value.length === 1 ? value : []
    // a list of one value reads like the value, and stays a list in a copy
    fields.push([name, remember(typeof first === "string" ? first : textOf(value), value)])
  }
}

const keyOf = (record: Message): unknown => {
  const key: unknown = record.properties.headers?.[names.key]
  return typeof key === "string" && key.includes(replacement) ? exactHeaders(record)[names.key] : key
}

// the protocol counts seconds, but some clients write milliseconds
const latest = 100_000_000_000

/** The source of a reader's records. */
export interface Place {
  /** The exchange of all channels; for records of other exchanges, fields hold exchange and routing key. */
  readonly exchange: string
  /** The queue or log from which records are read. */
  readonly queue: string
}

/** Reads amqplib's records: fields are decoded lazily. */
export class MessageReader implements Reader<Message> {
  private readonly place: Place

  constructor(place: Place) {
    this.place = place
  }

  key(record: Message): string | undefined {
    const key = keyOf(record)
    // equal bytes give equal text, even if they are not UTF-8; order by key needs no more
    return typeof key === "string" ? key : Buffer.isBuffer(key) ? key.toString() : undefined
  }

  keyBytes(record: Message): Uint8Array | undefined {
    const key = keyOf(record)
    return typeof key === "string" ? encoder.encode(key) : Buffer.isBuffer(key) ? key : undefined
  }

  headers(record: Message): Headers.Headers {
    return Headers.fromFields(this.fields(record))
  }

  fields(record: Message): Array<Headers.Field> {
    const { exchange, queue } = this.place
    const { fields: from, properties } = record
    const fields: Array<Headers.Field> = []
    const headers: Table | undefined = properties.headers
    const waited = hasWaited(record, queue)
    const original = waited ? originalOf(record, queue) : undefined
    propertiesOf(properties, original, fields)
    const isForeign = from.exchange !== "" && from.exchange !== exchange
    if (isForeign) {
      fields.push([exchangeName, encoder.encode(from.exchange)], [routingKeyName, encoder.encode(from.routingKey)])
    }
    if (headers === undefined) return fields
    let exact: Table | undefined
    const values = headers[names.values] === undefined ? undefined : decode(headers[names.values])
    for (const name in headers) {
      if (own.has(name) || (waited && isOfDeaths(name))) continue
      // headers of a dead letter that was published again
      if (isForeign && (name === exchangeName || name === routingKeyName)) continue
      const value = headers[name]
      if (isExact(value) && values === undefined) fields.push([name, bytesOf(value)])
      else push(fields, name, kept(values, name, value) ?? (exact ??= exactHeaders(record))[name] ?? value)
    }
    const deaths = original?.["deaths"]
    if (isTable(deaths)) { for (const name in deaths) push(fields, name, deaths[name]) }
    if (values !== undefined) {
      for (const name in values) if (!Object.hasOwn(headers, name) && !own.has(name)) push(fields, name, values[name])
    }
    return fields
  }

  timestamp(record: Message): number | undefined {
    const at: unknown = record.properties.timestamp
    return typeof at !== "number" || at <= 0 ? undefined : at < latest ? at * 1000 : at
  }
}

/** Views the same memory as a Buffer. */
export const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

type Plain = string | Buffer | null

const text = (bytes: Uint8Array): string | Buffer => Headers.textOf(bytes) ?? buffer(bytes)

/** Converts the fields of a message: to properties if AMQP has them, otherwise to a table, with a list for a repeated name. */
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
      // a list holds texts and bytes: a typed value becomes its text here
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

/** Converts a message to amqplib's properties; `seconds` is the current Unix time. */
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
