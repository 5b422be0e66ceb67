/**
 * Refused publishes: by a middleware of a whole broker, or by the broker because of the message itself.
 */
import { Predicate } from "effect"
import * as Failure from "../message/Failure.ts"
import { BrokerError } from "../driver/BrokerError.ts"

/** Makes the error of a publish that a middleware of a broker has refused. */
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

// by its tag: a driver may depend on another copy of this package
export const isBrokerError = (error: unknown): error is BrokerError => Predicate.isTagged(error, "BrokerError")

/** Whether a broker permanently refuses this message, but may accept others. */
export const isAboutMessage = (error: unknown): error is BrokerError =>
  isBrokerError(error) && !error.retriable && aboutMessage.has(error.reason)

const aboutMessage: ReadonlySet<BrokerError["reason"]> = new Set(["TooLarge", "Invalid", "Unsupported"])
