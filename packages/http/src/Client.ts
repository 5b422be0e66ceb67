/**
 * Effect's HTTP client behind the same middlewares as consumers, publishers and servers.
 */
import { After, Description, Failure, type Handler, OptionCheck, Order, Redaction, type Stack } from "@millrace/core"
import { manualRedirects } from "@millrace/core/manualRedirects"
import { Effect, Exit } from "effect"
import { HttpClient, HttpClientError, type HttpClientRequest, type HttpClientResponse, UrlParams } from "effect/http"
import { Call } from "./Call.ts"
import {
  ofResponse,
  ofTransport,
  RequestFailed,
  type Shown,
  shownUrl,
  type Statuses,
  statuses,
  type StatusFailed,
  verdictOf
} from "./internal/failures.ts"
import { firstWrong, shownName } from "./internal/headerText.ts"
import { answeredForGood, isRepeatable, sendOnce } from "./internal/repeat.ts"

export { Call } from "./Call.ts"
export { RequestFailed, type Statuses, statuses, StatusFailed } from "./internal/failures.ts"
export { isRepeatable } from "./internal/repeat.ts"

/** Options of `make` and `handler`. */
export interface Options {
  /** The channel of a request; it should have few values. Default: the method and the host, e.g. `GET api.example.com`. */
  readonly channel?: ((request: HttpClientRequest.HttpClientRequest) => string) | undefined
  /** The key of a request. Default: none. */
  readonly key?: ((request: HttpClientRequest.HttpClientRequest) => string | undefined) | undefined
  /** Changes to `statuses`. Default: none. */
  readonly statuses?: Statuses | undefined
  /**
   * Which requests may be sent again when the server may already have received them: `idempotent` (requests with an idempotent
   * method or an `Idempotency-Key`), `always`, or a function that decides. Default: `idempotent`.
   */
  readonly repeat?: "idempotent" | "always" | ((request: HttpClientRequest.HttpClientRequest) => boolean) | undefined
  /**
   * The handling of redirects: `refuse` fails with class `permanent`; `follow` lets the underlying client follow redirects of
   * GET and HEAD, if it supports that (`fetch` does). Other methods are never redirected, because that turns a POST into a GET.
   * Default: `refuse`.
   */
  readonly redirects?: "refuse" | "follow" | undefined
  /**
   * The part of a URL that errors and spans show: `origin` hides a secret path. User and query are never shown. Default:
   * `path`.
   */
  readonly shows?: Shown | undefined
}

/** The errors of the innermost handler, on top of a client that fails with `E`. */
export type Failures<E> = Exclude<E, HttpClientError.HttpClientError> | RequestFailed | StatusFailed

/** The innermost handler of a client, which sends the request and classifies the answer. */
export type Innermost<E, R> = Handler<Call, HttpClientResponse.HttpClientResponse, Failures<E>, R>

const hostOf = (url: string): string => {
  const host = /^[a-z][\w+.-]*:\/\/(?:[^/?#]*@)?([^/?#]*)/i.exec(url)?.[1]
  return host === undefined || host === "" ? "localhost" : host
}

const channelOf = (request: HttpClientRequest.HttpClientRequest): string => `${request.method} ${hostOf(request.url)}`

const refuse = (
  request: HttpClientRequest.HttpClientRequest,
  what: string,
  shown: Shown
): Exit.Exit<never, RequestFailed> => {
  const url = shownUrl(request.url, shown)
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

/** Makes the innermost handler of a client, which `make` puts inside the middlewares. */
export const handler = <E, R>(client: HttpClient.HttpClient.With<E, R>, options: Options = {}): Innermost<E, R> => {
  const table: Statuses = { ...statuses, ...options.statuses }
  const { repeat = "idempotent" } = options
  const check = OptionCheck.make("Client")
  if (typeof repeat !== "function") check.oneOf("repeat", repeat, ["idempotent", "always"])
  const follows = check.oneOf("redirects", options.redirects ?? "refuse", ["refuse", "follow"]) === "follow"
  const shown = check.oneOf("shows", options.shows ?? "path", ["path", "origin"])
  const mayRepeat = typeof repeat === "function" ? repeat : repeat === "always" ? () => true : isRepeatable
  const judge = (
    call: Call,
    response: HttpClientResponse.HttpClientResponse
  ): Effect.Effect<HttpClientResponse.HttpClientResponse, StatusFailed> => {
    const found = verdictOf(table, response.status)
    if (found === "done") return Exit.succeed(response)
    const failed = ofResponse(response, found, mayRepeat(call.request), shown)
    return Failure.lasting.has(found) ? answeredForGood(call, failed) : failed
  }
  return (call) => {
    const { request } = call
    const wrong = firstWrong(request.headers)
    if (wrong !== undefined) {
      return refuse(request, `the header ${shownName(wrong)} has characters that no header may have`, shown)
    }
    const failed = (error: E): Effect.Effect<HttpClientResponse.HttpClientResponse, Failures<E>> =>
      HttpClientError.isHttpClientError(error)
        ? error.response === undefined
          ? Exit.fail(ofTransport(error, mayRepeat(request), shown))
          // the underlying client already fails by status
          : judge(call, error.response)
        // any other error is of type E without HttpClientError
        : Exit.fail(error as Exclude<E, HttpClientError.HttpClientError>)
    const judged = Effect.matchEffect(client.execute(request), {
      onSuccess: (response) => judge(call, response),
      onFailure: failed
    })
    const sent = mayRepeat(request) ? judged : sendOnce(call, judged)
    const direct = follows && (request.method === "GET" || request.method === "HEAD") ? sent : manualRedirects(sent)
    // with a traceparent, a middleware has already made the span of the request
    return request.headers["traceparent"] === undefined && shown === "path"
      ? withoutSecrets(direct)
      : Effect.provideService(direct, HttpClient.TracerDisabledWhen, () => true)
  }
}

const usual = Redaction.make()

/** Matches names of secret parameters; Effect's spans test names by the `search` method of a pattern. */
class SecretName extends RegExp {
  override [Symbol.search](name: string): number {
    return usual.isSecret(name) ? 0 : -1
  }
}

const secretName = new SecretName("")

/** Hides the values of secret parameters in spans of the underlying client. */
const withoutSecrets = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.withFiber((fiber) =>
    Effect.provideService(self, UrlParams.CurrentRedactedNames, [
      ...fiber.getRef(UrlParams.CurrentRedactedNames),
      secretName
    ])
  )

const hookFailed = ({ request }: Call, shown: Shown | undefined) => (error: Failure.Classified): RequestFailed => {
  const url = shownUrl(request.url, shown)
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

/**
 * Middlewares of a client, as a function of the innermost handler, e.g. a middleware or `(next) => pipe(next, inner, outer)`.
 */
export interface Through<E0, R0, E, R> {
  (next: Innermost<E0, R0>): Handler<Call, HttpClientResponse.HttpClientResponse, E, R>
}

/** The effect of a middleware on a handler's types, as recorded by a stack. */
export interface Config {
  readonly provides: unknown
  readonly requires: unknown
  readonly handles: unknown
  readonly fails: unknown
  readonly answers: unknown
}

/** The errors and requirements of a client behind a stack. */
export type Folded<L extends ReadonlyArray<Config>, E, R> = Stack.Fold<
  L,
  { A: HttpClientResponse.HttpClientResponse; E: Failures<E>; R: R }
>

/** The overloads of `make`. */
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
 * Makes a client whose requests pass middlewares, and whose 4xx and 5xx answers are errors with a failure class.
 *
 * `through` is a middleware, a stack over `Call`, or a function of the innermost handler; its errors and requirements become
 * those of the requests. Each request runs the chain and the hooks of its middlewares; the caller reads the body of the answer
 * after them.
 *
 * Errors: `StatusFailed` by the class of the status (`statuses`), with `retryAfter` from `Retry-After`; `RequestFailed` of
 * class `dependency` if no connection was made, `transient` if the connection was lost after the request may have been sent,
 * `permanent` if the request cannot be sent. A retryable failure of a request that must not be sent twice (a POST without
 * `Idempotency-Key`, see `repeat`) is `permanent`, also if a `Timeout` interrupted the request: neither `Retry` nor redelivery
 * of the current message sends the request again. A failed connection attempt is retried for every method.
 *
 * Headers with line breaks and other invalid characters are refused before the request is sent. `Trace` writes its span into
 * the request, and Effect's own client span is then omitted. A redirect is an error (see `redirects`), because it would send
 * the request to another host, and a POST without its body.
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
 * @throws OrderError when the middlewares are in a wrong order
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
    const call = new Call(request, nameOf(request), options?.key?.(request), {
      hooks: undefined,
      isUnrepeatable: false,
      isNamed: options?.channel !== undefined,
      shows: options?.shows
    })
    return After.around(call, chain, hookFailed(call, options?.shows))
  }
  return HttpClient.makeWith<unknown, unknown, unknown, unknown>(
    (request) => Effect.flatMap(request, run),
    Effect.succeed
  )
  // the overloads of Build declare the inferred types
}) as Build
