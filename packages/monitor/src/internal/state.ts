/**
 * The state of the fold: everything that a monitor remembers, bounded in every part.
 */
import type { Failure } from "@millrace/core"
import type { Level } from "../AlertRule.ts"
import type { Severity } from "../Severity.ts"
import * as Buckets from "./buckets.ts"
import * as Distinct from "./distinct.ts"

/** Errors with one fingerprint. */
export interface Group {
  readonly fingerprint: string
  readonly tag: string
  readonly failure: Failure.FailureClass | undefined
  severity: Severity
  readonly message: string
  count: number
  first: number
  last: number
  /** Whether the next tick tells rules that the group is new, or is back after a day. */
  news: "new" | "regressed" | undefined
  readonly channels: Array<string>
  readonly handlers: Array<string>
  /** Correlation ids of the first occurrences. */
  readonly samples: Array<string>
  readonly affected: Distinct.Distinct
  /** Pairs of (hour, count). */
  readonly hours: Array<number>
}

/** A call that took longer than the threshold. */
export interface SlowCall {
  readonly at: number
  readonly kind: string
  readonly channel: string
  readonly handler: string | undefined
  /** Milliseconds between the publish and the start, by the clocks of broker and program. */
  readonly waited: number | undefined
  /** Milliseconds from the start to the end. */
  readonly handled: number
  readonly attempt: number | undefined
  readonly correlationId: string | undefined
  readonly traceId: string | undefined
  readonly failed: boolean
}

/** One label of a rule that is pending, firing, or in its cooldown. */
export interface Instance {
  pendingSince: number | undefined
  firingSince: number | undefined
  lastFired: number | undefined
  lastTrue: number
  value: number
  /** Whether an alert told of this firing. */
  told: boolean
  text: string
}

/** A part of an alert: one label of one rule. */
export interface Item {
  readonly rule: string
  readonly label: string
  readonly status: "firing" | "resolved"
  readonly value: number
  readonly since: number
  readonly text: string
}

/** The alerts of a rule that are sent together. */
export interface Bundle {
  due: number | undefined
  last: number | undefined
  resolved: Array<Item>
}

/** A rule that began or ceased to fire for a label. */
export interface Transition {
  readonly at: number
  readonly rule: string
  readonly level: Level
  readonly label: string
  readonly status: "firing" | "resolved"
  readonly value: number
}

/** An order to send nothing for a rule, or for all, up to a time. */
export interface Mute {
  readonly rule: string | undefined
  readonly from: number
  readonly until: number
  readonly author: string
  readonly reason: string
}

/** An alert, as channels send it. */
export interface Alert {
  /** The same for every attempt to send it. */
  readonly id: string
  /** The same for all alerts of one rule, firing and resolved. */
  readonly thread: string
  readonly rule: string
  readonly level: Level
  readonly status: "firing" | "resolved"
  readonly at: number
  /** At most 20; first those that fire. */
  readonly items: ReadonlyArray<Item>
  /** The number of further items. */
  readonly more: number
  readonly labels: Readonly<Record<string, string>>
  readonly runbook: string | undefined
  /** Whether nothing changed since the last alert, and it only reminds. */
  readonly repeated: boolean
}

/** Times of the last errors of a severity, the newest last; as many as the largest threshold. */
export interface Recent {
  readonly times: Array<number>
}

/** The whole state. */
export interface State {
  /** The time of the first input; undefined before it. */
  since: number | undefined
  /** The newest time of an input. */
  now: number
  readonly series: Map<string, Map<string, Buckets.Buckets>>
  readonly groups: Map<string, Group>
  /** Errors of groups that were given up because there were too many. */
  dropped: number
  readonly recent: Record<Severity, Recent>
  /** Names of severity rules whose threshold was reached since the last tick. */
  readonly reached: Set<string>
  readonly slow: Array<SlowCall>
  readonly gauges: Map<string, Map<string, number>>
  readonly instances: Map<string, Map<string, Instance>>
  readonly bundles: Map<string, Bundle>
  readonly history: Array<Transition>
  readonly mutes: Array<Mute>
  /** Alerts that no process has confirmed to be sent, with the time until which one is sending it. */
  readonly unsent: Map<string, { readonly alert: Alert; readonly until: number }>
}

const perSeverity = <A>(make: (severity: Severity) => A): Record<Severity, A> => ({
  critical: make("critical"),
  high: make("high"),
  medium: make("medium"),
  low: make("low")
})

/** Makes a state without any input. */
export const empty = (): State => ({
  since: undefined,
  now: 0,
  series: new Map(),
  groups: new Map(),
  dropped: 0,
  recent: perSeverity(() => ({ times: [] })),
  reached: new Set(),
  slow: [],
  gauges: new Map(),
  instances: new Map(),
  bundles: new Map(),
  history: [],
  mutes: [],
  unsent: new Map()
})

const mapped = <K, V>(map: ReadonlyMap<K, V>, copy: (value: V) => V): Map<K, V> => {
  const out = new Map<K, V>()
  for (const [key, value] of map) out.set(key, copy(value))
  return out
}

/** Copies a state: a change of the copy changes nothing of the original. */
export const copy = (state: State): State => ({
  ...state,
  series: mapped(state.series, (labels) => mapped(labels, Buckets.copy)),
  groups: mapped(state.groups, (group) => ({
    ...group,
    channels: group.channels.slice(),
    handlers: group.handlers.slice(),
    samples: group.samples.slice(),
    affected: Distinct.copy(group.affected),
    hours: group.hours.slice()
  })),
  recent: perSeverity((severity) => ({ times: state.recent[severity].times.slice() })),
  reached: new Set(state.reached),
  slow: state.slow.slice(),
  gauges: mapped(state.gauges, (labels) => new Map(labels)),
  instances: mapped(state.instances, (labels) => mapped(labels, (instance) => ({ ...instance }))),
  bundles: mapped(state.bundles, (bundle) => ({ ...bundle, resolved: bundle.resolved.slice() })),
  history: state.history.slice(),
  mutes: state.mutes.slice(),
  unsent: new Map(state.unsent)
})

/** The version of the stored form. */
const format = 1

/** Turns a state into text, for a store. */
export const encode = (state: State): string =>
  JSON.stringify({
    ...state,
    format,
    series: Array.from(state.series, ([name, labels]) => [name, Array.from(labels)]),
    groups: Array.from(state.groups.values(), (group) => ({ ...group, affected: Distinct.encode(group.affected) })),
    reached: Array.from(state.reached),
    gauges: Array.from(state.gauges, ([name, labels]) => [name, Array.from(labels)]),
    instances: Array.from(state.instances, ([name, labels]) => [name, Array.from(labels)]),
    bundles: Array.from(state.bundles),
    unsent: Array.from(state.unsent)
  })

interface Stored extends Omit<State, "series" | "groups" | "reached" | "gauges" | "instances" | "bundles" | "unsent"> {
  readonly format: number
  readonly series: ReadonlyArray<readonly [string, ReadonlyArray<readonly [string, Buckets.Buckets]>]>
  readonly groups: ReadonlyArray<Omit<Group, "affected"> & { readonly affected: string | ReadonlyArray<number> }>
  readonly reached: ReadonlyArray<string>
  readonly gauges: ReadonlyArray<readonly [string, ReadonlyArray<readonly [string, number]>]>
  readonly instances: ReadonlyArray<readonly [string, ReadonlyArray<readonly [string, Instance]>]>
  readonly bundles: ReadonlyArray<readonly [string, Bundle]>
  readonly unsent: ReadonlyArray<readonly [string, { readonly alert: Alert; readonly until: number }]>
}

const nested = <V>(list: ReadonlyArray<readonly [string, ReadonlyArray<readonly [string, V]>]>) =>
  new Map(list.map(([name, labels]) => [name, new Map(labels)]))

/**
 * Turns the text of a store into a state.
 *
 * @throws Error when the text is no state, or was written by a newer version of the program
 */
export const decode = (text: string): State => {
  // written by `encode` alone; another author's text fails here or by its format
  const stored = JSON.parse(text) as Stored
  if (stored.format !== format) {
    throw new Error(
      `the stored state has format ${stored.format}, and this program knows ${format}: update the program, or delete the row`
    )
  }
  const { format: _, ...rest } = stored
  return {
    ...rest,
    // JSON has no undefined
    since: stored.since,
    series: nested(stored.series),
    groups: new Map(
      stored.groups.map((group) => [group.fingerprint, { ...group, affected: Distinct.decode(group.affected) }])
    ),
    reached: new Set(stored.reached),
    gauges: nested(stored.gauges),
    instances: nested(stored.instances),
    bundles: new Map(stored.bundles),
    unsent: new Map(stored.unsent)
  }
}
