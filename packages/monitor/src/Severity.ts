/**
 * Severities of errors: a table from failure classes and error tags to four levels, and the counts that are too many.
 */
import { Failure, OptionCheck } from "@millrace/core"
import type { Duration } from "effect"

/** The severity of an error. */
export type Severity = "critical" | "high" | "medium" | "low"

/** Every severity, the worst first. */
export const severities: ReadonlyArray<Severity> = ["critical", "high", "medium", "low"]

/** The severity of each class; an error without a class, and any defect, counts as `defect`. */
export type Table = { readonly [Class in Failure.FailureClass]: Severity }

/**
 * The severities of the classes by default. Bugs and bodies that cannot be decoded are high, because no retry mends them.
 * Failures of dependencies are medium. Refused input is low, because its sender is at fault.
 */
export const table: Table = Object.freeze({
  transient: "medium",
  permanent: "medium",
  throttled: "low",
  poison: "high",
  conflict: "low",
  timeout: "medium",
  auth: "low",
  validation: "low",
  dependency: "medium",
  defect: "high"
})

/** The counts of errors in a window that are too many, by severity. */
export interface Thresholds {
  readonly critical: number
  readonly high: number
  readonly medium: number
  readonly low: number
  /** The window, which slides with every error; from 1 minute to 1 day. */
  readonly window: Duration.Input
}

/** The thresholds by default: 1 critical, 5 high, 20 medium or 100 low errors in 5 minutes. */
export const thresholds: Thresholds = Object.freeze({
  critical: 1,
  high: 5,
  medium: 20,
  low: 100,
  window: "5 minutes"
})

/** Options of `make`. */
export interface Options {
  /** The severities of classes that differ from `table`. Default: none. */
  readonly classes?: Partial<Table> | undefined
  /** The severities of error tags; a tag takes precedence over a class. Default: none. */
  readonly tags?: Readonly<Record<string, Severity>> | undefined
}

/**
 * Makes the function that gives an error its severity, by its tag and its class. It reads nothing of the message, because a
 * publisher could write that.
 *
 * **Example** (a lost payment is critical)
 *
 * ```ts
 * import { Severity } from "@millrace/monitor"
 *
 * const severityOf = Severity.make({ tags: { PaymentLost: "critical" } })
 * console.log(severityOf("PaymentLost", "permanent"), severityOf("Down", "dependency"), severityOf("TypeError", undefined))
 * // => critical medium high
 * ```
 *
 * @throws RangeError when a class or a severity does not exist
 * @category constructors
 */
export const make = (options: Options = {}) => {
  const check = OptionCheck.make("Severity")
  for (const [name, severity] of Object.entries(options.classes ?? {})) {
    check.oneOf("each name of classes", name, Failure.classes)
    check.oneOf(`classes.${name}`, severity, severities)
  }
  const tags = new Map(Object.entries(options.tags ?? {}))
  for (const [tag, severity] of tags) check.oneOf(`tags.${tag}`, severity, severities)
  const classes: Table = { ...table, ...options.classes }
  return (tag: string, failure: Failure.FailureClass | undefined): Severity =>
    tags.get(tag) ?? classes[failure ?? "defect"]
}
