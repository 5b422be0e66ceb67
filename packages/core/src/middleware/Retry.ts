/**
 * Retry in place: the message keeps its lane while it waits, so order is kept and the messages behind it wait too.
 * Retries that should not hold a lane belong to the subscription (`settle`, `backoff`).
 */
import { Cause, Clock, type Context, Duration, Effect, Exit, Pull, Schedule } from "effect"
import * as Detached from "../message/Detached.ts"
import { classes, classOf, type FailureClass, retryAfterOf, tagOf } from "../message/Failure.ts"
import { type Envelope, Message } from "../message/Message.ts"
import type { Description } from "../pipeline/Description.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { FullConfig, Handler, OnError } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { check, exponential } from "./retry/schedule.ts"
import { tellRetry } from "./retry/telemetry.ts"

export { type Exponential, exponential } from "./retry/schedule.ts"

/** The number of the attempt in place, from 1, for handlers inside a `Retry`. */
export const Attempt: Context.Reference<number> = Detached.reference("@millrace/core/Retry/Attempt", {
  defaultValue: () => 1
})

/** Selects the retried errors by tag or class; either match suffices. */
export interface Filter {
  readonly tags?: ReadonlyArray<string> | undefined
  readonly classes?: ReadonlyArray<FailureClass> | undefined
}

/** Options of `when`. */
export interface Common<E = never, R = never> {
  /** The waits between attempts; any Effect schedule. Default: `exponential()`. */
  readonly schedule?: Schedule.Schedule<unknown, unknown, E, R> | undefined
  /** The most retries, regardless of the schedule; an integer from 1. Default: the limit of `schedule`, or 3 without one. */
  readonly times?: number | undefined
  /**
   * The longest time of all attempts together. A retry does not start if it would end later, assuming that it takes as
   * long as the attempt before it. From 0; Infinity sets no limit. Default: Infinity.
   */
  readonly maximumElapsed?: Duration.Input | undefined
  /** Whether a defect is retried like an error (`retry`) or fails at once (`pass`, the default). */
  readonly defects?: "pass" | "retry" | undefined
}

/** Options of `middleware`. */
export interface Options<E = never, R = never> extends Common<E, R> {
  /** The errors that are retried. Default: `retriable`. */
  readonly while?: Filter | undefined
}

const lost: ReadonlySet<FailureClass> = new Set<FailureClass>(["permanent", "auth", "validation", "poison", "defect"])

/**
 * Whether a retry may succeed: the error's class is `transient`, `timeout`, `dependency`, `conflict` or `throttled`, or
 * the error has no class.
 */
export const retriable = (error: unknown): boolean => {
  const found = classOf(error)
  return found === undefined || !lost.has(found)
}

/** The longest `retryAfter` that is waited for in place without a `maximumElapsed` or a `holdLimit`, in milliseconds. */
const longestRetryAfter = 30_000

interface Policy<E, R> {
  readonly schedule: Schedule.Schedule<unknown, unknown, E, R>
  readonly times: number
  readonly maximumElapsed: number
  readonly retries: (reason: Cause.Reason<unknown>) => boolean
}

/** The reason that decides a retry: the first error, else the first defect; none after an interruption. */
const reasonOf = (cause: Cause.Cause<unknown>): Cause.Reason<unknown> | undefined =>
  Cause.hasInterrupts(cause) ? undefined : cause.reasons.find(Cause.isFailReason) ?? cause.reasons[0]

/** The error or the defect of a reason. */
const thrownBy = (reason: Cause.Reason<unknown>): unknown =>
  Cause.isFailReason(reason) ? reason.error : Cause.isDieReason(reason) ? reason.defect : undefined

/** The filter does not apply to a request that must not be sent twice (RFC 9110, 9.2.2). */
const mayRetry = <E, R>(policy: Policy<E, R>, message: Envelope, reason: Cause.Reason<unknown>): boolean =>
  message.isUnrepeatable !== true && policy.retries(reason)

type Opaque<E, R> = Handler<Envelope, Middleware.Result, Middleware.Failure | E, Middleware.Services | R>

/** Handles all that follows the first failure; built only then. */
const again = <E, R>(
  policy: Policy<E, R>,
  next: Opaque<never, never>,
  message: Envelope,
  first: Cause.Cause<Middleware.Failure>,
  began: number | undefined
): Middleware.Returns<E, R> =>
  Effect.flatMap(
    Effect.zip(Schedule.toStep(policy.schedule), Clock.Clock),
    ([step, clock]): Middleware.Returns<E, R> => {
      // an attempt that did not suspend took negligible time
      const start = began ?? clock.currentTimeMillisUnsafe()
      const limit = Math.min(
        policy.maximumElapsed,
        message instanceof Message ? message.delivery.origin.holdLimit : Infinity
      )
      const failed = (
        cause: Cause.Cause<Middleware.Failure>,
        attempt: number,
        at: number
      ): Middleware.Returns<E, R> => {
        const last = Effect.failCause(cause)
        const reason = reasonOf(cause)
        if (attempt > policy.times || reason === undefined || !mayRetry(policy, message, reason)) return last
        const now = clock.currentTimeMillisUnsafe()
        const error = Cause.isFailReason(reason) ? reason.error : undefined
        const asked = retryAfterOf(error)
        const after = asked === undefined ? 0 : Duration.toMillis(asked)
        if (after > (limit === Infinity ? longestRetryAfter : limit)) return last
        return Pull.matchEffect(step(now, error), {
          onDone: () => last,
          onFailure: (cause) => Effect.failCause(cause),
          onSuccess: ([, own]) => {
            const delay = Math.max(after, Duration.toMillis(own))
            // the next attempt may take as long as this one did, and must end before the limit too
            if (now + delay + (now - at) - start > limit) return last
            const wait = Effect.withFiber((fiber) => {
              tellRetry(fiber, message, { attempt: attempt + 1, error: thrownBy(reason), delay })
              return Effect.sleep(delay)
            })
            return Effect.flatMap(wait, () => {
              const from = clock.currentTimeMillisUnsafe()
              return Effect.catchCause(
                Eager.provide(Attempt, attempt + 1, next, message),
                (cause) => failed(cause, attempt + 1, from)
              )
            })
          }
        })
      }
      return failed(first, 1, start)
    }
  )

const wrap = <E, R>(policy: Policy<E, R>) => (next: Opaque<never, never>) => {
  const retry = (message: Envelope, cause: Cause.Cause<Middleware.Failure>, began: number | undefined) => {
    const reason = reasonOf(cause)
    return reason === undefined || !mayRetry(policy, message, reason)
      ? Exit.failCause(cause)
      : again(policy, next, message, cause, began)
  }
  return (message: Envelope): Middleware.Returns<E, R> => {
    const result = next(message)
    if (Eager.isDone(result)) return result._tag === "Success" ? result : retry(message, result.cause, undefined)
    return Effect.flatMapEager(Eager.service(Clock.Clock), (clock) => {
      const began = clock.currentTimeMillisUnsafe()
      return Effect.catchCause(result, (cause) => retry(message, cause, began))
    })
  }
}

const policyOf = <E, R>(
  options: Common<E, R>,
  retries: (error: unknown) => boolean
): Policy<E, R> => ({
  schedule: options.schedule ?? exponential({ times: options.times }),
  times: options.times === undefined ? Infinity : check.count("times", options.times),
  maximumElapsed: check.millis("maximumElapsed", options.maximumElapsed ?? Infinity, { least: 0, infinite: true }),
  retries: check.oneOf("defects", options.defects ?? "pass", ["pass", "retry"]) === "retry"
    ? (reason) => !Cause.isFailReason(reason) || retries(reason.error)
    : (reason) => Cause.isFailReason(reason) && retries(reason.error)
})

const describe = <E, R>(policy: Policy<E, R>, options: Common<E, R>, filter: Filter): Description => ({
  name: "Retry",
  stage: "consume",
  inBatch: "once",
  shows: {
    times: options.times ?? (options.schedule === undefined ? 3 : undefined),
    tags: filter.tags,
    classes: filter.classes,
    maximumElapsed: policy.maximumElapsed === Infinity
      ? undefined
      : Duration.format(Duration.millis(policy.maximumElapsed))
  }
})

const filterOf = (filter: Filter): (error: unknown) => boolean => {
  const tags = new Set(filter.tags)
  const named = new Set(filter.classes)
  for (const each of named) check.oneOf("each of while.classes", each, classes)
  return (error) => {
    const found = classOf(error)
    return tags.has(tagOf(error)) || (found !== undefined && named.has(found))
  }
}

type NothingToRetry =
  "Retry: this handler cannot fail, so there is nothing to retry. Put Retry outside what fails and inside DeadLetter."

/**
 * Runs the handler again when it fails, in place, and fails with its last error when no retry is left.
 *
 * In and out: any message, unchanged. `E` stays as it is, and only a custom schedule adds to `E` and `R`. Around a
 * handler that cannot fail it does not compile. These failures pass at once, and are settled by their class or by the
 * subscription:
 *
 * - an interruption, and a defect unless `defects` is `retry`
 * - an error that `while` does not match (by default: permanent, auth, validation, poison, defect)
 * - any error of a client's request that was sent and must not be sent twice, even if `while` matches it
 * - an error whose `retryAfter` is longer than `maximumElapsed` and the broker's `holdLimit` allow (30 seconds without
 *   both): the message returns to its source. A shorter one is waited for, unless the schedule's own wait is longer
 * - an error whose next attempt would not end before `maximumElapsed`, or before `holdLimit`, when the broker redelivers
 *
 * Default: 3 retries after 1, 2 and 4 seconds, ± 20 %. A success costs nothing: the schedule starts with the first
 * failure. The handler reads the number of its attempt from `Retry.Attempt`. Each retry is counted on `millrace.retries`
 * of Effect's `Metric` registry, by channel and `error.type`, and is an event `millrace.retry` of the current span.
 *
 * **Example** (two kinds of errors, five retries)
 *
 * ```ts
 * import { Data, Effect, pipe } from "effect"
 * import { type Message, Retry } from "@millrace/core"
 *
 * class Busy extends Data.TaggedError("Busy")<{}> {}
 * const place = (_: Message<Uint8Array>): Effect.Effect<number, Busy> => Effect.fail(new Busy())
 *
 * const handler = pipe(
 *   place,
 *   Retry.middleware({
 *     schedule: Retry.exponential({ times: 5, base: "100 millis", cap: "5 seconds" }),
 *     while: { tags: ["Busy"], classes: ["dependency"] }
 *   })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware = <E = never, R = never>(
  options: Options<E, R> = {}
): OnError<Envelope, NothingToRetry, FullConfig<{ fails: E; requires: R }>> => {
  const policy = policyOf(options, options.while === undefined ? retriable : filterOf(options.while))
  const built = Middleware.onError<NothingToRetry>()(describe(policy, options, options.while ?? {}), wrap(policy))
  // the marks cannot express an E or R that is not known yet
  return built as unknown as OnError<Envelope, NothingToRetry, FullConfig<{ fails: E; requires: R }>>
}

/**
 * As `middleware`, with a function that selects the retried errors; for `pipe` only, since a stack does not know `E`.
 *
 * **Example** (a field decides)
 *
 * ```ts
 * import { Data, Effect, pipe } from "effect"
 * import { type Message, Retry } from "@millrace/core"
 *
 * class Refused extends Data.TaggedError("Refused")<{ readonly status: number }> {}
 *
 * const handler = pipe(
 *   (_: Message<Uint8Array>): Effect.Effect<number, Refused> => Effect.fail(new Refused({ status: 503 })),
 *   Retry.when((error) => error.status >= 500, { times: 2 })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const when = <F, E = never, R = never>(
  retries: (error: F) => boolean,
  options: Common<E, R> = {}
): <M extends Envelope, A, R2>(next: Handler<M, A, F, R2>) => Handler<M, A, F | E, R | R2> => {
  // the handler's errors are F
  const policy = policyOf(options, retries as (error: unknown) => boolean)
  const built: unknown = Middleware.make()(describe(policy, options, {}), wrap(policy))
  return built as <M extends Envelope, A, R2>(next: Handler<M, A, F, R2>) => Handler<M, A, F | E, R | R2>
}
