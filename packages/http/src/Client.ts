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
  /**
   * What becomes of a redirect: the answer is an error of class `permanent` (`refuse`), or GET and HEAD go where it says, if the
   * client beneath does that (`follow`; `fetch` does). No other method is ever redirected: that turns a POST into a GET. Default:
   * `refuse`.
   */
  readonly redirects?: "refuse" | "follow" | undefined
  /** How much of a URL errors and spans show: `origin` where its path is a secret. User and query are never shown. Default: `path`. */
  readonly shows?: Shown | undefined
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

/** The innermost handler of a client, as `make` composes it. */
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
          // a client that judges by itself
          : judge(call, error.response)
        // what is no HttpClientError is of E without it
        : Exit.fail(error as Exclude<E, HttpClientError.HttpClientError>)
    const judged = Effect.matchEffect(client.execute(request), {
      onSuccess: (response) => judge(call, response),
      onFailure: failed
    })
    const sent = mayRepeat(request) ? judged : sendOnce(call, judged)
    const direct = follows && (request.method === "GET" || request.method === "HEAD") ? sent : manualRedirects(sent)
    // a span that a middleware has made already is the one that the request carries
    return request.headers["traceparent"] === undefined && shown === "path"
      ? withoutSecrets(direct)
      : Effect.provideService(direct, HttpClient.TracerDisabledWhen, () => true)
  }
}

const usual = Redaction.make()

/** Finds names of parameters that are secrets: spans of Effect's own ask a pattern, by `search`. */
class SecretName extends RegExp {
  override [Symbol.search](name: string): number {
    return usual.isSecret(name) ? 0 : -1
  }
}

const secretName = new SecretName("")

/** No span of the client beneath shows the value of a parameter that is a secret. */
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
 * and Effect's own client span is left out then. A redirect is an error (see `redirects`): it would send elsewhere what was meant for
 * one host, and a POST without its body.
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
  // the forms of Build say what is inferred
}) as Build
