import { NodeServices } from "@effect/platform-node"
import { Auth, Idempotency, RateLimit } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Body, Caller, IdempotencyKey, RateLimitFields, type Request, Server } from "@millrace/http"
import { Data, Effect, Layer, pipe, Schema } from "effect"
import { HttpPlatform, HttpRouter, HttpServerResponse } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { call, post, serveWith } from "./support.ts"

const Payment = Schema.Struct({ amount: Schema.Int, due: Schema.Date })

class Declined extends Schema.TaggedError<Declined>()("Declined", { left: Schema.Int }, { httpApiStatus: 402 }) {}

/** It has a class, and the endpoint declares it all the same. */
class Frozen extends Schema.TaggedError<Frozen>()(
  "Frozen",
  { failure: Schema.Literal("conflict"), account: Schema.String },
  { httpApiStatus: 423 }
) {}

class Away extends Data.TaggedError("Away")<{ readonly failure: "dependency" }> {}

const Pay = HttpApiEndpoint.post("pay", "/accounts/:account/payments", {
  params: { account: Schema.String },
  payload: Payment,
  success: Payment.pipe(HttpApiSchema.status(201)),
  error: [Declined, Frozen]
})

const Raw = HttpApiEndpoint.post("raw", "/raw", { success: Schema.String })

const Api = HttpApi.make("Api").add(HttpApiGroup.make("payments").add(Pay).add(Raw))

/** The API on a real server, and how often its handler ran. */
const start = (limit = 100) =>
  Effect.gen(function*() {
    const counts = { runs: 0 }
    const pay = (
      request: Request<HttpApiEndpoint.Request<typeof Pay>>
    ): Effect.Effect<typeof Payment.Type, Declined | Frozen | Away> => {
      counts.runs += 1
      const { payload } = request.payload
      return payload.amount === 402
        ? Effect.fail(new Declined({ left: counts.runs }))
        : payload.amount === 423
        ? Effect.fail(new Frozen({ failure: "conflict", account: request.payload.params.account }))
        : payload.amount === 503
        ? Effect.fail(new Away({ failure: "dependency" }))
        : Effect.succeed({ ...payload, amount: payload.amount + counts.runs })
    }
    const guarded = pipe(
      pay,
      Body.endpoint(Pay),
      IdempotencyKey.middleware({ keeps: { except: [] } }),
      RateLimit.middleware({
        name: "user",
        by: Caller.principal,
        limit,
        window: "1 hour",
        onDecision: RateLimitFields.onDecision()
      }),
      Auth.middleware({ scopes: ["pay"] })
    )
    const raw = (_: Request<HttpApiEndpoint.Request<typeof Raw>>) =>
      Effect.sync(() => HttpServerResponse.text(`own ${++counts.runs}`, { status: 202 }))
    const payments = HttpApiBuilder.group(Api, "payments", (handlers) =>
      handlers
        .handleRaw("pay", Server.endpoint(guarded, { declared: ["Frozen"] }))
        .handleRaw("raw", Server.endpoint(pipe(raw, IdempotencyKey.middleware()))))
    const services = Layer.mergeAll(
      Idempotency.layerMemory(),
      RateLimit.layerMemory(),
      Auth.layerMemory({
        "of-ada": { subject: "ada", scopes: ["pay"] },
        "of-bob": { subject: "bob", scopes: ["pay"] },
        "of-eve": { subject: "eve" }
      })
    )
    const provided = Layer.succeedContext(yield* Layer.build(services))
    const base = yield* serveWith(
      HttpApiBuilder.layer(Api).pipe(
        Layer.provide(payments),
        HttpRouter.provideRequest(provided),
        Layer.provide([HttpPlatform.layer, NodeServices.layer])
      ) as Layer.Layer<never, never, HttpRouter.HttpRouter>
    )
    const send = (key: string | undefined, amount: unknown = 1, who = "ada", account = "7") =>
      Effect.promise(() =>
        post(base, `/accounts/${account}/payments`, { amount, due: "2026-01-02T00:00:00.000Z" }, {
          ...(who === "" ? {} : { authorization: `Bearer of-${who}` }),
          ...(key === undefined ? {} : { "idempotency-key": key })
        })
      )
    return { base, counts, send }
  })

describe("Server.endpoint", () => {
  it.live("X1 H1 H19 whom Auth refuses is answered with the problem, and nothing runs", () =>
    Effect.gen(function*() {
      const { counts, send } = yield* start()
      const missing = yield* send("a", 1, "")
      assert.deepStrictEqual([missing.status, missing.headers["www-authenticate"]], [401, "Bearer"])
      assert.strictEqual(missing.headers["content-type"], "application/problem+json")
      assert.strictEqual((yield* send("a", 1, "nobody")).status, 401)
      const forbidden = yield* send("a", 1, "eve")
      assert.deepStrictEqual([forbidden.status, forbidden.json()["failure"]], [403, "auth"])
      assert.strictEqual(counts.runs, 0)
    }))

  it.live("W6 X1 limits answer as on a route: fields on what the endpoint writes, and 429", () =>
    Effect.gen(function*() {
      const { counts, send } = yield* start(1)
      const first = yield* send("a")
      assert.deepStrictEqual(
        [first.status, first.headers["ratelimit-policy"], String(first.headers["ratelimit"]).slice(0, 10)],
        [201, `"user";q=1;w=3600`, `"user";r=0`]
      )
      const refused = yield* send("b")
      assert.deepStrictEqual([refused.status, refused.json()["violated-policies"]], [429, ["user"]])
      assert.match(String(refused.headers["retry-after"]), /^(3600|3599)$/)
      assert.strictEqual((yield* send("a", 1, "bob")).status, 201)
      assert.strictEqual(counts.runs, 2)
    }))

  it.live("X1 what does not decode is told by its places, and takes no key", () =>
    Effect.gen(function*() {
      const { counts, send } = yield* start()
      const wrong = yield* send("a", "x")
      assert.strictEqual(wrong.status, 422)
      assert.match(wrong.text, /"errors":\[\{"pointer":"#\/amount"/)
      assert.strictEqual((yield* send("a", 1)).status, 201)
      assert.strictEqual(counts.runs, 1)
    }))

  it.live("W4 X1 values and declared errors are replayed as the endpoint wrote them the first time", () =>
    Effect.gen(function*() {
      const { base, counts, send } = yield* start()
      const first = yield* send("good")
      const again = yield* send("good")
      assert.deepStrictEqual(first.json(), { amount: 2, due: "2026-01-02T00:00:00.000Z" })
      assert.deepStrictEqual([again.status, again.text], [201, first.text])
      assert.deepStrictEqual(
        [first.headers["idempotent-replayed"], again.headers["idempotent-replayed"]],
        [undefined, "true"]
      )
      // without a class, and with one
      for (const [amount, status] of [[402, 402], [423, 423]] as const) {
        const failed = yield* send(`e${amount}`, amount)
        const replayed = yield* send(`e${amount}`, amount)
        assert.deepStrictEqual([failed.status, replayed.status], [status, status])
        assert.deepStrictEqual([replayed.text, replayed.headers["idempotent-replayed"]], [failed.text, "true"])
      }
      assert.strictEqual(counts.runs, 3)
      // what was not decided is tried again
      assert.strictEqual((yield* send("down", 503)).status, 503)
      assert.strictEqual((yield* send("down", 503)).headers["idempotent-replayed"], undefined)
      assert.strictEqual(counts.runs, 5)
      // another body, another path, another caller, no key
      assert.strictEqual((yield* send("good", 9)).status, 422)
      assert.strictEqual((yield* send("good", 1, "ada", "8")).status, 422)
      assert.strictEqual((yield* send("good", 1, "bob")).headers["idempotent-replayed"], undefined)
      assert.strictEqual((yield* send(undefined)).status, 400)
      const raw = () =>
        Effect.promise(() => call(base, "/raw", { method: "POST", headers: { "idempotency-key": "r" } }))
      const own = [yield* raw(), yield* raw()]
      assert.deepStrictEqual(own.map(({ status, text }) => [status, text]), [[202, "own 7"], [202, "own 7"]])
    }))
})
