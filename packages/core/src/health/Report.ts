/**
 * The health of a program, as a value.
 */
import { Cause, type Exit } from "effect"
import { classOf, type FailureClass, tagOf } from "../message/Failure.ts"
import { type Details, isDegraded, type Kind, maximumDetails, maximumText } from "./Check.ts"

/** A status, from best to worst. */
export type Status = "up" | "degraded" | "down"

/** The phase of a program's life; readiness is down unless it is `started`. */
export type Phase = "starting" | "started" | "draining"

/** The public part of a failure. */
export interface Shown {
  /** Undefined if the error has no class. */
  readonly failure: FailureClass | undefined
  readonly tag: string
  /** The result of `explain`; undefined if it returns none. */
  readonly message: string | undefined
}

/** The result of one check. */
export interface Result {
  readonly name: string
  readonly kind: Kind
  readonly status: Status
  /** The overall status while this check is down. */
  readonly whenDown: "degraded" | "down"
  /** Duration of the run in milliseconds, by the monotonic clock. */
  readonly latency: number
  /** Unix time in milliseconds of the answer. */
  readonly at: number
  /** Unix time in milliseconds of the last status change. */
  readonly since: number
  /** Number of failures in a row. */
  readonly failures: number
  /** The last failure; undefined if the last run succeeded. */
  readonly error: Shown | undefined
  /** The reason for the degraded status. */
  readonly why: string | undefined
  readonly details: Details | undefined
}

/** The health of a program. */
export interface Report {
  /** The worst of the checks, weighted by `whenDown`. Except for liveness: down unless started (startup: while starting). */
  readonly status: Status
  readonly kind: Kind | "all"
  readonly phase: Phase
  /** Unix time in milliseconds. */
  readonly timestamp: number
  /** The results in the order of registration. */
  readonly checks: ReadonlyArray<Result>
}

const ranks: Record<Status, number> = { up: 0, degraded: 1, down: 2 }

/** Returns the worse of two statuses. */
export const worse = (one: Status, other: Status): Status => ranks[one] >= ranks[other] ? one : other

/** Returns the effect of a check on the overall status. */
export const weightOf = ({ status, whenDown }: Pick<Result, "status" | "whenDown">): Status =>
  status === "down" ? whenDown : status

/** Tells whether the phase alone makes a report of this kind down. */
const isHeldBack = (kind: Report["kind"], phase: Phase): boolean =>
  kind === "startup" ? phase === "starting" : kind !== "liveness" && phase !== "started"

/** Makes a report of results. */
export const make = (
  kind: Report["kind"],
  phase: Phase,
  timestamp: number,
  checks: ReadonlyArray<Result>
): Report => ({
  status: isHeldBack(kind, phase) ? "down" : checks.map(weightOf).reduce(worse, "up"),
  kind,
  phase,
  timestamp,
  checks
})

const shortened = (text: string): string => String(text).slice(0, maximumText).toWellFormed()

const isPlain = (value: unknown): value is Details[string] =>
  value === null || typeof value === "string" || typeof value === "number" || typeof value === "boolean"

const boundedDetails = (details: Details): Details =>
  Object.fromEntries(
    Object.entries(details)
      .filter(([, value]) => isPlain(value))
      .slice(0, maximumDetails)
      .map(([name, value]) => [shortened(name), typeof value === "string" ? shortened(value) : value])
  )

/** The raw result of one check, before failure counting. */
export interface Found {
  readonly status: Status
  readonly error: Shown | undefined
  readonly why: string | undefined
  readonly details: Details | undefined
}

const failed = (failure: FailureClass | undefined, tag: string, message?: string): Found => ({
  status: "down",
  error: { failure, tag: shortened(tag), message: message === undefined ? undefined : shortened(message) },
  why: undefined,
  details: undefined
})

/** The result of a check that timed out. */
export const late: Found = failed("timeout", "Timeout")

/** The result of a liveness check that returned false. */
export const notAlive: Found = failed(undefined, "NotAlive")

/** Makes the result of an exit; of an error it shows only class, tag, and the text of `explain`. */
export const foundOf = (
  exit: Exit.Exit<unknown, unknown>,
  explain: (error: unknown) => string | undefined
): Found => {
  if (exit._tag === "Success") {
    const answer = exit.value
    if (isDegraded(answer)) {
      const { details, why } = answer
      return {
        status: "degraded",
        error: undefined,
        why: shortened(why),
        details: details === undefined ? undefined : boundedDetails(details)
      }
    }
    const details = typeof answer === "object" && answer !== null ? boundedDetails(answer as Details) : undefined
    return { status: "up", error: undefined, why: undefined, details }
  }
  const reason = exit.cause.reasons.find(Cause.isFailReason)
  if (reason !== undefined) {
    const { error } = reason
    let message: string | undefined
    try {
      message = explain(error)
    } catch {
      // an explain that throws gives no text
    }
    return failed(classOf(error), tagOf(error), message)
  }
  const defect = exit.cause.reasons.find(Cause.isDieReason)
  return defect === undefined ? failed(undefined, "Interrupted") : failed("defect", tagOf(defect.defect))
}
