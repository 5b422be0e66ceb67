/**
 * Publishing what a handler answers, inside the chain: a publish that fails is a failure that `Retry` and `DeadLetter` see,
 * and the message is not acknowledged before its answer is confirmed.
 */
import { Effect, Exit } from "effect"
import type { Broker } from "../broker/Broker.ts"
import type { BrokerError } from "../broker/BrokerError.ts"
import * as Publisher from "../broker/Publisher.ts"
import * as Channel from "../model/Channel.ts"
import * as Headers from "../model/Headers.ts"
import { type Message, Outgoing } from "../model/Message.ts"
import * as Outcome from "../model/Outcome.ts"
import * as Description from "../pipeline/Description.ts"
import type { Config, Make, OnAnswer, Refuse } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import type { NoPublisher, Said } from "../pipeline/Misplaced.ts"

/** Names of the headers that link a message to the one that caused it. */
export const names = {
  /** One id for all messages of one request or process; copied. */
  correlation: "correlation-id",
  /** The message that caused this one: its `message-id`, else `CHANNEL/PARTITION/POSITION`. */
  causation: "causation-id",
  message: "message-id",
  /** The channel that an answer is wanted on. */
  replyTo: "reply-to"
} as const

/** Options of `middleware`. */
export interface Options<P> {
  /** Default: the channel's key of the answer. */
  readonly key?: ((answer: P, message: Message<unknown>) => string | undefined) | undefined
  /** Beside those of `names`, over which they rule. */
  readonly headers?:
    | { readonly [name: string]: string }
    | ((answer: P, message: Message<unknown>) => { readonly [name: string]: string })
    | undefined
}

/** Options with publish middlewares. */
export interface Through<P, T> extends Options<P> {
  /** Publish middlewares: a middleware, a stack over `Outgoing<P>`, or a function of the innermost handler. */
  readonly through: T
}

type Failing = Publisher.EncodeError | BrokerError

const order: Description.Description["order"] = [
  { inside: "Retry", because: "outside it, a publish that fails is not tried again" },
  { inside: "DeadLetter", because: "outside it, a message whose answer cannot be published is not dead-lettered" }
]

const headersOf = <P>(options: Options<P>, answer: P, message: Message<unknown>, correlation: string | undefined) => {
  const headers: Record<string, string> = Object.create(null)
  if (correlation !== undefined) headers[names.correlation] = correlation
  headers[names.causation] = message.headers[names.message] ??
    `${message.channel}/${message.partition}/${message.position}`
  const own = typeof options.headers === "function" ? options.headers(answer, message) : options.headers
  for (const name in own) headers[name.toLowerCase()] = own[name]!
  return headers
}

type Build<P> = (answer: P, message: Message<unknown>) => Outgoing<P> | undefined

const wrap = <P, E, R>(
  description: Pick<Description.Description, "shows">,
  send: (outgoing: Outgoing<P>) => Effect.Effect<void, E, R>,
  build: Build<P>
) =>
  Middleware.make<{ message: Message<unknown> }>()(
    { name: "Publish", stage: "publish", shows: description.shows, order },
    (next) => (message) =>
      Effect.flatMapEager(next(message), (answer): Middleware.Returns<E, R> => {
        // the mark stands for the handler's answer, which the type of `middleware` demands
        const value = answer as P | Outcome.Outcome
        if (Outcome.isOutcome(value)) return Exit.succeed(answer)
        const outgoing = build(value, message)
        return outgoing === undefined ? Exit.succeed(answer) : Effect.mapEager(send(outgoing), () => answer)
      })
  )

const steps = (target: Description.Described): ReadonlyArray<string> | undefined => {
  const found = Description.of(target).slice(0, -1).map((description) => description.name)
  return found.length === 0 ? undefined : found
}

/** What a handler inside may answer: a payload, `undefined` for none, or an outcome. */
export type Answered<P> = P | Outcome.Outcome | undefined

type Publishes<P, E, R> = OnAnswer<Message<unknown>, Answered<P>, Make<{ requires: R; fails: E }>>

/**
 * Publishes the handler's answer to a channel, and answers it too, once the broker has confirmed it.
 *
 * In: any consumed message, and a handler that answers the channel's payload; `undefined` and outcomes are not published. The
 * `Broker` enters `R`, `EncodeError` (dead-lettered: the handler answered what the channel does not take) and `BrokerError`
 * (settled by its class) enter `E`, beside what `through` adds. The published message has the `correlation-id` of the one
 * that was handled, and a `causation-id` that names it.
 *
 * A `Retry` outside runs the handler again when the publish has failed; a `Retry` in `through` repeats the publish alone.
 *
 * **Example** (an invoice for each order)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, type Message, Publish, Retry } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 * const Orders = Channel.make("orders", { payload: Order })
 * const Invoices = Channel.make("invoices", { payload: Schema.Struct({ order: Schema.String }) })
 *
 * const handler = pipe(
 *   (message: Message<typeof Order.Type>) => Effect.succeed({ order: message.payload.id }),
 *   Publish.middleware(Invoices, { key: (invoice) => invoice.order }),
 *   Retry.middleware(),
 *   Decode.middleware(Orders)
 * )
 * ```
 *
 * @throws OrderError when the publish middlewares stand in a wrong order
 * @category constructors
 */
export const middleware: {
  <P>(channel: Channel.Channel<P>, options?: Options<P>): Publishes<P, Failing, Broker>
  <P, E, R>(
    channel: Channel.Channel<P>,
    options: Through<P, Publisher.Through<P, E, R>>
  ): Publishes<P, E | BrokerError, R | Broker>
  <P, L extends ReadonlyArray<Config>>(
    channel: Channel.Channel<P>,
    options: Through<P, Publisher.ThroughStack<P, L>>
  ): Publishes<P, Publisher.Folded<L>["E"] | BrokerError, Publisher.Folded<L>["R"] | Broker>
  <P, T>(
    channel: Channel.Channel<P>,
    options: Through<P, Said<T, NoPublisher<T, P>>>
  ): Publishes<P, BrokerError, Broker>
} = <P, E, R>(
  channel: Channel.Channel<P>,
  // nothing is of the type that says why it is refused
  options: Options<P> & { readonly through?: Publisher.AnyThrough<P, E, R> | Refuse<string> } = {}
): Publishes<P, E | BrokerError, R | Broker> => {
  const send = Publisher.sender(channel, options.through as Publisher.AnyThrough<P, E, R> | undefined)
  const built: unknown = wrap(
    { shows: { channel: channel.name, through: steps(send) } },
    send,
    (answer, message) =>
      answer === undefined ? undefined : Publisher.message(channel, answer, {
        key: options.key?.(answer, message),
        headers: headersOf(options, answer, message, message.headers[names.correlation])
      })
  )
  // that the answer is a payload is asked for by the type, and not known to the marks
  return built as Publishes<P, E | BrokerError, R | Broker>
}

const anything = Channel.unchecked("reply-to")

/**
 * Publishes the handler's answer to the channel that the message names in its `reply-to` header; with a channel, to that one
 * where the header is missing; with neither, nowhere.
 *
 * The reply's `correlation-id` is the request's, else the request's `message-id`. It is encoded by the channel; without one as
 * JSON, `undefined` as null. Outcomes are not published. In all else as `middleware`.
 *
 * Whoever can publish a request names the channel of its reply: give `allow` where requests come from outside.
 *
 * **Example** (answers for whoever asks)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Message, Publish } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed({ bytes: message.payload.length }),
 *   Publish.reply({ allow: (channel) => channel.startsWith("replies.") })
 * )
 * ```
 *
 * @throws OrderError when the publish middlewares stand in a wrong order
 * @category constructors
 */
export const reply: {
  <P, E, R>(options: ReplyThrough<P, Publisher.Through<P, E, R>>): Publishes<P, E | BrokerError, R | Broker>
  <P, L extends ReadonlyArray<Config>>(
    options: ReplyThrough<P, Publisher.ThroughStack<P, L>>
  ): Publishes<P, Publisher.Folded<L>["E"] | BrokerError, Publisher.Folded<L>["R"] | Broker>
  <P>(options: ReplyOptions<P> & { readonly channel: Channel.Channel<P> }): Publishes<P, Failing, Broker>
  (options?: ReplyOptions<unknown>): Publishes<unknown, Failing, Broker>
} = <P, E, R>(
  options: ReplyOptions<P> & { readonly through?: Publisher.AnyThrough<P, E, R> } = {}
): Publishes<P, E | BrokerError, R | Broker> => {
  const { allow, channel } = options
  // without a channel, P is unknown
  const codec = channel ?? anything as unknown as Channel.Channel<P>
  const send = Publisher.sender(codec, options.through)
  const shows = { to: names.replyTo, channel: channel?.name, through: steps(send) }
  const built: unknown = wrap({ shows }, send, (answer, message) => {
    const named = message.headers[names.replyTo]
    const to = named !== undefined && (allow === undefined || allow(named)) ? named : channel?.name
    if (to === undefined) return undefined
    const value = answer === undefined && channel === undefined ? null as P : answer
    const correlation = message.headers[names.correlation] ?? message.headers[names.message]
    return new Outgoing(
      to,
      value,
      options.key === undefined ? codec.key?.(value) : options.key(value, message),
      Headers.fromRecord(headersOf(options, value, message, correlation))
    )
  })
  // as in `middleware`
  return built as Publishes<P, E | BrokerError, R | Broker>
}

/** Options of `reply`. */
export interface ReplyOptions<P> extends Options<P> {
  /** Types and encodes the answer, and is where it goes without a `reply-to` header. */
  readonly channel?: Channel.Channel<P> | undefined
  /** Which channels a `reply-to` header may name; any other is taken as missing. Default: every one. */
  readonly allow?: ((channel: string) => boolean) | undefined
}

/** Options of `reply` with publish middlewares. */
export interface ReplyThrough<P, T> extends ReplyOptions<P> {
  /** As in `middleware`. */
  readonly through: T
}
