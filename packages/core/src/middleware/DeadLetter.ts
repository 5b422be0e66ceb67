/**
 * Decides which errors dead-letter a message. The engine writes the dead letter, confirmed and with its own retries, and
 * acknowledges the message after that.
 */
import { Cause, Effect, Exit } from "effect"
import { classes as allClasses, classOf, type FailureClass, retryAfterOf, tagOf } from "../message/Failure.ts"
import type { Message } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Outcome from "../message/Outcome.ts"
import type { Description } from "../pipeline/Description.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig, Handler } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { retriable } from "./Retry.ts"

/** The answer in place of a matched error: a dead letter, or a retry if the error carries `retryAfter`. */
export type Answer = Outcome.DeadLetter | Outcome.Retry

const describe = (shows: Description["shows"]): Description => ({
  name: "DeadLetter",
  stage: "consume",
  shows,
  order: [{
    outside: "Retry",
    because: "inside, a message would be given up at its first failure and never be retried"
  }]
})

const wrap =
  (takes: (error: unknown, message: Message<unknown>) => boolean) => (next: Middleware.Next<Message<unknown>>) => {
    const decide = (
      message: Message<unknown>,
      cause: Cause.Cause<Middleware.Failure>
    ): Exit.Exit<Answer, Middleware.Failure> => {
      const reason = cause.reasons.find(Cause.isFailReason)
      if (reason === undefined || Cause.hasInterrupts(cause) || !takes(reason.error, message)) {
        return Exit.failCause(cause)
      }
      const error: unknown = reason.error
      const after = retryAfterOf(error)
      return Exit.succeed(after === undefined ? Outcome.DeadLetter(error) : Outcome.Retry({ after }))
    }
    return (message: Message<unknown>): Middleware.Returns<never, never, Answer> => {
      const result = next(message)
      return Eager.isDone(result)
        ? result._tag === "Success" ? result : decide(message, result.cause)
        : Effect.catchCause(result, (cause) => decide(message, cause))
    }
  }

type Takes<Handled> = Around<Message<unknown>, FullConfig<{ handles: Handled; answers: Answer }>>

const taking = <Handled>(shows: Description["shows"], takes: (error: unknown) => boolean): Takes<Handled> =>
  // the errors that `takes` matches leave E, which the marks do not express
  Middleware.make<{ message: Message<unknown> }>()(describe(shows), wrap(takes)) as unknown as Takes<Handled>

const check = OptionCheck.make("DeadLetter")

/**
 * Dead-letters errors with one of these tags.
 *
 * In: any consumed message. Errors with the tags leave `E`, and `Outcome.DeadLetter` or `Outcome.Retry` enters `A`: an
 * error that carries `retryAfter` returns the message to its source instead, for any tag. Other errors, defects and
 * interruptions pass. Must be placed outside `Retry`.
 *
 * **Example** (a payment that was refused)
 *
 * ```ts
 * import { Data, Effect, pipe } from "effect"
 * import { DeadLetter, type Message } from "@millrace/core"
 *
 * class PaymentRefused extends Data.TaggedError("PaymentRefused")<{}> {}
 *
 * const handler = pipe(
 *   (_: Message<Uint8Array>) => Effect.fail(new PaymentRefused()),
 *   DeadLetter.tags("PaymentRefused")
 * )
 * ```
 *
 * @throws RangeError when no tag is given
 * @category constructors
 */
export const tags = <const T extends ReadonlyArray<string>>(...tags: T): Takes<{ readonly _tag: T[number] }> => {
  if (tags.length === 0) throw new RangeError("DeadLetter: tags must be at least one, got none")
  const set = new Set<string>(tags)
  return taking({ tags }, (error) => set.has(tagOf(error)))
}

/**
 * Dead-letters errors of one of these classes, overriding the subscription's `settle` table.
 *
 * In: any consumed message. Errors of the classes leave `E`; all else as in `tags`.
 *
 * **Example** (errors that the sender caused)
 *
 * ```ts
 * import { DeadLetter } from "@millrace/core"
 *
 * const rejected = DeadLetter.classes("validation", "auth")
 * ```
 *
 * @throws RangeError when no class is given, or one that does not exist
 * @category constructors
 */
export const classes = <const T extends ReadonlyArray<FailureClass>>(
  ...classes: T
): Takes<{ readonly failure: T[number] }> => {
  if (classes.length === 0) throw new RangeError("DeadLetter: classes must be at least one, got none")
  const set = new Set<FailureClass | undefined>(classes)
  for (const each of classes) check.oneOf("each of classes", each, allClasses)
  return taking({ classes }, (error) => set.has(classOf(error)))
}

/**
 * Dead-letters errors that a type guard accepts, which then leave `E`; for `pipe` only, since a stack does not know `E`.
 * All else as in `tags`.
 *
 * **Example** (a field decides)
 *
 * ```ts
 * import { Data, Effect, pipe } from "effect"
 * import { DeadLetter, type Message } from "@millrace/core"
 *
 * class Refused extends Data.TaggedError("Refused")<{ readonly status: number }> {}
 * class Closed extends Data.TaggedError("Closed")<{}> {}
 *
 * const handler = pipe(
 *   (_: Message<Uint8Array>): Effect.Effect<number, Refused | Closed> => Effect.fail(new Refused({ status: 410 })),
 *   DeadLetter.when((error) => error._tag === "Refused")
 * )
 * ```
 *
 * @category constructors
 */
export const when = <E, D extends E>(
  guard: (error: E) => error is D
): <M extends Message<unknown>, A, R>(next: Handler<M, A, E, R>) => Handler<M, A | Answer, Exclude<E, D>, R> => {
  // the handler's errors are E
  const built: unknown = taking({ when: guard.name || undefined }, guard as (error: unknown) => boolean)
  return built as <M extends Message<unknown>, A, R>(
    next: Handler<M, A, E, R>
  ) => Handler<M, A | Answer, Exclude<E, D>, R>
}

/**
 * Dead-letters retriable errors once the message has been delivered `attempts` times: errors without a class, and those
 * that `Retry.retriable` accepts. Errors that carry `retryAfter` pass, and so do errors that are not retried.
 *
 * `E` stays as it is, since the attempt decides; `Outcome.DeadLetter` enters `A`.
 *
 * **Example** (three deliveries)
 *
 * ```ts
 * import { DeadLetter, Stack } from "@millrace/core"
 *
 * const stack = Stack.start().use(DeadLetter.afterAttempts(3))
 * ```
 *
 * @throws RangeError when `attempts` is not an integer from 1
 * @category constructors
 */
export const afterAttempts = (
  attempts: number
): Around<Message<unknown>, FullConfig<{ answers: Outcome.DeadLetter }>> => {
  check.count("attempts", attempts)
  const built: unknown = Middleware.make<{ message: Message<unknown> }>()(
    describe({ attempts }),
    wrap((error, message) => message.attempt >= attempts && retriable(error) && retryAfterOf(error) === undefined)
  )
  // an error with retryAfter is not taken, so a retry is never answered
  return built as Around<Message<unknown>, FullConfig<{ answers: Outcome.DeadLetter }>>
}
