/**
 * Texts of any length as parts of a key.
 */
import { createHash } from "node:crypto"

// an index of PostgreSQL takes up to 2,700 bytes; a character is three at the most, beside surrogates
const longestKey = 800

/**
 * The text as it is, or a hash of it where it is longer than `longest`, or holds what a database would change: a zero, or half
 * of a character. Two texts are equal as they are stored only where they are equal. Default: what a key of one text may have.
 */
export const storable = (text: string, longest: number = longestKey): string =>
  text.length <= longest && !/[\0\ud800-\udfff]/u.test(text) && !text.startsWith("sha256:")
    ? text
    : `sha256:${createHash("sha256").update(text, "utf16le").digest("hex")}`
