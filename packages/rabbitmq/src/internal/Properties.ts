/**
 * Maps AMQP's properties to named headers, and defines the publishing instructions besides body, key and headers.
 */
import { type BrokerError, Features, type Headers, type Outgoing } from "@millrace/core"
import type { MessageProperties, Options } from "amqplib"
import * as Errors from "./Errors.ts"
import type { Table } from "./Values.ts"

type Failed = BrokerError.BrokerError

/** The exchange of a message, if it is not the exchange of all channels. Informational only. */
export const exchangeName = "amqp-exchange"

/** The routing key; a publisher may set it for a channel with a route to an exchange. */
export const routingKeyName = "amqp-routing-key"

const expirationName = "amqp-expiration"
const priorityName = "amqp-priority"
const mandatoryName = "amqp-mandatory"
/** The authenticated publisher: RabbitMQ accepts no other name in the property, but any name in a header. */
export const userIdName = "user-id"

/** Headers that RabbitMQ acts upon. */
export const instructions: ReadonlyArray<string> = [
  expirationName,
  priorityName,
  mandatoryName,
  routingKeyName,
  // RabbitMQ reads these in the header table: more routing keys, and the delay of the plugin
  // rabbitmq_delayed_message_exchange
  "cc",
  "bcc",
  "x-delay",
  "x-deduplication-header"
]

const encoder = new TextEncoder()

const push = (fields: Array<Headers.Field>, name: string, value: unknown): void => {
  if (typeof value === "string" || typeof value === "number") fields.push([name, encoder.encode(String(value))])
}

/** Adds the properties of a delivery to `fields`; `original` has the properties kept through a wait. */
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

/** Collects the properties of a delivery that its waiting copy cannot have. */
export const unrepeatable = (properties: MessageProperties): Record<string, string> => {
  const kept: Record<string, string> = Object.create(null)
  // an expiration would end the wait
  if (typeof properties.expiration === "string") kept[expirationName] = properties.expiration
  // RabbitMQ closes the channel of a publisher that names another user
  if (typeof properties.userId === "string") kept[userIdName] = properties.userId
  return kept
}

/** The properties of a published message. */
export type Properties = Options.Publish

/** The publisher's context for one message. */
export interface Way {
  /** The authenticated user: RabbitMQ accepts no other publisher. */
  readonly user: string
  /** Whether a header may set the routing key. */
  readonly isRouted: boolean
}

// the limit of AMQP's short string
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

/** Puts a header into its AMQP property; false if AMQP has none for it, or the property is set or cannot take the value. */
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

/** The publishing features of RabbitMQ besides body, key and headers; AMQP's timestamp counts seconds. */
export const features: Features.Deciding = { tombstones: false, partitions: false, timestamps: "seconds" }

const decoder = new TextDecoder()

/** Reads the text of a header, in either form of the message. */
export const said = ({ headers, native }: Outgoing<Uint8Array>, name: string): string | undefined => {
  const field = native?.fields?.find(([each]) => each === name)
  if (field === undefined) return headers[name]
  return field[1] === null ? "" : decoder.decode(field[1])
}

const isWhole = (text: string, most: number): boolean => /^\d{1,10}$/.test(text) && Number(text) <= most

/** Headers for whose invalid values RabbitMQ would close the channel, and their required form. */
const forms: ReadonlyArray<readonly [name: string, form: string, isGood: (text: string) => boolean]> = [
  [expirationName, "whole milliseconds below 2^32", (text) => isWhole(text, 4_294_967_295)],
  [priorityName, "a whole number from 0 to 255", (text) => isWhole(text, 255)],
  [mandatoryName, "true or false", (text) => text === "true" || text === "false"],
  [routingKeyName, "a text of at most 255 bytes", (text) => Buffer.byteLength(text) <= longest]
]

// RabbitMQ reads these as additional routing keys
const routing = ["CC", "BCC"]

/** Refuses a message that RabbitMQ or its client can never accept. */
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
