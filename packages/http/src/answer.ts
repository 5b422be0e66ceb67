/**
 * From the end of a chain to a response: answers are written, errors become problems, and what is worth a line is logged.
 */
import { Failure, Outcome, Redaction } from "@millrace/core"
import { Cause, Effect, Exit } from "effect"
import { HttpServerRespondable, HttpServerResponse } from "effect/http"
import * as Ids from "./ids.ts"
import * as Problem from "./Problem.ts"
import type { Given, Request } from "./Request.ts"

const noContent = HttpServerResponse.empty({ status: 204 })

const redaction = Redaction.make()

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
    ? Effect.logWithLevel(problem.level)(message, Redaction.hideCause(redaction, request, Cause.die(error)))
    : Effect.logWithLevel(problem.level)(message)
  return Effect.annotateLogs(line, {
    requestId,
    ...(request.ids === undefined ? {} : { correlationId: request.ids.id, causationId: request.ids.causation }),
    status: problem.status,
    failure: problem.failure,
    error: Failure.tagOf(error).slice(0, 100)
  })
}

/** What an error is answered with, and the line to log when that leaves. */
export const given = (
  problems: Problem.Problems,
  request: Request<unknown>,
  error: unknown
): Effect.Effect<Given> => {
  if (HttpServerResponse.isHttpServerResponse(error)) return Exit.succeed({ error, response: error, log: Exit.void })
  if (HttpServerRespondable.isRespondable(error)) {
    const fallback = Problem.toResponse(Problem.of(problems, error))
    return Effect.mapEager(
      HttpServerRespondable.toResponseOrElse(error, fallback),
      (response) => ({ error, response, log: Exit.void })
    )
  }
  return Effect.withFiber((fiber) => {
    const problem = Problem.of(problems, error)
    const requestId = request.id ?? Ids.random(fiber)
    const response = HttpServerResponse.setHeader(Problem.toResponse(problem, { requestId }), "x-request-id", requestId)
    return Exit.succeed({ error, response, log: log(problem, request, error, requestId) })
  })
}

const leaves = ({ log, response }: Given): Effect.Effect<HttpServerResponse.HttpServerResponse> =>
  Effect.as(log, response)

/** The response to an error. */
export const ofError = (
  problems: Problem.Problems,
  request: Request<unknown>,
  error: unknown
): Effect.Effect<HttpServerResponse.HttpServerResponse> => Effect.flatMap(given(problems, request, error), leaves)

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

/** What a cause is answered by: its error, else its defect; undefined of an interruption. */
export const errorOf = (cause: Cause.Cause<unknown>): { readonly error: unknown } | undefined => {
  const failed = cause.reasons.find(Cause.isFailReason)
  if (failed !== undefined) return { error: failed.error }
  return Cause.hasInterrupts(cause) ? undefined : { error: Cause.squash(cause) }
}

/** The response to the end of a chain; an interruption stays one, since nobody is there to be answered, or all are told the same. */
export const ofCause = (
  problems: Problem.Problems,
  request: Request<unknown>,
  cause: Cause.Cause<unknown>
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  const found = errorOf(cause)
  // no error is left in it
  if (found === undefined) return Effect.failCause(cause as Cause.Cause<never>)
  const before = request.books.given
  return before !== undefined && before.error === found.error
    ? leaves(before)
    : ofError(problems, request, found.error)
}

/** The answer that a middleware keeps; an error's is remembered, so that it is the one that leaves. */
export const kept = (
  problems: Problem.Problems,
  request: Request<unknown>,
  exit: Exit.Exit<unknown, unknown>
): Effect.Effect<HttpServerResponse.HttpServerResponse | undefined> => {
  if (exit._tag === "Success") return ofValue(problems, request, exit.value)
  const found = errorOf(exit.cause)
  if (found === undefined) return Exit.succeed(undefined)
  return Effect.mapEager(given(problems, request, found.error), (answer) => {
    request.books.given = answer
    return answer.response
  })
}

/** The response with what middlewares have added to it. */
export const told = (
  request: Request<unknown>,
  response: HttpServerResponse.HttpServerResponse
): HttpServerResponse.HttpServerResponse => {
  const { fields } = request.books
  if (fields === undefined) return response
  return HttpServerResponse.setHeaders(
    response,
    Array.from(fields, ([name, parts]) => [name, Array.from(parts.values()).join(", ")] as const)
  )
}
