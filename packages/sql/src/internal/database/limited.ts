/**
 * Time limits that also hold if the work cannot be interrupted: the caller goes on, and the work ends in the background.
 */
import { Effect, type Exit, Fiber } from "effect"

/**
 * Calls `late` after `millis`, unless the returned function is called before. Uses real time, as servers do, even if a test's
 * clock stands still or jumps.
 */
const after = (millis: number, late: () => void): () => void => {
  let isOver = false
  // wait one more turn: an answer may have arrived while this process was busy
  // @effect-diagnostics-next-line globalTimers:off
  const timer = setTimeout(() => setImmediate(() => isOver || late()), millis)
  return () => {
    isOver = true
    clearTimeout(timer)
  }
}

/**
 * Runs an effect on a separate fiber for at most `millis`. A late effect is interrupted, and the caller fails with
 * `late` at once: PostgreSQL's driver waits up to 5 seconds for a server before it gives up an interrupted statement.
 */
export const limited = <A, E, R, E2>(
  effect: Effect.Effect<A, E, R>,
  millis: number,
  late: () => E2
): Effect.Effect<A, E | E2, R> =>
  Effect.flatMap(Effect.context<R>(), (context) =>
    Effect.callback<A, E | E2>((resume) => {
      const running = Effect.runForkWith(context)(effect)
      const rest = after(millis, () => {
        resume(Effect.suspend(() => Effect.fail(late())))
        running.interruptUnsafe()
      })
      running.addObserver((exit) => {
        rest()
        resume(exit)
      })
      return Effect.sync(() => {
        rest()
        running.interruptUnsafe()
      })
    }))

/** The part of a transaction that takes too long. */
export type Step = "begin" | "end"

/**
 * Runs a transaction on a separate fiber, with a time limit for its two ends: from the start to the first step of `body`, which
 * waits for a connection, and from the last step of `body`, which commits or rolls back. `body` itself has no limit.
 *
 * After a late end the transaction may have been committed. An interruption of the caller interrupts the transaction and waits
 * for its rollback, up to the limit.
 */
export const limitedEnds = <A, E, R, E2, R2, E3>(
  body: Effect.Effect<A, E, R>,
  wrap: (body: Effect.Effect<A, E, R>) => Effect.Effect<A, E2, R2>,
  millis: number,
  late: (step: Step) => E3
): Effect.Effect<A, E2 | E3, R2> =>
  Effect.flatMap(Effect.context<R2>(), (context) =>
    Effect.callback<A, E2 | E3>((resume) => {
      let running: Fiber.Fiber<A, E2> | undefined
      let rest: () => void
      const watch = (step: Step) =>
        after(millis, () => {
          resume(Effect.suspend(() => Effect.fail(late(step))))
          running?.interruptUnsafe()
        })
      rest = watch("begin")
      running = Effect.runForkWith(context)(wrap(Effect.suspend(() => {
        rest()
        return Effect.onExit(body, () =>
          Effect.sync(() => {
            rest = watch("end")
          }))
      })))
      running.addObserver((exit: Exit.Exit<A, E2>) => {
        rest()
        resume(exit)
      })
      return Effect.suspend(() => {
        const fiber = running
        if (fiber === undefined) return Effect.void
        fiber.interruptUnsafe()
        return Effect.asVoid(limited(Effect.exit(Fiber.await(fiber)), millis, () => undefined).pipe(Effect.ignore))
      })
    }))
