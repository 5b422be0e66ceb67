/**
 * The stored form of HTTP answers for repeated requests: status, selected headers and bytes.
 */
import { Data, Effect, Exit, Pull, Schema, Scope, Stream } from "effect"
import { HttpBody, HttpServerResponse } from "effect/http"
import type { Request, Valued } from "../Request.ts"

/**
 * The request was completed under its key, but its answer was not stored, so the request can be neither replayed nor run again.
 * Class `permanent`, answered with 409.
 */
export class IdempotencyAnswerLost extends Data.TaggedError("IdempotencyAnswerLost")<{
  readonly channel: string
  /** The status of the lost answer. */
  readonly status: number
  /** `large`: the body exceeded `limit`; `stream`: the body was a stream or a file. */
  readonly reason: "large" | "stream"
}> {
  readonly failure = "permanent" as const
  override get message(): string {
    const why = this.reason === "large" ? "it is too long" : "it is a stream"
    return `The request was done and answered with ${this.status}; its answer cannot be repeated, as ${why}`
  }
}

/** The stored form of an answer. `lost` is the reason for a missing body; such an answer cannot be replayed. */
export const Kept = Schema.Struct({
  status: Schema.Int,
  fields: Schema.Array(Schema.Tuple([Schema.String, Schema.String])),
  body: Schema.Uint8Array,
  lost: Schema.optionalKey(Schema.Literals(["large", "stream"])),
  /** For an endpoint that encodes its answers itself: the schema that encoded the body. */
  value: Schema.optionalKey(Schema.String)
})

/** The stored form of an answer. */
export type Kept = typeof Kept.Type

/**
 * Headers that are never stored: hop-by-hop headers (RFC 9110, 7.6.1), the date, cookies and challenges, which belong to one
 * client, and the request id.
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

/** The headers of a response that are stored. */
const fieldsOf = (
  headers: { readonly [name: string]: string },
  chosen: ReadonlySet<string> | undefined
): ReadonlyArray<readonly [string, string]> => {
  // headers named by `connection` are hop-by-hop, too
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

/** Reads a whole stream, or up to the first part beyond the limit. */
const collect = (
  request: Request<unknown>,
  stream: Stream.Stream<Uint8Array, unknown>,
  limit: number
): Effect.Effect<Collected | Longer, unknown> =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    // after the client has disconnected, the answer is not read
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

/** The rules for storing an answer. */
export interface Manner {
  /** The longest body that is stored, in bytes. */
  readonly limit: number
  readonly streams: "collect" | "pass"
  /** The headers that are stored; undefined for all but `never`. */
  readonly chosen: ReadonlySet<string> | undefined
}

/** The answer to store, and the response to send, which is a new one if a stream was read. */
export interface Keeping {
  readonly kept: Kept
  readonly response: HttpServerResponse.HttpServerResponse
}

const nothing = new Uint8Array(0)

/** Makes the stored form of a response. */
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
      // a failing stream is a defect of the program, and no answer has been sent yet
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

/** Makes the stored form of a value that an endpoint encodes itself. */
export const keepingValue = ({ body, status, value }: Valued, { limit }: Manner): Kept =>
  value === undefined
    ? { status, fields: [], body: nothing, lost: "stream" }
    : body.length > limit
    ? { status, fields: [], body: nothing, lost: "large" }
    : { status, fields: [], body, value }

/** Makes the response of a stored answer. */
export const replay = ({ body, fields, status }: Kept): HttpServerResponse.HttpServerResponse => {
  if (body.length === 0) return HttpServerResponse.empty({ status, headers: fields })
  const contentType = fields.find(([name]) => name === "content-type")?.[1]
  return HttpServerResponse.uint8Array(body, { status, headers: fields, contentType })
}
