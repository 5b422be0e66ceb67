/**
 * Encrypts and decrypts one body by a data key, synchronously.
 */
import { type CipherGCMTypes, createCipheriv, createDecipheriv } from "node:crypto"
import type { DataKey } from "./dataKey.ts"
import * as Envelope from "./envelope.ts"
import { randomBytes } from "./randomness.ts"
import * as Xaes from "./xaes.ts"

const cipherName: CipherGCMTypes = "aes-256-gcm"
const lengths = { authTagLength: Envelope.tagBytes }

/** The key and the nonce that AES-256-GCM gets: those of the data key, or of XAES-256-GCM's derivation. */
const keyOf = ({ key, mask }: DataKey, nonce: Uint8Array) => mask === undefined ? key : Xaes.subkeyOf(key, mask, nonce)

const shortNonce = (nonce: Buffer): Buffer => nonce.subarray(nonce.length - 12)

/** Encrypts under a given nonce: only for vectors and for `encrypt`, since a nonce must never be used twice. */
export const encryptWith = (data: DataKey, nonce: Buffer, associated: Uint8Array, plain: Uint8Array): Buffer => {
  const cipher = createCipheriv(cipherName, keyOf(data, nonce), shortNonce(nonce), lengths)
  cipher.setAAD(associated)
  const body = cipher.update(plain)
  // GCM has no last block: `final` computes the tag
  cipher.final()
  return Buffer.concat([data.header, nonce, body, cipher.getAuthTag()])
}

/** Makes the envelope of a body, with a random nonce. */
export const encrypt = (data: DataKey, associated: Uint8Array, plain: Uint8Array): Buffer =>
  encryptWith(data, randomBytes(Envelope.nonceBytesOf(data.algorithm)), associated, plain)

/** Opens an envelope that begins with the data key's header; undefined if the tag does not fit. */
export const decrypt = (data: DataKey, associated: Uint8Array, envelope: Buffer): Buffer | undefined => {
  const from = data.header.length
  const start = from + Envelope.nonceBytesOf(data.algorithm)
  const end = envelope.length - Envelope.tagBytes
  const nonce = envelope.subarray(from, start)
  const decipher = createDecipheriv(cipherName, keyOf(data, nonce), shortNonce(nonce), lengths)
  decipher.setAAD(associated)
  decipher.setAuthTag(envelope.subarray(end))
  const plain = decipher.update(envelope.subarray(start, end))
  try {
    decipher.final()
    return plain
  } catch {
    return undefined
  }
}
