/**
 * What a row of a rate limit is found by, and how often rows are removed that say nothing any more.
 */
import { Detached, type RateLimit } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Effect, type Scope } from "effect"
import { createHash } from "node:crypto"

/** The policy and the key of a charge, told apart from all others whatever their text; of one length, and nobody's name. */
export const identityOf = ({ key, policy }: RateLimit.Charge): string =>
  createHash("sha256").update(compositeKey(policy.id, key)).digest("hex")

/** The charges that hold places. */
export const places = (charges: ReadonlyArray<RateLimit.Charge>): ReadonlyArray<RateLimit.Charge> =>
  charges.filter(({ policy }) => policy.algorithm === "concurrency")

/** Leases that no other process has: a number of its own, and 2^21 of them at a time. */
export const leases = (process: number): () => number => {
  let last = 0
  return () => process * 2 ** 21 + (++last % 2 ** 21)
}

/** The most rows that are removed in one statement. */
export const most = 1_000

/** Removes what is as good as nothing, again and again while the scope is open; what fails is tried again then. */
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
