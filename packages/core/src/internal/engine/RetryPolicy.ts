/**
 * The one decision about a message whose chain has ended: hold, publish, settle or give up. It is made before the hooks run, so
 * hooks, audit rows, metrics and the broker are told the same.
 */
import { Duration } from "effect"
import type { Consumer } from "../../broker/Broker.ts"
import type { Capabilities } from "../../driver/Driver.ts"
import type { Delivery, Outgoing } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import { readable } from "../../message/readable.ts"
import { leaseOf, type LeaseState } from "./LeaseState.ts"

/** What a message has cost so far. */
export interface Cost {
  /** Unix time in milliseconds of its first failure, without the waits that its errors named. */
  readonly since: number
  /** Messages of its lease that were settled before its first failure. */
  readonly settledBefore: number
  readonly failures: number
  /** Milliseconds of waits that its errors named, added up. */
  readonly waited: number
  /** When a named wait began, which costs neither age nor span. */
  readonly named: { readonly at: number; readonly settled: number } | undefined
  /** What it failed with last. */
  readonly error: unknown
}

/** The message waits in its lane for `after` milliseconds and runs again. */
export interface Hold {
  readonly _tag: "Hold"
  readonly outcome: Outcome.Retry
  readonly after: number
  readonly cost: Cost
}

/** The message goes to a retry channel and is acknowledged when the broker has confirmed that. */
export interface Publish {
  readonly _tag: "Publish"
  readonly outcome: Outcome.Retry
  readonly outgoing: Outgoing<Uint8Array>
  /** What the message failed with, for its dead letter if the broker refuses the retry for good. */
  readonly error: unknown
}

/** The broker is told the outcome, and does what it says. */
export interface Settle {
  readonly _tag: "Settle"
  readonly outcome: Outcome.Outcome
  /** What a message that the broker delays has failed with. */
  readonly error: unknown
}

/** The engine writes the dead letter, and acknowledges the message when the broker has confirmed it. */
export interface GiveUp {
  readonly _tag: "GiveUp"
  readonly outcome: Outcome.DeadLetter
}

/** What becomes of a message. Hooks are told `outcome`. */
export type Verdict = Hold | Publish | Settle | GiveUp

/** The verdict on nearly all messages. */
export const acknowledged: Settle = { _tag: "Settle", outcome: Outcome.Ack, error: undefined }

/** Settles a message as an outcome says. */
export const settled = (outcome: Outcome.Outcome, error?: unknown): Settle => ({ _tag: "Settle", outcome, error })

/** Whether the broker itself delays the retries of a consumer: it counts attempts, and no lane waits. */
export const brokerDelays = (
  { attempts, delay }: Capabilities,
  { lanes, retries }: Pick<Consumer<never>, "lanes" | "retries">
): boolean => delay && attempts && (lanes._tag === "unordered" || retries._tag === "delayed")

/** The options of a consumer that a policy reads. */
export type Limits = Pick<Consumer<never>, "hold" | "backoff" | "retries">

/** Milliseconds to wait after so many failures. */
export const backoff = (
  { base, cap, factor, jitter }: Consumer<never>["backoff"],
  failures: number,
  random: () => number
): number => Math.min(cap, base * factor ** (failures - 1)) * (1 + jitter * (2 * random() - 1))

/** Decides what becomes of messages, and keeps what those that wait in their lane have cost. */
export abstract class RetryPolicy {
  protected readonly limits: Limits
  private readonly costs = new Map<Delivery, Cost>()
  /** The broker writes dead letters by itself. */
  private readonly isLetterWritten: boolean

  constructor(limits: Limits, brokerWritesDeadLetters: boolean) {
    this.limits = limits
    this.isLetterWritten = brokerWritesDeadLetters
  }

  /**
   * Decides on a message whose attempt has ended, and changes nothing: a verdict that a failing hook overrides costs nothing.
   * `error` is what its chain failed with, undefined where it did not fail; `now` is Unix time in milliseconds.
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

  /** A message is held, and its attempt has cost that. */
  held(delivery: Delivery, { cost }: Hold): void {
    this.costs.set(delivery, cost)
  }

  /** What a message that is held has cost. */
  costOf(delivery: Delivery): Cost | undefined {
    return this.costs.get(delivery)
  }

  /** What a message has cost before the attempt that has just ended. */
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

  /** A message is settled: nothing is kept of it. */
  settled(delivery: Delivery): void {
    if (this.costs.size > 0) this.costs.delete(delivery)
  }

  /** A lease has ended: nothing is kept of its messages. */
  forget(lease: LeaseState): void {
    for (const delivery of this.costs.keys()) if (leaseOf(delivery) === lease) this.costs.delete(delivery)
  }

  /** The dead letter shows the message's own error if there is one, else which limit was reached. */
  protected giveUpSince(error: unknown, reason: string): Verdict {
    return this.giveUp(Outcome.DeadLetter(error ?? new Error(`Given up: ${reason}`)))
  }

  private giveUp(outcome: Outcome.DeadLetter): Verdict {
    return this.isLetterWritten ? settled(outcome) : { _tag: "GiveUp", outcome }
  }

  /** The milliseconds that an error has named, at least the back-off's base: `Retry-After: 0` is no hot loop. */
  protected named({ after }: Outcome.Retry): number | undefined {
    if (after === undefined) return undefined
    return Math.max(Duration.toMillis(after), this.limits.backoff.base)
  }

  protected tooLong(error: unknown, waited: number): Verdict {
    return this.giveUpSince(error, `its errors named waits of ${waited} ms together`)
  }
}

/** A message that failed waits in its lane, bounded by `hold`. */
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

  /** The cost without a wait that an error named and that ends now. */
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

/** The broker holds a message that failed and delivers it again, with its own count of attempts; no lane waits. */
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
 * Milliseconds that the errors of a message have named, at most: the broker keeps only the number of attempts. As if each had
 * named the present wait, and no longer than the message is there.
 */
const waits = (delivery: Delivery, named: number, now: number): number => {
  const sum = delivery.attempts * named
  const age = readable(() => now - (delivery.timestamp ?? Number.NEGATIVE_INFINITY), Number.POSITIVE_INFINITY)
  return Math.min(sum, Math.max(0, age) + named)
}

const again = (millis: number, error: unknown): Verdict =>
  settled(Outcome.Retry({ after: Duration.millis(millis) }), error)
