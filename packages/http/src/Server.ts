/**
 * Routes and endpoints of Effect's HTTP servers, behind the same middlewares as consumers, publishers and clients.
 */
import { After, Description, Eager, Failure, type Handler, Order } from "@millrace/core"
import { ByteSize, Cause, Context, Effect, Exit, Fiber, Option } from "effect"
import { constant } from "effect/Function"
import {
  HttpEffect,
  HttpIncomingMessage,
  HttpRouter,
  type HttpServerError,
  HttpServerRequest,
  type HttpServerRespondable,
  HttpServerResponse
} from "effect/http"
import * as Answer from "./answer.ts"
import { BodyTooLarge, BodyUnreadable } from "./Body.ts"
import * as Values from "./endpointValues.ts"
import * as Problem from "./Problem.ts"
import { make as makeRequest, type Request, type Respond, type Source } from "./Request.ts"

/** What is answered without an entry: errors with a class, and those that are a response or know theirs. */
type Answered = Failure.Classified | HttpServerRespondable.Respondable | HttpServerResponse.HttpServerResponse

type Open<E> = Exclude<E, Answered>

type TagOf<E> = E extends { readonly _tag: infer Tag extends string } ? Tag : never

type ByTag<E, Tag> = Extract<E, { readonly _tag: Tag }>

type Flat<T> = { [K in keyof T]: T[K] } & {}

/** One entry for each error without a class; entries for classified errors are optional and rule over the table. */
export type Entries<E> = Flat<
  & { readonly [Tag in TagOf<Open<E>>]: Problem.Rule<ByTag<E, Tag>> }
  & { readonly [Tag in TagOf<Exclude<E, Open<E>>>]?: Problem.Rule<ByTag<E, Tag>> }
>

type Untagged<E> = E extends { readonly _tag: string } ? never : E

/** Refuses errors that no entry could name. */
export type Named<E> = [Untagged<Open<E>>] extends [never] ? unknown
  : { readonly "an error without _tag and without `failure` cannot be answered": Untagged<Open<E>> }

/** How a route answers. */
export interface Options {
  /** What is kept in order or limited by key, e.g. `(request) => request.params["id"]`. Default: none. */
  readonly key?: ((request: Request) => string | undefined) | undefined
  /** The table of this route. Default: `Problem.Current`, the program's. */
  readonly problems?: Problem.Problems | undefined
}

/** The forms of `route`: `errors` is asked for where an error has no class. */
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

/** Options as they are at run time. */
export type AnyOptions = (Options & { readonly errors?: Problem.Tags | undefined }) | undefined

/** Runs a chain and its hooks, and answers: errors are problems then, and only an interruption is left. */
export const answering = <M extends Request<unknown>, A, E, R>(
  handler: Handler<M, A, E, R>,
  options: AnyOptions
): (request: M) => Effect.Effect<HttpServerResponse.HttpServerResponse, never, R> => {
  Order.check(handler)
  const errors = options?.errors
  const own = options?.problems
  // one merged table for each program's table
  const merged = new WeakMap<Problem.Problems, Problem.Problems>()
  const problemsOf = (current: Problem.Problems): Problem.Problems => {
    if (errors === undefined) return current
    let found = merged.get(current)
    if (found === undefined) {
      merged.set(current, found = { table: current.table, tags: { ...current.tags, ...errors } })
    }
    return found
  }
  const current = own === undefined
    ? () => Effect.mapEager(Eager.service(Problem.Current), problemsOf)
    : constant(Exit.succeed(problemsOf(own)))
  const respond: Respond = (request, exit) =>
    Effect.flatMapEager(current(), (problems) => Answer.kept(problems, request, exit))
  return (request) => {
    request.books.respond = respond
    const answered = Effect.matchCauseEffectEager(After.around(request, handler), {
      onSuccess: (value) =>
        HttpServerResponse.isHttpServerResponse(value)
          ? Exit.succeed(value)
          : Effect.flatMapEager(current(), (problems) => Answer.ofValue(problems, request, value)),
      onFailure: (cause) => Effect.flatMapEager(current(), (problems) => Answer.ofCause(problems, request, cause))
    })
    return Effect.mapEager(answered, (response) => Answer.told(request, response))
  }
}

const tooLarge = (error: HttpServerError.HttpServerError): boolean => {
  const { reason } = error
  if (reason._tag !== "RequestParseError") return false
  const { cause } = reason
  return reason.reason === "BodyTooLarge" || (cause instanceof Error && cause.message === "maxBytes exceeded")
}

/** Reads bodies by Effect's own request, whatever server it is of. */
const bodyOf = (request: HttpServerRequest.HttpServerRequest) => (limit: number) =>
  Effect.provideService(request.arrayBuffer, HttpIncomingMessage.MaxBodySize, ByteSize.bytes(limit)).pipe(
    Effect.map((buffer) => new Uint8Array(buffer)),
    Effect.mapError((error) =>
      tooLarge(error)
        ? new BodyTooLarge({ limit })
        : new BodyUnreadable({ message: "The body could not be read to its end", cause: error })
    )
  )

const noParams = {}

class RouterSource implements Source {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly params: Source["params"]
  constructor(request: HttpServerRequest.HttpServerRequest, params: Source["params"]) {
    this.request = request
    this.params = params
  }
  get method() {
    return this.request.method
  }
  get url() {
    return this.request.originalUrl
  }
  get headers() {
    return this.request.headers
  }
  get address() {
    return Option.getOrUndefined(this.request.remoteAddress)
  }
  get body() {
    return bodyOf(this.request)
  }
}

const NativeId = "~millrace/http/native"

/** A route as a listener runs it, which has a request of its own. */
export interface Native<R> {
  readonly channel: string
  readonly run: (source: Source) => Effect.Effect<HttpServerResponse.HttpServerResponse, never, R>
}

/** A route: of Effect's `HttpRouter`, and of a `Listener`. It describes itself: `Order.explain` and `Description.toText` take it. */
export interface Route<R> extends HttpRouter.Route<never, R>, Description.Described {
  readonly [NativeId]: Native<R>
}

/** How a listener runs a route. */
export const nativeOf = <R>(route: Route<R>): Native<R> => route[NativeId]

/** Methods that a route may have. */
export type Method = Parameters<HttpRouter.HttpRouter["add"]>[0]

/**
 * A route of Effect's `HttpRouter` whose handler is behind middlewares.
 *
 * `handler` takes a `Request`; what it answers is the response: an `HttpServerResponse` as it is, undefined as 204, an
 * `Outcome` as what it means, bytes as bytes, anything else as JSON with 200. Its errors are answered as problem details by
 * their class (see `Problem.table`); an error without a class needs an entry in `errors`, and an error without a tag is
 * refused, both by the compiler. What it needs is what the route needs.
 *
 * Hooks of middlewares run before the response leaves, whatever happened, also when the client has gone; one that fails is
 * answered by its class. A client that goes interrupts the handler.
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
 * @throws OrderError when the middlewares stand in a wrong order
 * @category constructors
 */
export const route: Build = <A, E, R>(
  method: Method,
  path: HttpRouter.PathInput,
  handler: Handler<Request, A, E, R>,
  options: AnyOptions
): Route<R> => {
  const run = answering(handler, options)
  const key = options?.key
  // a prefix changes the template that the router shows; there is one for each place where the route was added
  let seen = path as string
  let channel = `${method === "*" ? "" : `${method} `}${path}`
  const built = HttpRouter.route(
    method,
    path,
    Effect.withFiber((fiber) => {
      // Effect.withFiber says nothing of the context that the router gives every route
      const context = fiber.context as Context.Context<HttpServerRequest.HttpServerRequest | HttpRouter.RouteContext>
      const request = Context.get(context, HttpServerRequest.HttpServerRequest)
      const { params, route } = Context.get(context, HttpRouter.RouteContext)
      if (route.path !== seen) {
        seen = route.path
        channel = `${method === "*" ? "" : `${method} `}${seen}`
      }
      return run(makeRequest(new RouterSource(request, params), channel, key))
    })
  )
  const own = channel
  const native: Native<R> = { channel: own, run: (source) => run(makeRequest(source, own, key)) }
  return Object.assign(built, { [NativeId]: native, [Description.DescriptionId]: Description.of(handler) })
}

/**
 * Routes as a layer for a router, e.g. of `HttpRouter.serve`.
 *
 * **Example** (a server)
 *
 * ```ts no-run
 * import { NodeHttpServer, NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer } from "effect"
 * import { HttpRouter } from "effect/http"
 * import { Server } from "@millrace/http"
 * import { createServer } from "node:http"
 *
 * const routes = Server.layer(Server.route("GET", "/hello/:name", (request) => Effect.succeed({ hello: request.params["name"] })))
 *
 * HttpRouter.serve(routes).pipe(
 *   Layer.provide(NodeHttpServer.layer(createServer, { port: 8080 })),
 *   Layer.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @category layers
 */
export const layer = <const Routes extends ReadonlyArray<HttpRouter.Route<never, unknown>>>(...routes: Routes) =>
  HttpRouter.addAll(routes)

/** What an endpoint of `HttpApi` hands to its handler, as far as it is read here. */
export interface EndpointRequest {
  readonly request: HttpServerRequest.HttpServerRequest
  readonly endpoint: Values.Declares & { readonly method: string; readonly path: string }
}

/** Options of `endpoint`. */
export interface EndpointOptions<T extends string> extends Options {
  /** Tags of classified errors that the endpoint declares and encodes itself; they stay in E. Default: none. */
  readonly declared?: ReadonlyArray<T> | undefined
}

/** The errors that an endpoint encodes itself: those without a class, and those of the tags that it declares. */
export type Kept<E, T extends string> = Exclude<E, Failure.Classified> | Extract<E, { readonly _tag: T }>

/**
 * A handler behind middlewares as the handler of an endpoint of Effect's `HttpApi`.
 *
 * The message is a `Request` whose payload is what the endpoint decoded (`params`, `query`, `headers`, `payload`). Errors
 * without a class stay in E, where the endpoint declares and encodes them; classified errors are answered as problem details,
 * except those of the tags in `declared`, which stay, too.
 *
 * **Example** (an endpoint that is limited)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup } from "effect/http-api"
 * import { RateLimit } from "@millrace/core"
 * import { type Request, Server } from "@millrace/http"
 *
 * const Greet = HttpApiEndpoint.get("greet", "/greet/:name", {
 *   params: { name: Schema.String },
 *   success: Schema.Struct({ hello: Schema.String })
 * })
 * const Api = HttpApi.make("Api").add(HttpApiGroup.make("greetings").add(Greet))
 *
 * const greet = (request: Request<HttpApiEndpoint.Request<typeof Greet>>) =>
 *   Effect.succeed({ hello: request.payload.params.name })
 *
 * const greetings = HttpApiBuilder.group(Api, "greetings", (handlers) =>
 *   handlers.handle("greet", Server.endpoint(pipe(greet, RateLimit.middleware({ limit: 10 })))))
 * ```
 *
 * @throws OrderError when the middlewares stand in a wrong order
 * @category constructors
 */
export const endpoint = <P extends EndpointRequest, A, E, R, const T extends string = never>(
  handler: Handler<Request<P>, A, E, R>,
  options: EndpointOptions<T> = {}
): (
  request: P
) => Effect.Effect<A | HttpServerResponse.HttpServerResponse, Kept<E, T>, R> => {
  Order.check(handler)
  const declared: ReadonlySet<string> = new Set<string>(options.declared)
  const keeps = (error: unknown): boolean => !Failure.isClassified(error) || declared.has(Failure.tagOf(error))
  const current = () => options.problems === undefined ? Eager.service(Problem.Current) : Exit.succeed(options.problems)
  const respond: Respond = (request, exit) => {
    if (exit._tag === "Success") {
      return Exit.succeed(HttpServerResponse.isHttpServerResponse(exit.value) ? exit.value : undefined)
    }
    const failed = exit.cause.reasons.find(Cause.isFailReason)
    return failed !== undefined && keeps(failed.error)
      ? Exit.succeed(undefined)
      : Effect.flatMapEager(current(), (problems) => Answer.kept(problems, request, exit))
  }
  return (input) => {
    const source = new RouterSource(input.request, noParams)
    const { method, path } = input.endpoint
    const request = makeRequest(source, `${method} ${path}`, options.key).withPayload(input)
    request.books.respond = respond
    request.books.values = Values.of(input.endpoint)
    const answered = Effect.matchCauseEffectEager(After.around(request, handler), {
      onSuccess: Exit.succeed<A>,
      onFailure: (cause): Effect.Effect<HttpServerResponse.HttpServerResponse, Kept<E, T>> => {
        const failed = cause.reasons.find(Cause.isFailReason)
        // what is kept is of E without what is answered here
        if (failed !== undefined && keeps(failed.error)) return Exit.failCause(cause as Cause.Cause<Kept<E, T>>)
        return Effect.flatMapEager(current(), (problems) => Answer.ofCause(problems, request, cause))
      }
    })
    const tell = () => {
      const fiber = Fiber.getCurrent()
      if (fiber === undefined || request.books.fields === undefined) return
      // what the endpoint writes itself is not seen here
      HttpEffect.appendPreResponseHandlerUnsafe(
        fiber.context,
        (_, response) => Exit.succeed(Answer.told(request, response))
      )
    }
    return Effect.onExitPrimitive(answered, () => void tell())
  }
}
