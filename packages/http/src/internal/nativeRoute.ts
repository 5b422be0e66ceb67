/**
 * A route of `Server.route`: of Effect's router, and of a `Listener`.
 */
import type { Description } from "@millrace/core"
import type { Effect } from "effect"
import type { HttpRouter, HttpServerResponse } from "effect/http"
import type { Source } from "../Request.ts"

/** Where a route keeps how a listener runs it. */
export const NativeId = "~millrace/http/native"

/** A route as a listener runs it, which has a request of its own. */
export interface Native<R> {
  readonly channel: string
  /** Whether it answers preflights: a request of OPTIONS may run it. */
  readonly hasCors: boolean
  readonly run: (source: Source) => Effect.Effect<HttpServerResponse.HttpServerResponse, never, R>
}

/** A route: of Effect's `HttpRouter`, and of a `Listener`. It describes itself: `Order.explain` and `Description.toText` take it. */
export interface Route<R> extends HttpRouter.Route<never, R>, Description.Described {
  readonly [NativeId]: Native<R>
}

/** Whether a route of a router is one of `route`. */
export const isRoute = (route: HttpRouter.Route<never, unknown>): route is Route<unknown> => NativeId in route

/** How a listener runs a route. */
export const nativeOf = <R>(route: Route<R>): Native<R> => route[NativeId]
