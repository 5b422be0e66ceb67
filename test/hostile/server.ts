/**
 * The server under attack, a process of its own: `node --expose-gc server.ts Listener|HttpRouter`. It says its port, and answers each
 * message of its parent with what it holds.
 */
import { NodeHttpServer } from "@effect/platform-node"
import { Body, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import * as NodeServer from "@millrace/http/NodeServer"
import { Context, Effect, Layer, Metric, pipe, References, Schema, type Scope } from "effect"
import { HttpRouter, HttpServer } from "effect/http"
import { readdirSync } from "node:fs"
import { createServer } from "node:http"
import { setTimeout as sleep } from "node:timers/promises"
import type { Held, Name } from "./hostile.ts"

const Order = Schema.Struct({ id: Schema.String })

const large = new Uint8Array(4 * 1024 * 1024).fill(120)

const routes = [
  Server.route("GET", "/quiet/:id", (request: Request) => Effect.succeed({ id: request.params["id"] })),
  Server.route(
    "POST",
    "/orders",
    pipe(
      (request: Request<typeof Order.Type>) => Effect.succeed(request.payload),
      Body.json(Order, { timeout: "5 seconds" })
    )
  ),
  Server.route("POST", "/unread", () => Effect.succeed({ read: false })),
  Server.route("GET", "/large", () => Effect.succeed(large)),
  Server.route("GET", "/slow", () => Effect.as(Effect.sleep("200 millis"), { slow: true }))
]

const place = { port: 0, host: "127.0.0.1" }
const limits = { headTimeout: "5 seconds" } as const

const servers: { readonly [Each in Name]: Effect.Effect<number, unknown, Scope.Scope> } = {
  Listener: Effect.map(
    Layer.build(Listener.layer(createServer, routes, { ...place, ...limits })),
    (context) => Context.get(context, Listener.Address).port
  ),
  HttpRouter: Effect.map(
    Layer.build(
      HttpRouter.serve(Server.layer(...routes), { disableLogger: true, disableListenLog: true }).pipe(
        Layer.provideMerge(NodeHttpServer.layer(NodeServer.make(createServer, limits), place))
      )
    ),
    (context) => {
      const { address } = Context.get(context, HttpServer.HttpServer)
      return "port" in address ? address.port : 0
    }
  )
}

let fibers = 0
let mostFibers = 0
const counting: Metric.FiberRuntimeMetricsService = {
  recordFiberStart: () => {
    fibers++
    mostFibers = Math.max(mostFibers, fibers)
  },
  recordFiberEnd: () => void fibers--
}

const held = async (): Promise<Held> => {
  for (let i = 0; i < 5; i++) {
    gc?.()
    await sleep(20)
  }
  return { descriptors: readdirSync("/proc/self/fd").length, heap: process.memoryUsage().heapUsed, fibers, mostFibers }
}

process.on("message", () => void held().then((each) => process.send?.(each)))
process.on("disconnect", () => process.exit(0))

const name = process.argv[2] as Name
await Effect.runPromise(
  Effect.scoped(Effect.flatMap(servers[name], (port) => {
    process.send?.(port)
    return Effect.never
  })).pipe(
    Effect.provideService(Metric.FiberRuntimeMetrics, counting),
    Effect.provideService(References.MinimumLogLevel, "None")
  )
)
