import {
  Broker,
  Channel,
  Correlate,
  Decode,
  Lanes,
  Log,
  MemoryBroker,
  type Message,
  Publish,
  Publisher,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Deliveries } from "@millrace/testing"
import { Body, Client, type Request, Server, Sink, Webhook } from "@millrace/http"
import { Data, Deferred, Effect, Layer, Logger, pipe, Schema, Stream } from "effect"
import { FetchHttpClient, HttpClient, HttpClientRequest, HttpServerResponse } from "effect/http"
import { call, type Line, logging, post, serve } from "./support.ts"

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

const Order = Schema.Struct({ id: Schema.String })
const Orders = Channel.make("orders", { payload: Order })
const Invoices = Channel.make("invoices", { payload: Order })

class Broken extends Data.TaggedError("Broken")<{}> {
  readonly failure = "dependency" as const
}

const quiet = Logger.layer([])

describe("correlation on HTTP", () => {
  it.live("W1 the request's id is taken when it is valid, made when it is not, and echoed by every answer", () =>
    Effect.gen(function*() {
      const seen: Array<string | undefined> = []
      const answers: Readonly<Record<string, Effect.Effect<unknown, Broken>>> = {
        value: Effect.succeed({ ok: true }),
        nothing: Effect.void,
        response: Effect.succeed(HttpServerResponse.text("own", { headers: { "x-request-id": "handlers" } })),
        error: Effect.fail(new Broken()),
        defect: Effect.die(new Error("no"))
      }
      const base = yield* serve(Server.route(
        "GET",
        "/:what",
        pipe(
          (request: Request) =>
            Effect.flatMap(Correlate.Current, (ids) => {
              seen.push(ids?.id)
              return answers[request.params["what"]!]!
            }),
          Correlate.middleware()
        )
      ))
      for (const what of Object.keys(answers)) {
        const given = yield* Effect.promise(() => call(base, `/${what}`, { headers: { "X-Request-Id": "r-1" } }))
        assert.strictEqual(given.headers["x-request-id"], "r-1", what)
        assert.strictEqual(seen.at(-1), "r-1")
        for (const headers of [{}, { "x-request-id": "a b" }, { "x-request-id": "x".repeat(129) }]) {
          const made = yield* Effect.promise(() => call(base, `/${what}`, { headers }))
          assert.match(made.headers["x-request-id"] as string, uuid)
          assert.strictEqual(made.headers["x-request-id"], seen.at(-1))
          if (made.status >= 400) assert.strictEqual(made.json()["requestId"], seen.at(-1))
        }
        const two = yield* Effect.promise(() =>
          call(base, `/${what}`, { headers: { "x-request-id": "r-1", "correlation-id": "c-1" } })
        )
        assert.deepStrictEqual([two.headers["x-request-id"], seen.at(-1)], ["r-1", "c-1"], what)
      }
    }).pipe(Effect.provide(quiet)))

  it.live("W1 of who is not trusted neither id nor echo", () =>
    Effect.gen(function*() {
      const base = yield* serve(Server.route(
        "GET",
        "/",
        pipe(
          (_: Request) => Correlate.Current,
          Correlate.middleware({ trust: "never" })
        )
      ))
      const answer = yield* Effect.promise(() => call(base, "/", { headers: { "x-request-id": "theirs" } }))
      const ids = answer.json()
      assert.strictEqual(ids["upstream"], "theirs")
      assert.match(String(ids["id"]), uuid)
      assert.strictEqual(answer.headers["x-request-id"], ids["id"])
    }))

  it.live("B6 the line of an answered error has the ids, too", () =>
    Effect.gen(function*() {
      const lines: Array<Line> = []
      const base = yield* Effect.provide(
        serve(Server.route("GET", "/", pipe((_: Request) => Effect.fail(new Broken()), Correlate.middleware()))),
        logging(lines)
      )
      const headers = { "x-request-id": "r-1", "correlation-id": "c-1" }
      yield* Effect.promise(() => call(base, "/", { headers }))
      assert.deepStrictEqual(
        lines.map(({ annotations: { causationId, correlationId } }) => [correlationId, causationId]),
        [
          ["c-1", "r-1"]
        ]
      )
    }))

  it.live(
    "B6 B9 W3 a thousand at once: server, publish, consume, answer, client, one id all the way",
    () =>
      Effect.gen(function*() {
        const count = 1000
        const lines: Array<Line> = []
        const arrived = new Map<string, Readonly<Record<string, string>>>()
        const all = yield* Deferred.make<void>()
        const partner = yield* serve(Server.route(
          "GET",
          "/partner/:id",
          (request: Request) =>
            Effect.suspend(() => {
              arrived.set(request.params["id"]!, request.headers)
              return arrived.size === count ? Deferred.succeed(all, undefined) : Effect.void
            })
        ))
        yield* Effect.gen(function*() {
          const broker = yield* Broker.Broker
          const publisher = Publisher.make(Orders)
          const client = Client.make(yield* HttpClient.HttpClient, Correlate.middleware())
          const call = (order: typeof Order.Type) =>
            Effect.andThen(Effect.log(`calls ${order.id}`), client.get(`${partner}/partner/${order.id}`))
          yield* Subscription.run(Subscription.make(
            Orders,
            { group: "billing", lanes: Lanes.unordered(100) },
            pipe(
              (message: Message<typeof Order.Type>) =>
                Effect.gen(function*() {
                  yield* Effect.yieldNow
                  yield* Effect.log(`bills ${message.payload.id}`)
                  return message.payload
                }),
              Publish.middleware(Invoices),
              Decode.middleware(Orders),
              Log.middleware(),
              Correlate.middleware()
            )
          ))
          yield* Subscription.run(Subscription.make(
            Invoices,
            { group: "partner", lanes: Lanes.unordered(50) },
            pipe(
              (message: Message<typeof Order.Type>) =>
                // neither the fiber nor the scope of the message
                Effect.forkDetach(Effect.ignore(call(message.payload))),
              Decode.middleware(Invoices),
              Correlate.middleware()
            )
          ))
          const base = yield* serve(Server.route(
            "POST",
            "/orders",
            pipe(
              (request: Request<typeof Order.Type>) =>
                Effect.gen(function*() {
                  yield* Effect.log(`takes ${request.payload.id}`)
                  yield* Effect.provideService(publisher.publish(request.payload), Broker.Broker, broker)
                }),
              Body.json(Order),
              Log.middleware(),
              Correlate.middleware()
            )
          ))
          const answers = yield* Effect.forEach(
            Array.from({ length: count }, (_, i) => i),
            (i) => Effect.promise(() => post(base, "/orders", { id: `o-${i}` }, { "x-request-id": `r-${i}` })),
            { concurrency: 50 }
          )
          answers.forEach((answer, i) => {
            assert.strictEqual(answer.status, 204)
            assert.strictEqual(answer.headers["x-request-id"], `r-${i}`)
          })
          yield* Deferred.await(all)
          for (const [channel, cause] of [["orders", /^r-\d+$/], ["invoices", /^orders\/\d+\/\d+$/]] as const) {
            const sent = yield* Stream.runCollect(broker.browse(channel))
            assert.strictEqual(sent.length, count)
            for (const { headers, raw } of sent) {
              const { id }: typeof Order.Type = JSON.parse(new TextDecoder().decode(raw))
              assert.strictEqual(headers["correlation-id"], id.replace("o", "r"))
              assert.match(headers["causation-id"] ?? "", cause)
            }
          }
        }).pipe(
          Effect.scoped,
          Effect.provide(Layer.mergeAll(MemoryBroker.layer({ partitions: 4 }), FetchHttpClient.layer, logging(lines)))
        )
        for (const [id, headers] of arrived) {
          assert.strictEqual(headers["x-request-id"], id.replace("o", "r"))
          assert.strictEqual(headers["correlation-id"], id.replace("o", "r"))
        }
        const own = lines.filter(({ text }) => /o-\d+$/.test(text))
        assert.strictEqual(own.length, 3 * count)
        for (const { annotations, text } of own) {
          assert.strictEqual(annotations["correlationId"], text.split(" ")[1]?.replace("o", "r"), text)
        }
        assert.strictEqual(new Set(lines.map(({ annotations }) => annotations["correlationId"])).size, count)
      }),
    60_000
  )

  it.live("W1 a webhook publishes the id that was checked, and not what came", () =>
    Effect.gen(function*() {
      const handler = Webhook.handler(Orders, { publisher: Publisher.make(Orders) })
      const broker = yield* Broker.Broker
      const provided = (request: Request) =>
        Effect.provideService(Effect.suspend(() => checked(request)), Broker.Broker, broker)
      const checked = pipe(handler, Correlate.middleware())
      const base = yield* serve(Server.route("POST", "/hook", provided))
      const answer = yield* Effect.promise(() => post(base, "/hook", { id: "1" }, { "correlation-id": "<script>" }))
      assert.strictEqual(answer.status, 202)
      const [sent] = yield* Stream.runCollect(broker.browse("orders"))
      assert.match(sent?.headers["correlation-id"] ?? "", uuid)
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 }))))

  it.live("B9 a sink's request has the checked ids, and not what came", () =>
    Effect.gen(function*() {
      const got: Array<Readonly<Record<string, string>>> = []
      const partner = yield* serve(
        Server.route("POST", "/", (request: Request) => Effect.sync(() => void got.push(request.headers)))
      )
      const sink = pipe(Sink.handler({ url: `${partner}/` }), Correlate.middleware())
      yield* Deliveries.run(sink, Deliveries.make({ headers: { "correlation-id": "<script>", "message-id": "m-1" } }))
      yield* Deliveries.run(sink, Deliveries.make({ headers: { "x-correlation-id": "c-1", "message-id": "m-1" } }))
      assert.match(got[0]?.["correlation-id"] ?? "", uuid)
      for (const name of ["correlation-id", "x-request-id"]) assert.strictEqual(got[1]?.[name], "c-1")
      assert.strictEqual(got[1]?.["causation-id"], "m-1")
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("H5 the line shows the request's body, which the handler reads all the same, and the answer, redacted", () =>
    Effect.gen(function*() {
      const lines: Array<Line> = []
      const log = Log.middleware({
        body: { characters: 200 },
        answer: { characters: 40 },
        headers: ["x-api-key"],
        redact: { fields: ["customer.email"] }
      })
      const Wide = Schema.Struct({ id: Schema.String, password: Schema.String, customer: Schema.Unknown })
      const base = yield* Effect.provide(
        serve(
          Server.route(
            "POST",
            "/read",
            pipe(
              (request: Request<typeof Wide.Type>) =>
                Effect.succeed({ got: request.payload.password.length, token: "t0k", long: "x".repeat(100) }),
              Body.json(Wide),
              log
            )
          ),
          Server.route(
            "POST",
            "/unread",
            pipe((_: Request) => Effect.succeed(HttpServerResponse.text("{\"a\":1}")), log)
          ),
          Server.route("POST", "/refused", pipe((_: Request<typeof Wide.Type>) => Effect.void, Body.json(Wide), log))
        ),
        logging(lines)
      )
      const body = { id: "1", password: "hunter2", customer: { email: "a@b.c", name: "ada" } }
      const read = yield* Effect.promise(() => post(base, "/read", body, { "x-api-key": "k3y" }))
      assert.strictEqual(read.json()["got"], 7)
      yield* Effect.promise(() => post(base, "/unread", body))
      yield* Effect.promise(() => post(base, "/refused", { password: "hunter2" }))
      const logged = lines.filter(({ text }) => !text.includes("answered"))
      assert.deepStrictEqual(
        logged.map(({ annotations: { answer, body, headers, statusCode } }) => ({
          answer,
          body,
          headers: { ...headers as object },
          statusCode
        })),
        [
          {
            answer: "{\"got\":7,\"token\":\"<redacted>\",\"long\":\"x…",
            body: "{\"id\":\"1\",\"password\":\"<redacted>\",\"customer\":{\"email\":\"<redacted>\",\"name\":\"ada\"}}",
            headers: { "x-api-key": "<redacted>" },
            statusCode: 200
          },
          { answer: "{\"a\":1}", body: undefined, headers: {}, statusCode: 200 },
          { answer: undefined, body: "{\"password\":\"<redacted>\"}", headers: {}, statusCode: 422 }
        ]
      )
      assert.notMatch(JSON.stringify(lines), /hunter2|a@b\.c|k3y|t0k/)
    }))

  it.live("H5 a client's request and the status of its answer, whose body stays its reader's", () =>
    Effect.gen(function*() {
      const lines: Array<Line> = []
      const base = yield* serve(Server.route(
        "POST",
        "/",
        pipe(
          (request: Request<Uint8Array>) => Effect.succeed({ bytes: request.payload.length }),
          Body.bytes()
        )
      ))
      const client = Client.make(
        yield* HttpClient.HttpClient,
        Log.middleware({ body: { characters: 100 }, answer: { characters: 100 } })
      )
      const request = HttpClientRequest.bodyJsonUnsafe(HttpClientRequest.post(base), { id: 1, secret: "s3cret" })
      const response = yield* Effect.provide(client.execute(request), logging(lines))
      assert.deepStrictEqual(yield* response.json, { bytes: 26 })
      assert.deepInclude(lines[0]?.annotations, {
        operation: "request",
        body: "{\"id\":1,\"secret\":\"<redacted>\"}",
        statusCode: 200
      })
      assert.isUndefined(lines[0]?.annotations["answer"])
    }).pipe(Effect.provide(FetchHttpClient.layer)))
})
