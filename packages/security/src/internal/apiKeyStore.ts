/**
 * What is stored of API keys, and how it is hashed.
 */
import type { Auth } from "@millrace/core"
import { Context, type Effect, Exit, Layer, Redacted } from "effect"
import { createHmac, createSecretKey, hash, type KeyObject } from "node:crypto"

/** A hash of a key; several of them hold while one secret takes the place of another. */
export interface Hashed {
  /** What `generate` or `hash` made. */
  readonly hash: string
  /** Unix time in milliseconds from which on this secret no longer counts. Default: never, unless its key ends. */
  readonly expiresAt?: number | undefined
}

/** What is stored of a key, under its id. */
export interface Stored {
  /** One hash for each secret that counts. */
  readonly hashes: ReadonlyArray<Hashed>
  /** Whose key it is: the principal's subject. */
  readonly subject: string
  readonly issuer?: string | undefined
  /** Default: none. */
  readonly scopes?: ReadonlyArray<string> | undefined
  /** Unix time in milliseconds from which on the key no longer counts. Default: never. */
  readonly expiresAt?: number | undefined
  /** Default: false. */
  readonly revoked?: boolean | undefined
  /** What else the principal's claims say, beside `sub` and `key`, the id. Default: nothing. */
  readonly claims?: { readonly [name: string]: unknown } | undefined
}

/**
 * Where keys are stored. `find` answers an Exit where nothing has to be fetched, and undefined for an id that it does not know.
 * It is never given a secret.
 */
export class ApiKeyStore extends Context.Service<ApiKeyStore, {
  readonly find: (id: string) => Effect.Effect<Stored | undefined, Auth.AuthUnavailable>
}>()("@millrace/security/ApiKey/Store") {}

/** Keys in a map of this process, read at each question: what changes in the map counts. */
export const layerMemory = (keys: ReadonlyMap<string, Stored>): Layer.Layer<ApiKeyStore> =>
  Layer.succeed(ApiKeyStore, { find: (id) => Exit.succeed(keys.get(id)) })

/** A secret of the program, which hashes are keyed by; several while one takes the place of another, the newest first. */
export type Pepper = Redacted.Redacted<string> | ReadonlyArray<Redacted.Redacted<string>>

/** Hashes a whole key: 32 bytes, bound to its id, which is part of it. */
export interface Hasher {
  readonly scheme: string
  readonly digest: (key: string) => Buffer
}

const plain: Hasher = { scheme: "sha256", digest: (key) => hash("sha256", key, "buffer") }

const keyed = (pepper: KeyObject): Hasher => ({
  scheme: "hmac-sha256",
  digest: (key) => createHmac("sha256", pepper).update(key).digest()
})

/**
 * The hashers of a pepper, the newest first.
 *
 * @throws RangeError when a pepper has less than 32 bytes, or none is given
 */
export const hashersOf = (pepper: Pepper | undefined): readonly [Hasher, ...ReadonlyArray<Hasher>] => {
  if (pepper === undefined) return [plain]
  const [first, ...others] = [pepper].flat().map((each) => {
    const bytes = Buffer.from(Redacted.value(each))
    if (bytes.length < 32) throw new RangeError(`ApiKey: pepper must have at least 32 bytes, got ${bytes.length}`)
    return keyed(createSecretKey(bytes))
  })
  if (first === undefined) throw new RangeError("ApiKey: pepper must hold at least one, got none")
  return [first, ...others]
}

export const textOf = ({ digest, scheme }: Hasher, key: string): string =>
  `${scheme}:${digest(key).toString("base64url")}`

const text = /^(?:hmac-)?sha256:[\w-]{43}$/

/** The 32 bytes of a stored hash. */
export const bytesOf = (id: string, stored: string): Buffer => {
  if (!text.test(stored)) throw new RangeError(`ApiKey: a stored hash of ${id} must be one that was made by hash`)
  return Buffer.from(stored.slice(stored.indexOf(":") + 1), "base64url")
}
