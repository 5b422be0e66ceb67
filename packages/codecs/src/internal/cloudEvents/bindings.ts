/**
 * The bindings: the header that holds an attribute in each protocol, and the form of its value.
 *
 * Kafka writes `ce_NAME`, HTTP and NATS `ce-NAME` with percent-encoding, AMQP `cloudEvents:NAME`, and MQTT 5 the name itself.
 */
import type { Headers } from "@millrace/core"
import { CloudEventsError, type Flat, flat, isName } from "./attributes.ts"

/** A protocol with a binding of its own. */
export type Binding = "kafka" | "http" | "nats" | "amqp" | "mqtt"

export const bindings: ReadonlyArray<Binding> = ["kafka", "http", "nats", "amqp", "mqtt"]

/** Returns the binding of a broker; brokers that CloudEvents has none for are written as Kafka. */
export const bindingOf = (system: string): Binding => {
  switch (system) {
    case "http":
    case "nats":
    case "mqtt":
      return system
    case "rabbitmq":
      return "amqp"
    default:
      return "kafka"
  }
}

interface Prefix {
  /** In lower case, as readers see the names of headers. */
  readonly read: string
  readonly isPercent: boolean
}

const underscore: Prefix = { read: "ce_", isPercent: false }
const hyphen: Prefix = { read: "ce-", isPercent: true }
const colon: Prefix = { read: "cloudevents:", isPercent: false }
/** Later texts of the AMQP binding, for JMS. */
const jms: Prefix = { read: "cloudevents_", isPercent: false }
const none: Prefix = { read: "", isPercent: false }

/** A message that was carried from another broker has the prefix of that one, so all are looked for; its own comes first. */
const read: Readonly<Record<Binding, ReadonlyArray<Prefix>>> = {
  kafka: [underscore, hyphen, colon, jms],
  http: [hyphen, underscore, colon, jms],
  nats: [hyphen, underscore, colon, jms],
  amqp: [colon, jms, underscore, hyphen],
  mqtt: [none, underscore, hyphen, colon, jms]
}

const strict = new TextDecoder("utf-8", { fatal: true })

const escaped = /(?:%[0-9a-fA-F]{2})+/g

/** Reads the value of an HTTP header: without quotes (RFC 7230, 3.2.6), then percent-decoded once. */
const fromPercent = (value: string): string => {
  const isQuoted = value.length > 1 && value.startsWith("\"") && value.endsWith("\"")
  const text = isQuoted ? value.slice(1, -1).replace(/\\(.)/gs, "$1") : value
  if (!text.includes("%")) return text
  return text.replace(escaped, (all) => {
    try {
      return strict.decode(Buffer.from(all.replaceAll("%", ""), "hex"))
    } catch {
      throw new CloudEventsError("An attribute is percent-encoded, and no UTF-8")
    }
  })
}

const unsafe = /[^\x21\x23\x24\x26-\x7e]/gu

const toPercent = (value: string): string =>
  value.replace(unsafe, (each) => Buffer.from(each).toString("hex").toUpperCase().replace(/../g, "%$&"))

/**
 * Reads the attributes from the headers of a message; undefined when it has none.
 *
 * @throws CloudEventsError when a value is not percent-encoded UTF-8
 */
export const readHeaders = (headers: Headers.Headers, binding: Binding): Flat | undefined => {
  for (const prefix of read[binding]) {
    const { isPercent, read: start } = prefix
    // MQTT has no prefix, so an id alone is no sign of an event there
    if (headers[`${start}specversion`] === undefined && (prefix === none || headers[`${start}id`] === undefined)) {
      continue
    }
    const all = flat()
    for (const header in headers) {
      if (!header.startsWith(start)) continue
      const name = header.slice(start.length)
      // the media type is in `content-type` alone
      if (!isName(name) || name === "datacontenttype") continue
      all[name] = isPercent ? fromPercent(headers[header]!) : headers[header]!
    }
    const type = headers["content-type"]
    if (type !== undefined) all["datacontenttype"] = type
    return all
  }
  return undefined
}

/** Headers of an event: texts by name, and those whose names have upper case. */
export interface Written {
  readonly headers: Headers.Headers
  readonly fields: ReadonlyArray<Headers.Field>
}

const encoder = new TextEncoder()

/** Returns the headers of an event, without `content-type`. */
export const writeHeaders = (all: Flat, binding: Binding): Written => {
  const headers = flat()
  const fields: Array<Headers.Field> = []
  for (const name in all) {
    if (name === "datacontenttype") continue
    const value = all[name]!
    switch (binding) {
      case "kafka":
        headers[`ce_${name}`] = value
        break
      case "http":
      case "nats":
        headers[`ce-${name}`] = toPercent(value)
        break
      case "mqtt":
        headers[name] = value
        break
      case "amqp":
        fields.push([`cloudEvents:${name}`, encoder.encode(value)])
    }
  }
  return { headers, fields }
}
