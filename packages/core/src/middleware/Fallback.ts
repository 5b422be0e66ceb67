/**
 * Answers with a fallback handler when the handler fails.
 */
import { Cause, Effect, type Exit, Metric } from "effect"
import { classes as allClasses, classOf, type FailureClass, tagOf } from "../message/Failure.ts"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import { labelOf } from "../telemetry/Conventions.ts"
import type { Description } from "../pipeline/Description.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Handler } from "../pipeline/Handler.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** The header that gives the handler of a fallback the reason of its call: the tag of the error. */
export const header = "millrace-fallback"

/** Counts degraded answers, by `error.type` and `messaging.destination.name`, or `messaging.destination.template`. */
export const degraded = Metric.counter("millrace.fallbacks", {
  description: "Messages answered by a fallback.",
  incremental: true
})

type Opaque = Handler<Envelope, unknown, unknown, unknown>

/** The first error of a cause, if `takes` accepts it; never an interruption or a defect. */
const taken = (
  cause: Cause.Cause<unknown>,
  takes: (error: unknown) => boolean
): { readonly error: unknown } | undefined => {
  const reason = Cause.hasInterrupts(cause) ? undefined : cause.reasons.find(Cause.isFailReason)
  return reason !== undefined && takes(reason.error) ? reason : undefined
}

const build = (
  shows: Description["shows"],
  takes: (error: unknown) => boolean,
  fallback: (message: Envelope, error: unknown) => Effect.Effect<unknown, unknown, unknown>
) => {
  const instead = (message: Envelope, cause: Cause.Cause<unknown>): Effect.Effect<unknown, unknown, unknown> => {
    const found = taken(cause, takes)
    if (found === undefined) return Effect.failCause(cause)
    const tag = tagOf(found.error)
    const told = Metric.update(
      Metric.withAttributes(degraded, { ...labelOf(message), "error.type": tag }),
      1
    )
    return Effect.andThen(
      Effect.andThen(told, Lost.quietly("A span", Effect.annotateCurrentSpan("millrace.fallback", tag))),
      Effect.suspend(() => fallback(message.withHeader(header, tag), found.error))
    )
  }
  const wrap = (next: Opaque): Opaque => (message) => {
    const result = next(message)
    return Eager.isDone(result)
      ? result._tag === "Success" ? result : instead(message, (result as Exit.Failure<unknown, unknown>).cause)
      : Effect.catchCause(result, (cause) => instead(message, cause))
  }
  // the overloads below type the handler and its fallback
  const made: unknown = Middleware.make()(
    { name: "Fallback", stage: "consume", inBatch: "each", shows },
    wrap as never
  )
  return made as never
}

/**
 * Answers with another handler when this one fails with an error of one of these tags, which then leave `E`.
 *
 * In: any message. The fallback gets the same message with the tag of the error in the header `millrace-fallback`, and
 * the error; its answers, errors and requirements join those of the handler. Other errors, defects and interruptions
 * pass.
 *
 * A degraded answer is never hidden: it is counted as `millrace.fallbacks` by channel and error, the span carries
 * `millrace.fallback`, and the fallback's own publishes may pass its header on.
 *
 * Place it outside `Retry`, `CircuitBreaker` and `Bulkhead`, whose refusals it can answer. For `pipe` only, since a stack
 * does not know `E`; a stack takes the result of `pipe` as its handler.
 *
 * **Example** (the price of yesterday)
 *
 * ```ts
 * import { Data, Effect, pipe } from "effect"
 * import { Fallback, type Message } from "@millrace/core"
 *
 * class Unreachable extends Data.TaggedError("Unreachable")<{ readonly host: string }> {}
 *
 * const price = pipe(
 *   (_: Message<Uint8Array>): Effect.Effect<number, Unreachable> => Effect.fail(new Unreachable({ host: "prices" })),
 *   Fallback.tags(["Unreachable"], (_message, error) => Effect.succeed(error.host.length))
 * )
 * ```
 *
 * @throws RangeError when no tag is given
 * @category constructors
 */
export const tags = <M extends Envelope, E, const T extends ReadonlyArray<TagOf<E>>, A2, E2 = never, R2 = never>(
  tags: T,
  fallback: (message: M, error: ByTag<E, T[number]>) => Effect.Effect<A2, E2, R2>
): <A, R>(
  next: Handler<M, A, E, R>
) => Handler<M, A | A2, WithoutTags<E, T[number]> | E2, R | R2> => {
  if (tags.length === 0) throw new RangeError("Fallback: tags must be at least one, got none")
  const set = new Set<string>(tags)
  return build({ tags }, (error) => set.has(tagOf(error)), fallback as never)
}

/** The tags of errors. */
export type TagOf<E> = E extends { readonly _tag: infer Tag extends string } ? Tag : never

/** The errors that may have one of the tags. */
type ByTag<E, Tag> = E extends { readonly _tag: infer Own } ? [Own & Tag] extends [never] ? never : E : never

/** The errors that may have another tag than these, or none. */
type WithoutTags<E, Tag> = E extends { readonly _tag: infer Own } ? [Own] extends [Tag] ? never : E : E

/** The errors that may be of one of the classes, including those whose class is decided at run time. */
type ByClass<E, Class> = E extends { readonly failure: infer Own } ? [Own & Class] extends [never] ? never : E : never

/** The errors that may be of another class than these, or of none. */
type WithoutClasses<E, Class> = E extends { readonly failure: infer Own } ? [Own] extends [Class] ? never : E : E

/**
 * As `tags`, for errors of some classes, with any tag.
 *
 * An error whose class is decided at run time, such as a `BrokerError`, may reach the fallback, and stays in `E` since it
 * may be of another class.
 *
 * **Example** (nothing, where the dependency is down, its circuit is open or it takes too long)
 *
 * ```ts
 * import { Data, Effect, pipe } from "effect"
 * import { Fallback, type Message, Timeout } from "@millrace/core"
 *
 * class Down extends Data.TaggedError("Down")<{}> {
 *   readonly failure = "dependency"
 * }
 *
 * const suggestions = pipe(
 *   (_: Message<Uint8Array>): Effect.Effect<ReadonlyArray<string>, Down> => Effect.fail(new Down()),
 *   Timeout.middleware({ after: "1 second" }),
 *   Fallback.classes(["dependency", "timeout"], () => Effect.succeed([]))
 * )
 * ```
 *
 * @throws RangeError when no class is given, or one that does not exist
 * @category constructors
 */
export const classes = <M extends Envelope, E, const C extends ReadonlyArray<FailureClass>, A2, E2 = never, R2 = never>(
  classes: C,
  fallback: (message: M, error: ByClass<E, C[number]>) => Effect.Effect<A2, E2, R2>
): <A, R>(
  next: Handler<M, A, E, R>
) => Handler<M, A | A2, WithoutClasses<E, C[number]> | E2, R | R2> => {
  if (classes.length === 0) throw new RangeError("Fallback: classes must be at least one, got none")
  const set = new Set<FailureClass | undefined>(classes)
  for (const each of classes) OptionCheck.make("Fallback").oneOf("each of classes", each, allClasses)
  return build({ classes }, (error) => set.has(classOf(error)), fallback as never)
}
