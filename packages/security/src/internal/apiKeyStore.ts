/**
 * The stored form of API keys, and their hashing.
 */
import type { Auth } from "@millrace/core"
import { Context, type Effect, Exit, Layer, Redacted } from "effect"
import { createHmac, createSecretKey, hash, type KeyObject } from "node:crypto"

/** A hash of a key; during a rotation, several hashes are valid. */
export interface Hashed {
  /** The result of `generate` or `hash`. */
  readonly hash: string
  /** The expiry of this secret, as Unix time in milliseconds. Default: the expiry of the key. */
  readonly expiresAt?: number | undefined
}

/** The stored form of a key, under its id. */
export interface Stored {
  /** One hash for each valid secret. */
  readonly hashes: ReadonlyArray<Hashed>
  /** The owner of the key: the principal's subject. */
  readonly subject: string
  readonly issuer?: string | undefined
  /** Default: none. */
  readonly scopes?: ReadonlyArray<string> | undefined
  /** The expiry of the key, as Unix time in milliseconds. Default: never. */
  readonly expiresAt?: number | undefined
  /** Default: false. */
  readonly revoked?: boolean | undefined
  /** Further claims of the principal, beside `sub` and `key` (the id). Default: none. */
  readonly claims?: { readonly [name: string]: unknown } | undefined
}

/**
 * The store of keys. `find` returns an Exit if nothing has to be fetched, and succeeds with undefined for an unknown id. `find`
 * never receives a secret.
 */
export class ApiKeyStore extends Context.Service<ApiKeyStore, {
  readonly find: (id: string) => Effect.Effect<Stored | undefined, Auth.AuthUnavailable>
}>()("@millrace/security/ApiKey/Store") {}

/** Makes a store from a map of this process. Each lookup reads the map, so changes to the map take effect. */
export const layerMemory = (keys: ReadonlyMap<string, Stored>): Layer.Layer<ApiKeyStore> =>
  Layer.succeed(ApiKeyStore, { find: (id) => Exit.succeed(keys.get(id)) })

/** A secret of the program that keys the hashes; several during a rotation, the newest first. */
export type Pepper = Redacted.Redacted<string> | ReadonlyArray<Redacted.Redacted<string>>

/** Hashes a whole key to 32 bytes; the key contains its id, so the hash is bound to the id. */
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
 * @throws RangeError when a pepper has less than 32 bytes, or the list is empty
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
