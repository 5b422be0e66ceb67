import {
  Auth,
  Broker,
  BrokerError,
  Channel,
  MemoryBroker,
  type Message,
  Publisher,
  Subscription,
  Timeout
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { type Request, Server, Webhook } from "@millrace/http"
import { Context, Deferred, Effect, Exit, Layer, pipe, Schema } from "effect"
import { HttpRouter } from "effect/http"
import { createHmac, timingSafeEqual } from "node:crypto"
import { call, post, serveWith } from "./support.ts"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
const publisher = Publisher.make(Orders)

/** A route over a broker, on a real server. */
const over = (
  broker: Broker.Broker["Service"],
  ...routes: ReadonlyArray<HttpRouter.Route<never, Broker.Broker>>
) => serveWith(Server.layer(...routes).pipe(HttpRouter.provideRequest(Layer.succeed(Broker.Broker, broker))))

/** A memory broker, and a subscription that keeps what it is given. */
const memory = (kept: Array<Message<Uint8Array>>) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(MemoryBroker.layer())
    const arrived = Deferred.makeUnsafe<void>()
    const subscription = Subscription.make(Channel.bytes("orders"), { group: "g", name: "keep" }, (message) =>
      Effect.sync(() => {
        kept.push(message)
        Deferred.doneUnsafe(arrived, Exit.void)
      }))
    yield* Effect.provideContext(Layer.build(Subscription.layer(subscription)), context)
    return { broker: Context.get(context, Broker.Broker), arrived: Deferred.await(arrived) }
  })

const key = "whsec of the test"
const sign = (body: string) => createHmac("sha256", key).update(body).digest("hex")

const verify = (request: Request<Uint8Array>) => {
  const given = request.headers["x-signature"]
  if (given === undefined) return Effect.fail(new Webhook.SignatureRefused({ reason: "missing" }))
  const own = Buffer.from(createHmac("sha256", key).update(request.payload).digest("hex"))
  const same = given.length === own.length && timingSafeEqual(Buffer.from(given), own)
  return same ? Effect.void : Effect.fail(new Webhook.SignatureRefused({ reason: "wrong" }))
}

describe("Webhook", () => {
  it.live("B8 a request becomes a message with its id and its key, and is answered 202 with the id", () =>
    Effect.gen(function*() {
      const kept: Array<Message<Uint8Array>> = []
      const { arrived, broker } = yield* memory(kept)
      const base = yield* over(broker, Server.route("POST", "/hooks", Webhook.handler(Orders, { publisher })))
      const body = JSON.stringify({ id: "o-1", amount: 3 })
      const answer = yield* Effect.promise(() =>
        post(base, "/hooks", body, {
          "webhook-id": "msg_1",
          "correlation-id": "c-1",
          "x-other": "1",
          traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        })
      )
      const { id } = answer.json()
      assert.strictEqual(answer.status, 202)
      assert.match(String(id), /^[0-9a-f]{32}$/)
      yield* arrived
      const [message] = kept
      assert.strictEqual(new TextDecoder().decode(message?.payload), body)
      assert.strictEqual(message?.key, "o-1")
      assert.deepStrictEqual({ ...message?.headers }, {
        "message-id": String(id),
        "correlation-id": "c-1",
        "content-type": "application/json",
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
      })
      const quoted = yield* Effect.promise(() => post(base, "/hooks", body, { "idempotency-key": `"a \\"b"` }))
      assert.match(String(quoted.json()["id"]), /^[0-9a-f]{32}$/)
      const bare = yield* Effect.promise(() => post(base, "/hooks", body, { "idempotency-key": `"k-7"` }))
      const again = yield* Effect.promise(() => post(base, "/hooks", body, { "idempotency-key": "k-7" }))
      assert.strictEqual(bare.json()["id"], again.json()["id"])
      const own = Webhook.handler(Orders, { publisher, id: (request) => request.headers["x-event"] })
      const given = yield* over(broker, Server.route("POST", "/own", own))
      const named = yield* Effect.promise(() => post(given, "/own", body, { "x-event": "e-1" }))
      assert.strictEqual(named.json()["id"], "e-1")
    }))

  it.live("B8 W10 the same id of another caller, another route or another kind is another message", () =>
    Effect.gen(function*() {
      const { broker } = yield* memory([])
      const verifier = Auth.layerMemory({ "token-a": { subject: "a" }, "token-b": { subject: "b" } })
      const context = yield* Layer.build(verifier)
      const authenticated = pipe(Webhook.handler(Orders, { publisher }), Auth.middleware())
      const signed = Webhook.handler(Orders, {
        publisher,
        verify: (request) => Effect.succeed({ subject: request.headers["x-partner"] })
      })
      const named = Webhook.handler(Orders, { publisher, caller: (request) => request.headers["x-tenant"] ?? "" })
      const base = yield* over(
        broker,
        Server.route(
          "POST",
          "/one",
          (request: Request) => Effect.provideContext(Effect.suspend(() => authenticated(request)), context)
        ),
        Server.route(
          "POST",
          "/two",
          (request: Request) => Effect.provideContext(Effect.suspend(() => authenticated(request)), context)
        ),
        Server.route("POST", "/signed", signed),
        Server.route("POST", "/named", named)
      )
      const body = { id: "o-1", amount: 3 }
      const idOf = (path: string, headers: Record<string, string>, sent: object = body) =>
        Effect.map(Effect.promise(() => post(base, path, sent, headers)), (answer) => String(answer.json()["id"]))
      const a = { authorization: "Bearer token-a" }
      const b = { authorization: "Bearer token-b" }
      const cases: ReadonlyArray<readonly [path: string, headers: Record<string, string>, body?: object]> = [
        ["/one", { ...a, "idempotency-key": "1" }],
        ["/one", { ...b, "idempotency-key": "1" }],
        ["/two", { ...a, "idempotency-key": "1" }],
        ["/one", { ...a, "webhook-id": "1" }],
        ["/one", { ...a, "idempotency-key": "2" }],
        ["/signed", { "x-partner": "p", "webhook-id": "1" }],
        ["/signed", { "x-partner": "q", "webhook-id": "1" }],
        ["/named", { "x-tenant": "t", "idempotency-key": "1" }],
        ["/named", { "x-tenant": "u", "idempotency-key": "1" }],
        // nobody says who calls: what they send tells them apart
        ["/named", { "idempotency-key": "1" }],
        ["/named", { "idempotency-key": "1" }, { id: "o-2", amount: 3 }]
      ]
      const ids: Array<string> = []
      for (const [path, headers, sent] of cases) {
        const id = yield* idOf(path, headers, sent)
        assert.strictEqual(yield* idOf(path, headers, sent), id, "what is sent again has its id again")
        ids.push(id)
      }
      assert.strictEqual(new Set(ids).size, cases.length)
    }))

  it.live("B8 nothing is answered before the broker has confirmed", () =>
    Effect.gen(function*() {
      const confirm = Deferred.makeUnsafe<void>()
      const asked = Deferred.makeUnsafe<void>()
      const { broker } = yield* memory([])
      const slow = Broker.Broker.of({
        ...broker,
        publish: (message) =>
          Effect.andThen(
            Deferred.succeed(asked, undefined),
            Effect.andThen(Deferred.await(confirm), Effect.suspend(() => broker.publish(message)))
          )
      })
      const base = yield* over(slow, Server.route("POST", "/hooks", Webhook.handler(Orders, { publisher })))
      let answered = false
      const answer = post(base, "/hooks", { id: "1", amount: 1 }).finally(() => answered = true)
      yield* Deferred.await(asked)
      // a whole round trip later the first one still waits
      assert.strictEqual((yield* Effect.promise(() => call(base, "/nothing"))).status, 404)
      assert.isFalse(answered)
      yield* Deferred.succeed(confirm, undefined)
      assert.strictEqual((yield* Effect.promise(() => answer)).status, 202)
    }))

  it.live("B8 a publish that fails is seen by the caller", () =>
    Effect.gen(function*() {
      const { broker } = yield* memory([])
      const cases: ReadonlyArray<readonly [BrokerError.Reason, number]> = [
        ["Unreachable", 503],
        ["Lost", 503],
        ["TooLarge", 413],
        ["Permission", 500]
      ]
      for (const [reason, status] of cases) {
        const message = "kafka-7.inside:9092 refused the password hunter2"
        const failing = Broker.Broker.of({
          ...broker,
          publish: () => Effect.fail(BrokerError.make({ system: "kafka", operation: "publish", reason, message }))
        })
        const base = yield* over(failing, Server.route("POST", "/hooks", Webhook.handler(Orders, { publisher })))
        const answer = yield* Effect.promise(() => post(base, "/hooks", { id: "1", amount: 1 }))
        assert.strictEqual(answer.status, status, reason)
        assert.notMatch(answer.text, /hunter2|kafka/)
      }
      const hanging = Broker.Broker.of({ ...broker, publish: () => Effect.never })
      const handler = pipe(Webhook.handler(Orders, { publisher }), Timeout.middleware({ after: "20 millis" }))
      const base = yield* over(hanging, Server.route("POST", "/hooks", handler))
      assert.strictEqual((yield* Effect.promise(() => post(base, "/hooks", { id: "1", amount: 1 }))).status, 504)
    }))

  it.live("B8 H19 what is too large, of another type, not signed or no order is refused and not published", () =>
    Effect.gen(function*() {
      const kept: Array<Message<Uint8Array>> = []
      const { broker } = yield* memory(kept)
      const handler = Webhook.handler(Orders, { publisher, verify, limit: 100 })
      const base = yield* over(broker, Server.route("POST", "/hooks", handler))
      const send = (body: string, headers: Record<string, string> = { "x-signature": sign(body) }) =>
        Effect.map(Effect.promise(() => post(base, "/hooks", body, headers)), ({ status }) => status)
      const good = JSON.stringify({ id: "1", amount: 1 })
      assert.strictEqual(yield* send(good, {}), 401)
      assert.strictEqual(yield* send(good, { "x-signature": sign(`${good} `) }), 401)
      assert.strictEqual(yield* send(good, { "x-signature": "x" }), 401)
      // the signature is of the bytes, and looked at before they are decoded
      assert.strictEqual(yield* send("no JSON", {}), 401)
      assert.strictEqual(yield* send("no JSON"), 400)
      assert.strictEqual(yield* send(`{"id":1}`), 422)
      assert.strictEqual(yield* send(`"${"x".repeat(100)}"`), 413)
      assert.strictEqual(yield* send(good, { "x-signature": sign(good), "content-type": "text/plain" }), 415)
      assert.deepStrictEqual(kept, [])
      assert.strictEqual(yield* send(good), 202)
    }))
})
