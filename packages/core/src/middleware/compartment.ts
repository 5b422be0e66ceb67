/**
 * A number of places and a queue for them. Effect's `Semaphore` does the same with fiber steps for each permit; here a
 * call takes a free place synchronously.
 */
import { Effect, type Exit } from "effect"

interface Waiter {
  wake: (() => void) | undefined
}

/** Places that calls take and release, in order of arrival. */
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

  /** Takes a place if one is free and no call waits. */
  take(): boolean {
    if (this.running >= this.limit || this.waiters.size > 0) return false
    this.running++
    return true
  }

  /** Releases a place. */
  free(): void {
    this.running--
    this.wake()
  }

  /** Runs `run` once a place is free; fails with `otherwise` if the queue is full. `ended` frees the place; default: at once. */
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
          // the waiter may be next before it sleeps
          if (this.next === waiter) resume(Effect.void)
          else waiter.wake = () => resume(Effect.void)
        }))
        // no call takes the place meanwhile, since `take` refuses while calls wait; an interrupted call leaves it to the
        // next
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

  /** The waiter whose turn it is; undefined if no call waits or no place is free. */
  private get next(): Waiter | undefined {
    if (this.running >= this.limit) return undefined
    for (const waiter of this.waiters) return waiter
    return undefined
  }

  private wake(): void {
    this.next?.wake?.()
  }
}
