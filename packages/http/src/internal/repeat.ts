/**
 * The one rule for sending a request again: `Retry`, `Timeout`, `Hedge`, `Sink` and the settlement of a message go by it.
 *
 * A request may be sent again that was never sent, or whose method or `Idempotency-Key` makes a second one harmless. The rule is on
 * the request's envelope (`isUnrepeatable`) from the moment it is sent, and in the class of what it fails with.
 *
 * Source: RFC 9110, 9.2.2; for the key, draft-ietf-httpapi-idempotency-key-header.
 */
import { type Cause, Effect, Exit } from "effect"
import type { HttpClientRequest } from "effect/http"
import type { Call } from "../Call.ts"

/** Methods that may be sent twice (RFC 9110, 9.2.2; QUERY by its draft). */
const idempotent: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"])

/** Whether a request that was not answered may be sent again. */
export const isRepeatable = (request: HttpClientRequest.HttpClientRequest): boolean =>
  // a native stream is read once
  (request.body._tag !== "Raw" || typeof request.body.body === "string" || request.body.body instanceof Uint8Array) &&
  (idempotent.has(request.method) || request.headers["idempotency-key"] !== undefined)

const isUnsent = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.length > 0 &&
  cause.reasons.every((reason) =>
    reason._tag === "Fail" && typeof reason.error === "object" && reason.error !== null && "reason" in reason.error &&
    (reason.error.reason === "Connection" || reason.error.reason === "Invalid")
  )

/**
 * Sends what must not be sent twice: the envelope says so until an answer came that is none of a failure, or it is certain that
 * nothing was sent.
 */
export const sendOnce = <A, E, R>(call: Call, sent: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    call.markUnrepeatable(true)
    return Effect.onExitPrimitive(sent, (exit) => {
      if (Exit.isSuccess(exit) || isUnsent(exit.cause)) call.markUnrepeatable(false)
      return undefined
    })
  })

/** Reads an answer that says no for good: what is interrupted meanwhile is not sent again for it. */
export const answeredForGood = <A, E, R>(call: Call, read: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const before = call.isUnrepeatable
    call.markUnrepeatable(true)
    return Effect.onExitPrimitive(read, (exit) => {
      if (!Exit.hasInterrupts(exit)) call.markUnrepeatable(before)
      return undefined
    })
  })
