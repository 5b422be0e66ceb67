import { Idempotency } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, IdempotencyKey, type Request, Server } from "@millrace/http"
import { make as makeRequest } from "@millrace/http/Request"
import { MiddlewareLaws } from "@millrace/testing"
import { Data, Effect, Exit, Fiber, pipe, References } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

class Declined extends Data.TaggedError("Declined")<{ readonly failure: "permanent" }> {}
class Unreachable extends Data.TaggedError("Unreachable")<{ readonly failure: "dependency" }> {}

MiddlewareLaws.suite<Request, Request<unknown>, Idempotency.Store>(
  "IdempotencyKey",
  () => IdempotencyKey.middleware({ disconnect: "interrupt" }),
  {
    message: () =>
      makeRequest({
        method: "POST",
        url: "/",
        headers: { "idempotency-key": "k" },
        params: {},
        address: undefined,
        body: () => Exit.succeed(new Uint8Array([1]))
      }, "POST /"),
    layer: Idempotency.layerMemory()
  }
)

describe("IdempotencyKey, by properties", () => {
  it.effect("W4 W5 of ten thousand keys, twice each and at the same time, every one runs once", () =>
    Effect.gen(function*() {
      const runs = new Map<string, number>()
      const work = (request: Request) =>
        Effect.map(Effect.yieldNow, () => {
          const key = request.headers["idempotency-key"]!
          runs.set(key, (runs.get(key) ?? 0) + 1)
          return { key }
        })
      const route = Server.route("POST", "/", pipe(work, IdempotencyKey.middleware({ running: "wait" })))
      const { run } = Server.nativeOf(route)
      const ask = (key: string) =>
        run({
          method: "POST",
          url: "/",
          headers: { "idempotency-key": key },
          params: {},
          address: undefined,
          body: () => Exit.succeed(new Uint8Array([1]))
        })
      const keys = Array.from({ length: 10_000 }, (_, i) => `key-${i}`)
      const asked = yield* Effect.forkChild(
        Effect.forEach([...keys, ...keys.toReversed()], ask, { concurrency: 4000 })
      )
      yield* TestClock.adjust("1 minute")
      const answers = yield* Fiber.join(asked)
      assert.strictEqual(runs.size, keys.length)
      assert.deepStrictEqual([...new Set(runs.values())], [1])
      assert.strictEqual(answers.filter(({ status }) => status === 200).length, 20_000)
      assert.strictEqual(answers.filter(({ headers }) => headers["idempotent-replayed"] === "true").length, 10_000)
    }).pipe(Effect.provide(Idempotency.layerMemory())))

  it("W4 a key of any characters that a quoted string holds is one key, and no other is the same", () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.stringMatching(/^[ -~]{1,255}$/), { minLength: 1, maxLength: 20 }), (keys) =>
        Effect.runPromise(
          Effect.gen(function*() {
            const seen = new Set<string>()
            const handler = pipe((_: Request) =>
              Effect.succeed("done"), IdempotencyKey.middleware())
            const { run } = Server.nativeOf(Server.route("PATCH", "/", handler))
            for (const key of keys) {
              const response = yield* run({
                method: "PATCH",
                url: "/",
                headers: { "idempotency-key": `"${key.replaceAll(/["\\]/g, "\\$&")}"` },
                params: {},
                address: undefined,
                body: () => Exit.succeed(new Uint8Array())
              })
              assert.strictEqual(response.status, 200)
              assert.strictEqual(response.headers["idempotent-replayed"], seen.has(key) ? "true" : undefined)
              seen.add(key)
            }
          }).pipe(Effect.provide(Idempotency.layerMemory()))
        ))
    ))

  it("W4 any sequence of callers, keys and bodies is answered as a table of first answers would", () => {
    const step = fc.record({
      caller: fc.constantFrom("ada", "bob"),
      key: fc.constantFrom("1", "2", "3"),
      method: fc.constantFrom("POST", "PATCH", "PUT"),
      body: fc.constantFrom("good", "declined", "down", "long")
    })
    return fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 40 }), (steps) =>
        Effect.runPromise(
          Effect.gen(function*() {
            let runs = 0
            const work = (request: Request<Uint8Array>): Effect.Effect<object, Declined | Unreachable> => {
              runs += 1
              const body = new TextDecoder().decode(request.payload)
              return body === "declined"
                ? Effect.fail(new Declined({ failure: "permanent" }))
                : body === "down"
                ? Effect.fail(new Unreachable({ failure: "dependency" }))
                : Effect.succeed({ runs, more: body === "long" ? "x".repeat(200) : "" })
            }
            const handler = pipe(
              work,
              Body.bytes(),
              IdempotencyKey.middleware({ limit: 150, caller: (request) => request.headers["caller"]! })
            )
            const { run } = Server.nativeOf(Server.route("*", "/", handler))
            const known = new Map<string, { readonly said: string; readonly text: string; readonly isLong: boolean }>()
            for (const { body, caller, key, method } of steps) {
              const before = runs
              const response = yield* run({
                method,
                url: "/",
                headers: { caller, "idempotency-key": key, "x-request-id": "r" },
                params: {},
                address: undefined,
                body: () => Exit.succeed(new TextEncoder().encode(body))
              })
              const text = response.body._tag === "Uint8Array" ? new TextDecoder().decode(response.body.body) : ""
              const isRun = runs > before
              if (method === "PUT") {
                assert.isTrue(isRun)
                continue
              }
              const first = known.get(`${caller} ${key}`)
              const said = `${method} ${body}`
              assert.strictEqual(isRun, first === undefined)
              if (first === undefined) {
                if (body !== "down") known.set(`${caller} ${key}`, { said, text, isLong: body === "long" })
                continue
              }
              assert.strictEqual(
                response.status,
                first.said !== said ? 422 : first.isLong ? 409 : body === "good" ? 200 : 422
              )
              if (first.said === said && !first.isLong) assert.strictEqual(text, first.text)
            }
          }).pipe(Effect.provide(Idempotency.layerMemory()), Effect.provideService(References.MinimumLogLevel, "None"))
        ))
    )
  })

  it("W4 options that cannot hold are refused when the middleware is built", () => {
    const wrong = (options: IdempotencyKey.Options, message: RegExp) =>
      assert.throws(() => IdempotencyKey.middleware(options), message)
    wrong({ limit: 0 }, /^IdempotencyKey: limit must be an integer from 1, got 0$/)
    wrong({ bodyLimit: 1.5 }, /^IdempotencyKey: bodyLimit must be an integer from 1, got 1.5$/)
    wrong({ fields: ["etag", "Set-Cookie"] }, /^IdempotencyKey: fields must name what may be repeated, got Set-Cookie$/)
    wrong(
      { keeps: { statuses: [199] } },
      /^IdempotencyKey: keeps.statuses must hold 200 to 599 or 2xx to 5xx, got 199$/
    )
    wrong({ lease: 1 }, /^Idempotency: lease must be a finite duration from 100 ms, got 1$/)
  })
})
