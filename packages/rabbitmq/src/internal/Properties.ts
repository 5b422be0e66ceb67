/**
 * AMQP's own properties as headers, by name, and what a publisher may say of one message beside body, key and headers.
 */
import { type BrokerError, Features, type Headers, type Outgoing } from "@millrace/core"
import type { MessageProperties, Options } from "amqplib"
import * as Errors from "./Errors.ts"
import type { Table } from "./Values.ts"

type Failed = BrokerError.BrokerError

/** The exchange that a message came from, where it is not that of all channels. Nothing obeys it. */
export const exchangeName = "amqp-exchange"

/** The routing key; a publisher may say it for a channel with a route to an exchange. */
export const routingKeyName = "amqp-routing-key"

const expirationName = "amqp-expiration"
const priorityName = "amqp-priority"
const mandatoryName = "amqp-mandatory"
/** The authenticated publisher: RabbitMQ accepts no other name in the property, and anybody's in a header. */
export const userIdName = "user-id"

/** Headers that RabbitMQ obeys. */
export const instructions: ReadonlyArray<string> = [
  expirationName,
  priorityName,
  mandatoryName,
  routingKeyName,
  // RabbitMQ reads them in the table: more routing keys, and the time of the plugin rabbitmq_delayed_message_exchange
  "cc",
  "bcc",
  "x-delay",
  "x-deduplication-header"
]

const encoder = new TextEncoder()

const push = (fields: Array<Headers.Field>, name: string, value: unknown): void => {
  if (typeof value === "string" || typeof value === "number") fields.push([name, encoder.encode(String(value))])
}

/** The properties of a delivery as fields; `original` has the properties that its wait has kept. */
export const propertiesOf = (
  properties: MessageProperties,
  original: Table | undefined,
  fields: Array<Headers.Field>
): void => {
  push(fields, "content-type", properties.contentType)
  push(fields, "content-encoding", properties.contentEncoding)
  push(fields, "correlation-id", properties.correlationId)
  push(fields, "reply-to", properties.replyTo)
  push(fields, "message-id", properties.messageId)
  push(fields, "type", properties.type)
  push(fields, "app-id", properties.appId)
  push(fields, userIdName, properties.userId ?? original?.[userIdName])
  push(fields, priorityName, properties.priority)
  push(fields, expirationName, properties.expiration ?? original?.[expirationName])
  if (original === undefined) return
  push(fields, exchangeName, original[exchangeName])
  push(fields, routingKeyName, original[routingKeyName])
}

/** The parts of a delivery that a waiting copy cannot have as its properties. */
export const unrepeatable = (properties: MessageProperties): Record<string, string> => {
  const kept: Record<string, string> = Object.create(null)
  // it would end the wait
  if (typeof properties.expiration === "string") kept[expirationName] = properties.expiration
  // RabbitMQ ends the channel of a publisher that names another user
  if (typeof properties.userId === "string") kept[userIdName] = properties.userId
  return kept
}

/** The properties of a message that is published. */
export type Properties = Options.Publish

/** How a message is published. */
export interface Way {
  /** The authenticated user, whom alone RabbitMQ accepts as the publisher. */
  readonly user: string
  /** Whether a header may say the routing key. */
  readonly isRouted: boolean
}

// AMQP's short text
const longest = 255

const texts = {
  "content-type": "contentType",
  "content-encoding": "contentEncoding",
  "correlation-id": "correlationId",
  "reply-to": "replyTo",
  "message-id": "messageId",
  type: "type",
  "app-id": "appId"
} as const

const isText = (name: string): name is keyof typeof texts => Object.hasOwn(texts, name)

/** Puts a header where AMQP has its place; false where it has none, or one that is taken. */
export const put = (properties: Properties, name: string, value: string, way: Way): boolean => {
  if (isText(name)) {
    const property = texts[name]
    if (properties[property] !== undefined || Buffer.byteLength(value) > longest) return false
    properties[property] = value
    return true
  }
  switch (name) {
    case userIdName:
      if (properties.userId !== undefined || value !== way.user) return false
      properties.userId = value
      return true
    case priorityName:
      if (properties.priority !== undefined) return false
      properties.priority = Number(value)
      return true
    case expirationName:
      if (properties.expiration !== undefined) return false
      properties.expiration = value
      return true
    case mandatoryName:
      properties.mandatory = value === "true"
      return true
    case routingKeyName:
      return way.isRouted
    default:
      return false
  }
}

/** What RabbitMQ can do of what a publisher may ask beside body, key and headers; AMQP's timestamp counts seconds. */
export const features: Features.Deciding = { tombstones: false, partitions: false, timestamps: "seconds" }

const decoder = new TextDecoder()

/** The text of a header, of whichever form the message has. */
export const said = ({ headers, native }: Outgoing<Uint8Array>, name: string): string | undefined => {
  const field = native?.fields?.find(([each]) => each === name)
  if (field === undefined) return headers[name]
  return field[1] === null ? "" : decoder.decode(field[1])
}

const isWhole = (text: string, most: number): boolean => /^\d{1,10}$/.test(text) && Number(text) <= most

/** Headers with a value that RabbitMQ would end the channel over, and their form. */
const forms: ReadonlyArray<readonly [name: string, form: string, isGood: (text: string) => boolean]> = [
  [expirationName, "whole milliseconds below 2^32", (text) => isWhole(text, 4_294_967_295)],
  [priorityName, "a whole number from 0 to 255", (text) => isWhole(text, 255)],
  [mandatoryName, "true or false", (text) => text === "true" || text === "false"],
  [routingKeyName, "a text of at most 255 bytes", (text) => Buffer.byteLength(text) <= longest]
]

// RabbitMQ takes these as more routing keys
const routing = ["CC", "BCC"]

/** The parts of a message that RabbitMQ or its client can never take. */
export const refuse = (outgoing: Outgoing<Uint8Array>): Failed | undefined => {
  const { channel } = outgoing
  const refused = Features.refuse("rabbitmq", features, outgoing)
  if (refused !== undefined) return refused
  for (const name of routing) {
    if (said(outgoing, name) !== undefined) {
      return Errors.invalid(
        "publish",
        `A message for ${channel} has the header ${name}, which RabbitMQ reads as routing keys: give it another name.`
      )
    }
  }
  for (const [name, form, isGood] of forms) {
    const text = said(outgoing, name)
    if (text !== undefined && !isGood(text)) {
      return Errors.invalid(
        "publish",
        `The header ${name} of a message for ${channel} must be ${form}, got ${JSON.stringify(text.slice(0, 40))}.`
      )
    }
  }
  return undefined
}
