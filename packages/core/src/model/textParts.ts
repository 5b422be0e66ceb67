/**
 * The characters and words by which a text that is no JSON is divided.
 */

export const space = 32
const quotes: ReadonlySet<number> = new Set([34, 39, 96])

export const isSpace = (code: number): boolean => code === space || (code >= 9 && code <= 13) || code === 0xa0
export const isLine = (code: number): boolean => code === 10 || code === 13
export const isQuote = (code: number): boolean => quotes.has(code)

/** Letters and digits of any script, and `$ - . @ [ ] _`. */
export const isNamePart = (code: number): boolean =>
  (code >= 97 && code <= 122) || (code >= 48 && code <= 57) || (code >= 64 && code <= 91) || code === 93 ||
  code === 95 || code === 45 || code === 46 || code === 36 || (code > 0xa0 && code !== 0x2028 && code !== 0x2029)

/** Characters that may follow a value: ends of a list, a tag, a parameter or a text in quotes. */
export const closing: ReadonlySet<string> = new Set("&;,<>)]}\"'`")

/** The beginning of another pair: a name and the separator before its value. */
export const pair = /["'`]?[\w.$@%[\]-]{1,64}["'`]?\s{0,2}[=:]/y

export const stopsAuthority: ReadonlySet<string> = new Set("?#<>\"'`")

/** Headers of a part of a form, and the empty line before its value. */
export const part = /["']?(?:;[^\r\n]{0,200})?(?:\r?\n[^\r\n]{1,200}){0,4}\r?\n\r?\n/y

export const scheme = /\S+[ \t]+/y
export const schemes: ReadonlySet<string> = new Set([
  "basic",
  "bearer",
  "digest",
  "dpop",
  "negotiate",
  "token",
  "apikey",
  "hmac"
])
