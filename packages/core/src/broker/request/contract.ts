/**
 * The contract between both ends of a request.
 */
import { Data, type Duration, type Schema } from "effect"
import * as Channel from "../../message/Channel.ts"
import type { FailureClass } from "../../message/Failure.ts"
import * as OptionCheck from "../../message/OptionCheck.ts"
import * as PayloadCodec from "../../message/PayloadCodec.ts"
import * as Problem from "../Problem.ts"

/** Names of the headers of requests and replies. */
export const names = {
  /** The channel for the answer. */
  replyTo: "reply-to",
  /** The request's own id, which its answer names as `causation-id`. */
  message: "message-id",
  causation: "causation-id",
  /** Copied from the request; the request's own id if its caller gave none. */
  correlation: "correlation-id",
  /** Unix time in milliseconds after which the caller stops waiting. The clocks of both sides must agree to that degree. */
  deadline: "request-deadline"
} as const

/** No answer came in time. The request may have been handled. */
export class DeadlineExceeded extends Data.TaggedError("DeadlineExceeded")<{
  readonly channel: string
  /** The milliseconds that the caller waited. */
  readonly after: number
  readonly message: string
}> {
  readonly failure: FailureClass = "timeout"
}

/** The request was not begun: its caller had stopped waiting. */
export class Expired extends Data.TaggedError("Expired")<{
  readonly channel: string
  readonly message: string
}> {
  readonly failure: FailureClass = "timeout"
}

/**
 * A channel of requests of `Q`, answered by an `A` or by an error of `E`; the codec of the requests needs the services `C`, that
 * of the answers `D`.
 */
export interface Request<in out Q, in out A, in out E, out On, out C = never, out D = never> {
  readonly channel: Channel.Channel<Q, never, On, C>
  readonly reply: Schema.ConstraintCodec<A, unknown>
  readonly errors: Schema.ConstraintCodec<E, unknown> | undefined
  readonly codec: PayloadCodec.PayloadCodec<D>
  /** Milliseconds. */
  readonly deadline: number
}

/** Options of a request. */
export interface Options<A, E, D = never> {
  /** The schema of the answer. */
  readonly reply: Schema.ConstraintCodec<A, unknown>
  /** The errors that a caller gets. Default: none; every failure is then a `RemoteError` without details of it. */
  readonly errors?: Schema.ConstraintCodec<E, unknown> | undefined
  /** How long a caller waits. Default: 30 seconds. */
  readonly deadline?: Duration.Input | undefined
  /** The codec of the answers. Default: JSON. */
  readonly codec?: Channel.Codec | PayloadCodec.PayloadCodec<D> | undefined
}

const problemJson: Channel.Codec = { ...Channel.json, contentType: Problem.contentType }

/** Returns the codec of problems: JSON, with the transforms of the answers, since a declared error is content too. */
export const problemCodec = <D>(codec: PayloadCodec.PayloadCodec<D>): PayloadCodec.PayloadCodec<D> =>
  PayloadCodec.sameTransforms(codec, problemJson)

export const check = OptionCheck.make("Request")

/**
 * Makes a contract of requests on a channel, for `client` and `answer`.
 *
 * **Example** (both ends)
 *
 * ```ts
 * import { Effect, Layer, pipe, Schema } from "effect"
 * import { Channel, Decode, MemoryBroker, type Message, Request, Subscription } from "@millrace/core"
 *
 * const Item = Schema.Struct({ sku: Schema.String })
 * class Unknown extends Schema.TaggedError<Unknown>()("Unknown", { sku: Schema.String }) {}
 *
 * const Prices = Channel.make("prices", { payload: Item })
 * const Price = Request.make(Prices, { reply: Schema.Struct({ cents: Schema.Int }), errors: Unknown, deadline: "5 seconds" })
 *
 * const server = pipe(
 *   ({ payload }: Message<typeof Item.Type>) =>
 *     payload.sku === "tea" ? Effect.succeed({ cents: 320 }) : Effect.fail(new Unknown({ sku: payload.sku })),
 *   Decode.middleware(Prices),
 *   Request.answer(Price)
 * )
 *
 * const program = Effect.gen(function*() {
 *   const prices = yield* Request.client(Price)
 *   console.log((yield* prices.request({ sku: "tea" })).cents) // => 320
 *   const error = yield* Effect.flip(prices.request({ sku: "?" }))
 *   console.log(error._tag) // => Unknown
 * }).pipe(Effect.scoped)
 *
 * const serving = Subscription.layer(Subscription.make(Prices, { group: "shop" }, server))
 * const layer = Layer.provideMerge(serving, MemoryBroker.layer())
 * await Effect.runPromise(Effect.provide(program, layer))
 * ```
 *
 * @throws RangeError when the deadline is out of range
 * @category constructors
 */
export const make = <Q, On, C, A, E = never, D = never>(
  channel: Channel.Channel<Q, never, On, C>,
  options: Options<A, E, D>
): Request<Q, A, E, On, C, D> => ({
  channel,
  reply: options.reply,
  errors: options.errors,
  codec: PayloadCodec.of<D>(options.codec ?? Channel.json),
  deadline: check.millis("deadline", options.deadline ?? "30 seconds")
})

/** Returns the attributes of request metrics. */
export const attributesOf = (channel: string) => ({ "messaging.destination.name": channel })
