/**
 * The removal of rows whose time is over, a thousand at a time.
 */
import { Detached } from "@millrace/core"
import { Effect, type Scope } from "effect"
import type * as Statements from "./statements.ts"

/** The most rows that one statement removes. */
export const most = 1_000

/** Milliseconds that a removal of old rows may take. */
const limit = 30_000

/**
 * Removes expired rows for as long as the scope is open: at each interval, and again after a moment while there are more, so
 * that other statements get their turn. After a failure it tries again at the next interval.
 */
export const pruning = (
  /** The module in the log. */
  module: string,
  /** Milliseconds. */
  every: number,
  some: Effect.Effect<number, unknown>
): Effect.Effect<void, never, Scope.Scope> => {
  const round: Effect.Effect<void> = Effect.flatMap(
    Effect.catch(some, (error) => Effect.as(Effect.logDebug(`${module}: what has ended was not removed`, error), 0)),
    (removed) => removed < most ? Effect.void : Effect.andThen(Effect.sleep("20 millis"), round)
  )
  return Effect.asVoid(
    Effect.forkScoped(Detached.effect(Effect.forever(Effect.andThen(Effect.sleep(every), Effect.ignoreCause(round)))))
  )
}

/** Removes up to `most` rows by a statement that takes their number and returns the number of removed rows as `n`. */
export const removed = (
  statements: Effect.Success<ReturnType<typeof Statements.make>>,
  statement: string
): Effect.Effect<number, unknown> =>
  Effect.map(statements.ask<{ readonly n: number }>(statement, [most], limit), ([row]) => row?.n ?? 0)
