/**
 * The characters and words that separate the parts of a text that is not JSON.
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

/** Characters that may follow a value: ends of a list, a tag, a parameter or a quoted text. */
export const closing: ReadonlySet<string> = new Set("&;,<>)]}\"'`")

/** The beginning of another pair: a name and the separator before its value. */
export const pair = /["'`]?[\w.$@%[\]-]{1,64}["'`]?\s{0,2}[=:]/y

const stopsAuthority: ReadonlySet<string> = new Set("?#<>\"'`")

/** Finds the `@` after the user of a URL whose authority begins at `begin`; -1 if it has no user. */
export const endOfUser = (text: string, begin: number): number => {
  const most = Math.min(text.length, begin + 1024)
  let last = -1
  // an unencoded password may hold a slash, and a port holds digits only
  let isPassword = false
  let isAfterColon = false
  for (let end = begin; end < most; end++) {
    const char = text[end]!
    if (char === "@") {
      last = end
      isPassword = false
    } else if (char === ":") {
      if (text.startsWith("//", end + 1)) break
      isAfterColon = true
    } else if (char === "/") {
      if (!isPassword) break
    } else if (stopsAuthority.has(char) || isSpace(char.charCodeAt(0))) break
    else if (isAfterColon && last === -1 && (char < "0" || char > "9")) isPassword = true
  }
  return last
}

/** Headers of a form part, and the empty line before its value. */
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
