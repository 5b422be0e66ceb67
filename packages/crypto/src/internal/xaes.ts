/**
 * The key derivation of XAES-256-GCM: a subkey for each nonce, so that nonces may be random for any number of messages.
 * Source: C2SP, https://c2sp.org/XAES-256-GCM; step numbers are those of its detailed algorithm.
 */
import { createCipheriv, type KeyObject } from "node:crypto"

/** The bytes of a nonce: 12 derive the subkey, 12 are the nonce of AES-GCM. */
export const nonceBytes = 24

const encryptBlocks = (key: KeyObject, blocks: Uint8Array): Buffer => {
  const cipher = createCipheriv("aes-256-ecb", key, null)
  cipher.setAutoPadding(false)
  return cipher.update(blocks)
}

/** Computes K1, which is the same for every message of a key: steps 1 and 2. */
export const maskOf = (key: KeyObject): Uint8Array => {
  const block = encryptBlocks(key, new Uint8Array(16))
  const mask = new Uint8Array(16)
  for (let i = 0; i < 16; i++) mask[i] = (block[i]! << 1) | ((block[i + 1] ?? 0) >>> 7)
  if ((block[0]! & 0x80) !== 0) mask[15]! ^= 0b1000_0111
  return mask
}

/** Derives the key of AES-256-GCM for a nonce of 24 bytes: steps 3 to 5. */
export const subkeyOf = (key: KeyObject, mask: Uint8Array, nonce: Uint8Array): Uint8Array => {
  const blocks = new Uint8Array(32)
  for (let from = 0; from < 32; from += 16) {
    blocks[from + 1] = from === 0 ? 1 : 2
    blocks[from + 2] = 0x58
    for (let i = 0; i < 12; i++) blocks[from + 4 + i] = nonce[i]!
    for (let i = 0; i < 16; i++) blocks[from + i]! ^= mask[i]!
  }
  return encryptBlocks(key, blocks)
}
