/**
 * The fibers of started messages: suspended handlers, and held messages that wait for their next attempt.
 */
import type { Clock, Fiber } from "effect"
import type { Delivery } from "../../message/Message.ts"
import type { Lanes } from "./Lanes.ts"
import { type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"
import type { RetryPolicy } from "./RetryPolicy.ts"
import type { InFlight } from "./stalls.ts"

/** A message with a running handler. */
export interface Running {
  readonly delivery: Delivery
  readonly since: number
}

/** The suspended handlers and held messages of a worker. */
export class Handlers {
  private readonly fibers = new Map<Fiber.Fiber<unknown, unknown>, Running>()
  private readonly timers = new Map<Fiber.Fiber<void>, Running & { readonly lane: Lane | undefined }>()
  private readonly clock: Clock.Clock

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  /** Adds a suspended handler. The caller observes its fiber, and calls `ended` first when the fiber ends. */
  running(fiber: Fiber.Fiber<unknown, unknown>, delivery: Delivery): void {
    this.fibers.set(fiber, { delivery, since: this.clock.currentTimeMillisUnsafe() })
    if (leaseOf(delivery).lost) fiber.interruptUnsafe()
  }

  ended(fiber: Fiber.Fiber<unknown, unknown>): void {
    this.fibers.delete(fiber)
  }

  /** Adds a message that waits in its lane for a timer; `ended` is called when the timer ends, but not if it is cancelled. */
  waiting(timer: Fiber.Fiber<void>, delivery: Delivery, lane: Lane | undefined, ended: () => void): void {
    this.timers.set(timer, { delivery, lane, since: this.clock.currentTimeMillisUnsafe() })
    timer.addObserver((exit) => {
      this.timers.delete(timer)
      if (exit._tag === "Success") ended()
    })
  }

  /** Cancels the waits of a lease's messages for their next attempts. */
  cancel(lease: LeaseState): void {
    for (const [timer, { delivery }] of this.timers) if (leaseOf(delivery) === lease) timer.interruptUnsafe()
  }

  cancelAll(): void {
    for (const timer of this.timers.keys()) timer.interruptUnsafe()
  }

  interrupt(lease: LeaseState): void {
    for (const [fiber, { delivery }] of this.fibers) if (leaseOf(delivery) === lease) fiber.interruptUnsafe()
  }

  /** Lists the leases of running handlers, including lost leases. */
  leases(): ReadonlyArray<LeaseState> {
    return Array.from(this.fibers.values(), ({ delivery }) => leaseOf(delivery))
  }

  /** Returns the handler that has run for the longest time. */
  oldest(): Running | undefined {
    // the map keeps insertion order, so the first is the oldest
    for (const running of this.fibers.values()) return running
    return undefined
  }

  *inFlight(lanes: Lanes, policy: RetryPolicy): Generator<InFlight> {
    for (const { delivery, since } of this.fibers.values()) {
      const behind = lanes.behind(delivery)?.queue.length ?? 0
      yield { delivery, since, state: "running", behind, error: undefined }
    }
    for (const { delivery, lane, since } of this.timers.values()) {
      const cost = policy.costOf(delivery)
      const behind = lane?.queue.length ?? 0
      yield { delivery, since: cost?.since ?? since, state: "retry", behind, error: cost?.error }
    }
  }
}
