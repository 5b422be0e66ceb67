/**
 * What a store of rate limits is asked, and how it fails.
 */
import { Context, Data, type Duration, type Effect } from "effect"
import type { Charge, Decision } from "./policy.ts"

/** The store of a rate limit cannot be asked; class `dependency`, so the message is tried again. */
export class RateLimitUnavailable extends Data.TaggedError("RateLimitUnavailable")<{
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** Counts. Every call is atomic; time is the store's own. A store answers an Exit where nothing has to be fetched. */
export class RateLimitStore extends Context.Service<RateLimitStore, {
  /**
   * Makes all charges or none. Where the turn of all is at most `within` milliseconds away they are made and the turn is
   * kept; where it is more, nothing was counted, and the same call made after the wait that is answered is admitted, if no other
   * comes before it. The policies of one call differ in their ids. Places of `concurrency` are not waited for.
   */
  readonly take: (charges: ReadonlyArray<Charge>, within: number) => Effect.Effect<Decision, RateLimitUnavailable>
  /** Keeps the places of a lease for another window from now. False where they are not held any more. */
  readonly renew: (charges: ReadonlyArray<Charge>, lease: number) => Effect.Effect<boolean, RateLimitUnavailable>
  /** Gives the places of a lease back; nothing where they are not held any more. */
  readonly release: (charges: ReadonlyArray<Charge>, lease: number) => Effect.Effect<void, RateLimitUnavailable>
}>()("@millrace/core/RateLimit/Store") {}
