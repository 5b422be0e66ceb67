/**
 * The layout of an encrypted body, version 1: header, nonce, ciphertext and tag. `docs/encryption.md` documents it byte by byte.
 */
import * as Xaes from "./xaes.ts"

/** The algorithms of bodies. */
export type Algorithm = "aes256Gcm" | "xaes256Gcm"

/** The bytes that every envelope begins with: `MRE` and the version. A body without them is no envelope. */
export const magic = Buffer.from([0x4d, 0x52, 0x45])
export const version = 1

/** The bytes of the tag, the salt of a data key, and its commitment. */
export const tagBytes = 16
export const saltBytes = 32
export const commitmentBytes = 32

/** The longest key id, in bytes of UTF-8: its length is one byte. */
export const maximumKeyId = 255

const codes: { readonly [name in Algorithm]: number } = { aes256Gcm: 1, xaes256Gcm: 2 }
const names: { readonly [code: number]: Algorithm | undefined } = { 1: "aes256Gcm", 2: "xaes256Gcm" }

/** The algorithms, in the order of their codes. */
export const algorithms: ReadonlyArray<Algorithm> = ["aes256Gcm", "xaes256Gcm"]

/** The bytes of a nonce. */
export const nonceBytesOf = (algorithm: Algorithm): number => algorithm === "aes256Gcm" ? 12 : Xaes.nonceBytes

const fixed = magic.length + 3

/** The part of the header that a data key is derived for: algorithm, and the id of the key with its length. */
export const identity = (algorithm: Algorithm, keyId: string): Buffer => {
  const id = Buffer.from(keyId)
  return Buffer.concat([magic, Buffer.from([version, codes[algorithm], id.length]), id])
}

/** A header as read: it is the same for all messages of one data key. */
export interface Header {
  readonly algorithm: Algorithm
  readonly keyId: string
  /** Magic, version, algorithm and key id. */
  readonly identity: Uint8Array
  readonly salt: Uint8Array
  readonly commitment: Uint8Array
  /** All bytes of the header. */
  readonly bytes: Buffer
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })

const textOf = (bytes: Uint8Array): string | undefined => {
  try {
    return decoder.decode(bytes)
  } catch {
    return undefined
  }
}

/** Tells whether bytes begin as an envelope of any version. */
export const isEnvelope = (bytes: Uint8Array): boolean =>
  bytes.length > magic.length && bytes[0] === magic[0] && bytes[1] === magic[1] && bytes[2] === magic[2]

/** The version of an envelope. */
export const versionOf = (bytes: Uint8Array): number => bytes[magic.length]!

/** Returns the length of the header, or undefined if bytes are no complete envelope of version 1. */
export const headerBytes = (bytes: Uint8Array): number | undefined => {
  if (bytes.length < fixed || bytes[magic.length] !== version) return undefined
  const algorithm = names[bytes[magic.length + 1]!]
  const idBytes = bytes[magic.length + 2]!
  if (algorithm === undefined || idBytes === 0) return undefined
  const length = fixed + idBytes + saltBytes + commitmentBytes
  return bytes.length < length + nonceBytesOf(algorithm) + tagBytes ? undefined : length
}

/** Reads a header of which `headerBytes` gave the length; undefined if its key id is not UTF-8. */
export const parse = (bytes: Buffer): Header | undefined => {
  const keyEnd = fixed + bytes[magic.length + 2]!
  const keyId = textOf(bytes.subarray(fixed, keyEnd))
  const algorithm = names[bytes[magic.length + 1]!]
  if (keyId === undefined || algorithm === undefined) return undefined
  return {
    algorithm,
    keyId,
    identity: bytes.subarray(0, keyEnd),
    salt: bytes.subarray(keyEnd, keyEnd + saltBytes),
    commitment: bytes.subarray(keyEnd + saltBytes),
    bytes
  }
}
