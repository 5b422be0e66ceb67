/**
 * Effects that have already finished.
 */
import type { Effect, Exit } from "effect"

// the key with which Effect marks an Exit; `Exit.isExit` checks more, and this runs several times for each message
const ExitTypeId = "~effect/Exit"

/** Tells whether an effect has already finished. */
export const isDone = ((self: object) => ExitTypeId in self) as <A, E, R>(
  self: Effect.Effect<A, E, R>
) => self is Exit.Exit<A, E>
