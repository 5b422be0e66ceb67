/**
 * W3C Trace Context (Recommendation, and the random flag of Level 2): the trace of a message, read from and written to its
 * headers. Malformed headers are ignored, as the specification asks.
 */
import { Context, Option, type Random, type Tracer } from "effect"
import type { Headers } from "./Headers.ts"

/** The headers of Trace Context. */
export const names = { parent: "traceparent", state: "tracestate" } as const

/** The span of another process, as described by headers. Spans of this process can have it as parent. */
export interface Remote extends Tracer.ExternalSpan {
  /** Whether the trace id is known to be random. */
  readonly random: boolean
  /** The value of `tracestate`, checked and cut to the propagation limits. */
  readonly state: string | undefined
}

class RemoteSpan implements Remote {
  readonly _tag = "ExternalSpan"
  readonly traceId: string
  readonly spanId: string
  readonly sampled: boolean
  readonly random: boolean
  readonly state: string | undefined
  readonly annotations: Context.Context<never> = Context.empty()

  constructor(traceId: string, spanId: string, flags: number, state: string | undefined) {
    this.traceId = traceId
    this.spanId = spanId
    this.sampled = (flags & 1) === 1
    this.random = (flags & 2) === 2
    this.state = state
  }
}

/** Version, trace id, span id, flags; only versions after 00 may have more fields. */
const shape =
  /^(?:00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$|(?!00|ff)[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-|$))/
const noTrace = "0".repeat(32)
const noSpan = "0".repeat(16)

/** Reads the flags: the lower hexadecimal digit holds every known flag; `a` is 97. */
const flagsOf = (code: number): number => code < 97 ? code - 48 : code - 87

/** Longest accepted `traceparent`, in characters: a later version may append fields, within this bound. */
const longest = 512

/**
 * Returns the span named by headers, or undefined if `traceparent` is absent or malformed.
 *
 * A version after 00 is read by its known prefix; a malformed `tracestate` is dropped alone.
 */
export const fromHeaders = (headers: Headers): Remote | undefined => {
  const header = headers[names.parent]
  if (header === undefined || header.length > longest) return undefined
  const text = header.length === 55 ? header : header.trim()
  if (!shape.test(text)) return undefined
  const traceId = text.slice(3, 35)
  const spanId = text.slice(36, 52)
  if (traceId === noTrace || spanId === noSpan) return undefined
  const state = headers[names.state]
  return new RemoteSpan(
    traceId,
    spanId,
    flagsOf(text.charCodeAt(54)),
    state === undefined ? undefined : checkState(state)
  )
}

// A vendor's own key, or `tenant@vendor`. Level 2 allows `@` anywhere after the first character; the W3C's tests do not.
const key = /^(?:[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})$/
const value = /^[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]$/

/** Most members of a `tracestate`. */
const maximumMembers = 32
/** Longest propagated `tracestate`, in characters. */
const maximumState = 512
/** Members longer than this are removed first when a `tracestate` is too long. */
const longMember = 128

/** Returns the members of a `tracestate`, whole and in order, within its limits; undefined if it is malformed or empty. */
export const checkState = (text: string): string | undefined => {
  const members: Array<string> = []
  const seen = new Set<string>()
  for (const part of text.split(",")) {
    const member = part.replace(/^[ \t]+|[ \t]+$/g, "")
    if (member === "") continue
    const equals = member.indexOf("=")
    const name = member.slice(0, equals)
    if (equals < 0 || seen.has(name) || !key.test(name) || !value.test(member.slice(equals + 1))) return undefined
    seen.add(name)
    members.push(member)
    if (members.length > maximumMembers) return undefined
  }
  const fits = () => members.reduce((sum, member) => sum + member.length + 1, -1) <= maximumState
  for (let i = members.length - 1; i >= 0 && !fits(); i--) if (members[i]!.length > longMember) members.splice(i, 1)
  while (!fits()) members.pop()
  return members.length === 0 ? undefined : members.join(",")
}

const word = (random: Random.Random): string =>
  Math.floor(random.nextDoubleUnsafe() * 0x1_0000_0000).toString(16).padStart(8, "0")

/** An unsampled root. It makes its ids lazily, because most unsampled messages never need them. */
class UnsampledRoot implements Remote {
  readonly _tag = "ExternalSpan"
  readonly sampled = false
  readonly random = true
  readonly state = undefined
  readonly annotations: Context.Context<never> = Context.empty()
  readonly #source: Random.Random
  #traceId: string | undefined
  #spanId: string | undefined

  constructor(source: Random.Random) {
    this.#source = source
  }
  get traceId(): string {
    return this.#traceId ??= word(this.#source) + word(this.#source) + word(this.#source) + word(this.#source)
  }
  get spanId(): string {
    return this.#spanId ??= word(this.#source) + word(this.#source)
  }
}

/** Makes the root of a trace that is not recorded: its flag tells downstream processes not to record either. */
export const unsampledRoot = (random: Random.Random): Remote => new UnsampledRoot(random)

const isRemote = (span: Tracer.AnySpan): span is Remote => "random" in span && "state" in span

/** Finds the remote span from which a span descends in its trace, through the spans of this process. */
const originOf = (span: Tracer.AnySpan): Remote | undefined => {
  let current: Tracer.AnySpan | undefined = span
  while (current !== undefined && current._tag === "Span") current = Option.getOrUndefined(current.parent)
  return current !== undefined && isRemote(current) ? current : undefined
}

/** Writes the `traceparent` of a span. The random flag is copied from the received trace. */
export const parentOf = (span: Tracer.AnySpan): string => {
  const flags = (span.sampled ? 1 : 0) + (originOf(span)?.random === true ? 2 : 0)
  return `00-${span.traceId.padStart(32, "0")}-${span.spanId}-0${flags}`
}

/** Returns the `tracestate` of a span: the one received with the trace. */
export const stateOf = (span: Tracer.AnySpan): string | undefined => originOf(span)?.state
