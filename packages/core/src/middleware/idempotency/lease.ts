/**
 * Keeps a claim by heartbeats, each with a time limit, so that the handler is interrupted before another owner can take
 * the claim.
 */
import { type Clock, Effect, Exit, Fiber, Option } from "effect"
import * as Eager from "../../pipeline/Eager.ts"
import type { IdempotencyUnavailable } from "./store.ts"

const nanosInMilli = 1e6

/** Monotonic milliseconds, unaffected by changes of the wall clock. */
export const monotonic = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / nanosInMilli

/**
 * The answer of an effect, or none after so many milliseconds. The effect runs on a fiber of its own, which is
 * interrupted and not awaited: an uninterruptible call does not delay the result.
 */
export const answeredWithin = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  millis: number
): Effect.Effect<Option.Option<A>, E, R> =>
  Eager.isDone(effect)
    ? Exit.map(effect, Option.some)
    : Effect.flatMap(Effect.forkDetach(effect, { startImmediately: true }), (fiber) => {
      const stop = Effect.sync(() => fiber.interruptUnsafe())
      return Effect.flatMap(
        Effect.onInterrupt(Effect.timeoutOption(Fiber.await(fiber), millis), () => stop),
        (found): Effect.Effect<Option.Option<A>, E> =>
          found._tag === "None" ? Effect.as(stop, Option.none()) : Exit.map(found.value, Option.some)
      )
    })

/** The claim of a running handler. */
export interface Held {
  readonly clock: Clock.Clock
  /** Milliseconds for which the claim holds after each heartbeat. */
  readonly lease: number
  /** The monotonic time of the claim's request, in milliseconds. */
  readonly since: number
  readonly extend: Effect.Effect<boolean, IdempotencyUnavailable>
}

/**
 * Extends a claim every third of its lease, and completes when the claim ends: `refused` if the store answers that the
 * caller no longer owns it, `unheard` if the store has not answered for five sixths of the lease.
 *
 * A call that fails or has no answer within a sixth of the lease is repeated after that sixth. The lease is counted from
 * the start of the last successful call, which is before the store began to count.
 */
export const heartbeat = ({ clock, extend, lease, since }: Held): Effect.Effect<"refused" | "unheard"> => {
  const unit = lease / 6
  const beat = (last: number, due: number, unheard: number): Effect.Effect<"refused" | "unheard"> =>
    Effect.flatMap(Effect.suspend(() => Effect.sleep(Math.max(0, due - monotonic(clock)))), () => {
      const at = monotonic(clock)
      // a suspended process extends once more if no other owner can have taken the claim yet
      const left = last + (unheard === 0 ? lease : lease - unit) - at
      if (left < 1) return Effect.succeed("unheard" as const)
      return Effect.flatMap(
        Effect.catchCause(answeredWithin(extend, Math.min(unit, left)), () => Effect.succeedNone),
        (heard) => {
          if (heard._tag === "None") return beat(last, at + unit, unheard + 1)
          return heard.value ? beat(at, at + 2 * unit, 0) : Effect.succeed("refused" as const)
        }
      )
    })
  return beat(since, since + 2 * unit, 0)
}
