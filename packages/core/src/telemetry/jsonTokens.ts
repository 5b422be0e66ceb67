/**
 * Tokens of JSON in a text that may be cut anywhere, or may not be JSON at all.
 */

export const quote = 34
const backslash = 92

export const isSpace = (code: number): boolean => code === 32 || code === 10 || code === 13 || code === 9

export const skipSpace = (text: string, at: number): number => {
  let i = at
  while (i < text.length && isSpace(text.charCodeAt(i))) i++
  return i
}

/** Tells whether a text begins like JSON that can hold a secret. */
export const isJson = (text: string): boolean => {
  const first = text.charCodeAt(skipSpace(text, 0))
  return first === 123 || first === 91 || first === quote
}

/** Returns the end of the string that begins at `at`: after its quote, or at the end of the text. */
export const endOfString = (text: string, at: number): number => {
  for (let i = at + 1; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === backslash) i++
    else if (code === quote) return i + 1
  }
  return text.length
}

/** Tells whether this character may follow a value: a space, a comma, a closing bracket, or the end. */
const endsValue = (code: number): boolean =>
  isSpace(code) || code === 44 || code === 125 || code === 93 || Number.isNaN(code)

export const literal = /true|false|null|-?\d[\d.eE+-]*/y

/** Returns the end of the value that begins at `at`; a value that is not JSON ends with the text. */
export const endOfValue = (text: string, at: number): number => {
  const first = text[at]
  if (first === "\"") return endOfString(text, at)
  if (first !== "{" && first !== "[") {
    literal.lastIndex = at
    return literal.test(text) && endsValue(text.charCodeAt(literal.lastIndex)) ? literal.lastIndex : text.length
  }
  let depth = 0
  for (let i = at; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === quote) i = endOfString(text, i) - 1
    else if (code === 123 || code === 91) depth++
    else if ((code === 125 || code === 93) && --depth === 0) return i + 1
  }
  return text.length
}

/** Tells whether a string token has its closing quote, unescaped. */
export const isClosed = (token: string): boolean => {
  if (token.length < 2 || !token.endsWith("\"")) return false
  let before = token.length - 2
  while (token.charCodeAt(before) === backslash) before--
  return (token.length - before) % 2 === 0
}

/** Closes a cut token, and removes an escape that was cut. */
const whole = (token: string): string => {
  const end = token.slice(-8)
  const cut = /\\(?:u[\da-fA-F]{0,3})?$/.exec(end)
  if (cut === null) return `${token}"`
  const at = token.length - end.length + cut.index
  let before = at - 1
  while (token.charCodeAt(before) === backslash) before--
  // an even number of backslashes before the escape are themselves escaped
  return (at - before) % 2 === 1 ? `${token.slice(0, at)}"` : `${token}"`
}

/** Decodes a string token; a cut token loses its last, incomplete escape. Undefined if it is not JSON. */
export const readToken = (token: string): string | undefined => {
  try {
    return JSON.parse(isClosed(token) ? token : whole(token)) as string
  } catch {
    return undefined
  }
}

/** Reports the strings and numbers of a secret value, as written and decoded. */
export const leavesOf = (value: string, found: (leaf: string) => void): void => {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i)
    if (code === quote) {
      const end = endOfString(value, i)
      const token = value.slice(i, end)
      found(token.slice(1, isClosed(token) ? -1 : undefined))
      if (token.includes("\\")) {
        const said = readToken(token)
        if (said !== undefined) {
          found(said)
          if (isJson(said)) leavesOf(said, found)
        }
      }
      i = end - 1
    } else if (code === 45 || (code >= 48 && code <= 57)) {
      literal.lastIndex = i
      if (literal.test(value)) {
        found(value.slice(i, literal.lastIndex))
        i = literal.lastIndex - 1
      }
    }
  }
}
