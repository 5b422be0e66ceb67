/** Converts the core's messages to mqtt.js's, or refuses those that MQTT cannot carry. */
import { type BrokerError, Features, Headers, type Outgoing } from "@millrace/core"
import type { IClientPublishOptions, IPublishPacket } from "mqtt"
import * as Errors from "./Errors.ts"
import { isText, longest, names, refusedName } from "./Codec.ts"

type Failed = BrokerError.BrokerError
type Properties = NonNullable<IPublishPacket["properties"]>

/** A message as mqtt.js publishes it. */
export interface Packet {
  readonly topic: string
  readonly payload: Buffer
  readonly options: IClientPublishOptions
  /** Bytes on the wire, at most. */
  readonly size: number
}

type Qos = 0 | 1 | 2

const qosOf = (text: string): Qos | undefined => text === "0" ? 0 : text === "1" ? 1 : text === "2" ? 2 : undefined

class Writer {
  retain: boolean
  qos: Qos
  size = 0
  failed: Failed | undefined
  properties: Properties | undefined
  private user: { [name: string]: string } | undefined
  private ordered: Array<{ readonly [name: string]: string }> | undefined
  private readonly channel: string

  constructor(channel: string, qos: Qos, retain: boolean) {
    this.channel = channel
    this.qos = qos
    this.retain = retain
  }

  private fail(what: string): void {
    this.failed ??= Errors.unsupported("publish", `A message for ${this.channel} has ${what}`)
  }

  private own(): Properties {
    return this.properties ??= {}
  }

  private isGood(what: string, value: string): boolean {
    if (!isText(value)) {
      this.fail(`control characters in ${what}, of which MQTT servers refuse all: encode it, or put it into the body.`)
      return false
    }
    const bytes = Buffer.byteLength(value)
    if (bytes > longest) {
      this.failed ??= Errors.invalid(
        "publish",
        `A message for ${this.channel} has ${bytes} bytes in ${what}, and 65535 are the most that MQTT takes.`
      )
    }
    return true
  }

  /** Puts a header into its MQTT field; returns false if it has none. */
  special(name: string, value: string): boolean {
    switch (name) {
      case names.contentType:
        if (this.properties?.contentType !== undefined || !this.isGood(name, value)) return false
        this.size += Buffer.byteLength(value) + 3
        this.own().contentType = value
        return true
      case names.replyTo:
        if (this.properties?.responseTopic !== undefined || refusedName(value) !== undefined) return false
        this.size += Buffer.byteLength(value) + 3
        this.own().responseTopic = value
        return true
      case names.correlation:
        return this.correlation(Buffer.from(value))
      case names.retain:
        if (value !== "true" && value !== "false") {
          this.failed ??= Errors.invalid(
            "publish",
            `The header mqtt-retain of a message for ${this.channel} must be true or false, got ${value}.`
          )
        }
        this.retain = value === "true"
        return true
      case names.qos: {
        const found = qosOf(value)
        if (found === undefined) {
          this.failed ??= Errors.invalid(
            "publish",
            `The header mqtt-qos of a message for ${this.channel} must be 0, 1 or 2, got ${value}.`
          )
        } else this.qos = found
        return true
      }
      case names.expiry: {
        const found = /^\d{1,10}$/.test(value) ? Number(value) : Number.NaN
        if (!(found <= 4_294_967_295)) {
          this.failed ??= Errors.invalid(
            "publish",
            `The header mqtt-expiry of a message for ${this.channel} must be whole seconds below 2^32, got ${value}.`
          )
        }
        this.size += 5
        this.own().messageExpiryInterval = found
        return true
      }
      default:
        return false
    }
  }

  correlation(value: Buffer): boolean {
    if (this.properties?.correlationData !== undefined || value.length > longest) return false
    this.size += value.length + 3
    this.own().correlationData = value
    return true
  }

  private isPair(name: string, value: string): boolean {
    if (!this.isGood("the name of a header", name)) return false
    if (!this.isGood(name === names.key ? "its key" : `the header ${name}`, value)) return false
    this.size += Buffer.byteLength(name) + Buffer.byteLength(value) + 5
    return true
  }

  text(name: string, value: string): void {
    if (!this.isPair(name, value)) return
    this.user ??= Object.create(null) as { [name: string]: string }
    this.user[name] = value
  }

  field([name, value]: Headers.Field): void {
    if (value === null) return this.fail(`a header ${name} of null, and MQTT has none: leave it out.`)
    if (name === names.correlation && this.correlation(Buffer.from(value))) return
    const text = Headers.textOf(value)
    if (text === undefined) return this.fail(`bytes in the header ${name} that are no UTF-8, and MQTT has only text.`)
    if (this.special(name, text)) return
    if (!this.isPair(name, text)) return
    const pair: { [name: string]: string } = Object.create(null)
    pair[name] = text
    ;(this.ordered ??= []).push(pair)
  }

  end(): Properties | undefined {
    if (this.ordered !== undefined) {
      const all = this.user === undefined ? this.ordered : [...this.ordered, this.user]
      // mqtt-packet writes each object of a list of properties, which keeps repeated names and their order; its types allow
      // one object only
      this.own().userProperties = all as unknown as NonNullable<Properties["userProperties"]>
    } else if (this.user !== undefined) this.own().userProperties = this.user
    return this.properties
  }
}

/** A view of the same memory. */
const buffer = (bytes: Uint8Array): Buffer =>
  Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)

/** The optional publisher features (beside body, key and headers) that MQTT supports. */
export const features: Features.Deciding = { tombstones: false, partitions: false, timestamps: "none" }

/** Converts a message to mqtt.js's form, or returns the error. */
export const toPacket = (outgoing: Outgoing<Uint8Array>, qos: Qos, retain: boolean): Packet | Failed => {
  const { channel, headers, key, native, payload } = outgoing
  const refused = refusedName(channel)
  if (refused !== undefined) return Errors.invalid("publish", `The channel ${JSON.stringify(channel)} ${refused}.`)
  const writer = new Writer(channel, qos, retain && native?.isCopy !== true)
  if (native !== undefined) {
    const lacking = Features.refuse("mqtt", features, outgoing)
    if (lacking !== undefined) return lacking
    const { keyBytes } = native
    if (keyBytes !== undefined) {
      const text = Headers.textOf(keyBytes)
      if (text === undefined) {
        return Errors.unsupported(
          "publish",
          `The key of a message for ${channel} is no UTF-8, and MQTT has only text.`
        )
      }
      writer.text(names.key, text)
    } else if (key !== undefined) writer.text(names.key, key)
  } else if (key !== undefined) writer.text(names.key, key)
  if (native?.fields !== undefined && native.fields.length > 0) {
    for (const field of outgoing.fields) writer.field(field)
  } else {
    for (const name in headers) {
      const value = headers[name]!
      if (!writer.special(name, value)) writer.text(name, value)
    }
  }
  const properties = writer.end()
  if (writer.failed !== undefined) return writer.failed
  return {
    topic: channel,
    payload: buffer(payload),
    options: properties === undefined
      ? { qos: writer.qos, retain: writer.retain }
      : { qos: writer.qos, retain: writer.retain, properties },
    // the fixed header, the topic's length, the packet id, and the length of the properties
    size: payload.length + Buffer.byteLength(channel) + writer.size + 13
  }
}
