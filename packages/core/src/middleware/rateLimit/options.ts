/**
 * The options of a rate limit, and the charges of a message that they make.
 */
import { Duration } from "effect"
import { compositeKey } from "../../message/compositeKey.ts"
import type { Envelope, Message } from "../../message/Message.ts"
import { type Charge, check, type Decision, type Policy, policy, type PolicyNumbers } from "./policy.ts"

/** What becomes of messages that are over a limit, and of all where nobody can say. */
export interface Handling {
  /**
   * `refuse`: fails with `RateLimited`. `delay`: waits in place for its turn, in the order of arrival, where that comes
   * within `maximumDelay`, and is refused otherwise. For a place of `concurrency` nobody waits. Default: `refuse`.
   */
  readonly onExceeded?: "delay" | "refuse" | undefined
  /**
   * The longest wait in place, from 0; for a consumer at most half of what its broker allows an attempt to take, so that
   * the handler has the other half. Default: 1 second.
   */
  readonly maximumDelay?: Duration.Input | undefined
  /**
   * What to do while the store cannot be asked. `refuse`: fails with `RateLimitUnavailable`. `pass`: messages pass uncounted, and
   * each adds to the metric `millrace.rate_limit.unavailable`. Default: `refuse`.
   */
  readonly unavailable?: "pass" | "refuse" | undefined
  /** Is told of each decision, before the message passes or is refused; it must not throw. Default: nobody. */
  readonly onDecision?: ((message: Envelope, decided: Asked) => void) | undefined
}

/** The policies that were asked, and what the store said of each, in the same order. */
export interface Asked {
  readonly policies: ReadonlyArray<Policy>
  readonly decision: Decision
}

/** How much may pass, and what becomes of the rest. */
export interface Limits extends PolicyNumbers, Handling {}

/** What a message takes of a limit: an integer from 0 to the burst, or to the limit where there are no bursts. Default: 1. */
export type Cost<M> = number | ((message: M) => number)

/** Options of `middleware` that work on any message. */
export interface Options extends Limits {
  /** Messages of one `channel`, or of one `key` of a channel, share a limit. Default: `channel`. */
  readonly by?: "channel" | "key" | undefined
  /** Limits of the same name and the same numbers share their counts in one store. Default: what `by` says. */
  readonly name?: string | undefined
  readonly cost?: Cost<Envelope> | undefined
}

/** Options of `middleware` for consumers. */
export interface ConsumerOptions extends Limits {
  /** All messages of one consumer group share a limit, whatever their channel. */
  readonly by: "consumer"
  readonly name?: string | undefined
  readonly cost?: Cost<Message<unknown>> | undefined
}

/** Options of `middleware` with a key of one's own. */
export interface KeyedOptions<in M> extends Limits {
  /** Messages for which it answers the same share a limit. */
  readonly by: (message: M) => string
  /** Limits of the same name and the same numbers share their counts in one store. */
  readonly name: string
  readonly cost?: Cost<M> | undefined
}

/** One of several limits of a message. */
export interface PolicyOptions<in M> extends PolicyNumbers {
  /** What errors name; each of a middleware has another. Policies of the same name and numbers share their counts in one store. */
  readonly name: string
  /** Default: `channel`. */
  readonly by?: "channel" | "key" | ((message: M) => string) | undefined
  readonly cost?: Cost<M> | undefined
}

/** Options of `middleware` with several limits, which are decided as one: a message is counted by all or by none. */
export interface PoliciesOptions<in M> extends Handling {
  /** One or more. */
  readonly policies: ReadonlyArray<PolicyOptions<M>>
}

const words = {
  channel: (message: Envelope) => message.channel,
  // the same key in two channels is two things
  key: ({ channel, key }: Envelope) => key === undefined ? compositeKey(channel) : compositeKey(channel, key),
  consumer: (message: Message<unknown>) => message.delivery.origin.group
}

/** A policy, and how a message is charged by it. */
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
  // `by` says which messages the middleware is for, and Build types it and `cost` so
  const keyOf = (typeof by === "function" ? by : words[by]) as Rule["keyOf"]
  const cost = (options.cost ?? 1) as Rule["cost"]
  if (typeof cost !== "function") checkCost(made, cost)
  return { policy: made, by: typeof by === "function" ? name : by, keyOf, cost }
}

const checkCost = ({ burst, name }: Policy, cost: number): number =>
  check.count(`cost of ${name}`, cost, { least: 0, most: burst })

/** The rules of a middleware; throws a RangeError where one is wrong. */
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

/** A policy as it is shown. */
export const textOf = ({ algorithm, limit, window }: Policy): string =>
  algorithm === "concurrency" ? `${limit} at once` : `${limit} in ${Duration.format(Duration.millis(window))}`

/** Charges a message by all rules. */
export const chargesOf = (rules: ReadonlyArray<Rule>) => (message: Envelope): ReadonlyArray<Charge> =>
  rules.map(({ cost, keyOf, policy }) => {
    // a message of a wrong cost would wait for ever; a throw in a handler is a defect, which goes to the dead letters
    const found = typeof cost === "number" ? cost : checkCost(policy, cost(message))
    return { policy, key: keyOf(message), cost: found }
  })
