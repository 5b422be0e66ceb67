/**
 * From the end of a chain to a response: answers are written, errors become problems, and what is worth a line is logged.
 */
import { Failure, Outcome } from "@millrace/core"
import { Cause, Effect, Exit } from "effect"
import { HttpServerRespondable, HttpServerResponse } from "effect/http"
import * as Ids from "./ids.ts"
import * as Problem from "./Problem.ts"
import type { Request } from "./Request.ts"

const noContent = HttpServerResponse.empty({ status: 204 })

const log = (
  problem: Problem.Problem,
  request: Request<unknown>,
  error: unknown,
  requestId: string
): Effect.Effect<void> => {
  if (problem.level === "None") return Exit.void
  const message = `serve ${request.channel} answered ${problem.status}`
  // what nobody expected is logged whole; of all else, tag and class say enough and hold no content
  const line = problem.failure === "defect"
    ? Effect.logWithLevel(problem.level)(message, Cause.die(error))
    : Effect.logWithLevel(problem.level)(message)
  return Effect.annotateLogs(line, {
    requestId,
    status: problem.status,
    failure: problem.failure,
    error: Failure.tagOf(error).slice(0, 100)
  })
}

/** The response to an error. */
export const ofError = (
  problems: Problem.Problems,
  request: Request<unknown>,
  error: unknown
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  if (HttpServerResponse.isHttpServerResponse(error)) return Exit.succeed(error)
  if (HttpServerRespondable.isRespondable(error)) {
    const fallback = Problem.toResponse(Problem.of(problems, error))
    return HttpServerRespondable.toResponseOrElse(error, fallback)
  }
  return Effect.withFiber((fiber) => {
    const problem = Problem.of(problems, error)
    const requestId = request.id ?? Ids.random(fiber)
    const response = HttpServerResponse.setHeader(Problem.toResponse(problem, { requestId }), "x-request-id", requestId)
    return Effect.as(log(problem, request, error, requestId), response)
  })
}

/** What a broker would be told has an answer, too: the same middleware may end a chain with an outcome on either. */
const ofOutcome = (outcome: Outcome.Outcome): unknown => {
  switch (outcome._tag) {
    case "Ack":
      return undefined
    case "Retry":
      return { failure: "transient", retryAfter: outcome.after }
    case "Release":
      return { failure: "transient" }
    case "DeadLetter":
    case "Reject":
      return outcome.error !== undefined && Failure.isClassified(outcome.error)
        ? outcome.error
        : { failure: "permanent" }
  }
}

/**
 * The response to what a handler answered: a response as it is, undefined as 204, an outcome as what it means, bytes as
 * bytes, and anything else as JSON.
 */
export const ofValue = (
  problems: Problem.Problems,
  request: Request<unknown>,
  value: unknown
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  if (HttpServerResponse.isHttpServerResponse(value)) return Exit.succeed(value)
  if (value === undefined) return Exit.succeed(noContent)
  if (Outcome.isOutcome(value)) {
    const error = ofOutcome(value)
    return error === undefined ? Exit.succeed(noContent) : ofError(problems, request, error)
  }
  if (value instanceof Uint8Array) return Exit.succeed(HttpServerResponse.uint8Array(value))
  if (value instanceof Response) return Exit.succeed(HttpServerResponse.fromWeb(value))
  try {
    return Exit.succeed(HttpServerResponse.jsonUnsafe(value))
  } catch (defect) {
    // a cycle, or a bigint
    return ofError(problems, request, defect)
  }
}

/** The response to the end of a chain; an interruption stays one, since nobody is there to be answered, or all are told the same. */
export const ofCause = (
  problems: Problem.Problems,
  request: Request<unknown>,
  cause: Cause.Cause<unknown>
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  for (const reason of cause.reasons) {
    if (Cause.isFailReason(reason)) return ofError(problems, request, reason.error)
  }
  // no error is left in it
  if (Cause.hasInterrupts(cause)) return Effect.failCause(cause as Cause.Cause<never>)
  return ofError(problems, request, Cause.squash(cause))
}
