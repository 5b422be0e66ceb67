/**
 * Protocol Buffers by `@bufbuild/protobuf`: payloads of a message type that its compiler generated.
 */
import { create, type DescMessage, fromBinary, isMessage, type MessageInitShape, toBinary } from "@bufbuild/protobuf"
import { type Channel, OptionCheck } from "@millrace/core"
import { countOver } from "./internal/countOver.ts"
import { hasPrototypeKey, hasTextMaps } from "./internal/prototypeKey.ts"

/** Options of `codec`. */
export interface Options {
  /** The largest body, in bytes; an integer from 1. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
  /** The deepest nesting of messages and groups; an integer from 1 to 1,000. Default: 100. */
  readonly maximumDepth?: number | undefined
  /** The most fields, list items and map entries of one body; an integer from 1. Default: 1,000,000. */
  readonly maximumItems?: number | undefined
  /** Unknown fields are kept in the message and written again (`keep`), or dropped. Default: `keep`. */
  readonly unknownFields?: "keep" | "drop" | undefined
}

/** The defaults of the options. */
export const defaults = {
  maximumBytes: 16 * 1024 * 1024,
  maximumDepth: 100,
  maximumItems: 1_000_000,
  unknownFields: "keep"
} as const satisfies Options

/** The bytes are no message of the type, or a value is none. Its message holds no value of the body. */
export class ProtobufError extends Error {
  override readonly name = "ProtobufError"
}

/** The library's sentence about bytes: it names fields and positions, and quotes no value. */
const sentence = (cause: unknown): string =>
  cause instanceof RangeError
    ? "the body ends inside a value"
    : cause instanceof Error
    ? cause.message.slice(0, 500)
    : "it cannot be read"

/** The field in the library's sentence about a value; the rest may quote the value. */
const fieldOf = (cause: unknown): string => {
  const name = cause instanceof Error ? /field [\w.]+/.exec(cause.message)?.[0] : undefined
  return `a value does not fit${name === undefined ? "" : ` the ${name}`}`
}

/**
 * Makes a codec of a message type, `application/x-protobuf`.
 *
 * Values: the messages of `@bufbuild/protobuf`. A 64-bit integer is a bigint, `bytes` is a `Uint8Array`, a oneof is an object
 * with `case` and `value`. Encoding takes a message or its plain form.
 *
 * Errors: `ProtobufError` for bytes and values that are no such message, for a map key `__proto__`, and beyond the limits.
 *
 * @example
 * ```ts
 * import { StringValueSchema } from "@bufbuild/protobuf/wkt"
 * import { Protobuf } from "@millrace/protobuf"
 *
 * const codec = Protobuf.codec(StringValueSchema)
 * console.log(codec.encode({ value: "hello" }).length) // => 7
 * ```
 *
 * @throws RangeError for a wrong option
 * @category constructors
 */
export const codec = <Desc extends DescMessage>(desc: Desc, options: Options = {}): Channel.Codec => {
  const check = OptionCheck.make("Protobuf")
  const maximumBytes = check.count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes)
  const maximumItems = check.count("maximumItems", options.maximumItems ?? defaults.maximumItems)
  const settings = {
    recursionLimit: check.count("maximumDepth", options.maximumDepth ?? defaults.maximumDepth, { most: 1_000 }),
    readUnknownFields:
      check.oneOf("unknownFields", options.unknownFields ?? defaults.unknownFields, ["keep", "drop"]) ===
        "keep"
  }
  const writes = { writeUnknownFields: settings.readUnknownFields }
  const refuse = (why: string): never => {
    throw new ProtobufError(`Protobuf: ${why}, for a body of ${desc.typeName}`)
  }
  const mayHaveKey = hasTextMaps(desc)
  const isInit = (value: unknown): value is MessageInitShape<Desc> =>
    typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array)
  return {
    contentType: "application/x-protobuf",
    values: "native",
    encode: (value) => {
      if (!isInit(value)) return refuse(`an object is needed, got ${value === null ? "null" : typeof value}`)
      try {
        return toBinary(desc, isMessage(value, desc) ? value : create(desc, value), writes)
      } catch (cause) {
        return refuse(fieldOf(cause))
      }
    },
    decode: (bytes) => {
      if (bytes.length > maximumBytes) {
        return refuse(`${bytes.length} bytes are more than maximumBytes, ${maximumBytes}`)
      }
      // each field takes two bytes at least, so most bodies cannot have too many
      if (bytes.length > maximumItems * 2 && countOver(desc, bytes, maximumItems, settings.recursionLimit)) {
        return refuse(`there are more fields than maximumItems, ${maximumItems}`)
      }
      try {
        const message = fromBinary(desc, bytes, settings)
        return mayHaveKey && hasPrototypeKey(desc, bytes, message) ? refuse("a map has the key __proto__") : message
      } catch (cause) {
        return cause instanceof ProtobufError ? refuse(cause.message) : refuse(sentence(cause))
      }
    }
  }
}
