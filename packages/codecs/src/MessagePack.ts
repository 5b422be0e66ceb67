/**
 * MessagePack: the values of JSON, and bytes, 64-bit integers and timestamps.
 */
import type { Channel } from "@millrace/core"
import type * as Bounds from "./internal/bounds.ts"
import { resolve } from "./internal/bounds.ts"
import * as Decode from "./internal/messagePack/decode.ts"
import { encode } from "./internal/messagePack/encode.ts"

/** Limits of a decoder. */
export type Limits = Bounds.Limits

/** The bytes are no MessagePack, or a value has no form in it. Its message holds no value of the body. */
export const MessagePackError = Decode.MessagePackError
/** The bytes are no MessagePack, or a value has no form in it. Its message holds no value of the body. */
export type MessagePackError = Decode.MessagePackError

/** Options of `codec`. */
export interface Options extends Limits {}

/**
 * Makes a codec of MessagePack, `application/vnd.msgpack`.
 *
 * Values: byte strings are `Uint8Array`, integers are numbers, and bigints outside of the safe integers, timestamps are `Date`s
 * (to the millisecond). Keys of maps are texts; an integer key becomes its text. A property that is undefined is left out.
 *
 * Errors: `MessagePackError` for bytes behind the value, texts that are no UTF-8, equal keys in one map, the key
 * `__proto__`, extensions other than timestamps, values without a form, and beyond the limits.
 *
 * @example
 * ```ts
 * import { MessagePack } from "@millrace/codecs"
 *
 * const codec = MessagePack.codec()
 * const bytes = codec.encode({ id: "a", total: 2n ** 63n })
 * console.log(bytes.length, codec.decode(bytes)) // => 21 { id: 'a', total: 9223372036854775808n }
 * ```
 *
 * @throws RangeError for a wrong limit
 * @category constructors
 */
export const codec = (options: Options = {}): Channel.Codec => {
  const limits = resolve("MessagePack", options)
  return {
    contentType: "application/vnd.msgpack",
    values: "native",
    encode: (value) => encode(value, limits),
    decode: (bytes) => Decode.decode(bytes, limits)
  }
}
