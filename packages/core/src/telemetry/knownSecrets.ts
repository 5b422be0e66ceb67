/**
 * Secrets recognized by their form, with or without a name before them: HTTP credentials, JSON web tokens, private keys.
 */

/** Receives the place of each secret, and its text without escapes. */
export interface Found {
  (from: number, to: number, value: string): void
}

const scheme = /bearer|basic/i
const schemes = /\b(?:bearer\s{1,8}[\w.~+/=-]+|basic\s{1,8}[\w.~+/=-]{6,})/gi

const isWord = (code: number): boolean =>
  (code >= 48 && code <= 57) || (code >= 65 && code <= 90) || code === 95 || (code >= 97 && code <= 122)

/** Finds JSON web tokens: they begin with `{"`, which is `eyJ` in base64. */
const tokens = (text: string, found: Found): void => {
  for (let at = text.indexOf("eyJ"); at !== -1; at = text.indexOf("eyJ", at)) {
    let end = at
    let stop = -1
    for (; end < text.length; end++) {
      const code = text.charCodeAt(end)
      if (code === 46) stop = stop === -1 ? end : stop
      else if (!isWord(code) && code !== 45) break
    }
    // a text without a second part has no later one either
    if (stop - at >= 7 && end - stop > 1 && (at === 0 || !isWord(text.charCodeAt(at - 1)))) {
      found(at, end, text.slice(at, end))
    }
    at = end
  }
}

const begin = "-----BEGIN "
const end = "-----END "

/** Finds private keys: from the first line to the last one, or to the end of a cut text. */
const privateKeys = (text: string, found: Found): void => {
  for (let at = text.indexOf(begin); at !== -1; at = text.indexOf(begin, at)) {
    if (!text.slice(at, at + 64).includes("PRIVATE KEY")) {
      at += begin.length
      continue
    }
    const last = text.indexOf(end, at)
    const close = last === -1 ? -1 : text.indexOf("-----", last + end.length)
    const to = close === -1 ? text.length : close + 5
    found(at, to, text.slice(at, to))
    at = to
  }
}

/** Reports each secret recognized by its form; places may overlap and come in any order. */
export const knownSecrets = (text: string, found: Found): void => {
  if (text.length < 8) return
  if (scheme.test(text)) {
    for (const match of text.matchAll(schemes)) found(match.index, match.index + match[0].length, match[0])
  }
  tokens(text, found)
  privateKeys(text, found)
}
