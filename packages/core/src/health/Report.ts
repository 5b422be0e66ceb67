/**
 * What is known of the health of a program, as a value.
 */
import { Cause, type Exit } from "effect"
import { classOf, type FailureClass, tagOf } from "../message/Failure.ts"
import { type Details, isDegraded, type Kind, maximumDetails, maximumText } from "./Check.ts"

/** How something is; the later is the worse. */
export type Status = "up" | "degraded" | "down"

/** Where a program is on its way; readiness is down unless it is `started`. */
export type Phase = "starting" | "started" | "draining"

/** What may be told of a failure. */
export interface Shown {
  /** Undefined where the error has none. */
  readonly failure: FailureClass | undefined
  readonly tag: string
  /** What `explain` makes of the error; undefined where it says nothing. */
  readonly message: string | undefined
}

/** What one check came to. */
export interface Result {
  readonly name: string
  readonly kind: Kind
  readonly status: Status
  /** What all is while this is down. */
  readonly whenDown: "degraded" | "down"
  /** Milliseconds that the answer took, by the monotonic clock. */
  readonly latency: number
  /** Unix time in milliseconds of the answer. */
  readonly at: number
  /** Unix time in milliseconds since which its status is what it is. */
  readonly since: number
  /** How often it has failed in a row. */
  readonly failures: number
  /** Why it failed last; undefined where it did not. */
  readonly error: Shown | undefined
  /** Why it is degraded. */
  readonly why: string | undefined
  readonly details: Details | undefined
}

/** What is known of a program. */
export interface Report {
  /** The worst of its checks, each by its `whenDown`; down unless the program has started, where that matters. */
  readonly status: Status
  readonly kind: Kind | "all"
  readonly phase: Phase
  /** Unix time in milliseconds. */
  readonly timestamp: number
  /** In the order in which they were given. */
  readonly checks: ReadonlyArray<Result>
}

const ranks: Record<Status, number> = { up: 0, degraded: 1, down: 2 }

/** The worse of two. */
export const worse = (one: Status, other: Status): Status => ranks[one] >= ranks[other] ? one : other

/** What a check makes of the whole. */
export const weightOf = ({ status, whenDown }: Pick<Result, "status" | "whenDown">): Status =>
  status === "down" ? whenDown : status

/** Whether the phase speaks against the kind. */
const isHeldBack = (kind: Report["kind"], phase: Phase): boolean =>
  kind === "startup" ? phase === "starting" : kind !== "liveness" && phase !== "started"

/** A report of results. */
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

/** What was found, before it is compared with what was before. */
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

/** No answer in time. */
export const late: Found = failed("timeout", "Timeout")

/** A process that says of itself that it shall be ended. */
export const notAlive: Found = failed(undefined, "NotAlive")

/** What an exit says; nothing of an error but its class and tag, and what `explain` makes of it. */
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
      // it says nothing then
    }
    return failed(classOf(error), tagOf(error), message)
  }
  const defect = exit.cause.reasons.find(Cause.isDieReason)
  return defect === undefined ? failed(undefined, "Interrupted") : failed("defect", tagOf(defect.defect))
}
