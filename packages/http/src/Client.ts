/**
 * Effect's HTTP client behind the same middlewares as consumers, publishers and servers.
 */
import { After, Description, Failure, type Handler, OptionCheck, Order, type Stack } from "@millrace/core"
import { Effect, Exit } from "effect"
import { HttpClient, HttpClientError, type HttpClientRequest, type HttpClientResponse } from "effect/http"
import { Call } from "./Call.ts"
import {
  isRepeatable,
  ofResponse,
  ofTransport,
  RequestFailed,
  shownUrl,
  type Statuses,
  statuses,
  type StatusFailed,
  verdictOf
} from "./failures.ts"
import { firstWrong, shownName } from "./headerText.ts"

export { Call } from "./Call.ts"
export { isRepeatable, RequestFailed, type Statuses, statuses, StatusFailed } from "./failures.ts"

/** How requests are named and judged. */
export interface Options {
  /** The channel of a request; it should have few values. Default: the method and the host, e.g. `GET api.example.com`. */
  readonly channel?: ((request: HttpClientRequest.HttpClientRequest) => string) | undefined
  /** The key of a request. Default: none. */
  readonly key?: ((request: HttpClientRequest.HttpClientRequest) => string | undefined) | undefined
  /** Changes to `statuses`. Default: none. */
  readonly statuses?: Statuses | undefined
  /**
   * Which requests may be sent again after they may have been received: `idempotent` (those whose method is, and those with
   * an `Idempotency-Key`), `always`, or as a function says. Default: `idempotent`.
   */
  readonly repeat?: "idempotent" | "always" | ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
}

/** What the innermost handler of a client fails with, over a client that fails with `E`. */
export type Failures<E> = Exclude<E, HttpClientError.HttpClientError> | RequestFailed | StatusFailed

/** The innermost handler of a client: sends, and judges the answer. */
export type Innermost<E, R> = Handler<Call, HttpClientResponse.HttpClientResponse, Failures<E>, R>

const hostOf = (url: string): string => {
  const host = /^[a-z][\w+.-]*:\/\/(?:[^/?#]*@)?([^/?#]*)/i.exec(url)?.[1]
  return host === undefined || host === "" ? "localhost" : host
}

const channelOf = (request: HttpClientRequest.HttpClientRequest): string => `${request.method} ${hostOf(request.url)}`

const refuse = (request: HttpClientRequest.HttpClientRequest, what: string): Exit.Exit<never, RequestFailed> => {
  const url = shownUrl(request.url)
  return Exit.fail(
    new RequestFailed({
      method: request.method,
      url,
      reason: "Invalid",
      failure: "permanent",
      message: `${request.method} ${url} cannot be sent: ${what}`
    })
  )
}

/** The innermost handler of a client, as `make` composes it. */
export const handler = <E, R>(client: HttpClient.HttpClient.With<E, R>, options: Options = {}): Innermost<E, R> => {
  const table: Statuses = { ...statuses, ...options.statuses }
  const { repeat = "idempotent" } = options
  if (typeof repeat !== "function") OptionCheck.make("Client").oneOf("repeat", repeat, ["idempotent", "always"])
  const mayRepeat = typeof repeat === "function" ? repeat : repeat === "always" ? () => true : isRepeatable
  const judge = (
    request: HttpClientRequest.HttpClientRequest,
    response: HttpClientResponse.HttpClientResponse
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, StatusFailed> => {
    const found = verdictOf(table, response.status)
    return found === "done" ? Exit.succeed(response) : ofResponse(response, found, mayRepeat(request))
  }
  return (call) => {
    const { request } = call
    const wrong = firstWrong(request.headers)
    if (wrong !== undefined) {
      return refuse(request, `the header ${shownName(wrong)} has characters that no header may have`)
    }
    const failed = (error: E): Effect.Effect<HttpClientResponse.HttpClientResponse, Failures<E>> =>
      HttpClientError.isHttpClientError(error)
        ? error.response === undefined
          ? Exit.fail(ofTransport(error, mayRepeat(request)))
          // a client that judges by itself
          : judge(request, error.response)
        // what is no HttpClientError is of E without it
        : Exit.fail(error as Exclude<E, HttpClientError.HttpClientError>)
    const judged = Effect.matchEffect(client.execute(request), {
      onSuccess: (response) => judge(request, response),
      onFailure: failed
    })
    const sent = mayRepeat(request) ? judged : Effect.suspend(() => {
      call.markUnrepeatable(true)
      // an interrupted request stays marked: it may have been received
      return Effect.onExitPrimitive(judged, (exit) => {
        if (!Exit.hasInterrupts(exit)) call.markUnrepeatable(false)
        return undefined
      })
    })
    // a span that a middleware has made already is the one that the request carries
    return request.headers["traceparent"] === undefined
      ? sent
      : Effect.provideService(sent, HttpClient.TracerDisabledWhen, () => true)
  }
}

const hookFailed = ({ request }: Call) => (error: Failure.Classified): RequestFailed => {
  const url = shownUrl(request.url)
  return new RequestFailed({
    method: request.method,
    url,
    reason: "Hook",
    failure: isRepeatable(request) ? error.failure : "permanent",
    retryAfter: isRepeatable(request) ? error.retryAfter : undefined,
    message: `${request.method} ${url} was answered, and a hook of a middleware failed: ${Failure.tagOf(error)}`,
    cause: error
  })
}

/** Middlewares of a client: a function of the innermost handler, e.g. a middleware, or `(next) => pipe(next, inner, outer)`. */
export interface Through<E0, R0, E, R> {
  (next: Innermost<E0, R0>): Handler<Call, HttpClientResponse.HttpClientResponse, E, R>
}

/** What a middleware does to a handler's types, as a stack keeps it. */
export interface Config {
  readonly provides: unknown
  readonly requires: unknown
  readonly handles: unknown
  readonly fails: unknown
  readonly answers: unknown
}

/** What a client fails with and needs behind a stack. */
export type Folded<L extends ReadonlyArray<Config>, E, R> = Stack.Fold<
  L,
  { A: HttpClientResponse.HttpClientResponse; E: Failures<E>; R: R }
>

/** The forms of `make`. */
export interface Build {
  <E0, R0>(
    client: HttpClient.HttpClient.With<E0, R0>,
    options?: Options
  ): HttpClient.HttpClient.With<Failures<E0>, R0>
  <E0, R0, E, R>(
    client: HttpClient.HttpClient.With<E0, R0>,
    through: Through<E0, R0, E, R>,
    options?: Options
  ): HttpClient.HttpClient.With<E | RequestFailed, R>
  <E0, R0, L extends ReadonlyArray<Config>>(
    client: HttpClient.HttpClient.With<E0, R0>,
    through: Stack.Stack<Call, Call, L>,
    options?: Options
  ): HttpClient.HttpClient.With<Folded<L, E0, R0>["E"] | RequestFailed, Folded<L, E0, R0>["R"]>
}

type AnyThrough = (next: Innermost<unknown, unknown>) => Innermost<unknown, unknown>

/**
 * A client whose requests pass middlewares, and whose answers of 4xx and 5xx are errors with a class.
 *
 * `through` is a middleware, a stack over `Call`, or a function of the innermost handler; what it fails with and needs is what
 * requests fail with and need. Each request runs the chain and the hooks of its middlewares; the body of its answer is read
 * after them, by whoever asked.
 *
 * Errors: `StatusFailed` by the class of the status (`statuses`), with `retryAfter` from `Retry-After`; `RequestFailed` of
 * class `dependency` where no answer came, `permanent` where the request cannot be sent. What would be tried again, and must
 * not be sent twice (a POST without `Idempotency-Key`, see `repeat`), is `permanent`, also where a `Timeout` cut it off: neither `Retry` nor the source of the
 * message that is being handled sends it again. A connection that was never made is tried again, whatever the method.
 *
 * Headers with line breaks and the like are refused before anything is sent. `Trace` writes the span of the request into it,
 * and Effect's own client span is left out then. A client that follows redirects sends elsewhere what was meant for one host:
 * give `fetch` `redirect: "manual"` where the target is not trusted.
 *
 * Sources: RFC 9110; for statuses, RFC 6585 and RFC 8470.
 *
 * **Example** (three attempts, five seconds each)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { HttpClient } from "effect/http"
 * import { Retry, Timeout, Trace } from "@millrace/core"
 * import { Client } from "@millrace/http"
 *
 * const program = Effect.gen(function*() {
 *   const client = Client.make(yield* HttpClient.HttpClient, (next) =>
 *     pipe(next, Timeout.middleware({ after: "5 seconds" }), Retry.middleware({ times: 2 }), Trace.middleware()))
 *   const response = yield* client.get("https://api.example.com/stock/7")
 *   return yield* response.json
 * })
 * ```
 *
 * @throws OrderError when the middlewares stand in a wrong order
 * @category constructors
 */
export const make: Build = ((
  client: HttpClient.HttpClient.With<unknown, unknown>,
  ...rest: ReadonlyArray<AnyThrough | { readonly handle: AnyThrough } | Options | undefined>
): HttpClient.HttpClient.With<unknown, unknown> => {
  const [first] = rest
  const through = typeof first === "function"
    ? first
    : first !== undefined && "handle" in first
    ? (next: Innermost<unknown, unknown>) => first.handle(next)
    : undefined
  const options = (through === undefined ? first : rest[1]) as Options | undefined
  const innermost = handler(client, options)
  const described = Description.describe(innermost, [{ name: "HttpClient", stage: "publish" }])
  const chain = through === undefined ? described : through(described)
  Order.check(chain)
  const nameOf = options?.channel ?? channelOf
  const run = (request: HttpClientRequest.HttpClientRequest) => {
    const call = new Call(request, nameOf(request), options?.key?.(request))
    return After.around(call, chain, hookFailed(call))
  }
  return HttpClient.makeWith<unknown, unknown, unknown, unknown>(
    (request) => Effect.flatMap(request, run),
    Effect.succeed
  )
  // the forms of Build say what is inferred
}) as Build
