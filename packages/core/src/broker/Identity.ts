/**
 * The id of a message: one for all middlewares that must know whether they have seen the message before.
 *
 * It is the same in every process, at each redelivery and delayed retry, in a dead letter and its replay. An id that the sender
 * gave is also the same in another channel and on another broker to which the message was carried with its headers.
 */
import { names as correlation } from "../message/Correlation.ts"
import * as Headers from "../message/Headers.ts"
import { type Envelope, Message } from "../message/Message.ts"
import { sha256 } from "../message/sha256.ts"
import { firstChannel, names, originalFields } from "./deadLetters/letter.ts"

/** The most characters of an id; a longer one is replaced by its SHA-256. */
export const longest = 255

const encoder = new TextEncoder()

const bounded = (id: string): string =>
  id.length <= longest
    ? id
    : `sha-256:${Array.from(sha256(encoder.encode(id)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`

/** The value of a header of HTTP or NATS, which writers percent-encode; other brokers carry it as it is. */
const plain = (value: string): string => {
  if (!value.includes("%")) return value
  try {
    return decodeURIComponent(value)
  } catch {
    return value
  }
}

// a source may hold `#`, so its length is written then: two pairs never give the same text
const joined = (source: string, id: string): string =>
  source.includes("#") ? `#${source.length}#${source}#${id}` : `${source}#${id}`

/** The source and id of a CloudEvent, which are unique together, by the headers of its binding. */
const eventOf = (headers: Headers.Headers, system: string | undefined): string | undefined => {
  const own = headers["ce_id"] ?? headers["cloudevents:id"] ?? headers["cloudevents_id"]
  if (own !== undefined) {
    const source = headers["ce_source"] ?? headers["cloudevents:source"] ?? headers["cloudevents_source"]
    return source === undefined ? undefined : joined(source, own)
  }
  const coded = headers["ce-id"]
  if (coded !== undefined) {
    const source = headers["ce-source"]
    return source === undefined ? undefined : joined(plain(source), plain(coded))
  }
  // the binding of MQTT has no prefix
  if (system !== "mqtt" || headers["specversion"] === undefined) return undefined
  const { id, source } = headers
  return id === undefined || source === undefined ? undefined : joined(source, id)
}

const named = (headers: Headers.Headers, system: string | undefined): string | undefined => {
  const event = eventOf(headers, system)
  if (event !== undefined) return bounded(event)
  const own = headers[correlation.message]
  return own === undefined || own === "" ? undefined : bounded(own)
}

/** Whether a message lies in a dead letter channel, with the headers of its first place. */
const isLetter = (message: Message<unknown>): boolean => firstChannel(message) !== message.channel

const headersOf = (message: Envelope): Headers.Headers =>
  message instanceof Message && message.headers[names.headers] !== undefined && isLetter(message)
    ? Headers.fromFields(originalFields(message.delivery))
    : message.headers

/**
 * Returns the id that the sender gave to a message: source and id of a CloudEvent, `SOURCE#ID`, else the header `message-id`;
 * undefined if it gave none. A structured CloudEvent has its id here if its publisher also wrote the headers, as Millrace does.
 */
export const given = (message: Envelope): string | undefined =>
  named(headersOf(message), message instanceof Message ? message.delivery.origin.system : undefined)

/** The first place of a message on a broker whose positions last; undefined on any other. */
const placeOf = (message: Message<unknown>): string | undefined => {
  const { headers, delivery: { origin } } = message
  if (origin.lasting !== true) return undefined
  const letter = isLetter(message)
  const place = letter
    ? `${headers[names.channel]}/${headers[names.partition]}/${headers[names.position]}`
    : `${message.channel}/${message.partition}/${message.position}`
  // a topic that is deleted and created again counts from 0 again: the time of the publish tells both apart
  const time = letter ? headers[names.timestamp] : message.timestamp
  return bounded(time === undefined ? place : `${place}@${time}`)
}

/**
 * Returns the id of a message: `given`, else the place where it was first read, `CHANNEL/PARTITION/POSITION@TIME`, on brokers
 * whose positions last (Kafka, JetStream, memory); undefined for any other message without an id, and for a request without one.
 *
 * Positions of RabbitMQ, MQTT, NATS and Redis name a delivery and not a message, so they are no id. The id is a text of 1 to 255
 * characters; a longer one is `sha-256:` and its digest.
 *
 * **Example** (a message with an id, and one without)
 *
 * ```ts
 * import { Identity } from "@millrace/core"
 * import { Deliveries } from "@millrace/testing"
 *
 * console.log(Identity.of(Deliveries.make({ headers: { ce_source: "/shop", ce_id: "7" } }))) // => /shop#7
 * console.log(Identity.of(Deliveries.make({ position: 17, lasting: true }))) // => orders/0/17@0
 * ```
 */
export const of = (message: Envelope): string | undefined =>
  given(message) ?? (message instanceof Message ? placeOf(message) : undefined)
