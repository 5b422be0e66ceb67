import { assert, describe, it } from "@effect/vitest"
import { Auth, Order, RateLimit } from "@millrace/core"
import { Cors, type Request, Server } from "@millrace/http"
import { Effect, Layer, pipe } from "effect"
import { HttpRouter, HttpServerResponse } from "effect/http"
import { call, servers, serveWith } from "./support.ts"

const page = "https://app.example.com"
const from = (origin: string, more: Record<string, string> = {}) => ({ headers: { origin, ...more } })
const ok = (_: Request) => Effect.succeed({ ok: true })

describe("Cors", () => {
  it("W11 refuses what browsers would not take, and stands where the recommended order says", () => {
    const wrong: ReadonlyArray<Cors.Options> = [
      { origins: "*", credentials: true },
      { origins: ["https://app.example.com/"] },
      { origins: ["app.example.com"] },
      { origins: [page], methods: ["GET, POST"] },
      { origins: [page], headers: ["a b"] },
      { origins: [page], maximumAge: "1500 millis" }
    ]
    for (const options of wrong) assert.throws(() => Cors.middleware(options), RangeError)
    const handler = pipe(ok, RateLimit.middleware({ limit: 1 }), Auth.middleware(), Cors.middleware({ origins: "*" }))
    assert.deepStrictEqual(Order.advise(handler), [])
    const inside = pipe(ok, Cors.middleware({ origins: "*" }), Auth.middleware())
    assert.throws(() => Server.route("GET", "/", inside), /Cors must stand outside Auth/)
  })

  it.live("W11 a preflight takes no share of a limit, and a refusal by it can be read", () =>
    Effect.gen(function*() {
      for (const name of ["Listener", "HttpRouter"] as const) {
        const limited = pipe(
          ok,
          RateLimit.middleware({ limit: 1, window: "1 hour" }),
          Cors.middleware({ origins: (origin) => origin === page })
        )
        const base = yield* servers[name]([Server.route("GET", "/", limited)]).pipe(
          Effect.provide(Layer.fresh(RateLimit.layerMemory()))
        )
        const ask = (method: string) =>
          Effect.promise(() => call(base, "/", { method, ...from(page, { "access-control-request-method": "GET" }) }))
        for (let i = 0; i < 3; i++) assert.strictEqual((yield* ask("OPTIONS")).status, 204)
        assert.strictEqual((yield* ask("GET")).status, 200)
        const refused = yield* ask("GET")
        assert.deepStrictEqual([refused.status, refused.headers["access-control-allow-origin"]], [429, page])
      }
    }))

  it.live("W11 an answer's own Vary stays, and a function that throws allows nothing", () =>
    Effect.gen(function*() {
      const varied = (_: Request) => Effect.succeed(HttpServerResponse.text("x", { headers: { vary: "Accept" } }))
      const throws = () => {
        throw new Error("no list")
      }
      const base = yield* servers.Listener([
        Server.route("GET", "/", pipe(varied, Cors.middleware({ origins: [page] }))),
        Server.route("GET", "/throws", pipe(ok, Cors.middleware({ origins: throws })))
      ])
      const one = yield* Effect.promise(() => call(base, "/", from(page)))
      assert.strictEqual(one.headers["vary"], "Accept, Origin")
      const none = yield* Effect.promise(() => call(base, "/throws", from(page)))
      assert.deepStrictEqual([none.status, none.headers["access-control-allow-origin"]], [200, undefined])
    }))

  it.live("W11 the layer answers for a whole router: routes of others, and requests of no route", () =>
    Effect.gen(function*() {
      const base = yield* serveWith(
        Layer.mergeAll(
          HttpRouter.add("GET", "/other", HttpServerResponse.text("other")),
          Server.protocol(),
          Cors.layer({ origins: [page], credentials: true })
        )
      )
      const ask = (path: string, method = "GET", more: Record<string, string> = {}) =>
        Effect.promise(() => call(base, path, { method, ...from(page, more) }))
      for (const [path, status] of [["/other", 200], ["/nowhere", 404]] as const) {
        const { headers, status: found } = yield* ask(path)
        assert.deepStrictEqual([found, headers["access-control-allow-origin"], headers["vary"]], [
          status,
          page,
          "Origin"
        ])
      }
      const asked = yield* ask("/other", "OPTIONS", { "access-control-request-method": "GET" })
      assert.deepStrictEqual([asked.status, asked.headers["access-control-allow-credentials"]], [204, "true"])
    }))
})
