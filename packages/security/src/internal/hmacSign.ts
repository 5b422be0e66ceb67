/**
 * Signs published messages and requests of an HTTP client.
 */
import { type Channel, Eager, type Envelope, Middleware, type Outgoing, Publisher } from "@millrace/core"
import { Clock, Data, Effect, Exit, Random } from "effect"
import type { HttpClientRequest } from "effect/http"
import { compile, type Key, type Signed } from "./hmacKeys.ts"
import * as Signature from "./signature.ts"

const { names } = Signature

/** The request cannot be signed before it is sent, because its body is a stream or a form. Class `permanent`. */
export class Unsignable extends Data.TaggedError("Unsignable")<{}> {
  readonly failure = "permanent" as const
  override get message(): string {
    return "A request whose body is a stream or a form cannot be signed"
  }
}

/** Options of `sign`, `signChannel` and `signRequest`. All keys sign, in order, so that a receiver needs to know only one. */
export interface SignOptions {
  /** From 1 to 16. */
  readonly keys: readonly [Pick<Key, "name" | "secret">, ...ReadonlyArray<Pick<Key, "name" | "secret">>]
}

const newId = (random: typeof Random.Random["Service"]): string => {
  let id = "msg_"
  while (id.length < 36) id += Math.floor(random.nextDoubleUnsafe() * 0x1_0000).toString(16).padStart(4, "0")
  return id
}

/** Writes the three headers; uses the message's own id if that can be signed. */
const signer = (options: SignOptions) => {
  const keys = compile(options.keys)
  return <M extends Envelope>(message: M, payload: Uint8Array): Effect.Effect<M> =>
    Effect.flatMapEager(
      Eager.service(Clock.Clock),
      (clock) =>
        Effect.mapEager(Eager.service(Random.Random), (random) => {
          const { headers } = message
          const id = [headers[names.id], headers["message-id"]].find((each) =>
            each !== undefined && Signature.isId(each)
          ) ??
            newId(random)
          const timestamp = Math.floor(clock.currentTimeMillisUnsafe() / 1000)
          const signatures = keys.map(({ key }) => Signature.sign(key, id, timestamp, payload))
          return message.withHeader(names.id, id).withHeader(names.timestamp, `${timestamp}`)
            .withHeader(names.signature, signatures.join(" "))
        })
    )
}

const describe = ({ keys }: SignOptions) =>
  ({
    name: "HmacSign",
    stage: "publish",
    shows: { keys: keys.map(({ name }) => name) },
    order: [{ inside: "Retry", because: "each attempt is signed with its own time" }]
  }) as const

/**
 * Signs published messages of bytes.
 *
 * Types: takes a message of bytes and passes it on with three headers. The id is `webhook-id`, else `message-id`, else a new
 * id. To rotate a secret, sign with the new and the old secret until every receiver knows the new one.
 *
 * @throws RangeError when a secret is invalid
 * @category constructors
 */
export const sign = (options: SignOptions) => {
  const write = signer(options)
  return Middleware.make<{ message: Signed }>()(
    describe(options),
    (next) => (message) => Effect.flatMapEager(write(message, message.payload), next)
  )
}

/**
 * Signs messages published to a channel, like `sign`, for payloads that the publisher encodes.
 *
 * The payload is encoded twice, for the signature and for the publish, so the codec must write the same bytes for the same
 * value, as JSON does; a codec of `PayloadCodec` is refused. `EncodeError` enters E.
 *
 * **Example** (orders that a partner can verify)
 *
 * ```ts
 * import { Channel, Publisher } from "@millrace/core"
 * import { Hmac } from "@millrace/security"
 * import { Effect, Schema } from "effect"
 *
 * const Orders = Channel.make("orders", { payload: Schema.Struct({ id: Schema.String }) })
 * const keys: Hmac.Keys = [{ name: "shop", secret: await Effect.runPromise(Hmac.generate) }]
 *
 * const publisher = Publisher.make(Orders, Hmac.signChannel(Orders, { keys }))
 * ```
 *
 * @throws RangeError when a secret is invalid, or the codec is one of `PayloadCodec`
 * @category constructors
 */
export const signChannel = <P, On>(channel: Channel.Channel<P, string, On>, options: SignOptions) => {
  const write = signer(options)
  const encode = Publisher.encoder(channel)
  if (encode === undefined) {
    throw new RangeError(
      `Hmac.signChannel: the codec of ${channel.name} may write other bytes each time, and a signature is of one body: sign by a transform of its codec, or encrypt, which authenticates too`
    )
  }
  return Middleware.make<{ message: Outgoing<P> }>()(
    describe(options),
    (next) => (message) =>
      Effect.flatMapEager(encode(message.payload), (bytes) => Effect.flatMapEager(write(message, bytes), next))
  )
}

/** An outgoing request, as a middleware of `Client` of `@millrace/http` receives it. */
export interface Requested extends Envelope {
  readonly request: HttpClientRequest.HttpClientRequest
}

const utf8 = new TextEncoder()

const bytesOf = ({ body }: HttpClientRequest.HttpClientRequest): Uint8Array | undefined =>
  body._tag === "Uint8Array"
    ? body.body
    : body._tag === "Empty"
    ? new Uint8Array(0)
    : body._tag === "Raw" && typeof body.body === "string"
    ? utf8.encode(body.body)
    : undefined

/**
 * Signs requests of an HTTP client, like `sign`. A request whose body is a stream or a form is not sent and fails with
 * `Unsignable`.
 *
 * @throws RangeError when a secret is invalid
 * @category constructors
 */
export const signRequest = (options: SignOptions) => {
  const write = signer(options)
  return Middleware.make<{ message: Requested }>()(
    describe(options),
    (next) => (call): Middleware.Returns<Unsignable> => {
      const bytes = bytesOf(call.request)
      return bytes === undefined
        ? Exit.fail(new Unsignable())
        : Effect.flatMapEager(write(call, bytes), next)
    }
  )
}
