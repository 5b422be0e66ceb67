/**
 * A limit on how long a handler may take.
 */
import { Data, Duration, Effect } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** Options of `middleware`. */
export interface Options {
  /** How long what is inside may take; above 0. Default: 30 seconds. */
  readonly after?: Duration.Input | undefined
}

/** What `middleware` does where an option is not given. */
export const defaults: { readonly after: Duration.Duration } = { after: Duration.seconds(30) }

/**
 * The handler took too long and was interrupted. Class `timeout`, so the message is tried again; class `permanent` of a client's
 * request that was sent and must not be sent twice (a POST without `Idempotency-Key`), so neither `Retry` nor the broker repeats
 * it.
 */
export class TimeoutExceeded extends Data.TaggedError("TimeoutExceeded")<{
  readonly channel: string
  readonly after: Duration.Duration
  /** Whether a request was sent that must not be sent twice. Default: false. */
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
 * Fails when what is inside takes longer than `after`, and interrupts it.
 *
 * Types: any message in, the same message on; `TimeoutExceeded` enters E.
 *
 * The error comes when the interruption is complete, so a region that cannot be interrupted makes it late. A handler that
 * finishes at once costs no timer; one that blocks the thread cannot be stopped by anything in the same process. Inside
 * `Retry` each attempt has the time, outside it all of them together.
 *
 * Errors: `TimeoutExceeded` (class `timeout`) goes back to the source, by the back-off of its subscription. Of a client's request
 * that was sent and must not be sent twice (RFC 9110, 9.2.2) it is of class `permanent`: no `Retry` repeats it, and the message
 * whose handler sent it goes to the dead letters.
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
