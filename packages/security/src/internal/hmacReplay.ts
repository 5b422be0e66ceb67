/**
 * Replay protection: an accepted signature is remembered for as long as its timestamp stays valid.
 */
import { Auth, Eager, type Envelope, Idempotency, Message, type Outcome } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Effect, Exit } from "effect"
import { hash } from "node:crypto"

const nothing = new Uint8Array(0)

const replayed = Exit.fail(new Auth.Unauthorized({ reason: "replayed" }))

/** The place of a message in its channel: a second delivery from the same place is a redelivery, not a replay. */
const placeOf = (message: Envelope): string =>
  message instanceof Message
    ? compositeKey(message.channel, String(message.partition), String(message.position))
    : ""

/** The consumer group of a message; each group may accept a signature once. */
const groupOf = (message: Envelope): string => message instanceof Message ? message.delivery.origin.group : ""

const isDone = (exit: Exit.Exit<unknown, unknown>, outcome: Outcome.Outcome | undefined): boolean =>
  outcome === undefined ? Exit.isSuccess(exit) : outcome._tag === "Ack" || outcome._tag === "Reject"

const unavailable = (cause: Idempotency.IdempotencyUnavailable) =>
  new Auth.AuthUnavailable({
    message: "The store of signatures that were seen cannot be asked",
    retryAfter: cause.retryAfter,
    cause
  })

/**
 * Accepts a signature once in `window` milliseconds. An unfinished message releases its signature, so that it may be retried;
 * after a crash of the process, the signature is accepted again from the same place.
 */
export const once = (
  message: Envelope,
  signed: string,
  window: number
): Effect.Effect<void, Auth.Unauthorized | Auth.AuthUnavailable, Idempotency.Store> =>
  Effect.flatMapEager(Eager.service(Idempotency.Store), (store) => {
    const key = `hmac:${hash("sha256", compositeKey(groupOf(message), signed), "base64url")}`
    const claimed = store.claim({ key, fingerprint: placeOf(message), lease: window })
    const decide = (claim: Idempotency.Claim): Exit.Exit<void, Auth.Unauthorized> => {
      if (claim._tag !== "Claimed") {
        return message instanceof Message && claim._tag !== "Reused" ? Exit.void : replayed
      }
      const { token } = claim
      message.after((exit, outcome) =>
        Effect.ignore(isDone(exit, outcome) ? store.complete(key, token, nothing, window) : store.release(key, token))
      )
      return Exit.void
    }
    const asked = Effect.mapErrorEager(claimed, unavailable)
    return Eager.isDone(asked)
      ? Effect.flatMapEager(asked, decide)
      // an interruption must not come between the claim and the hook that settles it
      : Effect.uninterruptible(Effect.flatMap(asked, decide))
  })
