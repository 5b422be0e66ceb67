/**
 * AES-SIV-CMAC-512 (RFC 5297): deterministic encryption that keeps its strength, since it has no nonce that could repeat. Equal
 * values with equal associated data give equal bytes, which is its purpose and its leak.
 */
import { createCipheriv, timingSafeEqual } from "node:crypto"

const block = 16

/** The bytes of a key: half for S2V, half for CTR. */
export const keyBytes = 64

const doubled = (bytes: Buffer): Buffer => {
  const next = Buffer.alloc(block)
  for (let i = 0; i < block; i++) next[i] = (bytes[i]! << 1) | ((bytes[i + 1] ?? 0) >>> 7)
  if ((bytes[0]! & 0x80) !== 0) next[block - 1]! ^= 0x87
  return next
}

const xor = (a: Buffer, b: Buffer): Buffer => Buffer.from(a.map((byte, i) => byte ^ b[i]!))

const encryptBlock = (key: Buffer, bytes: Buffer): Buffer => {
  const cipher = createCipheriv("aes-256-ecb", key, null)
  cipher.setAutoPadding(false)
  return cipher.update(bytes)
}

/** CMAC (NIST SP 800-38B). */
const cmac = (key: Buffer, text: Buffer): Buffer => {
  const single = doubled(encryptBlock(key, Buffer.alloc(block)))
  const whole = text.length > 0 && text.length % block === 0
  const padded = whole ? Buffer.from(text) : Buffer.concat([text, Buffer.from([0x80]), Buffer.alloc(block)])
  const length = whole ? text.length : Math.ceil((text.length + 1) / block) * block
  const at = length - block
  xor(padded.subarray(at, length), whole ? single : doubled(single)).copy(padded, at)
  const cipher = createCipheriv("aes-256-cbc", key, Buffer.alloc(block))
  cipher.setAutoPadding(false)
  return cipher.update(padded.subarray(0, length)).subarray(at)
}

/** S2V (RFC 5297, 2.4). */
const synthetic = (key: Buffer, associated: ReadonlyArray<Buffer>, plain: Buffer): Buffer => {
  let sum = cmac(key, Buffer.alloc(block))
  for (const each of associated) sum = xor(doubled(sum), cmac(key, each))
  if (plain.length < block) {
    const padded = Buffer.alloc(block)
    plain.copy(padded)
    padded[plain.length] = 0x80
    return cmac(key, xor(doubled(sum), padded))
  }
  const last = Buffer.from(plain)
  xor(last.subarray(-block), sum).copy(last, last.length - block)
  return cmac(key, last)
}

const counted = (key: Buffer, iv: Buffer, bytes: Buffer): Buffer => {
  const counter = Buffer.from(iv)
  counter[8]! &= 0x7f
  counter[12]! &= 0x7f
  return createCipheriv("aes-256-ctr", key, counter).update(bytes)
}

/** Encrypts; `key` has 64 bytes. The result is 16 bytes longer than the text. */
export const seal = (key: Buffer, associated: ReadonlyArray<Buffer>, plain: Buffer): Buffer => {
  const iv = synthetic(key.subarray(0, 32), associated, plain)
  return Buffer.concat([iv, counted(key.subarray(32), iv, plain)])
}

/** Decrypts; undefined if key, associated data or bytes are not those of `seal`. */
export const open = (key: Buffer, associated: ReadonlyArray<Buffer>, sealed: Buffer): Buffer | undefined => {
  if (sealed.length < block) return undefined
  const iv = sealed.subarray(0, block)
  const plain = counted(key.subarray(32), iv, sealed.subarray(block))
  return timingSafeEqual(synthetic(key.subarray(0, 32), associated, plain), iv) ? plain : undefined
}
