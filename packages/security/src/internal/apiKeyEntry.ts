/**
 * What is known of a key, and how a secret is compared with it.
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

/** What is known of a key since `at`. */
export interface Entry {
  readonly at: number
  /** When the store is asked again. */
  next: number
  /** At least two, so that one secret takes as long as two, and as none. */
  readonly secrets: ReadonlyArray<Secret>
  readonly until: number
  readonly revoked: boolean
  readonly principal: Exit.Exit<Auth.Principal["Service"]>
}

const nothing: Secret = { bytes: Buffer.alloc(32), until: -Infinity }

/** What is compared for an id that nobody has. */
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
    // what the store holds is not frozen with it
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

/** The latest end of the secrets that a key has, or undefined where it has none of them. Looks at all, whatever it finds. */
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
