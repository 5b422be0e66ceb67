/**
 * Routes for probes: the report of `Health`, answered with 200 or 503.
 */
import { Health, OptionCheck } from "@millrace/core"
import { Effect } from "effect"
import { type HttpRouter, HttpServerResponse } from "effect/http"
import { type Form, forms } from "./internal/healthForms.ts"
import type { Request } from "./Request.ts"
import { type Route, route } from "./Server.ts"

export type { Form } from "./internal/healthForms.ts"

/** Where the routes are, and what they show. */
export interface Options {
  /** Whether the process shall go on. Default: `/livez`; `off` for none. */
  readonly live?: HttpRouter.PathInput | "off" | undefined
  /** Whether it shall be sent work. Default: `/readyz`; `off` for none. */
  readonly ready?: HttpRouter.PathInput | "off" | undefined
  /** Whether it has started. Default: `/startupz`; `off` for none. */
  readonly startup?: HttpRouter.PathInput | "off" | undefined
  /** All of it, for people; answered as readiness is. Default: `/healthz`; `off` for none. */
  readonly all?: HttpRouter.PathInput | "off" | undefined
  /** The form of the document. Default: `health+json`. */
  readonly form?: Form | undefined
  /**
   * Who sees why something is down: the class and the tag of the error, the sentence that its check lets out, and details.
   * A function decides for each request; where it throws, nothing is shown. Default: `never`.
   */
  readonly details?: "always" | "never" | ((request: Request) => boolean) | undefined
}

/** What `make` does where an option is not given. */
export const defaults = {
  live: "/livez",
  ready: "/readyz",
  startup: "/startupz",
  all: "/healthz",
  form: "health+json",
  details: "never"
} as const satisfies Options

const allowed = (details: NonNullable<Options["details"]>) => (request: Request): boolean => {
  if (typeof details !== "function") return details === "always"
  try {
    return details(request)
  } catch {
    return false
  }
}

/** A report as a response: 503 where it is down, 200 otherwise; never kept by a cache. */
export const toResponse = (
  report: Health.Report,
  options: { readonly form?: Form | undefined; readonly details?: "always" | "never" | undefined } = {}
): HttpServerResponse.HttpServerResponse => {
  const { contentType, write } = forms[options.form ?? defaults.form]
  return HttpServerResponse.jsonUnsafe(write(report, options.details === "always"), {
    status: report.status === "down" ? 503 : 200,
    contentType,
    headers: { "cache-control": "no-store" }
  })
}

/**
 * Routes of GET, and so of HEAD, for `Server.layer` and `Listener`; they need `Health.Registry`.
 *
 * A document says how all is, the time, and of each check its status, how long its answer took and since when it is so. What is
 * degraded is answered with 200, since it works. Nothing of an error is shown without `details`.
 *
 * `live` never waits, for anything outside of the process least of all. The others wait for their checks, each within its time.
 *
 * Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
 *
 * **Example** (details for those who know a word)
 *
 * ```ts
 * import { Health, MemoryBroker } from "@millrace/core"
 * import { HealthRoutes } from "@millrace/http"
 * import * as Listener from "@millrace/http/Listener"
 * import { Layer } from "effect"
 * import { createServer } from "node:http"
 *
 * const word = process.env["HEALTH_WORD"]
 * const routes = HealthRoutes.make({
 *   details: ({ headers }) => word !== undefined && headers["x-health-word"] === word
 * })
 *
 * const probes = Listener.layer(createServer, routes, { port: 9000 }).pipe(
 *   Layer.provideMerge(Health.layer([Health.broker()])),
 *   Layer.provide(MemoryBroker.layer())
 * )
 * ```
 *
 * @throws RangeError when `form` or `details` is none of those
 * @category constructors
 */
export const make = (options: Options = {}): ReadonlyArray<Route<Health.Registry>> => {
  const check = OptionCheck.make("HealthRoutes")
  const form = check.oneOf("form", options.form ?? defaults.form, ["health+json", "microprofile", "services"])
  const details = options.details ?? defaults.details
  if (typeof details !== "function") check.oneOf("details", details, ["always", "never"])
  const isAllowed = allowed(details)
  const answer = (kind: Health.Report["kind"]) => (request: Request) =>
    Effect.map(
      Health.report(kind),
      (report) => toResponse(report, { form, details: isAllowed(request) ? "always" : "never" })
    )
  const places = [
    [options.live ?? defaults.live, "liveness"],
    [options.ready ?? defaults.ready, "readiness"],
    [options.startup ?? defaults.startup, "startup"],
    [options.all ?? defaults.all, "all"]
  ] as const
  // a server answers HEAD by the route of GET
  return places.flatMap(([path, kind]) => path === "off" ? [] : [route("GET", path, answer(kind))])
}
