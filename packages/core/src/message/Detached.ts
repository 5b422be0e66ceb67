/**
 * Contexts of fibers that outlive the message or request that started them: a subscription, a listener, a background loop.
 */
import { Context, Effect, References, Tracer } from "effect"

// the references whose values belong to one message or request
const references: Array<Context.Key<never, never>> = []

const add = (reference: unknown): void => {
  // only the identity of the keys is used
  references.push(reference as Context.Key<never, never>)
}

for (
  const each of [
    Tracer.ParentSpan,
    References.CurrentLogAnnotations,
    References.CurrentLogSpans,
    References.TracerSpanAnnotations,
    References.TracerSpanLinks
  ]
) add(each)

/** Makes a `Context.Reference` whose value belongs to one message or request: `context` leaves it out. */
export const reference = <A>(key: string, options: { readonly defaultValue: () => A }): Context.Reference<A> => {
  const made: Context.Reference<A> = Context.Reference<A>(key, options)
  add(made)
  return made
}

/**
 * Makes a context for a fiber that outlives the message or request that starts it: the same services, without that message's
 * correlation, baggage, attempt, log annotations, log spans and tracing span.
 *
 * **Example** (a loop started while a request is handled)
 *
 * ```ts
 * import { Context, Effect, References } from "effect"
 * import { Detached } from "@millrace/core"
 *
 * const program = Effect.gen(function*() {
 *   const { request } = yield* References.CurrentLogAnnotations
 *   const kept = Detached.context(yield* Effect.context<never>())
 *   console.log(request, Context.get(kept, References.CurrentLogAnnotations)) // => r-1 {}
 * })
 *
 * await Effect.runPromise(Effect.annotateLogs(program, { request: "r-1" }))
 * ```
 */
export const context = <R>(self: Context.Context<R>): Context.Context<R> =>
  // references have defaults, so the services of R are still there
  Context.omit(...references)(self) as Context.Context<R>

/** Runs an effect with `context` of its fiber's context: for fibers that outlive the message or request. */
export const effect = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.updateContext(self, context<R>)
