/**
 * Adapts handlers behind middlewares to endpoints of Effect's `HttpApi`.
 */
import { After, Eager, Failure, type Handler, Order } from "@millrace/core"
import { Cause, Effect, Exit, Fiber } from "effect"
import { HttpEffect, type HttpServerRequest, HttpServerResponse } from "effect/http"
import * as Answer from "./answer.ts"
import { keyOf, programs } from "./answering.ts"
import * as Values from "./endpointValues.ts"
import * as Problem from "../Problem.ts"
import { make as makeRequest, type Request, type Respond } from "../Request.ts"
import { RouterSource } from "./routerSource.ts"

/** The parts of an `HttpApi` handler's argument that this module reads. */
export interface EndpointRequest {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly endpoint: Values.Declares & { readonly method: string; readonly path: string }
}

/** Rejects at compile time a payload that `HttpApi` reads and decodes before the chain runs. */
export type Undecoded<P> = P extends { readonly payload: unknown } ? {
    readonly "the body would be read before Auth and RateLimit: decode it by Body.endpoint in the chain, and register the handler by handleRaw":
      never
  }
  : unknown

/** Options of `endpoint`. */
export interface EndpointOptions<T extends string> {
  /** The key of a request, for ordering and for limits by key. Default: none. */
  readonly key?: ((request: Request) => string | undefined) | undefined
  /** The problem table of this endpoint. Default: the program's, `Problem.Current`. */
  readonly problems?: Problem.Problems | undefined
  /** Tags of classified errors that the endpoint declares and encodes itself; they stay in E. Default: none. */
  readonly declared?: ReadonlyArray<T> | undefined
}

/** The errors that an endpoint encodes itself: errors without a class, and errors with a tag in `declared`. */
export type Kept<E, T extends string> = Exclude<E, Failure.Classified> | Extract<E, { readonly _tag: T }>

const noParams = {}

/**
 * Adapts a handler behind middlewares to an endpoint of Effect's `HttpApi`.
 *
 * Register the result by `handleRaw`: the body is then not read before the chain reads it, so `Auth` and `RateLimit` can refuse
 * a request before the client sends its body. `Body.endpoint` in the chain reads, limits and decodes the body by the endpoint's
 * own schemas. `HttpApi` decodes `params`, `query` and `headers` before the chain. Errors without a class stay in E, and the
 * endpoint declares and encodes them; classified errors are answered as problem details, except those with a tag in `declared`,
 * which also stay in E.
 *
 * **Example** (an endpoint that is limited before its body is read)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
 * import { RateLimit } from "@millrace/core"
 * import { Body, type Request, Server } from "@millrace/http"
 *
 * const Greet = HttpApiEndpoint.post("greet", "/greet/:name", {
 *   params: { name: Schema.String },
 *   payload: Schema.Struct({ word: Schema.String }),
 *   success: Schema.Struct({ said: Schema.String })
 * })
 * const Api = HttpApi.make("Api").add(HttpApiGroup.make("greetings").add(Greet))
 *
 * const greet = (request: Request<HttpApiEndpoint.Request<typeof Greet>>) =>
 *   Effect.succeed({ said: `${request.payload.payload.word} ${request.payload.params.name}` })
 *
 * const greetings = HttpApiBuilder.group(Api, "greetings", (handlers) =>
 *   handlers.handleRaw(
 *     "greet",
 *     Server.endpoint(pipe(greet, Body.endpoint(Greet, { limit: 1000 }), RateLimit.middleware({ limit: 10 })))
 *   ))
 * ```
 *
 * @throws OrderError when the middlewares are in a wrong order
 * @category constructors
 */
export const endpoint = <P extends EndpointRequest, A, E, R, const T extends string = never>(
  handler: Handler<Request<P>, A, E, R> & Undecoded<P>,
  options: EndpointOptions<T> = {}
): (
  request: P
) => Effect.Effect<A | HttpServerResponse.HttpServerResponse, Kept<E, T>, R> => {
  Order.check(handler)
  const declared: ReadonlySet<string> = new Set<string>(options.declared)
  const keeps = (error: unknown): boolean => !Failure.isClassified(error) || declared.has(Failure.tagOf(error))
  const current = () => options.problems === undefined ? Eager.service(Problem.Current) : Exit.succeed(options.problems)
  const respond: Respond = (request, exit) => {
    if (exit._tag === "Success") {
      return Exit.succeed(HttpServerResponse.isHttpServerResponse(exit.value) ? exit.value : undefined)
    }
    const failed = exit.cause.reasons.find(Cause.isFailReason)
    return failed !== undefined && keeps(failed.error)
      ? Exit.succeed(undefined)
      : Effect.flatMapEager(current(), (problems) => Answer.kept(problems, request, exit))
  }
  const statusOf = ({ books }: Request<unknown>, exit: Exit.Exit<unknown, unknown>) =>
    books.values?.statusOf(exit) ?? Answer.statusOf(options.problems ?? programs(), exit)
  return (input) => {
    const source = new RouterSource(input.request, noParams, Fiber.getCurrent()?.context)
    const { method, path } = input.endpoint
    const plain = makeRequest(source, `${method} ${path}`, path)
    plain.books.respond = respond
    plain.books.statusOf = statusOf
    plain.books.values = Values.of(input.endpoint)
    const key = keyOf(options.key, plain)
    const request = (key._tag === "Success" && key.value !== undefined ? plain.withKey(key.value) : plain)
      .withPayload(input)
    const ended: Effect.Effect<A, unknown, R> = key._tag === "Failure"
      ? Exit.failCause(key.cause)
      : After.around(request, handler)
    const answered = Effect.matchCauseEffectEager(ended, {
      onSuccess: Exit.succeed<A>,
      onFailure: (
        cause: Cause.Cause<unknown>
      ): Effect.Effect<HttpServerResponse.HttpServerResponse, Kept<E, T>> => {
        const failed = cause.reasons.find(Cause.isFailReason)
        // a kept error belongs to E, minus the classified errors that are answered below
        if (failed !== undefined && keeps(failed.error)) return Exit.failCause(cause as Cause.Cause<Kept<E, T>>)
        return Effect.flatMapEager(current(), (problems) => Answer.ofCause(problems, request, cause))
      }
    })
    const tell = () => {
      const fiber = Fiber.getCurrent()
      if (fiber === undefined) return
      // a hook, because the endpoint writes its own responses after this effect
      HttpEffect.appendPreResponseHandlerUnsafe(
        fiber.context,
        (_, response) => Answer.leaving(current, request, response)
      )
    }
    return Effect.onExitPrimitive(answered, () => void tell())
  }
}
