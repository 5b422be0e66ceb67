/**
 * Reports a retry in place to telemetry: increments a counter, and adds an event to the current span.
 */
import { Clock, Duration, type Fiber, References } from "effect"
import { tagOf } from "../../message/Failure.ts"
import type { Envelope } from "../../message/Message.ts"
import { countRetry, countSentRetry, countServedRetry } from "../../telemetry/Counters.ts"

/** A retry that is decided and has not started. */
export interface Retrying {
  /** The number of the next attempt, from 2. */
  readonly attempt: number
  /** The error or the defect of the previous attempt. */
  readonly error: unknown
  /** Milliseconds until the retry starts. */
  readonly delay: number
}

/**
 * Counts a retry on `millrace.retries`, and adds the event `millrace.retry` to the current span, with
 * `millrace.retry.attempt`, `millrace.retry.delay` (seconds) and `error.type`. Never throws.
 */
export const tellRetry = (
  fiber: Fiber.Fiber<unknown, unknown>,
  message: Envelope,
  { attempt, delay, error }: Retrying
): void => {
  try {
    const tag = tagOf(error)
    if (message.kind === "client") countSentRetry(fiber.context, message.exchange?.host ?? message.channel, tag)
    else (message.kind === "server" ? countServedRetry : countRetry)(fiber.context, message.channel, tag)
    const { span } = fiber.cache
    if (span?._tag !== "Span") return
    const isTimed = fiber.getRef(References.TracerTimingEnabled)
    span.event("millrace.retry", isTimed ? fiber.getRef(Clock.Clock).currentTimeNanosUnsafe() : 0n, {
      "millrace.retry.attempt": attempt,
      "millrace.retry.delay": Duration.toSeconds(Duration.millis(delay)),
      "error.type": tag
    })
  } catch {
    // a failure of telemetry must not change the result of the message
  }
}
