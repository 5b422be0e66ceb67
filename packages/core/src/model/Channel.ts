/**
 * A channel is one value that types both ends: what is published to it, what a subscription decodes, and, later, its
 * documentation.
 */
import type { Schema } from "effect"
import type { Raw } from "./Message.ts"

/** Turns values into bytes and back. Either way may throw; whoever calls it settles that as a poison message. */
export interface Codec {
  /** The media type that publishers write into `content-type`. */
  readonly contentType: string
  readonly encode: (value: unknown) => Uint8Array
  readonly decode: (bytes: Uint8Array) => unknown
}

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })

/** JSON by RFC 8259: UTF-8, refused where it is not. */
export const json: Codec = {
  contentType: "application/json",
  encode: (value) => {
    const text: string | undefined = JSON.stringify(value)
    if (text === undefined) throw new TypeError(`JSON has no ${typeof value}`)
    return encoder.encode(text)
  },
  decode: (bytes) => JSON.parse(decoder.decode(bytes))
}

/** What a channel's payload is checked with: a schema, nothing but the codec, or not even that. */
export type Content<P> =
  | { readonly _tag: "schema"; readonly schema: Schema.ConstraintCodec<P, unknown>; readonly codec: Codec }
  | { readonly _tag: "unchecked"; readonly codec: Codec }
  | { readonly _tag: "bytes" }

/** A named channel whose payloads are `P`. */
export interface Channel<in out P> {
  readonly name: string
  readonly content: Content<P>
  /** The key of a payload: what is equal here is handled in order. */
  readonly key: ((payload: P) => string | undefined) | undefined
  /** Types only: the bytes of this channel. */
  readonly "~raw"?: Raw<P>
}

/** Options of a channel with a schema. */
export interface Options<P> {
  readonly payload: Schema.ConstraintCodec<P, unknown>
  /** The key under which a payload is published. Default: none. */
  readonly key?: ((payload: P) => string | undefined) | undefined
  /** Default: JSON. */
  readonly codec?: Codec | undefined
}

/**
 * A channel whose payloads are checked by a schema when they are published and when they are received.
 *
 * **Example** (orders, in order for each customer)
 *
 * ```ts
 * import { Schema } from "effect"
 * import { Channel } from "@millrace/core"
 *
 * const Order = Schema.Struct({ id: Schema.String, customer: Schema.String, amount: Schema.Number })
 * const Orders = Channel.make("orders", { payload: Order, key: (order) => order.customer })
 * ```
 *
 * @throws RangeError when the name is empty
 * @category constructors
 */
export const make = <P>(name: string, options: Options<P>): Channel<P> => ({
  name: named(name),
  content: { _tag: "schema", schema: options.payload, codec: options.codec ?? json },
  key: options.key
})

/**
 * A channel without a schema, whose payloads are what the codec reads: JSON of any shape by default.
 *
 * @category constructors
 */
export const unchecked = (name: string, codec: Codec = json): Channel<unknown> => ({
  name: named(name),
  content: { _tag: "unchecked", codec },
  key: undefined
})

/**
 * A channel without a schema, whose payloads are bytes as they are.
 *
 * @category constructors
 */
export const bytes = (name: string): Channel<Uint8Array> => ({
  name: named(name),
  content: { _tag: "bytes" },
  key: undefined
})

const named = (name: string): string => {
  if (name === "") throw new RangeError("Channel: a name is needed, and it is empty")
  return name
}
