/**
 * Publishes values of a channel's type: each value passes the publish middlewares, is encoded, and is confirmed by the
 * broker.
 */
import { Data, type Duration, Effect, Exit, SchemaIssue } from "effect"
import * as Address from "../message/Address.ts"
import type { Channel, Content } from "../message/Channel.ts"
import type { Codec } from "../message/Codec.ts"
import * as Correlation from "../message/Correlation.ts"
import { type Classified, classOf, isInstance, messageOf, retryAfterOf, tagOf } from "../message/Failure.ts"
import * as Headers from "../message/Headers.ts"
import { type NativeParts, Outgoing } from "../message/Message.ts"
import * as PayloadCodec from "../message/PayloadCodec.ts"
import * as After from "../pipeline/After.ts"
import { bounded, encoder as compile, explain } from "../pipeline/compile.ts"
import * as Description from "../pipeline/Description.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Config, Handler, Refuse } from "../pipeline/Handler.ts"
import type { NoPublisher, Said } from "../pipeline/Misplaced.ts"
import * as Order from "../pipeline/Order.ts"
import type { Run } from "../pipeline/inBatch.ts"
import * as PublishBatch from "../pipeline/publishBatch.ts"
import type { Fold, Stack } from "../pipeline/Stack.ts"
import { type Broker, keyOf, type Of } from "./Broker.ts"
import { BrokerError } from "../driver/BrokerError.ts"
import { written } from "./metadata.ts"
import { type Feature, has, unsupported } from "../driver/Features.ts"

/**
 * A payload, or a parameter of the address, that its channel does not accept (class `validation`), or a payload that its codec
 * could not encode now (the class of `cause`, e.g. `dependency` for a key service that is down); nothing was published.
 */
export class EncodeError extends Data.TaggedError("EncodeError")<{
  readonly channel: string
  readonly message: string
  /** A codec's own `PayloadError`, or the reason for the refusal. */
  readonly cause: unknown
}> {
  get failure(): PayloadCodec.PayloadError["failure"] {
    return isInstance(this.cause, PayloadCodec.PayloadError) ? this.cause.failure : "validation"
  }
  get retryAfter(): Duration.Duration | undefined {
    return isInstance(this.cause, PayloadCodec.PayloadError) ? this.cause.retryAfter : undefined
  }
}

/** Options of a publish. */
export interface Options {
  /** Default: the channel's key of the payload. */
  readonly key?: string | undefined
  readonly headers?: { readonly [name: string]: string } | undefined
}

/** Options of a publish, with those of the declared features. */
export type Featured<F extends Feature> =
  & Options
  & ("partition" extends F ? {
      /** The partition that the message goes to, an integer from 0. Default: by the key, as the broker chooses. */
      readonly partition?: number | undefined
    }
    : {})
  & ("timestamp" extends F ? {
      /** Unix time in milliseconds that the broker keeps as the message's timestamp. Default: the time of the publish. */
      readonly timestamp?: number | undefined
    }
    : {})

/** The parameters of an address; nothing if it has none. */
export type At<Name extends string> = [Name] extends [never] ? {} : {
  /** The values of the address's parameters. */
  readonly parameters: Address.Parameters<Name>
}

/** The arguments after a payload: options, required if the channel's address has parameters. */
export type Beside<Name extends string, Own = Options> = [Name] extends [never] ? [options?: Own | undefined]
  : [options: Own & At<Name>]

interface Encodes<P> {
  /** Makes the error of a value that is refused. */
  readonly refused: (cause: unknown, payload?: P) => EncodeError
  /** Turns a payload into the codec's raw value: an Exit, unless the schema itself suspends. */
  readonly raw: (payload: P) => Effect.Effect<unknown, EncodeError>
}

/** The schema's part of encoding, compiled once. */
const checked = <P>({ content, name }: Channel<P, string, unknown, unknown>): Encodes<P> => {
  const refused = (cause: unknown, payload?: P): EncodeError => {
    const found = SchemaIssue.isIssue(cause) && content._tag === "schema"
      ? explain(cause, content.schema, { value: payload })
      : { path: "", message: bounded(messageOf(cause) || tagOf(cause)) }
    const place = found.path === "" ? "" : ` at ${found.path}`
    return new EncodeError({ channel: name, cause, message: `Not a payload of ${name}: ${found.message}${place}` })
  }
  if (content._tag !== "schema") return { refused, raw: Exit.succeed }
  const encode = compile(content.schema, content.codec.values)
  return { refused, raw: (payload) => Effect.mapErrorEager(encode(payload), (cause) => refused(cause, payload)) }
}

/**
 * Makes the encoder of a channel whose codec is a plain one, compiled once; it returns an Exit, unless the schema itself
 * suspends. Undefined for a channel whose codec sees the message.
 */
export const encoder = <P>(
  channel: Channel<P, string, unknown, unknown>
): ((payload: P) => Effect.Effect<Uint8Array, EncodeError>) | undefined => {
  const { content } = channel
  // a channel of bytes has P = Uint8Array by construction
  if (content.codec === undefined) return (payload) => Exit.succeed(payload as Uint8Array)
  const { plain } = content.codec
  return plain === undefined ? undefined : plainly(checked(channel), plain)
}

const plainly = <P>(
  { raw, refused }: Encodes<P>,
  codec: Codec
): (payload: P) => Effect.Effect<Uint8Array, EncodeError> => {
  const write = (value: unknown): Exit.Exit<Uint8Array, EncodeError> => {
    try {
      return Exit.succeed(codec.encode(value))
    } catch (cause) {
      return Exit.fail(refused(cause))
    }
  }
  return (payload) => Effect.flatMapEager(raw(payload), write)
}

/**
 * Makes a message of a channel, before it is encoded.
 *
 * @throws EncodeError when a parameter does not fit the channel's address
 */
export const message = <P>(
  channel: Channel<P, string, unknown, unknown>,
  payload: P,
  options?: Options & NativeParts & { readonly parameters?: Address.Parameters<string> | undefined }
): Outgoing<P> =>
  new Outgoing(
    channel.pattern === undefined ? channel.name : nameOf(channel.name, channel.pattern, options?.parameters),
    payload,
    options?.key ?? channel.key?.(payload),
    Correlation.linked(options?.headers === undefined ? Headers.empty : Headers.fromRecord(options.headers)),
    options === undefined ? undefined : nativeOf(options),
    undefined,
    channel.pattern?.address
  )

const nativeOf = ({ partition, timestamp, tombstone }: NativeParts): NativeParts | undefined =>
  partition === undefined && timestamp === undefined && tombstone === undefined
    ? undefined
    : { partition, timestamp, tombstone }

/** Returns the channel name of an address with these values. */
const nameOf = (name: string, pattern: Address.Pattern, parameters: Address.Parameters<string> | undefined): string => {
  try {
    return Address.fill(pattern, parameters ?? {})
  } catch (cause) {
    throw new EncodeError({ channel: name, cause, message: messageOf(cause) || tagOf(cause) })
  }
}

/** Turns an `EncodeError` that `message` throws into an error of the effect. */
export const attempt = <A, E, R>(effect: () => Effect.Effect<A, E, R>): Effect.Effect<A, E | EncodeError, R> => {
  try {
    return effect()
  } catch (error) {
    return error instanceof EncodeError ? Exit.fail(error) : Exit.die(error)
  }
}

/** Encodes a message for a broker of `system`. */
type Encode<P, C> = (outgoing: Outgoing<P>, system: string) => Effect.Effect<Outgoing<Uint8Array>, EncodeError, C>

const nothing = new Uint8Array(0)

const typed = <P>(outgoing: Outgoing<P>, contentType: string | undefined): Outgoing<P> =>
  contentType === undefined || outgoing.headers["content-type"] !== undefined
    ? outgoing
    : outgoing.withHeader("content-type", contentType)

/** Makes the function that encodes messages of a channel, compiled once. */
export const encodes = <P, C>(channel: Channel<P, string, unknown, C>): Encode<P, C> => {
  // a channel of bytes without a codec is plain
  const { codec = PayloadCodec.bytes } = channel.content
  const { contentType } = codec
  const plain = encoder(channel)
  if (plain !== undefined) {
    return (outgoing) => {
      // a tombstone has no payload to encode, even if a middleware has set one
      if (outgoing.native?.tombstone === true) return Exit.succeed(outgoing.withPayload(nothing))
      return Effect.mapEager(plain(outgoing.payload), (bytes) => typed(outgoing.withPayload(bytes), contentType))
    }
  }
  const { raw, refused } = checked(channel)
  return (outgoing, system) => {
    if (outgoing.native?.tombstone === true) return Exit.succeed(outgoing.withPayload(nothing))
    const whole = typed(outgoing, contentType)
    return Effect.flatMapEager(
      raw(outgoing.payload),
      (value) =>
        Effect.mapErrorEager(
          Effect.mapEager(codec.encode(value, written(whole, system)), (encoded) => whole.withBody(encoded)),
          (cause) => refused(cause)
        )
    )
  }
}

/** The innermost handler of a publish chain: encodes, and publishes to the broker. */
export type Innermost<P, B = Broker> = Handler<Outgoing<P>, void, EncodeError | BrokerError, B>

/** Makes the innermost publish handler of a channel: encodes, sets the content type, and publishes to the broker. */
export const handler = <P, On = never, C = never>(channel: Channel<P, string, On, C>): Innermost<P, Of<On> | C> =>
  innermost(channel, encodes(channel), () => {})

const innermost = <P, On, C>(
  channel: Channel<P, string, On, C>,
  encode: Encode<P, C>,
  check: (broker: Broker["Service"]) => void
): Innermost<P, Of<On> | C> => {
  const key = keyOf(channel)
  return (outgoing) =>
    Effect.flatMapEager(Eager.service(key), (broker) => {
      check(broker)
      return Effect.flatMapEager(encode(outgoing, broker.system), (encoded) => broker.publish(encoded))
    })
}

/** As `innermost`, for the messages of one batch. */
const innermostAll = <P, On, C>(
  channel: Channel<P, string, On, C>,
  encode: Encode<P, C>,
  check: (broker: Broker["Service"]) => void
): Run => {
  const key = keyOf(channel)
  return (entries) => {
    const batch: Array<Outgoing<Uint8Array>> = []
    const from = (
      at: number,
      broker: Broker["Service"]
    ): Effect.Effect<void, EncodeError | BrokerError, Of<On> | C> => {
      for (let i = at; i < entries.length; i++) {
        // the middlewares of this channel pass payloads of its type
        const encoded = encode(entries[i]!.message as Outgoing<P>, broker.system)
        if (!Eager.isDone(encoded)) {
          return Effect.flatMap(encoded, (message) => {
            batch.push(message)
            return from(i + 1, broker)
          })
        }
        if (encoded._tag === "Failure") return Exit.failCause(encoded.cause)
        batch.push(encoded.value)
      }
      return broker.publishAll(batch)
    }
    return Effect.flatMapEager(Eager.service(key), (broker) => {
      check(broker)
      return from(0, broker)
    })
  }
}

/** Publish middlewares: a function of the innermost handler, e.g. a middleware, or `(next) => pipe(next, inner, outer)`. */
export interface Through<P, E, R, B = Broker> {
  (next: Innermost<P, B>): Handler<Outgoing<P>, unknown, E, R>
}

/** Publish middlewares as a stack. */
export type ThroughStack<P, L extends ReadonlyArray<Config>> = Stack<Outgoing<P>, Outgoing<P>, L>

/** The errors and needs of a publish through a stack. */
export type Folded<L extends ReadonlyArray<Config>, B = Broker> = Fold<
  L,
  { A: void; E: EncodeError | BrokerError; R: B }
>

/** Publish middlewares in either form. */
export type AnyThrough<P, E, R, B = Broker> = Through<P, E, R, B> | {
  readonly handle: (next: never) => Handler<Outgoing<P>, unknown, unknown, unknown>
}

/** Publishes values of a channel's type: to one channel, or to the channel that the address parameters `Name` select. */
export interface Publisher<in P, out E, out R, in Name extends string = never> extends Description.Described {
  readonly channel: string
  /**
   * Publishes one message on each run; completes when the broker has confirmed it and the hooks of the publish middlewares
   * have run.
   */
  publish(payload: P, ...options: Beside<Name>): Effect.Effect<void, E, R>
  /**
   * Publishes messages in order, as one batch; completes when the broker has confirmed all and the hooks of the publish
   * middlewares have run. A message that fails before it reaches the broker fails the batch, and none is published. A `Retry`
   * publishes the whole batch again. Headers of `options` go on every message.
   */
  publishAll(
    payloads: ReadonlyArray<P>,
    ...options: Beside<Name, Pick<Options, "headers">>
  ): Effect.Effect<void, E, R>
}

/** Describes a channel that is published to, for documents. */
export const sentTo = <P>({ content, name, pattern }: Channel<P, string, unknown, unknown>): Description.Sent => ({
  name,
  pattern,
  // read for its schema only
  content: content as Content<never>
})

const composed = <P, E, R, On, C>(
  channel: Channel<P, string, On, C>,
  through: AnyThrough<P, E, R, Of<On> | C> | undefined
): Handler<Outgoing<P>, unknown, E, R> & Description.Described => {
  const encode = encodes(channel)
  let steps: ReadonlyArray<Description.Description> = []
  let seen: ReadonlyArray<Description.Description> | undefined
  /** Checks the order with the middlewares of `Broker.wrap`, which run inside those of the publisher. */
  const check = (broker: Broker["Service"]): void => {
    const around = broker[Description.DescriptionId]
    if (around === undefined || around === seen) return
    Order.check({ [Description.DescriptionId]: [...steps, ...around] })
    seen = around
  }
  const last = Description.describe(innermost(channel, encode, check), [{
    name: "Broker",
    stage: "publish",
    shows: { channel: channel.name },
    sends: [sentTo(channel)]
  }])
  const chain = PublishBatch.chain(
    last,
    innermostAll(channel, encode, check),
    (next): Handler<Outgoing<P>, unknown, E, R> =>
      through === undefined
        // without middlewares E and R are the innermost handler's
        ? next as unknown as Handler<Outgoing<P>, unknown, E, R>
        : typeof through === "function"
        ? through(next)
        // E and R are the fold of its list of configs
        : through.handle(next as never) as Handler<Outgoing<P>, unknown, E, R>
  )
  Order.check(chain)
  steps = Description.of(chain)
  return chain
}

/** The error of a publish whose hook has failed. */
export const hookFailed = (error: Classified): BrokerError =>
  new BrokerError({
    system: "millrace",
    operation: "publish",
    reason: "Refused",
    message: `A hook of a publish middleware failed after publishing: ${tagOf(error)}`,
    failure: classOf(error) ?? "permanent",
    retryAfter: retryAfterOf(error),
    cause: error
  })

/**
 * Composes a publish chain once: the returned function sends one message and runs its hooks, at the call. For middlewares;
 * programs use `make`.
 *
 * @throws OrderError when the middlewares stand in a wrong order
 */
export const sender = <P, On = never, C = never, E = EncodeError | BrokerError, R = Of<On> | C>(
  channel: Channel<P, string, On, C>,
  through?: AnyThrough<P, E, R, Of<On> | C> | undefined
): ((outgoing: Outgoing<P>) => Effect.Effect<void, E | BrokerError, R>) & Description.Described => {
  const chain = composed(channel, through)
  return Description.describe(sends(chain), Description.of(chain))
}

const sends = <P, E, R>(chain: Handler<Outgoing<P>, unknown, E, R>) => (outgoing: Outgoing<P>) =>
  Effect.asVoid(After.around(outgoing.fresh(), chain, hookFailed))

/**
 * Makes a publisher of a channel. All messages, single or in a batch, pass the publish middlewares in order. Each middleware
 * acts on a batch as the `inBatch` of its description says.
 *
 * `through` is a middleware, a stack over `Outgoing<P>`, or a function of the innermost handler. Its errors and needs are
 * those of publishing; without it these are `EncodeError | BrokerError` and the `Broker`. A failed hook of a middleware
 * becomes a `BrokerError` of reason `Refused`, of the hook's class.
 *
 * **Example** (with retries of its own; a batch that the broker refuses is published again as one)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Channel, Publisher, Retry } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 * const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
 *
 * const orders = Publisher.make(Orders, Retry.middleware())
 * const program = Effect.andThen(
 *   orders.publish({ id: "1", amount: 3 }),
 *   orders.publishAll([{ id: "2", amount: 5 }, { id: "3", amount: 7 }])
 * )
 * ```
 *
 * @throws OrderError when the middlewares stand in a wrong order
 * @category constructors
 */
export const make: {
  <P, Name extends string, On, C>(
    channel: Channel<P, Name, On, C>
  ): Publisher<P, EncodeError | BrokerError, Of<On> | C, Name>
  <P, Name extends string, On, C, E, R>(
    channel: Channel<P, Name, On, C>,
    through: Through<P, E, R, Of<On> | C>
  ): Publisher<P, E | Failing<Name>, R | Of<On>, Name>
  <P, Name extends string, On, C, L extends ReadonlyArray<Config>>(
    channel: Channel<P, Name, On, C>,
    through: ThroughStack<P, L>
  ): Publisher<P, Folded<L, Of<On> | C>["E"] | Failing<Name>, Folded<L, Of<On> | C>["R"] | Of<On>, Name>
  <P, Name extends string, On, C, T>(
    channel: Channel<P, Name, On, C>,
    through: Said<T, NoPublisher<T, P>>
  ): Publisher<P, BrokerError, Of<On>, Name>
} = <P, Name extends string, On, C, E, R>(
  channel: Channel<P, Name, On, C>,
  // no value has the type that explains the refusal
  through?: AnyThrough<P, E, R, Of<On> | C> | Refuse<string> | undefined
): Publisher<P, E | BrokerError | EncodeError, R | Of<On>, Name> => {
  const chain = composed(channel, through as AnyThrough<P, E, R, Of<On> | C> | undefined)
  const send = sends(chain)
  return {
    channel: channel.name,
    [Description.DescriptionId]: Description.of(chain),
    publish: (payload, ...[options]) => Effect.suspend(() => attempt(() => send(message(channel, payload, options)))),
    publishAll: (payloads, ...[options]) =>
      Effect.suspend(() =>
        attempt(() =>
          PublishBatch.publish(
            chain,
            payloads.map((payload) => message(channel, payload, options)),
            hookFailed
          )
        )
      )
  }
}

/** A publisher that declares which features of its broker it uses. */
export type Using<P, E, R, Name extends string, F extends Feature> =
  & Omit<Publisher<P, E, R, Name>, "publish" | "publishAll">
  & {
    /** As `Publisher.publish`, with the options of the declared features. */
    publish(payload: P, ...options: Beside<Name, Featured<F>>): Effect.Effect<void, E, R>
    /** As `Publisher.publishAll`; partition and timestamp of `options` are those of every message. */
    publishAll(
      payloads: ReadonlyArray<P>,
      ...options: Beside<Name, Omit<Featured<F>, "key">>
    ): Effect.Effect<void, E, R>
  }
  & ("tombstone" extends F ? {
      /** Publishes a null body: in a compacted topic, the deletion of the key. Headers and the rest are as in `publish`. */
      tombstone(key: string, ...options: Beside<Name, Omit<Featured<F>, "key">>): Effect.Effect<void, E, R>
    }
    : {})

/** The payload that the publish middlewares of such a publisher see: a tombstone has none. */
type Seen<P, F extends Feature> = "tombstone" extends F ? P | undefined : P

/**
 * Makes a publisher that chooses partitions, sets timestamps or publishes tombstones, as its declared features allow.
 *
 * In: the channel, the features, and publish middlewares as in `make`; with `tombstone`, these see `undefined` as the payload
 * of a tombstone. Out: an effect that checks the features of the channel's broker and returns the publisher, without the
 * options and methods of undeclared features. A timestamp counts whole milliseconds, of which a broker may keep the seconds
 * only: see `timestamps` in its capabilities.
 *
 * Fails with a `BrokerError` of reason `Unsupported`, without a publisher, if the broker lacks a declared feature. Publishing
 * fails as that of `make` does, and with `Invalid` if the channel has no such partition: nothing is written.
 *
 * **Example** (a table of prices in a compacted topic)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Channel, MemoryBroker, Publisher } from "@millrace/core"
 *
 * const Price = Schema.Struct({ item: Schema.String, cents: Schema.Int })
 * const Prices = Channel.make("prices", { payload: Price, key: (price) => price.item })
 *
 * const program = Effect.gen(function*() {
 *   const prices = yield* Publisher.using(Prices, ["timestamp", "tombstone"])
 *   yield* prices.publish({ item: "tea", cents: 350 }, { timestamp: Date.UTC(2030, 0, 1) })
 *   yield* prices.tombstone("coffee")
 * })
 * await Effect.runPromise(Effect.provide(program, MemoryBroker.layer()))
 * ```
 *
 * @throws OrderError when the middlewares stand in a wrong order
 * @category constructors
 */
export const using: {
  <P, Name extends string, On, C, const F extends Feature>(
    channel: Channel<P, Name, On, C>,
    features: ReadonlyArray<F>
  ): Effect.Effect<Using<P, EncodeError | BrokerError, Of<On> | C, Name, F>, BrokerError, Of<On>>
  <P, Name extends string, On, C, const F extends Feature, E, R>(
    channel: Channel<P, Name, On, C>,
    features: ReadonlyArray<F>,
    through: Through<Seen<P, F>, E, R, Of<On> | C>
  ): Effect.Effect<Using<P, E | Failing<Name>, R | Of<On>, Name, F>, BrokerError, Of<On>>
  <P, Name extends string, On, C, const F extends Feature, L extends ReadonlyArray<Config>>(
    channel: Channel<P, Name, On, C>,
    features: ReadonlyArray<F>,
    through: ThroughStack<Seen<P, F>, L>
  ): Effect.Effect<
    Using<P, Folded<L, Of<On> | C>["E"] | Failing<Name>, Folded<L, Of<On> | C>["R"] | Of<On>, Name, F>,
    BrokerError,
    Of<On>
  >
} = <P, Name extends string, On, C, F extends Feature, E, R>(
  channel: Channel<P, Name, On, C>,
  features: ReadonlyArray<F>,
  through?: AnyThrough<Seen<P, F>, E, R, Of<On> | C>
): Effect.Effect<Using<P, E | BrokerError | EncodeError, R | Of<On>, Name, F>, BrokerError, Of<On>> => {
  // the innermost handler accepts a tombstone with any payload, so both kinds of message pass one chain
  const chain = composed<P, E, R, On, C>(channel, through as unknown as AnyThrough<P, E, R, Of<On> | C> | undefined)
  const send = sender<P, On, C, E, R>(channel, () => chain)
  const publisher = through === undefined ? make(channel) : make<P, Name, On, C, E, R>(channel, () => chain)
  const tombstone = (key: string, options?: Options & NativeParts) =>
    Effect.suspend(() => attempt(() => send(message(channel, undefined as P, { ...options, key, tombstone: true }))))
  const own = features.some((feature) => feature === "tombstone") ? { ...publisher, tombstone } : publisher
  // a publisher passes all of its options to `message`, which knows those of the features
  const featured = own as unknown as Using<P, E | BrokerError | EncodeError, R | Of<On>, Name, F>
  return Effect.flatMap(keyOf(channel), ({ capabilities, system }) => {
    const lacking = features.find((feature) => !has(capabilities, feature))
    return lacking === undefined
      ? Effect.succeed(featured)
      : Effect.fail(unsupported(system, channel.name, lacking))
  })
}

/** The errors of a publish beside those of its middlewares: address parameters may not fit. */
type Failing<Name extends string> = BrokerError | ([Name] extends [never] ? never : EncodeError)
