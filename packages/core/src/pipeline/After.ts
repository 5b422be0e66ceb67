/**
 * The end of a chain: its source runs the hooks of the message once, after success, failure and interruption alike.
 */
import { type Context, Effect, Exit, Fiber } from "effect"
import type { Classified } from "../message/Failure.ts"
import type { Envelope, Hook } from "../message/Message.ts"
import type { Outcome } from "../message/Outcome.ts"
import { effectOf, guard, isDone } from "./Eager.ts"
import type { Handler } from "./Handler.ts"

const call = (
  hook: Hook,
  exit: Exit.Exit<unknown, unknown>,
  outcome: Outcome | undefined
): Effect.Effect<void, Classified> => {
  try {
    const answer = hook(exit, outcome)
    // an untyped hook may return anything; of that, only a promise is work that would not be awaited
    return Effect.isEffect(answer) || (answer as unknown) instanceof Promise
      ? effectOf(answer as Effect.Effect<void, Classified>, "A hook")
      : Exit.void
  } catch (defect) {
    return Exit.die(defect)
  }
}

/**
 * Calls every hook, the last registered first, and completes when all returned effects have. The result is the first failure;
 * a failing hook stops no other hook.
 *
 * If only one hook suspends and none fails, its own effect is returned: messages of one group commit share that effect object.
 */
export const run = (
  hooks: ReadonlyArray<Hook>,
  exit: Exit.Exit<unknown, unknown>,
  outcome: Outcome | undefined
): Effect.Effect<void, Classified> => {
  let result: Effect.Effect<void, Classified> = Exit.void
  for (let i = hooks.length - 1; i >= 0; i--) {
    const each = call(hooks[i]!, exit, outcome)
    result = following(result, each)
  }
  return result
}

/** Runs both and returns the first failure; effects that have ended need no fiber. */
const following = (
  result: Effect.Effect<void, Classified>,
  each: Effect.Effect<void, Classified>
): Effect.Effect<void, Classified> => {
  if (isDone(each) && each._tag === "Success") return result
  if (!isDone(result)) return both(result, each)
  return result._tag === "Success" ? each : isDone(each) ? result : both(result, each)
}

const both = (
  first: Effect.Effect<void, Classified>,
  second: Effect.Effect<void, Classified>
): Effect.Effect<void, Classified> =>
  Effect.flatMap(
    Effect.exit(first),
    (exit) => exit._tag === "Success" ? second : Effect.andThen(Effect.exit(second), exit)
  )

/**
 * Runs a whole chain and then its hooks, for sources without an engine: publishers, servers, clients. A failing hook fails a
 * chain that had succeeded, with the hook's error mapped by `failed`.
 *
 * A chain that suspends continues in a fiber of its own, so hooks also run if the caller is interrupted before it awaits.
 */
export const around = <
  M extends Envelope & { readonly hooks: ReadonlyArray<Hook> | undefined },
  A,
  E,
  R,
  E2 = Classified
>(
  message: M,
  chain: Handler<M, A, E, R>,
  failed?: (error: Classified) => E2
): Effect.Effect<A, E | E2, R> =>
  ending(effectOf(guard(chain)(message)), (exit): Effect.Effect<void, E2> | undefined => {
    if (message.hooks === undefined) return undefined
    const result = run(message.hooks, exit, undefined)
    // without `failed`, E2 is Classified
    return failed === undefined ? result as Effect.Effect<void, E2> : Effect.mapErrorEager(result, failed)
  })

/** Runs `whole` and then the hooks of every message, each with the common exit, as `around` does for one message. */
export const aroundAll = <A, E, R, E2>(
  messages: ReadonlyArray<{ readonly hooks: ReadonlyArray<Hook> | undefined }>,
  whole: Effect.Effect<A, E, R>,
  failed: (error: Classified) => E2
): Effect.Effect<A, E | E2, R> =>
  ending(whole, (exit) => {
    let result: Effect.Effect<void, Classified> = Exit.void
    for (const { hooks } of messages) {
      if (hooks !== undefined) result = following(result, run(hooks, exit, undefined))
    }
    return Effect.mapErrorEager(result, failed)
  })

const ending = <A, E, R, E2>(
  result: Effect.Effect<A, E, R>,
  hooks: (exit: Exit.Exit<A, E>) => Effect.Effect<void, E2> | undefined
): Effect.Effect<A, E | E2, R> => {
  if (isDone(result)) {
    const after = hooks(result)
    return after === undefined ? result : Effect.flatMapEager(after, (): Effect.Effect<A, E> => result)
  }
  const whole = Effect.onExitPrimitive(result, hooks)
  const current = Fiber.getCurrent()
  if (current === undefined) return whole
  // the calling fiber has the services of R
  const fiber = Effect.runForkWith(current.context as Context.Context<R>)(whole)
  return fiber.pollUnsafe() ?? Effect.onInterrupt(Fiber.join(fiber), () => Fiber.interrupt(fiber))
}
