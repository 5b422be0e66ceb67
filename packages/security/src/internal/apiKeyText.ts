/**
 * How an API key is written: `<prefix>_<id>_<secret><checksum>`, in letters and digits, so that a double click takes all of it.
 */
import { SecureRandom } from "effect/crypto"
import { crc32 } from "node:zlib"

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/** Letters that hold 12 random bytes, 32 random bytes, and 32 bits: base 62 of the largest number of each. */
export const lengths = { id: 17, secret: 43, checksum: 6 } as const

/** Base 62, filled up with zeros. */
const write = (value: bigint, length: number): string => {
  let text = ""
  for (let left = value; text.length < length; left /= 62n) text = alphabet[Number(left % 62n)]! + text
  return text
}

const random = (bytes: number, length: number): string =>
  write(
    SecureRandom.randomBytesUnsafe(bytes).reduce((value, byte) => value << 8n | BigInt(byte), 0n),
    length
  )

/** As `write` does it, for what is read with each message: 32 bits need no large numbers. */
const checksum = (text: string): string => {
  let sum = ""
  for (let left = crc32(text); sum.length < lengths.checksum; left = Math.floor(left / 62)) {
    sum = alphabet[left % 62]! + sum
  }
  return sum
}

/** A new id, of 96 random bits. */
export const newId = (): string => random(12, lengths.id)

/** A new key of an id, with a secret of 256 random bits. */
export const make = (prefix: string, id: string): string => {
  const text = `${prefix}_${id}_${random(32, lengths.secret)}`
  return text + checksum(text)
}

export const isId = (text: string): boolean => text.length === lengths.id && /^[0-9A-Za-z]+$/.test(text)

/**
 * The prefix, if it is one: what scanners for leaked secrets look for.
 *
 * @throws RangeError when it is not
 */
export const prefixOf = (prefix: string): string => {
  if (/^[a-z][a-z0-9_]{1,30}[a-z0-9]$/.test(prefix)) return prefix
  throw new RangeError(
    "ApiKey: prefix must be 3 to 32 small letters, digits and _, begin with a letter and not end with _, got something else"
  )
}

/** Reads the id of a key; undefined for what is no key of this prefix. The checksum tells a slip of the pen, and no forgery. */
export const reader = (prefix: string): (text: string) => string | undefined => {
  const start = prefix.length + 1
  const whole = start + lengths.id + 1 + lengths.secret + lengths.checksum
  const form = new RegExp(`^${prefix}_[0-9A-Za-z]{${lengths.id}}_[0-9A-Za-z]{${lengths.secret + lengths.checksum}}$`)
  return (text) => {
    if (text.length !== whole || !form.test(text)) return undefined
    const end = whole - lengths.checksum
    return checksum(text.slice(0, end)) === text.slice(end) ? text.slice(start, start + lengths.id) : undefined
  }
}
