/**
 * Serves routes directly on Node's HTTP server, for routes that must be fast. The routes are the same as on Effect's server.
 */
import { Detached, OptionCheck } from "@millrace/core"
import { closed, MessageScopes } from "@millrace/core/MessageScopes"
import { Cause, Context, Data, type Duration, Effect, type Exit, type Fiber, Layer, type Scope } from "effect"
import type { HttpServerResponse } from "effect/http"
import type { IncomingMessage, RequestListener, Server, ServerResponse } from "node:http"
import type { AddressInfo, ListenOptions } from "node:net"
import { broken } from "./internal/answer.ts"
import { limitHead } from "./internal/headTimeout.ts"
import { flawOf } from "./internal/malformed.ts"
import { Connections } from "./internal/nodeConnections.ts"
import { markWaiting, NodeSource, targetOf } from "./internal/nodeRequest.ts"
import { type Sending, write } from "./internal/nodeResponse.ts"
import * as Problem from "./Problem.ts"
import { make as makeRequest } from "./Request.ts"
import { RouteTable } from "./internal/routeTable.ts"
import { nativeOf, type Route } from "./internal/nativeRoute.ts"
import { channel, unmatched } from "./internal/unmatched.ts"

/** The server could not listen at its address. */
export class ListenError extends Data.TaggedError("ListenError")<{
  readonly message: string
  readonly cause: unknown
}> {}

/** A listener, and the drain of its accepted requests. */
export interface Listener {
  /** For `createServer` of `node:http` or `node:https`. */
  readonly listener: RequestListener
  /** For the event `checkContinue` of that server: sends `100 Continue` to the client only when a route reads the body. */
  readonly checkContinue: RequestListener
  /** Sends `connection: close` from now on, and completes once every accepted request is answered. */
  readonly drain: Effect.Effect<void>
}

type Answering = Fiber.Fiber<HttpServerResponse.HttpServerResponse>

/** The services that each route needs. */
type NeedsOf<Each> = Each extends Route<infer R> ? R : never

const noParams = {}

/** A route answers its errors itself, so a remaining cause is an interruption at shutdown or a bug of this package. */
const unanswered = (cause: Cause.Cause<unknown>): HttpServerResponse.HttpServerResponse =>
  Problem.toResponse(
    Problem.of(Problem.defaults, Cause.hasInterruptsOnly(cause) ? { failure: "transient" } : Cause.squash(cause))
  )

/**
 * Makes a Node request listener for routes. It answers an unknown path with 404, and an unknown method of a known path with 405.
 *
 * The routes' handlers run on fibers of the calling program, with its services. The listener writes a synchronous result at
 * once; a client that disconnects interrupts a running handler. `HttpServerRequest` and the other services of Effect's server
 * are not available: a handler reads its `Request`.
 *
 * **Example** (with your own server)
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
  // every route gets the services of all routes
  serving(routes as ReadonlyArray<Route<unknown>> as ReadonlyArray<Route<NeedsOf<Routes[number]>>>)

const serving = <R>(routes: ReadonlyArray<Route<R>>): Effect.Effect<Listener, never, R> =>
  Effect.withFiber((fiber) => {
    const context = Detached.context(fiber.context as Context.Context<R>)
    const runFork = Effect.runForkWith(context)
    const scopes = new MessageScopes<R>(context)
    const table = new RouteTable<R>()
    for (const route of routes) table.add(route, nativeOf(route))
    let pending = 0
    let draining = false
    let drained: (() => void) | undefined
    const settled = () => {
      pending -= 1
      if (pending === 0) drained?.()
    }
    const track = (effect: Effect.Effect<void>) => {
      pending += 1
      runFork(effect).addObserver(settled)
    }
    const later = (effect: Effect.Effect<void>) => void runFork(effect)
    const findRoute = (method: string, url: string, { headers }: IncomingMessage) =>
      table.find(method, url) ??
        (method === "OPTIONS" ? table.findPreflight(headers["access-control-request-method"], url) : undefined)
    const listener: RequestListener = (request, response) => {
      const method = request.method!
      const url = targetOf(request)
      const flaw = flawOf(request)
      const found = flaw === undefined ? findRoute(method, url, request) : undefined
      const source = new NodeSource(request, response, url, found?.params ?? noParams, later)
      const own = scopes.next
      const answering: Answering = Effect.runForkWith(own.context)(
        found === undefined
          ? unmatched(source, table.allowed(url), flaw)
          : Effect.suspend(() => found.handler.run(source))
      )
      const sending: Sending = {
        context,
        lost: (cause) => broken(makeRequest(source, found?.handler.channel ?? channel), cause)
      }
      const send = (exit: Exit.Exit<HttpServerResponse.HttpServerResponse>) => {
        if (draining) response.shouldKeepAlive = false
        if (exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) later(sending.lost(exit.cause))
        const answer = exit._tag === "Success" ? exit.value : unanswered(exit.cause)
        const rest = write(request, response, answer, sending)
        if (rest !== undefined) track(rest)
        const release = closed(own.scope, exit)
        if (release === undefined) scopes.free(own)
        else source.atEnd(release)
      }
      const exit = answering.pollUnsafe()
      if (exit !== undefined) {
        if (own.scope.state._tag !== "Empty") scopes.rotate()
        return send(exit)
      }
      scopes.rotate()
      const gone = () => {
        if (!response.writableEnded) answering.interruptUnsafe()
      }
      response.once("close", gone)
      pending += 1
      answering.addObserver((exit) => {
        response.off("close", gone)
        send(exit)
        settled()
      })
    }
    return Effect.succeed({
      listener,
      checkContinue: (request: IncomingMessage, response: ServerResponse) => {
        markWaiting(request)
        listener(request, response)
      },
      drain: Effect.callback<void>((resume) => {
        draining = true
        if (pending === 0) return resume(Effect.void)
        drained = () => resume(Effect.void)
      })
    })
  })

/** Options of `layer`, beside Node's listen options. */
export interface Options extends ListenOptions {
  /** How long accepted requests may take during shutdown; their connections are then closed. Default: 20 seconds. */
  readonly grace?: Duration.Input | undefined
  /**
   * How long a client may take to send a request's head, above 0. The server then answers 408 and closes the connection, at
   * most a quarter of that time later. Default: 20 seconds, or the `headersTimeout` that the server was made with.
   */
  readonly headTimeout?: Duration.Input | undefined
}

/** The address that a listener listens at. */
class ListenerAddress extends Context.Service<ListenerAddress, AddressInfo>()("@millrace/http/Listener/Address") {}
export { ListenerAddress as Address }

const listen = (server: Server, options: Options): Effect.Effect<AddressInfo, ListenError> =>
  Effect.callback((resume) => {
    const onError = (cause: Error) =>
      resume(Effect.fail(new ListenError({ message: `The server cannot listen: ${cause.message}`, cause })))
    server.once("error", onError)
    server.listen(options, () => {
      server.off("error", onError)
      // the address is a string only for a pipe
      resume(Effect.succeed(server.address() as AddressInfo))
    })
  })

/**
 * Serves routes on a Node server for the lifetime of the layer.
 *
 * Shuts down gracefully: the server accepts no new connections, answers every accepted request and closes its connection, for
 * at most `grace`, and then interrupts unanswered requests. Once the requests are answered, a connection that has not sent a
 * whole request head is closed half a second later.
 *
 * **Example** (a program)
 *
 * ```ts no-run
 * import { NodeRuntime } from "@effect/platform-node"
 * import { Health } from "@millrace/core"
 * import { Effect, Layer } from "effect"
 * import { Server } from "@millrace/http"
 * import * as Listener from "@millrace/http/Listener"
 * import { createServer } from "node:http"
 *
 * Listener.layer(createServer, [Server.route("GET", "/hello", () => Effect.succeed({ hello: "world" }))], { port: 8080 }).pipe(
 *   Layer.launch,
 *   NodeRuntime.runMain({ teardown: Health.teardown })
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
  const grace = OptionCheck.make("Listener").millis("grace", options.grace ?? "20 seconds", { least: 0 })
  const limit = limitHead("Listener", options.headTimeout)
  return Layer.effect(
    ListenerAddress,
    Effect.gen(function*() {
      const { checkContinue, drain, listener } = yield* make(routes)
      const server = create(listener)
      server.on("checkContinue", checkContinue)
      limit(server)
      const connections = new Connections(server)
      const address = yield* listen(server, options)
      yield* Effect.addFinalizer(() => connections.end(drain, grace))
      return address
    })
  )
}
