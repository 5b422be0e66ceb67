import type { Failure } from "@millrace/core"
import { Data } from "effect"

/**
 * The outbox's database failed. Nothing was changed, unless a statement or a commit got no answer: then it may be done. Class
 * `dependency` or `transient` wherever a later call may succeed.
 */
export class OutboxError extends Data.TaggedError("OutboxError")<{
  /** The cause and the remedy. */
  readonly message: string
  readonly failure: Failure.FailureClass
  readonly cause?: unknown
}> {}
