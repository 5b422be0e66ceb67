/**
 * Hook effects that must be durable before their messages are settled: messages that wait for the same effect share one run.
 */
import type { Clock, Context, Effect, Exit, Fiber } from "effect"
import type { Classified } from "../../message/Failure.ts"
import type { Delivery } from "../../message/Message.ts"
import { fork } from "./guard.ts"
import { type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"
import type { InFlight } from "./stalls.ts"
import type { Verdict } from "./RetryPolicy.ts"

/** A message, and its verdict if the effect succeeds. */
export interface Decided {
  readonly delivery: Delivery
  readonly verdict: Verdict
}

/** Messages waiting for one effect. */
export interface Waiting {
  /** The lane that they block; `late` if it has continued. */
  readonly lane: Lane | "late" | undefined
  readonly messages: ReadonlyArray<Decided>
}

interface Open extends Waiting {
  readonly effect: Effect.Effect<void, Classified>
  readonly since: number
  messages: Array<Decided>
  fiber: Fiber.Fiber<void, Classified> | undefined
}

/** The effects in progress. */
export class PendingEffects<R> {
  private readonly context: Context.Context<R>
  private readonly clock: Clock.Clock
  private readonly ended: (waiting: Waiting, exit: Exit.Exit<void, Classified>) => void
  private readonly all = new Set<Open>()
  // entries of messages whose lanes have continued, by their effect
  private readonly late = new Map<Effect.Effect<void, Classified>, Open>()

  constructor(
    context: Context.Context<R>,
    clock: Clock.Clock,
    ended: (waiting: Waiting, exit: Exit.Exit<void, Classified>) => void
  ) {
    this.context = context
    this.clock = clock
    this.ended = ended
  }

  /** Runs the effect for a message; late messages with the same effect share a run. The lease stays busy until `ended` runs. */
  add(
    effect: Effect.Effect<void, Classified>,
    delivery: Delivery,
    verdict: Verdict,
    lane: Lane | "late" | undefined
  ): void {
    leaseOf(delivery).began()
    const shared = lane === "late" ? this.late.get(effect) : undefined
    if (shared !== undefined) {
      shared.messages.push({ delivery, verdict })
      return
    }
    const since = this.clock.currentTimeMillisUnsafe()
    const waiting: Open = { effect, since, lane, messages: [{ delivery, verdict }], fiber: undefined }
    this.all.add(waiting)
    if (lane === "late") this.late.set(effect, waiting)
    waiting.fiber = fork(this.context, effect, (exit) => {
      this.end(waiting)
      this.ended(waiting, exit)
    })
  }

  /** Stops waiting for the messages of a lease. */
  giveUp(lease: LeaseState): void {
    for (const waiting of this.all) {
      // messages of other leases may wait for the same effect
      const left = waiting.messages.filter(({ delivery }) => leaseOf(delivery) !== lease)
      for (let i = left.length; i < waiting.messages.length; i++) lease.ended()
      waiting.messages = left
      if (left.length > 0) continue
      this.end(waiting)
      waiting.fiber?.interruptUnsafe()
    }
  }

  /** Lists the leases of waiting messages, including lost leases. */
  leases(): ReadonlyArray<LeaseState> {
    return Array.from(this.all).flatMap(({ messages }) => messages.map(({ delivery }) => leaseOf(delivery)))
  }

  *inFlight(): Generator<InFlight> {
    for (const { lane, messages, since } of this.all) {
      const { delivery } = messages[0]!
      const behind = messages.length - 1 + (lane === undefined || lane === "late" ? 0 : lane.queue.length)
      yield { delivery, state: "durable effect", since, behind, error: undefined }
    }
  }

  private end(waiting: Open): void {
    this.all.delete(waiting)
    if (this.late.get(waiting.effect) === waiting) this.late.delete(waiting.effect)
  }
}
