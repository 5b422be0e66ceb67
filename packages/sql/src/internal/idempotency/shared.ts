/**
 * What the SQL stores of idempotency keys share: keys that both databases hold exactly, and the removal of what has ended.
 */
import { Detached, Failure, Idempotency } from "@millrace/core"
import { Effect, type Scope } from "effect"

export { storable } from "../database/storable.ts"

/** The most rows that one statement removes. */
export const most = 1_000

/**
 * Removes what has ended for as long as the scope is open: every so often, and again after a moment while there is more, so
 * that others get their turn. What fails is tried again at the next time.
 */
export const pruning = (
  /** Milliseconds. */
  every: number,
  some: Effect.Effect<number, unknown>
): Effect.Effect<void, never, Scope.Scope> => {
  const round: Effect.Effect<void> = Effect.flatMap(
    Effect.catch(some, (error) => Effect.as(Effect.logDebug("Idempotency: what has ended was not removed", error), 0)),
    (removed) => removed < most ? Effect.void : Effect.andThen(Effect.sleep("20 millis"), round)
  )
  return Effect.asVoid(
    Effect.forkScoped(Detached.effect(Effect.forever(Effect.andThen(Effect.sleep(every), Effect.ignoreCause(round)))))
  )
}

/** Builds with options from the environment: what is out of range there is no fault of the program. */
export const built = <A>(build: () => A): Effect.Effect<A, Idempotency.IdempotencyUnavailable> =>
  Effect.try({
    try: build,
    catch: (error) =>
      new Idempotency.IdempotencyUnavailable({ message: Failure.messageOf(error) || Failure.tagOf(error) })
  })
