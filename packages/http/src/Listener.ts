/**
 * Routes on Node's own HTTP server, without a step between: for the routes that must be fast. What they are served by is all
 * that differs from Effect's server.
 */
import { Detached, OptionCheck } from "@millrace/core"
import { Context, Data, Duration, Effect, type Exit, Fiber, Layer, type Scope } from "effect"
import { FindMyWay, type HttpRouter, HttpServerResponse } from "effect/http"
import type { RequestListener, Server } from "node:http"
import type { AddressInfo, ListenOptions } from "node:net"
import { NodeSource } from "./nodeRequest.ts"
import { write } from "./nodeResponse.ts"
import * as Problem from "./Problem.ts"
import { type Native, nativeOf, type Route } from "./Server.ts"

/** The server could not listen at its address. */
export class ListenError extends Data.TaggedError("ListenError")<{
  readonly message: string
  readonly cause: unknown
}> {}

/** A listener, and what it still answers. */
export interface Listener {
  /** For `createServer` of `node:http` or `node:https`. */
  readonly listener: RequestListener
  /** Answers from now on with `connection: close`, and completes when every accepted request is answered. */
  readonly drain: Effect.Effect<void>
}

type Answering = Fiber.Fiber<HttpServerResponse.HttpServerResponse>

/** The services that routes need, each its own. */
type NeedsOf<Each> = Each extends Route<infer R> ? R : never

interface Found<R> {
  readonly handler: Native<R>
  readonly params: Readonly<Record<string, string | undefined>>
}

const noParams = {}

/** Finds routes as Effect's router does; one without parameters is looked up. */
const finder = <R>(routes: ReadonlyArray<Route<R>>): (method: string, url: string) => Found<R> | undefined => {
  const router = FindMyWay.make<Native<R>>({ ignoreDuplicateSlashes: true })
  const fixed = new Map<string, Found<R>>()
  for (const route of routes) {
    const native = nativeOf(route)
    const paths = route.path.endsWith("/*")
      ? [route.path, route.path.slice(0, -2) as HttpRouter.PathInput]
      : [route.path]
    for (const path of paths) {
      if (route.method === "*") router.all(path, native)
      else router.on(route.method, path, native)
    }
    if (route.method !== "*" && !/[:*()]/.test(route.path)) {
      fixed.set(`${route.method} ${route.path}`, { handler: native, params: noParams })
    }
  }
  const find = (method: string, url: string) => fixed.get(`${method} ${url}`) ?? router.find(method, url)
  return (method, url) => find(method, url) ?? (method === "HEAD" ? find("GET", url) : undefined)
}

const notFound = HttpServerResponse.jsonUnsafe(
  { type: "about:blank", title: "Not Found", status: 404 },
  { status: 404, contentType: "application/problem+json" }
)

const unanswered = (exit: Exit.Exit<unknown, unknown>): HttpServerResponse.HttpServerResponse =>
  // a route answers its errors itself, so this is an interruption: the program ends
  Problem.toResponse(Problem.of(Problem.defaults, exit._tag === "Failure" ? { failure: "transient" } : undefined))

/**
 * A listener of Node's for routes; a request for none of them is answered with 404.
 *
 * The routes' handlers run on fibers of the calling program, with its services. What is finished when the handler returns is
 * written at once; a client that goes interrupts what is not. `HttpServerRequest` and the other services of Effect's server
 * are not there: a handler reads its `Request`.
 *
 * **Example** (a server of one's own)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Server } from "@millrace/http"
 * import * as Listener from "@millrace/http/Listener"
 * import { createServer } from "node:http"
 *
 * const program = Effect.gen(function*() {
 *   const { listener } = yield* Listener.make([Server.route("GET", "/hello", () => Effect.succeed({ hello: "world" }))])
 *   return createServer(listener)
 * })
 * ```
 *
 * @category constructors
 */
export const make = <const Routes extends ReadonlyArray<Route<unknown>>>(
  routes: Routes
): Effect.Effect<Listener, never, NeedsOf<Routes[number]>> =>
  // a route takes the services of all
  serving(routes as ReadonlyArray<Route<unknown>> as ReadonlyArray<Route<NeedsOf<Routes[number]>>>)

const serving = <R>(routes: ReadonlyArray<Route<R>>): Effect.Effect<Listener, never, R> =>
  Effect.withFiber((fiber) => {
    const context = Detached.context(fiber.context as Context.Context<R>)
    const runFork = Effect.runForkWith(context)
    const find = finder(routes)
    let pending = 0
    let draining = false
    let drained: (() => void) | undefined
    const listener: RequestListener = (request, response) => {
      if (draining) response.shouldKeepAlive = false
      const found = find(request.method!, request.url!)
      if (found === undefined) return void write(request, response, notFound, context)
      const source = new NodeSource(request, found.params)
      const answering: Answering = runFork(Effect.suspend(() => found.handler.run(source)))
      const exit = answering.pollUnsafe()
      if (exit !== undefined) {
        const rest = write(request, response, exit._tag === "Success" ? exit.value : unanswered(exit), context)
        if (rest === undefined) return
        track(runFork(rest))
        return
      }
      const gone = () => {
        if (!response.writableEnded) answering.interruptUnsafe()
      }
      response.once("close", gone)
      pending += 1
      answering.addObserver((exit) => {
        response.off("close", gone)
        if (draining) response.shouldKeepAlive = false
        const rest = write(request, response, exit._tag === "Success" ? exit.value : unanswered(exit), context)
        if (rest !== undefined) track(runFork(rest))
        settled()
      })
    }
    const settled = () => {
      pending -= 1
      if (pending === 0) drained?.()
    }
    const track = (fiber: Fiber.Fiber<unknown>) => {
      pending += 1
      fiber.addObserver(settled)
    }
    return Effect.succeed({
      listener,
      drain: Effect.callback<void>((resume) => {
        draining = true
        if (pending === 0) return resume(Effect.void)
        drained = () => resume(Effect.void)
      })
    })
  })

/** Options of `layer`: where to listen, as Node takes it. */
export interface Options extends ListenOptions {
  /** How long accepted requests may take once the program ends; beyond, their connections are closed. Default: 20 seconds. */
  readonly grace?: Duration.Input | undefined
}

/** Where a listener listens. */
class ListenerAddress extends Context.Service<ListenerAddress, AddressInfo>()("@millrace/http/Listener/Address") {}
export { ListenerAddress as Address }

const listen = (server: Server, options: Options): Effect.Effect<AddressInfo, ListenError> =>
  Effect.callback((resume) => {
    const onError = (cause: Error) =>
      resume(Effect.fail(new ListenError({ message: `The server cannot listen: ${cause.message}`, cause })))
    server.once("error", onError)
    server.listen(options, () => {
      server.off("error", onError)
      // only a pipe has a text
      resume(Effect.succeed(server.address() as AddressInfo))
    })
  })

const close = (server: Server): Effect.Effect<void> =>
  Effect.callback((resume) => void server.close(() => resume(Effect.void)))

/**
 * Serves routes on a server of Node's for as long as the layer lives.
 *
 * When it ends, nothing more is accepted, every accepted request is answered and its connection closed, for at most `grace`;
 * what is not answered by then is interrupted.
 *
 * **Example** (a program)
 *
 * ```ts no-run
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Effect, Layer } from "effect"
 * import { Server } from "@millrace/http"
 * import * as Listener from "@millrace/http/Listener"
 * import { createServer } from "node:http"
 *
 * Listener.layer(createServer, [Server.route("GET", "/hello", () => Effect.succeed({ hello: "world" }))], { port: 8080 }).pipe(
 *   Layer.launch,
 *   NodeRuntime.runMain
 * )
 * ```
 *
 * @category layers
 */
export const layer = <const Routes extends ReadonlyArray<Route<unknown>>>(
  create: (listener: RequestListener) => Server,
  routes: Routes,
  options: Options
): Layer.Layer<ListenerAddress, ListenError, Exclude<NeedsOf<Routes[number]>, Scope.Scope>> => {
  const grace = Duration.millis(
    OptionCheck.make("Listener").millis("grace", options.grace ?? "20 seconds", { least: 0 })
  )
  return Layer.effect(
    ListenerAddress,
    Effect.gen(function*() {
      const { drain, listener } = yield* make(routes)
      const server = create(listener)
      const address = yield* listen(server, options)
      yield* Effect.addFinalizer(() =>
        Effect.gen(function*() {
          const closed = yield* Effect.forkChild(close(server), { startImmediately: true })
          yield* Effect.timeoutOrElse(Effect.andThen(drain, Fiber.await(closed)), {
            duration: grace,
            orElse: () => Effect.void
          })
          server.closeAllConnections()
          yield* Fiber.await(closed)
        })
      )
      return address
    })
  )
}
