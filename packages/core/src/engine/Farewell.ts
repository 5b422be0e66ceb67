/**
 * How leases end in good order: what runs may finish, the rest is interrupted, and the broker is told the last of it.
 */
import { Effect } from "effect"
import * as Outcome from "../model/Outcome.ts"
import type { Tenure } from "./Tenure.ts"

/** Milliseconds for what was interrupted to end, and as many for the last call to the broker. */
export const farewell = 1000

/** What is done to what runs under a lease. */
export interface Runs {
  /** Completes when no handler, durable effect or dead letter of these is awaited. */
  readonly quiet: (tenures: ReadonlyArray<Tenure>) => Effect.Effect<void>
  /** Interrupts its handlers. */
  readonly interrupt: (tenure: Tenure) => void
  /** Waits no longer for what should become durable, nor for dead letters. */
  readonly giveUp: (tenure: Tenure) => void
}

/** Lets what runs under leases that were stopped finish for `limit` milliseconds, then interrupts it, then tells the broker. */
export const finish = (runs: Runs, tenures: ReadonlyArray<Tenure>, limit: number): Effect.Effect<void> => {
  const quiet = runs.quiet(tenures)
  return Effect.timeoutOption(quiet, limit).pipe(
    Effect.flatMap((ended) => {
      if (ended._tag === "Some") return Effect.void
      for (const tenure of tenures) runs.interrupt(tenure)
      return Effect.map(Effect.timeoutOption(quiet, farewell), () => {
        for (const tenure of tenures) runs.giveUp(tenure)
      })
    }),
    Effect.andThen(Effect.forEach(tenures, last, { concurrency: "unbounded", discard: true }))
  )
}

/** The last words: what is left is given back, and the running call and the final one are awaited. */
const last = (tenure: Tenure): Effect.Effect<void> =>
  Effect.suspend(() => {
    for (const delivery of tenure.open()) tenure.release(delivery, Outcome.Release)
    // the call that runs may be followed by one that is not ours
    const words = Effect.andThen(
      tenure.whenStill,
      Effect.suspend(() => Effect.andThen(tenure.tell(), tenure.whenStill))
    )
    return Effect.asVoid(Effect.timeoutOption(Effect.ignore(words), farewell))
  })
