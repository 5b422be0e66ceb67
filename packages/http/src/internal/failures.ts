/**
 * What a request of a client can end in beside an answer: classes of statuses, and of connections that failed.
 */
import { Failure, NetworkFailure } from "@millrace/core"
import { redirects } from "@millrace/core/manualRedirects"
import { Clock, Data, type Duration, Effect, Redacted, Stream } from "effect"
import type { HttpClientError, HttpClientResponse } from "effect/http"
import * as RetryAfter from "./retryAfter.ts"

/** No answer came: the request could not be sent, or the connection ended before the answer. */
export class RequestFailed extends Data.TaggedError("RequestFailed")<{
  readonly method: string
  /** Without credentials, query and fragment. */
  readonly url: string
  /**
   * - `Connection`: the server was not reached, and nothing was sent
   * - `Lost`: the connection ended after the request may have been sent
   * - `Invalid`: the request cannot be sent at all: its URL, a header or its body is wrong
   * - `Timeout`: no answer came in time
   * - `Hook`: the answer came, and a hook of a middleware failed after it
   */
  readonly reason: "Connection" | "Lost" | "Invalid" | "Timeout" | "Hook"
  readonly failure: Failure.FailureClass
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {}

/** The server answered with a status that says no. */
export class StatusFailed extends Data.TaggedError("StatusFailed")<{
  readonly method: string
  /** Without credentials, query and fragment. */
  readonly url: string
  readonly status: number
  readonly failure: Failure.FailureClass
  /** From `Retry-After`, in either form; at most a day. */
  readonly retryAfter?: Duration.Duration | undefined
  /** The beginning of the answer's body, as much as came within 250 ms, at most 16 KiB; it may repeat what was sent, so nothing prints it. */
  readonly body: Redacted.Redacted<Uint8Array>
  readonly contentType: string | undefined
}> {
  override get message(): string {
    const more = redirects.has(this.status) ? ", a redirect, which is not followed: send to its target" : ""
    return `${this.method} ${this.url} answered ${this.status}${more}`
  }
}

/** What a status means: a class of failure, or that all is well. */
export type Verdict = Failure.FailureClass | "done"

/** The verdict on each status; `4xx` and its like stand for all others of a hundred. */
export interface Statuses {
  readonly [status: number]: Verdict | undefined
  readonly "2xx"?: Verdict | undefined
  readonly "3xx"?: Verdict | undefined
  readonly "4xx"?: Verdict | undefined
  readonly "5xx"?: Verdict | undefined
}

/** The classes of statuses, unless they are changed. */
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

/** The verdict on a status; one that no table knows will not change. */
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

/** How much of a URL is shown: its origin, or its path, too. */
export type Shown = "path" | "origin"

/** A URL as it may be shown: without user, query and fragment, and of a path that is a secret nothing. */
export const shownUrl = (url: string, shown: Shown = "path"): string => {
  const bare = url.replace(/[?#].*$/s, "").replace(/^([a-z][\w+.-]*:\/\/)[^/]*@/i, "$1")
  return shown === "path" ? bare : bare.replace(/^([a-z][\w+.-]*:\/\/[^/]*)\/.*$/is, "$1/…")
}

/** The error of a request that got no answer. A request that must not be sent twice is `permanent`, unless it was never sent. */
export const ofTransport = (
  error: HttpClientError.HttpClientError,
  repeatable: boolean,
  shown?: Shown
): RequestFailed => {
  const { reason, request } = error
  const url = shownUrl(request.url, shown)
  const common = { method: request.method, url, cause: reason.cause }
  if (reason._tag === "InvalidUrlError" || reason._tag === "EncodeError") {
    const what = reason._tag === "InvalidUrlError" ? "its URL is no URL" : "its body cannot be encoded"
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

/** How long the beginning of such a body is waited for, in milliseconds: its status is what counts. */
const longestBody = 250

/** The beginning of a body, as far as it comes soon; the rest is cancelled, so that its connection is free again. */
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
    // a body that breaks off is as good as one that ends
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

/** The error of an answer that says no. What must not be sent twice is `permanent` where the class says that it may succeed later. */
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
          // whatever carries a time is tried again
          retryAfter: again && !Failure.lasting.has(found)
            ? RetryAfter.parse(response.headers["retry-after"], now)
            : undefined,
          body: Redacted.make(body),
          contentType: response.headers["content-type"]
        })
      )
    }
  )
