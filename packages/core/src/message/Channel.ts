/**
 * A channel is one value that types both ends: publishes and subscriptions, and also the documentation.
 */
import type { Context, Schema } from "effect"
import * as Address from "./Address.ts"
import type { Raw } from "./Message.ts"

/** Turns values into bytes and back. Both functions may throw; the caller settles the throw as a poison message. */
export interface Codec {
  /** The media type that publishers write into `content-type`. */
  readonly contentType: string
  readonly encode: (value: unknown) => Uint8Array
  readonly decode: (bytes: Uint8Array) => unknown
}

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })

/** JSON by RFC 8259: UTF-8; other encodings are refused. */
export const json: Codec = {
  contentType: "application/json",
  encode: (value) => {
    const text: string | undefined = JSON.stringify(value)
    if (text === undefined) throw new TypeError(`JSON has no ${typeof value}`)
    return encoder.encode(text)
  },
  decode: (bytes) => JSON.parse(decoder.decode(bytes))
}

/** The check of a channel's payload: by a schema, by the codec alone, or none. */
export type Content<P> =
  | { readonly _tag: "schema"; readonly schema: Schema.ConstraintCodec<P, unknown>; readonly codec: Codec }
  | { readonly _tag: "unchecked"; readonly codec: Codec }
  | { readonly _tag: "bytes" }

/**
 * A named channel with payloads of type `P`; `Name` are the parameters of its address, and `On` is its broker; never is the
 * program's own broker.
 */
export interface Channel<in out P, out Name extends string = never, out On = never> {
  readonly name: string
  /** The address, if it has parameters: the channel then stands for every channel whose name matches. */
  readonly pattern: Address.Pattern | undefined
  readonly content: Content<P>
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
export interface Options<P> {
  readonly payload: Schema.ConstraintCodec<P, unknown>
  /** The key under which a payload is published. Default: none. */
  readonly key?: ((payload: P) => string | undefined) | undefined
  /** Default: JSON. */
  readonly codec?: Codec | undefined
}

const named = <P, Text extends string>(
  name: Text,
  content: Content<P>,
  key?: ((payload: P) => string | undefined) | undefined
): Channel<P, Address.Names<Text>> => {
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
export const make = <P, const Text extends string>(
  name: Text,
  options: Options<P>
): Channel<P, Address.Names<Text>> =>
  named(name, { _tag: "schema", schema: options.payload, codec: options.codec ?? json }, options.key)

/**
 * Makes a channel without a schema, whose payloads are decoded by the codec alone: JSON of any shape by default.
 *
 * @throws RangeError when the name is empty, AddressError when it is not a valid address
 * @category constructors
 */
export const unchecked = <const Text extends string>(
  name: Text,
  codec: Codec = json
): Channel<unknown, Address.Names<Text>> => named(name, { _tag: "unchecked", codec })

/**
 * Makes a channel without a schema, whose payloads are the raw bytes.
 *
 * @throws RangeError when the name is empty, AddressError when it is not a valid address
 * @category constructors
 */
export const bytes = <const Text extends string>(name: Text): Channel<Uint8Array, Address.Names<Text>> =>
  named(name, { _tag: "bytes" })

/** Copies a channel under another name. */
const renamed = <P, Name extends string, On, Other extends string>(
  channel: Channel<P, Name, On>,
  name: string
): Channel<P, Other, On> => ({
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
export const at = <P, Name extends string, On>(
  channel: Channel<P, Name, On>,
  parameters: Address.Parameters<Name>
): Channel<P, never, On> =>
  channel.pattern === undefined
    // without parameters Name is never
    ? channel as Channel<P, never, On>
    : renamed(channel, Address.fill(channel.pattern, parameters))

/**
 * Copies the channel with a prefix before its name.
 *
 * @throws AddressError when prefix and name together are not a valid address
 */
export const prefixed = <P, Name extends string, On>(
  prefix: string,
  channel: Channel<P, Name, On>
): Channel<P, Name, On> => prefix === "" ? channel : renamed(channel, prefix + channel.name)

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
  channel: Channel<P, Name, On>,
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
