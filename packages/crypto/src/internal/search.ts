/**
 * Deterministic ciphertexts of values that are searched by equality: `MRS`, a version byte, and AES-SIV with channel and place as
 * associated data.
 */
import { Redacted } from "effect"
import { fieldAssociatedData } from "./associated.ts"
import * as Siv from "./siv.ts"

/** A key of 64 bytes, or its base64 or base64url. */
export type Key = Redacted.Redacted<string | Uint8Array>

const header = Buffer.from([0x4d, 0x52, 0x53, 1])

const base64 = /^[\w+/-]{86}(==)?$/

/**
 * Checks and imports a key.
 *
 * @throws RangeError when it has another length
 */
export const importKey = (key: Key): Buffer => {
  const plain = Redacted.value(key)
  const bytes = typeof plain !== "string"
    ? Buffer.from(plain)
    : Buffer.from(base64.test(plain) ? plain : "", "base64")
  if (bytes.length !== Siv.keyBytes) {
    throw new RangeError(
      `EncryptedField: searchKey must have ${Siv.keyBytes} bytes, or their base64, got something else`
    )
  }
  return bytes
}

const associated = (channel: string, path: ReadonlyArray<string>): ReadonlyArray<Buffer> => [
  Buffer.from(fieldAssociatedData(header, { channel, key: undefined, path, subject: undefined }))
]

/** Tells whether bytes begin as a ciphertext of this module. */
export const isSealed = (bytes: Buffer): boolean => bytes.length > header.length && bytes.subarray(0, 4).equals(header)

/** Encrypts a value of a place: `path` has `*` for each element of a list. */
export const seal = (key: Buffer, channel: string, path: ReadonlyArray<string>, plain: Buffer): Buffer =>
  Buffer.concat([header, Siv.seal(key, associated(channel, path), plain)])

/** Decrypts what `seal` made; undefined if anything differs. */
export const open = (
  key: Buffer,
  channel: string,
  path: ReadonlyArray<string>,
  sealed: Buffer
): Buffer | undefined => Siv.open(key, associated(channel, path), sealed.subarray(header.length))
