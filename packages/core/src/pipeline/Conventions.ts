/**
 * OpenTelemetry's semantic conventions for messaging (1.44): the names of spans and their attributes, which metrics share.
 */
import { type Envelope, Message } from "../model/Message.ts"

/** The attribute that holds a message's position, where the conventions have one for its system. */
const positions: Readonly<Record<string, string | undefined>> = {
  kafka: "messaging.kafka.offset",
  rabbitmq: "messaging.rabbitmq.message.delivery_tag"
}

/** Attributes of a span, a link or a series. */
export type Attributes = Readonly<Record<string, unknown>>

/** Where in its channel a message stands: what tells it from the others of its batch. */
export const placeOf = (message: Envelope): Attributes => {
  if (!(message instanceof Message)) return {}
  const { origin, tombstone } = message.delivery
  const attributes: Record<string, unknown> = { "messaging.destination.partition.id": String(origin.partition) }
  const position = positions[origin.system]
  if (position !== undefined) attributes[position] = message.position
  if (tombstone && origin.system === "kafka") attributes["messaging.kafka.message.tombstone"] = true
  if (message.attempt > 1) attributes["millrace.attempt"] = message.attempt
  return attributes
}

/** The address that a message was read or written by, else its channel: so many for a program, however many topics there are. */
export const destinationOf = (message: Envelope): string => message.template ?? message.channel

/** The attribute that names the destination of messages in metrics. */
export const labelOf = (message: Envelope): Readonly<Record<string, string>> =>
  message.template === undefined
    ? { "messaging.destination.name": message.channel }
    : { "messaging.destination.template": message.template }

/** What all messages of one channel have in common; `system` where the message does not say. */
export const attributesOf = (message: Envelope, system: string | undefined): Attributes => {
  if (message.kind === "server" || message.kind === "client") return {}
  const attributes: Record<string, unknown> = {
    "messaging.destination.name": message.channel,
    "messaging.operation.name": message.kind === "consumer" ? "process" : "publish",
    "messaging.operation.type": message.kind === "consumer" ? "process" : "send"
  }
  if (message.template !== undefined) attributes["messaging.destination.template"] = message.template
  if (system !== undefined) attributes["messaging.system"] = system
  if (!(message instanceof Message)) return attributes
  const { origin } = message.delivery
  attributes["messaging.system"] = origin.system
  attributes["messaging.consumer.group.name"] = origin.group
  return attributes
}

/** The name of a span: the operation and its destination, or of servers and clients the route. */
export const nameOf = (message: Envelope): string =>
  message.kind === "consumer"
    ? `process ${destinationOf(message)}`
    : message.kind === "producer"
    ? `publish ${destinationOf(message)}`
    : message.channel
