/**
 * Makes texts of any length usable as parts of a key.
 */
import { createHash } from "node:crypto"

// an index of PostgreSQL takes up to 2,700 bytes; a character has at most three bytes, except surrogates
const longestKey = 800

/**
 * Returns the text, or its hash if the text is longer than `longest`, or holds characters that a database would change: NUL or a
 * lone surrogate. Different texts stay different. Default: the limit for a key of one text.
 */
export const storable = (text: string, longest: number = longestKey): string =>
  text.length <= longest && !/[\0\ud800-\udfff]/u.test(text) && !text.startsWith("sha256:")
    ? text
    : `sha256:${createHash("sha256").update(text, "utf16le").digest("hex")}`
