/**
 * Ends leases in good order: running handlers may finish, the rest is interrupted, and the broker is told the last outcomes.
 */
import { Effect } from "effect"
import * as Outcome from "../../message/Outcome.ts"
import type { LeaseState } from "./LeaseState.ts"

/** Milliseconds that interrupted handlers have to end, and as many for the last call to the broker. */
export const farewell = 1000

/** The messages in flight of leases. */
export interface InProgress {
  /** Completes when no handler, durable effect or dead letter of these leases is in progress. */
  readonly quiet: (leases: ReadonlyArray<LeaseState>) => Effect.Effect<void>
  /** Interrupts the handlers of a lease. */
  readonly interrupt: (lease: LeaseState) => void
  /** Stops waiting for durable effects and dead letters of a lease. */
  readonly giveUp: (lease: LeaseState) => void
}

/** Lets the messages of stopped leases finish for `limit` milliseconds, then interrupts them, then tells the broker. */
export const endLeases = (
  inProgress: InProgress,
  leases: ReadonlyArray<LeaseState>,
  limit: number
): Effect.Effect<void> => {
  const quiet = inProgress.quiet(leases)
  return Effect.timeoutOption(quiet, limit).pipe(
    Effect.flatMap((ended) => {
      if (ended._tag === "Some") return Effect.void
      for (const lease of leases) inProgress.interrupt(lease)
      return Effect.map(Effect.timeoutOption(quiet, farewell), () => {
        for (const lease of leases) inProgress.giveUp(lease)
      })
    }),
    Effect.andThen(Effect.forEach(leases, lastCall, { concurrency: "unbounded", discard: true }))
  )
}

/** Releases the unsettled messages, and waits for the running call to the broker and the last one; a driver's defect ends both. */
const lastCall = (lease: LeaseState): Effect.Effect<void> =>
  Effect.suspend(() => {
    for (const delivery of lease.open()) lease.release(delivery, Outcome.Release)
    // the running call may be followed by one that was started elsewhere
    const calls = Effect.andThen(
      lease.whenStill,
      Effect.suspend(() => Effect.andThen(lease.tell(), lease.whenStill))
    )
    return Effect.asVoid(Effect.timeoutOption(Effect.exit(calls), farewell))
  })
