/**
 * The layout of an encrypted body: header, nonce, ciphertext and tag. The header of version 2 also has a wrapped data key, which a
 * key management service unwraps. `docs/encryption.md` documents both versions byte by byte.
 */
import * as Xaes from "./xaes.ts"

/** The algorithms of bodies. */
export type Algorithm = "aes256Gcm" | "xaes256Gcm"

/** The bytes that every envelope begins with: `MRE` and the version. A body without them is no envelope. */
export const magic = Buffer.from([0x4d, 0x52, 0x45])

/** Version 1 names a key of a key set; version 2 carries its data key, wrapped. */
const versions = { keySet: 1, wrapped: 2 } as const

/** The bytes of the tag, the salt of a data key, and its commitment. */
export const tagBytes = 16
export const saltBytes = 32
export const commitmentBytes = 32

/** The longest key id, in bytes of UTF-8: its length is one byte. */
export const maximumKeyId = 255

/** The longest wrapped data key, in bytes: the longest `CiphertextBlob` that AWS KMS takes. */
export const maximumWrapped = 6144

const codes: { readonly [name in Algorithm]: number } = { aes256Gcm: 1, xaes256Gcm: 2 }
const names: { readonly [code: number]: Algorithm | undefined } = { 1: "aes256Gcm", 2: "xaes256Gcm" }

/** The algorithms, in the order of their codes. */
export const algorithms: ReadonlyArray<Algorithm> = ["aes256Gcm", "xaes256Gcm"]

/** The bytes of a nonce. */
export const nonceBytesOf = (algorithm: Algorithm): number => algorithm === "aes256Gcm" ? 12 : Xaes.nonceBytes

const fixed = magic.length + 3

/**
 * The part of the header that a data key is derived for: algorithm, the id of the key with its length, and the wrapped data key, if
 * there is one, with its length.
 */
export const identity = (algorithm: Algorithm, keyId: string, wrapped?: Uint8Array): Buffer => {
  const id = Buffer.from(keyId)
  const start = (version: number) => Buffer.concat([magic, Buffer.from([version, codes[algorithm], id.length]), id])
  if (wrapped === undefined) return start(versions.keySet)
  return Buffer.concat([start(versions.wrapped), Buffer.from([wrapped.length >>> 8, wrapped.length & 0xff]), wrapped])
}

/** A header as read: it is the same for all messages of one data key. */
export interface Header {
  readonly algorithm: Algorithm
  readonly keyId: string
  /** The wrapped data key; undefined in version 1. */
  readonly wrapped: Uint8Array | undefined
  /** Magic, version, algorithm, key id and wrapped data key. */
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

/** Returns the offset of the salt, or undefined if bytes end before it or have a length that no writer makes. */
const saltAt = (bytes: Uint8Array): number | undefined => {
  const idBytes = bytes[magic.length + 2]!
  if (idBytes === 0) return undefined
  const keyEnd = fixed + idBytes
  if (bytes[magic.length] === versions.keySet) return keyEnd
  if (bytes.length < keyEnd + 2) return undefined
  const wrapped = bytes[keyEnd]! * 256 + bytes[keyEnd + 1]!
  return wrapped === 0 || wrapped > maximumWrapped ? undefined : keyEnd + 2 + wrapped
}

/** Returns the length of the header, or undefined if bytes are no complete envelope of a known version. */
export const headerBytes = (bytes: Uint8Array): number | undefined => {
  const version = bytes[magic.length]
  if (bytes.length < fixed || (version !== versions.keySet && version !== versions.wrapped)) return undefined
  const algorithm = names[bytes[magic.length + 1]!]
  const salt = saltAt(bytes)
  if (algorithm === undefined || salt === undefined) return undefined
  const length = salt + saltBytes + commitmentBytes
  return bytes.length < length + nonceBytesOf(algorithm) + tagBytes ? undefined : length
}

/** Reads a header of which `headerBytes` gave the length; undefined if its key id is not UTF-8. */
export const parse = (bytes: Buffer): Header | undefined => {
  const keyEnd = fixed + bytes[magic.length + 2]!
  const keyId = textOf(bytes.subarray(fixed, keyEnd))
  const algorithm = names[bytes[magic.length + 1]!]
  const salt = saltAt(bytes)
  if (keyId === undefined || algorithm === undefined || salt === undefined) return undefined
  return {
    algorithm,
    keyId,
    wrapped: salt === keyEnd ? undefined : bytes.subarray(keyEnd + 2, salt),
    identity: bytes.subarray(0, salt),
    salt: bytes.subarray(salt, salt + saltBytes),
    commitment: bytes.subarray(salt + saltBytes),
    bytes
  }
}
