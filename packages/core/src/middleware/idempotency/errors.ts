/**
 * How a request that is to run once can fail.
 */
import { Data, type Duration } from "effect"
import type { IdempotencyUnavailable } from "./store.ts"

/**
 * The request cannot be told from others: it has no key (`missing`), one that is empty or longer than 255 characters
 * (`invalid`), or one that was used for another request (`reused`). Class `validation`, so the message goes to the dead
 * letters.
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

/** The same request is being handled; class `conflict`, so the message comes back when its claim ends at the latest. */
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
 * The claim ended before the handler did, and may be another's by now: the handler was interrupted, or its answer not kept.
 * Class `conflict`, so the message comes back and finds what the other has answered.
 */
export class IdempotencyLost extends Data.TaggedError("IdempotencyLost")<{ readonly channel: string }> {
  readonly failure = "conflict" as const
  override get message(): string {
    return `The claim on a request to ${this.channel} ended before its handler`
  }
}

/**
 * The request was done before, and its answer cannot be repeated: its schema refused it, or the handler answered an outcome
 * (`unkept`), or another version of the program kept it in a form that this one cannot read (`unreadable`). Class `permanent`. A
 * consumed message is acknowledged instead.
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

/** Everything that the middleware fails with. */
export type IdempotencyError =
  | IdempotencyRefused
  | IdempotencyRunning
  | IdempotencyLost
  | IdempotencyUnrepeatable
  | IdempotencyUnavailable
