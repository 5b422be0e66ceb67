/**
 * Limits the time of a handler.
 */
import { Data, Duration, Effect } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** Options of `middleware`. */
export interface Options {
  /** The longest time of the inner chain; above 0. Default: 30 seconds. */
  readonly after?: Duration.Input | undefined
}

/** The defaults of `middleware`. */
export const defaults: { readonly after: Duration.Duration } = { after: Duration.seconds(30) }

/**
 * The handler took too long and was interrupted. Class `timeout`, so the message is retried; class `permanent` for a
 * client's request that was sent and must not be sent twice (a POST without `Idempotency-Key`), so neither `Retry` nor
 * the broker repeats it.
 */
export class TimeoutExceeded extends Data.TaggedError("TimeoutExceeded")<{
  readonly channel: string
  readonly after: Duration.Duration
  /** Whether the timeout hit a sent request that must not be sent twice. Default: false. */
  readonly isUnrepeatable?: boolean | undefined
}> {
  get failure(): "timeout" | "permanent" {
    return this.isUnrepeatable === true ? "permanent" : "timeout"
  }
  override get message(): string {
    const why = this.isUnrepeatable === true ? ", was sent and is not sent twice" : ""
    return `A message of ${this.channel} took longer than ${Duration.format(this.after)}${why}`
  }
}

/**
 * Interrupts the inner chain when it takes longer than `after`, and fails.
 *
 * Types: any message in, the same message on; `TimeoutExceeded` enters E.
 *
 * The error is raised when the interruption is complete, so an uninterruptible region delays it. A handler that finishes
 * synchronously costs no timer; a handler that blocks the thread cannot be stopped from the same process. Inside `Retry`
 * each attempt has the time, outside it all attempts together.
 *
 * Errors: `TimeoutExceeded` (class `timeout`) returns the message to its source, with the backoff of its subscription.
 * For a client's request that was sent and must not be sent twice (RFC 9110, 9.2.2) it has class `permanent`: no `Retry`
 * repeats it, and the message whose handler sent it is dead-lettered.
 *
 * **Example** (five seconds for each attempt)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Message, Timeout } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.as(Effect.sleep("1 second"), message.payload.length),
 *   Timeout.middleware({ after: "5 seconds" })
 * )
 * ```
 *
 * @throws RangeError when `after` is not a finite duration from 1 ms
 * @category constructors
 */
export const middleware = (options: Options = {}): Around<Envelope, FullConfig<{ fails: TimeoutExceeded }>> => {
  const after = Duration.millis(OptionCheck.make("Timeout").millis("after", options.after ?? defaults.after))
  const late = ({ channel, isUnrepeatable }: Envelope) =>
    new TimeoutExceeded(isUnrepeatable === true ? { channel, after, isUnrepeatable } : { channel, after })
  return Middleware.make()(
    { name: "Timeout", stage: "consume", inBatch: "once", shows: { after: Duration.format(after) } },
    (next) => (message): Middleware.Returns<TimeoutExceeded> => {
      const result = next(message)
      if (Eager.isDone(result)) return result
      return Effect.timeoutOrElse(result, {
        duration: after,
        orElse: () => Effect.fail(late(message))
      })
    }
  )
}
