import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Auth, type Handler, Idempotency, RateLimit } from "@millrace/core"
import { Body, Caller, IdempotencyKey, type Request, Server } from "@millrace/http"
import { Effect, Layer, pipe, Schema } from "effect"
import { HttpPlatform, HttpRouter } from "effect/http"
import { HttpApi, HttpApiBuilder, HttpApiEndpoint, HttpApiGroup, HttpApiSchema } from "effect/http-api"
import { connect } from "node:net"
import { call, type Sent, serveWith } from "./support.ts"

const Word = Schema.Struct({ word: Schema.String })
const success = Schema.Struct({ word: Schema.String, run: Schema.Int })

const Json = HttpApiEndpoint.post("json", "/json", { payload: Word, success })
const Form = HttpApiEndpoint.post("form", "/form", { payload: Word.pipe(HttpApiSchema.asFormUrlEncoded()), success })
const Multi = HttpApiEndpoint.post("multi", "/multi", { payload: Word.pipe(HttpApiSchema.asMultipart()), success })
const Late = HttpApiEndpoint.post("late", "/late", { payload: Word.pipe(HttpApiSchema.asMultipart()), success })

const Api = HttpApi.make("Api").add(HttpApiGroup.make("words").add(Json, Form, Multi, Late))

const services = Layer.mergeAll(
  Idempotency.layerMemory(),
  RateLimit.layerMemory(),
  Auth.layerMemory({ t: { subject: "ada" } })
)

/** The API behind a limit by address, a token, and a key. */
const start = Effect.gen(function*() {
  let run = 0
  const said = ({ payload: { payload } }: { readonly payload: { readonly payload: typeof Word.Type } }) =>
    Effect.sync(() => ({ word: payload.word, run: ++run }))
  const limited = <M extends Request<unknown>, A, E, R>(handler: Handler<M, A, E, R>) =>
    RateLimit.middleware<M>({ name: "address", by: Caller.address(), limit: 20, window: "1 hour" })(handler)
  const key = IdempotencyKey.middleware({ missing: "run" })
  const words = HttpApiBuilder.group(Api, "words", (handlers) =>
    handlers
      .handleRaw(
        "json",
        Server.endpoint(
          pipe(said, Body.endpoint(Json, { limit: 1000 }), key, Auth.middleware(), limited)
        )
      )
      .handleRaw(
        "form",
        Server.endpoint(pipe(said, Body.endpoint(Form), key, Auth.middleware(), limited))
      )
      .handleRaw(
        "multi",
        Server.endpoint(pipe(said, Body.endpoint(Multi), key, Auth.middleware(), limited))
      )
      // as untyped code may do it: HttpApi reads the body before the chain
      .handle("late", Server.endpoint(pipe(said as never, key, Auth.middleware()) as never) as never))
  const provided = Layer.succeedContext(yield* Layer.build(services))
  return yield* serveWith(
    Layer.mergeAll(HttpApiBuilder.layer(Api), Server.protocol({ bodyLimit: 10_000, apis: [Api] })).pipe(
      Layer.provide(words),
      HttpRouter.provideRequest(provided),
      Layer.provide([HttpPlatform.layer, NodeServices.layer])
    ) as Layer.Layer<never, never, HttpRouter.HttpRouter>
  )
})

const boundary = "a-boundary"
const multipart = (word: string): Sent => ({
  method: "POST",
  headers: {
    authorization: "Bearer t",
    "idempotency-key": "\"k\"",
    "content-type": `multipart/form-data; boundary=${boundary}`
  },
  body: `--${boundary}\r\ncontent-disposition: form-data; name="word"\r\n\r\n${word}\r\n--${boundary}--\r\n`
})

const json = (body: string, headers: Record<string, string> = {}): Sent => ({
  method: "POST",
  headers: { "content-type": "application/json", ...headers },
  body
})

/** Sends the head of a request alone, and reads the first line of the answer. */
const headOnly = (base: string, path: string): Promise<string> =>
  new Promise((resolve, reject) => {
    const socket = connect(Number(new URL(base).port), "127.0.0.1")
    socket.on("error", reject).once("data", (data) => {
      resolve(String(data).split("\r\n")[0]!)
      socket.destroy()
    })
    socket.write(
      `POST ${path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 67108864\r\n\r\n`
    )
  })

describe("Body.endpoint", () => {
  it.live("W12 X1 who may not ask is refused before a byte of the body is read", () =>
    Effect.gen(function*() {
      const base = yield* start
      const statuses = yield* Effect.promise(() =>
        Promise.all([
          call(base, "/json", json(`{"no":1}`)),
          call(base, "/json", json("no JSON")),
          call(base, "/form", { method: "POST", headers: { "content-type": "text/plain" }, body: "x" })
        ]).then((all) => all.map(({ status }) => status))
      )
      assert.deepStrictEqual(statuses, [401, 401, 401])
      assert.match(yield* Effect.promise(() => headOnly(base, "/json")), /401/)
    }))

  it.live("W12 X1 a limit counts what the endpoint would not decode", () =>
    Effect.gen(function*() {
      const base = yield* start
      const statuses = new Set<number>()
      for (let i = 0; i < 22; i++) statuses.add((yield* Effect.promise(() => call(base, "/json", json("{}")))).status)
      assert.deepStrictEqual([...statuses], [401, 429])
    }))

  it.live("W12 X1 JSON, forms and multipart are decoded, limited and refused as the endpoint declares", () =>
    Effect.gen(function*() {
      const base = yield* start
      const headers = { authorization: "Bearer t" }
      const ask = (path: string, sent: Sent) => Effect.promise(() => call(base, path, sent))
      const form = { method: "POST", headers: { ...headers, "content-type": "application/x-www-form-urlencoded" } }
      assert.deepStrictEqual((yield* ask("/json", json(`{"word":"a"}`, headers))).json(), { word: "a", run: 1 })
      assert.deepStrictEqual((yield* ask("/form", { ...form, body: "word=a+b" })).json(), { word: "a b", run: 2 })
      assert.deepStrictEqual((yield* ask("/multi", multipart("c"))).json(), { word: "c", run: 3 })
      assert.strictEqual((yield* ask("/json", json(`{"word":7}`, headers))).status, 422)
      assert.strictEqual((yield* ask("/json", json(`{"word":`, headers))).status, 400)
      assert.strictEqual((yield* ask("/json", json(`{"word":"${"x".repeat(2000)}"}`, headers))).status, 413)
      assert.strictEqual((yield* ask("/json", { ...form, body: "word=a" })).status, 415)
    }))

  it.live("W4 W12 a multipart body under a used key is another request", () =>
    Effect.gen(function*() {
      const base = yield* start
      const ask = (word: string) => Effect.promise(() => call(base, "/multi", multipart(word)))
      const first = yield* ask("a")
      const again = yield* ask("a")
      const other = yield* ask("b")
      assert.deepStrictEqual([first.status, again.status, other.status], [200, 200, 422])
      assert.strictEqual(again.text, first.text)
      assert.strictEqual(again.headers["idempotent-replayed"], "true")
    }))

  it.live("W4 W12 a body that was read before the chain, and not kept, is an error and no empty body", () =>
    Effect.gen(function*() {
      const base = yield* start
      const ask = (word: string) => Effect.promise(() => call(base, "/late", multipart(word)))
      assert.deepStrictEqual([(yield* ask("a")).status, (yield* ask("b")).status], [500, 500])
    }))

  it.live("W12 X1 an endpoint is known to 405, and what others read is limited", () =>
    Effect.gen(function*() {
      const base = yield* start
      const wrong = yield* Effect.promise(() => call(base, "/json", { method: "PUT" }))
      assert.deepStrictEqual([wrong.status, wrong.headers.allow], [405, "OPTIONS, POST"])
      const large = multipart("x".repeat(20_000))
      assert.strictEqual((yield* Effect.promise(() => call(base, "/late", large))).status, 413)
    }))
})
