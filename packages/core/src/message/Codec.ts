/**
 * Plain codecs: a value and its bytes, without the message around them.
 */

/** Turns values into bytes and back. Both functions may throw; the caller settles the throw as a poison message. */
export interface Codec {
  /** The media type that publishers write into `content-type`. */
  readonly contentType: string
  /**
   * The values between schema and codec: `json` is what JSON is made of (a date is a text), `native` what the schema itself
   * encodes to (bytes stay bytes, a bigint stays a bigint). Default: `json`.
   */
  readonly values?: "json" | "native" | undefined
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
