/**
 * What a store of idempotency keys keeps, how it is asked, and how it fails.
 */
import { Context, Data, type Duration, type Effect } from "effect"

/** A claim on a key, as a store gets it. */
export interface Request {
  /** The key with its scope: requests with equal keys are the same request. */
  readonly key: string
  /** A hash of the request's content: the same key with another fingerprint is another request. Empty where none is taken. */
  readonly fingerprint: string
  /** Milliseconds after which another caller can claim the key, unless its claim is extended or completed. */
  readonly lease: number
}

/**
 * What a store answers.
 *
 * - `Claimed`: the key is the caller's, under a token that no other claim of it has had, and that is larger than all before
 * - `Completed`: it was done before, with this result
 * - `Running`: another owner has it, for `left` milliseconds at most
 * - `Reused`: it is known with another fingerprint
 */
export type Claim =
  | { readonly _tag: "Claimed"; readonly token: number }
  | { readonly _tag: "Completed"; readonly result: Uint8Array }
  | { readonly _tag: "Running"; readonly left: number }
  | { readonly _tag: "Reused" }

/**
 * The store of idempotency keys cannot be asked; class `dependency`, so the message is tried again.
 */
export class IdempotencyUnavailable extends Data.TaggedError("IdempotencyUnavailable")<{
  /** The failure and how to mend it, with secrets redacted. */
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/**
 * Keeps keys: one claim at a time, and results for as long as they are wanted. Every call is atomic; time is the store's own.
 *
 * A store answers an Exit where nothing has to be fetched.
 */
export class IdempotencyStore extends Context.Service<IdempotencyStore, {
  readonly claim: (request: Request) => Effect.Effect<Claim, IdempotencyUnavailable>
  /**
   * Keeps the result of a claim for `keep` milliseconds, as durably as the store keeps anything. False where the claim is not
   * the caller's any more: then nothing has changed.
   */
  readonly complete: (
    key: string,
    token: number,
    result: Uint8Array,
    keep: number
  ) => Effect.Effect<boolean, IdempotencyUnavailable>
  /** Keeps a claim for `lease` milliseconds from now. False where it is not the caller's any more. */
  readonly extend: (key: string, token: number, lease: number) => Effect.Effect<boolean, IdempotencyUnavailable>
  /** Gives a claim back: the key is as if it had never been asked for. Does nothing where it is not the caller's any more. */
  readonly release: (key: string, token: number) => Effect.Effect<void, IdempotencyUnavailable>
  /**
   * Runs a handler in a transaction of the store's database, which the handler's own statements join. What is completed in it
   * commits with them, or nothing does. Left out where a result is kept by itself.
   */
  readonly transaction?:
    | (<A, E, R>(run: Effect.Effect<A, E, R>) => Effect.Effect<A, E | IdempotencyUnavailable, R>)
    | undefined
}>()("@millrace/core/Idempotency/Store") {}
