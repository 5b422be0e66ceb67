/**
 * A channel is one value that types both ends: publishes and subscriptions, and also the documentation.
 */
import type { Context, Schema } from "effect"
import * as Address from "./Address.ts"
import { type Codec, json } from "./Codec.ts"
import type { Raw } from "./Message.ts"
import * as PayloadCodec from "./PayloadCodec.ts"

export { type Codec, json } from "./Codec.ts"

/** The check of a channel's payload: by a schema, by the codec alone, or none; the codec needs the services `R`. */
export type Content<P, R = unknown> =
  | {
    readonly _tag: "schema"
    readonly schema: Schema.ConstraintCodec<P, unknown>
    readonly codec: PayloadCodec.PayloadCodec<R>
  }
  | { readonly _tag: "unchecked"; readonly codec: PayloadCodec.PayloadCodec<R> }
  /** Without a codec, the body is the payload. */
  | { readonly _tag: "bytes"; readonly codec: PayloadCodec.PayloadCodec<R> | undefined }

/**
 * A named channel with payloads of type `P`; `Name` are the parameters of its address, and `On` is its broker; never is the
 * program's own broker. `R` are the services that its codec needs.
 */
export interface Channel<in out P, out Name extends string = never, out On = never, out R = never> {
  readonly name: string
  /** The address, if it has parameters: the channel then stands for every channel whose name matches. */
  readonly pattern: Address.Pattern | undefined
  readonly content: Content<P, R>
  /** The key of a payload: messages with equal keys are handled in order. */
  readonly key: ((payload: P) => string | undefined) | undefined
  /** The service of the channel's broker; undefined means the program's `Broker`. Set by `Broker.on`. */
  readonly broker: Context.Key<On, unknown> | undefined
  /** Types only: the bytes of this channel. */
  readonly "~raw"?: Raw<P>
  /** Types only: the parameters of its address. */
  readonly "~parameters"?: { readonly names: Name }
}

/** Options of a channel with a schema. */
export interface Options<P, R = never> {
  readonly payload: Schema.ConstraintCodec<P, unknown>
  /** The key under which a payload is published. Default: none. */
  readonly key?: ((payload: P) => string | undefined) | undefined
  /** Default: JSON. */
  readonly codec?: Codec | PayloadCodec.PayloadCodec<R> | undefined
}

const named = <P, R, Text extends string>(
  name: Text,
  content: Content<P, R>,
  key?: ((payload: P) => string | undefined) | undefined
): Channel<P, Address.Names<Text>, never, R> => {
  if (name === "") throw new RangeError("Channel: a name is needed, and it is empty")
  return { name, pattern: Address.pattern(name), content, key, broker: undefined }
}

/**
 * Makes a channel whose payloads are checked by a schema on publish and on receive.
 *
 * A name may have parameters, `{name}` for one segment and `{+name}` for the rest: a subscription then reads every channel
 * that matches, and a publisher chooses one of them.
 *
 * **Example** (orders, in order for each customer)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Channel } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, customer: Schema.String, amount: Schema.Number })
 * const Orders = Channel.make("orders", { payload: Order, key: (order) => order.customer })
 * const Created = Channel.make("orders.{region}.created", { payload: Order })
 * ```
 *
 * @throws RangeError when the name is empty, AddressError when it is not a valid address
 * @category constructors
 */
export const make = <P, const Text extends string, R = never>(
  name: Text,
  options: Options<P, R>
): Channel<P, Address.Names<Text>, never, R> =>
  named(
    name,
    { _tag: "schema", schema: options.payload, codec: PayloadCodec.of<R>(options.codec ?? json) },
    options.key
  )

/**
 * Makes a channel without a schema, whose payloads are decoded by the codec alone: JSON of any shape by default.
 *
 * @throws RangeError when the name is empty, AddressError when it is not a valid address
 * @category constructors
 */
export const unchecked = <const Text extends string, R = never>(
  name: Text,
  codec: Codec | PayloadCodec.PayloadCodec<R> = json
): Channel<unknown, Address.Names<Text>, never, R> =>
  named(name, { _tag: "unchecked", codec: PayloadCodec.of<R>(codec) })

/**
 * Makes a channel without a schema, whose payloads are the raw bytes; `codec` puts transforms around them, as in
 * `PayloadCodec.through(PayloadCodec.bytes, [Compression.make()])`.
 *
 * @throws RangeError when the name is empty, AddressError when it is not a valid address
 * @category constructors
 */
export const bytes = <const Text extends string, R = never>(
  name: Text,
  codec?: PayloadCodec.PayloadCodec<R> | undefined
): Channel<Uint8Array, Address.Names<Text>, never, R> => named(name, { _tag: "bytes", codec })

/** Copies a channel under another name. */
const renamed = <P, Name extends string, On, R, Other extends string>(
  channel: Channel<P, Name, On, R>,
  name: string
): Channel<P, Other, On, R> => ({
  name,
  pattern: Address.pattern(name),
  content: channel.content,
  key: channel.key,
  broker: channel.broker
})

/**
 * Makes the channel of an address with these parameter values.
 *
 * **Example** (orders of one region)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Channel } from "@millrace/core"
 *
 * const Created = Channel.make("orders.{region}.created", { payload: Schema.String })
 * console.log(Channel.at(Created, { region: "eu" }).name) // => orders.eu.created
 * ```
 *
 * @throws AddressError when a value does not fit its parameter
 */
export const at = <P, Name extends string, On, R>(
  channel: Channel<P, Name, On, R>,
  parameters: Address.Parameters<Name>
): Channel<P, never, On, R> =>
  channel.pattern === undefined
    // without parameters Name is never
    ? channel as Channel<P, never, On, R>
    : renamed(channel, Address.fill(channel.pattern, parameters))

/**
 * Copies the channel with a prefix before its name.
 *
 * @throws AddressError when prefix and name together are not a valid address
 */
export const prefixed = <P, Name extends string, On, R>(
  prefix: string,
  channel: Channel<P, Name, On, R>
): Channel<P, Name, On, R> => prefix === "" ? channel : renamed(channel, prefix + channel.name)

/**
 * Reads the parameter values from the channel name of a message: those of the channel through which it was subscribed.
 *
 * **Example** (the region of an order)
 *
 * ```ts
 * import { Effect, Schema } from "effect"
 * import { Channel, type Message } from "@millrace/core"
 *
 * const Created = Channel.make("orders.{region}.created", { payload: Schema.String })
 * const handler = (message: Message<string>) => Effect.log(Channel.parameters(Created, message).region)
 * ```
 *
 * @throws RangeError when the message's channel does not match
 */
export const parameters = <P, Name extends string, On>(
  channel: Channel<P, Name, On, unknown>,
  message: { readonly channel: string }
): Address.Parameters<Name> => {
  const values = channel.pattern === undefined ? {} : channel.pattern.match(message.channel)
  if (values === undefined) {
    throw new RangeError(
      `Channel: ${message.channel} does not fit ${channel.name}; behind a prefix, read by Channel.prefixed`
    )
  }
  // the pattern was parsed from the literal that typed Name
  return values as Address.Parameters<Name>
}
