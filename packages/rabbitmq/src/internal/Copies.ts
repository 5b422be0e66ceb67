/**
 * Copies of messages that amqplib has read: from a log into the queue of a group, and into the queue of a delayed retry.
 */
import type { Message, Options } from "amqplib"
import { exactHeaders, hasWaited, isOfDeaths, names, originalOf, written } from "./OwnHeaders.ts"
import { exchangeName, routingKeyName, unrepeatable, userIdName } from "./Properties.ts"
import { writable } from "./Values.ts"

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
