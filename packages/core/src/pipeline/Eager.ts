/**
 * Helpers for fast middlewares, beside Effect's own `*Eager` operators. Handlers are called on a fiber: a handler that
 * finishes during the call returns an Exit, which costs no fiber step.
 *
 * These functions act when they are called, and the returned effect may already have happened: call them for each message,
 * and never keep or run a returned effect twice.
 */
import { Context, Effect, Exit, Fiber } from "effect"
import type { Envelope } from "../message/Message.ts"
import type { Handler } from "./Handler.ts"
import { isDone } from "../message/isDone.ts"
import * as Lost from "../telemetry/Lost.ts"

export { isDone } from "../message/isDone.ts"

// the key with which Effect marks an Effect
const EffectTypeId = "~effect/Effect"

const nameOf = (answer: unknown): string =>
  answer === null ? "null" : typeof answer === "object" ? "an object" : typeof answer === "function" ? "a function" : (
    answer === undefined ? "undefined" : `a ${typeof answer}`
  )

/** Makes the defect for code that returned `answer` instead of an Effect. */
const noEffect = (what: string, answer: unknown): Exit.Exit<never> => {
  if (!(answer instanceof Promise)) {
    return Exit.die(new TypeError(`${what} returned ${nameOf(answer)} instead of an Effect`))
  }
  // the rejected promise has no other observer, and would end the process
  answer.catch(() => undefined)
  return Exit.die(
    new TypeError(`${what} returned a Promise instead of an Effect: call it inside Effect.tryPromise`)
  )
}

/** Returns the answer of a call if it is an Effect; any other value from untyped code becomes a defect that names it. */
export const effectOf = <A, E, R>(answer: Effect.Effect<A, E, R>, what = "The handler"): Effect.Effect<A, E, R> => {
  const given: unknown = answer
  try {
    return ((typeof given === "object" && given !== null) || typeof given === "function") && EffectTypeId in given
      ? answer
      : noEffect(what, given)
  } catch (defect) {
    return Exit.die(defect)
  }
}

/**
 * Turns a synchronous throw of user code into a defect, so that the middlewares outside still run. The answer is not checked
 * here: `run` checks the handler's answer, and the caller of the whole chain checks a middleware's answer. A check here would
 * cost a fifth of the time of an otherwise empty stack.
 */
export const guard = <M, A, E, R>(handler: Handler<M, A, E, R>): Handler<M, A, E, R> => (message) => {
  try {
    return handler(message)
  } catch (defect) {
    return Exit.die(defect)
  }
}

/**
 * Runs the rest of the chain, then `after` exactly once, after success, failure or interruption. If `after` throws, the error
 * is dropped and reported once on standard error; the result of the message does not change.
 *
 * The chain runs during this call, so the result may already be a value: call it for each message, never keep it in a const.
 *
 * A finalizer attached only to the returned effect is lost if the fiber is interrupted between the call and the first step of
 * that effect; the hook on the message covers that case.
 */
export const around = <M extends Envelope, A, E, R>(
  message: M,
  next: Handler<M, A, E, R>,
  after: (exit: Exit.Exit<A, E>) => void
): Effect.Effect<A, E, R> => {
  const result = next(message)
  if (!isDone(result)) return suspended(message, result, after)
  tell(after, result)
  return result
}

const tell = <A, E>(after: (exit: Exit.Exit<A, E>) => void, exit: Exit.Exit<A, E>): void => {
  try {
    after(exit)
  } catch (defect) {
    Lost.tell("Eager.around", defect)
  }
}

// separate from `around`, so that calls which finish at once do not pay for these closures
const suspended = <M extends Envelope, A, E, R>(
  message: M,
  result: Effect.Effect<A, E, R>,
  after: (exit: Exit.Exit<A, E>) => void
): Effect.Effect<A, E, R> => {
  let pending = true
  const once = (exit: Exit.Exit<A, E>): undefined => {
    if (!pending) return
    pending = false
    tell(after, exit)
  }
  message.after(() => once(Exit.interrupt()))
  return Effect.onExitPrimitive(result, once)
}

/**
 * Reads a service: immediately if a fiber is running, which is always so inside an engine, a publisher or a server.
 *
 * The result may already be a value: call this for each message, never keep it in a const.
 *
 * **Example** (the answer is the service that the fiber had at the call)
 *
 * ```ts
 * import { Context, Effect } from "effect"
 * import { Eager } from "@millrace/core"
 *
 * class Tenant extends Context.Service<Tenant, string>()("Tenant") {}
 *
 * const program = Effect.gen(function*() {
 *   const kept = Eager.service(Tenant)
 *   const later = Effect.suspend(() => Eager.service(Tenant))
 *   console.log(yield* Effect.provideService(kept, Tenant, "b")) // => a
 *   console.log(yield* Effect.provideService(later, Tenant, "b")) // => b
 * })
 *
 * await Effect.runPromise(Effect.provideService(program, Tenant, "a"))
 * ```
 */
export const service = <I, S>(key: Context.Key<I, S>): Effect.Effect<S, never, I> => {
  const fiber = Fiber.getCurrent()
  // the fiber's context holds every service of R; Effect checks that where the handler is run
  return fiber === undefined
    ? Effect.service(key)
    : Exit.succeed(Context.getUnsafe(fiber.context, key as Context.Key<never, S>))
}

/**
 * Runs the rest of the chain with one more service, during this call, so the result may already be a value. Call it for each
 * message, never keep it in a const.
 */
export const provide = <I, S, M, A, E, R>(
  key: Context.Key<I, S>,
  value: S,
  next: Handler<M, A, E, R>,
  message: M
): Effect.Effect<A, E, Exclude<R, I>> => {
  const fiber = Fiber.getCurrent()
  if (fiber === undefined) return Effect.provideService(Effect.suspend(() => next(message)), key, value)
  const before = fiber.context
  fiber.setContext(Context.add(before, key, value) as Context.Context<never>)
  let result: Effect.Effect<A, E, R>
  try {
    result = next(message)
  } finally {
    fiber.setContext(before)
  }
  return isDone(result) ? result : Effect.provideService(result, key, value)
}

/** After this many suspended calls in a row, only one call in 64 is run ahead, because running ahead costs a fiber. */
const patience = 16

/**
 * Runs user code immediately, on a fiber of its own, and uses its Exit if the code has finished: a generator that never
 * suspends then costs no step of the middlewares outside it. Interrupting the chain interrupts that fiber.
 *
 * A handler that keeps suspending runs on the fiber of the chain.
 */
export const run = <M, A, E, R>(handler: Handler<M, A, E, R>): Handler<M, A, E, R> => {
  let suspended = 0
  let calls = 0
  return (message) => {
    let effect: Effect.Effect<A, E, R>
    try {
      const answer = handler(message)
      // an Exit is an Effect, and most answers are one
      if (typeof answer === "object" && answer !== null && isDone(answer)) return answer
      effect = effectOf(answer)
    } catch (defect) {
      return Exit.die(defect)
    }
    if (isDone(effect) || (suspended >= patience && (++calls & 63) !== 0)) return effect
    const current = Fiber.getCurrent()
    if (current === undefined) return effect
    const fiber = Effect.runForkWith(current.context as Context.Context<R>)(effect)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) {
      suspended = 0
      return exit
    }
    suspended++
    // if the chain is interrupted before its first step, only this hook can interrupt the fiber
    const envelope = message as Envelope
    envelope.after(() => fiber.pollUnsafe() === undefined ? Fiber.interrupt(fiber) : undefined)
    return Effect.onInterrupt(Fiber.join(fiber), () => Fiber.interrupt(fiber))
  }
}

/**
 * Runs a handler with the services of a context. A service of the calling fiber overrides the same service of the context.
 *
 * The merged context is cached for each context of a calling fiber: messages of an engine share few contexts.
 */
export const provideContext = <M, A, E, R, R0>(
  handler: Handler<M, A, E, R>,
  context: Context.Context<R0>
): Handler<M, A, E, Exclude<R, R0>> => {
  const kept = new WeakMap<Context.Context<never>, Context.Context<never>>()
  const mergedWith = (before: Context.Context<never>): Context.Context<never> => {
    const known = kept.get(before)
    if (known !== undefined) return known
    const made = Context.merge(context, before) as Context.Context<never>
    kept.set(before, made)
    return made
  }
  let seen: Context.Context<never> | undefined
  let merged: Context.Context<never> | undefined
  return (message) => {
    const fiber = Fiber.getCurrent()
    if (fiber === undefined) return Effect.provideContext(Effect.suspend(() => handler(message)), context)
    const before = fiber.context
    if (seen !== before || merged === undefined) {
      seen = before
      merged = mergedWith(before)
    }
    const own = merged
    fiber.setContext(own)
    let result: Effect.Effect<A, E, R>
    try {
      result = handler(message)
    } finally {
      fiber.setContext(before)
    }
    return isDone(result)
      ? result
      : Effect.provideContext(result, own as Context.Context<unknown> as Context.Context<R0>)
  }
}
