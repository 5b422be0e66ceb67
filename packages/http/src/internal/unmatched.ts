/**
 * Answers requests without a route: 404, 405 with the allowed methods, and OPTIONS. Errors are logged; all are counted by a
 * metric.
 */
import { Data, Effect, Exit, Metric } from "effect"
import { HttpServerResponse } from "effect/http"
import * as Answer from "./answer.ts"
import { programs } from "./answering.ts"
import type { RequestMalformed } from "./malformed.ts"
import { make as makeRequest, type Source } from "../Request.ts"

/** No route matches the path. Class `permanent`, answered with 404. */
export class RouteNotFound extends Data.TaggedError("RouteNotFound")<{}> {
  readonly failure = "permanent" as const
}

/** The path has routes of other methods only. Class `permanent`, answered with 405 and `allow`. */
export class MethodNotAllowed extends Data.TaggedError("MethodNotAllowed")<{
  readonly allowed: ReadonlyArray<string>
}> {
  readonly failure = "permanent" as const
}

/** A path parameter exceeds the router's limit. Class `permanent`, answered with 414. */
export class TargetTooLong extends Data.TaggedError("TargetTooLong")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

/** The channel of all requests without a route, so that clients cannot invent channels. */
export const channel = "unmatched"

const count = Metric.counter("millrace.http.unmatched", {
  description: "Requests that no route answered.",
  attributes: { unit: "{request}" },
  incremental: true
})

const known = new Set(["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"])

/** Answers a request without a route; `allowed` holds the methods of its path. */
export const unmatched = (
  source: Source,
  allowed: ReadonlyArray<string>,
  error?: RouteNotFound | MethodNotAllowed | TargetTooLong | RequestMalformed
): Effect.Effect<HttpServerResponse.HttpServerResponse> =>
  Effect.suspend(() => {
    const request = makeRequest(source, channel)
    const { method } = request
    const answered = error === undefined && method === "OPTIONS" && (allowed.length > 0 || source.url === "*")
      ? Exit.succeed(HttpServerResponse.empty({ status: 204, headers: { allow: allowed.join(", ") } }))
      : Answer.ofError(
        programs(),
        request,
        error ?? (allowed.length > 0 ? new MethodNotAllowed({ allowed }) : new RouteNotFound())
      )
    return Effect.tap(answered, ({ status }) =>
      Metric.update(
        Metric.withAttributes(count, {
          "http.request.method": known.has(method) ? method : "_OTHER",
          "http.response.status_code": String(status)
        }),
        1
      ))
  })
