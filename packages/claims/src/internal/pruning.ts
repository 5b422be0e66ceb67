/** Removes old bodies in the background. */
import { Detached } from "@millrace/core"
import { Clock, Effect, type Scope } from "effect"
import type { ClaimStoreUnavailable } from "../ClaimStore.ts"

/** Milliseconds between two removals. */
const every = 3_600_000

/** Removes bodies older than `retention` milliseconds, once and then every hour, until the scope closes. */
export const pruning = (
  module: string,
  retention: number,
  prune: (before: number) => Effect.Effect<number, ClaimStoreUnavailable>
): Effect.Effect<void, never, Scope.Scope> => {
  if (retention === Infinity) return Effect.void
  const round = Effect.flatMap(Clock.currentTimeMillis, (now) => prune(now - retention)).pipe(
    Effect.catchCause((cause) => Effect.logWarning(`${module}: old bodies were not removed`, cause))
  )
  return Effect.asVoid(
    Effect.forkScoped(Detached.effect(Effect.forever(Effect.andThen(round, Effect.sleep(every)))))
  )
}
