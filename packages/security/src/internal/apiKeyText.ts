/**
 * The format of an API key: `<prefix>_<id>_<secret><checksum>`, in letters, digits and `_`, so that a double click selects the
 * key.
 */
import { SecureRandom } from "effect/crypto"
import { crc32 } from "node:zlib"

const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/** The lengths in base 62 of the largest number of 12 bytes, 32 bytes and 32 bits. */
export const lengths = { id: 17, secret: 43, checksum: 6 } as const

/** Writes a number in base 62, padded with zeros. */
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

/** Like `write`, without bigint, because each message computes a checksum and 32 bits fit a number. */
const checksum = (text: string): string => {
  let sum = ""
  for (let left = crc32(text); sum.length < lengths.checksum; left = Math.floor(left / 62)) {
    sum = alphabet[left % 62]! + sum
  }
  return sum
}

/** Makes an id of 96 random bits. */
export const newId = (): string => random(12, lengths.id)

/** Makes a key of an id, with a secret of 256 random bits. */
export const make = (prefix: string, id: string): string => {
  const text = `${prefix}_${id}_${random(32, lengths.secret)}`
  return text + checksum(text)
}

export const isId = (text: string): boolean => text.length === lengths.id && /^[0-9A-Za-z]+$/.test(text)

/**
 * Checks a prefix, by which scanners for leaked secrets find keys.
 *
 * @throws RangeError when the prefix is invalid
 */
export const prefixOf = (prefix: string): string => {
  if (/^[a-z][a-z0-9_]{1,30}[a-z0-9]$/.test(prefix)) return prefix
  throw new RangeError(
    "ApiKey: prefix must be 3 to 32 small letters, digits and _, begin with a letter and not end with _, got something else"
  )
}

/** Reads the id of a key; undefined for any other text. The checksum detects typing errors, not forgeries. */
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
