/**
 * Sets of keys: checked, and imported into `node:crypto`.
 */
import { Redacted } from "effect"
import { createSecretKey, type KeyObject } from "node:crypto"
import { maximumKeyId } from "./envelope.ts"

/** The secret of a key: 32 bytes, or their base64 or base64url. */
export type Secret = Redacted.Redacted<string | Uint8Array>

/** The keys of a source. */
export interface KeySet {
  /** The id of the key that encrypts; all others only decrypt. */
  readonly writing: string
  /** Secrets by key id; `"revoked"` for a key whose bodies are refused. */
  readonly keys: { readonly [id: string]: Secret | "revoked" }
}

/** A set as the ring uses it. */
export interface Compiled {
  readonly writing: { readonly id: string; readonly secret: KeyObject }
  readonly keys: ReadonlyMap<string, KeyObject | "revoked">
}

const secretBytes = 32

/** The most keys of a set. */
export const maximumKeys = 10_000

const refuse = (sentence: string): never => {
  throw new RangeError(`Keys: ${sentence}`)
}

const base64 = /^[\w+/-]{43}=?$/

const bytesOf = (id: string, secret: Secret): Uint8Array => {
  const plain = Redacted.value(secret)
  if (typeof plain !== "string") return plain
  // Buffer reads base64 and base64url alike, and would skip characters of neither
  return base64.test(plain) ? Buffer.from(plain, "base64") : refuse(
    `the secret of ${JSON.stringify(id)} must be base64 of ${secretBytes} bytes, got ${plain.length} characters`
  )
}

const importOf = (id: string, secret: Secret | "revoked"): KeyObject | "revoked" => {
  const length = Buffer.byteLength(id)
  if (length < 1 || length > maximumKeyId) {
    refuse(`a key id must have 1 to ${maximumKeyId} bytes, got ${length}`)
  }
  if (secret === "revoked") return secret
  if (!Redacted.isRedacted(secret)) return refuse(`the secret of ${JSON.stringify(id)} must be Redacted, or "revoked"`)
  const bytes = bytesOf(id, secret)
  if (bytes.length !== secretBytes) {
    refuse(`the secret of ${JSON.stringify(id)} must have ${secretBytes} bytes, got ${bytes.length}`)
  }
  return createSecretKey(bytes)
}

/**
 * Checks and imports a set.
 *
 * @throws RangeError when an id or a secret is invalid, there are too many keys, or the writing key is missing or revoked
 */
export const compile = ({ keys, writing }: KeySet): Compiled => {
  const entries = Object.entries(keys)
  if (entries.length > maximumKeys) refuse(`a set must have at most ${maximumKeys} keys, got ${entries.length}`)
  const imported = new Map(entries.map(([id, secret]) => [id, importOf(id, secret)]))
  const secret = imported.get(writing)
  if (secret === undefined || secret === "revoked") {
    return refuse(`writing must be the id of a key that is ${secret === undefined ? "in the set" : "not revoked"}`)
  }
  return { writing: { id: writing, secret }, keys: imported }
}

const isRecord = (value: unknown): value is { readonly [name: string]: unknown } =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const isWriter = ({ key_ops: operations }: { readonly [name: string]: unknown }): boolean =>
  operations === undefined || (Array.isArray(operations) && operations.includes("encrypt"))

/**
 * Reads a JSON Web Key Set of symmetric keys (RFC 7517, RFC 7518 6.4): the first key that is not revoked and whose `key_ops`
 * allow `encrypt` writes. `revoked` is OpenID Federation's parameter: a key that has it is revoked, and needs no `k`.
 *
 * @throws RangeError when the text is no such set; the error quotes none of it but key ids
 */
export const parse = (text: string): KeySet => {
  let parsed: unknown
  try {
    parsed = JSON.parse(text)
  } catch {
    // JSON.parse quotes the text, which has the secrets
    return refuse("the key set is not JSON")
  }
  const list: unknown = isRecord(parsed) ? parsed["keys"] : undefined
  if (!Array.isArray(list)) return refuse("the key set must be a JSON Web Key Set, an object with keys")
  const keys: Record<string, Secret | "revoked"> = Object.create(null)
  let writing: string | undefined
  for (const jwk of list) {
    if (!isRecord(jwk)) return refuse("each of keys must be a JSON Web Key")
    const { k, kid, kty, revoked } = jwk
    if (typeof kid !== "string") return refuse("each key must have a kid")
    if (kid in keys) return refuse(`the kid ${JSON.stringify(kid)} must be in the set once`)
    if (kty !== "oct") return refuse(`the kty of ${JSON.stringify(kid)} must be oct`)
    if (revoked !== undefined && revoked !== null && revoked !== false) {
      keys[kid] = "revoked"
      continue
    }
    if (typeof k !== "string") return refuse(`the key ${JSON.stringify(kid)} must have k, its bytes in base64url`)
    keys[kid] = Redacted.make(k)
    if (writing === undefined && isWriter(jwk)) writing = kid
  }
  return writing === undefined
    ? refuse("the key set has no key that may encrypt: all are revoked or have other key_ops")
    : { writing, keys }
}
