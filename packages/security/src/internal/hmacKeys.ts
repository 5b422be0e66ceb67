/**
 * The keys of signatures: secrets with the names of their principals.
 */
import type { Auth, Envelope } from "@millrace/core"
import type { Redacted } from "effect"
import type { KeyObject } from "node:crypto"
import { freeze } from "./freeze.ts"
import * as Signature from "./signature.ts"

/** A secret and its principal. */
export interface Key {
  /** The principal's subject. During a rotation, the old and the new secret have the same name. */
  readonly name: string
  /** `whsec_` and base64 of 24 to 64 bytes, as made by `generate`; the prefix is optional. */
  readonly secret: Redacted.Redacted<string>
  /** The principal's scopes. Default: none. */
  readonly scopes?: ReadonlyArray<string> | undefined
}

/** A verifiable message: an envelope whose payload is still the received bytes. */
export interface Signed extends Envelope {
  readonly payload: Uint8Array
}

/** From 1 to 16 keys. */
export type Keys = readonly [Key, ...ReadonlyArray<Key>]

/** A key, and the principal of the messages signed with it. */
export interface Compiled {
  readonly key: KeyObject
  readonly principal: Auth.Principal["Service"]
}

/**
 * Checks and imports keys.
 *
 * @throws RangeError when there are no keys or too many, a name is empty, or a secret is invalid
 */
export const compile = (keys: Keys): ReadonlyArray<Compiled> => {
  if (keys.length < 1 || keys.length > Signature.maximum) {
    throw new RangeError(`Hmac: keys must be 1 to ${Signature.maximum}, got ${keys.length}`)
  }
  return keys.map(({ name, scopes = [], secret }) => {
    if (name === "") throw new RangeError("Hmac: name must be a text, got an empty string")
    const principal = { subject: name, issuer: undefined, scopes: [...scopes], claims: { sub: name } }
    return { key: Signature.keyOf(secret), principal: freeze(principal) }
  })
}
