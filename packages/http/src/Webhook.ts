/**
 * Webhooks: the handler publishes a request as a message, and answers once the broker has confirmed the message.
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

/** The signature of a request is missing or wrong. Class `auth`, answered with 401. The error reveals nothing about the key. */
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
  /** Publishes the messages; its errors and requirements become those of the webhook. */
  readonly publisher: Publisher.Publisher<P, E, R>
  /** The most bytes of a body, an integer from 1. Default: 1 MiB. */
  readonly limit?: number | undefined
  /** The accepted media types. Default: those of the channel's codec. */
  readonly accepts?: ReadonlyArray<string> | undefined
  /**
   * The id of the message, by which a consumer drops duplicates. Ids are shared by all callers and routes, so do not return
   * a caller's own id unchanged. Default: the caller's `webhook-id`, else its `idempotency-key`, hashed with the route and
   * the caller to 32 hexadecimal digits; a random id if the request has neither.
   */
  readonly id?: ((request: Request<unknown>) => string | undefined) | undefined
  /**
   * The caller that an id belongs to: the same id of another caller is another message. Default: the principal of `Auth`, else
   * the principal that `verify` returned. Without either, the hash also includes the body.
   */
  readonly caller?: ((request: Request<unknown>) => string) | undefined
  /** The key of the message. Default: the channel's key of the payload. */
  readonly key?: ((payload: P, request: Request<unknown>) => string | undefined) | undefined
  /**
   * Headers of the request that are copied to the message. Default: `correlation-id`, and if no span is open also `traceparent`,
   * `tracestate` and `baggage`, which `Trace` writes otherwise.
   */
  readonly forward?: ReadonlyArray<string> | undefined
}

/** Options with a check of the signature. */
export interface Signed<P, E, R, E2, R2> extends Options<P, E, R> {
  /** Fails if the expected sender did not sign the bytes, e.g. with `SignatureRefused`; runs before the body is decoded. */
  readonly verify: (request: Request<Uint8Array>) => Effect.Effect<unknown, E2, R2>
}

const traces: ReadonlySet<string> = new Set(["traceparent", "tracestate", "baggage"])
const forwarded = ["correlation-id", ...traces]
const token = /^[\x21-\x7e]{1,256}$/

/** Removes the quotes of an `Idempotency-Key`, which most clients send without quotes. */
const unquoted = (field: string | undefined): string | undefined =>
  field !== undefined && /^"(?:[^"\\]|\\["\\])*"$/.test(field)
    ? field.slice(1, -1).replace(/\\(.)/g, "$1")
    : field

/** The id that a caller sent, and its header. */
const givenId = (request: Request<unknown>): readonly [header: string, id: string] | undefined => {
  const found = [
    ["webhook-id", request.headers["webhook-id"]] as const,
    ["idempotency-key", unquoted(request.headers["idempotency-key"])] as const
  ]
  for (const [header, id] of found) if (id !== undefined && token.test(id)) return [header, id]
  return undefined
}

const encoder = new TextEncoder()

/** 128 bits of SHA-256, so no caller can find another request with the same digest. */
const digest = (bytes: Uint8Array): string =>
  Array.from(sha256(bytes).subarray(0, 16), (byte) => byte.toString(16).padStart(2, "0")).join("")

/** The principal that `verify` returned, in the format of `Caller.principal`. */
const verifiedOf = (value: unknown): string =>
  typeof value === "object" && value !== null && "subject" in value && typeof value.subject === "string"
    ? JSON.stringify(["issuer" in value ? value.issuer ?? null : null, value.subject])
    : ""

const scopedId = (request: Request<Uint8Array>, caller: string): string | undefined => {
  const given = givenId(request)
  if (given === undefined) return undefined
  // a false duplicate loses a message and a missed duplicate runs twice, so anonymous ids include the body
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
    // inside Correlate, the publisher writes the validated id
    if (forward === undefined && name === Correlation.names.correlation && request.ids !== undefined) continue
    headers[name] = value
  }
  headers["message-id"] = id
  return headers
}

/** The overloads of `handler`. */
export interface Build {
  <P, E, R, E2, R2, C = never>(
    channel: Channel.Channel<P, never, never, C>,
    options: Signed<P, E, R, E2, R2>
  ): Handler<Request, HttpServerResponse.HttpServerResponse, E | E2 | Body.ChannelError, R | R2 | C>
  <P, E, R, C = never>(
    channel: Channel.Channel<P, never, never, C>,
    options: Options<P, E, R>
  ): Handler<Request, HttpServerResponse.HttpServerResponse, E | Body.ChannelError, R | C>
}

/**
 * Publishes the body of a request, and answers 202 with the message's id once the broker has confirmed the message.
 *
 * The handler reads the body (413, 415), verifies its signature (401), decodes and checks it by the channel (400, 422), and
 * publishes it. A failed publish is answered by its class, e.g. 503 if the broker is unreachable, so the sender retries the
 * webhook. The `message-id` is made of route, caller and request id, so a consumer can detect a retry, and two callers may use
 * the same ids.
 *
 * Put middlewares around the handler, and the handler into `Server.route`. A broker that does not confirm blocks the request:
 * add a `Timeout`.
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
export const handler: Build = (<P, E, R, C>(
  channel: Channel.Channel<P, never, never, C>,
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
      (verified) => Effect.flatMapEager(read(request), (payload) => publish(request, payload, verified))
    )
  return pipe(accept, Body.bytes({ limit: options.limit, accepts: options.accepts ?? Body.acceptedBy(channel) }))
  // the overloads of Build declare the errors of the publisher and of `verify`
}) as Build
