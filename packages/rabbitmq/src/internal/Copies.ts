/**
 * Copies messages that amqplib has read: from a log into the queue of a group, and into the queue of a delayed retry.
 */
import type { Message, Options } from "amqplib"
import { exactHeaders, hasWaited, isOfDeaths, names, originalOf, written } from "./OwnHeaders.ts"
import { exchangeName, routingKeyName, unrepeatable, userIdName } from "./Properties.ts"
import { writable } from "./Values.ts"

/** Headers of the driver that are meaningful only in the copy for which they were written. */
const ofCopies: ReadonlySet<string> = new Set([names.attempt, names.channel, names.original, names.mark])

const tableOf = (record: Message): Record<string, unknown> => {
  const exact = exactHeaders(record)
  const table: Record<string, unknown> = Object.create(null)
  for (const name in exact) {
    // RabbitMQ's headers belong to the delivery, and its extra routing keys have been used
    if (written.has(name) || ofCopies.has(name) || name === "CC" || name === "BCC") continue
    table[name] = writable(exact[name])
  }
  return table
}

const propertiesOf = (record: Message): Options.Publish => {
  const { clusterId: _, headers: __, userId: ___, ...properties } = record.properties
  return { ...properties, persistent: true, mandatory: true }
}

/** Makes the properties of a log's message for its copy in the queue of a group. */
export const copied = (record: Message): Options.Publish => {
  const headers = tableOf(record)
  const { userId } = record.properties
  // RabbitMQ refuses a publisher that names another user
  if (typeof userId === "string") headers[userIdName] ??= userId
  return { ...propertiesOf(record), headers }
}

/** Makes the properties of a delivery for its copy that waits for the next attempt. */
export const waiting = (
  record: Message,
  place: { readonly queue: string; readonly exchange: string },
  attempt: number,
  channel: string
): Options.Publish => {
  const table = tableOf(record)
  // RabbitMQ counts the expiry of a wait among the message's earlier dead-letterings
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
