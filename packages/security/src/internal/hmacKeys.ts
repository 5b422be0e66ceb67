/**
 * The keys of signatures: secrets with the names that principals get.
 */
import type { Auth, Envelope } from "@millrace/core"
import type { Redacted } from "effect"
import type { KeyObject } from "node:crypto"
import { freeze } from "./freeze.ts"
import * as Signature from "./signature.ts"

/** A secret, and whose it is. */
export interface Key {
  /** The principal's subject. While one secret takes the place of another, both have the same name. */
  readonly name: string
  /** `whsec_` and base64 of 24 to 64 bytes, as `generate` makes it; the prefix may be missing. */
  readonly secret: Redacted.Redacted<string>
  /** The principal's scopes. Default: none. */
  readonly scopes?: ReadonlyArray<string> | undefined
}

/** What can be verified: an envelope whose payload is still the bytes that came. */
export interface Signed extends Envelope {
  readonly payload: Uint8Array
}

/** From 1 to 16 keys. */
export type Keys = readonly [Key, ...ReadonlyArray<Key>]

/** A key, and the principal of all that it has signed. */
export interface Compiled {
  readonly key: KeyObject
  readonly principal: Auth.Principal["Service"]
}

/**
 * Reads keys once.
 *
 * @throws RangeError when there is none or are too many, a name is empty, or a secret is none
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
