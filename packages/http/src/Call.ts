/**
 * An outgoing request of a client, as an envelope.
 */
import { type Envelope, type Exchange, type Headers, type Hook } from "@millrace/core"
import { HttpClientRequest } from "effect/http"
import { CallExchange } from "./internal/callExchange.ts"
import type { Shown } from "./internal/failures.ts"

interface Books {
  hooks: Array<Hook> | undefined
  isUnrepeatable: boolean
  exchange?: Exchange
  /** Whether the program named the channel. */
  readonly isNamed?: boolean
  readonly shows?: Shown | undefined
}

/**
 * An outgoing request before it is sent. Middlewares of a client read it and may add headers.
 *
 * `kind` is `client`; `channel` is the method and the host by default (`GET api.example.com`).
 */
export class Call implements Envelope {
  declare readonly request: HttpClientRequest.HttpClientRequest
  declare readonly channel: string
  declare readonly key: string | undefined
  declare protected books: Books

  constructor(
    request: HttpClientRequest.HttpClientRequest,
    channel: string,
    key: string | undefined,
    books: Books = { hooks: undefined, isUnrepeatable: false }
  ) {
    this.request = request
    this.channel = channel
    this.key = key
    this.books = books
  }

  get kind(): "client" {
    return "client"
  }
  get headers(): Headers.Headers {
    return this.request.headers
  }
  get isUnrepeatable(): boolean {
    return this.books.isUnrepeatable
  }
  /** The view of the request for log lines, spans and metrics. */
  get exchange(): Exchange {
    const { books } = this
    return books.exchange ??= new CallExchange(
      this,
      books.isNamed === true ? this.channel : undefined,
      books.shows ?? "path"
    )
  }
  get hooks(): ReadonlyArray<Hook> | undefined {
    return this.books.hooks
  }
  /** The bytes of the body; undefined for streams and forms. */
  get body(): Uint8Array | undefined {
    const { body } = this.request
    return body._tag === "Uint8Array" ? body.body : undefined
  }
  /** Sets whether the request has been sent and must not be sent twice. All copies of a call share the flag. */
  markUnrepeatable(isUnrepeatable: boolean): void {
    this.books.isUnrepeatable = isUnrepeatable
  }
  withHeader(name: string, value: string): this {
    // no subclass adds a field, so a plain copy is a full one
    return new Call(
      HttpClientRequest.setHeader(this.request, name, value),
      this.channel,
      this.key,
      this.books
    ) as this
  }
  after(hook: Hook): void {
    ;(this.books.hooks ??= []).push(hook)
  }
}
