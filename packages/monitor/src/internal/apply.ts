/**
 * Applies inputs to a state in place, and merges the state of one process into that of all.
 */
import type { Failure } from "@millrace/core"
import type { Dimension, Measure, Rule } from "../AlertRule.ts"
import { severities, type Severity } from "../Severity.ts"
import * as Buckets from "./buckets.ts"
import * as Distinct from "./distinct.ts"
import type { Group, Mute, SlowCall, State } from "./state.ts"

/** A call that failed. */
export interface Failed {
  readonly type: "failed"
  /** Unix time in milliseconds. */
  readonly at: number
  readonly channel: string
  readonly handler: string | undefined
  readonly tag: string
  readonly failure: Failure.FailureClass | undefined
  readonly severity: Severity
  readonly fingerprint: string
  /** The message with placeholders. */
  readonly message: string
  readonly correlationId: string | undefined
  /** A user that the error affected, of which only a hash is kept. */
  readonly affected: string | undefined
}

/** A call that took longer than the threshold. */
export interface Slow extends SlowCall {
  readonly type: "slow"
}

/** Messages, retries and dead letters of a channel since the last count. */
export interface Counted {
  readonly type: "counted"
  readonly at: number
  readonly measure: "messages" | "retries" | "deadLetters"
  readonly channel: string
  readonly tag: string | undefined
  readonly count: number
}

/** A value of a gauge. */
export interface Gauged {
  readonly type: "gauged"
  readonly at: number
  readonly name: string
  readonly label: string
  readonly value: number
}

/** An order to send nothing up to a time. */
export interface Muted extends Mute {
  readonly type: "muted"
  readonly at: number
}

/** An event of the fold. */
export type Event = Failed | Slow | Counted | Gauged | Muted

/** The bounds of a state. */
export interface Limits {
  readonly channels: number
  readonly tags: number
  readonly handlers: number
  readonly groups: number
}

/** What applying needs to know of the rules. */
export interface Model {
  readonly limits: Limits
  /** The rules of thresholds by severity. */
  readonly reached: Readonly<Record<Severity, ReadonlyArray<Reached>>>
}

/** A threshold by severity. */
export interface Reached {
  readonly rule: Rule
  readonly atLeast: number
  readonly window: number
}

/** The label of what is beyond a limit. */
export const other = "other"

/** The silence after which a group of errors is back, in milliseconds: a day. */
const silence = 86_400_000

const mostOf = (limits: Limits, dimension: Dimension): number =>
  dimension === "tag"
    ? limits.tags
    : dimension === "channel"
    ? limits.channels
    : dimension === "handler"
    ? limits.handlers
    : Infinity

/** The name of a set of series. */
export const seriesOf = (measure: Measure, by: Dimension | undefined): string =>
  by === undefined ? measure : `${measure} ${by}`

/** Tells whether a set of series keeps minutes and a week. */
export const isWide = (name: string): boolean =>
  !name.includes(" ") || name.endsWith(" severity") || name.endsWith(" class")

const longestLabel = 256

const bucketsOf = (state: State, limits: Limits, name: string, by: Dimension | undefined, label: string) => {
  let labels = state.series.get(name)
  if (labels === undefined) state.series.set(name, labels = new Map())
  const known = labels.get(label)
  if (known !== undefined) return known
  const own = by !== undefined && labels.size >= mostOf(limits, by) ? other : label.slice(0, longestLabel)
  let made = labels.get(own)
  if (made === undefined) labels.set(own, made = Buckets.empty())
  return made
}

const count = (
  state: State,
  limits: Limits,
  measure: Measure,
  by: Dimension | undefined,
  label: string,
  at: number,
  n: number
): void => {
  const name = seriesOf(measure, by)
  Buckets.add(bucketsOf(state, limits, name, by, label), at, n, isWide(name))
}

const addOnce = (list: Array<string>, value: string | undefined, most: number): void => {
  if (value !== undefined && list.length < most && !list.includes(value)) list.push(value)
}

const hour = Buckets.widths.hours

const addHour = (hours: Array<number>, at: number, n: number): void => {
  const own = Math.floor(at / hour)
  if (hours.at(-2) === own) hours[hours.length - 1]! += n
  else if (hours.length === 0 || hours.at(-2)! < own) {
    hours.push(own, n)
    if (hours.length > 48) hours.splice(0, 2)
  } else {
    for (let i = 0; i < hours.length; i += 2) if (hours[i] === own) return void (hours[i + 1]! += n)
  }
}

/** Makes room for new groups: drops a quarter, those with the fewest errors and of these the oldest, and sums their errors. */
const evict = (state: State, limits: Limits): void => {
  const groups = [...state.groups.values()].sort((a, b) => a.count - b.count || a.last - b.last)
  for (const { count: lost, fingerprint } of groups.slice(0, Math.max(1, Math.floor(limits.groups / 4)))) {
    state.groups.delete(fingerprint)
    state.dropped += lost
  }
}

const rankOf = (severity: Severity): number => severities.indexOf(severity)

const group = (state: State, limits: Limits, event: Failed): void => {
  const { affected, at, channel, correlationId, fingerprint, handler, severity } = event
  let found = state.groups.get(fingerprint)
  if (found === undefined) {
    if (state.groups.size >= limits.groups) evict(state, limits)
    found = {
      fingerprint,
      tag: event.tag,
      failure: event.failure,
      severity,
      message: event.message,
      count: 0,
      first: at,
      last: at,
      news: "new",
      channels: [],
      handlers: [],
      samples: [],
      affected: Distinct.empty(),
      hours: []
    }
    state.groups.set(fingerprint, found)
  } else if (at - found.last > silence) found.news ??= "regressed"
  found.count += 1
  found.first = Math.min(found.first, at)
  found.last = Math.max(found.last, at)
  if (rankOf(severity) < rankOf(found.severity)) found.severity = severity
  addOnce(found.channels, channel, 5)
  addOnce(found.handlers, handler, 5)
  addOnce(found.samples, correlationId, 5)
  if (affected !== undefined) Distinct.add(found.affected, affected)
  addHour(found.hours, at, 1)
}

/** Adds times in order, and notes the thresholds that they reach. */
const reach = (state: State, { reached }: Model, severity: Severity, times: ReadonlyArray<number>): void => {
  const rules = reached[severity]
  if (rules.length === 0) return
  const list = state.recent[severity].times
  const most = Math.max(...rules.map(({ atLeast }) => atLeast))
  for (const time of times) {
    let at = list.length
    while (at > 0 && list[at - 1]! > time) at -= 1
    list.splice(at, 0, time)
    for (const { atLeast, rule, window } of rules) {
      // any run of `atLeast` errors that holds the new one
      for (let last = Math.max(at, atLeast - 1); last < Math.min(list.length, at + atLeast); last++) {
        if (list[last]! - list[last - atLeast + 1]! < window) state.reached.add(rule.name)
      }
    }
    if (list.length > most) list.splice(0, list.length - most)
  }
}

/** The most slow calls, transitions and mutes that are kept. */
const most = { slow: 100, mutes: 100, gauges: 20 }

/** Notes the time of an input. */
export const touch = (state: State, at: number): void => {
  state.since ??= at
  state.since = Math.min(state.since, at)
  state.now = Math.max(state.now, at)
}

/** Applies one event in place. */
export const apply = (state: State, model: Model, event: Event): void => {
  const { limits } = model
  const { at } = event
  touch(state, at)
  switch (event.type) {
    case "failed":
      count(state, limits, "errors", undefined, "", at, 1)
      count(state, limits, "errors", "severity", event.severity, at, 1)
      count(state, limits, "errors", "class", event.failure ?? "defect", at, 1)
      count(state, limits, "errors", "tag", event.tag, at, 1)
      count(state, limits, "errors", "channel", event.channel, at, 1)
      if (event.handler !== undefined) count(state, limits, "errors", "handler", event.handler, at, 1)
      group(state, limits, event)
      return reach(state, model, event.severity, [at])
    case "slow": {
      const { type: _, ...call } = event
      count(state, limits, "slow", undefined, "", at, 1)
      count(state, limits, "slow", "channel", event.channel, at, 1)
      if (event.handler !== undefined) count(state, limits, "slow", "handler", event.handler, at, 1)
      state.slow.push(call)
      if (state.slow.length > most.slow) state.slow.shift()
      return
    }
    case "counted":
      if (event.count <= 0) return
      count(state, limits, event.measure, undefined, "", at, event.count)
      count(state, limits, event.measure, "channel", event.channel, at, event.count)
      if (event.tag !== undefined) count(state, limits, event.measure, "tag", event.tag, at, event.count)
      return
    case "gauged": {
      let labels = state.gauges.get(event.name)
      if (labels === undefined && state.gauges.size < most.gauges) state.gauges.set(event.name, labels = new Map())
      if (labels !== undefined && (labels.has(event.label) || labels.size < limits.channels)) {
        labels.set(event.label, event.value)
      }
      return
    }
    case "muted": {
      const { at: _at, type: _type, ...mute } = event
      state.mutes.push(mute)
      if (state.mutes.length > most.mutes) state.mutes.shift()
      return
    }
  }
}

const mergeGroup = (state: State, limits: Limits, from: Group): void => {
  const into = state.groups.get(from.fingerprint)
  if (into === undefined) {
    if (state.groups.size >= limits.groups) evict(state, limits)
    state.groups.set(from.fingerprint, {
      ...from,
      channels: from.channels.slice(),
      handlers: from.handlers.slice(),
      samples: from.samples.slice(),
      affected: Distinct.copy(from.affected),
      hours: from.hours.slice()
    })
    return
  }
  if (from.news === "regressed" || from.first - into.last > silence) into.news ??= "regressed"
  into.count += from.count
  into.first = Math.min(into.first, from.first)
  into.last = Math.max(into.last, from.last)
  if (rankOf(from.severity) < rankOf(into.severity)) into.severity = from.severity
  for (const each of from.channels) addOnce(into.channels, each, 5)
  for (const each of from.handlers) addOnce(into.handlers, each, 5)
  for (const each of from.samples) addOnce(into.samples, each, 5)
  Distinct.merge(into.affected, from.affected)
  for (let i = 0; i < from.hours.length; i += 2) addHour(into.hours, from.hours[i]! * hour, from.hours[i + 1]!)
}

const dimensionOf = (name: string): Dimension | undefined => {
  const at = name.indexOf(" ")
  // the names are made by `seriesOf`
  return at < 0 ? undefined : name.slice(at + 1) as Dimension
}

/** Adds to a state in place what another process counted since it last did so. The other state stays as it is. */
export const merge = (state: State, model: Model, from: State): void => {
  const { limits } = model
  if (from.since === undefined) return
  touch(state, from.since)
  touch(state, from.now)
  for (const [name, labels] of from.series) {
    const by = dimensionOf(name)
    for (const [label, buckets] of labels) {
      Buckets.merge(bucketsOf(state, limits, name, by, label), buckets, isWide(name))
    }
  }
  for (const each of from.groups.values()) mergeGroup(state, limits, each)
  state.dropped += from.dropped
  for (const severity of severities) reach(state, model, severity, from.recent[severity].times)
  for (const name of from.reached) state.reached.add(name)
  state.slow.push(...from.slow)
  state.slow.sort((a, b) => a.at - b.at)
  state.slow.splice(0, state.slow.length - most.slow)
  for (const [name, labels] of from.gauges) {
    for (const [label, value] of labels) apply(state, model, { type: "gauged", at: from.now, name, label, value })
  }
  for (const mute of from.mutes) {
    state.mutes.push(mute)
    if (state.mutes.length > most.mutes) state.mutes.shift()
  }
}
