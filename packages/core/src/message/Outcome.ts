/**
 * What becomes of a message, as a value: the engine computes it once and tells the broker; no middleware calls the broker.
 */
import { Duration } from "effect"
import * as OptionCheck from "./OptionCheck.ts"

// a symbol, since a handler may answer a body that its sender wrote: no JSON can be an outcome
const TypeId: unique symbol = Symbol.for("~millrace/Outcome")

interface Tagged<Tag extends string> {
  readonly [TypeId]: true
  readonly _tag: Tag
}

/** The message is done: it is acknowledged. */
export interface Ack extends Tagged<"Ack"> {}

/** The message is tried again; without `after`, by the back-off of its subscription. */
export interface Retry extends Tagged<"Retry"> {
  readonly after: Duration.Duration | undefined
}

/** The message is written to the dead letters, and acknowledged once that is confirmed. */
export interface DeadLetter extends Tagged<"DeadLetter"> {
  readonly error: unknown
}

/** The message is dropped on purpose: it is acknowledged, and written nowhere. */
export interface Reject extends Tagged<"Reject"> {
  readonly error: unknown
}

/** The message is given back unsettled, for another delivery. */
export interface Release extends Tagged<"Release"> {}

/** What becomes of a message. */
export type Outcome = Ack | Retry | DeadLetter | Reject | Release

/** The message is done. */
export const Ack: Ack = { [TypeId]: true, _tag: "Ack" }

/** The message goes back, for another delivery. */
export const Release: Release = { [TypeId]: true, _tag: "Release" }

const whenever: Retry = { [TypeId]: true, _tag: "Retry", after: undefined }

const check = OptionCheck.make("Outcome.Retry")

/**
 * The message is tried again, `after` a time (finite, from 0) or by the back-off of its subscription.
 *
 * @throws RangeError when `after` is out of range
 */
export const Retry = (options?: { readonly after?: Duration.Input | undefined }): Retry =>
  options?.after === undefined
    ? whenever
    : { [TypeId]: true, _tag: "Retry", after: Duration.millis(check.millis("after", options.after, { least: 0 })) }

/** The message goes to the dead letters; `error` is what they name as its reason. */
export const DeadLetter = (error?: unknown): DeadLetter => ({ [TypeId]: true, _tag: "DeadLetter", error })

/** The message is dropped on purpose; `error` is what logs and audit name as its reason. */
export const Reject = (error?: unknown): Reject => ({ [TypeId]: true, _tag: "Reject", error })

/** Whether a value is an outcome: a handler may answer one, and then it holds. */
export const isOutcome = (value: unknown): value is Outcome => {
  if (typeof value !== "object" || value === null) return false
  try {
    return TypeId in value
  } catch {
    return false
  }
}
