/**
 * How the middlewares of a publish chain act on the messages of one `publishAll`: each middleware passes the whole batch to the
 * next one, so the broker gets one batch, in order, for each attempt.
 */
import { Context, Effect, Exit, Fiber } from "effect"
import * as Detached from "../message/Detached.ts"
import type { Classified } from "../message/Failure.ts"
import type { Outgoing } from "../message/Message.ts"
import * as After from "./After.ts"
import * as Descriptions from "./Description.ts"
import * as Eager from "./Eager.ts"
import type { Handler } from "./Handler.ts"
import * as Ways from "./inBatch.ts"
import type { Run, Take } from "./inBatch.ts"
import { sideBySide } from "./sideBySide.ts"

type Opaque = Handler<never, unknown, unknown, unknown>

/** The key under which a handler stores its batch form. */
const RunId = "~millrace/PublishBatch"

/** Returns the batch form of a handler; undefined if the handler does not end in a publisher. */
export const of = (handler: object): Run | undefined => (handler as { readonly [RunId]?: Run })[RunId]

/** Stores the batch form on a handler. */
export const mark = <F extends object>(handler: F, run: Run): F => Object.defineProperty(handler, RunId, { value: run })

interface Taking {
  /** The `next` that may add to the batch: a middleware may also publish through other chains in the meantime. */
  readonly of: object
  readonly take: Take
}

const Current = Detached.reference<Taking | undefined>("@millrace/core/PublishBatch", { defaultValue: () => undefined })

// while no batch is in flight, `next` of a single publish reads no service
let underWay = 0

/** Keeps a middleware's own publish through the same chain out of the batch for which the middleware is called. */
const entering = <H extends Opaque>(chain: H): H => {
  // the types were checked where the chain was composed
  const inner = chain as unknown as Handler<unknown, unknown, unknown, unknown>
  const entered: typeof inner = (message) => {
    const context = underWay === 0 ? undefined : Fiber.getCurrent()?.context
    return context === undefined || Context.get(context, Current) === undefined
      ? inner(message)
      : Eager.provide(Current, undefined, inner, message)
  }
  return entered as unknown as H
}

/** Makes the `next` of a middleware, which adds the message to the batch passing through this middleware, if there is one. */
const nextOf = (inner: Opaque): Opaque & Handler<Outgoing<unknown>, unknown, unknown, unknown> => {
  const next = (message: Outgoing<unknown>): Effect.Effect<unknown, unknown, unknown> => {
    // the types were checked where the middleware was composed
    const alone = inner as Handler<Outgoing<unknown>, unknown, unknown, unknown>
    const context = underWay === 0 ? undefined : Fiber.getCurrent()?.context
    if (context === undefined) return alone(message)
    const taking = Context.get(context, Current)
    return (taking?.of === next ? taking.take(message, context) : undefined) ?? alone(message)
  }
  return next as never
}

/** Calls the handler of a middleware with one message of a batch. */
const callOf = (next: object, handler: Opaque): Ways.Call => (entry, take) => {
  let passed: Effect.Effect<unknown, unknown, unknown> | undefined
  const taking: Taking = { of: next, take: (message, context) => passed = take(message, context) }
  const context = Context.add(entry.context, Current, taking)
  const fiber = Fiber.getCurrent()!
  const before = fiber.context
  fiber.setContext(context)
  let result: Effect.Effect<unknown, unknown, unknown>
  try {
    result = handler(entry.message as never)
  } catch (defect) {
    return Exit.die(defect)
  } finally {
    fiber.setContext(before)
  }
  // an effect that only waits for the batch needs no services
  return Eager.isDone(result) || result === passed
    ? result
    : Effect.updateContext(result, () => context as Context.Context<unknown>)
}

const formOf = (description: Descriptions.Description, call: Ways.Call, run: Run): Run => {
  if (description.inBatch === "once") return Ways.once(call, run)
  if (description.inBatch === "each") return sideBySide(call, run)
  const warned = Effect.logWarning(
    `publishAll: the middleware ${description.name} let no further message in for a second while others of its batch were inside, so its messages now pass one after the other. Set inBatch in its description: "once" where it holds something while next runs, else "each"`
  )
  const inTurn = Ways.inTurn(call, run)
  return sideBySide(call, run, (entries) => Effect.andThen(warned, inTurn(entries)))
}

/** Composes a middleware's handler, by calling `build` with its `next`, and the handler's batch form. */
export const layer = (
  inner: Opaque,
  run: Run,
  description: Descriptions.Description,
  build: (next: Opaque) => Opaque
): Opaque => {
  const next = nextOf(inner)
  const handler = build(next)
  const call = callOf(next, handler)
  return mark(handler, formOf(description, call, run))
}

/** Composes a publish chain around its innermost handler. A chain that contains a plain function acts as one middleware. */
export const chain = <N extends Opaque, C extends Opaque>(
  innermost: N,
  run: Run,
  compose: (next: N) => C
): C & Descriptions.Described => {
  const next = Descriptions.describe(mark(nextOf(innermost), run), Descriptions.of(innermost)) as unknown as N
  const composed = compose(next)
  const steps = Descriptions.of(composed)
  const form = of(composed) ??
    formOf({ name: steps[0]!.name, stage: "publish" }, callOf(next, Eager.guard(composed)), run)
  return mark(Descriptions.describe(entering(composed), steps), form)
}

/** Publishes messages as one batch, and then runs the hooks of each with the result of the batch. */
export const publish = <P, E, R, E2>(
  chain: Handler<Outgoing<P>, unknown, E, R>,
  messages: ReadonlyArray<Outgoing<P>>,
  failed: (error: Classified) => E2
): Effect.Effect<void, E | E2, R> => {
  const run = of(chain)
  if (messages.length === 0 || run === undefined) return Exit.void
  return Effect.suspend(() => {
    const all = messages.map((message) => message.fresh())
    const { context: caller } = Fiber.getCurrent()!
    const context = Context.get(caller, Current) === undefined ? caller : Context.add(caller, Current, undefined)
    underWay++
    const whole = Effect.onExitPrimitive(
      Effect.suspend(() => run(all.map((message) => ({ message, context })))),
      () => {
        underWay--
        return undefined
      }
    )
    // E and R are the types of the chain
    return After.aroundAll(all, whole as Effect.Effect<void, E, R>, failed)
  })
}
