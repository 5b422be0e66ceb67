/**
 * OpenTelemetry's semantic conventions for messaging and HTTP (1.44): the names and attributes of spans; metrics share the
 * attributes.
 */
import * as Exchange from "../message/Exchange.ts"
import { type Envelope, Message } from "../message/Message.ts"

/** The attribute that holds a message's position, for systems to which the conventions give one. */
const positions: Readonly<Record<string, string | undefined>> = {
  kafka: "messaging.kafka.offset",
  rabbitmq: "messaging.rabbitmq.message.delivery_tag"
}

/** Attributes of a span, a link or a series. */
export type Attributes = Readonly<Record<string, unknown>>

/** Makes the attributes that identify a message among the others of its batch: its place in the channel, or its request. */
export const placeOf = (message: Envelope): Attributes => {
  if (message.exchange !== undefined) return requestOf(message.exchange, message.kind === "client")
  if (!(message instanceof Message)) return {}
  const { origin, tombstone } = message.delivery
  const attributes: Record<string, unknown> = { "messaging.destination.partition.id": String(origin.partition) }
  const position = positions[origin.system]
  if (position !== undefined) attributes[position] = message.position
  if (tombstone && origin.system === "kafka") attributes["messaging.kafka.message.tombstone"] = true
  if (message.attempt > 1) attributes["millrace.attempt"] = message.attempt
  return attributes
}

/** Makes the attributes of an HTTP request: on servers without the query, which may hold secrets; on clients a redacted URL. */
const requestOf = (exchange: Exchange.Exchange, isClient: boolean): Attributes => {
  const method = Exchange.methodOf(exchange)
  const attributes: Record<string, unknown> = { "http.request.method": method }
  const more = {
    "http.request.method_original": method === exchange.method ? undefined : exchange.method,
    "server.address": exchange.host,
    "server.port": exchange.port,
    ...isClient ? { "url.full": exchange.url, "url.template": exchange.route } : {
      "url.path": Exchange.partsOf(exchange).path,
      "http.route": exchange.route,
      "url.scheme": exchange.scheme,
      "client.address": exchange.client,
      "user_agent.original": exchange.userAgent
    }
  }
  for (const [name, value] of Object.entries(more)) if (value !== undefined) attributes[name] = value
  return attributes
}

/** Returns the address by which a message was read or written, else its channel: a bounded number, however many topics exist. */
export const destinationOf = (message: Envelope): string => message.template ?? message.channel

/** Makes the attribute that names the destination of messages in metrics. */
export const labelOf = (message: Envelope): Readonly<Record<string, string>> =>
  message.template === undefined
    ? { "messaging.destination.name": message.channel }
    : { "messaging.destination.template": message.template }

/** Makes the attributes shared by all messages of a channel; `system` is used if the message does not give one. */
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

/** Makes the name of a span: operation and destination; on servers the route, on clients the request's name or its method. */
export const nameOf = (message: Envelope): string =>
  message.kind === "consumer"
    ? `process ${destinationOf(message)}`
    : message.kind === "producer"
    ? `publish ${destinationOf(message)}`
    : message.exchange === undefined
    ? message.channel
    : message.kind === "client"
    ? message.exchange.route ?? methodName(message.exchange)
    : message.exchange.route === undefined
    ? message.channel
    : `${methodName(message.exchange)} ${message.exchange.route}`

const methodName = (exchange: Exchange.Exchange): string => {
  const method = Exchange.methodOf(exchange)
  return method === "_OTHER" ? "HTTP" : method
}
