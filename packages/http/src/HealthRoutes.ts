/**
 * Routes for probes, which answer the report of `Health` with 200 or 503.
 */
import { Health, OptionCheck } from "@millrace/core"
import { Effect } from "effect"
import { type HttpRouter, HttpServerResponse } from "effect/http"
import { type Form, forms } from "./internal/healthForms.ts"
import type { Request } from "./Request.ts"
import { type Route, route } from "./Server.ts"

export type { Form } from "./internal/healthForms.ts"

/** The paths of the routes, and the content of the documents. */
export interface Options {
  /** The path of the liveness probe, by which a platform restarts the process. Default: `/livez`; `off` for none. */
  readonly live?: HttpRouter.PathInput | "off" | undefined
  /** The path of the readiness probe, by which a platform routes work to the process. Default: `/readyz`; `off` for none. */
  readonly ready?: HttpRouter.PathInput | "off" | undefined
  /** The path of the startup probe. Default: `/startupz`; `off` for none. */
  readonly startup?: HttpRouter.PathInput | "off" | undefined
  /** The path of the full report, for people; answered like readiness. Default: `/healthz`; `off` for none. */
  readonly all?: HttpRouter.PathInput | "off" | undefined
  /** The form of the document. Default: `health+json`. */
  readonly form?: Form | undefined
  /**
   * Whether a document shows the reasons of a failure: the error's class and tag, the text that the check releases, and details.
   * A function decides for each request; if the function throws, nothing is shown. Default: `never`.
   */
  readonly details?: "always" | "never" | ((request: Request) => boolean) | undefined
}

/** The defaults of the options of `make`. */
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

/** Writes a report as a response: 503 if the status is down, otherwise 200; with `cache-control: no-store`. */
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
 * Makes routes of GET, and so of HEAD, for `Server.layer` and `Listener`. They require `Health.Registry`.
 *
 * A document contains the overall status, the time, and for each check its status, its latency and the time of its last change.
 * A degraded program answers 200, because it works. Nothing about an error is shown without `details`.
 *
 * `live` never waits, in particular not for anything outside of the process. The others wait for their checks, each within its
 * timeout.
 *
 * Source: https://kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes/
 *
 * **Example** (details for requests with a secret header)
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
 * @throws RangeError when `form` or `details` has an unknown value
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
