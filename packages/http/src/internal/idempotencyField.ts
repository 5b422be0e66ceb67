/**
 * Parses the header `Idempotency-Key`, and computes the fingerprint that distinguishes requests under one key.
 */

/** A String of Structured Fields (RFC 9651, 4.2.5), and nothing after it. */
const quoted = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/

/** The bare form that most clients send: no quotes, no spaces, and no comma, which would indicate two joined headers. */
const bare = /^[\x21\x23-\x2b\x2d-\x7e]+$/

/** The key in a header; undefined without a header, and the empty string for an invalid one. */
export const keyOf = (field: string | undefined): string | undefined => {
  if (field === undefined) return undefined
  const trimmed = field.trim()
  const [, inside] = quoted.exec(trimmed) ?? []
  if (inside !== undefined) return inside.replaceAll(/\\(.)/g, "$1")
  return bare.test(trimmed) ? trimmed : ""
}

/**
 * Hashes a method, a target and a body by two FNV-1a-like halves with different seeds and multipliers. Not collision-resistant: a
 * caller that forges a collision affects only its own keys.
 */
export const fingerprint = (method: string, url: string, body: Uint8Array): string => {
  let a = 0x811c9dc5
  let b = 0x01000193
  const text = `${method} ${url}\n`
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 0x01000193)
    b = Math.imul(b ^ text.charCodeAt(i), 0x85ebca6b)
  }
  for (let i = 0; i < body.length; i++) {
    a = Math.imul(a ^ body[i]!, 0x01000193)
    b = Math.imul(b ^ body[i]!, 0x85ebca6b)
  }
  return `${text.length}-${body.length}-${(a >>> 0).toString(36)}-${(b >>> 0).toString(36)}`
}
