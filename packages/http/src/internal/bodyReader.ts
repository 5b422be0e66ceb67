/**
 * Reads request bodies within a route's limits: media type, size, time and content coding.
 */
import { OptionCheck } from "@millrace/core"
import { type Duration, Effect, Exit } from "effect"
import {
  BodyMalformed,
  BodyTooLarge,
  type BytesError,
  EncodingUnsupported,
  MediaTypeUnsupported
} from "./bodyErrors.ts"
import { bodyTimeout, type Request } from "../Request.ts"

/** Options of a reader of bodies. */
export interface ReaderOptions {
  /** The most bytes of a body, before and after inflating, an integer from 1. Default: 1 MiB. */
  readonly limit?: number | undefined
  /** How long the client may take to send the body, above 0; `Infinity` leaves the limit to the server. Default: 30 seconds. */
  readonly timeout?: Duration.Input | undefined
  /**
   * The accepted media types, without parameters, in any case; `application/*+json` accepts every type with that suffix. A body
   * without a media type is refused. Default: JSON types for `json`; for `bytes` every media type, or none.
   */
  readonly accepts?: ReadonlyArray<string> | undefined
  /**
   * The handling of `content-encoding` `gzip` and `deflate`: `refuse` answers 415; `inflate` inflates the body within `limit`
   * and `ratio`. Every other coding is answered with 415. Default: `refuse`.
   */
  readonly compressed?: "refuse" | "inflate" | undefined
  /** The largest ratio of inflated to compressed size, an integer from 1. Default: 100. */
  readonly ratio?: number | undefined
}

/** Makes a function that tests a `content-type` against `accepts`; undefined accepts every media type. */
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
    const type = typeOf(contentType)
    return exact.has(type) ||
      suffixes.some(([start, suffix]) =>
        type.length > start.length + suffix.length && type.startsWith(start) && type.endsWith(suffix)
      )
  }
}

/** A media type without its parameters. */
export const typeOf = (contentType: string): string => {
  const end = contentType.indexOf(";")
  return (end < 0 ? contentType : contentType.slice(0, end)).trim().toLowerCase()
}

type Coding = "gzip" | "deflate"

const codings: ReadonlyMap<string, Coding> = new Map([["gzip", "gzip"], ["x-gzip", "gzip"], ["deflate", "deflate"]])

const corrupt = Exit.fail(
  new BodyMalformed({ message: "The body cannot be inflated as its content-encoding says", position: undefined })
)

const inflate = (body: Uint8Array, coding: Coding, limit: number): Effect.Effect<Uint8Array, BytesError> =>
  Effect.callback((resume, signal) => {
    const stream = new DecompressionStream(coding)
    const writer = stream.writable.getWriter()
    // the reader gets the same error
    writer.write(new Uint8Array(body)).then(() => writer.close()).catch(() => {})
    const reader = stream.readable.getReader()
    const parts: Array<Uint8Array> = []
    let size = 0
    const stop = () => void reader.cancel().catch(() => {})
    signal.addEventListener("abort", stop)
    const pull = (): void =>
      void reader.read().then(({ done, value }) => {
        if (done) return resume(Exit.succeed(joined(parts, size)))
        size += value.length
        if (size > limit) {
          stop()
          return resume(Exit.fail(new BodyTooLarge({ limit })))
        }
        parts.push(value)
        pull()
      }, () => resume(corrupt))
    pull()
  })

const joined = (parts: ReadonlyArray<Uint8Array>, size: number): Uint8Array => {
  const whole = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** Makes a reader of bodies within a route's limits. A refusal by the headers is an Exit, before anything is read. */
export const reader = (options: ReaderOptions): (request: Request) => Effect.Effect<Uint8Array, BytesError> => {
  const check = OptionCheck.make("Body")
  const limit = check.count("limit", options.limit ?? 1024 * 1024)
  const timeout = check.millis("timeout", options.timeout ?? bodyTimeout, { infinite: true })
  const ratio = check.count("ratio", options.ratio ?? 100)
  const inflates = check.oneOf("compressed", options.compressed ?? "refuse", ["refuse", "inflate"]) === "inflate"
  const takes = matcher(options.accepts)
  const unsupported = Exit.fail(new MediaTypeUnsupported({ accepts: options.accepts ?? [] }))
  const encoded = Exit.fail(new EncodingUnsupported({ accepts: inflates ? ["gzip", "deflate"] : [] }))
  const tooLarge = Exit.fail(new BodyTooLarge({ limit }))
  return (request) => {
    const { headers } = request.source
    if (!takes(headers["content-type"])) return unsupported
    const named = headers["content-encoding"]?.trim().toLowerCase() ?? "identity"
    const coding = codings.get(named)
    if (named !== "identity" && named !== "" && (!inflates || coding === undefined)) return encoded
    // refuse by content-length without reading
    if (Number(headers["content-length"] ?? 0) > limit) return tooLarge
    const bytes = request.bytes(limit, timeout)
    return coding === undefined
      ? bytes
      : Effect.flatMap(bytes, (body) => inflate(body, coding, Math.min(limit, body.length * ratio)))
  }
}
