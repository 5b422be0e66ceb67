/**
 * Reads the key, the scope and the fingerprint of a request, which identify it.
 */
import * as Identity from "../../broker/Identity.ts"
import { compositeKey } from "../../message/compositeKey.ts"
import { type Envelope, Message } from "../../message/Message.ts"

/** FNV-1a and a variant of it; not safe against deliberate collisions, which harm only the caller that makes them. */
const hash = (bytes: Uint8Array): string => {
  let a = 0x811c9dc5
  let b = 0x01000193
  for (let i = 0; i < bytes.length; i++) {
    a = Math.imul(a ^ bytes[i]!, 0x01000193)
    b = Math.imul(b ^ bytes[i]!, 0x85ebca6b)
  }
  return `${bytes.length}-${(a >>> 0).toString(36)}-${(b >>> 0).toString(36)}`
}

// the draft defines a structured field string, yet most clients send it unquoted
const unquoted = (value: string | undefined): string | undefined =>
  value !== undefined && value.length > 1 && value.startsWith("\"") && value.endsWith("\"") ? value.slice(1, -1) : value

export const keyOf = (message: Envelope): string | undefined => {
  const { headers, kind } = message
  return unquoted(headers["idempotency-key"]) ??
    (kind === "consumer" || kind === "producer" ? Identity.of(message) : undefined)
}

const bodyOf = (message: Envelope): Uint8Array | undefined => {
  if (message instanceof Message) return message.raw
  const { payload } = message as { readonly payload?: unknown }
  return payload instanceof Uint8Array ? payload : undefined
}

export const fingerprintOf = (message: Envelope): string | undefined => {
  const body = bodyOf(message)
  return body && hash(body)
}

/** The channel, and of a consumer its group: two groups handle one message once each. */
export const placeOf = (message: Envelope): string =>
  message instanceof Message
    ? compositeKey(message.delivery.origin.group, message.channel)
    : compositeKey(message.channel)
