/**
 * Correlation and causation: two ids that travel in headers, logs and spans.
 *
 * The correlation id is shared by everything that a first request or message caused. The causation id names the one message
 * or request that caused this one directly.
 */
import { Fiber, type Random, type Tracer } from "effect"
import * as Detached from "./Detached.ts"
import type { Headers } from "./Headers.ts"

/** Names of the headers. */
export const names = {
  correlation: "correlation-id",
  /** The flow's id when `correlation-id` is the id of a single request, which its reply must repeat. */
  flow: "x-correlation-id",
  causation: "causation-id",
  message: "message-id",
  request: "x-request-id"
} as const

/** The headers that may hold a correlation id; the first header with a valid token wins. */
export const accepted: ReadonlyArray<string> = [
  names.flow,
  names.correlation,
  names.request,
  // the extension of CloudEvents on Kafka, and on HTTP and NATS
  "ce_correlationid",
  "ce-correlationid"
]

/** The ids of the message or request in progress. */
export interface Correlation {
  readonly id: string
  /** The id of the message or request in progress; undefined if a flow begins by publishing. */
  readonly causation: string | undefined
  /** The received id that was not trusted; undefined if the id was accepted, or none was received. */
  readonly upstream: string | undefined
  /** Why the received id was replaced; undefined if it was not. */
  readonly replaced: "malformed" | "untrusted" | undefined
}

/** The ids of the message or request in progress; undefined outside both. Forked and detached fibers inherit it. */
export const Current = Detached.reference<Correlation | undefined>("@millrace/core/Correlation/Current", {
  defaultValue: () => undefined
})

/** The most characters of an id. */
const longest = 128

const allowed = Uint8Array.from({ length: 128 }, (_, code) => /[\w.:/+=@-]/.test(String.fromCharCode(code)) ? 1 : 0)

/** Tells whether a text may be an id: 1 to 128 letters, digits and `_.:/+=@-`; none can begin a line, field or header. */
export const isToken = (text: string): boolean => {
  if (text.length === 0 || text.length > longest) return false
  // a loop takes a quarter of a pattern's time, and ids are checked several times with each message
  for (let i = 0; i < text.length; i++) if (allowed[text.charCodeAt(i)] !== 1) return false
  return true
}

/** Returns the ids of the message or request that the current fiber handles. */
export const current = (): Correlation | undefined => Fiber.getCurrent()?.getRef(Current)

/** The position of a message, as far as an id contains it. */
interface Place {
  readonly channel: string
  readonly partition: number
  readonly position: number
}

/** Makes the id of a consumed message without an id of its own: `CHANNEL/PARTITION/POSITION`, as a token. */
export const placeOf = (message: Place): string => {
  const place = `${message.channel}/${message.partition}/${message.position}`
  return isToken(place) ? place : place.replace(/[^\w.:/+=@-]/g, "_").slice(-longest)
}

/** Adds the ids of the message or request in progress to headers of a publish; existing headers win. */
export const linked = (headers: Headers): Headers => {
  const found = current()
  if (found === undefined) return headers
  const all: Record<string, string> = Object.create(null)
  all[names.correlation] = found.id
  if (found.causation !== undefined) all[names.causation] = found.causation
  for (const name in headers) all[name] = headers[name]!
  return all
}

/**
 * Adds the flow's id to headers whose `correlation-id` belongs to a single request: the id from `from`, the headers of the
 * answered request, else the id of the message or request in progress.
 */
export const keepFlow = (headers: Record<string, string>, from?: Headers | undefined): void => {
  const own = from?.[names.flow]
  const id = own !== undefined && isToken(own) ? own : current()?.id
  if (id !== undefined && id !== headers[names.correlation]) headers[names.flow] ??= id
}

/** Makes the span attributes of the ids; for messages also OpenTelemetry's conversation id. */
export const attributesOf = (
  { causation, id }: Correlation,
  kind: Tracer.SpanKind
): Readonly<Record<string, string>> => ({
  "millrace.correlation.id": id,
  ...(causation === undefined ? undefined : { "millrace.causation.id": causation }),
  ...(kind === "consumer" || kind === "producer" ? { "messaging.message.conversation_id": id } : undefined)
})

const hexes = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"))

/** Writes the low 16 bits as hexadecimal digits; a number's own `toString` costs more than the rest of the id. */
const hex = (bits: number): string => hexes[(bits >>> 8) & 255]! + hexes[bits & 255]!

const word = (random: Random.Random): number => Math.floor(random.nextDoubleUnsafe() * 0x1_0000_0000)

/** Makes a UUID of version 7 (RFC 9562, 5.7) from a time in milliseconds since 1970: it sorts by time; 74 bits are random. */
export const uuidV7 = (millis: number, random: Random.Random): string => {
  const time = Math.max(0, Math.floor(millis))
  const high = Math.floor(time / 0x1_0000)
  const [a, b, c] = [word(random), word(random), word(random)]
  const version = 0x7000 | (a & 0x0fff)
  const variant = 0x8000 | ((a >>> 16) & 0x3fff)
  return `${hex(high >>> 16)}${hex(high)}-${hex(time)}-${hex(version)}-${hex(variant)}-${hex(b >>> 16)}${hex(b)}${
    hex(c)
  }`
}
