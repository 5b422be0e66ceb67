/**
 * Errors of client requests: failure classes of statuses and of failed connections.
 */
import { Failure, NetworkFailure } from "@millrace/core"
import { redirects } from "@millrace/core/manualRedirects"
import { Clock, Data, type Duration, Effect, Redacted, Stream } from "effect"
import type { HttpClientError, HttpClientResponse } from "effect/http"
import * as RetryAfter from "@millrace/core/retryAfter"

/**
 * The request failed without a status: not sent, connection lost, timed out, or a hook failed after the answer (see `reason`).
 */
export class RequestFailed extends Data.TaggedError("RequestFailed")<{
  readonly method: string
  /** Without credentials, query and fragment. */
  readonly url: string
  /**
   * - `Connection`: the client could not reach the server, and nothing was sent
   * - `Lost`: the connection ended after the request may have been sent
   * - `Invalid`: the request cannot be sent at all, because its URL, a header or its body is invalid
   * - `Timeout`: the server did not answer in time
   * - `Hook`: the server answered, and a hook of a middleware failed afterwards
   */
  readonly reason: "Connection" | "Lost" | "Invalid" | "Timeout" | "Hook"
  readonly failure: Failure.FailureClass
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {}

/** The server answered with an error status or a redirect. */
export class StatusFailed extends Data.TaggedError("StatusFailed")<{
  readonly method: string
  /** Without credentials, query and fragment. */
  readonly url: string
  readonly status: number
  readonly failure: Failure.FailureClass
  /** From `Retry-After`, in either form; at most a day. */
  readonly retryAfter?: Duration.Duration | undefined
  /**
   * The beginning of the response body: at most 16 KiB, received within 250 ms. Redacted, because the server may echo the
   * request.
   */
  readonly body: Redacted.Redacted<Uint8Array>
  readonly contentType: string | undefined
}> {
  override get message(): string {
    const more = redirects.has(this.status) ? ", a redirect, which is not followed: send to its target" : ""
    return `${this.method} ${this.url} answered ${this.status}${more}`
  }
}

/** The meaning of a status: a failure class, or `done` for success. */
export type Verdict = Failure.FailureClass | "done"

/** The verdict on each status; `4xx` and the like apply to all unlisted statuses of their class. */
export interface Statuses {
  readonly [status: number]: Verdict | undefined
  readonly "2xx"?: Verdict | undefined
  readonly "3xx"?: Verdict | undefined
  readonly "4xx"?: Verdict | undefined
  readonly "5xx"?: Verdict | undefined
}

/** The default verdicts. */
export const statuses: Statuses = {
  "2xx": "done",
  "3xx": "done",
  "4xx": "permanent",
  "5xx": "dependency",
  301: "permanent",
  302: "permanent",
  303: "permanent",
  307: "permanent",
  308: "permanent",
  400: "validation",
  401: "auth",
  403: "auth",
  407: "auth",
  408: "transient",
  409: "conflict",
  422: "validation",
  423: "conflict",
  425: "transient",
  429: "throttled",
  501: "permanent",
  502: "transient",
  503: "transient",
  504: "transient",
  505: "permanent"
}

/** The verdict on a status; `permanent` for a status without an entry. */
export const verdictOf = (table: Statuses, status: number): Verdict => {
  const hundred = Math.trunc(status / 100)
  const others = hundred === 2
    ? table["2xx"]
    : hundred === 3
    ? table["3xx"]
    : hundred === 4
    ? table["4xx"]
    : hundred === 5
    ? table["5xx"]
    : undefined
  return table[status] ?? others ?? "permanent"
}

/** The part of a URL that is shown: the origin only, or the origin and the path. */
export type Shown = "path" | "origin"

/** Removes user, query and fragment from a URL, and with `origin` also the path. */
export const shownUrl = (url: string, shown: Shown = "path"): string => {
  const bare = url.replace(/[?#].*$/s, "").replace(/^([a-z][\w+.-]*:\/\/)[^/]*@/i, "$1")
  return shown === "path" ? bare : bare.replace(/^([a-z][\w+.-]*:\/\/[^/]*)\/.*$/is, "$1/…")
}

const user = /^[a-z][\w+.-]*:\/\/[^/?#]*@/i

/** The parts of a URL that `shownUrl` removes. */
const hiddenParts = (url: string, shown: Shown | undefined): ReadonlyArray<string> => {
  const [, name = "", path = "", rest = ""] = /^[a-z][\w+.-]*:\/\/(?:([^/?#]*)@)?[^/?#]*([^?#]*)(.*)$/is.exec(url) ?? []
  // a shorter text stands in other texts by chance
  return [name, rest, shown === "origin" ? path : ""].filter((part) => part.length > 2)
}

const chainText = (cause: unknown): string => {
  let text = ""
  for (let each = cause, depth = 0; each instanceof Error && depth < 10; each = each.cause, depth++) {
    text += `${each.message} ${each.stack ?? ""} `
  }
  return text
}

/** A cause whose texts show a hidden part of the URL, as fetch's do, is replaced by an error with its name alone. */
const withoutUrl = (cause: unknown, url: string, shown: Shown | undefined): unknown => {
  const text = chainText(cause)
  if (!hiddenParts(url, shown).some((part) => text.includes(part))) return cause
  return new Error(`${Failure.tagOf(cause)}; its text is not shown, because it holds the URL`)
}

/** The error of an unanswered request. A request that must not be sent twice is `permanent`, unless it was never sent. */
export const ofTransport = (
  error: HttpClientError.HttpClientError,
  repeatable: boolean,
  shown?: Shown
): RequestFailed => {
  const { reason, request } = error
  const url = shownUrl(request.url, shown)
  const common = { method: request.method, url, cause: withoutUrl(reason.cause, request.url, shown) }
  // fetch throws before it sends; Node's client sends the user as basic authentication
  const hasUser = reason.cause instanceof TypeError && user.test(request.url)
  if (reason._tag === "InvalidUrlError" || reason._tag === "EncodeError" || hasUser) {
    const what = hasUser
      ? "its URL has a user, which fetch refuses: send an authorization header"
      : reason._tag === "InvalidUrlError"
      ? "its URL is no URL"
      : "its body cannot be encoded"
    return new RequestFailed({
      ...common,
      reason: "Invalid",
      failure: "permanent",
      message: `${request.method} ${url} cannot be sent: ${what}`
    })
  }
  const network = NetworkFailure.of(reason.cause, "publish", {
    product: "HTTP server",
    address: hostOf(url),
    option: "the URL",
    tls: "correct the scheme or the port of the URL"
  })
  if (network !== undefined && network.reason !== "Lost") {
    return new RequestFailed({
      ...common,
      reason: "Connection",
      failure: network.reason === "Credentials" ? "permanent" : "dependency",
      message: `${request.method} ${url} was not sent: ${network.message}`
    })
  }
  return new RequestFailed({
    ...common,
    reason: "Lost",
    failure: repeatable ? "transient" : "permanent",
    message: `${request.method} ${url} got no answer${repeatable ? "" : ", and is not sent twice"}`
  })
}

const hostOf = (url: string): string => URL.parse(url)?.host ?? url

const mostBody = 16 * 1024

/** The longest wait for the beginning of an error body, in milliseconds; the status matters more than the body. */
const longestBody = 250

/** Reads the beginning of a body, and cancels the rest so that the connection is free again. */
const beginning = (response: HttpClientResponse.HttpClientResponse): Effect.Effect<Uint8Array> => {
  let size = 0
  const chunks: Array<Uint8Array> = []
  return response.stream.pipe(
    Stream.takeUntil((chunk) => {
      chunks.push(chunk.subarray(0, mostBody - size))
      size += chunks.at(-1)!.length
      return size >= mostBody
    }),
    Stream.runDrain,
    // a truncated body is good enough
    Effect.catchCause(() => Effect.void),
    Effect.timeoutOption(longestBody),
    Effect.map(() => {
      const body = new Uint8Array(size)
      let at = 0
      for (const chunk of chunks) {
        body.set(chunk, at)
        at += chunk.length
      }
      return body
    })
  )
}

/** The error of an error status. A request that must not be sent twice is `permanent` instead of a retryable class. */
export const ofResponse = (
  response: HttpClientResponse.HttpClientResponse,
  found: Failure.FailureClass,
  repeatable: boolean,
  shown?: Shown
): Effect.Effect<never, StatusFailed> =>
  Effect.flatMap(
    Effect.zip(beginning(response), Clock.currentTimeMillis),
    ([body, now]) => {
      const { method, url } = response.request
      const again = repeatable || Failure.lasting.has(found)
      return Effect.fail(
        new StatusFailed({
          method,
          url: shownUrl(url, shown),
          status: response.status,
          failure: again ? found : "permanent",
          // an error with a retryAfter is retried, so a permanent one has none
          retryAfter: again && !Failure.lasting.has(found)
            ? RetryAfter.parse(response.headers["retry-after"], now)
            : undefined,
          body: Redacted.make(body),
          contentType: response.headers["content-type"]
        })
      )
    }
  )
