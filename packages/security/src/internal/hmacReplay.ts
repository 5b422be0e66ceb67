/**
 * A signature counts once: what was let pass is remembered for as long as its time would be taken again.
 */
import { Auth, Eager, type Envelope, Idempotency, Message, type Outcome } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Effect, Exit } from "effect"
import { hash } from "node:crypto"

const nothing = new Uint8Array(0)

const replayed = Exit.fail(new Auth.Unauthorized({ reason: "replayed" }))

/** Where a delivery lies: what comes again from the same place was delivered again, and not sent again. */
const placeOf = (message: Envelope): string =>
  message instanceof Message
    ? compositeKey(message.channel, String(message.partition), String(message.position))
    : ""

/** Two groups handle one message once each. */
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
 * Lets what is signed pass once in `window` milliseconds. What is not done gives its signature back, so that it may be tried
 * again; what the process leaves behind when it dies is let pass again from the place where it lies.
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
      // a claim that was made is known to the hook
      : Effect.uninterruptible(Effect.flatMap(asked, decide))
  })
