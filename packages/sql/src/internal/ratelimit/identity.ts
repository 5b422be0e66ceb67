/**
 * Identifies rows of rate limits, and prunes rows that no longer limit anything.
 */
import { Detached, type RateLimit } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Effect, type Scope } from "effect"
import { createHash } from "node:crypto"

/** Hashes the policy and the key of a charge: unique for any text, of one length, and free of personal names. */
export const identityOf = ({ key, policy }: RateLimit.Charge): string =>
  createHash("sha256").update(compositeKey(policy.id, key)).digest("hex")

/** The charges that hold places. */
export const places = (charges: ReadonlyArray<RateLimit.Charge>): ReadonlyArray<RateLimit.Charge> =>
  charges.filter(({ policy }) => policy.algorithm === "concurrency")

/** Makes leases that are unique across processes: a random number for each process, and 2^21 leases at a time. */
export const leases = (process: number): () => number => {
  let last = 0
  return () => process * 2 ** 21 + (++last % 2 ** 21)
}

/** The most rows that one statement removes. */
export const most = 1_000

/** Prunes rows regularly while the scope is open; after a failure it tries again at the next interval. */
export const pruning = <E>(
  /** Milliseconds. */
  every: number,
  prune: Effect.Effect<number, E>
): Effect.Effect<void, never, Scope.Scope> => {
  const all: Effect.Effect<void, E> = Effect.flatMap(prune, (removed) => removed < most ? Effect.void : all)
  return Effect.asVoid(
    Effect.forkScoped(Detached.effect(Effect.forever(Effect.andThen(Effect.sleep(every), Effect.ignoreCause(all)))))
  )
}
