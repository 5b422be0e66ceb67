/**
 * The one decision about a message whose chain has ended: hold, publish, settle or give up. The decision is made before the
 * hooks run, so hooks, audit rows, metrics and the broker get the same outcome.
 */
import { Duration } from "effect"
import type { Consumer } from "../../broker/Broker.ts"
import type { Capabilities } from "../../driver/Driver.ts"
import type { Delivery, Outgoing } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import { readable } from "../../message/readable.ts"
import { leaseOf, type LeaseState } from "./LeaseState.ts"

/** The failures and waits of a message so far. */
export interface Cost {
  /** Unix time in milliseconds of the first failure, shifted by the waits named by errors. */
  readonly since: number
  /** Number of messages of the lease settled before the first failure. */
  readonly settledBefore: number
  readonly failures: number
  /** Sum of the waits named by the message's errors, in milliseconds. */
  readonly waited: number
  /** The start of a named wait, which counts neither for age nor for span. */
  readonly named: { readonly at: number; readonly settled: number } | undefined
  /** The last error. */
  readonly error: unknown
}

/** Holds the message in its lane for `after` milliseconds, then runs it again. */
export interface Hold {
  readonly _tag: "Hold"
  readonly outcome: Outcome.Retry
  readonly after: number
  readonly cost: Cost
}

/** Publishes the message to a retry channel, and acknowledges it when the broker has confirmed the publish. */
export interface Publish {
  readonly _tag: "Publish"
  readonly outcome: Outcome.Retry
  readonly outgoing: Outgoing<Uint8Array>
  /** The message's error, for its dead letter if the broker refuses the retry for good. */
  readonly error: unknown
}

/** Settles the message at the broker with the outcome. */
export interface Settle {
  readonly _tag: "Settle"
  readonly outcome: Outcome.Outcome
  /** The error of a message that the broker delays. */
  readonly error: unknown
}

/** Writes the dead letter, and acknowledges the message when the broker has confirmed the write. */
export interface GiveUp {
  readonly _tag: "GiveUp"
  readonly outcome: Outcome.DeadLetter
}

/** The decision about a message. Hooks receive `outcome`. */
export type Verdict = Hold | Publish | Settle | GiveUp

/** The verdict on nearly all messages. */
export const acknowledged: Settle = { _tag: "Settle", outcome: Outcome.Ack, error: undefined }

/** Settles a message with an outcome. */
export const settled = (outcome: Outcome.Outcome, error?: unknown): Settle => ({ _tag: "Settle", outcome, error })

/** Tells whether the broker itself delays the retries of a consumer: it counts attempts, and no lane waits. */
export const brokerDelays = (
  { attempts, delay }: Capabilities,
  { lanes, retries }: Pick<Consumer<never>, "lanes" | "retries">
): boolean => delay && attempts && (lanes._tag === "unordered" || retries._tag === "delayed")

/** The consumer options that a policy reads. */
export type Limits = Pick<Consumer<never>, "hold" | "backoff" | "retries">

/** Returns the backoff after this many failures, in milliseconds. */
export const backoff = (
  { base, cap, factor, jitter }: Consumer<never>["backoff"],
  failures: number,
  random: () => number
): number => Math.min(cap, base * factor ** (failures - 1)) * (1 + jitter * (2 * random() - 1))

/** Decides about messages, and stores the costs of messages held in their lanes. */
export abstract class RetryPolicy {
  protected readonly limits: Limits
  private readonly costs = new Map<Delivery, Cost>()
  /** The broker itself writes dead letters. */
  private readonly isLetterWritten: boolean

  constructor(limits: Limits, brokerWritesDeadLetters: boolean) {
    this.limits = limits
    this.isLetterWritten = brokerWritesDeadLetters
  }

  /**
   * Decides about a message whose attempt has ended, and changes nothing: a verdict overridden by a failing hook costs nothing.
   * `error` is the failure of its chain, undefined if the chain did not fail; `now` is Unix time in milliseconds.
   */
  decide(delivery: Delivery, outcome: Outcome.Outcome, error: unknown, now: number): Verdict {
    switch (outcome._tag) {
      case "Ack":
        return acknowledged
      case "Retry":
        return this.retry(delivery, outcome, error, now)
      case "DeadLetter":
        return this.giveUp(outcome)
      default:
        return settled(outcome)
    }
  }

  protected abstract retry(delivery: Delivery, outcome: Outcome.Retry, error: unknown, now: number): Verdict

  /** Stores the cost of a held message. */
  held(delivery: Delivery, { cost }: Hold): void {
    this.costs.set(delivery, cost)
  }

  /** Returns the cost of a held message. */
  costOf(delivery: Delivery): Cost | undefined {
    return this.costs.get(delivery)
  }

  /** Returns the cost of a message before the attempt that has just ended. */
  protected costBefore(delivery: Delivery, now: number): Cost {
    return this.costOf(delivery) ??
      {
        since: now,
        settledBefore: leaseOf(delivery).settled,
        failures: 0,
        waited: 0,
        named: undefined,
        error: undefined
      }
  }

  /** Drops the cost of a settled message. */
  settled(delivery: Delivery): void {
    if (this.costs.size > 0) this.costs.delete(delivery)
  }

  /** Drops the costs of an ended lease. */
  forget(lease: LeaseState): void {
    for (const delivery of this.costs.keys()) if (leaseOf(delivery) === lease) this.costs.delete(delivery)
  }

  /** Gives up: the dead letter shows the message's own error if there is one, else the limit that was reached. */
  protected giveUpSince(error: unknown, reason: string): Verdict {
    return this.giveUp(Outcome.DeadLetter(error ?? new Error(`Given up: ${reason}`)))
  }

  private giveUp(outcome: Outcome.DeadLetter): Verdict {
    return this.isLetterWritten ? settled(outcome) : { _tag: "GiveUp", outcome }
  }

  /** Returns the wait named by an error in milliseconds, at least the backoff's base: `Retry-After: 0` makes no hot loop. */
  protected named({ after }: Outcome.Retry): number | undefined {
    if (after === undefined) return undefined
    return Math.max(Duration.toMillis(after), this.limits.backoff.base)
  }

  protected tooLong(error: unknown, waited: number): Verdict {
    return this.giveUpSince(error, `its errors named waits of ${waited} ms together`)
  }
}

/** Holds a failed message in its lane, bounded by `hold`. */
export class HeldRetries extends RetryPolicy {
  private readonly random: () => number

  constructor(limits: Limits, brokerWritesDeadLetters: boolean, random: () => number) {
    super(limits, brokerWritesDeadLetters)
    this.random = random
  }

  protected retry(delivery: Delivery, outcome: Outcome.Retry, error: unknown, now: number): Verdict {
    const { backoff: schedule, hold } = this.limits
    const lease = leaseOf(delivery)
    const before = this.withoutNamed(this.costBefore(delivery, now), lease, now)
    const cost = { ...before, error: error ?? before.error }
    const named = this.named(outcome)
    if (named !== undefined) {
      const waited = cost.waited + named
      if (waited > hold.retryAfter) return this.tooLong(cost.error, waited)
      const excused = { ...cost, waited, named: { at: now, settled: lease.settled } }
      return { _tag: "Hold", outcome, after: named, cost: excused }
    }
    const failures = cost.failures + 1
    const failed = { ...cost, failures }
    const spent = this.spent(failed, lease, now)
    if (spent !== undefined) return this.giveUpSince(cost.error, spent)
    return { _tag: "Hold", outcome, after: backoff(schedule, failures, this.random), cost: failed }
  }

  /** Removes the effect of a named wait that ends now from the cost. */
  private withoutNamed(cost: Cost, lease: LeaseState, now: number): Cost {
    const { named, settledBefore, since } = cost
    if (named === undefined) return cost
    return {
      ...cost,
      since: since + now - named.at,
      settledBefore: settledBefore + lease.settled - named.settled,
      named: undefined
    }
  }

  private spent(cost: Cost, lease: LeaseState, now: number): string | undefined {
    const { age, attempts, span } = this.limits.hold
    if (cost.failures >= attempts) return `${cost.failures} attempts failed`
    if (now - cost.since >= age) return `it failed for ${now - cost.since} ms`
    const settled = lease.settled - cost.settledBefore
    return settled >= span ? `${settled} messages were settled ahead of it` : undefined
  }
}

/** Lets the broker hold and redeliver a failed message, with the broker's own count of attempts; no lane waits. */
export class BrokerDelayedRetries extends RetryPolicy {
  private readonly random: () => number

  constructor(limits: Limits, brokerWritesDeadLetters: boolean, random: () => number) {
    super(limits, brokerWritesDeadLetters)
    this.random = random
  }

  protected retry(delivery: Delivery, outcome: Outcome.Retry, error: unknown, now: number): Verdict {
    const { backoff: schedule, hold, retries } = this.limits
    const named = this.named(outcome)
    if (named !== undefined) {
      const waited = waits(delivery, named, now)
      return waited > hold.retryAfter ? this.tooLong(error, waited) : again(named, error)
    }
    const failures = delivery.attempts
    if (retries._tag === "delayed") {
      const delay = retries.delays[failures - 1]
      return delay === undefined ? this.giveUpSince(error, `${failures} attempts failed`) : again(delay, error)
    }
    if (failures >= hold.attempts) return this.giveUpSince(error, `${failures} attempts failed`)
    return again(backoff(schedule, failures, this.random), error)
  }
}

/**
 * An upper bound of the waits named by a message's errors, in milliseconds: the broker stores only the number of attempts.
 * Assumes that each error named the current wait, but at most the message's age plus this wait.
 */
const waits = (delivery: Delivery, named: number, now: number): number => {
  const sum = delivery.attempts * named
  const age = readable(() => now - (delivery.timestamp ?? Number.NEGATIVE_INFINITY), Number.POSITIVE_INFINITY)
  return Math.min(sum, Math.max(0, age) + named)
}

const again = (millis: number, error: unknown): Verdict =>
  settled(Outcome.Retry({ after: Duration.millis(millis) }), error)
