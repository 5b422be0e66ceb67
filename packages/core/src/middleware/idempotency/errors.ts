/**
 * The errors of `Idempotency.middleware`.
 */
import { Data, type Duration } from "effect"
import type { IdempotencyUnavailable } from "./store.ts"

/**
 * The request cannot be identified: it has no key (`missing`), a key that is empty or longer than 255 characters
 * (`invalid`), or a key that was used for another request (`reused`). Class `validation`, so the message is
 * dead-lettered.
 */
export class IdempotencyRefused extends Data.TaggedError("IdempotencyRefused")<{
  readonly channel: string
  readonly reason: "missing" | "invalid" | "reused"
}> {
  readonly failure = "validation" as const
  override get message(): string {
    return {
      missing: `A request to ${this.channel} needs an idempotency key, and has none`,
      invalid: `An idempotency key has 1 to 255 characters, this one to ${this.channel} has not`,
      reused: `The idempotency key was used for another request to ${this.channel}: take a new one`
    }[this.reason]
  }
}

/** The same request is in progress; class `conflict`, so the message is redelivered when its claim ends at the latest. */
export class IdempotencyRunning extends Data.TaggedError("IdempotencyRunning")<{
  readonly channel: string
  readonly retryAfter: Duration.Duration
}> {
  readonly failure = "conflict" as const
  override get message(): string {
    return `The same request to ${this.channel} is being handled`
  }
}

/**
 * The claim ended before the handler did, and another owner may have it: the handler was interrupted, or its answer was
 * not kept. Class `conflict`, so the message is redelivered and finds the other owner's answer.
 */
export class IdempotencyLost extends Data.TaggedError("IdempotencyLost")<{ readonly channel: string }> {
  readonly failure = "conflict" as const
  override get message(): string {
    return `The claim on a request to ${this.channel} ended before its handler`
  }
}

/**
 * The request was done before, and its answer cannot be repeated: its schema refused it, or the handler answered an
 * outcome (`unkept`), or an incompatible version of the program stored it (`unreadable`). Class `permanent`. A consumed
 * message is acknowledged instead.
 */
export class IdempotencyUnrepeatable extends Data.TaggedError("IdempotencyUnrepeatable")<{
  readonly channel: string
  readonly reason: "unkept" | "unreadable"
}> {
  readonly failure = "permanent" as const
  override get message(): string {
    const why = this.reason === "unkept" ? "it was not kept" : "this version of the program cannot read it"
    return `The request to ${this.channel} was done before; its answer cannot be repeated, as ${why}`
  }
}

/** All errors of the middleware. */
export type IdempotencyError =
  | IdempotencyRefused
  | IdempotencyRunning
  | IdempotencyLost
  | IdempotencyUnrepeatable
  | IdempotencyUnavailable
