/**
 * The options of a rate limit, and the charges that they make for a message.
 */
import { Duration } from "effect"
import { compositeKey } from "../../message/compositeKey.ts"
import type { Envelope, Message } from "../../message/Message.ts"
import { type Charge, check, type Decision, type Policy, policy, type PolicyNumbers } from "./policy.ts"

/** Handles messages over a limit, and all messages while the store is unavailable. */
export interface Handling {
  /**
   * `refuse`: fails with `RateLimited`. `delay`: the message waits in place for its turn, in order of arrival, if the turn
   * comes within `maximumDelay`; otherwise it is refused. `concurrency` never delays. Default: `refuse`.
   */
  readonly onExceeded?: "delay" | "refuse" | undefined
  /**
   * The longest wait in place, from 0; for a consumer at most half of the time that its broker allows an attempt, so that
   * the handler has the other half. Default: 1 second.
   */
  readonly maximumDelay?: Duration.Input | undefined
  /**
   * The behaviour while the store is unavailable. `refuse`: fails with `RateLimitUnavailable`. `pass`: messages pass
   * uncounted, and each adds to the metric `millrace.rate_limit.unavailable`. Default: `refuse`.
   */
  readonly unavailable?: "pass" | "refuse" | undefined
  /** Called with each decision before the message passes or is refused; must not throw. Default: none. */
  readonly onDecision?: ((message: Envelope, decided: Asked) => void) | undefined
}

/** The policies of a call and the store's decision, whose verdicts have the same order. */
export interface Asked {
  readonly policies: ReadonlyArray<Policy>
  readonly decision: Decision
}

/** The numbers of a limit, and the handling of messages over it. */
export interface Limits extends PolicyNumbers, Handling {}

/** The cost of a message: an integer from 0 to the burst, or to the limit for algorithms without bursts. Default: 1. */
export type Cost<M> = number | ((message: M) => number)

/** Options of `middleware` that work on any message. */
export interface Options extends Limits {
  /** Messages of one `channel`, or of one `key` of a channel, share a limit. Default: `channel`. */
  readonly by?: "channel" | "key" | undefined
  /** Limits of the same name and the same numbers share their counts in one store. Default: the value of `by`. */
  readonly name?: string | undefined
  readonly cost?: Cost<Envelope> | undefined
}

/** Options of `middleware` for consumers. */
export interface ConsumerOptions extends Limits {
  /** All messages of one consumer group share a limit, across channels. */
  readonly by: "consumer"
  readonly name?: string | undefined
  readonly cost?: Cost<Message<unknown>> | undefined
}

/** Options of `middleware` with a custom key. */
export interface KeyedOptions<in M> extends Limits {
  /** Messages with the same result share a limit. */
  readonly by: (message: M) => string
  /** Limits of the same name and the same numbers share their counts in one store. */
  readonly name: string
  readonly cost?: Cost<M> | undefined
}

/** One of several limits of a message. */
export interface PolicyOptions<in M> extends PolicyNumbers {
  /** The name in errors, unique within a middleware. Policies of the same name and numbers share their counts in one store. */
  readonly name: string
  /** Default: `channel`. */
  readonly by?: "channel" | "key" | ((message: M) => string) | undefined
  readonly cost?: Cost<M> | undefined
}

/** Options of `middleware` with several limits, decided together: a message is counted by all or by none. */
export interface PoliciesOptions<in M> extends Handling {
  /** One or more. */
  readonly policies: ReadonlyArray<PolicyOptions<M>>
}

const words = {
  channel: (message: Envelope) => message.channel,
  // equal keys in two channels are different keys
  key: ({ channel, key }: Envelope) => key === undefined ? compositeKey(channel) : compositeKey(channel, key),
  consumer: (message: Message<unknown>) => message.delivery.origin.group
}

/** A policy, and the functions that charge a message by it. */
export interface Rule {
  readonly policy: Policy
  readonly by: string
  readonly keyOf: (message: Envelope) => string
  readonly cost: number | ((message: Envelope) => number)
}

export type AnyOptions = Options | ConsumerOptions | KeyedOptions<Envelope> | PolicyOptions<Envelope>

const ruleOf = (options: AnyOptions): Rule => {
  const by = options.by ?? "channel"
  if (typeof by !== "function") check.oneOf("by", by, ["channel", "key", "consumer"])
  const name = options.name ?? String(by)
  const made = policy(name, options)
  // `by` decides which messages the middleware accepts, and Build types it and `cost` accordingly
  const keyOf = (typeof by === "function" ? by : words[by]) as Rule["keyOf"]
  const cost = (options.cost ?? 1) as Rule["cost"]
  if (typeof cost !== "function") checkCost(made, cost)
  return { policy: made, by: typeof by === "function" ? name : by, keyOf, cost }
}

const checkCost = ({ burst, name }: Policy, cost: number): number =>
  check.count(`cost of ${name}`, cost, { least: 0, most: burst })

/** Checks the options and returns the rules of a middleware; throws a RangeError if an option is out of range. */
export const rulesOf = (options: ReadonlyArray<AnyOptions>): ReadonlyArray<Rule> => {
  if (options.length === 0) throw new RangeError("RateLimit: policies must hold one or more, got none")
  const rules = options.map(ruleOf)
  const names = rules.map(({ policy }) => policy.name)
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined) {
    throw new RangeError(`RateLimit: each of policies must have another name, got ${twice} twice`)
  }
  return rules
}

/** The text of a policy in descriptions. */
export const textOf = ({ algorithm, limit, window }: Policy): string =>
  algorithm === "concurrency" ? `${limit} at once` : `${limit} in ${Duration.format(Duration.millis(window))}`

/** Charges a message by all rules. */
export const chargesOf = (rules: ReadonlyArray<Rule>) => (message: Envelope): ReadonlyArray<Charge> =>
  rules.map(({ cost, keyOf, policy }) => {
    // a cost out of range would wait for ever; a throw in a handler is a defect, and the message becomes a dead letter
    const found = typeof cost === "number" ? cost : checkCost(policy, cost(message))
    return { policy, key: keyOf(message), cost: found }
  })
