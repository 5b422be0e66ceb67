/**
 * From the end of a chain to a response: answers are written, errors become problems, and what is worth a line is logged.
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

/** A text of the client's as a line may show it: without secrets, on one line, cut. */
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
  // what nobody expected is logged whole; of all else, tag and class say enough and hold no content
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

/** The status that the end of a chain is answered with; undefined where no client is answered, or an effect decides. */
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

/** A body that breaks off after its head has left is a line at least: nothing else can be told any more. */
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

/** The line of an answer whose body broke off. */
export const broken = (request: Request<unknown>, cause: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.logError(
    `serve ${request.channel}: the answer could not be sent to its end`,
    Redaction.hideCause(redaction, request, cause)
  )

/** The response as it leaves: with the fields of middlewares. One that no server can send is a mistake of the program. */
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

/** The fields that are lists, of which an answer and its middlewares may say a part each. */
export const joinedField = (name: string, own: string | undefined, added: string): string => {
  if (name !== "vary" || own === undefined) return added
  if (own.trim() === "*") return own
  const known = new Set(own.split(",").map((part) => part.trim().toLowerCase()))
  return [own, ...added.split(", ").filter((part) => !known.has(part.toLowerCase()))].join(", ")
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
    Array.from(
      fields,
      ([name, parts]) =>
        [name, joinedField(name, response.headers[name], Array.from(parts.values()).join(", "))] as const
    )
  )
}
