/**
 * Signatures as Standard Webhooks writes them: HMAC-SHA256 of id, time and bytes, in three headers.
 */
import { Redacted } from "effect"
import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from "node:crypto"

/** The headers of a signature. */
export const names = {
  id: "webhook-id",
  timestamp: "webhook-timestamp",
  signature: "webhook-signature"
} as const

/** Most signatures of one message that are compared, and most keys that one verifier tries. */
export const maximum = 16

/** The longest signature header that is read, in characters. */
export const maximumLength = 4096

const scheme = "v1,"

/**
 * The key of a secret: base64 of 24 to 64 bytes, `whsec_` before it or not.
 *
 * @throws RangeError when it is none; the message does not quote it
 */
export const keyOf = (secret: Redacted.Redacted<string>): KeyObject => {
  const text = Redacted.value(secret).replace(/^whsec_/, "")
  const bytes = Buffer.from(text, "base64")
  if (bytes.toString("base64").replace(/=+$/, "") !== text.replace(/=+$/, "")) {
    throw new RangeError("Hmac: secret must be whsec_ and base64, got something else")
  }
  if (bytes.length < 24 || bytes.length > 64) {
    throw new RangeError(`Hmac: secret must have 24 to 64 bytes, got ${bytes.length}`)
  }
  return createSecretKey(bytes)
}

/** An id without the full stop that ends it in what is signed: with one, another message could have the same signature. */
export const isId = (id: string): boolean => /^[\x21-\x2d\x2f-\x7e]{1,256}$/.test(id)

/** Whole seconds of Unix time, in their one spelling; undefined for anything else. */
export const secondsOf = (text: string): number | undefined =>
  /^(?:0|[1-9]\d{0,11})$/.test(text) ? Number(text) : undefined

/** The signature of a message, with its scheme. */
export const sign = (key: KeyObject, id: string, timestamp: number, payload: Uint8Array): string =>
  scheme + createHmac("sha256", key).update(`${id}.${timestamp}.`).update(payload).digest("base64")

const form = /^v1,[A-Za-z0-9+/]{43}=$/

const bytesOf = (signature: string): Uint8Array => Buffer.from(form.test(signature) ? signature : scheme, "latin1")

/** Signatures of our scheme: their bytes, or undefined for more than are looked at. Others in the list are for others. */
export const candidatesOf = (field: string): ReadonlyArray<Uint8Array> | undefined => {
  if (field.length > maximumLength) return undefined
  // one alone, as nearly always
  if (!field.includes(" ")) return field.startsWith(scheme) ? [bytesOf(field)] : []
  const ours = field.split(" ").filter((each) => each.startsWith(scheme))
  return ours.length > maximum ? undefined : ours.map(bytesOf)
}

/** Whether the key made one of the signatures; all are compared, each in constant time. */
export const matches = (
  key: KeyObject,
  id: string,
  timestamp: number,
  payload: Uint8Array,
  candidates: ReadonlyArray<Uint8Array>
): boolean => {
  const own = Buffer.from(sign(key, id, timestamp, payload), "latin1")
  let found = false
  for (const candidate of candidates) {
    if (candidate.length === own.length && timingSafeEqual(candidate, own)) found = true
  }
  return found
}
