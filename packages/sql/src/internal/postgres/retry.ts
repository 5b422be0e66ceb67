/**
 * Repeats statements that a server did not answer, where it may answer soon.
 */
import type { Audit } from "@millrace/core"
import { Duration, Effect, Schedule } from "effect"

const retriable: ReadonlySet<Audit.Reason> = new Set(["Unreachable", "Lost", "Busy"])

/** Repeats an effect whose failure passes by itself, for `patience` milliseconds: waits of 50 ms, doubled up to 1 second. */
export const retry = <E>(patience: number, reasonOf: (error: E) => Audit.Reason) => {
  const schedule = Schedule.exponential("50 millis").pipe(
    Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1)))),
    Schedule.upTo({ duration: patience })
  )
  return <A, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.retry(effect, { while: (error) => retriable.has(reasonOf(error)), schedule })
}
