/** Reads MQTT packets for the core, and defines names and limits for both directions. */
import { Headers, type Reader } from "@millrace/core"
import type { IPublishPacket } from "mqtt"

/** Headers that have MQTT fields of their own, and the user property that holds a message's key. */
export const names = {
  contentType: "content-type",
  correlation: "correlation-id",
  replyTo: "reply-to",
  /** `true` if the server keeps the message for later subscribers. */
  retain: "mqtt-retain",
  /** Seconds until the server drops the message. */
  expiry: "mqtt-expiry",
  /** The QoS of the publish: `0`, `1` or `2`. */
  qos: "mqtt-qos",
  key: "millrace-key"
} as const

/** Headers that the server obeys. */
export const instructions: ReadonlyArray<string> = [names.expiry, names.qos, names.retain]

/** The parts of a received message: the packet, and the data for its acknowledgement. */
export interface Carrier {
  readonly packet: IPublishPacket
}

const encoder = new TextEncoder()
const empty = new Uint8Array(0)

// Control characters, halves of surrogate pairs and noncharacters: a server may end the connection of a client that sends
// them, and Mosquitto does. https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901010
const strange = /[\p{Cc}\p{Cs}\p{Noncharacter_Code_Point}]/u

/** Whether every server accepts the text. */
export const isText = (text: string): boolean => !strange.test(text)

const firstOf = (value: string | ReadonlyArray<string>): string | undefined =>
  typeof value === "string" ? value : value[0]

/** Headers that are stored in MQTT properties, as text. */
const ownText = ({ properties, retain }: IPublishPacket): Array<readonly [string, string]> => {
  const found: Array<readonly [string, string]> = []
  if (retain) found.push([names.retain, "true"])
  if (properties === undefined) return found
  const { contentType, messageExpiryInterval, responseTopic } = properties
  if (contentType !== undefined) found.push([names.contentType, contentType])
  if (responseTopic !== undefined) found.push([names.replyTo, responseTopic])
  if (messageExpiryInterval !== undefined) found.push([names.expiry, String(messageExpiryInterval)])
  return found
}

const headersOf = ({ packet }: Carrier): Headers.Headers => {
  const own = ownText(packet)
  const correlation = packet.properties?.correlationData
  const user = packet.properties?.userProperties
  if (own.length === 0 && correlation === undefined && user === undefined) return Headers.empty
  const headers: Record<string, string> = Object.create(null)
  for (const [name, value] of own) headers[name] = value
  if (correlation !== undefined) {
    const text = Headers.textOf(correlation)
    if (text !== undefined) headers[names.correlation] = text
  }
  for (const name in user) {
    if (name === names.key) continue
    const value = firstOf(user[name]!)
    if (value !== undefined) headers[name.toLowerCase()] ??= value
  }
  return headers
}

const fieldsOf = ({ packet }: Carrier): Array<Headers.Field> => {
  const fields: Array<Headers.Field> = ownText(packet).map(([name, value]) => [name, encoder.encode(value)])
  const correlation = packet.properties?.correlationData
  if (correlation !== undefined) fields.push([names.correlation, correlation])
  const user = packet.properties?.userProperties
  for (const name in user) {
    if (name === names.key) continue
    const value = user[name]!
    if (typeof value === "string") fields.push([name, encoder.encode(value)])
    else for (const each of value) fields.push([name, encoder.encode(each)])
  }
  return fields
}

const keyOf = ({ packet }: Carrier): string | undefined => {
  const found = packet.properties?.userProperties?.[names.key]
  return found === undefined ? undefined : firstOf(found)
}

/**
 * Reads packets, and decodes a part only when it is requested.
 *
 * Fields keep repeated names, upper case, and the order within a name; mqtt.js does not preserve the order between names.
 */
export const reader: Reader<Carrier> = {
  key: keyOf,
  keyBytes: (carrier) => {
    const key = keyOf(carrier)
    return key === undefined ? undefined : encoder.encode(key)
  },
  headers: headersOf,
  fields: fieldsOf,
  // MQTT does not transmit the time of publishing
  timestamp: () => undefined
}

/** The body of a packet; mqtt.js's type allows a string, but received payloads are always bytes. */
export const bodyOf = ({ payload }: IPublishPacket): Uint8Array => typeof payload === "string" ? empty : payload

/** The most bytes of a text. */
export const longest = 65_535

/** The reason why a name cannot be a topic, or undefined if it can. */
export const refusedName = (channel: string): string | undefined =>
  channel === ""
    ? "is empty"
    : /[+#]/.test(channel)
    ? "holds + or #, which are wildcards in MQTT: take them out, or subscribe by {parameters}"
    : channel.startsWith("$share/")
    ? "begins with $share/, which MQTT keeps for itself"
    : !isText(channel)
    ? "holds control characters"
    : Buffer.byteLength(channel) > longest
    ? "is longer than 65535 bytes"
    : undefined
