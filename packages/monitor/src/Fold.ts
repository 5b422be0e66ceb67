/**
 * The monitor as one pure function: `(state, event or tick) → (state, alerts)`. A live monitor, a dry run over history and a
 * simulation all run it, so a rule does in production what it did in a test.
 */
import { type Failure, OptionCheck } from "@millrace/core"
import type { Duration } from "effect"
import type { Rule } from "./AlertRule.ts"
import * as Apply from "./internal/apply.ts"
import * as Buckets from "./internal/buckets.ts"
import * as Distinct from "./internal/distinct.ts"
import { compile, evaluate, type Grouping } from "./internal/evaluate.ts"
import * as States from "./internal/state.ts"
import { recommendationOf } from "./internal/recommendations.ts"
import type { Severity } from "./Severity.ts"
import { severities } from "./Severity.ts"

export type { Counted, Event, Failed, Gauged, Muted, Slow } from "./internal/apply.ts"
export type { Alert, Item, SlowCall, State, Transition } from "./internal/state.ts"

/** A moment at which rules are evaluated. */
export interface Tick {
  readonly type: "tick"
  /** Unix time in milliseconds. */
  readonly at: number
}

/** An input of the fold: plain data, so a history is a list or a file of them. */
export type Input = Apply.Event | Tick

/** Options of `make`. */
export interface Options {
  /** Default: none. */
  readonly rules?: ReadonlyArray<Rule> | undefined
  /** The most labels of channels, from 1; further ones are counted as `other`. Default: 200. */
  readonly channels?: number | undefined
  /** The most error tags, from 1; further ones are counted as `other`. Default: 100. */
  readonly tags?: number | undefined
  /** The most handlers, from 1; further ones are counted as `other`. Default: 100. */
  readonly handlers?: number | undefined
  /** The most groups of errors, from 10; where there are more, the quarter with the fewest errors is summed up. Default: 1,000. */
  readonly groups?: number | undefined
  /** How long a group or a label is kept after it was last seen; from 1 hour to 7 days. Default: 7 days. */
  readonly retention?: Duration.Input | undefined
  /** From the first label of a rule that fires to its alert, so that one alert tells of many labels; from 0. Default: 30 seconds. */
  readonly groupWait?: Duration.Input | undefined
  /** The shortest time between two alerts of one rule; from 1 second. Default: 5 minutes. */
  readonly groupInterval?: Duration.Input | undefined
  /** The time after which an alert is sent again although nothing changed; at least `groupInterval`. Default: 4 hours. */
  readonly repeat?: Duration.Input | undefined
}

/** The defaults of `make`. */
export const defaults = {
  channels: 200,
  tags: 100,
  handlers: 100,
  groups: 1_000,
  retention: "7 days",
  groupWait: "30 seconds",
  groupInterval: "5 minutes",
  repeat: "4 hours"
} as const satisfies Options

const hour = Buckets.widths.hours

/** The fold of some rules. */
export interface Fold {
  readonly rules: ReadonlyArray<Rule>
  /** Makes the state without any input. */
  readonly empty: () => States.State
  /** Applies one input, and leaves the given state as it is. Copies the state; for many inputs use `run`. */
  readonly step: (state: States.State, input: Input) => readonly [States.State, ReadonlyArray<States.Alert>]
  /** Applies inputs in order, and leaves the given state as it is: the same as `step` after `step`, with one copy. */
  readonly run: (
    state: States.State,
    inputs: Iterable<Input>
  ) => readonly [States.State, ReadonlyArray<States.Alert>]
  /** Adds the counts of one state to another, as if their events had come to one; leaves both as they are. */
  readonly merge: (into: States.State, from: States.State) => States.State
  /** Applies an event to a state that the caller owns, in place. */
  readonly add: (state: States.State, event: Apply.Event) => void
}

/**
 * Makes the fold of some rules.
 *
 * **Example** (when would this rule have fired?)
 *
 * ```ts
 * import { AlertRule, Fold } from "@millrace/monitor"
 *
 * const rule = AlertRule.make({
 *   name: "many-dead",
 *   when: { kind: "count", of: "deadLetters", window: "1 minute", atLeast: 10 },
 *   level: "warning"
 * })
 * const dead = (at: number): Fold.Input => ({ type: "counted", at, measure: "deadLetters", channel: "orders", tag: "Gone", count: 4 })
 * const tick = (at: number): Fold.Input => ({ type: "tick", at })
 *
 * const { run, empty } = Fold.make({ rules: [rule], groupWait: 0 })
 * const [, alerts] = run(empty(), [dead(1_000), tick(15_000), dead(20_000), dead(21_000), tick(30_000), tick(45_000)])
 * console.log(alerts.map(({ at, items }) => `${at}: ${items[0]?.text}`).join()) // => 30000: 12 dead letters in 1m, from 10
 * ```
 *
 * @throws RangeError when an option is out of range, two rules have one name, or a rule is inhibited by an unknown rule
 * @category constructors
 */
export const make = (options: Options = {}): Fold => {
  const check = OptionCheck.make("Fold")
  const rules = options.rules ?? []
  const names = new Set(rules.map(({ name }) => name))
  if (names.size < rules.length) {
    const twice = rules.find(({ name }, i) => rules.findIndex((other) => other.name === name) !== i)
    throw new RangeError(`Fold: rules must have different names, got ${twice?.name} twice`)
  }
  for (const { inhibitedBy, name } of rules) {
    const unknown = inhibitedBy.find((each) => !names.has(each))
    if (unknown !== undefined) {
      throw new RangeError(`Fold: inhibitedBy of rule ${name} must be names of rules, got ${unknown}`)
    }
  }
  const limits: Apply.Limits = {
    channels: check.count("channels", options.channels ?? defaults.channels),
    tags: check.count("tags", options.tags ?? defaults.tags),
    handlers: check.count("handlers", options.handlers ?? defaults.handlers),
    groups: check.count("groups", options.groups ?? defaults.groups, { least: 10 })
  }
  const interval = check.millis("groupInterval", options.groupInterval ?? defaults.groupInterval, { least: 1_000 })
  const grouping: Grouping = {
    wait: check.millis("groupWait", options.groupWait ?? defaults.groupWait, { least: 0 }),
    interval,
    repeat: check.millis("repeat", options.repeat ?? defaults.repeat, { least: interval })
  }
  const retention = check.millis("retention", options.retention ?? defaults.retention, {
    least: hour,
    most: Buckets.kept.wide.hours * hour
  })
  const compiled = rules.map(compile)
  const reachedOf = (severity: Severity) =>
    compiled.flatMap(({ reached, rule: { when } }) =>
      when.kind === "severity" && when.severity === severity && reached !== undefined ? [reached] : []
    )
  const model: Apply.Model = {
    limits,
    reached: {
      critical: reachedOf("critical"),
      high: reachedOf("high"),
      medium: reachedOf("medium"),
      low: reachedOf("low")
    }
  }
  const run: Fold["run"] = (state, inputs) => {
    const next = States.copy(state)
    const alerts: Array<States.Alert> = []
    for (const input of inputs) {
      if (input.type !== "tick") {
        Apply.apply(next, model, input)
        continue
      }
      Apply.touch(next, input.at)
      alerts.push(...evaluate(next, compiled, grouping, retention, input.at))
    }
    return [next, alerts]
  }
  return {
    rules,
    empty: States.empty,
    run,
    step: (state, input) => run(state, [input]),
    merge: (into, from) => {
      const next = States.copy(into)
      Apply.merge(next, model, from)
      return next
    },
    add: (state, event) => Apply.apply(state, model, event)
  }
}

/**
 * Runs rules over a history, and tells when each would have alerted. The history is a list of inputs in order of time; a tick is
 * added every 15 seconds, between the first and the last input and for `grace` after it.
 *
 * @throws RangeError when an option is out of range, or a rule's name is not unique
 */
export const dryRun = (
  history: Iterable<Apply.Event>,
  options: Options & { readonly grace?: Duration.Input | undefined }
): ReadonlyArray<States.Alert> => {
  const fold = make(options)
  const grace = OptionCheck.make("Fold").millis("grace", options.grace ?? "10 minutes", { least: 0 })
  return fold.run(fold.empty(), withTicks(history, grace))[1]
}

const every = Buckets.widths.slots

function* withTicks(history: Iterable<Apply.Event>, grace: number): Generator<Input> {
  let next: number | undefined
  for (const event of history) {
    next ??= (Math.floor(event.at / every) + 1) * every
    while (next <= event.at) {
      yield { type: "tick", at: next }
      next += every
    }
    yield event
  }
  if (next === undefined) return
  for (const end = next + grace; next <= end; next += every) yield { type: "tick", at: next }
}

/** Turns a state into text, for a store of one's own. `decode` of it is a state that gives the same answers. */
export const encode = States.encode

/**
 * Turns the text of `encode` into a state.
 *
 * @throws Error when the text is no state, or was written by a newer version
 */
export const decode = States.decode

/** Counts of one label. */
export interface LabelCount {
  readonly label: string
  /** Since the counts began. */
  readonly total: number
  /** In the last hour. */
  readonly lastHour: number
}

/** Errors at a moment. */
export interface Errors {
  /** Unix time in milliseconds of the first input, and of the moment. */
  readonly since: number
  readonly at: number
  /** Since the counts began. */
  readonly total: number
  /** In the last 5 minutes. */
  readonly recent: number
  /** Errors a minute, over the last 5 minutes or the age of the counts, whichever is shorter. */
  readonly perMinute: number
  readonly messages: number
  readonly retries: number
  readonly deadLetters: number
  readonly slow: number
  /** Most errors first. */
  readonly bySeverity: ReadonlyArray<LabelCount>
  readonly byClass: ReadonlyArray<LabelCount>
  readonly byTag: ReadonlyArray<LabelCount>
  readonly byChannel: ReadonlyArray<LabelCount>
  readonly byHandler: ReadonlyArray<LabelCount>
  /** The last 100 slow calls, the newest last. */
  readonly slowCalls: ReadonlyArray<States.SlowCall>
}

const recent = 300_000

const totalOf = (state: States.State, name: string): number => state.series.get(name)?.get("")?.total ?? 0

const lastHourOf = (series: Buckets.Buckets, name: string, at: number): number =>
  Buckets.sum(series, Apply.isWide(name) ? "minutes" : "hours", at - hour, at)

const labelsOf = (state: States.State, name: string, at: number): ReadonlyArray<LabelCount> =>
  Array.from(state.series.get(name) ?? [], ([label, series]) => ({
    label,
    total: series.total,
    lastHour: lastHourOf(series, name, at)
  })).sort((a, b) => b.total - a.total)

/** Reads totals, rates and counts by label at a time; default: that of the newest input. */
export const errors = (state: States.State, at: number = state.now): Errors => {
  const all = state.series.get("errors")?.get("")
  const since = state.since ?? at
  const lately = all === undefined ? 0 : Buckets.sum(all, "slots", at - recent, at)
  return {
    since,
    at,
    total: all?.total ?? 0,
    recent: lately,
    perMinute: lately / (Math.max(Math.min(at - since, recent), 1_000) / 60_000),
    messages: totalOf(state, "messages"),
    retries: totalOf(state, "retries"),
    deadLetters: totalOf(state, "deadLetters"),
    slow: totalOf(state, "slow"),
    bySeverity: labelsOf(state, "errors severity", at),
    byClass: labelsOf(state, "errors class", at),
    byTag: labelsOf(state, "errors tag", at),
    byChannel: labelsOf(state, "errors channel", at),
    byHandler: labelsOf(state, "errors handler", at),
    slowCalls: state.slow
  }
}

/** Errors of one hour. */
export interface Hour {
  /** Unix time in milliseconds of its beginning, in UTC. */
  readonly from: number
  readonly errors: number
  readonly bySeverity: Readonly<Record<Severity, number>>
  /** Whether the hour is not over. */
  readonly isPartial: boolean
  /** Errors of the same hour a day before. */
  readonly dayBefore: number
}

/** Trends by the hour. */
export interface Trends {
  /** The oldest first; an hour without errors has zeros. */
  readonly hours: ReadonlyArray<Hour>
  /** Of the hours that are over. */
  readonly mean: number
  readonly least: number
  readonly most: number
}

const hourOf = (series: Buckets.Buckets | undefined, own: number): number => {
  const list = series?.hours ?? []
  for (let i = list.length - 2; i >= 0; i -= 2) if (list[i] === own) return list[i + 1]!
  return 0
}

/**
 * Reads errors by the hour, up to the running hour.
 *
 * @throws RangeError when `hours` is not an integer from 1 to 168
 */
export const trends = (state: States.State, hours: number, at: number = state.now): Trends => {
  OptionCheck.make("Fold.trends").count("hours", hours, { most: Buckets.kept.wide.hours })
  const all = state.series.get("errors")?.get("")
  const labels = state.series.get("errors severity")
  const running = Math.floor(at / hour)
  const list = Array.from({ length: hours }, (_, i): Hour => {
    const own = running - hours + 1 + i
    const of = (severity: Severity) => hourOf(labels?.get(severity), own)
    return {
      from: own * hour,
      errors: hourOf(all, own),
      bySeverity: { critical: of("critical"), high: of("high"), medium: of("medium"), low: of("low") },
      isPartial: own === running,
      dayBefore: hourOf(all, own - 24)
    }
  })
  const over = list.filter(({ isPartial }) => !isPartial).map(({ errors }) => errors)
  return {
    hours: list,
    mean: over.length === 0 ? 0 : over.reduce((sum, each) => sum + each, 0) / over.length,
    least: over.length === 0 ? 0 : Math.min(...over),
    most: over.length === 0 ? 0 : Math.max(...over)
  }
}

/** A group of errors. */
export interface Insight {
  readonly fingerprint: string
  readonly tag: string
  readonly failure: Failure.FailureClass | undefined
  readonly severity: Severity
  /** With placeholders for ids, times and numbers. */
  readonly message: string
  readonly count: number
  /** Unix time in milliseconds. */
  readonly first: number
  readonly last: number
  /**
   * `new`: first seen in the last hour. `escalating`: more than twice as many in the last hour as in any hour before. `resolved`: not
   * seen for a day. `ongoing`: any other.
   */
  readonly state: "new" | "ongoing" | "escalating" | "resolved"
  readonly lastHour: number
  /** An estimate of the number of affected users, with a standard error of 6.5 %; exact up to 32. */
  readonly affected: number
  /** At most 5 of each. */
  readonly channels: ReadonlyArray<string>
  readonly handlers: ReadonlyArray<string>
  readonly correlationIds: ReadonlyArray<string>
  /** What to look at first. */
  readonly recommendation: string
  /** The path of the page of the documentation that helps. */
  readonly runbook: string
}

const stateOf = (group: States.Group, at: number): Insight["state"] => {
  if (at - group.last > 24 * hour) return "resolved"
  if (at - group.first <= hour) return "new"
  const running = Math.floor(at / hour)
  let before = 0
  let now = 0
  for (let i = 0; i < group.hours.length; i += 2) {
    if (group.hours[i] === running) now = group.hours[i + 1]!
    else before = Math.max(before, group.hours[i + 1]!)
  }
  return now > 2 * before && now >= 10 ? "escalating" : "ongoing"
}

/** Groups of errors, and the number of errors of groups that were given up because there were too many. */
export interface Insights {
  /** The worst severity first, then most errors first. */
  readonly groups: ReadonlyArray<Insight>
  readonly dropped: number
}

/** Reads the groups of errors. */
export const insights = (state: States.State, at: number = state.now): Insights => ({
  groups: [...state.groups.values()].map((group): Insight => {
    const { fingerprint, tag, failure, severity, message, count, first, last, channels, handlers } = group
    const running = Math.floor(at / hour)
    const { recommendation, runbook } = recommendationOf(failure)
    return {
      fingerprint,
      tag,
      failure,
      severity,
      message,
      count,
      first,
      last,
      state: stateOf(group, at),
      lastHour: group.hours.at(-2) === running ? group.hours.at(-1)! : 0,
      affected: Distinct.count(group.affected),
      channels,
      handlers,
      correlationIds: group.samples,
      recommendation,
      runbook
    }
  }).sort((a, b) => severities.indexOf(a.severity) - severities.indexOf(b.severity) || b.count - a.count),
  dropped: state.dropped
})

/**
 * Reads the last 500 times that a rule began or ceased to fire, the newest first.
 *
 * @throws RangeError when `hours` is not a number from 1 to 168
 */
export const transitions = (
  state: States.State,
  hours: number,
  at: number = state.now
): ReadonlyArray<States.Transition> => {
  OptionCheck.make("Fold.transitions").number("hours", hours, { least: 1, most: Buckets.kept.wide.hours })
  return state.history.filter((each) => each.at > at - hours * hour).reverse()
}
