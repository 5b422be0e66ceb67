/**
 * A request to a server, as an envelope: what middlewares see of it, and how its body is read.
 */
import { Correlation, type Envelope, type Exchange, Headers, type Hook, OptionCheck } from "@millrace/core"
import { type Duration, Effect, Exit } from "effect"
import type { HttpServerResponse } from "effect/http"
import { BodyTooLarge, BodyUnreadable } from "./internal/bodyErrors.ts"
import { firstWrong, shownName } from "./internal/headerText.ts"
import { RequestExchange } from "./internal/requestExchange.ts"

/** A value that an endpoint answers or fails with, as it is kept. */
export interface Valued {
  readonly status: number
  /** Which of the schemas wrote it: `success` or `error`, and its number; undefined of what no schema can write. */
  readonly value: string | undefined
  readonly body: Uint8Array
}

/** How the values of an endpoint are kept. */
export interface Values {
  /** The status of what the endpoint writes itself; undefined of all else. */
  readonly statusOf: (exit: Exit.Exit<unknown, unknown>) => number | undefined
  /** Undefined of an error that the endpoint does not declare, and of interruptions. */
  readonly write: (exit: Exit.Exit<unknown, unknown>) => Effect.Effect<Valued | undefined>
  /** What the endpoint had answered; undefined where this version of it cannot read that. */
  readonly read: (value: string, body: Uint8Array) => Effect.Effect<Exit.Exit<unknown, unknown> | undefined>
}

/** What a server knows of a request; one for each server that requests come from. */
export interface Source {
  readonly method: string
  /** Path and query of the target, as the router found the route by them: never a part of the `host` field. */
  readonly url: string
  /** Lower-case names. */
  readonly headers: Headers.Headers
  /** The values of the route's parameters, decoded. */
  readonly params: Readonly<Record<string, string | undefined>>
  /** The address of the peer, or of the client where trusted proxies are known; undefined where the server does not say. */
  readonly address: string | undefined
  /** `http` or `https`; undefined where the server does not say. */
  readonly scheme?: string | undefined
  /** Reads the whole body, and stops at `limit` bytes. Run again, it goes on where it was interrupted and loses nothing. */
  body(limit: number): Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable>
  /** Runs an effect once the answer has been sent to its last byte, or its client has gone. Left out: the chain's end is the end. */
  atEnd?(effect: Effect.Effect<void>): void
}

/** What a route has answered to an error, before that reached the end of the chain. */
export interface Given {
  readonly error: unknown
  readonly response: HttpServerResponse.HttpServerResponse
  /** The line of the answer, which is logged when it leaves. */
  readonly log: Effect.Effect<void>
}

/** Writes the answer to an end of a chain; undefined where the route leaves that to others. */
export type Respond = (
  request: Request<unknown>,
  exit: Exit.Exit<unknown, unknown>
) => Effect.Effect<HttpServerResponse.HttpServerResponse | undefined>

/** What the copies of one request share. */
export interface Books {
  hooks: Array<Hook> | undefined
  id: string | undefined
  /** What `Correlate` said. */
  ids: Correlation.Correlation | undefined
  /** The whole body, once it has been read. */
  body: Uint8Array | undefined
  /** What middlewares add to the answer: by name, and by who says it. */
  fields: Map<string, Map<string, string>> | undefined
  respond: Respond | undefined
  /** The status that the end of a chain is answered with. */
  statusOf: ((request: Request<unknown>, exit: Exit.Exit<unknown, unknown>) => number | undefined) | undefined
  /** The template of the route. */
  route: string | undefined
  given: Given | undefined
  /** Of an endpoint: how what it answers itself is kept. */
  values: Values | undefined
}

/** The most fields that middlewares add to one answer, and the longest value of one, in characters. */
export const mostFields = { count: 32, length: 8192 } as const

/** How long a client may take to send a body by default. */
export const bodyTimeout: Duration.Input = "30 seconds"

const check = OptionCheck.make("Request")

/** The names of headers that may hold the id of a request; the first counts that holds one. */
const idNames = ["x-request-id", "correlation-id", "x-correlation-id"]

/**
 * A request: `payload` is undefined until a middleware of `Body` has read it, and then what it was read as.
 *
 * `kind` is `server`, `channel` the method and the route's template (`POST /orders/:id`), so that what is counted or limited
 * by channel has few names, whatever clients ask for.
 */
export class Request<out P = undefined> implements Envelope {
  declare readonly source: Source
  declare readonly channel: string
  declare readonly key: string | undefined
  declare readonly headers: Headers.Headers
  declare readonly payload: P
  /** Of this package: what the copies of one request share. */
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
  /** Path and query, as they came and as the route was found by them. No header changes them. */
  get url(): string {
    return this.source.url
  }
  /** The target without its query, as it came: not decoded, and in the case that the client wrote. */
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
   * The id that the client gave in `x-request-id`, `correlation-id` or `x-correlation-id`, where it is a token of at most 128
   * characters; undefined where it gave none, or one that could break a line. With `Correlate`, the one that it took or made.
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
  /** The ids that `Correlate` gave; undefined before, and without it. */
  get ids(): Correlation.Correlation | undefined {
    return this.books.ids
  }
  /** Told by `Correlate`: the answer repeats the request's id as `x-request-id`. */
  correlated(ids: Correlation.Correlation): void {
    this.books.ids = ids
    this.books.id = ids.causation ?? ids.id
    this.answerField(Correlation.names.request, this.books.id)
  }
  /** The parts that log lines, spans and metrics show. */
  get exchange(): Exchange {
    return new RequestExchange(this)
  }
  /** Runs an effect once the answer has been sent to its last byte, or its client has gone. */
  afterAnswer(effect: Effect.Effect<void>): void {
    if (this.source.atEnd === undefined) this.after(() => effect)
    else this.source.atEnd(effect)
  }
  /** The bytes of the body as far as they were read, for what shows them; undefined before. */
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
   * The bytes of the body, at most `limit`, and at most `timeout` (default 30 seconds) after they were asked for. They are read
   * from the client once and kept for as long as the request lives, so several middlewares may ask. A length that the client
   * announces and that is too long is refused before a byte is read.
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
      // another caller may have begun to read, up to a higher limit
      return read.length > limit ? Exit.fail(new BodyTooLarge({ limit })) : Exit.succeed(read)
    })
    return Effect.timeoutOrElse(read, { duration: millis, orElse: () => Exit.fail(late(millis)) })
  }
  /**
   * Adds a field to the answer, whatever that will be: a response, a problem, an endpoint's value. It replaces one that the
   * answer has itself. Where several `part`s say something of one field, their values become a list, and what the same part says
   * later replaces what it said before.
   *
   * At most 32 values; a value has at most 8,192 characters.
   *
   * @throws RangeError when the field cannot be sent, or there are too many
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
   * The response of the route to an end of its handler, for middlewares that keep answers. An error that was answered so and then
   * leaves the chain is not answered again. Undefined of an endpoint of `HttpApi`, which answers itself, and outside of routes.
   */
  respond(exit: Exit.Exit<unknown, unknown>): Effect.Effect<HttpServerResponse.HttpServerResponse | undefined> {
    return this.books.respond === undefined ? Exit.succeed(undefined) : this.books.respond(this, exit)
  }
}

const late = (millis: number) =>
  new BodyUnreadable({ message: `The body did not come within ${millis} ms`, reason: "timeout" })

/** A request that has just come, by the template of its route. */
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
