/**
 * The single rule for sending a request again, used by `Retry`, `Timeout`, `Hedge`, `Sink` and the settlement of a message.
 *
 * A request may be sent again if it was never sent, or if its method or `Idempotency-Key` makes a second request harmless. The
 * flag `isUnrepeatable` of the request's envelope (from sending on) and the failure class of its error carry the rule.
 *
 * Source: RFC 9110, 9.2.2; for the key, draft-ietf-httpapi-idempotency-key-header.
 */
import { type Cause, Effect, Exit } from "effect"
import type { HttpClientRequest } from "effect/http"
import type { Call } from "../Call.ts"

/** Methods that may be sent twice (RFC 9110, 9.2.2; QUERY by its draft). */
const idempotent: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "QUERY"])

/** Whether an unanswered request may be sent again. */
export const isRepeatable = (request: HttpClientRequest.HttpClientRequest): boolean =>
  // a native stream can be read only once
  (request.body._tag !== "Raw" || typeof request.body.body === "string" || request.body.body instanceof Uint8Array) &&
  (idempotent.has(request.method) || request.headers["idempotency-key"] !== undefined)

const isUnsent = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.length > 0 &&
  cause.reasons.every((reason) =>
    reason._tag === "Fail" && typeof reason.error === "object" && reason.error !== null && "reason" in reason.error &&
    (reason.error.reason === "Connection" || reason.error.reason === "Invalid")
  )

/**
 * Sends a request that must not be sent twice. The call is marked unrepeatable until it succeeds, or until it is certain that
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

/**
 * Reads the body of a permanent refusal. The call is unrepeatable meanwhile, so an interruption does not send the request
 * again.
 */
export const answeredForGood = <A, E, R>(call: Call, read: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const before = call.isUnrepeatable
    call.markUnrepeatable(true)
    return Effect.onExitPrimitive(read, (exit) => {
      if (!Exit.hasInterrupts(exit)) call.markUnrepeatable(before)
      return undefined
    })
  })
