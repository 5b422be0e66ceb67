/**
 * A request to a server, as an envelope: its view for middlewares, and the reading of its body.
 */
import { Correlation, type Envelope, type Exchange, Headers, type Hook, OptionCheck } from "@millrace/core"
import { type Duration, Effect, Exit } from "effect"
import type { HttpServerResponse } from "effect/http"
import { BodyTooLarge, BodyUnreadable } from "./internal/bodyErrors.ts"
import { firstWrong, shownName } from "./internal/headerText.ts"
import { RequestExchange } from "./internal/requestExchange.ts"

/** The stored form of a value that an endpoint answers or fails with. */
export interface Valued {
  readonly status: number
  /** The schema that encoded the value: `success` or `error`, and its number; undefined if no schema can encode the value. */
  readonly value: string | undefined
  readonly body: Uint8Array
}

/** Encodes and decodes the values of an endpoint for storage. */
export interface Values {
  /** The status of a value that the endpoint encodes itself; otherwise undefined. */
  readonly statusOf: (exit: Exit.Exit<unknown, unknown>) => number | undefined
  /** Encodes an exit; undefined for an error that the endpoint does not declare, and for an interruption. */
  readonly write: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<Valued | undefined>
  /** Decodes the stored exit; undefined if this version of the endpoint cannot decode it. */
  readonly read: (value: string, body: Uint8Array) => Effect.Effect<Exit.Exit<unknown, unknown> | undefined>
}

/** A request as its server sees it; each kind of server has an implementation. */
export interface Source {
  readonly method: string
  /** Path and query of the target, as the router matched them; never a part of the `host` header. */
  readonly url: string
  /** Lower-case names. */
  readonly headers: Headers.Headers
  /** The values of the route's parameters, decoded. */
  readonly params: Readonly<Record<string, string | undefined>>
  /**
   * The address of the peer, or of the client if the server knows trusted proxies; undefined if the server does not report one.
   */
  readonly address: string | undefined
  /** `http` or `https`; undefined if the server does not report it. */
  readonly scheme?: string | undefined
  /** Reads the whole body, and stops at `limit` bytes. After an interruption, the next run resumes without losing bytes. */
  body(limit: number): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable>
  /**
   * Runs an effect once the last byte is sent or the client has disconnected. If absent, the effect runs as a hook of the
   * chain.
   */
  atEnd?(effect: Effect.Effect<void>): void
}

/** A route's answer to an error that has not yet reached the end of the chain. */
export interface Given {
  readonly error: unknown
  readonly response: HttpServerResponse.HttpServerResponse
  /** Logs the answer; run when the answer is sent. */
  readonly log: Effect.Effect<void>
}

/** Writes the response to the exit of a chain; undefined for an interruption, or if the endpoint encodes the exit itself. */
export type Respond = (
  request: Request<unknown>,
  exit: Exit.Exit<unknown, unknown>
) => Effect.Effect<HttpServerResponse.HttpServerResponse | undefined>

/** State shared by all copies of one request. */
export interface Books {
  hooks: Array<Hook> | undefined
  id: string | undefined
  /** The ids that `Correlate` set. */
  ids: Correlation.Correlation | undefined
  /** The whole body, once it has been read. */
  body: Uint8Array | undefined
  /** Response headers that middlewares add: by name, then by part. */
  fields: Map<string, Map<string, string>> | undefined
  respond: Respond | undefined
  /** The response status for the exit of a chain. */
  statusOf: ((request: Request<unknown>, exit: Exit.Exit<unknown, unknown>) => number | undefined) | undefined
  /** The template of the route. */
  route: string | undefined
  given: Given | undefined
  /** For an endpoint of `HttpApi`: the codec that stores its values. */
  values: Values | undefined
}

/** The most header values that middlewares may add to one response, and the longest value, in characters. */
export const mostFields = { count: 32, length: 8192 } as const

/** The default time for a client to send a body. */
export const bodyTimeout: Duration.Input = "30 seconds"

const check = OptionCheck.make("Request")

/** Headers that may hold a request id, in order of precedence. */
const idNames = ["x-request-id", "correlation-id", "x-correlation-id"]

/**
 * A request to a server. `payload` is undefined until a middleware of `Body` has read it, and then the decoded body.
 *
 * `kind` is `server`. `channel` is the method and the route's template (`POST /orders/:id`), so metrics and limits by channel
 * have few names, and clients cannot invent new ones.
 */
export class Request<out P = undefined> implements Envelope {
  declare readonly source: Source
  declare readonly channel: string
  declare readonly key: string | undefined
  declare readonly headers: Headers.Headers
  declare readonly payload: P
  /** Internal to this package: state shared by all copies of one request. */
  declare readonly books: Books

  constructor(
    source: Source,
    channel: string,
    key: string | undefined,
    headers: Headers.Headers,
    payload: P,
    books: Books
  ) {
    this.source = source
    this.channel = channel
    this.key = key
    this.headers = headers
    this.payload = payload
    this.books = books
  }

  get kind(): "server" {
    return "server"
  }
  get method(): string {
    return this.source.method
  }
  /** Path and query as received, and as the router matched them. No header changes them. */
  get url(): string {
    return this.source.url
  }
  /** The target without its query, as received: not decoded, in the client's case. */
  get path(): string {
    const { url } = this
    const end = url.indexOf("?")
    return end < 0 ? url : url.slice(0, end)
  }
  get query(): URLSearchParams {
    const { url } = this
    const end = url.indexOf("?")
    return new URLSearchParams(end < 0 ? "" : url.slice(end + 1))
  }
  get params(): Readonly<Record<string, string | undefined>> {
    return this.source.params
  }
  /**
   * The id that the client sent in `x-request-id`, `correlation-id` or `x-correlation-id`, if it is a token of at most 128
   * characters (one that cannot break a log line); otherwise undefined. Inside `Correlate`, the id that `Correlate` took or
   * made.
   */
  get id(): string | undefined {
    if (this.books.id !== undefined) return this.books.id
    for (const name of idNames) {
      const given = this.source.headers[name]
      if (given !== undefined && Correlation.isToken(given)) return this.books.id = given
    }
    return undefined
  }
  get hooks(): ReadonlyArray<Hook> | undefined {
    return this.books.hooks
  }
  /** The ids that `Correlate` set; undefined before or without `Correlate`. */
  get ids(): Correlation.Correlation | undefined {
    return this.books.ids
  }
  /** Called by `Correlate`; the response then repeats the request's id as `x-request-id`. */
  correlated(ids: Correlation.Correlation): void {
    this.books.ids = ids
    this.books.id = ids.causation ?? ids.id
    this.answerField(Correlation.names.request, this.books.id)
  }
  /** The view of the request for log lines, spans and metrics. */
  get exchange(): Exchange {
    return new RequestExchange(this)
  }
  /** Runs an effect once the last byte of the answer is sent or the client has disconnected. */
  afterAnswer(effect: Effect.Effect<void>): void {
    if (this.source.atEnd === undefined) this.after(() => effect)
    else this.source.atEnd(effect)
  }
  /** The bytes of the whole body, for logging; undefined until a middleware has read them. */
  get body(): Uint8Array | undefined {
    return this.books.body
  }
  withHeader(name: string, value: string): this {
    // no subclass adds a field, so a plain copy is a full one
    return new Request(
      this.source,
      this.channel,
      this.key,
      Headers.set(this.headers, name, value),
      this.payload,
      this.books
    ) as this
  }
  withKey(key: string | undefined): Request<P> {
    return new Request(this.source, this.channel, key, this.headers, this.payload, this.books)
  }
  withPayload<B>(payload: B): Request<B> {
    return new Request(this.source, this.channel, this.key, this.headers, payload, this.books)
  }
  after(hook: Hook): void {
    ;(this.books.hooks ??= []).push(hook)
  }
  /**
   * Reads the body, at most `limit` bytes, within `timeout` (default 30 seconds) of the call. The bytes are read from the
   * client once and kept for the lifetime of the request, so several middlewares may call this. A `content-length` beyond
   * `limit` is refused before a byte is read.
   */
  bytes(
    limit: number,
    timeout: Duration.Input = bodyTimeout
  ): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable> {
    const { body } = this.books
    if (body !== undefined) return body.length > limit ? Exit.fail(new BodyTooLarge({ limit })) : Exit.succeed(body)
    if (Number(this.source.headers["content-length"] ?? 0) > limit) return Exit.fail(new BodyTooLarge({ limit }))
    const millis = check.millis("timeout", timeout, { infinite: true })
    const read = Effect.flatMapEager(this.source.body(limit), (read) => {
      this.books.body = read
      // another caller may have started the read with a higher limit
      return read.length > limit ? Exit.fail(new BodyTooLarge({ limit })) : Exit.succeed(read)
    })
    return Effect.timeoutOrElse(read, { duration: millis, orElse: () => Exit.fail(late(millis)) })
  }
  /**
   * Adds a header to the answer of any kind: a response, a problem, an endpoint's value. The header replaces one that the
   * answer already has (`vary` is joined). Values of several `part`s for one header become a list; a later value of the same
   * part replaces the earlier one.
   *
   * At most 32 values, each of at most 8,192 characters.
   *
   * @throws RangeError when the header cannot be sent, or there are too many
   */
  answerField(name: string, value: string, part: string = ""): void {
    const lower = name.toLowerCase()
    if (firstWrong({ [lower]: value }) !== undefined || value.length > mostFields.length) {
      throw new RangeError(
        `Request: an answer's field must be a name and a value that can be sent, got ${shownName(name)}`
      )
    }
    const fields = this.books.fields ??= new Map<string, Map<string, string>>()
    const parts = fields.get(lower)
    if (parts !== undefined) parts.set(part, value)
    else fields.set(lower, new Map([[part, value]]))
    let count = 0
    for (const each of fields.values()) count += each.size
    if (count > mostFields.count) {
      throw new RangeError(
        `Request: at most ${mostFields.count} fields may be added to an answer, got ${shownName(name)}`
      )
    }
  }
  /**
   * Makes the route's response to an exit of its handler, for middlewares that store answers. If that error then leaves the
   * chain, the route reuses this response. Undefined for an exit that an endpoint of `HttpApi` encodes itself, for an
   * interruption, and outside of routes.
   */
  respond(exit: Exit.Exit<unknown, unknown>): Effect.Effect<HttpServerResponse.HttpServerResponse | undefined> {
    return this.books.respond === undefined ? Exit.succeed(undefined) : this.books.respond(this, exit)
  }
}

const late = (millis: number) =>
  new BodyUnreadable({ message: `The body did not come within ${millis} ms`, reason: "timeout" })

/** Makes the envelope of a new request; `route` is the template of its route. */
export const make = (source: Source, channel: string, route?: string): Request =>
  new Request(source, channel, undefined, source.headers, undefined, {
    hooks: undefined,
    id: undefined,
    ids: undefined,
    body: undefined,
    fields: undefined,
    respond: undefined,
    statusOf: undefined,
    route,
    given: undefined,
    values: undefined
  })
