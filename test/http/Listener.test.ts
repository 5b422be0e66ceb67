import { Auth, type Health, Middleware, Plain, RateLimit } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, HealthRoutes, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Context, Effect, Exit, Layer, pipe, Schema, Scope, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { Agent, createServer, request as nodeRequest } from "node:http"
import { connect } from "node:net"
import { expectTypeOf } from "vitest"
import { call, post, serve, signal } from "./support.ts"

/** Routes on Node's own server at a free port; its base URL. */
const listen = <R>(routes: ReadonlyArray<Server.Route<R>>) =>
  Effect.map(
    Layer.build(Listener.layer(createServer, routes, { port: 0, host: "127.0.0.1" })),
    (context) => `http://127.0.0.1:${Context.get(context, Listener.Address).port}`
  )

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })

/** Routes of every kind of answer. */
const routes = () => [
  Server.route("GET", "/fixed", () => Effect.succeed({ fixed: true })),
  Server.route("GET", "/orders/:id/*", (request: Request) => Effect.succeed([request.params["id"], request.url])),
  Server.route(
    "POST",
    "/orders",
    pipe((request: Request<typeof Order.Type>) => Effect.succeed(request.payload), Body.json(Order, { limit: 100 }))
  ),
  Server.route("POST", "/unread", () => Effect.succeed("not read")),
  Server.route("GET", "/nothing", () => Effect.void),
  Server.route("GET", "/late", () => Effect.as(Effect.sleep(1), { late: true })),
  Server.route("GET", "/fails", () => Effect.fail({ _tag: "No" as const, failure: "conflict" as const })),
  Server.route("GET", "/dies", () => Effect.die("secret")),
  Server.route("GET", "/plain", Plain.handler(async () => Promise.resolve({ plain: true }))),
  Server.route(
    "GET",
    "/stream",
    () =>
      Effect.succeed(
        HttpServerResponse.stream(Stream.make(new Uint8Array([97]), new Uint8Array([98])), {
          contentType: "text/plain"
        })
      )
  ),
  Server.route(
    "GET",
    "/cookie",
    () => Effect.succeed(HttpServerResponse.setCookieUnsafe(HttpServerResponse.text("c"), "a", "b"))
  ),
  Server.route(
    "GET",
    "/evil",
    () => Effect.succeed(HttpServerResponse.text("x", { headers: { "x-evil": "a\r\nx-admin: 1" } }))
  )
]

describe("Listener", () => {
  it.live("X14 X1 a listener answers as Effect's server does, route by route", () =>
    Effect.gen(function*() {
      const [own, effects] = [yield* listen(routes()), yield* serve(...routes())]
      const ask = (base: string) => async (path: string) => {
        const { headers, status, text } = await call(base, path)
        const { requestId: _, ...body } = headers["content-type"]?.includes("json") === true && text.startsWith("{")
          ? JSON.parse(text) as Record<string, unknown>
          : { text, requestId: "" }
        return { status, body, type: headers["content-type"], cookie: headers["set-cookie"], evil: headers["x-admin"] }
      }
      for (
        const path of [
          "/fixed",
          "/fixed?a=1",
          "/orders/7/x?y=1",
          "/nothing",
          "/late",
          "/fails",
          "/dies",
          "/plain",
          "/stream",
          "/cookie",
          "/evil"
        ]
      ) {
        const [ours, theirs] = yield* Effect.promise(() => Promise.all([ask(own)(path), ask(effects)(path)]))
        assert.deepStrictEqual(ours, theirs, path)
      }
      const bodies = [`{"id":"1","amount":2}`, `{"id":1}`, "no", `"${"x".repeat(200)}"`]
      for (const body of bodies) {
        const [ours, theirs] = yield* Effect.promise(() =>
          Promise.all([post(own, "/orders", body), post(effects, "/orders", body)])
        )
        assert.strictEqual(ours.status, theirs.status, body)
      }
      const chunked = yield* Effect.promise(() =>
        call(own, "/orders", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: ["[", ...Array.from({ length: 60 }, () => `"x",`), `"x"]`]
        })
      )
      assert.strictEqual(chunked.status, 413)
      assert.strictEqual((yield* Effect.promise(() => call(own, "/nowhere"))).status, 404)
      const head = yield* Effect.promise(() => call(own, "/fixed", { method: "HEAD" }))
      assert.deepStrictEqual([head.status, head.text], [200, ""])
    }))

  it.live("X14 connections stay open, also after a body that nobody read", () =>
    Effect.gen(function*() {
      const base = yield* listen(routes())
      const agent = new Agent({ keepAlive: true, maxSockets: 1 })
      const sockets = new Set<unknown>()
      const once = (path: string, body?: string) =>
        new Promise<number>((resolve, reject) => {
          const request = nodeRequest(
            base + path,
            { agent, method: body === undefined ? "GET" : "POST" },
            (response) => {
              sockets.add(request.socket)
              response.resume().on("end", () => resolve(response.statusCode ?? 0))
            }
          )
          request.on("error", reject)
          request.end(body)
        })
      for (let i = 0; i < 3; i++) {
        assert.strictEqual(yield* Effect.promise(() => once("/fixed")), 200)
        assert.strictEqual(yield* Effect.promise(() => once("/unread", "x".repeat(100_000))), 200)
      }
      assert.strictEqual(sockets.size, 1)
      agent.destroy()
    }))

  it.live(
    "W10 X14 a client that goes interrupts, hooks run, and a listener that ends answers what it has accepted",
    () =>
      Effect.gen(function*() {
        const ends: Array<string> = []
        const [began, ended, go] = [signal(), signal(), signal()]
        const note = Middleware.make()({ name: "Note", stage: "consume" }, (next) => (message) => {
          message.after((exit) => {
            ends.push(Exit.hasInterrupts(exit) ? "interrupt" : exit._tag)
            return Effect.sync(ended.now)
          })
          return next(message)
        })
        const all = signal()
        let waiting = 0
        const arrive = () => {
          waiting += 1
          if (waiting === 10) all.now()
        }
        const waits = (_: Request) => Effect.as(Effect.andThen(Effect.sync(arrive), go.happened), { done: true })
        const scope = yield* Scope.make()
        const base = yield* Scope.provide(
          listen([
            Server.route(
              "GET",
              "/never",
              pipe((_: Request) => Effect.andThen(Effect.sync(began.now), Effect.never), note)
            ),
            Server.route("GET", "/waits", pipe(waits, note))
          ]),
          scope
        )
        const socket = connect(Number(new URL(base).port), "127.0.0.1")
        socket.on("error", () => {})
        socket.write("GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        yield* began.happened
        socket.destroy()
        yield* ended.happened
        assert.deepStrictEqual(ends, ["interrupt"])
        const answers = Promise.all(Array.from({ length: 10 }, () => call(base, "/waits")))
        yield* all.happened
        const closed = Effect.runPromise(Scope.close(scope, Exit.void))
        yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
        const late = yield* Effect.promise(() => call(base, "/waits").then(() => "answered", () => "refused"))
        assert.strictEqual(late, "refused")
        go.now()
        const statuses = (yield* Effect.promise(() => answers)).map(({ status }) => status)
        assert.deepStrictEqual(statuses, Array.from({ length: 10 }, () => 200))
        yield* Effect.promise(() => closed)
      }),
    10_000
  )

  it("X1 routes of different needs are one listener", () => {
    const limited = Server.route(
      "GET",
      "/a",
      pipe((_: Request) => Effect.succeed(1), RateLimit.middleware({ limit: 5 }))
    )
    const known = Server.route("GET", "/b", pipe((_: Request) => Effect.succeed(1), Auth.middleware()))
    expectTypeOf(Listener.layer(createServer, [limited, known, ...HealthRoutes.make()], { port: 0 })).toEqualTypeOf<
      Layer.Layer<Listener.Address, Listener.ListenError, RateLimit.Store | Auth.Verifier | Health.Registry>
    >()
    expectTypeOf(Listener.make([limited, known]))
      .toEqualTypeOf<Effect.Effect<Listener.Listener, never, RateLimit.Store | Auth.Verifier>>()
  })

  it.live("X1 what middlewares need is what the listener needs", () =>
    Effect.gen(function*() {
      const greet = (_: Request) => Effect.map(Auth.Principal, ({ subject }) => subject)
      const route = Server.route(
        "GET",
        "/",
        pipe(greet, Auth.middleware(), RateLimit.middleware({ limit: 1, window: "1 day" }))
      )
      const needy: Effect.Effect<string, Listener.ListenError, Scope.Scope | Auth.Verifier | RateLimit.Store> = listen([
        route
      ])
      assert.isDefined(needy)
      const base = yield* listen([route]).pipe(
        Effect.provide([Auth.layerMemory({ t: { subject: "ada" } }), RateLimit.layerMemory()])
      )
      const ask = () => Effect.promise(() => call(base, "/", { headers: { authorization: "Bearer t" } }))
      assert.strictEqual((yield* ask()).text, `"ada"`)
      assert.strictEqual((yield* ask()).status, 429)
    }))
})
