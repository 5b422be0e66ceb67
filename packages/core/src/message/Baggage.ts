/**
 * W3C Baggage: names and values that travel with a request through every process it reaches.
 */

/** The name of the Baggage header. */
export const name = "baggage"

/** The most members, and the most characters of a header, that are read or written. */
export const limits = { members: 64, characters: 8192 } as const

/** One value, decoded, and its properties as written (`ttl=10;secret`), or undefined if it has none. */
export interface Entry {
  readonly value: string
  readonly properties: string | undefined
}

/** Entries by name. */
export type Baggage = ReadonlyMap<string, Entry>

/** No baggage. */
export const empty: Baggage = new Map()

const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
const octets = /^[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*$/
const properties = /^[\x20-\x2b\x2d-\x7e\t]*$/
const lenient = new TextDecoder()
const encoder = new TextEncoder()

/** Decodes percent-encoded UTF-8; bytes that are not UTF-8 become U+FFFD, and a stray `%` stays. */
const decode = (text: string): string => {
  if (!text.includes("%")) return text
  const bytes: Array<number> = []
  for (let i = 0; i < text.length; i++) {
    const hex = text[i] === "%" ? /^[0-9A-Fa-f]{2}/.exec(text.slice(i + 1, i + 3)) : null
    bytes.push(hex === null ? text.charCodeAt(i) : Number.parseInt(hex[0], 16))
    if (hex !== null) i += 2
  }
  return lenient.decode(Uint8Array.from(bytes))
}

/** Encodes text as baggage octets: forbidden characters and `%` are percent-encoded as UTF-8. */
const encode = (text: string): string => {
  let out = ""
  for (const byte of encoder.encode(text)) {
    const char = String.fromCharCode(byte)
    out += byte !== 0x25 && octets.test(char) ? char : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`
  }
  return out
}

/**
 * Parses a `baggage` header. Malformed members are left out, the last of several members with one name wins, and the rest
 * beyond `limits` is not read: whole members are taken from the front.
 */
export const parse = (header: string): Baggage => {
  const found = new Map<string, Entry>()
  let used = -1
  let count = 0
  for (const part of header.slice(0, limits.characters + 1).split(",")) {
    used += part.length + 1
    if (used > limits.characters || count >= limits.members) break
    const member = part.trim()
    const semicolon = member.indexOf(";")
    const pair = semicolon < 0 ? member : member.slice(0, semicolon)
    const rest = semicolon < 0 ? undefined : member.slice(semicolon + 1).trim()
    const equals = pair.indexOf("=")
    const key = pair.slice(0, Math.max(equals, 0)).trim()
    const value = pair.slice(equals + 1).trim()
    if (equals < 1 || !token.test(key) || !octets.test(value) || (rest !== undefined && !properties.test(rest))) {
      continue
    }
    count += 1
    found.set(key, { value: decode(value), properties: rest === "" ? undefined : rest })
  }
  return found
}

/** Writes a `baggage` header, or undefined for empty baggage. Members beyond `limits` are left out, whole, from the end. */
export const format = (baggage: Baggage): string | undefined => {
  let out = ""
  let count = 0
  for (const [key, entry] of baggage) {
    if (!token.test(key) || (entry.properties !== undefined && !properties.test(entry.properties))) continue
    const member = `${key}=${encode(entry.value)}${entry.properties === undefined ? "" : `;${entry.properties}`}`
    const next = out === "" ? member : `${out},${member}`
    if (next.length > limits.characters || count >= limits.members) break
    out = next
    count += 1
  }
  return out === "" ? undefined : out
}

/** Copies the baggage with one entry added or replaced. */
export const set = (self: Baggage, key: string, value: string, properties?: string): Baggage =>
  new Map(self).set(key, { value, properties })
