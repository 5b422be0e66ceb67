/**
 * Turns a request into its response: runs the chain, then its hooks, and writes errors as problems.
 */
import { After, Eager, type Handler, Order } from "@millrace/core"
import { type Cause, Effect, Exit, Fiber } from "effect"
import { constant } from "effect/Function"
import { HttpServerResponse } from "effect/http"
import * as Answer from "./answer.ts"
import * as Problem from "../Problem.ts"
import type { Request, Respond } from "../Request.ts"

/** Options of a route, with run-time types. */
export interface AnsweringOptions {
  readonly key?: ((request: Request) => string | undefined) | undefined
  readonly problems?: Problem.Problems | undefined
  readonly errors?: Problem.Tags | undefined
}

/** The program's current problem table. */
export const programs = (): Problem.Problems => Fiber.getCurrent()?.getRef(Problem.Current) ?? Problem.defaults

/** The key of a request by the route's option; a function that throws is a defect of the program. */
export const keyOf = (key: AnsweringOptions["key"], request: Request): Exit.Exit<string | undefined> => {
  if (key === undefined) return Exit.succeed(undefined)
  try {
    return Exit.succeed(key(request))
  } catch (defect) {
    return Exit.die(defect)
  }
}

/** Runs a chain and its hooks, and writes the response. Errors become problems; only an interruption remains as a failure. */
export const answering = <A, E, R>(
  handler: Handler<Request, A, E, R>,
  options: AnsweringOptions | undefined
): (request: Request) => Effect.Effect<HttpServerResponse.HttpServerResponse, never, R> => {
  Order.check(handler)
  const errors = options?.errors
  const own = options?.problems
  // one merged table for each program's table
  const merged = new WeakMap<Problem.Problems, Problem.Problems>()
  const problemsOf = (current: Problem.Problems): Problem.Problems => {
    if (errors === undefined) return current
    let found = merged.get(current)
    if (found === undefined) {
      merged.set(current, found = { table: current.table, tags: { ...current.tags, ...errors } })
    }
    return found
  }
  const current = own === undefined
    ? () => Effect.mapEager(Eager.service(Problem.Current), problemsOf)
    : constant(Exit.succeed(problemsOf(own)))
  const respond: Respond = (request, exit) =>
    Effect.flatMapEager(current(), (problems) => Answer.kept(problems, request, exit))
  const statusOf = (_: Request<unknown>, exit: Exit.Exit<unknown, unknown>) =>
    Answer.statusOf(problemsOf(own ?? programs()), exit)
  return (request) => {
    request.books.respond = respond
    request.books.statusOf = statusOf
    const key = keyOf(options?.key, request)
    const ended: Effect.Effect<A, unknown, R> = key._tag === "Failure"
      ? Exit.failCause(key.cause)
      : After.around(key.value === undefined ? request : request.withKey(key.value), handler)
    const answered = Effect.matchCauseEffectEager(ended, {
      onSuccess: (value) =>
        HttpServerResponse.isHttpServerResponse(value)
          ? Exit.succeed(value)
          : Effect.flatMapEager(current(), (problems) => Answer.ofValue(problems, request, value)),
      onFailure: (cause: Cause.Cause<unknown>) =>
        Effect.flatMapEager(current(), (problems) => Answer.ofCause(problems, request, cause))
    })
    return Effect.flatMapEager(answered, (response) => Answer.leaving(current, request, response))
  }
}
