/**
 * Alert rules as data: conditions over the counts of the monitor, checked when they are built.
 */
import { OptionCheck } from "@millrace/core"
import { Duration } from "effect"
import { severities, type Severity, type Thresholds, thresholds as defaultThresholds } from "./Severity.ts"

/** The counts that a condition can read. */
export type Measure = "errors" | "messages" | "retries" | "deadLetters" | "slow"

/** A part by which counts are kept apart. */
export type Dimension = "severity" | "class" | "tag" | "channel" | "handler"

/** The dimensions of each measure. */
export const dimensions: { readonly [M in Measure]: ReadonlyArray<Dimension> } = {
  errors: ["severity", "class", "tag", "channel", "handler"],
  messages: ["channel"],
  retries: ["tag", "channel"],
  deadLetters: ["tag", "channel"],
  slow: ["channel", "handler"]
}

/** The counts that a condition reads: all, each label of a dimension by itself, or one label. */
export interface Selection<M extends Measure = Measure> {
  readonly of: M
  /** Judges each label of this dimension by itself. Default: all counts together. */
  readonly by?: Dimension | undefined
  /** Of `by`, only this label. Default: every label. */
  readonly only?: string | undefined
  /**
   * How far back the counts reach: at most 15 minutes, measured to 15 seconds; counts without `by`, by severity and by class at
   * most 24 hours, measured to a minute; any other whole hours up to 24, measured to an hour. At least 15 seconds.
   */
  readonly window: Duration.Input
}

/** The bounds of a value: an alert fires from `atLeast`, and a firing one ends `under` another bound, so it does not flap. */
export interface Bounds {
  readonly atLeast: number
  /** Above 0 and at most `atLeast`. Default: `atLeast`. */
  readonly under?: number | undefined
}

/** So many in a window. */
export interface Count extends Selection, Bounds {
  readonly kind: "count"
}

/** So many a minute, over the window or the age of the counts, whichever is shorter. */
export interface Rate extends Selection, Bounds {
  readonly kind: "rate"
}

/** A share of another measure, from above 0 to 1. Never true if there are fewer than `minimum` of `to` in the window. */
export interface Ratio extends Selection, Bounds {
  readonly kind: "ratio"
  readonly to: Measure
  /** Default: 100. */
  readonly minimum?: number | undefined
}

/** None in a window, which has to be over since the counts began. With `by`, labels that were ever counted. */
export interface Absence extends Selection {
  readonly kind: "absence"
}

/** So many errors of a severity, counted exactly in a window that slides with every error; it ends under 80 %. */
export interface SeverityReached {
  readonly kind: "severity"
  readonly severity: Severity
  /** An integer from 1 to 1,000. */
  readonly atLeast: number
  readonly window: Duration.Input
}

/** A group of errors that is new, or that is back after a day without it. */
export interface GroupAppeared {
  readonly kind: "group"
  readonly is: "new" | "regressed"
}

/** A value that another part of the program measures, of one name, for each label by itself. */
export interface Gauge extends Bounds {
  readonly kind: "gauge"
  readonly name: string
}

/** When a rule is true. */
export type Condition = Count | Rate | Ratio | Absence | SeverityReached | GroupAppeared | Gauge

/** How bad an alert is. */
export type Level = "critical" | "warning" | "info"

/** Every level, the worst first. */
export const levels: ReadonlyArray<Level> = ["critical", "warning", "info"]

/** Options of `make`. */
export interface Options {
  /** Unique among the rules of a monitor. */
  readonly name: string
  readonly when: Condition
  readonly level: Level
  /** How long the condition must be true without a break before the alert fires; from 0. Default: 0. */
  readonly for?: Duration.Input | undefined
  /** How long the alert keeps firing after the condition was last true; from 0. Default: 0, for groups 5 minutes. */
  readonly keepFiring?: Duration.Input | undefined
  /** The shortest time between two alerts of one label; from 0. Default: 5 minutes. */
  readonly cooldown?: Duration.Input | undefined
  /**
   * The sentence of an alert. `{rule}`, `{level}` and `{value}` are always there; `{threshold}`, `{window}` and `{label}` where the
   * condition has one; `{tag}`, `{message}` and `{count}` for groups. Default: a sentence made of the condition.
   */
  readonly template?: string | undefined
  /** Labels of the alert, by which channels are chosen. Default: none. */
  readonly labels?: Readonly<Record<string, string>> | undefined
  /** The address of the page that says what to do. Default: none. */
  readonly runbook?: string | undefined
  /** Names of rules: while one of them fires, this rule sends nothing. Default: none. */
  readonly inhibitedBy?: ReadonlyArray<string> | undefined
}

/** A checked rule; times in milliseconds. */
export interface Rule {
  readonly name: string
  readonly when: Condition
  readonly level: Level
  readonly for: number
  readonly keepFiring: number
  readonly cooldown: number
  readonly template: string
  readonly labels: Readonly<Record<string, string>>
  readonly runbook: string | undefined
  readonly inhibitedBy: ReadonlyArray<string>
}

/** The defaults of `make`. */
export const defaults: { readonly cooldown: Duration.Duration; readonly minimum: number } = {
  cooldown: Duration.minutes(5),
  minimum: 100
}

const hour = 3_600_000
const day = 24 * hour
const quarter = 900_000

const refuse = (name: string, sentence: string): never => {
  throw new RangeError(`AlertRule: ${name}: ${sentence}`)
}

const checkBounds = (check: OptionCheck.Checks, { atLeast, under }: Bounds, most?: number): void => {
  check.number("when.atLeast", atLeast, { least: Number.MIN_VALUE, most })
  // without it, 0 would be at least `under`, and the alert would never end
  if (under !== undefined) check.number("when.under", under, { least: Number.MIN_VALUE, most: atLeast })
}

const checkSelection = (name: string, check: OptionCheck.Checks, { by, of, only, window }: Selection): void => {
  check.oneOf("when.of", of, ["errors", "messages", "retries", "deadLetters", "slow"])
  if (by !== undefined) check.oneOf("when.by", by, dimensions[of])
  if (only !== undefined && by === undefined) refuse(name, "when.only needs when.by, the dimension of the label")
  const millis = check.millis("when.window", window, { least: 15_000, most: day })
  const isWide = by === undefined || by === "severity" || by === "class"
  if (millis > quarter && !isWide && millis % hour !== 0) {
    refuse(
      name,
      `when.window must be at most 15 minutes, or whole hours, because counts by ${by} are kept by the hour; got ${millis} ms`
    )
  }
}

const checkCondition = (name: string, check: OptionCheck.Checks, when: Condition): void => {
  switch (when.kind) {
    case "count":
      checkSelection(name, check, when)
      check.number("when.atLeast", when.atLeast, { least: 1 })
      return checkBounds(check, when)
    case "rate":
      checkSelection(name, check, when)
      return checkBounds(check, when)
    case "ratio":
      checkSelection(name, check, when)
      check.oneOf("when.to", when.to, ["errors", "messages", "retries", "deadLetters", "slow"])
      if (when.by !== undefined) check.oneOf("when.by", when.by, dimensions[when.to])
      if (when.to === when.of) refuse(name, `when.to is when.of, so the ratio is always 1; got ${when.to}`)
      check.count("when.minimum", when.minimum ?? defaults.minimum)
      return checkBounds(check, when, 1)
    case "absence":
      return checkSelection(name, check, when)
    case "severity":
      check.oneOf("when.severity", when.severity, severities)
      check.count("when.atLeast", when.atLeast, { most: 1_000 })
      check.millis("when.window", when.window, { least: 60_000, most: day })
      return
    case "group":
      check.oneOf("when.is", when.is, ["new", "regressed"])
      return
    case "gauge":
      if (when.name === "") refuse(name, "when.name must be the name of a gauge, got an empty text")
      return checkBounds(check, when)
    default:
      check.oneOf(
        "when.kind",
        (when as { readonly kind: string }).kind,
        ["count", "rate", "ratio", "absence", "severity", "group", "gauge"]
      )
  }
}

/** The placeholders that a condition fills. */
const placeholdersOf = (when: Condition): ReadonlyArray<string> => {
  const names = ["rule", "level", "value"]
  if ("atLeast" in when) names.push("threshold")
  if ("window" in when) names.push("window")
  if (("by" in when && when.by !== undefined) || when.kind === "severity" || when.kind === "gauge") names.push("label")
  if (when.kind === "group") names.push("label", "tag", "message", "count")
  return names
}

const words: { readonly [M in Measure]: string } = {
  errors: "errors",
  messages: "messages",
  retries: "retries",
  deadLetters: "dead letters",
  slow: "slow calls"
}

const sentenceOf = (when: Condition): string => {
  const of = "by" in when && when.by !== undefined ? ` of ${when.by} {label}` : ""
  switch (when.kind) {
    case "count":
      return `{value} ${words[when.of]}${of} in {window}, from {threshold}`
    case "rate":
      return `{value} ${words[when.of]}${of} a minute over {window}, from {threshold}`
    case "ratio":
      return `{value} of ${words[when.to]}${of} are ${words[when.of]} in {window}, from {threshold}`
    case "absence":
      return `no ${words[when.of]}${of} for {window}`
    case "severity":
      return "{value} errors of severity {label} in {window}, from {threshold}"
    case "group":
      return `${when.is} error {tag}: {message} ({count} times)`
    case "gauge":
      return `${when.name} of {label} is {value}, from {threshold}`
  }
}

/**
 * Makes a rule, and checks it: its condition can be false, its window is measured, and its template names what the condition has.
 *
 * **Example** (dead letters of any channel)
 *
 * ```ts
 * import { AlertRule } from "@millrace/monitor"
 *
 * const rule = AlertRule.make({
 *   name: "dead-letters",
 *   when: { kind: "count", of: "deadLetters", by: "channel", window: "5 minutes", atLeast: 1 },
 *   level: "warning",
 *   template: "{value} dead letters of {label}"
 * })
 * console.log(rule.cooldown) // => 300000
 * try {
 *   AlertRule.make({ ...rule, template: "{errorType} failed" })
 * } catch (error) {
 *   console.log(String(error))
 *   // => RangeError: AlertRule: dead-letters: template has {errorType}, and its condition fills only {rule}, {level}, {value}, {threshold}, {window}, {label}
 * }
 * ```
 *
 * @throws RangeError when an option is out of range, a condition is always true, or a placeholder is unknown
 * @category constructors
 */
export const make = (options: Options): Rule => {
  const { name, when } = options
  if (typeof name !== "string" || !/^[\w.-]{1,100}$/.test(name)) {
    throw new RangeError(
      `AlertRule: name must be 1 to 100 letters, digits, ".", "_" or "-", got ${JSON.stringify(name)}`
    )
  }
  const check = OptionCheck.makeWith((sentence) => refuse(name, sentence))
  checkCondition(name, check, when)
  const template = options.template ?? sentenceOf(when)
  const known = placeholdersOf(when)
  for (const [whole, placeholder = ""] of template.matchAll(/\{([^{}]*)\}/g)) {
    if (known.includes(placeholder)) continue
    refuse(name, `template has ${whole}, and its condition fills only ${known.map((each) => `{${each}}`).join(", ")}`)
  }
  const millis = (option: "cooldown" | "for" | "keepFiring", value: Duration.Input) =>
    check.millis(option, value, { least: 0, most: 7 * day })
  return Object.freeze({
    name,
    when: Object.freeze({ ...when }),
    level: check.oneOf("level", options.level, levels),
    for: millis("for", options.for ?? 0),
    keepFiring: millis("keepFiring", options.keepFiring ?? (when.kind === "group" ? "5 minutes" : 0)),
    cooldown: millis("cooldown", options.cooldown ?? defaults.cooldown),
    template,
    labels: Object.freeze({ ...options.labels }),
    runbook: options.runbook,
    inhibitedBy: options.inhibitedBy ?? []
  })
}

/**
 * Makes the four rules of thresholds by severity: by default 1 critical, 5 high, 20 medium or 100 low errors in 5 minutes.
 *
 * @throws RangeError when a count or the window is out of range
 * @category constructors
 */
export const bySeverity = (thresholds: Partial<Thresholds> = {}): ReadonlyArray<Rule> => {
  const given: Thresholds = { ...defaultThresholds, ...thresholds }
  return severities.map((severity) =>
    make({
      name: `${severity}-errors`,
      when: { kind: "severity", severity, atLeast: given[severity], window: given.window },
      level: severity === "critical" || severity === "high" ? "critical" : severity === "medium" ? "warning" : "info"
    })
  )
}

/**
 * The rules that a monitor has by default: the thresholds by severity; a dead letter in 5 minutes; more than 5 % errors of at
 * least 100 messages of a channel in 5 minutes; a new error, and one that is back after a day.
 */
export const standard: ReadonlyArray<Rule> = Object.freeze([
  ...bySeverity(),
  make({
    name: "dead-letters",
    when: { kind: "count", of: "deadLetters", by: "channel", window: "5 minutes", atLeast: 1 },
    level: "warning"
  }),
  make({
    name: "error-ratio",
    when: {
      kind: "ratio",
      of: "errors",
      to: "messages",
      by: "channel",
      window: "5 minutes",
      atLeast: 0.05,
      under: 0.03
    },
    level: "critical",
    for: "1 minute"
  }),
  make({ name: "new-error", when: { kind: "group", is: "new" }, level: "info" }),
  make({ name: "regressed-error", when: { kind: "group", is: "regressed" }, level: "warning" })
])
