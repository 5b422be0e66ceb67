/**
 * The field `Idempotency-Key`, and what tells one request under a key from another.
 */

/** A String of Structured Fields (RFC 9651, 4.2.5), and nothing after it. */
const quoted = /^"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"$/

/** What most clients send: no quotes, no blanks, and no comma, by which two fields would have become one. */
const bare = /^[\x21\x23-\x2b\x2d-\x7e]+$/

/** The key that a field says; undefined where there is no field, and the empty string where it says none. */
export const keyOf = (field: string | undefined): string | undefined => {
  if (field === undefined) return undefined
  const trimmed = field.trim()
  const [, inside] = quoted.exec(trimmed) ?? []
  if (inside !== undefined) return inside.replaceAll(/\\(.)/g, "$1")
  return bare.test(trimmed) ? trimmed : ""
}

/**
 * FNV-1a in two halves that begin apart, of a method, a target and a body: no defence against whoever makes collisions, who only
 * fools himself, as keys are his own.
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
