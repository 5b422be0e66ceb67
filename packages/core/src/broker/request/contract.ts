/**
 * What both ends of a request agree on.
 */
import { Data, type Duration, type Schema } from "effect"
import * as Channel from "../../message/Channel.ts"
import type { FailureClass } from "../../message/Failure.ts"
import * as OptionCheck from "../../message/OptionCheck.ts"

/** Names of the headers of requests and replies. */
export const names = {
  /** The channel that the answer is wanted on. */
  replyTo: "reply-to",
  /** The request's own id, which its answer names as `causation-id`. */
  message: "message-id",
  causation: "causation-id",
  /** Copied from the request; the request's own id where its caller gave none. */
  correlation: "correlation-id",
  /** Unix time in milliseconds after which nobody waits any more. Both clocks must agree to that degree. */
  deadline: "request-deadline"
} as const

/** No answer came in time; whether the request was handled is not known. */
export class DeadlineExceeded extends Data.TaggedError("DeadlineExceeded")<{
  readonly channel: string
  /** Milliseconds that were waited. */
  readonly after: number
  readonly message: string
}> {
  readonly failure: FailureClass = "timeout"
}

/** Why a request was not begun: its caller had stopped waiting. */
export class Expired extends Data.TaggedError("Expired")<{
  readonly channel: string
  readonly message: string
}> {
  readonly failure: FailureClass = "timeout"
}

/** A channel of requests of `Q`, answered by an `A` or by an error of `E`. */
export interface Request<in out Q, in out A, in out E, out On> {
  readonly channel: Channel.Channel<Q, never, On>
  readonly reply: Schema.ConstraintCodec<A, unknown>
  readonly errors: Schema.ConstraintCodec<E, unknown> | undefined
  readonly codec: Channel.Codec
  /** Milliseconds. */
  readonly deadline: number
}

/** Options of a request. */
export interface Options<A, E> {
  /** What is answered. */
  readonly reply: Schema.ConstraintCodec<A, unknown>
  /** The errors that a caller is told. Default: none; every failure is then a `RemoteError` that says nothing of it. */
  readonly errors?: Schema.ConstraintCodec<E, unknown> | undefined
  /** How long a caller waits. Default: 30 seconds. */
  readonly deadline?: Duration.Input | undefined
  /** How answers are written. Default: JSON. */
  readonly codec?: Channel.Codec | undefined
}

export const check = OptionCheck.make("Request")

/**
 * Makes a channel one of requests: what `client` sends and `answer` answers.
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
export const make = <Q, On, A, E = never>(
  channel: Channel.Channel<Q, never, On>,
  options: Options<A, E>
): Request<Q, A, E, On> => ({
  channel,
  reply: options.reply,
  errors: options.errors,
  codec: options.codec ?? Channel.json,
  deadline: check.millis("deadline", options.deadline ?? "30 seconds")
})

/** The attributes of what is counted. */
export const attributesOf = (channel: string) => ({ "messaging.destination.name": channel })
