/**
 * The errors of a program.
 */
import { Failure } from "@millrace/core"
import { Data, Runtime } from "effect"

/** Exit codes of a process: those of sysexits.h where it has one. */
export const exitCodes = { success: 0, failure: 1, usage: 2, unstopped: 70, configuration: 78 } as const

const isConfiguration = (error: unknown): boolean => Failure.tagOf(error) === "ConfigError"

/** Returns the exit code of an error: its own, 78 for a `ConfigError`, else 1. */
export const codeOf = (error: unknown): number =>
  isConfiguration(error) ? exitCodes.configuration : Runtime.getErrorExitCode(error)

/** Tells whether a part that failed with this error fails again: its class is lasting, or the configuration is wrong. */
export const isLasting = (error: unknown): boolean => {
  const failure = Failure.classOf(error)
  return isConfiguration(error) || (failure !== undefined && Failure.lasting.has(failure))
}

/** A part failed and is not restarted any more, and its `onFailure` is `exit`. */
export class PartFailed extends Data.TaggedError("PartFailed")<{
  /** The name of the part. */
  readonly part: string
  /** The name of the part, the number of its restarts, and the error. */
  readonly message: string
  /** The class of the error, `defect` if it has none. */
  readonly failure: Failure.FailureClass
  readonly cause: unknown
}> {
  /** The exit code of a process that fails with this error: that of the cause. */
  override get [Runtime.errorExitCode](): number {
    return codeOf(this.cause)
  }
}

/** A part was not ready within its time limit. */
export class NotReady extends Data.TaggedError("NotReady")<{ readonly message: string }> {
  readonly failure = "timeout" as const
}

/** A part did not stop within its time limit, so it cannot be restarted beside itself. */
export class NotStopped extends Data.TaggedError("NotStopped")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

/** An effect ended although its part is to run on (`onEnd: "restart"`). */
export class Ended extends Data.TaggedError("Ended")<{ readonly message: string }> {
  readonly failure = "transient" as const
}

/** The program has no part of a chosen name, or no part is left to run. */
export class SelectionError extends Data.TaggedError("SelectionError")<{
  /** The wrong name and the names that exist. */
  readonly message: string
  /** Where the choice was made: by code or arguments, or by the environment. */
  readonly source: "options" | "MILLRACE_PARTS"
}> {
  readonly failure = "permanent" as const

  override get [Runtime.errorExitCode](): number {
    return this.source === "options" ? exitCodes.usage : exitCodes.configuration
  }
}
