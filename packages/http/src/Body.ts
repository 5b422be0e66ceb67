/**
 * Bodies of requests: read once, bounded while they are read, and checked before the handler sees them.
 */
import { type Channel, Middleware, OptionCheck } from "@millrace/core"
import { Effect, Exit, Schema, type SchemaIssue, SchemaParser } from "effect"
import * as SchemaJITCompiler from "effect/schema/SchemaJITCompiler"
import {
  BodyInvalid,
  BodyMalformed,
  BodyTooLarge,
  type BytesError,
  type JsonError,
  MediaTypeUnsupported
} from "./bodyErrors.ts"
import { firstError } from "./jsonPlace.ts"
import { fieldsOfIssue } from "./problemFields.ts"
import type { Request } from "./Request.ts"

export {
  BodyInvalid,
  BodyMalformed,
  BodyTooLarge,
  BodyUnreadable,
  type BytesError,
  type JsonError,
  MediaTypeUnsupported
} from "./bodyErrors.ts"

/** Options of `bytes`. */
export interface Options {
  /** The most bytes that are read, an integer from 1. Default: 1 MiB. */
  readonly limit?: number | undefined
  /**
   * The media types that are taken, without parameters, any case; `application/*+json` takes every type with that suffix. A
   * body without a type is refused. Default: every one, and none.
   */
  readonly accepts?: ReadonlyArray<string> | undefined
}

/** Options of `json`. */
export interface JsonOptions {
  /** The most bytes that are read, an integer from 1. Default: 1 MiB. */
  readonly limit?: number | undefined
  /** As in `Options`. Default: `application/json` and `application/*+json`. */
  readonly accepts?: ReadonlyArray<string> | undefined
}

/** What `bytes` and `json` do where an option is not given. */
export const defaults = {
  limit: 1024 * 1024,
  json: ["application/json", "application/*+json"]
} as const

const limitOf = (limit: number = defaults.limit): number => OptionCheck.make("Body").count("limit", limit)

/** Whether a `content-type` is one of those; undefined where every one is. */
const matcher = (accepts: ReadonlyArray<string> | undefined): (contentType: string | undefined) => boolean => {
  if (accepts === undefined) return () => true
  const exact = new Set<string>()
  const suffixes: Array<readonly [string, string]> = []
  for (const each of accepts) {
    const lower = each.toLowerCase()
    const star = lower.indexOf("*")
    if (star < 0) exact.add(lower)
    else suffixes.push([lower.slice(0, star), lower.slice(star + 1)])
  }
  return (contentType) => {
    if (contentType === undefined) return false
    if (exact.has(contentType)) return true
    const end = contentType.indexOf(";")
    const type = (end < 0 ? contentType : contentType.slice(0, end)).trim().toLowerCase()
    return exact.has(type) ||
      suffixes.some(([start, suffix]) =>
        type.length > start.length + suffix.length && type.startsWith(start) && type.endsWith(suffix)
      )
  }
}

/** Reads bodies as a route says; answers at once, as an Exit, what is refused by its headers. */
const reader = (options: Options): (request: Request) => Effect.Effect<Uint8Array, BytesError> => {
  const limit = limitOf(options.limit)
  const takes = matcher(options.accepts)
  const unsupported = Exit.fail(new MediaTypeUnsupported({ accepts: options.accepts ?? [] }))
  const tooLarge = Exit.fail(new BodyTooLarge({ limit }))
  return (request) => {
    const { headers } = request.source
    if (!takes(headers["content-type"])) return unsupported
    // a length that is announced need not be read
    return Number(headers["content-length"] ?? 0) > limit ? tooLarge : request.bytes(limit)
  }
}

const order = [{
  inside: "Auth",
  because: "a body is not read for somebody who may not send it"
}, {
  inside: "RateLimit",
  because: "a body is not read for somebody who is refused"
}] as const

/**
 * Reads the body as bytes: a request outside, a request of bytes inside.
 *
 * `BodyTooLarge` (413; the announced length decides before a byte is read, and counting where none or a wrong one is
 * announced), `MediaTypeUnsupported` (415) and `BodyUnreadable` enter E.
 *
 * **Example** (at most 64 KiB of an image)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Body, type Request } from "@millrace/http"
 *
 * const handler = pipe(
 *   (request: Request<Uint8Array>) => Effect.succeed({ bytes: request.payload.length }),
 *   Body.bytes({ limit: 65_536, accepts: ["image/png"] })
 * )
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const bytes = (options: Options = {}) => {
  const read = reader(options)
  return Middleware.change<{ outer: Request; inner: Request<Uint8Array> }>()(
    { name: "Body", stage: "decode", shows: { ...options, accepts: options.accepts }, order },
    (next) => (request) => Effect.flatMapEager(read(request), (payload) => next(request.withPayload(payload)))
  )
}

const utf8 = new TextDecoder("utf-8", { fatal: true })

const malformed = (text: string | undefined): BodyMalformed => {
  if (text === undefined) return new BodyMalformed({ message: "The body is not UTF-8", position: undefined })
  if (text.trim() === "") return new BodyMalformed({ message: "The body is empty, and JSON is expected", position: 0 })
  // the engine's own message quotes the body
  const position = firstError(text) ?? 0
  const before = text.slice(0, position)
  const line = before.split("\n").length
  const column = position - before.lastIndexOf("\n")
  return new BodyMalformed({ message: `The body is not JSON: line ${line}, column ${column}`, position })
}

const parse = (body: Uint8Array): Exit.Exit<unknown, BodyMalformed> => {
  let text: string | undefined
  try {
    text = utf8.decode(body)
    return Exit.succeed(JSON.parse(text))
  } catch {
    return Exit.fail(malformed(text))
  }
}

const invalid = (issue: SchemaIssue.Issue, value: unknown): BodyInvalid =>
  new BodyInvalid({ fields: fieldsOfIssue(issue, { value }) })

const checker = <P>(schema: Schema.ConstraintCodec<P, unknown>) => {
  const json = Schema.toCodecJson(schema)
  SchemaJITCompiler.enable(json.ast)
  const fast = SchemaParser.decodeUnknownEffect(json)
  const whole = SchemaParser.decodeUnknownEffect(json, { errors: "all" })
  // all that is wrong is only looked for once something is
  return (value: unknown): Effect.Effect<P, BodyInvalid> =>
    Effect.catchEager(fast(value), () => Effect.mapErrorEager(whole(value), (issue) => invalid(issue, value)))
}

/**
 * Reads the body as JSON and checks it: a request outside, a request of the schema's type inside.
 *
 * Beside what `bytes` fails with, `BodyMalformed` (400: no UTF-8 or no JSON, with the place) and `BodyInvalid` (422, one field
 * for each place that is wrong) enter E. No message holds a value of the body.
 *
 * **Example** (an order)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Body, type Request } from "@millrace/http"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 *
 * const handler = pipe(
 *   (request: Request<typeof Order.Type>) => Effect.succeed({ total: request.payload.amount }),
 *   Body.json(Order)
 * )
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const json = <P>(schema: Schema.ConstraintCodec<P, unknown>, options: JsonOptions = {}) => {
  const read = reader({ ...options, accepts: options.accepts ?? defaults.json })
  const check = checker(schema)
  return Middleware.change<{ outer: Request; inner: Request<P> }>()(
    { name: "Body", stage: "decode", shows: { content: "json", limit: options.limit }, order },
    (next) => (request): Middleware.Returns<JsonError> =>
      Effect.flatMapEager(
        read(request),
        (body) =>
          Effect.flatMapEager(parse(body), (value) =>
            Effect.flatMapEager(check(value), (payload) => next(request.withPayload(payload))))
      )
  )
}

/** The media types of a channel's codec; undefined where every one is taken. */
export const acceptedBy = <P>({ content }: Channel.Channel<P>): ReadonlyArray<string> | undefined =>
  content._tag === "bytes"
    ? undefined
    : content.codec.contentType === "application/json"
    ? defaults.json
    : [content.codec.contentType]

/** Reads bytes as a payload of a channel; an Exit, unless its schema suspends. */
export const decoder = <P>(
  { content }: Channel.Channel<P>
): (body: Uint8Array) => Effect.Effect<P, BodyMalformed | BodyInvalid> => {
  // a channel of bytes has P = Uint8Array by construction
  if (content._tag === "bytes") return (body) => Exit.succeed(body as P)
  const { codec } = content
  const value = codec.contentType === "application/json"
    ? parse
    : (body: Uint8Array): Exit.Exit<unknown, BodyMalformed> => {
      try {
        return Exit.succeed(codec.decode(body))
      } catch {
        const message = `The body (${body.length} bytes) cannot be read as ${codec.contentType}`
        return Exit.fail(new BodyMalformed({ message, position: undefined }))
      }
    }
  // an unchecked channel has P = unknown
  const check = content._tag === "schema" ? checker(content.schema) : (read: unknown) => Exit.succeed(read as P)
  return (body) => Effect.flatMapEager(value(body), check)
}

/**
 * Reads the body as a payload of a channel, by its codec and its schema: what comes by HTTP is what would come by the broker.
 *
 * As `json`; the media type is the codec's, and a channel of bytes takes every one.
 *
 * **Example** (the same orders, by HTTP)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel } from "@millrace/core"
 * import { Body, type Request } from "@millrace/http"
 *
 * const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
 *
 * const handler = pipe((request: Request<{ readonly id: string }>) => Effect.succeed(request.payload.id), Body.channel(Orders))
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const channel = <P>(channel: Channel.Channel<P>, options: JsonOptions = {}) => {
  const read = reader({ limit: options.limit, accepts: options.accepts ?? acceptedBy(channel) })
  const decode = decoder(channel)
  return Middleware.change<{ outer: Request; inner: Request<P> }>()(
    { name: "Body", stage: "decode", shows: { channel: channel.name, limit: options.limit }, order },
    (next) => (request): Middleware.Returns<JsonError> =>
      Effect.flatMapEager(
        read(request),
        (body) => Effect.flatMapEager(decode(body), (payload) => next(request.withPayload(payload)))
      )
  )
}
