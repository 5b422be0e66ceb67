/**
 * Data keys: derived from a key of the set by HKDF-SHA-256 and a random salt, with a commitment. Bodies are encrypted by data keys
 * alone.
 */
import { createSecretKey, hkdfSync, type KeyObject, timingSafeEqual } from "node:crypto"
import * as Envelope from "./envelope.ts"
import { randomBytes } from "./randomness.ts"
import * as Xaes from "./xaes.ts"

/** A data key, and the header of every body that it encrypts. */
export interface DataKey {
  readonly algorithm: Envelope.Algorithm
  readonly keyId: string
  readonly header: Buffer
  readonly key: KeyObject
  /** K1 of XAES-256-GCM; undefined for other algorithms. */
  readonly mask: Uint8Array | undefined
}

/**
 * HKDF gives 64 bytes: the key, and the commitment. The identity (algorithm and key id) is part of HKDF's info, so one secret under
 * two ids or algorithms gives unrelated data keys.
 */
export const derive = (secret: KeyObject, identity: Uint8Array, salt: Uint8Array) => {
  const derived = Buffer.from(hkdfSync("sha256", secret, salt, identity, 64))
  return { key: createSecretKey(derived.subarray(0, 32)), commitment: derived.subarray(32) }
}

const complete = (
  algorithm: Envelope.Algorithm,
  keyId: string,
  header: Buffer,
  key: KeyObject
): DataKey => ({ algorithm, keyId, header, key, mask: algorithm === "xaes256Gcm" ? Xaes.maskOf(key) : undefined })

/** Makes a data key with a new salt; `wrapped` goes into its header. */
export const make = (
  algorithm: Envelope.Algorithm,
  keyId: string,
  secret: KeyObject,
  wrapped?: Uint8Array
): DataKey => {
  const identity = Envelope.identity(algorithm, keyId, wrapped)
  const salt = randomBytes(Envelope.saltBytes)
  const { commitment, key } = derive(secret, identity, salt)
  return complete(algorithm, keyId, Buffer.concat([identity, salt, commitment]), key)
}

/** Makes the data key of a header; undefined if the secret is not the one that its writer committed to. */
export const restore = (header: Envelope.Header, secret: KeyObject): DataKey | undefined => {
  const { commitment, key } = derive(secret, header.identity, header.salt)
  if (!timingSafeEqual(commitment, header.commitment)) return undefined
  // a copy: the header's bytes are a part of a message, which must not stay in memory with the data key
  return complete(header.algorithm, header.keyId, Buffer.from(header.bytes), key)
}
