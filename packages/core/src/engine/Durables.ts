/**
 * Finished messages that wait until what they promised is durable: once for all that wait for the same effect.
 */
import { type Context, Effect, type Exit, type Fiber } from "effect"
import type { Classified } from "../model/Failure.ts"
import type { Delivery } from "../model/Message.ts"
import type { Outcome } from "../model/Outcome.ts"
import { type Lane, type Tenure, tenureOf } from "./Tenure.ts"

/** Messages that wait for one effect. */
export interface Waiting {
  /** The lane that they keep shut; `late` where it has gone on. */
  readonly lane: Lane | "late" | undefined
  readonly of: ReadonlyArray<{ readonly delivery: Delivery; readonly outcome: Outcome }>
}

interface Open extends Waiting {
  readonly effect: Effect.Effect<void, Classified>
  of: Array<{ readonly delivery: Delivery; readonly outcome: Outcome }>
  fiber: Fiber.Fiber<void, Classified> | undefined
}

/** Who waits for what. */
export class Durables<R> {
  private readonly context: Context.Context<R>
  private readonly ended: (waiting: Waiting, exit: Exit.Exit<void, Classified>) => void
  private readonly all = new Set<Open>()
  // those whose lanes went on, by what they wait for
  private readonly late = new Map<Effect.Effect<void, Classified>, Open>()

  constructor(context: Context.Context<R>, ended: (waiting: Waiting, exit: Exit.Exit<void, Classified>) => void) {
    this.context = context
    this.ended = ended
  }

  /** Waits; whose lane went on joins the others. Each counts as busy until `ended` has heard of it. */
  add(
    effect: Effect.Effect<void, Classified>,
    delivery: Delivery,
    outcome: Outcome,
    lane: Lane | "late" | undefined
  ): void {
    tenureOf(delivery).began()
    const shared = lane === "late" ? this.late.get(effect) : undefined
    if (shared !== undefined) {
      shared.of.push({ delivery, outcome })
      return
    }
    const waiting: Open = { effect, lane, of: [{ delivery, outcome }], fiber: undefined }
    this.all.add(waiting)
    if (lane === "late") this.late.set(effect, waiting)
    waiting.fiber = Effect.runForkWith(this.context)(effect)
    waiting.fiber.addObserver((exit) => {
      this.end(waiting)
      this.ended(waiting, exit)
    })
  }

  /** Messages of this lease wait no longer. */
  giveUp(tenure: Tenure): void {
    for (const waiting of this.all) {
      // others may wait for the same effect
      const left = waiting.of.filter(({ delivery }) => tenureOf(delivery) !== tenure)
      for (let i = left.length; i < waiting.of.length; i++) tenure.ended()
      waiting.of = left
      if (left.length > 0) continue
      this.end(waiting)
      waiting.fiber?.interruptUnsafe()
    }
  }

  private end(waiting: Open): void {
    this.all.delete(waiting)
    if (this.late.get(waiting.effect) === waiting) this.late.delete(waiting.effect)
  }
}
