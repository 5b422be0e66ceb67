/**
 * The outcome of a message, as a value: the engine computes it once and settles the message at the broker; no middleware does.
 */
import { Duration } from "effect"
import * as OptionCheck from "./OptionCheck.ts"

// a symbol, because a handler may answer a body written by its sender: no JSON can be an outcome
const TypeId: unique symbol = Symbol.for("~millrace/Outcome")

interface Tagged<Tag extends string> {
  readonly [TypeId]: true
  readonly _tag: Tag
}

/** Acknowledges the message: it is done. */
export interface Ack extends Tagged<"Ack"> {}

/** Retries the message; without `after`, by the backoff of its subscription. */
export interface Retry extends Tagged<"Retry"> {
  readonly after: Duration.Duration | undefined
}

/** Writes the message to the dead letters, and acknowledges it once the write is confirmed. */
export interface DeadLetter extends Tagged<"DeadLetter"> {
  readonly error: unknown
}

/** Drops the message on purpose: the engine acknowledges it and writes it nowhere. */
export interface Reject extends Tagged<"Reject"> {
  readonly error: unknown
}

/** Returns the message unsettled to the broker, for redelivery. */
export interface Release extends Tagged<"Release"> {}

/** The outcome of a message. */
export type Outcome = Ack | Retry | DeadLetter | Reject | Release

/** Acknowledges the message. */
export const Ack: Ack = { [TypeId]: true, _tag: "Ack" }

/** Returns the message to the broker, for redelivery. */
export const Release: Release = { [TypeId]: true, _tag: "Release" }

const whenever: Retry = { [TypeId]: true, _tag: "Retry", after: undefined }

const check = OptionCheck.make("Outcome.Retry")

/**
 * Retries the message, `after` a time (finite, from 0) or by the backoff of its subscription.
 *
 * @throws RangeError when `after` is out of range
 */
export const Retry = (options?: { readonly after?: Duration.Input | undefined }): Retry =>
  options?.after === undefined
    ? whenever
    : { [TypeId]: true, _tag: "Retry", after: Duration.millis(check.millis("after", options.after, { least: 0 })) }

/** Sends the message to the dead letters; `error` is the reason stored there. */
export const DeadLetter = (error?: unknown): DeadLetter => ({ [TypeId]: true, _tag: "DeadLetter", error })

/** Drops the message on purpose; `error` is the reason shown in logs and audit rows. */
export const Reject = (error?: unknown): Reject => ({ [TypeId]: true, _tag: "Reject", error })

/** Tells whether a value is an outcome: a handler may answer with one, which then applies. */
export const isOutcome = (value: unknown): value is Outcome => {
  if (typeof value !== "object" || value === null) return false
  try {
    return TypeId in value
  } catch {
    return false
  }
}
