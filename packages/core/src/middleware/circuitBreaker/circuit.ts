/**
 * One circuit: closed while calls succeed, open while they would fail, half-open while a few calls probe it.
 */
import type { Intake } from "../../broker/Intake.ts"
import { Recent } from "../../pipeline/Recent.ts"

/** The state that decides the next call. */
export type State = "closed" | "open" | "half-open"

/** The condition under which a circuit opens. */
export type Trip =
  | { readonly _tag: "consecutive"; readonly failures: number }
  | { readonly _tag: "rate"; readonly rate: number; readonly minimum: number; readonly window: number }

/** The policy of a breaker's circuits; times in milliseconds. */
export interface Policy {
  readonly trip: Trip
  readonly openFor: number
  readonly maximumOpenFor: number
  readonly probes: number
}

/** The verdict of a call on its dependency: it answers, it fails, or neither. */
export type Verdict = "answers" | "fails" | undefined

/** A circuit, and the intakes that it pauses. */
export class Circuit {
  readonly name: string
  readonly policy: Policy
  state: State = "closed"
  /** Unix time in milliseconds of the last change. */
  since: number
  /** The time of the next probe while the circuit is open. */
  until = 0
  refused = 0
  /** The circuit was evicted; a newer one may have its name. */
  isForgotten = false
  /** Increases with each change: a call that started in an earlier era is not counted. */
  era = 0
  private failures = 0
  private openings = 0
  private out = 0
  private answered = 0
  private readonly recent: Recent | undefined
  private readonly intakes = new Set<Intake>()
  private readonly changed: (circuit: Circuit, from: State) => void

  constructor(name: string, policy: Policy, now: number, changed: (circuit: Circuit, from: State) => void) {
    this.name = name
    this.policy = policy
    this.since = now
    this.changed = changed
    this.recent = policy.trip._tag === "rate" ? new Recent(policy.trip.window) : undefined
  }

  /** The circuit is closed and has counted no failure, so it is evicted first. */
  get isIdle(): boolean {
    return this.state === "closed" && this.failures === 0
  }

  /** Returns the milliseconds until a call may pass; 0 lets it pass now. */
  admit(now: number, intake: Intake | undefined): number {
    if (this.state === "closed") return 0
    if (intake !== undefined) this.intakes.add(intake)
    if (this.state === "open" && now >= this.until) this.change("half-open", now)
    const wait = this.state === "open"
      ? this.until - now
      : this.hasRoom
      ? 0
      // the duration of a probe is unknown
      : Math.min(1000, this.policy.openFor)
    if (wait === 0) this.out++
    else this.refused++
    this.turn(now)
    return wait
  }

  /** Records the verdict of a call that started in `era`. */
  record(era: number, verdict: Verdict, now: () => number, intake: Intake | undefined): void {
    if (era !== this.era) return
    if (this.state === "half-open") {
      const at = now()
      this.out--
      if (verdict === "answers" && ++this.answered >= this.policy.probes) this.change("closed", at)
      else if (verdict === "fails") this.open(at, intake)
      this.turn(at)
      return
    }
    if (verdict === undefined) return
    const { trip } = this.policy
    const fails = verdict === "fails"
    if (trip._tag === "consecutive") {
      if (!fails) this.failures = 0
      else if (++this.failures >= trip.failures) this.open(now(), intake)
      return
    }
    const at = now()
    this.recent!.count(fails, at)
    if (!fails) return
    this.failures++
    if (this.recent!.exceeds(trip.rate, trip.minimum)) this.open(at, intake)
  }

  /** Opens the circuit manually, until `close` is called. */
  hold(now: number): void {
    this.until = Number.POSITIVE_INFINITY
    if (this.state !== "open") this.change("open", now)
    this.turn(now)
  }

  close(now: number): void {
    if (this.state !== "closed") this.change("closed", now)
    this.turn(now)
  }

  private open(now: number, intake: Intake | undefined): void {
    if (intake !== undefined) this.intakes.add(intake)
    const { maximumOpenFor, openFor } = this.policy
    this.until = now + Math.min(maximumOpenFor, openFor * 2 ** Math.min(this.openings++, 52))
    this.change("open", now)
    this.turn(now)
  }

  private get hasRoom(): boolean {
    return this.out + this.answered < this.policy.probes
  }

  private change(state: State, now: number): void {
    const from = this.state
    this.state = state
    this.since = now
    this.era++
    this.failures = this.out = this.answered = 0
    if (state === "closed") {
      this.openings = 0
      this.recent?.clear()
    }
    this.changed(this, from)
  }

  /** Pauses the intakes while no call would pass, and resumes them otherwise. */
  private turn(now: number): void {
    if (this.state === "closed") {
      for (const intake of this.intakes) intake.resume(this)
      this.intakes.clear()
      return
    }
    const isShut = this.state === "open" || !this.hasRoom
    const wait = this.state === "open" ? this.until - now : this.policy.openFor
    for (const intake of this.intakes) {
      if (isShut) intake.pause(this, `circuit ${this.name} is ${this.state}`, wait === Infinity ? undefined : wait)
      else intake.resume(this)
    }
  }
}
