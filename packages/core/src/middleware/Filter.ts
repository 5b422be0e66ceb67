/**
 * Selects the messages that a handler sees; all other messages are skipped without an error.
 */
import { Effect } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as Outcome from "../message/Outcome.ts"
import type { Fixed, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** Options of `middleware`. */
export interface Options<out O extends Outcome.Outcome = Outcome.Outcome> {
  /** The outcome of a filtered message. Default: `Outcome.Ack`, which skips it. */
  readonly onFiltered?: O | undefined
}

/** The defaults of `middleware`. */
export const defaults: { readonly onFiltered: Outcome.Ack } = { onFiltered: Outcome.Ack }

/**
 * Passes on the messages that the predicate accepts, and answers an outcome for all others.
 *
 * Types: any message in, the same message on; the predicate's parameter fixes the message (after `Decode` its payload is
 * typed); the outcome enters A, the requirements of the predicate enter R. A predicate cannot fail: an effect that could
 * does not compile.
 *
 * Errors: none of its own. A predicate that throws or dies is a defect, and the message is settled as such. Place
 * middlewares that count received messages outside, where they see the filtered ones too.
 *
 * **Example** (only large orders, others dropped with a reason)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Filter, type Message, Outcome } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<{ readonly amount: number }>) => Effect.succeed(message.payload.amount),
 *   Filter.middleware((message) => message.payload.amount >= 100, { onFiltered: Outcome.Reject("too small") })
 * )
 * ```
 *
 * @category constructors
 */
export const middleware = <M extends Envelope, R = never, O extends Outcome.Outcome = Outcome.Ack>(
  predicate: (message: M) => boolean | Effect.Effect<boolean, never, R>,
  options: Options<O> = {}
): Fixed<M, FullConfig<{ requires: R; answers: O }>> => {
  // without the option, O is the type of the default
  const onFiltered = options.onFiltered ?? (defaults.onFiltered as O)
  const filtered = Effect.succeed(onFiltered)
  return Middleware.make<{ message: M }>()(
    { name: "Filter", stage: "filter", shows: { onFiltered: onFiltered._tag } },
    (next) => {
      type Answer = Middleware.Returns<never, R, O>
      const settle = (message: M, passes: boolean): Answer => passes ? next(message) : filtered
      return (message): Answer => {
        const answer = predicate(message)
        return typeof answer === "boolean"
          ? settle(message, answer)
          : Effect.flatMapEager(answer, (passes) => settle(message, passes))
      }
    }
  )
}
