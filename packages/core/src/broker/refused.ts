/**
 * What a publish fails with where a middleware of a whole broker has failed.
 */
import * as Failure from "../model/Failure.ts"
import { BrokerError } from "./BrokerError.ts"

/** The error of a publish that a middleware of a broker has refused. */
export const refused = (system: string) => (error: unknown): BrokerError =>
  Failure.isInstance(error, BrokerError) ? error : new BrokerError({
    system,
    operation: "publish",
    reason: "Refused",
    message: `Publishing was refused by a middleware of the broker: ${Failure.tagOf(error)}`,
    failure: Failure.classOf(error) ?? "permanent",
    retryAfter: Failure.retryAfterOf(error),
    cause: error
  })
