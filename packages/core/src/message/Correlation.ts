/**
 * Which flow a message belongs to, and what led to it: two ids that travel in headers, logs and spans.
 *
 * The correlation id is one for all that a first request or message led to. The causation id names the one message or
 * request that led to this one directly.
 */
import { Fiber, type Random, type Tracer } from "effect"
import * as Detached from "./Detached.ts"
import type { Headers } from "./Headers.ts"

/** Names of the headers. */
export const names = {
  correlation: "correlation-id",
  /** The flow's id where `correlation-id` is the id of a single request, which its answer must repeat. */
  flow: "x-correlation-id",
  causation: "causation-id",
  message: "message-id",
  request: "x-request-id"
} as const

/** The headers that may hold a correlation id; the first counts that holds a token. */
export const accepted: ReadonlyArray<string> = [names.flow, names.correlation, names.request, "ce_correlationid"]

/** The ids of what is being handled. */
export interface Correlation {
  readonly id: string
  /** The id of the message or request that is being handled; undefined where a flow begins by publishing. */
  readonly causation: string | undefined
  /** The id that came and was not trusted; undefined where it was taken, or none came. */
  readonly upstream: string | undefined
  /** Why another id came than is used; undefined where none did. */
  readonly replaced: "malformed" | "untrusted" | undefined
}

/** The ids of what is being handled; undefined where nothing tells them. Forked and detached fibers inherit it. */
export const Current = Detached.reference<Correlation | undefined>("@millrace/core/Correlation/Current", {
  defaultValue: () => undefined
})

/** The most characters of an id. */
const longest = 128

const allowed = Uint8Array.from({ length: 128 }, (_, code) => /[\w.:/+=@-]/.test(String.fromCharCode(code)) ? 1 : 0)

/** Whether a text may be an id: 1 to 128 letters, digits and `_.:/+=@-`, none of which can begin a line, a field or a header. */
export const isToken = (text: string): boolean => {
  if (text.length === 0 || text.length > longest) return false
  // a loop takes a quarter of a pattern's time, and ids are asked for several times with each message
  for (let i = 0; i < text.length; i++) if (allowed[text.charCodeAt(i)] !== 1) return false
  return true
}

/** The ids of what the running fiber handles. */
export const current = (): Correlation | undefined => Fiber.getCurrent()?.getRef(Current)

/** Where a message stands, as far as an id is made of it. */
interface Place {
  readonly channel: string
  readonly partition: number
  readonly position: number
}

/** The id of a consumed message that has no name of its own: `CHANNEL/PARTITION/POSITION`, as a token. */
export const placeOf = (message: Place): string => {
  const place = `${message.channel}/${message.partition}/${message.position}`
  return isToken(place) ? place : place.replace(/[^\w.:/+=@-]/g, "_").slice(-longest)
}

/** Headers of what is published, with the ids of what is being handled where they have none. */
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
 * Adds the flow's id to headers whose `correlation-id` belongs to a single request: that of `from`, what is answered, else of
 * what is being handled.
 */
export const keepFlow = (headers: Record<string, string>, from?: Headers | undefined): void => {
  const own = from?.[names.flow]
  const id = own !== undefined && isToken(own) ? own : current()?.id
  if (id !== undefined && id !== headers[names.correlation]) headers[names.flow] ??= id
}

/** What a span says of the ids; of messages also what OpenTelemetry calls their conversation. */
export const attributesOf = (
  { causation, id }: Correlation,
  kind: Tracer.SpanKind
): Readonly<Record<string, string>> => ({
  "millrace.correlation.id": id,
  ...(causation === undefined ? undefined : { "millrace.causation.id": causation }),
  ...(kind === "consumer" || kind === "producer" ? { "messaging.message.conversation_id": id } : undefined)
})

const hexes = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"))

/** The low 16 bits as hexadecimal digits; a number's own `toString` costs more than all the rest. */
const hex = (bits: number): string => hexes[(bits >>> 8) & 255]! + hexes[bits & 255]!

const word = (random: Random.Random): number => Math.floor(random.nextDoubleUnsafe() * 0x1_0000_0000)

/** A UUID of version 7 (RFC 9562, 5.7) of a time in milliseconds since 1970: sorts by time, 74 bits of it are chance. */
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
