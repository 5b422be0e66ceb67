/**
 * Retries statements that a server did not answer, if it may answer soon.
 */
import type { Audit } from "@millrace/core"
import { Duration, Effect, Schedule } from "effect"
import type { Server } from "./errors.ts"

const retriable: ReadonlySet<Audit.Reason> = new Set(["Unreachable", "Lost", "Busy"])

/** Makes delays that double up to 1 second. */
export const doubling = (first: Duration.Input) =>
  Schedule.exponential(first).pipe(
    Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1))))
  )

/** Retries an effect whose failure may pass, for `patience` milliseconds: delays of 50 ms, doubled up to 1 second. */
export const retry = <E>(server: Server, patience: number, reasonOf: (error: E) => Audit.Reason) => {
  const schedule = Schedule.upTo(doubling("50 millis"), { duration: patience })
  const isRetriable = (reason: Audit.Reason) => retriable.has(reason) || (server.isRenewed && reason === "Credentials")
  return <A, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
    Effect.retry(effect, { while: (error) => isRetriable(reasonOf(error)), schedule })
}
