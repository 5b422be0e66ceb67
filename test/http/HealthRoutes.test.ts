import { Health } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { HealthRoutes, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Ajv } from "ajv"
import { Context, Data, Effect, Layer, Logger } from "effect"
import { HttpRouter } from "effect/http"
import { createServer } from "node:http"
import { call, serveWith } from "./support.ts"

class Refused extends Data.TaggedError("Refused")<{ readonly address: string }> {
  readonly failure = "dependency" as const
}

const refused = Effect.fail(new Refused({ address: "db-7" }))

const checks = (state: { isDown: boolean }) => [
  Health.check({
    name: "database",
    check: Effect.suspend(() => state.isDown ? refused : Effect.succeed({ connections: 3, share: 0.5, primary: true })),
    explain: () => "no answer"
  }),
  Health.check({ name: "prices", check: Effect.succeed(Health.degraded("old prices")) }),
  Health.check({ name: "ads", check: refused, whenDown: "degraded" })
]

const health = (state: { isDown: boolean }) =>
  Layer.build(Layer.provide(Health.layer(checks(state), { cache: 0 }), Logger.layer([])))

/** The same routes on each server; their base URLs, and the registry. */
const both = (options: HealthRoutes.Options = {}, state = { isDown: false }) =>
  Effect.gen(function*() {
    const context = yield* health(state)
    const registry = Layer.succeedContext(context)
    const routes = HealthRoutes.make(options)
    const own = yield* Layer.build(
      Listener.layer(createServer, routes, { port: 0, host: "127.0.0.1" }).pipe(Layer.provide(registry))
    )
    const effects = yield* serveWith(Server.layer(...routes).pipe(HttpRouter.provideRequest(registry)))
    return {
      bases: [effects, `http://127.0.0.1:${Context.get(own, Listener.Address).port}`],
      state,
      mark: (mark: Effect.Effect<void, never, Health.Registry>) => Effect.provideContext(mark, context)
    }
  })

const ask = (base: string, path: string, method = "GET", headers = {}) =>
  Effect.promise(() => call(base, path, { method, headers }))

const time = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/

/** https://github.com/eclipse/microprofile-health, spec: the schema of a response. */
const microprofile = {
  type: "object",
  required: ["status", "checks"],
  additionalProperties: false,
  properties: {
    status: { enum: ["UP", "DOWN"] },
    checks: {
      type: "array",
      items: {
        type: "object",
        required: ["name", "status"],
        additionalProperties: false,
        properties: {
          name: { type: "string" },
          status: { enum: ["UP", "DOWN"] },
          data: { type: "object", additionalProperties: { type: ["string", "boolean", "integer"] } }
        }
      }
    }
  }
}

describe("HealthRoutes", () => {
  it.live("W8 H20 each probe is answered with 200 or 503 on either server, and never kept by a cache", () =>
    Effect.gen(function*() {
      const { bases, mark, state } = yield* both()
      const expected = (codes: ReadonlyArray<number>) =>
        Effect.forEach(
          bases,
          (base) =>
            Effect.forEach(["/livez", "/readyz", "/startupz", "/healthz"], (path, i) =>
              Effect.gen(function*() {
                const [get, head] = [yield* ask(base, path), yield* ask(base, path, "HEAD")]
                assert.deepStrictEqual([get.status, head.status], [codes[i], codes[i]], path)
                for (const { headers } of [get, head]) {
                  assert.strictEqual(headers["cache-control"], "no-store")
                  assert.strictEqual(headers["content-type"], "application/health+json")
                }
                assert.strictEqual(head.text, "")
                assert.match(String(get.json()["timestamp"]), time)
                assert.isAtMost(Math.abs(Date.parse(String(get.json()["timestamp"])) - Date.now()), 60_000)
              }))
        )
      yield* expected([200, 503, 503, 503])
      yield* mark(Health.started)
      yield* expected([200, 200, 200, 200])
      state.isDown = true
      yield* expected([200, 503, 200, 503])
      state.isDown = false
      yield* expected([200, 200, 200, 200])
      yield* mark(Health.draining)
      yield* expected([200, 503, 200, 503])
    }))

  it.live("W8 H20 a document names each service, its status, its latency and since when; of errors it says nothing", () =>
    Effect.gen(function*() {
      const { bases, mark, state } = yield* both()
      yield* mark(Health.started)
      state.isDown = true
      for (const base of bases) {
        const answer = yield* ask(base, "/readyz")
        const { checks, status } = answer.json() as {
          status: string
          checks: Record<string, ReadonlyArray<Record<string, unknown>>>
        }
        assert.strictEqual(status, "fail")
        assert.deepStrictEqual(Object.entries(checks).map(([name, [check]]) => [name, check?.["status"]]), [
          ["database", "fail"],
          ["prices", "warn"],
          ["ads", "fail"]
        ])
        for (const [check] of Object.values(checks)) {
          assert.deepStrictEqual(Object.keys(check ?? {}), ["status", "time", "latencyMs", "since"])
          assert.isNumber(check?.["latencyMs"])
          assert.match(String(check?.["since"]), time)
        }
        for (const word of ["Refused", "db-7", "no answer", "old prices", "connections", "dependency"]) {
          assert.notInclude(answer.text, word)
        }
      }
    }))

  it.live("W8 who may sees class, tag, the sentences that are let out, and details; the error itself nobody", () =>
    Effect.gen(function*() {
      const { bases, mark, state } = yield* both({
        details: ({ headers }) => {
          if (headers["x-word"] === "throws") throw new Error("db-7")
          return headers["x-word"] === "open"
        }
      })
      yield* mark(Health.started)
      for (const base of bases) {
        state.isDown = false
        const up = yield* ask(base, "/readyz", "GET", { "x-word": "open" })
        assert.containSubset(up.json(), {
          status: "warn",
          checks: {
            database: [{ status: "pass", details: { connections: 3, share: 0.5, primary: true } }],
            prices: [{ status: "warn", why: "old prices", output: "old prices" }],
            ads: [{ status: "fail", error: "Refused", failure: "dependency" }]
          }
        })
        state.isDown = true
        const open = yield* ask(base, "/readyz", "GET", { "x-word": "open" })
        assert.containSubset(open.json(), {
          checks: { database: [{ error: "Refused", failure: "dependency", output: "no answer" }] }
        })
        assert.notInclude(open.text, "db-7")
        for (const word of ["wrong", "throws"]) {
          const shut = yield* ask(base, "/readyz", "GET", { "x-word": word })
          assert.strictEqual(shut.status, 503)
          assert.notInclude(shut.text, "Refused")
        }
      }
    }))

  it.live("W8 a document of MicroProfile holds to its schema, with and without details", () =>
    Effect.gen(function*() {
      const validate = new Ajv({ allowUnionTypes: true }).compile(microprofile)
      for (const details of ["always", "never"] as const) {
        const { bases, mark, state } = yield* both({ form: "microprofile", details })
        for (const isDown of [false, true]) {
          state.isDown = isDown
          for (const path of ["/livez", "/readyz", "/healthz"]) {
            const answer = yield* ask(bases[0]!, path)
            assert.isTrue(validate(answer.json()), JSON.stringify(validate.errors))
            assert.strictEqual(answer.headers["content-type"], "application/json")
            assert.strictEqual(answer.json()["status"], answer.status === 200 ? "UP" : "DOWN")
          }
          yield* mark(Health.started)
        }
        const { checks } = (yield* ask(bases[0]!, "/readyz")).json()
        assert.containSubset(checks, [{ name: "prices", status: "UP", data: { state: "degraded" } }])
      }
    }))

  it.live("W8 H20 the form of services has their names, and the time", () =>
    Effect.gen(function*() {
      const { bases, mark } = yield* both({ form: "services", live: "/alive", startup: "off" })
      yield* mark(Health.started)
      const answer = (yield* ask(bases[0]!, "/readyz")).json()
      assert.deepStrictEqual(Object.keys(answer), ["status", "phase", "timestamp", "services"])
      assert.containSubset(answer, {
        status: "degraded",
        services: { database: { status: "up" }, ads: { status: "down" } }
      })
      assert.strictEqual((yield* ask(bases[0]!, "/alive")).status, 200)
      assert.strictEqual((yield* ask(bases[0]!, "/livez")).status, 404)
      assert.strictEqual((yield* ask(bases[0]!, "/startupz")).status, 404)
    }))

  it("W8 options that are none are refused", () => {
    const of = (options: object) => () => HealthRoutes.make(options)
    assert.throws(
      of({ form: "xml" }),
      RangeError,
      "HealthRoutes: form must be \"health+json\", \"microprofile\" or \"services\""
    )
    assert.throws(of({ details: "some" }), RangeError, `HealthRoutes: details must be "always" or "never"`)
  })
})
