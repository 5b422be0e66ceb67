/**
 * Shared by the SQL stores of idempotency keys: keys that both databases hold exactly, and the removal of expired rows.
 */
import { Detached, Failure, Idempotency } from "@millrace/core"
import { Effect, type Scope } from "effect"

export { storable } from "../database/storable.ts"

/** The most rows that one statement removes. */
export const most = 1_000

/**
 * Removes expired rows for as long as the scope is open: at each interval, and again after a moment while there are more, so
 * that other statements get their turn. After a failure it tries again at the next interval.
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

/** Builds a layer with options from the environment: an invalid value there is an error, not a defect of the program. */
export const built = <A>(build: () => A): Effect.Effect<A, Idempotency.IdempotencyUnavailable> =>
  Effect.try({
    try: build,
    catch: (error) =>
      new Idempotency.IdempotencyUnavailable({ message: Failure.messageOf(error) || Failure.tagOf(error) })
  })
