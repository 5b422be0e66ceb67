/**
 * Guards foreign code that the engine calls: drivers, rules of subscriptions, loggers. A throw becomes a defect of the effect,
 * and a log line that cannot be written is dropped.
 */
import { Cause, type Context, Effect, Exit, type Fiber } from "effect"
import { effectOf, isDone } from "../../pipeline/Eager.ts"
import * as Lost from "../../telemetry/Lost.ts"

/** Calls a function of a driver; a throw, or an answer that is not an Effect, becomes a defect. */
export const called = <A, E, R>(call: () => Effect.Effect<A, E, R>): Effect.Effect<A, E, R> => {
  try {
    return effectOf(call(), "A function of the driver")
  } catch (defect) {
    return Exit.die(defect)
  }
}

/** Writes log lines in a fiber of their own; a logger that throws loses only its line. */
export const log = (context: Context.Context<never>, line: Effect.Effect<void>): void => {
  Effect.runForkWith(context)(logged(line))
}

/** Writes a log line as a part of an effect; a logger that throws loses only its line. */
export const logged = (line: Effect.Effect<void>): Effect.Effect<void> => Lost.quietly("A logger", line)

/** Tells whether an effect failed for another reason than an interruption. */
export const isFault = (exit: Exit.Exit<unknown, unknown>): exit is Exit.Failure<unknown, unknown> =>
  exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)

/** Forks an effect; `ended` receives its exit, also if the effect is already done. */
export const fork = <A, E, R>(
  context: Context.Context<R>,
  effect: Effect.Effect<A, E, R>,
  ended: (exit: Exit.Exit<A, E>) => void
): Fiber.Fiber<A, E> | undefined => {
  if (isDone(effect)) {
    ended(effect)
    return undefined
  }
  const fiber = Effect.runForkWith(context)(effect)
  fiber.addObserver(ended)
  return fiber
}
