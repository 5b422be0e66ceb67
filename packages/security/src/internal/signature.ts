/**
 * Signatures in the format of Standard Webhooks: HMAC-SHA256 of id, time and bytes, in three headers.
 */
import { Redacted } from "effect"
import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from "node:crypto"

/** The headers of a signature. */
export const names = {
  id: "webhook-id",
  timestamp: "webhook-timestamp",
  signature: "webhook-signature"
} as const

/** The most signatures of one message, and the most keys of one verifier. */
export const maximum = 16

/** The longest accepted signature header, in characters. */
export const maximumLength = 4096

const scheme = "v1,"

/**
 * Imports a secret: base64 of 24 to 64 bytes, with or without the prefix `whsec_`.
 *
 * @throws RangeError when the secret is invalid; the message does not quote the secret
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

/**
 * Whether an id can be signed. It has no dot, which ends the id in the signed text: another message could have the same
 * signature.
 */
export const isId = (id: string): boolean => /^[\x21-\x2d\x2f-\x7e]{1,256}$/.test(id)

/** Reads whole seconds of Unix time in canonical spelling; undefined for anything else. */
export const secondsOf = (text: string): number | undefined =>
  /^(?:0|[1-9]\d{0,11})$/.test(text) ? Number(text) : undefined

/** Signs a message; the signature includes its scheme. */
export const sign = (key: KeyObject, id: string, timestamp: number, payload: Uint8Array): string =>
  scheme + createHmac("sha256", key).update(`${id}.${timestamp}.`).update(payload).digest("base64")

const form = /^v1,[A-Za-z0-9+/]{43}=$/

const bytesOf = (signature: string): Uint8Array => Buffer.from(form.test(signature) ? signature : scheme, "latin1")

/**
 * The bytes of the signatures of our scheme; undefined beyond the limits. Signatures of other schemes in the list are ignored.
 */
export const candidatesOf = (field: string): ReadonlyArray<Uint8Array> | undefined => {
  if (field.length > maximumLength) return undefined
  // fast path: nearly every header has one signature
  if (!field.includes(" ")) return field.startsWith(scheme) ? [bytesOf(field)] : []
  const ours = field.split(" ").filter((each) => each.startsWith(scheme))
  return ours.length > maximum ? undefined : ours.map(bytesOf)
}

/** Whether the key made one of the signatures. Compares all, each in constant time. */
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
