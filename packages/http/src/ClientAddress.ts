/**
 * The client's address behind trusted proxies: the forwarding header is read from the right, for as long as its entries are
 * trusted proxies.
 */
import { OptionCheck } from "@millrace/core"

/** A proxy's address or block: `10.0.0.0/8`, `::1`, `fd00::/8`. */
type Block = { readonly bytes: ReadonlyArray<number>; readonly bits: number }

const four = (text: string): ReadonlyArray<number> | undefined => {
  const parts = text.split(".")
  // no leading zeros: some parsers read them as octal
  if (parts.length !== 4 || !parts.every((part) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) <= 255)) {
    return undefined
  }
  return parts.map(Number)
}

const groups = (text: string): ReadonlyArray<number> | undefined => {
  if (text === "") return []
  const parts = text.split(":")
  const last = parts.at(-1)!
  const tail = last.includes(".") ? four(last) : []
  if (tail === undefined) return undefined
  const found = tail.length > 0 ? parts.slice(0, -1) : parts
  if (!found.every((part) => /^[0-9a-f]{1,4}$/i.test(part))) return undefined
  return [...found.flatMap((part) => [Number.parseInt(part, 16) >> 8, Number.parseInt(part, 16) & 255]), ...tail]
}

/** The 16 bytes of an address; an IPv4 address becomes an IPv4-mapped IPv6 address, so both spellings are equal. */
const bytesOf = (text: string): ReadonlyArray<number> | undefined => {
  const own = four(text)
  if (own !== undefined) return [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, ...own]
  if (!text.includes(":")) return undefined
  const halves = text.split("::")
  if (halves.length > 2) return undefined
  const [head, tail] = [groups(halves[0]!), groups(halves[1] ?? "")]
  if (head === undefined || tail === undefined) return undefined
  // an IPv4 part may not precede ::
  if (halves.length === 2 && halves[0]!.includes(".")) return undefined
  const missing = 16 - head.length - tail.length
  if (halves.length === 1) return missing === 0 ? head : undefined
  return missing >= 2 ? [...head, ...Array.from({ length: missing }, () => 0), ...tail] : undefined
}

/** Writes the longest run of zeros as ::, in lower case: https://www.rfc-editor.org/rfc/rfc5952 */
const textOf = (bytes: ReadonlyArray<number>): string => {
  if (bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 255 && bytes[11] === 255) {
    return bytes.slice(12).join(".")
  }
  const words = Array.from({ length: 8 }, (_, i) => ((bytes[2 * i]! << 8) | bytes[2 * i + 1]!).toString(16))
  let [start, length] = [0, 0]
  for (let i = 0; i < 8; i++) {
    let end = i
    while (end < 8 && words[end] === "0") end++
    if (end - i > length) [start, length] = [i, end - i]
  }
  if (length < 2) return words.join(":")
  return `${words.slice(0, start).join(":")}::${words.slice(start + length).join(":")}`
}

const blockOf = (text: string): Block => {
  const [address = "", length, ...rest] = text.split("/")
  const bytes = bytesOf(address)
  const offset = four(address) === undefined ? 0 : 96
  const bits = length === undefined ? 128 : offset + Number(length)
  if (bytes === undefined || rest.length > 0 || length !== undefined && !/^\d{1,3}$/.test(length) || bits > 128) {
    throw new RangeError(
      `ClientAddress: trusted must hold addresses or blocks as 10.0.0.0/8 or fd00::/8, got ${JSON.stringify(text)}`
    )
  }
  return { bytes, bits }
}

const isIn = (bytes: ReadonlyArray<number>, { bits, bytes: own }: Block): boolean => {
  const whole = bits >> 3
  for (let i = 0; i < whole; i++) if (bytes[i] !== own[i]) return false
  const rest = 8 - (bits & 7)
  return rest === 8 || bytes[whole]! >> rest === own[whole]! >> rest
}

/**
 * Reads an address from a header, with or without port and brackets; undefined for anything else, e.g. `unknown` or hidden
 * names.
 */
const parse = (text: string): ReadonlyArray<number> | undefined => {
  const trimmed = text.trim()
  const [, inside] = /^\[([^\]]*)\](?::\d{1,5})?$/.exec(trimmed) ?? []
  if (inside !== undefined) return inside.includes(":") ? bytesOf(inside) : undefined
  const [, before] = /^([\d.]+):\d{1,5}$/.exec(trimmed) ?? []
  return bytesOf(before ?? trimmed)
}

/** Splits a list at a separator outside of quotes. */
const split = (text: string, separator: string): Array<string> => {
  const parts: Array<string> = []
  let from = 0
  let isQuoted = false
  for (let i = 0; i < text.length; i++) {
    if (isQuoted && text[i] === "\\") i++
    else if (text[i] === "\"") isQuoted = !isQuoted
    else if (text[i] === separator && !isQuoted) {
      parts.push(text.slice(from, i))
      from = i + 1
    }
  }
  parts.push(text.slice(from))
  return parts
}

const unquoted = (text: string): string =>
  text.length >= 2 && text.startsWith("\"") && text.endsWith("\"") ? text.slice(1, -1).replaceAll(/\\(.)/g, "$1") : text

/** The value of a pair with this lower-case name; undefined for another pair or invalid text. */
const valueOf = (pair: string, name: string): string | undefined => {
  const sign = pair.indexOf("=")
  return sign !== -1 && pair.slice(0, sign).trim().toLowerCase() === name ? pair.slice(sign + 1).trim() : undefined
}

/** The `for` value of each proxy, from the first to the last; empty if a proxy gives none. */
const forwarded = (text: string): ReadonlyArray<string> =>
  split(text, ",").map((element) => {
    const pairs = split(element, ";").map((pair) => valueOf(pair, "for"))
    return unquoted(pairs.find((pair) => pair !== undefined) ?? "")
  })

/** The entry of `trusted` for connections without an address. */
const socket = "unix"

/** Options of `make`. */
export interface Options {
  /**
   * The trusted proxies: addresses and blocks, of IPv4 and IPv6, and `unix` for connections without an address (unix sockets).
   * Default: none, so no header is read.
   */
  readonly trusted?: ReadonlyArray<string> | undefined
  /** The header that these proxies write; the other header is ignored. Default: `x-forwarded-for`. */
  readonly header?: "forwarded" | "x-forwarded-for" | undefined
}

/** Finds the client's address from the peer address of the connection and the request's headers, by lower-case name. */
export type ClientAddress = (
  peer: string | undefined,
  headers: { readonly [name: string]: string | undefined }
) => string | undefined

/**
 * Makes a function that returns the address of a client, in canonical form.
 *
 * If the peer is not a trusted proxy, the peer is the client, and its headers are ignored. If the peer is a trusted proxy, the
 * client is the rightmost address in the header that is not a trusted proxy's: every proxy appends its peer, so a client cannot
 * forge that entry. If the next entry is not an address, or no entries are left, the result is the last trusted address found.
 * An IPv4-mapped IPv6 address is returned as IPv4. A unix socket has no peer address: the result is undefined, unless `trusted`
 * contains `unix` and the header yields an address.
 *
 * Do not trust a proxy that passes its client's header on without appending to it. Join several headers of one name by commas.
 *
 * Source: RFC 7239, Forwarded HTTP Extension; RFC 5952, A Recommendation for IPv6 Address Text Representation.
 *
 * **Example** (a client can forge only the entries on the left)
 *
 * ```ts
 * import { ClientAddress } from "@millrace/http"
 *
 * const addressOf = ClientAddress.make({ trusted: ["10.0.0.0/8"] })
 * addressOf("10.0.0.7", { "x-forwarded-for": "127.0.0.1, 203.0.113.9, 10.0.0.3" }) // 203.0.113.9
 * addressOf("198.51.100.4", { "x-forwarded-for": "127.0.0.1" }) // 198.51.100.4
 * ```
 *
 * @throws RangeError when an entry of `trusted` is neither an address nor a block
 * @category constructors
 */
export const make = (options: Options = {}): ClientAddress => {
  const given = options.trusted ?? []
  const isSocketTrusted = given.includes(socket)
  const blocks = given.filter((each) => each !== socket).map(blockOf)
  const header = OptionCheck.make("ClientAddress").oneOf("header", options.header ?? "x-forwarded-for", [
    "forwarded",
    "x-forwarded-for"
  ])
  const isTrusted = (bytes: ReadonlyArray<number>): boolean => blocks.some((block) => isIn(bytes, block))
  return (peer, headers) => {
    const isSocket = peer === undefined || peer === ""
    // the zone of a link-local IPv6 address has a meaning on this host only
    let found = isSocket ? undefined : parse(peer.split("%")[0]!)
    if (found === undefined && !(isSocket && isSocketTrusted)) return undefined
    const told = headers[header]
    if (told === undefined || (found !== undefined && !isTrusted(found))) return found && textOf(found)
    const chain = header === "forwarded" ? forwarded(told) : told.split(",")
    for (const each of chain.toReversed()) {
      const next = parse(each)
      if (next === undefined) break
      found = next
      if (!isTrusted(next)) break
    }
    return found && textOf(found)
  }
}

/** The default length of the IPv6 prefix that identifies a client, in bits. */
export const prefix = 64

/**
 * Returns the network of an address, as a key for limits by client: the first `bits` bits of an IPv6 address
 * (`2001:db8:1:2::/64`), because a client with one IPv6 address usually has 2^64 of them. An IPv4 address or other text is
 * returned unchanged.
 *
 * **Example** (two addresses of one client)
 *
 * ```ts
 * import { ClientAddress } from "@millrace/http"
 *
 * console.log(ClientAddress.network("2001:db8:1:2:3::4")) // => 2001:db8:1:2::/64
 * console.log(ClientAddress.network("203.0.113.9")) // => 203.0.113.9
 * ```
 */
export const network = (address: string, bits: number = prefix): string => {
  const bytes = bytesOf(address)
  if (bytes === undefined || bits >= 128 || textOf(bytes).includes(".")) return address
  const kept = bytes.map((byte, i) => byte & (0xff00 >> Math.min(8, Math.max(0, bits - 8 * i))))
  return `${textOf(kept)}/${bits}`
}
