/**
 * The cache entry of a key, and the comparison of secrets with it.
 */
import type { Auth } from "@millrace/core"
import { Exit } from "effect"
import { timingSafeEqual } from "node:crypto"
import { bytesOf, type Stored } from "./apiKeyStore.ts"
import { freeze } from "./freeze.ts"

interface Secret {
  readonly bytes: Buffer
  readonly until: number
}

/** The cached state of a key, read from the store at the time `at`. */
export interface Entry {
  readonly at: number
  /** The time of the next lookup in the store. */
  next: number
  /** Padded to at least two, so verification takes the same time for zero, one and two secrets. */
  readonly secrets: ReadonlyArray<Secret>
  readonly until: number
  readonly revoked: boolean
  readonly principal: Exit.Exit<Auth.Principal["Service"]>
}

const nothing: Secret = { bytes: Buffer.alloc(32), until: -Infinity }

/** The secrets that are compared for an unknown id. */
export const nobody: ReadonlyArray<Secret> = [nothing, nothing]

export const entryOf = (id: string, stored: Stored, at: number, fresh: number): Entry => {
  const secrets = stored.hashes.map(({ expiresAt = Infinity, hash }) => ({
    bytes: bytesOf(id, hash),
    until: expiresAt
  }))
  while (secrets.length < nobody.length) secrets.push(nothing)
  const principal = {
    subject: stored.subject,
    issuer: stored.issuer,
    scopes: [...stored.scopes ?? []],
    // a clone, because freezing must not affect the store's object
    claims: { ...structuredClone(stored.claims), sub: stored.subject, key: id }
  }
  return {
    at,
    next: at + fresh,
    secrets,
    until: stored.expiresAt ?? Infinity,
    revoked: stored.revoked === true,
    principal: Exit.succeed(freeze(principal))
  }
}

/** The latest expiry of the secrets that match a digest; undefined if none matches. Compares all, for constant time. */
export const matching = (secrets: ReadonlyArray<Secret>, digests: ReadonlyArray<Buffer>): number | undefined => {
  let until: number | undefined
  for (const secret of secrets) {
    for (const digest of digests) {
      if (timingSafeEqual(secret.bytes, digest) && secret !== nothing) {
        until = Math.max(until ?? -Infinity, secret.until)
      }
    }
  }
  return until
}
