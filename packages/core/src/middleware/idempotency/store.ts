/**
 * The interface of a store of idempotency keys, and its error.
 */
import { Context, Data, type Duration, type Effect } from "effect"

/** A claim on a key, as a store receives it. */
export interface Request {
  /** The key with its scope: requests with equal keys are the same request. */
  readonly key: string
  /** A hash of the request's content: the same key with another fingerprint is another request. Empty if there is none. */
  readonly fingerprint: string
  /** Milliseconds after which another caller can claim the key, unless its claim is extended or completed. */
  readonly lease: number
}

/**
 * The answer of a store to a claim.
 *
 * - `Claimed`: the caller owns the key, under a token that is larger than all tokens of the key's earlier claims
 * - `Completed`: the request was done before, with this result
 * - `Running`: another owner has the key, for `left` milliseconds at most
 * - `Reused`: the key is known with another fingerprint
 */
export type Claim =
  | { readonly _tag: "Claimed"; readonly token: number }
  | { readonly _tag: "Completed"; readonly result: Uint8Array }
  | { readonly _tag: "Running"; readonly left: number }
  | { readonly _tag: "Reused" }

/**
 * The store of idempotency keys is unavailable; class `dependency`, so the message is retried.
 */
export class IdempotencyUnavailable extends Data.TaggedError("IdempotencyUnavailable")<{
  /** The failure and how to fix it, with secrets redacted. */
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/**
 * Stores keys: one claim at a time, and results until `keep` is over. Every call is atomic, by the store's own clock.
 *
 * A store returns an Exit if it has nothing to fetch.
 */
export class IdempotencyStore extends Context.Service<IdempotencyStore, {
  readonly claim: (request: Request) => Effect.Effect<Claim, IdempotencyUnavailable>
  /**
   * Keeps the result of a claim for `keep` milliseconds, as durably as the store keeps any data. False if the caller no
   * longer owns the claim: then nothing has changed.
   */
  readonly complete: (
    key: string,
    token: number,
    result: Uint8Array,
    keep: number
  ) => Effect.Effect<boolean, IdempotencyUnavailable>
  /** Keeps a claim for `lease` milliseconds from now. False if the caller no longer owns it. */
  readonly extend: (key: string, token: number, lease: number) => Effect.Effect<boolean, IdempotencyUnavailable>
  /** Releases a claim, as if the key had never been claimed. Does nothing if the caller no longer owns it. */
  readonly release: (key: string, token: number) => Effect.Effect<void, IdempotencyUnavailable>
  /**
   * Runs a handler in a transaction of the store's database, which the handler's own statements join. A completion in it
   * commits with them, or nothing does. Absent in stores that keep results outside of transactions.
   */
  readonly transaction?:
    | (<A, E, R>(run: Effect.Effect<A, E, R>) => Effect.Effect<A, E | IdempotencyUnavailable, R>)
    | undefined
}>()("@millrace/core/Idempotency/Store") {}
