/**
 * The algorithms, as functions of a key's state and of time: a store that can run them keeps states and nothing else. All
 * arithmetic is on integers below 2^53, so no rate drifts; times are milliseconds since 1970.
 *
 * A charge admitted at one time is admitted at every later time if nothing is spent in between: waits are therefore
 * exact, and several policies agree on the latest of their turns.
 */
import type { Algorithm, Charge, Decision, Policy, Verdict } from "./policy.ts"

/**
 * The numbers kept for a key; a key never seen has the empty state.
 *
 * | algorithm               | numbers                                                                                      |
 * | ----------------------- | -------------------------------------------------------------------------------------------- |
 * | `gcra`, `tokenBucket`   | the theoretical arrival time: milliseconds, and ticks of the next                              |
 * | `fixedWindow`           | the start of a window, and the count in it                                                   |
 * | `slidingCounter`        | the start of a window, the count in it, and the count in the window before                   |
 * | `slidingLog`            | the time of each message that passed, oldest first, as often as it cost                      |
 * | `concurrency`           | the end and the lease of each place taken                                                    |
 */
export type State = ReadonlyArray<number>

/** A decision and the states after it; the states are undefined if nothing has changed. */
export interface Decided {
  readonly decision: Decision
  readonly states: ReadonlyArray<State> | undefined
}

interface Rule {
  /** The first time from `now` at which the cost may be spent; Infinity if it never may. */
  readonly turn: (policy: Policy, state: State, now: number, cost: number) => number
  /** The state after the cost is spent at `turn`; `isOwn`: this policy has the longest wait and determined the turn. */
  readonly spend: (
    policy: Policy,
    state: State,
    now: number,
    cost: number,
    turn: number,
    isOwn: boolean,
    lease: number
  ) => State
  readonly remaining: (policy: Policy, state: State, now: number) => number
  /** The milliseconds until the state is equivalent to an empty one. */
  readonly reset: (policy: Policy, state: State, now: number) => number
}

const divisor = (a: number, b: number): number => b === 0 ? a : divisor(b, a % b)

/** Ticks in a millisecond, and between two messages: the largest part of a millisecond in which both are whole. */
export const ticks = ({ limit, window }: Policy): { readonly scale: number; readonly interval: number } => {
  const common = divisor(limit, window)
  return { scale: limit / common, interval: window / common }
}

// ticks from `time` to the arrival time
const ahead = ([millis = 0, rest = 0]: State, scale: number, time: number): number =>
  Math.max(0, (millis - time) * scale + rest)

const bucket: Rule = {
  turn: (policy, state, now, cost) => {
    if (cost > policy.burst) return Infinity
    const { interval, scale } = ticks(policy)
    const over = ahead(state, scale, now) + (cost - policy.burst) * interval
    return over <= 0 ? now : now + Math.ceil(over / scale)
  },
  spend: (policy, state, now, cost, turn, isOwn) => {
    const { interval, scale } = ticks(policy)
    // a turn that this policy determined lies between two milliseconds; only the wait for it was rounded up
    const from = isOwn ? now : turn
    const all = ahead(state, scale, from) + cost * interval
    return [from + Math.floor(all / scale), all % scale]
  },
  remaining: (policy, state, now) => {
    const { interval, scale } = ticks(policy)
    return Math.max(0, Math.floor((policy.burst * interval - ahead(state, scale, now)) / interval))
  },
  reset: (policy, state, now) => {
    const { scale } = ticks(policy)
    return Math.ceil(ahead(state, scale, now) / scale)
  }
}

const startOf = (window: number, time: number): number => time - time % window

const fixedWindow: Rule = {
  turn: ({ limit, window }, [start = 0, count = 0], now, cost) => {
    if (cost > limit) return Infinity
    if (startOf(window, now) > start || count + cost <= limit) return Math.max(now, start)
    return start + window
  },
  spend: ({ window }, [start = 0, count = 0], _now, cost, turn) => {
    const current = startOf(window, turn)
    return [current, (current === start ? count : 0) + cost]
  },
  remaining: ({ limit, window }, [start = 0, count = 0], now) =>
    now < start ? 0 : startOf(window, now) > start ? limit : limit - count,
  reset: ({ window }, [start = 0, count = 0], now) => count === 0 ? 0 : Math.max(0, start + window - now)
}

/** The counts at `time`; counts of a future window stay. */
const counted = (window: number, [start = 0, current = 0, previous = 0]: State, time: number) => {
  const at = startOf(window, time)
  if (at <= start) return { start, current, previous }
  return { start: at, current: 0, previous: at === start + window ? current : 0 }
}

const slidingCounter: Rule = {
  // previous * (window - elapsed) + (current + cost) * window <= limit * window, for the least elapsed
  turn: ({ limit, window }, state, now, cost) => {
    if (cost > limit) return Infinity
    const { current, previous, start } = counted(window, state, now)
    const free = limit - current - cost
    if (free >= 0) {
      const share = previous === 0 ? window : Math.floor(free * window / previous)
      return Math.max(now, start + Math.max(0, window - share))
    }
    // the next window, in which the current count is the previous one
    return start + window + Math.max(0, window - Math.floor((limit - cost) * window / current))
  },
  spend: ({ window }, state, _now, cost, turn) => {
    const { current, previous, start } = counted(window, state, turn)
    return [start, current + cost, previous]
  },
  remaining: ({ limit, window }, state, now) => {
    const { current, previous, start } = counted(window, state, now)
    if (now < start) return 0
    const left = window - (now - start)
    return Math.max(0, Math.floor((limit * window - previous * left) / window) - current)
  },
  reset: ({ window }, state, now) => {
    const { current, previous, start } = counted(window, state, now)
    return current > 0 ? start + 2 * window - now : previous > 0 ? start + window - now : 0
  }
}

/** Counts the log entries that have left the window. */
const expired = (window: number, state: State, now: number): number => {
  let from = 0
  let to = state.length
  while (from < to) {
    const middle = (from + to) >> 1
    if (state[middle]! <= now - window) from = middle + 1
    else to = middle
  }
  return from
}

const slidingLog: Rule = {
  turn: ({ limit, window }, state, now, cost) => {
    if (cost > limit) return Infinity
    const old = expired(window, state, now)
    const over = state.length - old + cost - limit
    // no message passes before a message that already has its turn
    const last = Math.max(now, state.at(-1) ?? 0)
    return over <= 0 ? last : Math.max(last, state[old + over - 1]! + window)
  },
  spend: ({ window }, state, now, cost, turn) => {
    const next = state.slice(expired(window, state, now))
    for (let i = 0; i < cost; i++) next.push(turn)
    return next
  },
  remaining: ({ limit, window }, state, now) =>
    (state.at(-1) ?? 0) > now ? 0 : limit - state.length + expired(window, state, now),
  reset: ({ window }, state, now) => state.length === 0 ? 0 : Math.max(0, state.at(-1)! + window - now)
}

/** The expiry times of all taken places. */
const ends = (state: State, now: number): Array<number> => state.filter((end, i) => i % 2 === 0 && end > now)

const concurrency: Rule = {
  turn: ({ limit }, state, now, cost) => {
    if (cost > limit) return Infinity
    const taken = ends(state, now)
    const over = taken.length + cost - limit
    return over <= 0 ? now : taken.sort((a, b) => a - b)[over - 1]!
  },
  spend: ({ window }, state, now, cost, turn, _isOwn, lease) => {
    const next: Array<number> = []
    for (let i = 0; i < state.length; i += 2) if (state[i]! > now) next.push(state[i]!, state[i + 1]!)
    for (let i = 0; i < cost; i++) next.push(turn + window, lease)
    return next
  },
  remaining: ({ limit }, state, now) => Math.max(0, limit - ends(state, now).length),
  reset: (_policy, state, now) => ends(state, now).reduce((last, end) => Math.max(last, end - now), 0)
}

const rules: { readonly [Each in Algorithm]: Rule } = {
  concurrency,
  fixedWindow,
  gcra: bucket,
  slidingCounter,
  slidingLog,
  tokenBucket: bucket
}

const never: State = []

/** The milliseconds until a state is equivalent to an empty one. */
export const resetOf = (policy: Policy, state: State, now: number): number =>
  rules[policy.algorithm].reset(policy, state, now)

/** The milliseconds that a charge alone has to wait. */
export const waitOf = ({ cost, policy }: Charge, state: State, now: number): number =>
  rules[policy.algorithm].turn(policy, state, now, cost) - now

/** The state after a charge whose turn is `wait` milliseconds from now. */
export const spendOf = (
  { cost, policy }: Charge,
  state: State,
  now: number,
  wait: number,
  isOwn: boolean,
  lease: number
): State => cost === 0 ? state : rules[policy.algorithm].spend(policy, state, now, cost, now + wait, isOwn, lease)

/** Makes the verdict of a policy: the remaining count, and the time until the full limit is available. */
export const verdictOf = (policy: Policy, state: State, now: number, wait: number): Verdict => ({
  wait,
  remaining: rules[policy.algorithm].remaining(policy, state, now),
  reset: rules[policy.algorithm].reset(policy, state, now)
})

/** The milliseconds until a charge alone is admitted; 0 admits it. `concurrency` never waits: its release times are unknown. */
export const refusalOf = (policy: Policy, wait: number, within: number): number =>
  policy.algorithm === "concurrency" ? wait : Math.max(0, wait - within)

/**
 * Decides a call: all charges or none. For authors of stores that read the states of a call's keys, decide, and write
 * them back in one transaction or otherwise atomically.
 *
 * The parameters are the charges, whose policies differ, the state of each, the time, the longest wait, and a lease that
 * no other call has.
 *
 * **Example** (two a second, and three calls at one time)
 *
 * ```ts
 * import { RateLimit } from "@millrace/core"
 *
 * const charges = [{ policy: RateLimit.policy("login", { limit: 2, algorithm: "fixedWindow" }), key: "ann", cost: 1 }]
 * let states: ReadonlyArray<RateLimit.State> = [[]]
 * for (const now of [1_000, 1_400, 1_900]) {
 *   const decided = RateLimit.decide(charges, states, now, 0, 0)
 *   states = decided.states ?? states
 *   console.log(decided.decision.isAdmitted, decided.decision.wait)
 * }
 * // => true 0
 * //    true 0
 * //    false 100
 * ```
 *
 * @category stores
 */
export const decide = (
  charges: ReadonlyArray<Charge>,
  states: ReadonlyArray<State>,
  now: number,
  within: number,
  lease: number
): Decided => {
  const waits = charges.map((charge, i) => waitOf(charge, states[i] ?? never, now))
  const refused = charges.reduce((most, { policy }, i) => Math.max(most, refusalOf(policy, waits[i]!, within)), 0)
  const wait = Math.max(0, ...waits)
  const after = refused > 0
    ? undefined
    : charges.map((charge, i) => spendOf(charge, states[i] ?? never, now, wait, waits[i] === wait, lease))
  return {
    decision: {
      isAdmitted: refused === 0,
      wait: refused === 0 ? wait : refused,
      verdicts: charges.map(({ policy }, i) => verdictOf(policy, (after ?? states)[i] ?? never, now, waits[i]!)),
      at: now,
      lease: refused === 0 && charges.some(({ policy }) => policy.algorithm === "concurrency") ? lease : 0
    },
    states: after
  }
}

/** The state after a lease is released. */
export const release = (state: State, lease: number): State => state.filter((_, i) => state[i | 1] !== lease)

/** The state after a lease is renewed; undefined if the lease has ended. */
export const renew = ({ window }: Policy, state: State, lease: number, now: number): State | undefined => {
  let isHeld = false
  const next = state.map((each, i) => {
    if (i % 2 === 1 || state[i + 1] !== lease || each <= now) return each
    isHeld = true
    return now + window
  })
  return isHeld ? next : undefined
}
