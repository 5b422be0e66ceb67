/**
 * Answers of HTTP as they are kept for requests that come again: status, chosen fields and bytes.
 */
import { Data, Effect, Exit, Pull, Schema, Scope, Stream } from "effect"
import { HttpBody, HttpServerResponse } from "effect/http"
import type { Request, Valued } from "../Request.ts"

/**
 * The request was done under its key, and its answer was not kept, so it can be neither repeated nor done again. Class
 * `permanent`, answered with 409.
 */
export class IdempotencyAnswerLost extends Data.TaggedError("IdempotencyAnswerLost")<{
  readonly channel: string
  /** What the request was answered with. */
  readonly status: number
  /** `large`: it was longer than what is kept; `stream`: it was a stream or a file. */
  readonly reason: "large" | "stream"
}> {
  readonly failure = "permanent" as const
  override get message(): string {
    const why = this.reason === "large" ? "it is too long" : "it is a stream"
    return `The request was done and answered with ${this.status}; its answer cannot be repeated, as ${why}`
  }
}

/** An answer as it is kept. `lost` says why its body is not; then it cannot be answered again. */
export const Kept = Schema.Struct({
  status: Schema.Int,
  fields: Schema.Array(Schema.Tuple([Schema.String, Schema.String])),
  body: Schema.Uint8Array,
  lost: Schema.optionalKey(Schema.Literals(["large", "stream"])),
  /** Of an endpoint that writes its answers itself: which of its schemas wrote the body. */
  value: Schema.optionalKey(Schema.String)
})

/** An answer as it is kept. */
export type Kept = typeof Kept.Type

/**
 * Fields that are never kept: those of one connection (RFC 9110, 7.6.1) and of one moment, cookies and challenges, which are for
 * whoever asked, and what is said of each request anew.
 */
export const never: ReadonlySet<string> = new Set([
  "connection",
  "content-length",
  "date",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "set-cookie",
  "set-cookie2",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "www-authenticate",
  "x-request-id"
])

/** The fields of a response that are kept. */
const fieldsOf = (
  headers: { readonly [name: string]: string },
  chosen: ReadonlySet<string> | undefined
): ReadonlyArray<readonly [string, string]> => {
  // whoever names a field there makes it one of the connection
  const named = new Set((headers["connection"] ?? "").split(",").map((name) => name.trim().toLowerCase()))
  return Object.entries(headers).filter(([name]) =>
    !never.has(name) && !named.has(name) && (chosen === undefined || chosen.has(name) || name === "content-type")
  )
}

interface Collected {
  readonly bytes: Uint8Array
}

interface Longer {
  /** The stream from its beginning. */
  readonly stream: Stream.Stream<Uint8Array, unknown>
}

const joined = (parts: ReadonlyArray<Uint8Array>, size: number): Uint8Array => {
  const [first] = parts
  if (parts.length === 1 && first !== undefined) return first
  const bytes = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}

/** Reads a stream whole, or up to the first part beyond the limit. */
const collect = (
  request: Request<unknown>,
  stream: Stream.Stream<Uint8Array, unknown>,
  limit: number
): Effect.Effect<Collected | Longer, unknown> =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    // nobody reads the answer of a client that has gone
    request.after((exit) => Exit.hasInterrupts(exit) ? Scope.close(scope, exit) : undefined)
    const pull = yield* Scope.provide(Stream.toPull(stream), scope)
    const parts: Array<Uint8Array> = []
    let size = 0
    while (size <= limit) {
      const exit = yield* Effect.exit(pull)
      if (exit._tag === "Failure") {
        yield* Scope.close(scope, Exit.void)
        if (Pull.isDoneCause(exit.cause)) return { bytes: joined(parts, size) }
        return yield* Exit.failCause(exit.cause)
      }
      for (const part of exit.value) {
        parts.push(part)
        size += part.length
      }
    }
    const rest = Stream.concat(Stream.fromIterable(parts), Stream.fromPull(Effect.succeed(pull)))
    return { stream: Stream.ensuring(rest, Scope.close(scope, Exit.void)) }
  })

/** How answers are kept. */
export interface Manner {
  /** The longest body that is kept, in bytes. */
  readonly limit: number
  readonly streams: "collect" | "pass"
  /** The fields that are kept; undefined for all but `never`. */
  readonly chosen: ReadonlySet<string> | undefined
}

/** An answer to keep, and the response to send, which is another where a stream was read. */
export interface Keeping {
  readonly kept: Kept
  readonly response: HttpServerResponse.HttpServerResponse
}

const nothing = new Uint8Array(0)

/** What is kept of a response. */
export const keeping = (
  request: Request<unknown>,
  response: HttpServerResponse.HttpServerResponse,
  { chosen, limit, streams }: Manner
): Effect.Effect<Keeping> => {
  const { body, status } = response
  const whole = (bytes: Uint8Array, sent: HttpServerResponse.HttpServerResponse): Keeping =>
    bytes.length > limit
      ? { kept: { status, fields: [], body: nothing, lost: "large" }, response: sent }
      : { kept: { status, fields: fieldsOf(response.headers, chosen), body: bytes }, response: sent }
  switch (body._tag) {
    case "Empty":
      return Exit.succeed(whole(nothing, response))
    case "Uint8Array":
      return Exit.succeed(whole(body.body, response))
    case "Stream":
      if (streams === "pass") break
      // a stream that breaks is a mistake of the program, which has not answered yet
      return Effect.map(Effect.orDie(collect(request, body.stream, limit)), (found): Keeping => {
        if ("bytes" in found) {
          const { contentType } = body
          return whole(
            found.bytes,
            HttpServerResponse.setBody(response, HttpBody.uint8Array(found.bytes, contentType))
          )
        }
        const stream = HttpBody.stream(found.stream, body.contentType, body.contentLength)
        return {
          kept: { status, fields: [], body: nothing, lost: "large" },
          response: HttpServerResponse.setBody(response, stream)
        }
      })
  }
  return Exit.succeed({ kept: { status, fields: [], body: nothing, lost: "stream" }, response })
}

/** What is kept of a value that an endpoint writes itself. */
export const keepingValue = ({ body, status, value }: Valued, { limit }: Manner): Kept =>
  value === undefined
    ? { status, fields: [], body: nothing, lost: "stream" }
    : body.length > limit
    ? { status, fields: [], body: nothing, lost: "large" }
    : { status, fields: [], body, value }

/** The response of an answer that was kept. */
export const replay = ({ body, fields, status }: Kept): HttpServerResponse.HttpServerResponse => {
  if (body.length === 0) return HttpServerResponse.empty({ status, headers: fields })
  const contentType = fields.find(([name]) => name === "content-type")?.[1]
  return HttpServerResponse.uint8Array(body, { status, headers: fields, contentType })
}
