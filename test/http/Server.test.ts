import { Auth, type Envelope, Middleware, Plain, RateLimit, Retry, Timeout } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, Problem, type Request, Server } from "@millrace/http"
import { Context, Data, Duration, Effect, Exit, Layer, pipe, Schema, Scope } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { connect } from "node:net"
import { call, type Line, logging, post, serve, serveWith, signal } from "./support.ts"

class OutOfStock extends Data.TaggedError("OutOfStock")<{ readonly left: number }> {}

class Busy
  extends Data.TaggedError("Busy")<{ readonly failure: "transient"; readonly retryAfter: Duration.Duration }>
{}

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite, lines: Schema.Array(Schema.NonEmptyString) })

const Known = Auth.layerMemory({ "a-token": { subject: "ada", scopes: ["orders"] } })

/** A middleware that notes the end of each message, by the hook and by the chain. */
const noting = (notes: Array<string>) =>
  Middleware.make()({ name: "Noting", stage: "consume" }, (next) => (message: Envelope) => {
    notes.push(`begin ${message.kind} ${message.channel}`)
    message.after((exit) => {
      notes.push(`end ${Exit.isSuccess(exit) ? "success" : Exit.hasInterrupts(exit) ? "interrupt" : "failure"}`)
      return undefined
    })
    return next(message)
  })

describe("Server", () => {
  it.live("H1 X1 routes take middlewares as they are: what they provide and handle is gone, what is left is answered", () =>
    Effect.gen(function*() {
      const greet = (request: Request) =>
        Effect.map(Auth.Principal, (principal) => ({ hello: principal.subject, id: request.params["id"] }))
      const handler = pipe(
        greet,
        Auth.middleware({ scopes: ["orders"] }),
        RateLimit.middleware({ limit: 3, window: "1 minute" })
      )
      const route = Server.route("GET", "/orders/:id", handler)
      const provided = yield* Layer.build(Layer.merge(Known, RateLimit.layerMemory()))
      const base = yield* serveWith(Server.layer(route).pipe(HttpRouter.provideRequest(Layer.succeedContext(provided))))
      const ask = (token?: string) =>
        Effect.promise(() =>
          call(base, "/orders/7", token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } })
        )
      const good = yield* ask("a-token")
      assert.deepStrictEqual([good.status, good.json()], [200, { hello: "ada", id: "7" }])
      const missing = yield* ask()
      assert.strictEqual(missing.status, 401)
      assert.strictEqual(missing.headers["www-authenticate"], "Bearer")
      assert.strictEqual(missing.headers["content-type"], "application/problem+json")
      const wrong = yield* ask("another")
      assert.strictEqual(wrong.status, 401)
      assert.notInclude(wrong.text, "another")
      const limited = yield* ask("a-token")
      assert.strictEqual(limited.status, 429)
      assert.match(String(limited.headers["retry-after"]), /^(1\d|20)$/)
      assert.strictEqual(limited.json()["retryAfter"], Number(limited.headers["retry-after"]))
    }))

  it.live("H1 an error is answered by its tag, then by its class, and a wait is rounded up to seconds", () =>
    Effect.gen(function*() {
      const fails = (request: Request): Effect.Effect<never, OutOfStock | Busy> =>
        request.params["what"] === "busy"
          ? Effect.fail(new Busy({ failure: "transient", retryAfter: Duration.millis(1001) }))
          : Effect.fail(new OutOfStock({ left: 2 }))
      const base = yield* serve(Server.route("GET", "/:what", fails, {
        errors: {
          OutOfStock: (error) => ({ status: 409, title: "Out of stock", detail: { text: `${error.left} left` } })
        }
      }))
      const busy = yield* Effect.promise(() => call(base, "/busy", { headers: { "x-request-id": "req-1" } }))
      assert.strictEqual(busy.status, 503)
      assert.strictEqual(busy.headers["retry-after"], "2")
      assert.strictEqual(busy.headers["x-request-id"], "req-1")
      assert.deepStrictEqual(busy.json(), {
        type: "about:blank",
        title: "Service Unavailable",
        status: 503,
        failure: "transient",
        retryAfter: 2,
        requestId: "req-1"
      })
      const stock = yield* Effect.promise(() => call(base, "/stock"))
      const { requestId, ...rest } = stock.json()
      assert.match(String(requestId), /^[0-9a-f]{32}$/)
      assert.deepStrictEqual(rest, {
        type: "about:blank",
        title: "Out of stock",
        status: 409,
        detail: "2 left",
        failure: "conflict"
      })
    }))

  it.live("H19 a defect says nothing of itself, and is logged with the id of its request", () => {
    const lines: Array<Line> = []
    return Effect.gen(function*() {
      const base = yield* serve(
        Server.route("GET", "/throws", (): Effect.Effect<void> => {
          throw new Error("the password of db-7 is hunter2")
        }),
        Server.route("GET", "/dies", () => Effect.die(new Error("the password of db-7 is hunter2"))),
        Server.route("GET", "/json", () => Effect.succeed({ big: 1n }))
      )
      for (const path of ["/throws", "/dies", "/json"]) {
        lines.length = 0
        const answer = yield* Effect.promise(() => call(base, path, { headers: { "x-request-id": `id-of${path}` } }))
        assert.strictEqual(answer.status, 500)
        assert.deepStrictEqual(Object.keys(answer.json()), ["type", "title", "status", "failure", "requestId"])
        const [line] = lines
        assert.strictEqual(line?.level, "Error")
        assert.strictEqual(line?.annotations["requestId"], `id-of${path}`)
        assert.strictEqual(line?.text, `serve GET ${path} answered 500`)
      }
    }).pipe(Effect.provide(logging(lines)))
  })

  it.live("H1 the level of a line and the whole table are data, for the program or for a route", () => {
    const lines: Array<Line> = []
    return Effect.gen(function*() {
      const fails = () => Effect.fail(new Busy({ failure: "transient", retryAfter: Duration.seconds(1) }))
      const quiet = Problem.make({
        table: { transient: { status: 599, level: "None" } },
        types: "https://example.com/"
      })
      const program = Problem.make({ tags: { Busy: { status: 420, title: "Calm down" } } })
      const base = yield* serveWith(
        Server.layer(
          Server.route("GET", "/own", fails, { problems: quiet }),
          Server.route("GET", "/program", fails)
        ).pipe(HttpRouter.provideRequest(Layer.succeed(Problem.Current, program)))
      )
      const own = yield* Effect.promise(() => call(base, "/own"))
      assert.deepStrictEqual([own.status, own.json()["type"]], [599, "https://example.com/transient"])
      assert.deepStrictEqual(lines, [])
      const other = yield* Effect.promise(() => call(base, "/program"))
      assert.deepStrictEqual([other.status, other.json()["title"]], [420, "Calm down"])
      assert.deepStrictEqual(
        lines.map(({ annotations, level }) => [level, annotations["failure"], annotations["error"]]),
        [
          ["Warn", "transient", "Busy"]
        ]
      )
    }).pipe(Effect.provide(logging(lines)))
  })

  it.live("H19 a body is bounded, of a known type, JSON, and what its schema says; each refusal names the place", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (request: Request<typeof Order.Type>) => Effect.succeed({ id: request.payload.id }),
        Body.json(Order, { limit: 200 })
      )
      const base = yield* serve(Server.route("POST", "/orders", handler))
      const send = (body: string, headers?: Record<string, string>) =>
        Effect.promise(() => post(base, "/orders", body, headers))

      const good = yield* send(JSON.stringify({ id: "1", amount: 3, lines: ["a"] }))
      assert.deepStrictEqual([good.status, good.json()], [200, { id: "1" }])

      const announced = yield* send(`"${"x".repeat(300)}"`)
      assert.strictEqual(announced.status, 413)
      const chunked = yield* Effect.promise(() =>
        call(base, "/orders", {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: ["[", ...Array.from({ length: 300 }, () => `"x",`), `"x"]`]
        })
      )
      assert.deepStrictEqual([chunked.status, chunked.json()["detail"]], [413, "The body is longer than 200 bytes"])

      const type = yield* send("{}", { "content-type": "text/plain" })
      assert.strictEqual(type.status, 415)
      const suffix = yield* send("[]", { "content-type": "application/vnd.orders+json; charset=utf-8" })
      assert.strictEqual(suffix.status, 422)

      const broken = yield* send(`{\n  "id": secret\n}`)
      assert.strictEqual(broken.status, 400)
      assert.strictEqual(broken.json()["detail"], "The body is not JSON: line 2, column 9")
      assert.notInclude(broken.text, "secret")

      const invalid = yield* send(JSON.stringify({ id: 7, amount: "secret", lines: ["a", ""] }))
      assert.strictEqual(invalid.status, 422)
      assert.deepStrictEqual(invalid.json()["errors"], [
        { pointer: "#/id", detail: "Expected string" },
        { pointer: "#/amount", detail: "Expected number" },
        { pointer: "#/lines/1", detail: "Expected a value with a length of at least 1" }
      ])
      assert.notInclude(invalid.text, "secret")
    }))

  it.live(
    "W10 X1 a client that goes interrupts the handler, and the hooks run all the same",
    () =>
      Effect.gen(function*() {
        const notes: Array<string> = []
        const began = signal()
        const ended = signal()
        const stays = (_: Request) =>
          Effect.onInterrupt(
            Effect.andThen(Effect.sync(began.now), Effect.never),
            () => Effect.sync(() => void notes.push("interrupted"))
          )
        const last = Middleware.make()({ name: "Last", stage: "consume" }, (next) => (message) => {
          message.after(() => Effect.sync(ended.now))
          return next(message)
        })
        const base = yield* serve(Server.route("GET", "/stays", pipe(stays, noting(notes), last)))
        const socket = connect(Number(new URL(base).port), "127.0.0.1")
        socket.on("error", () => {})
        socket.write("GET /stays HTTP/1.1\r\nhost: x\r\n\r\n")
        yield* began.happened
        socket.destroy()
        yield* ended.happened
        assert.deepStrictEqual(notes, ["begin server GET /stays", "interrupted", "end interrupt"])
      }),
    5_000
  )

  it.live("W10 a client that goes in the middle of its body interrupts, too", () =>
    Effect.gen(function*() {
      const notes: Array<string> = []
      const began = signal()
      const ended = signal()
      const last = Middleware.make()({ name: "Last", stage: "consume" }, (next) => (message) => {
        began.now()
        message.after(() => Effect.sync(ended.now))
        return next(message)
      })
      const handler = pipe((_: Request<Uint8Array>) => Effect.void, Body.bytes(), noting(notes), last)
      const base = yield* serve(Server.route("POST", "/upload", handler))
      const socket = connect(Number(new URL(base).port), "127.0.0.1")
      socket.on("error", () => {})
      socket.write("POST /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nsome")
      yield* began.happened
      socket.destroy()
      yield* ended.happened
      assert.strictEqual(notes[0], "begin server POST /upload")
      assert.include(["end interrupt", "end failure"], notes[1])
    }), 5_000)

  it.live("X14 a server that stops answers every request that it has accepted", () =>
    Effect.gen(function*() {
      const count = 20
      let begun = 0
      const all = signal()
      const go = signal()
      const handler = pipe(
        (request: Request) =>
          Effect.as(
            Effect.andThen(
              Effect.sync(() => {
                begun += 1
                if (begun === count) all.now()
              }),
              go.happened
            ),
            { id: request.params["id"] }
          ),
        Timeout.middleware(),
        Retry.middleware()
      )
      const scope = yield* Scope.make()
      const base = yield* Scope.provide(serve(Server.route("GET", "/:id", handler)), scope)
      const answers = Promise.all(Array.from({ length: count }, (_, i) => call(base, `/${i}`)))
      yield* all.happened
      const closed = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      const late = yield* Effect.promise(() => call(base, "/late").then(() => "answered", () => "refused"))
      assert.strictEqual(late, "refused")
      go.now()
      const given = yield* Effect.promise(() => answers)
      assert.deepStrictEqual(
        given.map(({ json, status }) => [status, json()["id"]]),
        Array.from({ length: count }, (_, i) => [
          200,
          String(i)
        ])
      )
      yield* Effect.yieldNow
      assert.isDefined(closed)
    }), 10_000)

  it.live(
    "X14 a plain function and one that returns a promise are handlers; what they throw is classed or a defect",
    () =>
      Effect.gen(function*() {
        const aborted = signal()
        const began = signal()
        const base = yield* serve(
          Server.route("GET", "/plain", Plain.handler((request: Request) => ({ path: request.path }))),
          Server.route(
            "GET",
            "/async",
            Plain.handler(async (request: Request) => Promise.resolve(request.query.get("q")))
          ),
          Server.route(
            "GET",
            "/classed",
            Plain.handler((): Promise<string> =>
              Promise.reject(Object.assign(new Error("no"), { failure: "conflict" }))
            )
          ),
          Server.route(
            "GET",
            "/defect",
            Plain.handler((): string => {
              throw new Error("no")
            })
          ),
          Server.route(
            "GET",
            "/late",
            Plain.handler((_: Request, signal) =>
              new Promise<string>(() => {
                signal.addEventListener("abort", aborted.now)
                began.now()
              })
            )
          )
        )
        const ask = (path: string) => Effect.promise(() => call(base, path))
        assert.deepStrictEqual((yield* ask("/plain?x=1")).json(), { path: "/plain" })
        assert.strictEqual((yield* ask("/async?q=7")).text, `"7"`)
        assert.strictEqual((yield* ask("/classed")).status, 409)
        assert.strictEqual((yield* ask("/defect")).status, 500)
        const socket = connect(Number(new URL(base).port), "127.0.0.1")
        socket.on("error", () => {})
        socket.write("GET /late HTTP/1.1\r\nhost: x\r\n\r\n")
        yield* began.happened
        socket.destroy()
        yield* aborted.happened
      }),
    5_000
  )

  it.live("H4 a hook that fails is answered by its class, and before that nothing has left", () =>
    Effect.gen(function*() {
      const hook = Middleware.make()({ name: "Hook", stage: "consume" }, (next) => (message) => {
        message.after(() => Effect.fail(new Busy({ failure: "transient", retryAfter: Duration.seconds(3) })))
        return next(message)
      })
      const base = yield* serve(Server.route("GET", "/", pipe((_: Request) => Effect.succeed("done"), hook)))
      const answer = yield* Effect.promise(() => call(base, "/"))
      assert.deepStrictEqual([answer.status, answer.headers["retry-after"]], [503, "3"])
    }))

  it.live("X1 a prefix is part of the channel, and answers are what the handler says", () =>
    Effect.gen(function*() {
      const channels: Array<string> = []
      const handler = (request: Request) => {
        channels.push(request.channel)
        return Effect.succeed(
          request.params["kind"] === "nothing"
            ? undefined
            : request.params["kind"] === "bytes"
            ? new Uint8Array([1, 2])
            : HttpServerResponse.text("own", { status: 201, headers: { "x-own": "1" } })
        )
      }
      const routes = Effect.flatMap(HttpRouter.HttpRouter, (router) =>
        router.prefixed("/v1").addAll([Server.route("GET", "/as/:kind", handler)]))
      const base = yield* serveWith(Layer.effectDiscard(routes))
      const ask = (kind: string) =>
        Effect.promise(() => call(base, `/v1/as/${kind}`))
      assert.strictEqual((yield* ask("nothing")).status, 204)
      assert.strictEqual((yield* ask("bytes")).headers["content-type"], "application/octet-stream")
      const own = yield* ask("response")
      assert.deepStrictEqual([own.status, own.text, own.headers["x-own"]], [201, "own", "1"])
      assert.deepStrictEqual([...new Set(channels)], ["GET /v1/as/:kind"])
    }))

  it("H1 what has no class needs an entry, and what has no tag is refused, by the compiler", () => {
    const fails = (_: Request): Effect.Effect<never, OutOfStock> => Effect.fail(new OutOfStock({ left: 1 }))
    const untagged = (_: Request): Effect.Effect<never, string> => Effect.fail("no")
    // @ts-expect-error OutOfStock has no class
    // @effect-diagnostics-next-line missingEffectError:off
    Server.route("GET", "/", fails)
    // @ts-expect-error OutOfStock has no entry
    Server.route("GET", "/", fails, { errors: {} })
    // @ts-expect-error a string has no tag
    // @effect-diagnostics-next-line missingEffectError:off
    Server.route("GET", "/", untagged)
    class Tenant extends Context.Service<Tenant, string>()("Tenant") {}
    const needs = (_: Request) => Effect.map(Tenant, (tenant) => tenant)
    const route: HttpRouter.Route<never, Tenant> = Server.route("GET", "/", needs)
    // @ts-expect-error the service is needed
    const wrong: HttpRouter.Route<never, never> = route
    assert.isDefined(wrong)
    assert.throws(() =>
      Server.route("GET", "/", pipe((_: Request) => Effect.void, Auth.middleware(), Auth.scopes("a")))
    )
  })
})
