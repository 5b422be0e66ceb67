/**
 * Responses whose bodies are still being sent after their chain has ended.
 */
import type { Effect, Exit } from "effect"
import { hasProperty } from "effect/Predicate"
import type { Envelope } from "../message/Message.ts"
import { isDone } from "./Eager.ts"

const atOnce: ReadonlySet<unknown> = new Set(["Empty", "Uint8Array"])

/** Tells whether a chain ended with a response whose body is sent later, and the message can report the end of sending. */
export const isStreaming = <A, E, R>(
  message: Envelope,
  result: Effect.Effect<A, E, R>
): result is Exit.Success<A, E> => {
  if (message.afterAnswer === undefined || !isDone(result) || result._tag === "Failure") return false
  const { value } = result
  return hasProperty(value, "~effect/http/HttpServerResponse") && hasProperty(value, "body") &&
    hasProperty(value.body, "_tag") && !atOnce.has(value.body._tag)
}
