/** References: the body of a message whose payload is in a store. */
import { channelPart } from "./digest.ts"
import { ClaimForeign, ClaimInvalid, shown } from "./errors.ts"

/** The header that marks a reference; its value is the version. */
export const header = "millrace-claim"

/** The version that is written and read. */
export const version = "1"

/** Where a body is, and how it is recognised. */
export interface Reference {
  /** The name of the store. */
  readonly store: string
  readonly key: string
  /** The length of the body in bytes. */
  readonly size: number
  /** In hexadecimal. */
  readonly sha256: string
  /** Unix time in milliseconds at which the body was written, by the publisher's clock. */
  readonly time: number
}

/** The longest reference; ours have some 300 bytes. */
const longest = 1024

const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })

// the day, the channel, and the digest of the body or a random name
const shape = /^\d{4}-\d{2}-\d{2}\/([0-9a-f]{32})-(?:([0-9a-f]{64})|s[0-9a-f]{32})$/

export const encode = ({ key, sha256, size, store, time }: Reference): Uint8Array =>
  encoder.encode(JSON.stringify({ store, key, size, sha256, time }))

const invalid = (why: string): ClaimInvalid => new ClaimInvalid({ message: `The reference to the body ${why}` })

const isNumber = (value: unknown): value is number =>
  typeof value === "number" && Number.isSafeInteger(value) && value >= 0

const parsed = (bytes: Uint8Array): unknown => {
  try {
    return JSON.parse(decoder.decode(bytes))
  } catch {
    return undefined
  }
}

/** Reads the reference of a message; never throws. */
export const decode = (bytes: Uint8Array, marked: string): Reference | ClaimInvalid => {
  if (marked !== version) {
    return invalid(`has version ${shown(marked)}, and this release reads version 1: update @millrace/claims`)
  }
  if (bytes.length > longest) return invalid(`has ${bytes.length} bytes, and at most ${longest} are read`)
  const found = parsed(bytes)
  if (typeof found !== "object" || found === null) return invalid("is no JSON")
  const { key, sha256, size, store, time }: { readonly [name: string]: unknown } = { ...found }
  if (
    typeof store !== "string" || typeof key !== "string" || typeof sha256 !== "string" ||
    !/^[0-9a-f]{64}$/.test(sha256) ||
    !isNumber(size) || !isNumber(time)
  ) return invalid("lacks a valid store, key, size, sha256 or time")
  return { store, key, size, sha256, time }
}

/** The reason why a reference is no one to a body of this channel; undefined if it is. */
export const refusal = (
  { key, sha256, store }: Reference,
  channel: string,
  own: string,
  failure: "poison" | "validation" = "poison"
): ClaimForeign | undefined => {
  const foreign = (why: string) => new ClaimForeign({ failure, message: `The reference names ${why}` })
  if (store !== own) return foreign(`the store ${shown(store)}, and the channel's is ${own}`)
  const [, part, digest] = shape.exec(key) ?? []
  if (part === undefined) return foreign(`${shown(key)}, which is no key of this store`)
  if (part !== channelPart(channel)) return foreign(`a body of another channel than ${channel}: publish a copy`)
  return digest !== undefined && digest !== sha256 ? foreign("a digest that its key contradicts") : undefined
}
