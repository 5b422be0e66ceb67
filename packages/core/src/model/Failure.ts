/**
 * Classes of failure: what an error means for its message, carried on the error itself.
 *
 * No middleware knows the transport it runs on. It fails with an error that says its class; one table for each transport
 * turns the class into an outcome (brokers) or a status (HTTP).
 */
import type { Duration } from "effect"
import { hasProperty } from "effect/Predicate"

/**
 * What an error means.
 *
 * - `transient`: the same message may succeed a moment later
 * - `permanent`: it never will
 * - `throttled`: it came too early; `retryAfter` says when to come back
 * - `poison`: its bytes cannot be read
 * - `conflict`: another worker has it, or another version of it
 * - `timeout`: it took longer than it may
 * - `auth`: its sender is unknown or may not do this
 * - `validation`: it was read, and its content is wrong
 * - `dependency`: something the handler needs is down
 * - `defect`: the program is wrong
 */
export type FailureClass =
  | "transient"
  | "permanent"
  | "throttled"
  | "poison"
  | "conflict"
  | "timeout"
  | "auth"
  | "validation"
  | "dependency"
  | "defect"

/** Every class, in the order of the documentation. */
export const classes: ReadonlyArray<FailureClass> = [
  "transient",
  "permanent",
  "throttled",
  "poison",
  "conflict",
  "timeout",
  "auth",
  "validation",
  "dependency",
  "defect"
]

/** The classes that never go away by themselves: what failed so is not tried again. */
export const lasting: ReadonlySet<FailureClass> = new Set<FailureClass>([
  "permanent",
  "poison",
  "auth",
  "validation",
  "defect"
])

/** An error that says of which class it is, and, where that applies, when the message may come back. */
export interface Classified {
  readonly failure: FailureClass
  readonly retryAfter?: Duration.Duration | undefined
}

const known: ReadonlySet<unknown> = new Set(classes)

/** Whether an unknown error carries a class. */
export const isClassified = (error: unknown): error is Classified =>
  hasProperty(error, "failure") && known.has(error.failure)

/** The class of an unknown error, or undefined where it carries none. */
export const classOf = (error: unknown): FailureClass | undefined => isClassified(error) ? error.failure : undefined

/** The tag of an unknown error: its `_tag`, else its `name`, else its type. */
export const tagOf = (error: unknown): string =>
  hasProperty(error, "_tag") && typeof error._tag === "string"
    ? error._tag
    : error instanceof Error
    ? error.name
    : typeof error
