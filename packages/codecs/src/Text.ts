/**
 * Plain text: a payload that is one text, in UTF-8.
 */
import { type Channel, OptionCheck } from "@millrace/core"
import { defaults } from "./internal/bounds.ts"

/** The bytes are no UTF-8, or the value is no text. Its message holds no value of the body. */
export class TextError extends Error {
  override readonly name = "TextError"
}

/** Options of `codec`. */
export interface Options {
  /** The largest body, in bytes; an integer from 1. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
}

const encoder = new TextEncoder()
// a byte order mark is a part of the text, so that no byte is lost
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

/**
 * Makes a codec of plain text, `text/plain; charset=utf-8`. The payload is a string, and no character of it is changed.
 *
 * Errors: `TextError` for bytes that are not UTF-8, a value that is no text, halves of surrogate pairs, and beyond the limit.
 *
 * @example
 * ```ts
 * import { Channel } from "@millrace/core"
 * import { Text } from "@millrace/codecs"
 * import { Schema } from "effect"
 *
 * const Notes = Channel.make("notes", { payload: Schema.String, codec: Text.codec() })
 * ```
 *
 * @throws RangeError for a wrong limit
 * @category constructors
 */
export const codec = (options: Options = {}): Channel.Codec => {
  const most = OptionCheck.make("Text").count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes)
  return {
    contentType: "text/plain; charset=utf-8",
    encode: (value) => {
      if (typeof value !== "string") throw new TextError(`a text is needed, got ${typeof value}`)
      if (!value.isWellFormed()) throw new TextError("the text has half of a surrogate pair")
      const bytes = encoder.encode(value)
      if (bytes.length > most) throw new TextError(`the text has more than ${most} bytes`)
      return bytes
    },
    decode: (bytes) => {
      if (bytes.length > most) throw new TextError(`the body has more than ${most} bytes`)
      try {
        return decoder.decode(bytes)
      } catch {
        throw new TextError("the body is not UTF-8")
      }
    }
  }
}
