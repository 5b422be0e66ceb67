/**
 * The port to a key management service, and its error.
 */
import { Data, type Duration, type Effect, type Redacted } from "effect"

/**
 * The kind of failure of a call.
 *
 * - `Denied`: the credentials are wrong, or may not use the key
 * - `Disabled`: the key is disabled, or will be deleted
 * - `Missing`: the service has no such key
 * - `Throttled`: too many calls
 * - `Unavailable`: no answer, or one that says nothing about the key
 * - `Ciphertext`: the wrapped data key was not made by this key with this context; only `unwrap` fails so
 */
export type Reason = "Denied" | "Disabled" | "Missing" | "Throttled" | "Unavailable" | "Ciphertext"

/**
 * A call of a key management service failed. Class `dependency`: messages return to their source. Only `Ciphertext` is class
 * `poison`, since it says that the message itself was changed.
 */
export class KmsError extends Data.TaggedError("KmsError")<{
  readonly reason: Reason
  /** A part of a sentence behind the name of the service, as in `denies the call: grant kms:Decrypt`. */
  readonly message: string
  /** The wait that the service asks for. */
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  get failure(): "dependency" | "poison" {
    return this.reason === "Ciphertext" ? "poison" : "dependency"
  }
}

/** A new data key. */
export interface Generated {
  /** 32 random bytes. */
  readonly plaintext: Redacted.Redacted<Uint8Array>
  /** The same key, wrapped: 1 to 6,144 bytes. */
  readonly wrapped: Uint8Array
}

/** A key management service: it makes data keys and unwraps them, and its own keys never leave it. */
export interface KmsPort {
  /** The name in errors and log lines. */
  readonly name: string
  /** Makes a data key of 32 bytes under the service's key `key`; `context` must be given again to unwrap it. */
  readonly generate: (
    key: string,
    context: { readonly [name: string]: string }
  ) => Effect.Effect<Generated, KmsError>
  /** Unwraps a data key that `generate` made with the same key and context. */
  readonly unwrap: (
    key: string,
    wrapped: Uint8Array,
    context: { readonly [name: string]: string }
  ) => Effect.Effect<Redacted.Redacted<Uint8Array>, KmsError>
}
