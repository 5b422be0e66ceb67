/**
 * Bodies of requests: read once, bounded while they are read, and checked before the handler sees them.
 */
import { type Channel, Middleware } from "@millrace/core"
import { type Duration, Effect, Exit, type Schema } from "effect"
import type { HttpApiEndpoint } from "effect/http-api"
import type { BodyInvalid, BodyMalformed, JsonError } from "./internal/bodyErrors.ts"
import { checker, type JsonLimits, jsonLimits, jsonParser, valueOf } from "./internal/bodyJson.ts"
import { reader, type ReaderOptions } from "./internal/bodyReader.ts"
import { type Endpoint, payloadDecoder } from "./internal/endpointBody.ts"
import { bodyTimeout, type Request } from "./Request.ts"

export {
  BodyInvalid,
  BodyMalformed,
  BodyTooLarge,
  BodyUnreadable,
  type BytesError,
  EncodingUnsupported,
  type JsonError,
  MediaTypeUnsupported
} from "./internal/bodyErrors.ts"

/** Options of `bytes`. */
export interface Options extends ReaderOptions {}

/** Options of `json`, `channel` and `endpoint`. */
export interface JsonOptions extends ReaderOptions, JsonLimits {}

/** What `bytes` and `json` do where an option is not given. */
export const defaults: {
  readonly limit: number
  readonly timeout: Duration.Input
  readonly compressed: "refuse"
  readonly ratio: number
  readonly json: ReadonlyArray<string>
  readonly depth: number
  readonly values: number
} = {
  limit: 1024 * 1024,
  timeout: bodyTimeout,
  compressed: "refuse",
  ratio: 100,
  json: ["application/json", "application/*+json"],
  ...jsonLimits
}

const order = [{
  inside: "Auth",
  because: "a body is not read for somebody who may not send it"
}, {
  inside: "RateLimit",
  because: "a body is not read for somebody who is refused"
}] as const

/**
 * Reads the body as bytes: a request outside, a request of bytes inside.
 *
 * `BodyTooLarge` (413; the announced length decides before a byte is read, and counting where none or a wrong one is
 * announced), `MediaTypeUnsupported` and `EncodingUnsupported` (415), `BodyMalformed` (400, of a compressed body that is none) and
 * `BodyUnreadable` (408 where the client takes longer than `timeout`, 400 where it goes away) enter E.
 *
 * **Example** (at most 64 KiB of an image)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Body, type Request } from "@millrace/http"
 *
 * const handler = pipe(
 *   (request: Request<Uint8Array>) => Effect.succeed({ bytes: request.payload.length }),
 *   Body.bytes({ limit: 65_536, accepts: ["image/png"] })
 * )
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const bytes = (options: Options = {}) => {
  const read = reader(options)
  return Middleware.change<{ outer: Request; inner: Request<Uint8Array> }>()(
    { name: "Body", stage: "decode", shows: { ...options, accepts: options.accepts }, order },
    (next) => (request) => Effect.flatMapEager(read(request), (payload) => next(request.withPayload(payload)))
  )
}

/**
 * Reads the body as JSON and checks it: a request outside, a request of the schema's type inside.
 *
 * Beside what `bytes` fails with, `BodyMalformed` (400: no UTF-8 or no JSON, with the place) and `BodyInvalid` (422, one field
 * for each place that is wrong, or nested deeper than `depth`, or of more values than `values`) enter E. No message holds a value
 * of the body.
 *
 * **Example** (an order)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Body, type Request } from "@millrace/http"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 *
 * const handler = pipe(
 *   (request: Request<typeof Order.Type>) => Effect.succeed({ total: request.payload.amount }),
 *   Body.json(Order)
 * )
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const json = <P>(schema: Schema.ConstraintCodec<P, unknown>, options: JsonOptions = {}) => {
  const read = reader({ ...options, accepts: options.accepts ?? defaults.json })
  const parse = jsonParser(options)
  const check = checker(schema)
  return Middleware.change<{ outer: Request; inner: Request<P> }>()(
    { name: "Body", stage: "decode", shows: { content: "json", limit: options.limit }, order },
    (next) => (request): Middleware.Returns<JsonError> =>
      Effect.flatMapEager(
        read(request),
        (body) =>
          Effect.flatMapEager(parse(body), (value) =>
            Effect.flatMapEager(check(value), (payload) => next(request.withPayload(payload))))
      )
  )
}

/** The media types of a channel's codec; undefined where every one is taken. */
export const acceptedBy = <P>({ content }: Channel.Channel<P>): ReadonlyArray<string> | undefined =>
  content._tag === "bytes"
    ? undefined
    : content.codec.contentType === "application/json"
    ? defaults.json
    : [content.codec.contentType]

/** Reads bytes as a payload of a channel; an Exit, unless its schema suspends. */
export const decoder = <P>(
  { content }: Channel.Channel<P>,
  limits: JsonLimits = {}
): (body: Uint8Array) => Effect.Effect<P, BodyMalformed | BodyInvalid> => {
  // a channel of bytes has P = Uint8Array by construction
  if (content._tag === "bytes") return (body) => Exit.succeed(body as P)
  const value = content.codec.contentType === "application/json" ? jsonParser(limits) : valueOf(content.codec)
  // an unchecked channel has P = unknown
  const check = content._tag === "schema" ? checker(content.schema) : (read: unknown) => Exit.succeed(read as P)
  return (body) => Effect.flatMapEager(value(body), check)
}

/**
 * Reads the body as a payload of a channel, by its codec and its schema: what comes by HTTP is what would come by the broker.
 *
 * As `json`; the media type is the codec's, and a channel of bytes takes every one.
 *
 * **Example** (the same orders, by HTTP)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel } from "@millrace/core"
 * import { Body, type Request } from "@millrace/http"
 *
 * const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
 *
 * const handler = pipe((request: Request<{ readonly id: string }>) => Effect.succeed(request.payload.id), Body.channel(Orders))
 * ```
 *
 * @throws RangeError when `limit` is not an integer from 1
 * @category constructors
 */
export const channel = <P>(channel: Channel.Channel<P>, options: JsonOptions = {}) => {
  const read = reader({ ...options, accepts: options.accepts ?? acceptedBy(channel) })
  const decode = decoder(channel, options)
  return Middleware.change<{ outer: Request; inner: Request<P> }>()(
    { name: "Body", stage: "decode", shows: { channel: channel.name, limit: options.limit }, order },
    (next) => (request): Middleware.Returns<JsonError> =>
      Effect.flatMapEager(
        read(request),
        (body) => Effect.flatMapEager(decode(body), (payload) => next(request.withPayload(payload)))
      )
  )
}

/**
 * Reads and decodes the payload of an endpoint of `HttpApi` by the endpoint's own schemas, where the chain reads bodies: a
 * request whose payload is undecoded outside, one as the endpoint's handler takes it inside.
 *
 * For `Server.endpoint` and `handleRaw`. JSON, text, bytes, forms and multipart are decoded; an endpoint that streams its payload is
 * refused. Errors are those of `json`; a media type that the endpoint does not declare is `MediaTypeUnsupported`.
 *
 * **Example** (an endpoint that authenticates before it reads)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { HttpApiEndpoint } from "effect/http-api"
 * import { Auth } from "@millrace/core"
 * import { Body, type Request, Server } from "@millrace/http"
 *
 * const Pay = HttpApiEndpoint.post("pay", "/payments", {
 *   payload: Schema.Struct({ amount: Schema.Int }),
 *   success: Schema.Struct({ paid: Schema.Int })
 * })
 *
 * const pay = (request: Request<HttpApiEndpoint.Request<typeof Pay>>) =>
 *   Effect.succeed({ paid: request.payload.payload.amount })
 *
 * // handlers.handleRaw("pay", payRaw)
 * const payRaw = Server.endpoint(pipe(pay, Body.endpoint(Pay, { limit: 10_000 }), Auth.middleware()))
 * ```
 *
 * @throws RangeError when an option is out of range, or the endpoint streams its payload
 * @category constructors
 */
export const endpoint = <const E extends Endpoint>(endpoint: E, options: JsonOptions = {}) => {
  const decode = payloadDecoder(endpoint, options)
  return Middleware.change<{
    outer: Request<HttpApiEndpoint.RequestRaw<E>>
    inner: Request<HttpApiEndpoint.Request<E>>
  }>()(
    { name: "Body", stage: "decode", shows: { endpoint: endpoint.path, limit: options.limit }, order },
    (next) => (request): Middleware.Returns<JsonError> =>
      Effect.flatMapEager(
        decode(request),
        (payload) =>
          // the request of the endpoint is its undecoded one, with the payload where it declares one
          next(request.withPayload(Object.assign({}, request.payload, payload) as HttpApiEndpoint.Request<E>))
      )
  )
}
