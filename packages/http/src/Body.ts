/**
 * Request bodies: a middleware reads each body once, within limits, and checks it before the handler sees it.
 */
import { type Channel, Middleware, type PayloadCodec } from "@millrace/core"
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

/** The defaults of the options of `bytes` and `json`. */
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
 * Reads the body as bytes. Takes a request outside and passes a request of bytes inside.
 *
 * Errors that enter E: `BodyTooLarge` (413; checked against `content-length` before a byte is read, and against the bytes
 * received while reading), `MediaTypeUnsupported` and `EncodingUnsupported` (415), `BodyMalformed` (400, a corrupt compressed
 * body) and `BodyUnreadable` (408 if the client takes longer than `timeout`, 400 if the client disconnects).
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
 * Reads the body as JSON and checks it. Takes a request outside and passes a request of the schema's type inside.
 *
 * Errors that enter E: those of `bytes`, `BodyMalformed` (400: invalid UTF-8 or JSON, with the position) and `BodyInvalid`
 * (422: one field per invalid place, or nesting beyond `depth`, or more than `values` values). Error messages never contain a
 * value of the body.
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

/** The media types of a channel's codec; undefined if the channel accepts every media type. */
export const acceptedBy = <P, R>(
  { content }: Channel.Channel<P, never, never, R>
): ReadonlyArray<string> | undefined => {
  const { accepts = [], contentType } = content.codec ?? {}
  if (contentType === undefined || accepts.includes("*")) return undefined
  return [...(contentType === "application/json" ? defaults.json : [contentType]), ...accepts]
}

/** Errors of reading a payload of a channel. */
export type ChannelError = JsonError | PayloadCodec.PayloadError

/**
 * Decodes requests of bytes to payloads of a channel. The returned effect is an Exit, unless the schema or the codec suspends.
 */
export const decoder = <P, R>(
  { content, name }: Channel.Channel<P, never, never, R>,
  limits: JsonLimits = {}
): (request: Request<Uint8Array>) => Effect.Effect<P, BodyMalformed | BodyInvalid | PayloadCodec.PayloadError, R> => {
  const { codec } = content
  // a channel of bytes has P = Uint8Array by construction
  if (codec === undefined) return ({ payload }) => Exit.succeed(payload as P)
  const [first] = codec.transforms
  if (first !== undefined) {
    throw new RangeError(
      `Body: the codec of ${name} has transforms (${first.name}), which are for brokers; make a channel of the codec alone for HTTP`
    )
  }
  const value = codec.plain?.contentType === "application/json" ? jsonParser(limits) : undefined
  // an unchecked channel has P = unknown
  const check = content._tag === "schema"
    ? checker(content.schema, codec.values)
    : (read: unknown) => Exit.succeed(read as P)
  return value === undefined
    ? (request) => Effect.flatMapEager(valueOf(codec, name, request), check)
    : ({ payload }) => Effect.flatMapEager(value(payload), check)
}

/**
 * Reads the body as a payload of a channel, by the channel's codec and schema, as a consumer of that channel would.
 *
 * Behaves like `json`. The media type is the codec's; a channel of bytes accepts every media type. A codec of `PayloadCodec`
 * sees the request's headers and the system `http`; its services enter R, and its `PayloadError` enters E (400 if the bytes
 * cannot be read, 503 if something that the codec needs is down). A codec with transforms is refused.
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
 * @throws RangeError when `limit` is not an integer from 1, or the channel's codec has transforms
 * @category constructors
 */
export const channel = <P, R>(channel: Channel.Channel<P, never, never, R>, options: JsonOptions = {}) => {
  const read = reader({ ...options, accepts: options.accepts ?? acceptedBy(channel) })
  const decode = decoder(channel, options)
  return Middleware.change<{ outer: Request; inner: Request<P> }>()(
    { name: "Body", stage: "decode", shows: { channel: channel.name, limit: options.limit }, order },
    (next) => (request): Middleware.Returns<ChannelError, R> =>
      Effect.flatMapEager(
        read(request),
        (body) =>
          Effect.flatMapEager(decode(request.withPayload(body)), (payload) => next(request.withPayload(payload)))
      )
  )
}

/**
 * Reads and decodes the payload of an endpoint of `HttpApi` by the endpoint's own schemas. Takes a request with an undecoded
 * payload outside and passes the decoded request to the endpoint's handler inside.
 *
 * For `Server.endpoint` and `handleRaw`. Decodes JSON, text, bytes, forms and multipart; refuses an endpoint that streams its
 * payload. Errors are those of `json`; a media type that the endpoint does not declare fails with `MediaTypeUnsupported`.
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
          // the undecoded request, plus the payload if the endpoint declares one
          next(request.withPayload(Object.assign({}, request.payload, payload) as HttpApiEndpoint.Request<E>))
      )
  )
}
