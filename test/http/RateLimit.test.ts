import { Auth, type Envelope, RateLimit } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Caller, Problem, RateLimitFields, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { Context, Duration, Effect, Layer, pipe } from "effect"
import { HttpRouter } from "effect/http"
import * as fc from "fast-check"
import { createServer } from "node:http"
import { type Answer, call, serveWith } from "./support.ts"

const Known = Auth.layerMemory({ "of-ada": { subject: "ada" }, "of-bob": { subject: "bob" } })

type Needs = Auth.Verifier | RateLimit.Store

/** One set of routes on both servers, each with stores of its own. */
const both = (routes: ReadonlyArray<Server.Route<Needs>>) =>
  Effect.gen(function*() {
    const provided = () =>
      Effect.map(Layer.build(Layer.fresh(Layer.merge(Known, RateLimit.layerMemory()))), Layer.succeedContext)
    const router = yield* serveWith(Server.layer(...routes).pipe(HttpRouter.provideRequest(yield* provided())))
    const listener = Listener.layer(createServer, routes, { port: 0, host: "127.0.0.1" })
    const { port } = Context.get(yield* Layer.build(Layer.provide(listener, yield* provided())), Listener.Address)
    return [["router", router], ["listener", `http://127.0.0.1:${port}`]] as const
  })

const get = (base: string, path: string, headers: Record<string, string> = {}) =>
  Effect.promise(() => call(base, path, { headers }))

const fields = ({ headers }: Answer) => ({
  policy: headers["ratelimit-policy"],
  limit: String(headers["ratelimit"]).replaceAll(/;t=\d+/g, ";t=_")
})

const greet = (_: Request) => Effect.succeed("hello")

const hour = { window: "1 hour" } as const

describe("rate limits on HTTP", () => {
  it.live("W6 H19 each answer says what is left, and a refusal is 429 with the problem of the draft", () =>
    Effect.gen(function*() {
      const onDecision = RateLimitFields.onDecision()
      const routes = [
        Server.route("GET", "/told", pipe(greet, RateLimit.middleware({ limit: 2, ...hour, onDecision }))),
        Server.route("GET", "/untold", pipe(greet, RateLimit.middleware({ limit: 1, ...hour }))),
        Server.route(
          "GET",
          "/legacy",
          pipe(
            greet,
            RateLimit.middleware({ limit: 1, ...hour, onDecision: RateLimitFields.onDecision({ form: "legacy" }) })
          )
        )
      ]
      for (const [name, base] of yield* both(routes)) {
        const policy = `"channel";q=2;w=3600`
        const first = yield* get(base, "/told")
        assert.deepStrictEqual(fields(first), { policy, limit: `"channel";r=1;t=_` }, name)
        yield* get(base, "/told")
        const refused = yield* get(base, "/told")
        assert.strictEqual(refused.status, 429, name)
        assert.strictEqual(refused.headers["content-type"], "application/problem+json", name)
        assert.deepStrictEqual(fields(refused), { policy, limit: `"channel";r=0;t=_` }, name)
        const { requestId: _, retryAfter, detail: _2, ...body } = refused.json()
        assert.deepStrictEqual(body, {
          type: "https://iana.org/assignments/http-problem-types#quota-exceeded",
          title: "Too Many Requests",
          status: 429,
          failure: "throttled",
          "violated-policies": ["channel"]
        }, name)
        assert.strictEqual(refused.headers["retry-after"], String(retryAfter), name)
        assert.match(String(retryAfter), /^(1800|1799)$/, name)
        // clients come no earlier than the policy says
        const [, t] = /;t=(\d+)/.exec(String(refused.headers["ratelimit"])) ?? []
        assert.isAtMost(Number(t), Number(retryAfter), name)

        assert.isUndefined((yield* get(base, "/untold")).headers["ratelimit"], name)
        assert.strictEqual((yield* get(base, "/untold")).headers["ratelimit-policy"], `"channel";q=1;w=3600`, name)
        assert.strictEqual((yield* get(base, "/legacy")).headers["x-ratelimit-remaining"], "0", name)
      }
    }))

  it.live("W6 a client is its address behind trusted proxies, and what others write is not believed", () =>
    Effect.gen(function*() {
      const limit = (path: `/${string}`, trusted: ReadonlyArray<string>) =>
        Server.route(
          "GET",
          path,
          pipe(greet, RateLimit.middleware({ name: path, by: Caller.address({ trusted }), limit: 1, ...hour }))
        )
      for (const [name, base] of yield* both([limit("/behind", ["127.0.0.0/8", "10.0.0.0/8"]), limit("/open", [])])) {
        const from = (path: string, chain: string) =>
          Effect.map(get(base, path, { "x-forwarded-for": chain }), ({ status }) => status)
        assert.strictEqual(yield* from("/behind", "198.51.100.1"), 200, name)
        assert.strictEqual(yield* from("/behind", "198.51.100.2"), 200, name)
        // the same client, whatever it writes to the left, and through another proxy
        assert.strictEqual(yield* from("/behind", "8.8.8.8, 198.51.100.1"), 429, name)
        assert.strictEqual(yield* from("/behind", "198.51.100.1, 10.0.0.7"), 429, name)
        assert.strictEqual(yield* from("/open", "198.51.100.1"), 200, name)
        assert.strictEqual(yield* from("/open", "198.51.100.2"), 429, name)
      }
    }))

  it.live("W6 W7 limits of an address, a user and a route stand around one handler, and the fields name them all", () =>
    Effect.gen(function*() {
      const onDecision = RateLimitFields.onDecision()
      const route = (path: `/${string}`) =>
        Server.route(
          "GET",
          path,
          pipe(
            greet,
            RateLimit.middleware({
              policies: [
                { name: "user", by: (request: Request) => Caller.principal(request), limit: 2, ...hour },
                { name: "route", limit: 3, ...hour }
              ],
              onDecision
            }),
            Auth.middleware(),
            RateLimit.middleware({ name: "address", by: Caller.address(), limit: 100, ...hour, onDecision })
          )
        )
      for (const [name, base] of yield* both([route("/a"), route("/b")])) {
        const as = (path: string, who: string) => get(base, path, { authorization: `Bearer of-${who}` })
        const first = yield* as("/a", "ada")
        assert.deepStrictEqual(fields(first), {
          policy: `"address";q=100;w=3600, "user";q=2;w=3600, "route";q=3;w=3600`,
          limit: `"address";r=99;t=_, "user";r=1;t=_, "route";r=2;t=_`
        }, name)
        assert.strictEqual((yield* as("/b", "ada")).status, 200, name)
        const refused = yield* as("/a", "ada")
        assert.deepStrictEqual([refused.status, refused.json()["violated-policies"]], [429, ["user"]], name)
        assert.match(String(refused.headers["ratelimit"]), /^"address";r=97;t=\d+, "user";r=0/, name)
        assert.strictEqual((yield* as("/a", "bob")).status, 200, name)
        // a refusal by Auth comes after the address was counted, and says so
        const forged = yield* as("/a", "nobody")
        assert.strictEqual(forged.status, 401, name)
        assert.match(String(forged.headers["ratelimit"]), /^"address";r=95;t=\d+$/, name)
      }
    }))

  it("W6 H19 a refused message's envelope names the type and the policies, and onDecision leaves messages alone", () => {
    const decision: RateLimit.Decision = {
      isAdmitted: false,
      wait: 1,
      verdicts: [{ wait: 1, remaining: 0, reset: 1 }],
      at: 0,
      lease: 0
    }
    const policies = [RateLimit.policy("orders")]
    const error = { _tag: "RateLimited", failure: "throttled", violated: ["orders"], policies, decision }
    const { "violated-policies": violated, type } = Problem.envelope(Problem.defaults, error)
    assert.deepStrictEqual(
      [type, violated],
      ["https://iana.org/assignments/http-problem-types#quota-exceeded", ["orders"]]
    )
    const message = { kind: "consumer" } as Envelope
    assert.doesNotThrow(() => RateLimitFields.onDecision()(message, { policies, decision }))
  })

  it.effect("W6 the fields of an answer are bounded, and one that could begin another is refused", () =>
    Effect.gen(function*() {
      const answer = (add: (request: Request) => void) =>
        Server.nativeOf(Server.route("GET", "/", (request: Request) => {
          add(request)
          return Effect.succeed("done")
        })).run({
          method: "GET",
          url: "/",
          headers: {},
          params: {},
          address: undefined,
          body: () => Effect.succeed(new Uint8Array())
        })
      const three = yield* answer((request) => {
        request.answerField("X-One", "1")
        request.answerField("x-one", "2")
        request.answerField("x-list", "a", "first")
        request.answerField("x-list", "b", "second")
        request.answerField("x-list", "c", "first")
      })
      assert.deepStrictEqual([three.headers["x-one"], three.headers["x-list"]], ["2", "c, b"])
      for (const wrong of ["a\r\nx-admin: 1", "a\u0000", "\u20ac", "x".repeat(8193)]) {
        const refused = yield* answer((request) => request.answerField("x-one", wrong))
        assert.deepStrictEqual([refused.status, refused.headers["x-one"]], [500, undefined])
      }
      const many = yield* answer((request) => {
        for (let i = 0; i < 33; i++) request.answerField(`x-${i}`, "1")
      })
      assert.strictEqual(many.status, 500)
    }))

  it("W6 of one address no more pass than its bucket holds, whatever the mix of clients", () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 1, max: 5 }), { maxLength: 60 }), (clients) =>
        Effect.runPromise(
          Effect.gen(function*() {
            const handler = pipe(
              greet,
              RateLimit.middleware({ name: "address", by: Caller.address(), limit: 4, window: Duration.days(1) })
            )
            const { run } = Server.nativeOf(Server.route("GET", "/", handler))
            const passed = new Map<number, number>()
            for (const client of clients) {
              const { status } = yield* run({
                method: "GET",
                url: "/",
                headers: { "x-forwarded-for": "203.0.113.9" },
                params: {},
                address: `198.51.100.${client}`,
                body: () => Effect.succeed(new Uint8Array())
              })
              if (status === 200) passed.set(client, (passed.get(client) ?? 0) + 1)
            }
            for (const client of new Set(clients)) {
              const came = clients.filter((each) => each === client).length
              assert.strictEqual(passed.get(client), Math.min(4, came))
            }
          }).pipe(Effect.provide(RateLimit.layerMemory()))
        )),
      { numRuns: 40 }
    ))
})
