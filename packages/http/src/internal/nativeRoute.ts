/**
 * A route of `Server.route`, for Effect's router and for a `Listener`.
 */
import type { Description } from "@millrace/core"
import type { Effect } from "effect"
import type { HttpRouter, HttpServerResponse } from "effect/http"
import type { Source } from "../Request.ts"

/** The property of a route that holds its `Native` form. */
export const NativeId = "~millrace/http/native"

/** The form of a route that a listener runs with its own request source. */
export interface Native<R> {
  readonly channel: string
  /** Whether the route answers preflights, so that an OPTIONS request may run the route. */
  readonly hasCors: boolean
  readonly run: (source: Source) => Effect.Effect<HttpServerResponse.HttpServerResponse, never, R>
}

/** A route for Effect's `HttpRouter` and for a `Listener`. `Order.explain` and `Description.toText` accept a route. */
export interface Route<R> extends HttpRouter.Route<never, R>, Description.Described {
  readonly [NativeId]: Native<R>
}

/** Whether `Server.route` made a route. */
export const isRoute = (route: HttpRouter.Route<never, unknown>): route is Route<unknown> => NativeId in route

/** The form of a route that a listener runs. */
export const nativeOf = <R>(route: Route<R>): Native<R> => route[NativeId]
