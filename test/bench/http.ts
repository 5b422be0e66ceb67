import { NodeHttpServer } from "@effect/platform-node"
import { type Envelope, Log, Middleware, RateLimit, Retry } from "@millrace/core"
import { type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Data, Effect, Exit, Layer, Logger, pipe, References } from "effect"
import { HttpRouter, HttpServerRequest, HttpServerResponse } from "effect/http"
import { fork } from "node:child_process"
import { createServer, type RequestListener } from "node:http"
import type { AddressInfo } from "node:net"
import { type Bench, type Measured, scaled, stopwatch } from "./Bench.ts"
import { onFastify, onHono } from "./http/peers.ts"
import { Bucket, correlation, limit, order, seen } from "./http/work.ts"

const warm = scaled(30_000)
const count = scaled(90_000)

/** Asks a server in this process from another one, and measures this one. */
const measured = async (port: number): Promise<Measured> => {
  const child = fork(new URL("http/load.ts", import.meta.url), [String(port)], { execArgv: ["--no-warnings"] })
  const ask = (requests: number) =>
    new Promise<void>((resolve, reject) => {
      child.once("message", (wrong) => wrong === 0 ? resolve() : reject(new Error(`${String(wrong)} wrong answers`)))
      child.once("exit", (code) => reject(new Error(`the load ended with ${code}`)))
      child.send(requests)
    })
  try {
    await ask(warm)
    const stop = stopwatch()
    await ask(count)
    return stop(count)
  } finally {
    child.removeAllListeners("exit").kill()
  }
}

const onNode = (listener: RequestListener) => async (): Promise<Measured> => {
  const server = createServer(listener)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const result = await measured((server.address() as AddressInfo).port)
  server.closeAllConnections()
  server.close()
  return result
}

const fastify = async (): Promise<Measured> => {
  const app = await onFastify()
  await app.listen({ port: 0, host: "127.0.0.1" })
  const result = await measured((app.server.address() as AddressInfo).port)
  app.server.closeAllConnections()
  await app.close()
  return result
}

/** The same work by hand: correlation id, rate limit, idempotency look-up, log that is off, errors. */
const byHand = (): RequestListener => {
  const bucket = new Bucket()
  const logs = process.env["MILLRACE_NEVER"] !== undefined
  return (request, response) => {
    try {
      const id = request.headers[correlation] ?? "none"
      response.setHeader(correlation, id)
      if (request.url?.startsWith("/orders/") !== true || request.method !== "GET") {
        response.writeHead(404)
        return void response.end()
      }
      if (!bucket.take()) {
        response.writeHead(429)
        return void response.end()
      }
      const key = request.headers["idempotency-key"]
      if (typeof key === "string" && seen.has(key)) {
        response.writeHead(409)
        return void response.end()
      }
      const body = JSON.stringify({ ...order, id: request.url.slice(8) })
      response.writeHead(200, { "content-type": "application/json", "content-length": Buffer.byteLength(body) })
      response.end(body)
      if (logs) console.log(request.method, request.url, 200, id)
    } catch {
      response.writeHead(500)
      response.end()
    }
  }
}

class Seen extends Data.TaggedError("Seen")<{}> {
  readonly failure = "conflict" as const
}

const correlate = Middleware.make()(
  { name: "Correlate", stage: "consume" },
  (next) => (message: Envelope) =>
    message.headers[correlation] === undefined ? next(message.withHeader(correlation, "none")) : next(message)
)

const idempotent = Middleware.make()(
  { name: "Idempotent", stage: "consume" },
  (next) => (message: Envelope): Middleware.Returns<Seen> => {
    const key = message.headers["idempotency-key"]
    return key !== undefined && seen.has(key) ? Exit.fail(new Seen()) : next(message)
  }
)

const respond = (request: Request) =>
  Exit.succeed(
    HttpServerResponse.jsonUnsafe(
      { ...order, id: request.params["id"] },
      { headers: { [correlation]: request.headers[correlation] ?? "none" } }
    )
  )

const five = () =>
  Server.route(
    "GET",
    "/orders/:id",
    pipe(
      respond,
      idempotent,
      Retry.middleware(),
      RateLimit.middleware({ limit, window: "1 second", burst: 1000 * 1000 }),
      Log.middleware(),
      correlate
    )
  )

const quiet = Layer.merge(
  RateLimit.layerMemory(),
  Layer.merge(Logger.layer([]), Layer.succeed(References.MinimumLogLevel, "None"))
)

const ours = (): Promise<Measured> =>
  Effect.runPromise(Effect.scoped(
    Effect.flatMap(
      Effect.provide(Listener.make([five()]), quiet),
      ({ listener }) => Effect.promise(onNode(listener))
    )
  ))

/** A router's layer on Effect's server for Node. */
const routed = (app: Layer.Layer<never, never, HttpRouter.HttpRouter>) => (): Promise<Measured> => {
  const server = createServer()
  return Effect.runPromise(Effect.scoped(Effect.gen(function*() {
    const scope = yield* Effect.scope
    yield* Layer.buildWithScope(
      HttpRouter.serve(app, { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provide(NodeHttpServer.layer(() => server, { port: 0, host: "127.0.0.1", gracefulShutdownTimeout: 0 })),
        Layer.provide(quiet)
      ),
      scope
    )
    // only a pipe has a text
    const { port } = server.address() as AddressInfo
    const result = yield* Effect.promise(() => measured(port))
    server.closeAllConnections()
    return result
  })))
}

const answer = (request: HttpServerRequest.HttpServerRequest, id: string) =>
  HttpServerResponse.jsonUnsafe(
    { ...order, id: request.url.slice(8) },
    { headers: { [correlation]: id } }
  )

const bare = HttpRouter.add(
  "GET",
  "/orders/:id",
  (request) => Effect.succeed(answer(request, request.headers[correlation] ?? "none"))
)

/** The same work as functions around an effect, which is how Effect's own middlewares are. */
const wrapped = () => {
  const bucket = new Bucket()
  type App = Effect.Effect<HttpServerResponse.HttpServerResponse, Seen, HttpServerRequest.HttpServerRequest>
  const inner: App = Effect.map(
    HttpServerRequest.HttpServerRequest,
    (request) => answer(request, request.headers[correlation] ?? "none")
  )
  const idempotency = (app: App): App =>
    Effect.flatMap(HttpServerRequest.HttpServerRequest, (request): App => {
      const key = request.headers["idempotency-key"]
      return key !== undefined && seen.has(key) ? Effect.fail(new Seen()) : app
    })
  const limited = (app: App): App =>
    Effect.suspend(() => bucket.take() ? app : Effect.succeed(HttpServerResponse.empty({ status: 429 })))
  const logged = (app: App): App => Effect.tap(app, () => Effect.logDebug("served"))
  const errors = (app: App): App => Effect.catch(app, () => Effect.succeed(HttpServerResponse.empty({ status: 409 })))
  const correlated = (app: App): App =>
    Effect.flatMap(
      HttpServerRequest.HttpServerRequest,
      (request) =>
        request.headers[correlation] === undefined ? Effect.succeed(HttpServerResponse.empty({ status: 400 })) : app
    )
  return HttpRouter.add(
    "GET",
    "/orders/:id",
    Effect.orDie(pipe(inner, idempotency, limited, logged, errors, correlated))
  )
}

const cost = (variant: string, peer: string): (of: (variant: string) => Measured) => number => (of) =>
  of(peer).cpu / of(variant).cpu

export const http: Bench = {
  name: "http",
  about: "requests through 5 middlewares: correlation id, rate limit, idempotency look-up, log that is off, errors",
  rounds: 5,
  variants: [
    { name: "Millrace, Listener", whose: "millrace", run: ours },
    {
      name: "Millrace, a route of HttpRouter",
      whose: "millrace",
      run: () => routed(Server.layer(five()).pipe(HttpRouter.provideRequest(RateLimit.layerMemory())))()
    },
    { name: "node:http by hand", whose: "limit", run: () => onNode(byHand())() },
    { name: "fastify", whose: "peer", run: fastify },
    { name: "hono", whose: "peer", run: () => onNode(onHono())() },
    { name: "HttpRouter, 5 functions", whose: "peer", run: () => routed(wrapped())() },
    { name: "HttpRouter, none", whose: "peer", run: () => routed(bare)() }
  ],
  goals: [
    {
      id: "P14",
      text: "requests for each CPU second beside node:http by hand",
      target: 0.92,
      better: "higher",
      measured: cost("Millrace, Listener", "node:http by hand")
    },
    {
      id: "P14",
      text: "requests for each CPU second beside fastify",
      target: 1.15,
      better: "higher",
      measured: cost("Millrace, Listener", "fastify")
    },
    {
      id: "P14",
      text: "requests for each CPU second beside hono",
      target: 1.6,
      better: "higher",
      measured: cost("Millrace, Listener", "hono")
    },
    {
      id: "P14",
      text: "requests for each CPU second beside HttpRouter with 5 functions",
      target: 1.4,
      better: "higher",
      measured: cost("Millrace, Listener", "HttpRouter, 5 functions")
    }
  ]
}
