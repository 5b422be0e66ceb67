/**
 * Webhooks: a request becomes a message, and is answered once the broker has it.
 */
import { type Channel, Correlation, type Handler, type Publisher } from "@millrace/core"
import { Data, Effect, Exit, type Fiber, pipe } from "effect"
import { HttpServerResponse } from "effect/http"
import * as Body from "./Body.ts"
import * as Ids from "./ids.ts"
import type { Request } from "./Request.ts"

/** The signature of a request is missing or wrong; class `auth`, answered with 401. It says nothing of the key. */
export class SignatureRefused extends Data.TaggedError("SignatureRefused")<{
  readonly reason: "missing" | "malformed" | "expired" | "wrong"
}> {
  readonly failure = "auth" as const
  override get message(): string {
    return `The signature was refused: ${this.reason}`
  }
}

/** Options of `handler`. */
export interface Options<P, E, R> {
  /** Sends the messages; its middlewares, its errors and its needs are those of the webhook. */
  readonly publisher: Publisher.Publisher<P, E, R>
  /** The most bytes of a body, an integer from 1. Default: 1 MiB. */
  readonly limit?: number | undefined
  /** The media types that are taken. Default: the codec's of the channel. */
  readonly accepts?: ReadonlyArray<string> | undefined
  /**
   * The id of the message: of two requests with one id, whoever handles the messages can drop one. Default: the header
   * `webhook-id`, else `idempotency-key`, else 32 random hexadecimal digits.
   */
  readonly id?: ((request: Request<unknown>) => string | undefined) | undefined
  /** The key of the message. Default: the channel's, of the payload. */
  readonly key?: ((payload: P, request: Request<unknown>) => string | undefined) | undefined
  /**
   * Headers of the request that the message gets, too. Default: `correlation-id`, and where no span is open `traceparent`,
   * `tracestate` and `baggage`, which `Trace` writes otherwise.
   */
  readonly forward?: ReadonlyArray<string> | undefined
}

/** Options with a check of the signature. */
export interface Signed<P, E, R, E2, R2> extends Options<P, E, R> {
  /** Fails where the bytes were not signed by whom they should be, e.g. with `SignatureRefused`; nothing is decoded before. */
  readonly verify: (request: Request<Uint8Array>) => Effect.Effect<unknown, E2, R2>
}

const traces: ReadonlySet<string> = new Set(["traceparent", "tracestate", "baggage"])
const forwarded = ["correlation-id", ...traces]
const token = /^[\x21-\x7e]{1,256}$/

/** An `Idempotency-Key` is a quoted string, and most clients send it bare. */
const unquoted = (field: string | undefined): string | undefined =>
  field !== undefined && /^"(?:[^"\\]|\\["\\])*"$/.test(field)
    ? field.slice(1, -1).replace(/\\(.)/g, "$1")
    : field

const idOf = (request: Request<unknown>): string | undefined =>
  [request.headers["webhook-id"], unquoted(request.headers["idempotency-key"])]
    .find((each) => each !== undefined && token.test(each))

const headersOf = (
  fiber: Fiber.Fiber<unknown, unknown>,
  request: Request<unknown>,
  id: string,
  forward: ReadonlyArray<string> | undefined
): { readonly [name: string]: string } => {
  const headers: Record<string, string> = Object.create(null)
  for (const name of forward ?? forwarded) {
    const value = request.headers[name.toLowerCase()]
    if (value === undefined || (forward === undefined && fiber.cache.span !== undefined && traces.has(name))) continue
    // with Correlate, the publisher writes the id that was checked
    if (forward === undefined && name === Correlation.names.correlation && request.ids !== undefined) continue
    headers[name] = value
  }
  headers["message-id"] = id
  return headers
}

/** The forms of `handler`. */
export interface Build {
  <P, E, R, E2, R2>(
    channel: Channel.Channel<P>,
    options: Signed<P, E, R, E2, R2>
  ): Handler<Request, HttpServerResponse.HttpServerResponse, E | E2 | Body.JsonError, R | R2>
  <P, E, R>(
    channel: Channel.Channel<P>,
    options: Options<P, E, R>
  ): Handler<Request, HttpServerResponse.HttpServerResponse, E | Body.JsonError, R>
}

/**
 * Publishes what a request brings, and answers 202 with the message's id once the broker has confirmed it.
 *
 * The body is read (413, 415), its signature checked (401), decoded and checked as the channel says (400, 422), and published.
 * A publish that fails is answered by its class, e.g. 503 where the broker cannot be reached: whoever sent the webhook sends it
 * again. The message has the request's id as `message-id`, so what is sent again can be told.
 *
 * It is a handler like any other: put middlewares around it, and it into `Server.route`. A broker that does not answer holds
 * the request: put a `Timeout` around.
 *
 * **Example** (orders of a partner, at most 100 a second)
 *
 * ```ts
 * import { pipe, Schema } from "effect"
 * import { Channel, Publisher, RateLimit, Timeout } from "@millrace/core"
 * import { Server, Webhook } from "@millrace/http"
 *
 * const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }), key: (order) => order.id })
 *
 * const route = Server.route(
 *   "POST",
 *   "/hooks/orders",
 *   pipe(
 *     Webhook.handler(Orders, { publisher: Publisher.make(Orders), limit: 65_536 }),
 *     Timeout.middleware({ after: "10 seconds" }),
 *     RateLimit.middleware({ limit: 100 })
 *   )
 * )
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const handler: Build = (<P, E, R>(
  channel: Channel.Channel<P>,
  options: Options<P, E, R> & Partial<Signed<P, E, R, unknown, unknown>>
): Handler<Request, HttpServerResponse.HttpServerResponse, unknown, unknown> => {
  const { forward, publisher, verify } = options
  const name = options.id ?? idOf
  const read = Body.decoder(channel)
  const publish = (request: Request<unknown>, payload: P) =>
    Effect.withFiber((fiber) => {
      const id = name(request) ?? Ids.random(fiber)
      return Effect.as(
        publisher.publish(payload, {
          key: options.key?.(payload, request),
          headers: headersOf(fiber, request, id, forward)
        }),
        HttpServerResponse.jsonUnsafe({ id }, { status: 202 })
      )
    })
  const accept = (request: Request<Uint8Array>) =>
    Effect.flatMapEager(
      verify === undefined ? Exit.void : verify(request),
      () => Effect.flatMapEager(read(request.payload), (payload) => publish(request, payload))
    )
  return pipe(accept, Body.bytes({ limit: options.limit, accepts: options.accepts ?? Body.acceptedBy(channel) }))
  // the forms of Build say what the publisher and the check fail with
}) as Build
