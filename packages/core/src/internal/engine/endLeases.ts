/**
 * Ends leases gracefully: running handlers may finish, the rest is interrupted, and the last outcomes are settled.
 */
import { Effect } from "effect"
import * as Outcome from "../../message/Outcome.ts"
import type { LeaseState } from "./LeaseState.ts"

/** The time of interrupted handlers to end, and of the last call to the broker; each in milliseconds. */
export const farewell = 1000

/** Control of the messages in flight of leases. */
export interface InProgress {
  /** Completes when no handler, durable effect or dead letter of these leases is in progress. */
  readonly quiet: (leases: ReadonlyArray<LeaseState>) => Effect.Effect<void>
  /** Interrupts the handlers of a lease. */
  readonly interrupt: (lease: LeaseState) => void
  /** Stops waiting for durable effects and dead letters of a lease. */
  readonly giveUp: (lease: LeaseState) => void
}

/** Lets the messages of stopped leases finish for `limit` milliseconds, interrupts the rest, then reports to the broker. */
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

/** Releases unsettled messages, then waits for the broker call in progress and for the last one; a driver's defect ends both. */
const lastCall = (lease: LeaseState): Effect.Effect<void> =>
  Effect.suspend(() => {
    for (const delivery of lease.open()) lease.release(delivery, Outcome.Release)
    // another call, started elsewhere, may follow the one in progress
    const calls = Effect.andThen(
      lease.whenStill,
      Effect.suspend(() => Effect.andThen(lease.tell(), lease.whenStill))
    )
    return Effect.asVoid(Effect.timeoutOption(Effect.exit(calls), farewell))
  })
