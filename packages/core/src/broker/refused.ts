/**
 * Publishes that are refused: by a middleware of a whole broker, or by the broker for what one message is.
 */
import { Predicate } from "effect"
import * as Failure from "../message/Failure.ts"
import { BrokerError } from "../driver/BrokerError.ts"

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

// by its tag: a driver may bring a copy of this package along
export const isBrokerError = (error: unknown): error is BrokerError => Predicate.isTagged(error, "BrokerError")

/** Whether a broker can never take this very message, where it may take others. */
export const isAboutMessage = (error: unknown): error is BrokerError =>
  isBrokerError(error) && !error.retriable && aboutMessage.has(error.reason)

const aboutMessage: ReadonlySet<BrokerError["reason"]> = new Set(["TooLarge", "Invalid", "Unsupported"])
