import { assert, describe, it } from "@effect/vitest"
import { Broker, DeadLetters, Health, MemoryBroker, Order } from "@millrace/core"
import * as Listener from "@millrace/http/Listener"
import { ConfigProvider, Context, Duration, Effect, Layer, Redacted, References, Schedule, Stream } from "effect"
import { SqlClient } from "effect/sql"
import * as fc from "fast-check"
import * as Api from "../../examples/04-web-service/api.ts"
import * as Settings from "../../examples/04-web-service/config.ts"
import { Cancelled, Placed, Replies } from "../../examples/04-web-service/contract.ts"
import * as Layers from "../../examples/04-web-service/layers.ts"
import { Orders } from "../../examples/04-web-service/orders.ts"
import * as Worker from "../../examples/04-web-service/worker.ts"
import { run } from "../repo/workspace.ts"

const main = "examples/04-web-service/main.ts"

const settings = (workTime: number): Settings.Settings => ({
  port: 0,
  host: "127.0.0.1",
  database: Redacted.make(":memory:"),
  broker: "memory",
  worker: true,
  workTime: Duration.millis(workTime),
  limit: 1000,
  logLevel: "Fatal"
})

interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly body: {
    readonly id: string
    readonly status: string
    readonly correlationId: string
    readonly states: ReadonlyArray<{ readonly sequence: number; readonly status: string; readonly reason?: string }>
    readonly errors?: ReadonlyArray<{ readonly pointer: string }>
    readonly detail?: string
  }
}

/** The whole service on a port of its own, its client, and what lies beneath. */
const service = (workTime = 20, worker = true) =>
  Effect.gen(function*() {
    const own = { ...settings(workTime), worker }
    const broker = yield* Layer.build(MemoryBroker.layer())
    const stores = yield* Layer.build(Layers.stores(own))
    const messaging = (own: Settings.Settings) =>
      Effect.forkScoped(
        Effect.provideContext(Layer.launch(Layers.messaging(own, Layer.succeedContext(broker))), stores)
      )
    yield* messaging(own)
    const http = Health.layerLifetime().pipe(Layer.provideMerge(Layers.http(own)), Layer.provide(Layers.health))
    const server = yield* Effect.provideContext(Layer.build(http), stores)
    const base = `http://127.0.0.1:${Context.get(server, Listener.Address).port}`
    const ask = (method: string, path: string, body?: unknown, headers?: Record<string, string>) =>
      Effect.promise(async (): Promise<Answer> => {
        const response = await fetch(base + path, {
          method,
          headers: { ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
          ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify(body) })
        })
        return { status: response.status, headers: response.headers, body: await response.json() as Answer["body"] }
      })
    const until = (id: string, is: (status: string) => boolean) =>
      Effect.repeat(ask("GET", `/orders/${id}`), {
        until: ({ body }) => is(body.status),
        schedule: Schedule.spaced("10 millis")
      }).pipe(Effect.timeout("30 seconds"))
    const messages = (channel: string) =>
      Effect.map(Stream.runCollect(Context.get(broker, Broker.Broker).browse(channel)), (all) =>
        all.map(({ headers, payload }) => ({
          headers,
          body: JSON.parse(new TextDecoder().decode(payload)) as {
            readonly correlationId: string
            readonly data: { readonly id: string; readonly sequence?: number; readonly status?: string }
          }
        })))
    const sql = Context.get(stores, SqlClient.SqlClient)
    return { ask, until, messages, sql, work: messaging({ ...own, worker: true }) }
  })

/** Its log is of no interest here. */
const quietly = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.provideService(Effect.scoped(effect), References.MinimumLogLevel, "None")

const line = (sku: string) => ({ sku, quantity: 1 })
const order = (...skus: ReadonlyArray<string>) => ({ customer: "ada", lines: skus.map(line) })
const isFinal = (status: string) => ["completed", "partial", "failed", "cancelled"].includes(status)

describe("the web service", { timeout: 60_000 }, () => {
  it.live("B2 B4 B8 an order is accepted, worked on and seen in each of its states, under one correlation id", () =>
    Effect.gen(function*() {
      const { ask, messages, sql, until } = yield* service()
      const placed = yield* ask("POST", "/orders", order("lamp"), { "x-request-id": "req-7" })
      const { id } = placed.body
      assert.strictEqual(placed.status, 202)
      assert.deepInclude(placed.body, { correlationId: "req-7", status: "received" })
      assert.strictEqual(placed.headers.get("location"), `/orders/${id}`)
      assert.strictEqual(placed.headers.get("correlation-id"), "req-7")
      const { body } = yield* until(id, isFinal)
      assert.deepStrictEqual(body.states, [
        { sequence: 0, status: "received" },
        { sequence: 1, status: "processing" },
        { sequence: 2, status: "completed" }
      ])
      assert.deepInclude(body, { ...order("lamp"), correlationId: "req-7", status: "completed" })
      const rows = yield* sql<{ readonly correlation_id: string }>`SELECT correlation_id FROM web_orders`
      assert.deepStrictEqual(rows.map(({ correlation_id }) => correlation_id), ["req-7"])
      const consumed = yield* messages(Placed.name)
      const replies = yield* messages(Replies.name)
      assert.deepStrictEqual(consumed.map(({ body }) => body.data.id), [id])
      assert.deepStrictEqual(replies.map(({ body }) => body.data.status), ["processing", "completed"])
      for (const { body, headers } of [...consumed, ...replies]) {
        assert.strictEqual(body.correlationId, "req-7")
        assert.strictEqual(headers["correlation-id"], "req-7")
      }
      // a request without an id, or with one that is none, is given one; two have not the same
      const [one, two] = [
        yield* ask("POST", "/orders", order("lamp")),
        yield* ask("POST", "/orders", order("lamp"), { "x-request-id": "a b" })
      ]
      assert.strictEqual(new Set([one.body.correlationId, two.body.correlationId, "a b", "req-7"]).size, 4)
    }).pipe(quietly))

  it.live("B1 B8 without its worker it accepts orders, which wait in the broker for one", () =>
    Effect.gen(function*() {
      const { ask, messages, until, work } = yield* service(20, false)
      const { id } = (yield* ask("POST", "/orders", order("lamp"))).body
      yield* Effect.repeat(messages(Placed.name), {
        until: (all) => all.length === 1,
        schedule: Schedule.spaced("10 millis")
      })
      // as long as it takes to ask fifty times: a worker would have begun
      for (let i = 0; i < 50; i++) assert.strictEqual((yield* ask("GET", `/orders/${id}`)).body.status, "received")
      yield* work
      assert.strictEqual((yield* until(id, isFinal)).body.status, "completed")
    }).pipe(quietly))

  it.live("B4 what is out of stock or busy ends as what it is, with the reason", () =>
    Effect.gen(function*() {
      const { ask, until } = yield* service()
      const ends = (...skus: ReadonlyArray<string>) =>
        Effect.flatMap(ask("POST", "/orders", order(...skus)), ({ body }) => until(body.id, isFinal))
      const last = ({ body }: Answer) => [body.states.at(-1)?.status, body.states.at(-1)?.reason]
      assert.deepStrictEqual(last(yield* ends("lamp", "gone-desk")), ["partial", "out of stock: gone-desk"])
      assert.deepStrictEqual(last(yield* ends("gone-lamp", "gone-desk")), [
        "failed",
        "out of stock: gone-lamp, gone-desk"
      ])
      assert.deepStrictEqual(
        (yield* ends("busy-lamp")).body.states.map(({ status }) => status),
        ["received", "processing", "retrying", "processing", "retrying", "processing", "completed"]
      )
    }).pipe(quietly))

  it.live("B4 what is cancelled while it is worked on stays cancelled", () =>
    Effect.gen(function*() {
      const { ask, messages, sql, until } = yield* service(1000)
      const { id } = (yield* ask("POST", "/orders", order("lamp"))).body
      yield* until(id, (status) => status === "processing")
      assert.strictEqual((yield* ask("DELETE", `/orders/${id}`)).status, 202)
      yield* until(id, isFinal)
      const again = yield* ask("DELETE", `/orders/${id}`)
      assert.strictEqual(again.status, 409)
      assert.strictEqual(again.body.detail, "The status cannot go from cancelled to cancelled: cancelled is final")
      // the worker ends another order behind it, so its attempt at this one has ended, too
      const behind = (yield* ask("POST", "/orders", order("lamp"))).body.id
      yield* until(behind, isFinal)
      const { body } = yield* ask("GET", `/orders/${id}`)
      const [job] = yield* sql<{ readonly status: string }>`SELECT status FROM web_jobs WHERE id = ${id}`
      assert.strictEqual(job?.status, "cancelled")
      for (const { name } of [Placed, Replies]) assert.deepStrictEqual(yield* messages(DeadLetters.channelOf(name)), [])
      assert.deepStrictEqual(body.states.map(({ status }) => status), ["received", "processing", "cancelled"])
      assert.strictEqual((yield* messages(Cancelled.name)).length, 1)
    }).pipe(quietly))

  it.live("B8 what is wrong is refused as problem details, and nothing is kept or published of it", () =>
    Effect.gen(function*() {
      const { ask, messages, sql } = yield* service()
      const wrong = yield* ask("POST", "/orders", { customer: "", lines: [{ sku: "A B", quantity: 0 }] })
      assert.strictEqual(wrong.status, 422)
      assert.strictEqual(wrong.headers.get("content-type"), "application/problem+json")
      assert.deepStrictEqual(
        wrong.body.errors?.map(({ pointer }) => pointer).sort(),
        ["#/customer", "#/lines/0/quantity", "#/lines/0/sku"]
      )
      assert.strictEqual((yield* ask("POST", "/orders", "{")).status, 400)
      assert.strictEqual((yield* ask("POST", "/orders", "{}", { "content-type": "text/plain" })).status, 415)
      const missing = yield* ask("GET", "/orders/7")
      assert.strictEqual(missing.status, 404)
      assert.strictEqual(missing.body.detail, "There is no order 7")
      assert.strictEqual((yield* ask("DELETE", "/orders/7")).status, 404)
      assert.strictEqual((yield* sql`SELECT * FROM web_orders`).length, 0)
      assert.strictEqual((yield* messages(Placed.name)).length, 0)
    }).pipe(quietly))

  it.live("B8 a publish that fails is answered as a failure, and its order is not there", () =>
    Effect.gen(function*() {
      const { ask, sql } = yield* service()
      yield* sql`ALTER TABLE millrace_outbox RENAME TO elsewhere`
      const { body, status } = yield* ask("POST", "/orders", order("lamp"))
      assert.isAtLeast(status, 500)
      assert.notProperty(body, "id")
      assert.strictEqual((yield* sql`SELECT * FROM web_orders`).length, 0)
      assert.strictEqual((yield* sql`SELECT * FROM web_states`).length, 0)
      const { body: health, status: ready } = yield* ask("GET", "/readyz")
      assert.deepInclude([ready, health.status], "warn")
      yield* sql`ALTER TABLE elsewhere RENAME TO millrace_outbox`
      assert.strictEqual((yield* ask("POST", "/orders", order("lamp"))).status, 202)
    }).pipe(quietly))

  it.live("B4 its orders stand where the last reply says, in whatever order replies come and however often", () =>
    Effect.gen(function*() {
      const orders = Context.get(yield* Layer.build(Layers.stores(settings(1))), Orders)
      const steps = ["processing", "retrying", "processing", "retrying", "processing", "partial"] as const
      const history = steps.map((status, i) => ({ status, sequence: i + 1 }))
      let count = 0
      const run = yield* Effect.context<never>()
      yield* Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(fc.array(fc.constantFrom(...history), { minLength: 1, maxLength: 20 }), async (replies) => {
            const id = `order-${count++}`
            const told = Effect.forEach(replies, ({ sequence, status }) =>
              orders.reply({ correlationId: "c", data: { id, sequence, status } }))
            const seen = await Effect.runPromiseWith(run)(
              Effect.andThen(
                orders.place(id, "c", { customer: "ada", lines: [line("lamp")] }),
                Effect.andThen(told, orders.find(id))
              )
            )
            const last = replies.reduce((last, reply) =>
              reply.sequence > last.sequence ? reply : last
            )
            assert.deepInclude(seen, last)
            assert.deepStrictEqual(
              seen.states.map(({ sequence }) => sequence),
              [0, ...new Set(replies.map(({ sequence }) => sequence).sort((a, b) => a - b))]
            )
          }),
          { numRuns: 50 }
        )
      )
    }).pipe(quietly))

  it("W9 its pipelines stand in the recommended order", () => {
    for (const each of [...Api.subscriptions, ...Worker.subscriptions("1 second")]) {
      assert.deepStrictEqual(Order.advise(each), [], each.name)
    }
    for (const route of Api.routes(1)) {
      assert.match(Order.explain(route), /^here .*\nCorrelate  Correlate\nLog  /, route.path)
      assert.deepStrictEqual(Order.advise(route), [], route.path)
    }
  })
})

describe("its configuration", { timeout: 120_000 }, () => {
  const load = (env: Record<string, string>) =>
    Effect.provideService(Settings.load, ConfigProvider.ConfigProvider, ConfigProvider.fromEnvRecord(env))

  const wrong = {
    PORT: "99999",
    BROKER: "rabbit",
    WORKER: "perhaps",
    WORK_TIME: "long",
    RATE_LIMIT: "0.5",
    LOG_LEVEL: "loud",
    KAFKA_TLS: "maybe",
    KAFKA_SASL_MECHANISM: "trust"
  }

  it.effect("B1 has a default for each variable, and reads each from the environment", () =>
    Effect.gen(function*() {
      const defaults = yield* load({})
      assert.deepInclude(defaults, { port: 3000, host: "127.0.0.1", broker: "memory", worker: true, limit: 1000 })
      const given = yield* load({
        PORT: "8080",
        WORKER: "false",
        BROKER: "kafka",
        KAFKA_BROKERS: "k:9092",
        WORK_TIME: "2 seconds"
      })
      assert.deepInclude(given, { port: 8080, worker: false, broker: "kafka" })
      assert.strictEqual(Duration.toMillis(given.workTime), 2000)
      assert.notInclude(JSON.stringify(yield* load({ DATABASE: "postgres://u:hush@db/shop" })), "hush")
    }))

  it("B1 whatever is wrong is named in one message, with what it must be and what came, and nothing else is", () =>
    fc.assert(
      fc.asyncProperty(fc.subarray(Object.entries(wrong), { minLength: 1 }), async (some) => {
        const { message } = await Effect.runPromise(Effect.flip(load(Object.fromEntries(some))))
        const lines = message.split("\n").slice(1, -1)
        assert.deepStrictEqual(lines.map((line) => line.trim().split(" ")[0]).sort(), some.map(([name]) => name).sort())
        for (const [name, value] of some) {
          const line = lines.find((line) => line.includes(`  ${name} must be `))
          assert.include(line, `got ${JSON.stringify(value)}`)
        }
      }),
      { numRuns: 30 }
    ))

  it.effect("B1 what is needed beside another is asked for, and no secret is repeated", () =>
    Effect.gen(function*() {
      const kafka = yield* Effect.flip(load({ BROKER: "kafka", KAFKA_PASSWORD: "hush", PORT: "x" }))
      assert.include(kafka.message, "KAFKA_BROKERS must be host:port,… where BROKER is kafka, nothing came")
      assert.include(kafka.message, `PORT must be an integer from 0 to 65535, got "x"`)
      assert.notInclude(kafka.message, "hush")
      const address = yield* Effect.flip(load({ BROKER: "kafka", KAFKA_BROKERS: "kafka.example.com" }))
      assert.include(address.message, "KAFKA_BROKERS must be host:port,… where BROKER is kafka, got a value")
      const database = yield* Effect.flip(load({ DATABASE: "mysql://u:hush@db/shop" }))
      assert.include(database.message, "DATABASE must be a file or postgres://…, got a value that is not shown here")
      assert.notInclude(database.message, "hush")
      const alone = yield* Effect.flip(load({ WORKER: "false" }))
      assert.include(alone.message, "WORKER must be true where BROKER is memory")
    }))

  it("B1 a wrong environment ends the start with exit code 78, and help names every variable", async () => {
    const node = (args: ReadonlyArray<string>) => run(process.execPath, [main, ...args])
    const help = await node(["--help"])
    assert.strictEqual(help.code, 0)
    for (const { means, name } of Object.values(Settings.variables)) {
      assert.include(help.output, name)
      assert.include(help.output, means)
    }
    const refused = await run("env", ["PORT=abc", "BROKER=kafka", process.execPath, main])
    assert.strictEqual(refused.code, 78)
    assert.include(refused.output, `PORT must be an integer from 0 to 65535, got "abc"`)
    assert.include(refused.output, "KAFKA_BROKERS must be")
    const closed = await run("env", ["PORT=0", "DATABASE=/no/such/folder/web.db", process.execPath, main])
    assert.strictEqual(closed.code, 1)
    assert.include(closed.output, "DATABASE /no/such/folder/web.db does not open")
    const argument = await node(["8080"])
    assert.strictEqual(argument.code, 2)
    assert.include(argument.output, "--help says")
  })
})
