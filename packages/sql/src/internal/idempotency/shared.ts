/**
 * Shared by the SQL stores of idempotency keys: keys that both databases hold exactly, and layers from the environment.
 */
import { Failure, Idempotency } from "@millrace/core"
import { Effect } from "effect"

export { storable } from "../database/storable.ts"

/** Builds a layer with options from the environment: an invalid value there is an error, not a defect of the program. */
export const built = <A>(build: () => A): Effect.Effect<A, Idempotency.IdempotencyUnavailable> =>
  Effect.try({
    try: build,
    catch: (error) =>
      new Idempotency.IdempotencyUnavailable({ message: Failure.messageOf(error) || Failure.tagOf(error) })
  })
