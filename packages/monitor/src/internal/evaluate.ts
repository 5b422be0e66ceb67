/**
 * Evaluates alert rules at a tick: which labels are pending, firing or resolved, and which alerts are due.
 */
import { Duration } from "effect"
import { defaults, levels, type Rule, type Selection } from "../AlertRule.ts"
import { isWide, type Reached, seriesOf } from "./apply.ts"
import * as Buckets from "./buckets.ts"
import type { Alert, Bundle, Instance, Item, State } from "./state.ts"
import { oneLine } from "./text.ts"

/** Times of sending, in milliseconds. */
export interface Grouping {
  /** From the first firing label to the alert. */
  readonly wait: number
  /** Between two alerts of one rule. */
  readonly interval: number
  /** Until an alert is sent again although nothing changed. */
  readonly repeat: number
}

/** A value of a label at a tick. */
type Tell = (label: string, value: number, isTrue: boolean, isFalse: boolean) => void

/** Sums of a set of series at one tick, shared by the rules with the same window. */
interface Sums {
  readonly labels: ReadonlyArray<string>
  readonly values: Float64Array
}

/** The most labels of a rule that fire at once; further ones are judged once some of these are over. */
const mostInstances = 500
const mostHistory = 500
const mostItems = 20

/** A rule with its times as numbers. */
export interface Compiled {
  readonly rule: Rule
  readonly window: number
  readonly windowText: string
  readonly series: string
  readonly base: string
  readonly only: string | undefined
  readonly under: number
  readonly reached: Reached | undefined
}

const selectionOf = ({ when }: Rule): Selection | undefined => "of" in when ? when : undefined

/** Prepares a rule for its ticks. */
export const compile = (rule: Rule): Compiled => {
  const { when } = rule
  const window = "window" in when ? Duration.toMillis(Duration.fromInputUnsafe(when.window)) : 0
  const selection = selectionOf(rule)
  const series = selection === undefined ? "" : seriesOf(selection.of, selection.by)
  return {
    rule,
    window,
    windowText: Duration.format(Duration.millis(window)),
    series,
    base: when.kind === "ratio" ? seriesOf(when.to, when.by) : "",
    only: selection?.only,
    under: when.kind === "severity"
      ? when.atLeast * 0.8
      : "atLeast" in when
      ? ("under" in when ? when.under : undefined) ?? when.atLeast
      : 0,
    reached: when.kind === "severity" ? { rule, atLeast: when.atLeast, window } : undefined
  }
}

class Tick {
  readonly now: number
  readonly state: State
  readonly #sums = new Map<string, Sums>()

  constructor(state: State, now: number) {
    this.state = state
    this.now = now
  }

  sums(name: string, window: number): Sums {
    const key = `${window} ${name}`
    const known = this.#sums.get(key)
    if (known !== undefined) return known
    const series = this.state.series.get(name)
    const labels = series === undefined ? [] : [...series.keys()]
    const values = new Float64Array(labels.length)
    const width = Buckets.widthOf(window, isWide(name))
    let at = 0
    for (const each of series?.values() ?? []) {
      values[at++] = Buckets.sum(each, width, this.now - window, this.now)
    }
    const made = { labels, values }
    this.#sums.set(key, made)
    return made
  }

  /** Milliseconds for which the state has counted. */
  get age(): number {
    return this.now - (this.state.since ?? this.now)
  }
}

/** Tells the value of each label of a rule; labels that are below the threshold and below the lower bound may be left out. */
const judge = (tick: Tick, compiled: Compiled, tell: Tell): void => {
  const { only, rule: { name, when }, under, window } = compiled
  const { state } = tick
  switch (when.kind) {
    case "count":
    case "rate": {
      const { labels, values } = tick.sums(compiled.series, window)
      // a rate is of the real age, and of no constant
      const divisor = when.kind === "count" ? 1 : Math.max(Math.min(tick.age, window), 1_000) / 60_000
      const least = Math.min(under, when.atLeast) * divisor
      for (let i = 0; i < values.length; i++) {
        if (values[i]! < least || (only !== undefined && labels[i] !== only)) continue
        const value = values[i]! / divisor
        tell(labels[i]!, value, value >= when.atLeast, value < under)
      }
      return
    }
    case "ratio": {
      const { labels, values } = tick.sums(compiled.series, window)
      const base = tick.sums(compiled.base, window)
      const minimum = when.minimum ?? defaults.minimum
      const totals = new Map(base.labels.map((label, i) => [label, base.values[i]!]))
      for (let i = 0; i < values.length; i++) {
        if (only !== undefined && labels[i] !== only) continue
        const total = totals.get(labels[i]!) ?? 0
        if (total < minimum) continue
        const value = values[i]! / total
        tell(labels[i]!, value, value >= when.atLeast, value < under)
      }
      return
    }
    case "absence": {
      if (tick.age < window) return
      const { labels, values } = tick.sums(compiled.series, window)
      if (labels.length === 0 && when.by === undefined) return tell("", 0, true, false)
      let isSeen = false
      for (let i = 0; i < values.length; i++) {
        if (only !== undefined && labels[i] !== only) continue
        isSeen = true
        tell(labels[i]!, values[i]!, values[i] === 0, values[i] !== 0)
      }
      if (only !== undefined && !isSeen) tell(only, 0, true, false)
      return
    }
    case "severity": {
      const times = state.recent[when.severity].times
      let value = 0
      for (let i = times.length - 1; i >= 0 && times[i]! > tick.now - window; i--) value += 1
      const isReached = state.reached.has(name)
      tell(
        when.severity,
        isReached ? Math.max(value, when.atLeast) : value,
        isReached || value >= when.atLeast,
        !isReached && value < under
      )
      return
    }
    case "group":
      for (const { count, fingerprint, news } of state.groups.values()) {
        if (news === when.is) tell(fingerprint, count, true, false)
      }
      return
    case "gauge":
      for (const [label, value] of state.gauges.get(when.name) ?? []) {
        tell(label, value, value >= when.atLeast, value < under)
      }
  }
}

const shown = (value: number): string => String(Math.round(value * 1_000) / 1_000)

const textOf = (state: State, { rule, windowText }: Compiled, label: string, value: number): string => {
  const { when } = rule
  const group = when.kind === "group" ? state.groups.get(label) : undefined
  const filled: Record<string, string> = {
    rule: rule.name,
    level: rule.level,
    value: shown(value),
    label,
    window: windowText,
    threshold: "atLeast" in when ? shown(when.atLeast) : "",
    tag: group?.tag ?? "",
    message: group?.message ?? "",
    count: String(group?.count ?? "")
  }
  return oneLine(rule.template.replaceAll(/\{(\w+)\}/g, (_, name: string) => filled[name] ?? ""), 1_000)
}

/** Sets times that lie ahead, because the clock was set back, to now. */
const notAhead = (instance: Instance, now: number): void => {
  if (instance.pendingSince !== undefined) instance.pendingSince = Math.min(instance.pendingSince, now)
  if (instance.lastFired !== undefined) instance.lastFired = Math.min(instance.lastFired, now)
  instance.lastTrue = Math.min(instance.lastTrue, now)
}

const isMuted = ({ mutes }: State, { name }: Rule, now: number): boolean =>
  mutes.some(({ from, rule, until }) => (rule === undefined || rule === name) && now >= from && now < until)

const fires = (state: State, name: string): boolean => {
  for (const { firingSince } of state.instances.get(name)?.values() ?? []) if (firingSince !== undefined) return true
  return false
}

const record = (state: State, rule: Rule, at: number, label: string, status: Item["status"], value: number): void => {
  state.history.push({ at, rule: rule.name, level: rule.level, label, status, value })
  if (state.history.length > mostHistory) state.history.shift()
}

const bundleOf = (state: State, name: string): Bundle => {
  let bundle = state.bundles.get(name)
  if (bundle === undefined) state.bundles.set(name, bundle = { due: undefined, last: undefined, resolved: [] })
  return bundle
}

/** Moves every label of a rule on, by its value at this tick. */
const advance = (tick: Tick, compiled: Compiled): void => {
  const { rule } = compiled
  const { now, state } = tick
  let instances = state.instances.get(rule.name)
  const seen = new Set<string>()

  const fire = (instance: Instance, label: string): void => {
    const { pendingSince = now } = instance
    const isCool = instance.lastFired === undefined || now - instance.lastFired >= rule.cooldown
    if (now - pendingSince < rule.for || !isCool) return
    instance.firingSince = now
    instance.lastFired = now
    instance.pendingSince = undefined
    instance.told = false
    record(state, rule, now, label, "firing", instance.value)
  }

  judge(tick, compiled, (label, value, isTrue, isFalse) => {
    let instance = instances?.get(label)
    if (instance === undefined) {
      if (!isTrue || (instances !== undefined && instances.size >= mostInstances)) return
      instance = {
        pendingSince: now,
        firingSince: undefined,
        lastFired: undefined,
        lastTrue: now,
        value,
        told: false,
        text: ""
      }
      if (instances === undefined) state.instances.set(rule.name, instances = new Map())
      instances.set(label, instance)
    }
    seen.add(label)
    notAhead(instance, now)
    if (instance.firingSince !== undefined) {
      if (isFalse) return void seen.delete(label)
      instance.lastTrue = now
      instance.value = value
      return
    }
    if (!isTrue) return void seen.delete(label)
    instance.value = value
    instance.lastTrue = now
    instance.pendingSince ??= now
    instance.text = textOf(state, compiled, label, value)
    fire(instance, label)
  })

  for (const [label, instance] of instances ?? []) {
    if (seen.has(label)) continue
    notAhead(instance, now)
    instance.pendingSince = undefined
    if (instance.firingSince !== undefined) {
      if (now - instance.lastTrue < rule.keepFiring) continue
      record(state, rule, now, label, "resolved", instance.value)
      if (instance.told) {
        const { firingSince, text, value } = instance
        const item: Item = { rule: rule.name, label, status: "resolved", value, since: firingSince, text }
        const bundle = bundleOf(state, rule.name)
        bundle.resolved.push(item)
        if (bundle.resolved.length > mostInstances) bundle.resolved.shift()
      }
      instance.firingSince = undefined
      instance.told = false
    }
    if (instance.lastFired === undefined || now - instance.lastFired >= rule.cooldown) instances?.delete(label)
  }
  if (instances?.size === 0) state.instances.delete(rule.name)
}

/** Makes the alert of a rule, if one is due. */
const alertOf = (tick: Tick, { rule }: Compiled, grouping: Grouping): Alert | undefined => {
  const { now, state } = tick
  const instances = state.instances.get(rule.name)
  const known = state.bundles.get(rule.name)
  if (instances === undefined && known === undefined) return undefined
  const firing: Array<Item> = []
  let isNew = false
  for (const [label, { firingSince, text, told, value }] of instances ?? []) {
    if (firingSince === undefined) continue
    firing.push({ rule: rule.name, label, status: "firing", value, since: firingSince, text })
    if (!told) isNew = true
  }
  const isSilent = isMuted(state, rule, now) || rule.inhibitedBy.some((name) => fires(state, name))
  const hasChanged = !isSilent && (isNew || (known?.resolved.length ?? 0) > 0)
  if (!hasChanged) {
    if (known === undefined) return undefined
    known.due = undefined
    if (isSilent || firing.length === 0) {
      if (firing.length === 0 && known.resolved.length === 0 && now - (known.last ?? 0) >= grouping.interval) {
        state.bundles.delete(rule.name)
      }
      return undefined
    }
    if (known.last === undefined || now - known.last < grouping.repeat) return undefined
    return send(state, rule, firing, known, now, true)
  }
  const bundle = bundleOf(state, rule.name)
  if (bundle.last !== undefined) bundle.last = Math.min(bundle.last, now)
  bundle.due ??= bundle.last === undefined ? now + grouping.wait : Math.max(now, bundle.last + grouping.interval)
  bundle.due = Math.min(bundle.due, now + Math.max(grouping.wait, grouping.interval))
  return now < bundle.due ? undefined : send(state, rule, firing, bundle, now, false)
}

const send = (
  state: State,
  rule: Rule,
  firing: ReadonlyArray<Item>,
  bundle: Bundle,
  now: number,
  repeated: boolean
): Alert => {
  const items = [...firing, ...bundle.resolved]
  bundle.due = undefined
  bundle.last = now
  bundle.resolved = []
  for (const instance of state.instances.get(rule.name)?.values() ?? []) {
    if (instance.firingSince !== undefined) instance.told = true
  }
  return {
    // an id of Standard Webhooks has no dot
    id: `${rule.name.replaceAll(".", "_")}-${now}`,
    thread: rule.name,
    rule: rule.name,
    level: rule.level,
    status: firing.length > 0 ? "firing" : "resolved",
    at: now,
    items: items.slice(0, mostItems),
    more: Math.max(0, items.length - mostItems),
    labels: rule.labels,
    runbook: rule.runbook,
    repeated
  }
}

/** Forgets groups and labels that were not seen for a time; totals stay. */
const forget = (state: State, before: number): void => {
  for (const { fingerprint, last } of state.groups.values()) if (last < before) state.groups.delete(fingerprint)
  const oldest = Math.floor(before / Buckets.widths.hours)
  for (const [name, labels] of state.series) {
    if (!name.includes(" ")) continue
    for (const [label, { hours }] of labels) if ((hours.at(-2) ?? 0) < oldest) labels.delete(label)
  }
}

/** Evaluates every rule at a time, in place, and returns the alerts that are due, the worst level first. */
export const evaluate = (
  state: State,
  rules: ReadonlyArray<Compiled>,
  grouping: Grouping,
  retention: number,
  now: number
): ReadonlyArray<Alert> => {
  const tick = new Tick(state, now)
  for (const compiled of rules) advance(tick, compiled)
  state.reached.clear()
  for (const group of state.groups.values()) group.news = undefined
  if (state.mutes.some(({ until }) => until <= now)) {
    state.mutes.splice(0, state.mutes.length, ...state.mutes.filter(({ until }) => until > now))
  }
  forget(state, now - retention)
  const alerts = rules.flatMap((compiled) => alertOf(tick, compiled, grouping) ?? [])
  return alerts.sort((a, b) => levels.indexOf(a.level) - levels.indexOf(b.level))
}
