/**
 * A request to a server, as an envelope: what middlewares see of it, and how its body is read.
 */
import { type Envelope, Headers, type Hook } from "@millrace/core"
import type { Effect } from "effect"
import type { BodyTooLarge, BodyUnreadable } from "./Body.ts"

/** What a server knows of a request; one for each server that requests come from. */
export interface Source {
  readonly method: string
  /** The target as it came: path and query; some servers put the origin before it. */
  readonly url: string
  /** Lower-case names. */
  readonly headers: Headers.Headers
  /** The values of the route's parameters, decoded. */
  readonly params: Readonly<Record<string, string | undefined>>
  /** The address of the peer, or of the client where trusted proxies are known; undefined where the server does not say. */
  readonly address: string | undefined
  /** Reads the whole body, and stops at `limit` bytes; run once. */
  readonly body: (limit: number) => Effect.Effect<Uint8Array, BodyTooLarge | BodyUnreadable>
}

/** What the copies of one request share. */
export interface Books {
  hooks: Array<Hook> | undefined
  id: string | undefined
}

const token = /^[\w.:/+=@-]{1,128}$/

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
  declare protected books: Books

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
  /** Path and query, as they came. */
  get url(): string {
    const { url } = this.source
    return url.startsWith("/") ? url : url.replace(/^[a-z][\w+.-]*:\/\/[^/?#]*/i, "")
  }
  /** The target without its query, as it came. */
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
   * characters; undefined where it gave none, or one that could break a line.
   */
  get id(): string | undefined {
    if (this.books.id !== undefined) return this.books.id
    for (const name of idNames) {
      const given = this.source.headers[name]
      if (given !== undefined && token.test(given)) return this.books.id = given
    }
    return undefined
  }
  get hooks(): ReadonlyArray<Hook> | undefined {
    return this.books.hooks
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
}

/** A request that has just come. */
export const make = (
  source: Source,
  channel: string,
  key?: ((request: Request) => string | undefined) | undefined
): Request => {
  const request = new Request(source, channel, undefined, source.headers, undefined, {
    hooks: undefined,
    id: undefined
  })
  return key === undefined ? request : request.withKey(key(request))
}
