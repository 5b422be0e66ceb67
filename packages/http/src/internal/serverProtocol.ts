/**
 * Router-wide behaviour of Effect's router: body limits, answers to requests without a route, preflights.
 */
import { OptionCheck } from "@millrace/core"
import { ByteSize, Cause, Context, Effect, Layer } from "effect"
import {
  HttpIncomingMessage,
  HttpRouter,
  HttpServerError,
  HttpServerRequest,
  type HttpServerResponse
} from "effect/http"
import * as Answer from "./answer.ts"
import { programs } from "./answering.ts"
import { BodyTooLarge } from "./bodyErrors.ts"
import { flawOf, type Parsed } from "./malformed.ts"
import { make as makeRequest } from "../Request.ts"
import { hasCors, longestParam, RouteTable } from "./routeTable.ts"
import { isTooLarge, RouterSource } from "./routerSource.ts"
import { isRoute, nativeOf, type Route } from "./nativeRoute.ts"
import { channel, TargetTooLong, unmatched } from "./unmatched.ts"

/** The parts of an `HttpApi` that this module reads. */
export interface DeclaredApi {
  readonly groups: {
    readonly [name: string]: {
      readonly endpoints: { readonly [name: string]: { readonly method: string; readonly path: string } }
    }
  }
}

/** Options of `protocol`. */
export interface ProtocolOptions {
  /**
   * The most bytes of a body that Effect's own readers accept, an integer from 1, if the program has set no `MaxBodySize`.
   * `Body` has its own limits. Default: 1 MiB.
   */
  readonly bodyLimit?: number | undefined
  /** APIs on this router, whose endpoints count for `405 Method Not Allowed`. Default: none. */
  readonly apis?: ReadonlyArray<DeclaredApi> | undefined
}

const defaults = { bodyLimit: 1024 * 1024 } as const

interface Protocol {
  bodyLimit: ByteSize.ByteSize
  readonly table: RouteTable<unknown>
}

const tooLong =
  "A parameter of the path is longer than the router takes: provide Server.routerConfig to HttpRouter.serve"

const here = (context: Context.Context<never>) =>
  // the router provides the request to every route and middleware
  Context.get(context as Context.Context<HttpServerRequest.HttpServerRequest>, HttpServerRequest.HttpServerRequest)

/** Whether a request is a Node request; other servers reject malformed requests themselves. */
const isParsed = (source: object): source is Parsed => "rawHeaders" in source && "httpVersionMajor" in source

/** Answers the errors that Effect's server would answer without a body, a log line or a metric; undefined for all others. */
const answerTo = (
  { bodyLimit, table }: Protocol,
  cause: Cause.Cause<unknown>,
  context: Context.Context<never>
): Effect.Effect<HttpServerResponse.HttpServerResponse> | undefined => {
  for (const each of cause.reasons) {
    const error = Cause.isFailReason(each) ? each.error : Cause.isDieReason(each) ? each.defect : undefined
    if (!HttpServerError.isHttpServerError(error)) continue
    const { reason } = error
    const source = new RouterSource(here(context), {}, context)
    if (reason._tag === "RouteNotFound") {
      const isLong = reason.description?.includes("maxParamLength") === true
      return unmatched(source, table.allowed(source.url), isLong ? new TargetTooLong({ message: tooLong }) : undefined)
    }
    if (isTooLarge(error)) {
      const request = makeRequest(source, channel)
      return Answer.ofError(programs(), request, new BodyTooLarge({ limit: ByteSize.toNumberUnsafe(bodyLimit) }))
    }
  }
  return undefined
}

const around = (protocol: Protocol) => <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
  Effect.withFiber((fiber): Effect.Effect<HttpServerResponse.HttpServerResponse, E, R> => {
    const { context } = fiber
    const { source } = here(context)
    const flaw = isParsed(source) ? flawOf(source) : undefined
    if (flaw !== undefined) return unmatched(new RouterSource(here(context), {}, context), [], flaw)
    const limited = fiber.getRef(HttpIncomingMessage.MaxBodySize) === undefined
      ? Effect.provideService(app, HttpIncomingMessage.MaxBodySize, protocol.bodyLimit)
      : app
    return Effect.catchCause(limited, (cause) => answerTo(protocol, cause, context) ?? Effect.failCause(cause))
  })

/**
 * Configures Effect's router to accept path parameters as long as those of `Listener`. By Effect's default, a parameter of more
 * than 100 characters is answered with 414. Provide it to the layer of `HttpRouter.serve`.
 *
 * @category layers
 */
export const routerConfig: Layer.Layer<never> = Layer.succeed(HttpRouter.RouterConfig, { maxParamLength: longestParam })

const known = new WeakMap<HttpRouter.HttpRouter, Protocol>()

/** The protocol of a router, added to the router on the first call. */
const of = (router: HttpRouter.HttpRouter): Effect.Effect<Protocol> =>
  Effect.suspend(() => {
    const found = known.get(router)
    if (found !== undefined) return Effect.succeed(found)
    const made: Protocol = { bodyLimit: ByteSize.bytes(defaults.bodyLimit), table: new RouteTable() }
    known.set(router, made)
    return Effect.as(router.addGlobalMiddleware(around(made)), made)
  })

/**
 * Adds body limits and answers for unmatched requests to a router; `Server.layer` adds them with the defaults.
 *
 * A request without a route is answered with a problem: 404, or 405 with `allow` if its path has routes of other methods. The
 * request is logged and counted in `millrace.http.unmatched`. A body beyond `bodyLimit` is answered with 413.
 *
 * @throws RangeError when `bodyLimit` is not an integer from 1
 * @category layers
 */
export const protocol = (options: ProtocolOptions = {}): Layer.Layer<never, never, HttpRouter.HttpRouter> => {
  const limit = OptionCheck.make("Server").count("bodyLimit", options.bodyLimit ?? defaults.bodyLimit)
  return HttpRouter.use((router) =>
    Effect.map(of(router), (protocol) => {
      protocol.bodyLimit = ByteSize.bytes(limit)
      for (const { groups } of options.apis ?? []) {
        for (const { endpoints } of Object.values(groups)) {
          for (const { method, path } of Object.values(endpoints)) protocol.table.declare(method, path)
        }
      }
    })
  )
}

/** Makes an OPTIONS route for each path that has a route with `Cors` and no OPTIONS route of its own. */
const preflights = (routes: ReadonlyArray<Route<unknown>>): ReadonlyArray<HttpRouter.Route<never, unknown>> => {
  const paths = new Map<HttpRouter.PathInput, Map<string, Route<unknown>>>()
  for (const route of routes) {
    if (!hasCors(route) || route.method === "*") continue
    let byMethod = paths.get(route.path)
    if (byMethod === undefined) paths.set(route.path, byMethod = new Map())
    byMethod.set(route.method, route)
  }
  const own = new Set(routes.flatMap(({ method, path }) => method === "OPTIONS" || method === "*" ? [path] : []))
  return Array.from(paths).filter(([path]) => !own.has(path)).map(([path, byMethod]) => {
    const table = new RouteTable<unknown>()
    for (const route of routes) if (route.path === path) table.add(route, nativeOf(route))
    return HttpRouter.route(
      "OPTIONS",
      path,
      Effect.withFiber((fiber) => {
        const context = fiber.context as Context.Context<HttpRouter.RouteContext>
        const { params } = Context.get(context, HttpRouter.RouteContext)
        const source = new RouterSource(here(fiber.context), params, fiber.context)
        const asked = source.headers["access-control-request-method"]
        const found = asked === undefined ? undefined : byMethod.get(asked === "HEAD" ? "GET" : asked)
        return found === undefined ? unmatched(source, table.allowed(source.url)) : nativeOf(found).run(source)
      })
    )
  })
}

/** Adds routes and their preflight routes to a router. */
export const add = <const Routes extends ReadonlyArray<HttpRouter.Route<never, unknown>>>(
  router: HttpRouter.HttpRouter,
  routes: Routes
) =>
  Effect.flatMap(of(router), ({ table }) => {
    const own = routes.filter(isRoute)
    for (const { method, path } of routes) if (method !== "*") table.declare(method, path)
    return Effect.andThen(
      router.addAll(routes),
      // preflight routes have the requirements of their routes
      router.addAll(preflights(own) as unknown as Routes)
    )
  })
