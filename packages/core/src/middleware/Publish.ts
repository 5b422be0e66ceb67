/**
 * Publishes a handler's answer inside the chain: `Retry` and `DeadLetter` see a failed publish, and the message is not
 * acknowledged before the broker has confirmed its answer.
 */
import { Exit } from "effect"
import type { Of } from "../broker/Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import * as Publisher from "../broker/Publisher.ts"
import type * as Address from "../message/Address.ts"
import * as Channel from "../message/Channel.ts"
import * as Headers from "../message/Headers.ts"
import { type Message, Outgoing } from "../message/Message.ts"
import type * as Outcome from "../message/Outcome.ts"
import type { Config, FullConfig, OnAnswer, Refuse } from "../pipeline/Handler.ts"
import type { NoPublisher, Said } from "../pipeline/Misplaced.ts"
import { headersOf, names, type Options, publishing, repliesOf, steps, wrap } from "./publishing.ts"

export { names, type Options } from "./publishing.ts"

/** The address parameters of an answer's channel; empty for a channel without parameters. */
export type At<P, Name extends string> = [Name] extends [never] ? unknown : {
  /** The values of the address's parameters. */
  readonly parameters: (answer: P, message: Message<unknown>) => Address.Parameters<Name>
}

/** Options with publish middlewares. */
export interface Through<P, T> extends Options<P> {
  /** The publish middlewares: a middleware, a stack over `Outgoing<P>`, or a function of the innermost handler. */
  readonly through: T
}

type Failing = Publisher.EncodeError | BrokerError

/** The answers of the inner handler: a payload, `undefined` for none, or an outcome. */
export type Answered<P> = P | Outcome.Outcome | undefined

type Publishes<P, E, R> = OnAnswer<Message<unknown>, Answered<P>, FullConfig<{ requires: R; fails: E }>>

/**
 * Publishes the handler's answer to a channel, and returns it once the broker has confirmed it.
 *
 * In: any consumed message, and a handler that answers the channel's payload; `undefined` and outcomes are not published.
 * The `Broker` enters `R`, `EncodeError` (dead-lettered: the channel's schema refuses the answer) and `BrokerError`
 * (settled by its class) enter `E`, beside the errors of `through`. The published message has the `correlation-id` of the
 * handled message, from `Correlate` outside or its header, and a `causation-id` that names it.
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
  <P, On, C>(channel: Channel.Channel<P, never, On, C>, options?: Options<P>): Publishes<P, Failing, Of<On> | C>
  <P, Name extends string, On, C>(
    channel: Channel.Channel<P, Name, On, C>,
    options: Options<P> & At<P, Name>
  ): Publishes<P, Failing, Of<On> | C>
  <P, Name extends string, On, C, E, R>(
    channel: Channel.Channel<P, Name, On, C>,
    options: Through<P, Publisher.Through<P, E, R, Of<On> | C>> & At<P, Name>
  ): Publishes<P, E | Failed<Name>, R | Of<On>>
  <P, Name extends string, On, C, L extends ReadonlyArray<Config>>(
    channel: Channel.Channel<P, Name, On, C>,
    options: Through<P, Publisher.ThroughStack<P, L>> & At<P, Name>
  ): Publishes<P, Publisher.Folded<L, Of<On> | C>["E"] | Failed<Name>, Publisher.Folded<L, Of<On> | C>["R"] | Of<On>>
  <P, Name extends string, On, C, T>(
    channel: Channel.Channel<P, Name, On, C>,
    options: Through<P, Said<T, NoPublisher<T, P>>> & At<P, Name>
  ): Publishes<P, BrokerError, Of<On>>
} = <P, On, C, E, R>(
  channel: Channel.Channel<P, string, On, C>,
  // no value has the type that explains a refusal
  options: Options<P> & Partial<At<P, string>> & {
    readonly through?: Publisher.AnyThrough<P, E, R, Of<On> | C> | Refuse<string>
  } = {}
): Publishes<P, E | BrokerError, R | Of<On>> => {
  const send = Publisher.sender(channel, options.through as Publisher.AnyThrough<P, E, R, Of<On> | C> | undefined)
  const built: unknown = wrap(
    { shows: { channel: channel.name, through: steps(send) }, sends: [Publisher.sentTo(channel)] },
    send,
    (answer, message) =>
      answer === undefined ? undefined : Publisher.message(channel, answer, {
        key: options.key?.(answer, message),
        headers: headersOf(options, answer, message),
        parameters: options.parameters?.(answer, message)
      })
  )
  // the type requires the answer to be a payload, which the marks do not express
  return built as Publishes<P, E | BrokerError, R | Of<On>>
}

/** The errors of publishing, beside those of its middlewares; parameters that do not fit an address add `EncodeError`. */
type Failed<Name extends string> = BrokerError | ([Name] extends [never] ? never : Publisher.EncodeError)

/** A channel that takes payloads of `P`; its type says nothing of its codec, so no codec is inferred from it. */
type Takes<P> = Pick<Channel.Channel<P, never, unknown, unknown>, "name" | "key" | "broker" | "~raw" | "~parameters">

/** Channels by name; `route` requires beside it that they are channels and take the same payload. */
type Named = { readonly [name: string]: { readonly name: string } }

type PayloadOf<C> = C extends Channel.Channel<infer P, never, unknown, unknown> ? P : never

/** The broker of a channel, and the services of its codec. */
type NeedsOf<C> = C extends Channel.Channel<infer _, never, infer On, infer R> ? Of<On> | R : never

/**
 * Publishes the handler's answer to one of several channels, which a function of the answer and the message chooses by
 * name; undefined publishes nothing.
 *
 * Every channel takes the answer, each on its own broker. All else as in `middleware`.
 *
 * **Example** (large orders go elsewhere)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, type Message, Publish } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 * const Orders = Channel.make("orders", { payload: Order })
 * const Large = Channel.make("orders.large", { payload: Order })
 * const Small = Channel.make("orders.small", { payload: Order })
 *
 * const handler = pipe(
 *   (message: Message<typeof Order.Type>) => Effect.succeed(message.payload),
 *   Publish.route({ Large, Small }, (order) => order.amount > 100 ? "Large" : "Small"),
 *   Decode.middleware(Orders)
 * )
 * ```
 *
 * @category constructors
 */
export const route = <C extends Named>(
  channels: C & { readonly [Name in keyof C]: Takes<PayloadOf<C[keyof C]>> },
  choose: (answer: PayloadOf<C[keyof C]>, message: Message<unknown>) => keyof C | undefined,
  options: Options<PayloadOf<C[keyof C]>> = {}
): Publishes<PayloadOf<C[keyof C]>, Failing, NeedsOf<C[keyof C]>> => {
  type P = PayloadOf<C[keyof C]>
  // C holds channels, whose payloads the second part of its type has checked
  const list = Object.entries(channels as unknown as Record<string, Channel.Channel<P, never, unknown, unknown>>)
  const ways = new Map(list.map(([name, channel]) => [name, { channel, send: Publisher.sender(channel) }]))
  const shows = Object.fromEntries(list.map(([name, channel]) => [name, channel.name]))
  const sends = list.map(([, channel]) => Publisher.sentTo(channel))
  const built: unknown = publishing({ shows, sends }, (answer: P | undefined, message) => {
    const name = answer === undefined ? undefined : choose(answer, message)?.toString()
    if (name === undefined || answer === undefined) return undefined
    const way = ways.get(name)
    if (way === undefined) return Exit.die(new RangeError(`Publish.route: there is no channel ${name}`))
    return way.send(Publisher.message(way.channel, answer, {
      key: options.key?.(answer, message),
      headers: headersOf(options, answer, message)
    }))
  })
  // as in `middleware`
  return built as Publishes<P, Failing, NeedsOf<C[keyof C]>>
}

const anything = Channel.unchecked("reply-to")

/**
 * Publishes the handler's answer to the channel that the message names in its `reply-to` header; without that header to
 * `channel`, and without either nowhere.
 *
 * The reply's `correlation-id` is the request's, else the request's `message-id`; if that is not the id of the flow, the
 * reply has the flow's as `x-correlation-id`. The answer is encoded by the channel; without one as JSON, `undefined` as
 * null. Outcomes are not published. All else as in `middleware`.
 *
 * A handler that fails sends no reply; `Request.answer` replies with failures, too.
 *
 * The sender of a request names the channel of its reply: set `allow` if requests come from outside.
 *
 * **Example** (replies on allowed channels)
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
  <P, On, C, E, R>(
    options: ReplyThrough<P, Publisher.Through<P, E, R, Of<On> | C>, On, C>
  ): Publishes<P, E | BrokerError, R | Of<On>>
  <P, On, C, L extends ReadonlyArray<Config>>(
    options: ReplyThrough<P, Publisher.ThroughStack<P, L>, On, C>
  ): Publishes<P, Publisher.Folded<L, Of<On> | C>["E"] | BrokerError, Publisher.Folded<L, Of<On> | C>["R"] | Of<On>>
  <P, On, C>(
    options: ReplyOptions<P, On, C> & { readonly channel: Channel.Channel<P, never, On, C> }
  ): Publishes<P, Failing, Of<On> | C>
  (options?: ReplyOptions<unknown>): Publishes<unknown, Failing, Of<never>>
} = <P, On, C, E, R>(
  options: ReplyOptions<P, On, C> & { readonly through?: Publisher.AnyThrough<P, E, R, Of<On> | C> } = {}
): Publishes<P, E | BrokerError, R | Of<On>> => {
  const { allow, channel } = options
  // without a channel, P is unknown
  const codec = channel ?? anything as unknown as Channel.Channel<P, never, On, C>
  const send = Publisher.sender(codec, options.through)
  const shows = { to: names.replyTo, channel: channel?.name, through: steps(send) }
  const sends = channel === undefined ? undefined : [Publisher.sentTo(channel)]
  const built: unknown = wrap({ shows, sends }, send, (answer, message) => {
    const named = message.headers[names.replyTo]
    const to = named !== undefined && (allow === undefined || allow(named)) ? named : channel?.name
    if (to === undefined) return undefined
    const value = answer === undefined && channel === undefined ? null as P : answer
    return new Outgoing(
      to,
      value,
      options.key === undefined ? codec.key?.(value) : options.key(value, message),
      Headers.fromRecord(headersOf(options, value, message, repliesOf(message)))
    )
  })
  // as in `middleware`
  return built as Publishes<P, E | BrokerError, R | Of<On>>
}

/** Options of `reply`. */
export interface ReplyOptions<P, On = never, C = never> extends Options<P> {
  /** Types and encodes the answer, names its broker, and receives the answer without a `reply-to` header. */
  readonly channel?: Channel.Channel<P, never, On, C> | undefined
  /** Decides which channels a `reply-to` header may name; any other is treated as missing. Default: all. */
  readonly allow?: ((channel: string) => boolean) | undefined
}

/** Options of `reply` with publish middlewares. */
export interface ReplyThrough<P, T, On = never, C = never> extends ReplyOptions<P, On, C> {
  /** As in `middleware`. */
  readonly through: T
}
