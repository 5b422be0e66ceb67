/**
 * A number of places and a queue for them. Effect's `Semaphore` does as much with steps of a fiber for each permit; here a
 * free place is taken at the call.
 */
import { Effect, type Exit } from "effect"

interface Waiter {
  wake: (() => void) | undefined
}

/** Places that calls take and give back, in the order in which they came. */
export class Compartment {
  readonly name: string
  readonly limit: number
  readonly queue: number
  running = 0
  refused = 0
  private readonly waiters = new Set<Waiter>()

  constructor(name: string, limit: number, queue: number) {
    this.name = name
    this.limit = limit
    this.queue = queue
  }

  get waiting(): number {
    return this.waiters.size
  }

  /** Takes a place, if one is free and nobody waits for it. */
  take(): boolean {
    if (this.running >= this.limit || this.waiters.size > 0) return false
    this.running++
    return true
  }

  /** Gives a place back. */
  free(): void {
    this.running--
    this.wake()
  }

  /** Runs with a place once one is free; `otherwise` where the queue has no room. `ended` gives the place back, by default at once. */
  wait<A, E, R, E2>(
    run: () => Effect.Effect<A, E, R>,
    otherwise: () => E2,
    ended: (exit: Exit.Exit<A, E>) => void = () => this.free()
  ): Effect.Effect<A, E | E2, R> {
    const around = (run: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.onExitPrimitive(run, (exit) => {
        ended(exit)
        return undefined
      })
    return Effect.uninterruptibleMask((restore) =>
      Effect.suspend((): Effect.Effect<A, E | E2, R> => {
        if (this.take()) return around(restore(Effect.suspend(run)))
        if (this.waiters.size >= this.queue) {
          this.refused++
          return Effect.fail(otherwise())
        }
        const waiter: Waiter = { wake: undefined }
        this.waiters.add(waiter)
        const woken = restore(Effect.callback<void>((resume) => {
          // it may have been woken before it slept
          if (this.next === waiter) resume(Effect.void)
          else waiter.wake = () => resume(Effect.void)
        }))
        // nothing takes the place meanwhile, for `take` passes no waiter; a call that is interrupted on its way leaves it to the next
        const turn = Effect.map(woken, () => {
          this.waiters.delete(waiter)
          this.running++
          this.wake()
        })
        const left = Effect.onInterrupt(turn, () =>
          Effect.sync(() => {
            if (this.waiters.delete(waiter)) this.wake()
          }))
        return Effect.flatMap(left, () => around(restore(Effect.suspend(run))))
      })
    )
  }

  /** Whose turn it is; undefined where nobody waits or no place is free. */
  private get next(): Waiter | undefined {
    if (this.running >= this.limit) return undefined
    for (const waiter of this.waiters) return waiter
    return undefined
  }

  private wake(): void {
    this.next?.wake?.()
  }
}
