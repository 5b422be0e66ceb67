/**
 * The interface of a store of rate limits, and its error.
 */
import { Context, Data, type Duration, type Effect } from "effect"
import type { Charge, Decision } from "./policy.ts"

/** The store of a rate limit is unavailable; class `dependency`, so the message is retried. */
export class RateLimitUnavailable extends Data.TaggedError("RateLimitUnavailable")<{
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** Counts charges. Every call is atomic, by the store's own clock. A store returns an Exit if it has nothing to fetch. */
export class RateLimitStore extends Context.Service<RateLimitStore, {
  /**
   * Makes all charges or none. If the turn of all is at most `within` milliseconds away, the store makes them and
   * reserves the turn. Otherwise it counts nothing, and admits the same call after the `wait` it answers, if no other
   * call comes before. The policies of one call have different ids. `concurrency` places are never waited for.
   */
  readonly take: (charges: ReadonlyArray<Charge>, within: number) => Effect.Effect<Decision, RateLimitUnavailable>
  /** Keeps the places of a lease for another window from now. False if the lease no longer holds them. */
  readonly renew: (charges: ReadonlyArray<Charge>, lease: number) => Effect.Effect<boolean, RateLimitUnavailable>
  /** Releases the places of a lease; does nothing if the lease no longer holds them. */
  readonly release: (charges: ReadonlyArray<Charge>, lease: number) => Effect.Effect<void, RateLimitUnavailable>
}>()("@millrace/core/RateLimit/Store") {}
