/**
 * Endpoints for monitoring: metrics for Prometheus, and errors, trends, insights, alerts, channels and health as JSON.
 */
import { type Auth, type Failure, type Handler, Health, Metrics, OptionCheck } from "@millrace/core"
import { HealthRoutes, type Request, Server } from "@millrace/http"
import { Monitor } from "@millrace/monitor"
import { type Duration, Effect } from "effect"
import { HttpServerResponse } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { BadRequest, errors, headers, json } from "./internal/answer.ts"
import { shared } from "./internal/shared.ts"

/** The services that the answers read. */
export type Needs = Monitor.Service | Metrics.Registry | Health.Registry

/** The handler of an endpoint, before its middlewares. */
export type Answer<R = Needs> = Handler<
  Request,
  HttpServerResponse.HttpServerResponse,
  Failure.Classified,
  R | Auth.Principal
>

/**
 * The middlewares around each endpoint: a middleware, e.g. `Auth.middleware({ scopes: ["monitor:read"] })`, or a function such as
 * `(answer) => stack.handle(answer)`. The endpoints require a `Principal`, so a server whose guard authenticates nobody does not
 * compile.
 */
export interface Guard<R, In = Needs> {
  (answer: Answer<In>): Handler<Request, unknown, Failure.Classified, R>
}

/** Options of `make`. */
export interface Options<R> {
  /** The middlewares around each endpoint, which give the `Principal`. For a public endpoint: `Dashboard.anonymous`. */
  readonly through: Guard<R>
  /** The path that all endpoints begin with. Default: `/metrics`. */
  readonly path?: `/${string}` | undefined
  /** How long an answer is shared by all who ask; from 0. Default: 1 second. */
  readonly cache?: Duration.Input | undefined
}

/** The defaults of the options of `make`. */
export const defaults = { path: "/metrics", cache: "1 second" } as const

const check = OptionCheck.make("MonitorRoutes")

const prometheus = "text/plain; version=0.0.4; charset=utf-8"

/** Reads the parameter `hours` of a request. */
const hoursOf = (request: Request, otherwise: number): Effect.Effect<number, BadRequest> => {
  const text = request.query.get("hours")
  if (text === null) return Effect.succeed(otherwise)
  const hours = /^\d{1,3}$/.test(text) ? Number(text) : 0
  return hours >= 1 && hours <= 168
    ? Effect.succeed(hours)
    : Effect.fail(new BadRequest({ message: "hours must be an integer from 1 to 168" }))
}

/** One shared answer for each number of hours. */
const byHours = <E, R>(
  read: (hours: number) => Effect.Effect<unknown, E, R>,
  otherwise: number,
  cache: number
) => {
  const each = new Map<number, Effect.Effect<string, E, R>>()
  const textOf = (hours: number) => {
    const known = each.get(hours)
    if (known !== undefined) return known
    const text = shared(Effect.map(read(hours), (value) => JSON.stringify(value)), cache)
    each.set(hours, text)
    return text
  }
  return (request: Request) => Effect.map(Effect.flatMap(hoursOf(request, otherwise), textOf), json)
}

const one = <E, R>(read: Effect.Effect<unknown, E, R>, cache: number) => {
  const text = shared(Effect.map(read, (value) => JSON.stringify(value)), cache)
  return () => Effect.map(text, json)
}

/**
 * Makes routes of GET for `Server.layer` and `Listener`.
 *
 * | path                       | answer                                                            |
 * | -------------------------- | ----------------------------------------------------------------- |
 * | `/metrics`                 | all metrics of the program, in Prometheus' text format            |
 * | `/metrics/errors`          | `Monitor.errors`                                                  |
 * | `/metrics/trends?hours=24` | `Monitor.trends`; hours from 1 to 168                             |
 * | `/metrics/insights`        | `Monitor.insights`                                                |
 * | `/metrics/alerts?hours=24` | `Monitor.transitions`: alerts that began or ceased to fire        |
 * | `/metrics/channels`        | `Metrics.snapshot`: counts, errors and percentiles of each channel |
 * | `/metrics/health`          | the report of `Health`, with 503 if it is down                    |
 *
 * An answer is computed at most once a second, whatever the number of callers. It holds no body, no header and no id of a user.
 * Errors: 400 for a number of hours out of range, 503 while the monitor's store is down, and those of `through`; all are problem
 * details.
 *
 * **Example** (for callers whose token has a scope)
 *
 * ```ts
 * import { Auth } from "@millrace/core"
 * import { MonitorRoutes } from "@millrace/dashboard"
 *
 * const routes = MonitorRoutes.make({ through: Auth.middleware({ scopes: ["monitor:read"] }) })
 * console.log(routes.length) // => 7
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const make = <R>(options: Options<R>): ReadonlyArray<Server.Route<R>> => {
  const cache = check.millis("cache", options.cache ?? defaults.cache, { least: 0, most: 60_000 })
  const path = options.path ?? defaults.path
  const text = shared(PrometheusMetrics.format(), cache)
  const health = shared(Health.report("all"), cache)
  const get = (rest: `/${string}` | "", answer: Answer) =>
    Server.route("GET", `${path}${rest}`, options.through(answer), { errors })
  return [
    get("", () => Effect.map(text, (text) => HttpServerResponse.text(text, { contentType: prometheus, headers }))),
    get("/errors", one(Monitor.errors, cache)),
    get("/trends", byHours(Monitor.trends, 24, cache)),
    get("/insights", one(Monitor.insights, cache)),
    get("/alerts", byHours(Monitor.transitions, 24, cache)),
    get("/channels", one(Metrics.snapshot, cache)),
    get("/health", () => Effect.map(health, (report) => HealthRoutes.toResponse(report)))
  ]
}
