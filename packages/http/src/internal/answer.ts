/**
 * Turns the exit of a chain into a response: writes results, turns errors into problems, and logs them.
 */
import { Eager, Failure, Outcome, Redaction } from "@millrace/core"
import { Cause, Effect, Exit, Stream } from "effect"
import { HttpBody, HttpServerRespondable, HttpServerResponse } from "effect/http"
import { firstWrong, shownName } from "./headerText.ts"
import * as Ids from "./ids.ts"
import * as Problem from "../Problem.ts"
import type { Given, Request } from "../Request.ts"

const noContent = HttpServerResponse.empty({ status: 204 })

const redaction = Redaction.make()

// oxlint-disable-next-line no-control-regex
const breaking = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g

/** Prepares a client's text for a log line: removes secrets and line breaks, and cuts the text to 256 characters. */
const shown = (text: string): string => redaction.text(text).slice(0, 256).replace(breaking, "?")

const log = (
  problem: Problem.Problem,
  request: Request<unknown>,
  error: unknown,
  requestId: string
): Effect.Effect<void> => {
  if (problem.level === "None") return Exit.void
  const message = `serve ${request.channel} answered ${problem.status}`
  const { client, method, target, userAgent } = request.exchange
  // a defect is logged with its cause; for other errors, tag and class suffice and contain no message content
  const line = problem.failure === "defect"
    ? Effect.logWithLevel(problem.level)(message, Redaction.hideCause(redaction, request, Cause.die(error)))
    : Effect.logWithLevel(problem.level)(message)
  return Effect.annotateLogs(line, {
    requestId,
    ...(request.ids === undefined ? {} : { correlationId: request.ids.id, causationId: request.ids.causation }),
    method: shown(method),
    target: shown(target),
    ...(client === undefined ? {} : { client }),
    ...(userAgent === undefined ? {} : { userAgent: shown(userAgent) }),
    status: problem.status,
    failure: problem.failure,
    error: Failure.tagOf(error).slice(0, 100)
  })
}

/** Makes the response to an error, and the log line to write when the response is sent. */
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

/** The error of an outcome; undefined for `Ack`. The same middleware may end a chain with an outcome on HTTP and on a broker. */
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
 * Makes the response to a handler's result: a response unchanged, undefined as 204, an outcome as the corresponding status,
 * bytes as bytes, and anything else as JSON.
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

/** The error of a cause that decides the answer: its error, else its defect; undefined for an interruption. */
export const errorOf = (cause: Cause.Cause<unknown>): { readonly error: unknown } | undefined => {
  const failed = cause.reasons.find(Cause.isFailReason)
  if (failed !== undefined) return { error: failed.error }
  return Cause.hasInterrupts(cause) ? undefined : { error: Cause.squash(cause) }
}

/**
 * The response to a failed chain. An interruption is passed on: either the client has disconnected, or the server shuts down and
 * answers all such requests alike.
 */
export const ofCause = (
  problems: Problem.Problems,
  request: Request<unknown>,
  cause: Cause.Cause<unknown>
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  const found = errorOf(cause)
  // the cause contains no error
  if (found === undefined) return Effect.failCause(cause as Cause.Cause<never>)
  const before = request.books.given
  return before !== undefined && before.error === found.error
    ? leaves(before)
    : ofError(problems, request, found.error)
}

/** The response for a middleware to store. The response to an error is remembered, so that the route sends the same one. */
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

/** The response status of an exit; undefined for an interruption, or if an effect computes the response. */
export const statusOf = (problems: Problem.Problems, exit: Exit.Exit<unknown, unknown>): number | undefined => {
  if (exit._tag === "Success") {
    const { value } = exit
    if (HttpServerResponse.isHttpServerResponse(value) || value instanceof Response) return value.status
    if (value === undefined) return 204
    if (!Outcome.isOutcome(value)) return 200
    const error = ofOutcome(value)
    return error === undefined ? 204 : Problem.of(problems, error).status
  }
  const found = errorOf(exit.cause)
  if (found === undefined) return undefined
  if (HttpServerResponse.isHttpServerResponse(found.error)) return found.error.status
  if (!HttpServerRespondable.isRespondable(found.error)) return Problem.of(problems, found.error).status
  const { error } = found
  const answer: Effect.Effect<HttpServerResponse.HttpServerResponse, unknown> = error[HttpServerRespondable.symbol]()
  return Eager.isDone(answer) && answer._tag === "Success" ? answer.value.status : undefined
}

const isStatus = (status: number): boolean => Number.isInteger(status) && status >= 200 && status <= 599

/** Logs a streamed body that fails after the response head was sent; the status can no longer change. */
const watched = (
  request: Request<unknown>,
  response: HttpServerResponse.HttpServerResponse
): HttpServerResponse.HttpServerResponse => {
  const { body } = response
  if (body._tag !== "Stream") return response
  const stream = Stream.onError(
    body.stream,
    (cause) => Cause.hasInterruptsOnly(cause) ? Effect.void : broken(request, cause)
  )
  return HttpServerResponse.setHeaders(
    HttpServerResponse.setBody(response, HttpBody.stream(stream, body.contentType, body.contentLength)),
    response.headers
  )
}

/** Logs an answer that could not be sent to its end. */
export const broken = (request: Request<unknown>, cause: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.logError(
    `serve ${request.channel}: the answer could not be sent to its end`,
    Redaction.hideCause(redaction, request, cause)
  )

/** Makes the final response, with the headers of middlewares. An invalid header or status is answered as a defect. */
export const leaving = (
  current: () => Effect.Effect<Problem.Problems>,
  request: Request<unknown>,
  response: HttpServerResponse.HttpServerResponse
): Effect.Effect<HttpServerResponse.HttpServerResponse> => {
  const wrong = firstWrong(response.headers)
  if (wrong === undefined && isStatus(response.status)) return Exit.succeed(watched(request, told(request, response)))
  const message = wrong === undefined
    ? `The status ${response.status} cannot be sent`
    : `The field ${shownName(wrong)} of the answer holds characters that cannot be sent`
  return Effect.flatMapEager(
    current(),
    (problems) =>
      Effect.mapEager(ofError(problems, request, new RangeError(message)), (problem) => told(request, problem))
  )
}

/** Joins the values of `vary` from the answer and its middlewares; for any other header, the middlewares' value replaces it. */
export const joinedField = (name: string, own: string | undefined, added: string): string => {
  if (name !== "vary" || own === undefined) return added
  if (own.trim() === "*") return own
  const known = new Set(own.split(",").map((part) => part.trim().toLowerCase()))
  return [own, ...added.split(", ").filter((part) => !known.has(part.toLowerCase()))].join(", ")
}

/** Adds the middlewares' headers to a response. */
export const told = (
  request: Request<unknown>,
  response: HttpServerResponse.HttpServerResponse
): HttpServerResponse.HttpServerResponse => {
  const { fields } = request.books
  if (fields === undefined) return response
  return HttpServerResponse.setHeaders(
    response,
    Array.from(
      fields,
      ([name, parts]) =>
        [name, joinedField(name, response.headers[name], Array.from(parts.values()).join(", "))] as const
    )
  )
}
