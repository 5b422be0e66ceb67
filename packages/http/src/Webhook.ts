/**
 * Webhooks: a request becomes a message, and is answered once the broker has it.
 */
import { type Channel, Correlation, type Handler, type Publisher } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { sha256 } from "@millrace/core/sha256"
import { Data, Effect, Exit, type Fiber, pipe } from "effect"
import { HttpServerResponse } from "effect/http"
import * as Body from "./Body.ts"
import * as Caller from "./Caller.ts"
import * as Ids from "./internal/ids.ts"
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
   * The id of the message, by which a consumer drops what comes twice; of all callers and routes, so an id that a caller chose must not
   * be given as it is. Default: the caller's `webhook-id`, else its `idempotency-key`, hashed with the route and the caller to 32
   * hexadecimal digits; without one of them random ones.
   */
  readonly id?: ((request: Request<unknown>) => string | undefined) | undefined
  /**
   * Whose ids these are: the same id of another caller is another message. Default: the principal of `Auth`, else the one that
   * `verify` succeeded with. Callers without either are told apart by their bodies.
   */
  readonly caller?: ((request: Request<unknown>) => string) | undefined
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

/** The id that a caller gave, and the header that it stood in. */
const givenId = (request: Request<unknown>): readonly [header: string, id: string] | undefined => {
  const found = [
    ["webhook-id", request.headers["webhook-id"]] as const,
    ["idempotency-key", unquoted(request.headers["idempotency-key"])] as const
  ]
  for (const [header, id] of found) if (id !== undefined && token.test(id)) return [header, id]
  return undefined
}

const encoder = new TextEncoder()

/** 128 bits of a hash: nobody finds another request with the same ones. */
const digest = (bytes: Uint8Array): string =>
  Array.from(sha256(bytes).subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("")

/** The principal that a check succeeded with, as `Caller.principal` writes it. */
const verifiedOf = (value: unknown): string =>
  typeof value === "object" && value !== null && "subject" in value && typeof value.subject === "string"
    ? JSON.stringify(["issuer" in value ? value.issuer ?? null : null, value.subject])
    : ""

const scopedId = (request: Request<Uint8Array>, caller: string): string | undefined => {
  const given = givenId(request)
  if (given === undefined) return undefined
  // what is dropped for an id of somebody else is lost, what is not is handled twice
  const body = caller === "" ? digest(request.payload) : ""
  return digest(encoder.encode(compositeKey(request.channel, caller, ...given, body)))
}

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
 * again. The message has an id of route, caller and request as `message-id`, so what is sent again can be told, and two callers may
 * number their requests as they like.
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
  const { caller = Caller.principal } = options
  const read = Body.decoder(channel)
  const idOf = (request: Request<Uint8Array>, verified: unknown): string | undefined =>
    options.id === undefined ? scopedId(request, caller(request) || verifiedOf(verified)) : options.id(request)
  const publish = (request: Request<Uint8Array>, payload: P, verified: unknown) =>
    Effect.withFiber((fiber) => {
      const id = idOf(request, verified) ?? Ids.random(fiber)
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
      (verified) => Effect.flatMapEager(read(request.payload), (payload) => publish(request, payload, verified))
    )
  return pipe(accept, Body.bytes({ limit: options.limit, accepts: options.accepts ?? Body.acceptedBy(channel) }))
  // the forms of Build say what the publisher and the check fail with
}) as Build
