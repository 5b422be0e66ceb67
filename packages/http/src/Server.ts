/**
 * Routes and endpoints of Effect's HTTP servers, behind the same middlewares as consumers, publishers and clients.
 */
import { Description, type Failure, type Handler } from "@millrace/core"
import { Context, Effect } from "effect"
import { HttpRouter, HttpServerRequest, type HttpServerRespondable, type HttpServerResponse } from "effect/http"
import { answering, type AnsweringOptions } from "./internal/answering.ts"
import type * as Problem from "./Problem.ts"
import { type Native, NativeId, type Route } from "./internal/nativeRoute.ts"
import { make as makeRequest, type Request } from "./Request.ts"
import { RouterSource } from "./internal/routerSource.ts"
import * as Protocol from "./internal/serverProtocol.ts"

export { isRoute, type Native, nativeOf, type Route } from "./internal/nativeRoute.ts"
export {
  endpoint,
  type EndpointOptions,
  type EndpointRequest,
  type Kept,
  type Undecoded
} from "./internal/serverEndpoint.ts"
export { type DeclaredApi, protocol, type ProtocolOptions, routerConfig } from "./internal/serverProtocol.ts"

/** Errors that need no entry: classified errors, responses, and errors that convert themselves to a response. */
type Answered = Failure.Classified | HttpServerRespondable.Respondable | HttpServerResponse.HttpServerResponse

type Open<E> = Exclude<E, Answered>

type TagOf<E> = E extends { readonly _tag: infer Tag extends string } ? Tag : never

type ByTag<E, Tag> = Extract<E, { readonly _tag: Tag }>

type Flat<T> = { [K in keyof T]: T[K] } & {}

/** One entry for each error without a class; entries for classified errors are optional and take precedence over the table. */
export type Entries<E> = Flat<
  & { readonly [Tag in TagOf<Open<E>>]: Problem.Rule<ByTag<E, Tag>> }
  & { readonly [Tag in TagOf<Exclude<E, Open<E>>>]?: Problem.Rule<ByTag<E, Tag>> }
>

type Untagged<E> = E extends { readonly _tag: string } ? never : E

/** Rejects errors that no entry can name, because they have no `_tag`. */
export type Named<E> = [Untagged<Open<E>>] extends [never] ? unknown
  : { readonly "an error without _tag and without `failure` cannot be answered": Untagged<Open<E>> }

/** Options of `route`. */
export interface Options {
  /** The key of a request, for ordering and for limits by key, e.g. `(request) => request.params["id"]`. Default: none. */
  readonly key?: ((request: Request) => string | undefined) | undefined
  /** The problem table of this route. Default: the program's, `Problem.Current`. */
  readonly problems?: Problem.Problems | undefined
}

/** The overloads of `route`: `errors` is required if an error has no class. */
export interface Build {
  <A, E extends Answered = never, R = never>(
    method: Method,
    path: HttpRouter.PathInput,
    handler: Handler<Request, A, E, R>,
    options?: Options & { readonly errors?: Entries<E> | undefined }
  ): Route<R>
  <A, E = never, R = never>(
    method: Method,
    path: HttpRouter.PathInput,
    handler: Handler<Request, A, E, R>,
    options: Options & { readonly errors: Entries<E> } & Named<E>
  ): Route<R>
}

/** Methods that a route may have. */
export type Method = Parameters<HttpRouter.HttpRouter["add"]>[0]

/**
 * Makes a route of Effect's `HttpRouter` whose handler is behind middlewares.
 *
 * `handler` takes a `Request`; its result becomes the response: an `HttpServerResponse` is sent unchanged, undefined as 204, an
 * `Outcome` as the corresponding status, bytes as bytes, and anything else as JSON with 200. Its errors are answered as problem
 * details by their class (see `Problem.table`). The compiler requires an entry in `errors` for an error without a class, and
 * rejects an error without a tag. The route has the handler's requirements.
 *
 * Hooks of middlewares always run before the response is sent, also if the client has disconnected; a failing hook is answered
 * by its class. A client that disconnects interrupts the handler.
 *
 * **Example** (an endpoint with a limit, and an error of its own)
 *
 * ```ts
 * import { Data, Effect, pipe, Schema } from "effect"
 * import { RateLimit } from "@millrace/core"
 * import { Body, type Request, Server } from "@millrace/http"
 *
 * class OutOfStock extends Data.TaggedError("OutOfStock")<{}> {}
 * const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
 *
 * const place = (request: Request<typeof Order.Type>) =>
 *   request.payload.amount > 100 ? Effect.fail(new OutOfStock()) : Effect.succeed({ placed: request.payload.id })
 *
 * const route = Server.route(
 *   "POST",
 *   "/orders",
 *   pipe(place, Body.json(Order), RateLimit.middleware({ limit: 50 })),
 *   { errors: { OutOfStock: { status: 409 } } }
 * )
 * ```
 *
 * @throws OrderError when the middlewares are in a wrong order
 * @category constructors
 */
export const route: Build = <A, E, R>(
  method: Method,
  path: HttpRouter.PathInput,
  handler: Handler<Request, A, E, R>,
  options: AnsweringOptions | undefined
): Route<R> => {
  const run = answering(handler, options)
  // a prefix changes the template that the router reports, and the route may be added under several prefixes
  let seen = path as string
  let channel = `${method === "*" ? "" : `${method} `}${path}`
  const built = HttpRouter.route(
    method,
    path,
    Effect.withFiber((fiber) => {
      // the router provides these services to every route, which the type of Effect.withFiber omits
      const context = fiber.context as Context.Context<HttpServerRequest.HttpServerRequest | HttpRouter.RouteContext>
      const request = Context.get(context, HttpServerRequest.HttpServerRequest)
      const { params, route } = Context.get(context, HttpRouter.RouteContext)
      if (route.path !== seen) {
        seen = route.path
        channel = `${method === "*" ? "" : `${method} `}${seen}`
      }
      return run(makeRequest(new RouterSource(request, params, context), channel, seen))
    })
  )
  const own = channel
  const description = Description.of(handler)
  const hasCors = description.some(({ name }) => name === "Cors")
  const native: Native<R> = { channel: own, hasCors, run: (source) => run(makeRequest(source, own, path)) }
  return Object.assign(built, { [NativeId]: native, [Description.DescriptionId]: description })
}

/**
 * Adds routes to a router, e.g. of `HttpRouter.serve`, with `protocol` around them. A route whose chain has `Cors` also answers
 * preflights of its path.
 *
 * **Example** (a server)
 *
 * ```ts no-run
 * import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
 * import { Health } from "@millrace/core"
 * import { Effect, Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Server } from "@millrace/http"
 * import * as NodeServer from "@millrace/http/NodeServer"
 * import { createServer } from "node:http"
 *
 * const routes = Server.layer(Server.route("GET", "/hello/:name", (request) => Effect.succeed({ hello: request.params["name"] })))
 *
 * HttpRouter.serve(routes).pipe(
 *   Layer.provide(NodeHttpServer.layer(NodeServer.make(createServer), { port: 8080 })),
 *   Layer.launch,
 *   NodeRuntime.runMain({ teardown: Health.teardown })
 * )
 * ```
 *
 * @category layers
 */
export const layer = <const Routes extends ReadonlyArray<HttpRouter.Route<never, unknown>>>(...routes: Routes) =>
  HttpRouter.use((router) => Protocol.add(router, routes))
