/**
 * What messages that keep failing have cost so far: how long each still waits, and when it has cost enough.
 */
import { Duration } from "effect"
import type { Consumer } from "../broker/Broker.ts"
import type { Delivery } from "../model/Message.ts"
import type { Retry } from "../model/Outcome.ts"
import { type Tenure, tenureOf } from "./Tenure.ts"

/** What one message has cost. */
interface Held {
  since: number
  settledBefore: number
  failures: number
  /** Since when it waits a time that it named itself, which costs nothing. */
  excused: { readonly at: number; readonly settled: number } | undefined
}

/** Counts failures, their time, and what went past them. */
export class Patience {
  private readonly hold: Consumer<never>["hold"]
  private readonly schedule: Consumer<never>["backoff"]
  private readonly retries: Consumer<never>["retries"]
  /** The broker counts attempts and delivers each anew: its count holds. */
  private readonly isCounted: boolean
  private readonly random: () => number
  private readonly held = new Map<Delivery, Held>()
  private readonly errors = new WeakMap<Delivery, unknown>()

  constructor(
    consumer: Pick<Consumer<never>, "hold" | "backoff" | "retries">,
    isCounted: boolean,
    random: () => number
  ) {
    this.hold = consumer.hold
    this.schedule = consumer.backoff
    this.retries = consumer.retries
    this.isCounted = isCounted
    this.random = random
  }

  /** The error that its dead letter shows, if it comes to that. */
  note(delivery: Delivery, error: unknown): void {
    this.errors.set(delivery, error)
  }

  /** Milliseconds until its next attempt, or why there is none: the error for its dead letter. */
  ask(delivery: Delivery, tenure: Tenure, outcome: Retry, now: number): number | { readonly error: unknown } {
    const own = outcome.after === undefined ? undefined : Duration.toMillis(outcome.after)
    let held = this.held.get(delivery)
    if (held?.excused !== undefined) {
      held.since += now - held.excused.at
      held.settledBefore += tenure.settled - held.excused.settled
      held.excused = undefined
    }
    if (own !== undefined) {
      if (held !== undefined) held.excused = { at: now, settled: tenure.settled }
      return own
    }
    if (held === undefined) {
      this.held.set(delivery, held = { since: now, settledBefore: tenure.settled, failures: 0, excused: undefined })
    }
    held.failures = this.isCounted ? delivery.attempts : held.failures + 1
    if (this.retries._tag === "delayed") {
      return this.retries.delays[held.failures - 1] ??
        { error: this.reason(delivery, `${held.failures} attempts failed`) }
    }
    const spent = this.spent(held, tenure, now)
    return spent === undefined ? this.backoff(held.failures) : { error: this.reason(delivery, spent) }
  }

  /** Why there will be no next attempt, without counting this one: what `ask` is going to answer then. */
  foresee(
    delivery: Delivery,
    tenure: Tenure,
    outcome: Retry,
    now: number
  ): { readonly error: unknown } | undefined {
    if (outcome.after !== undefined) return undefined
    const held = this.held.get(delivery)
    const failures = this.isCounted ? delivery.attempts : (held?.failures ?? 0) + 1
    if (this.retries._tag === "delayed") {
      return failures <= this.retries.delays.length
        ? undefined
        : { error: this.reason(delivery, `${failures} attempts failed`) }
    }
    const { at, settled } = held?.excused ?? { at: now, settled: tenure.settled }
    const spent = this.spent(
      {
        failures,
        since: held === undefined ? now : held.since + (now - at),
        settledBefore: held === undefined ? tenure.settled : held.settledBefore + (tenure.settled - settled)
      },
      tenure,
      now
    )
    return spent === undefined ? undefined : { error: this.reason(delivery, spent) }
  }

  /** Why a message is given up: what it failed with, if that is known. */
  reason(delivery: Delivery, spent: string): unknown {
    return this.errors.get(delivery) ?? new Error(`Given up: ${spent}`)
  }

  private spent(held: Omit<Held, "excused">, tenure: Tenure, now: number): string | undefined {
    const { age, attempts, span } = this.hold
    if (held.failures >= attempts) return `${held.failures} attempts failed`
    if (now - held.since >= age) return `it failed for ${now - held.since} ms`
    const settled = tenure.settled - held.settledBefore
    return settled >= span ? `${settled} messages were settled ahead of it` : undefined
  }

  /** Milliseconds to wait after so many failures. */
  backoff(failures: number): number {
    const { base, cap, factor, jitter } = this.schedule
    const plain = Math.min(cap, base * factor ** (failures - 1))
    return plain * (1 + jitter * (2 * this.random() - 1))
  }

  settled(delivery: Delivery): void {
    if (this.held.size > 0) this.held.delete(delivery)
  }

  forget(tenure: Tenure): void {
    for (const delivery of this.held.keys()) if (tenureOf(delivery) === tenure) this.held.delete(delivery)
  }
}
