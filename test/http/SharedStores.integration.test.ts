import { Caller, IdempotencyKey, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { type Idempotency, RateLimit } from "@millrace/core"
import { IdempotencyRedis, RateLimitRedis } from "@millrace/redis"
import { IdempotencyPostgres, IdempotencySqlite, RateLimitPostgres, RateLimitSqlite } from "@millrace/sql"
import { Redis } from "@millrace/testing/servers"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Layer, pipe } from "effect"
import { HttpRouter } from "effect/http"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe } from "vitest"
import { describePostgres, describeServer } from "../services/describe.ts"
import { call, serveWith } from "./support.ts"

type Stores = Layer.Layer<Idempotency.Store | RateLimit.Store, unknown>

const bytes = Uint8Array.from({ length: 256 }, (_, i) => i)

/** Two servers of two kinds, each with connections of its own to one store. */
const registerBoth = (stores: () => Stores) => {
  it.live(
    "W4 W5 of a hundred keys that both servers are asked for at once each runs once, and is answered alike",
    () =>
      Effect.gen(function*() {
        const runs = new Map<string, number>()
        const work = (request: Request) =>
          Effect.map(Effect.sleep(5), () => {
            const key = request.headers["idempotency-key"]!
            runs.set(key, (runs.get(key) ?? 0) + 1)
            return new Uint8Array([...bytes, runs.size & 255])
          })
        const key = IdempotencyKey.middleware({ running: "wait", maximumWait: "20 seconds" })
        const routes: ReadonlyArray<Server.Route<Idempotency.Store | RateLimit.Store>> = [
          Server.route("POST", "/once", pipe(work, key)),
          Server.route(
            "GET",
            "/few",
            pipe(
              (_: Request) => Effect.succeed("passed"),
              RateLimit.middleware({ name: "address", by: Caller.address(), limit: 10, window: "1 day" })
            )
          )
        ]
        const [first, second] = [yield* Layer.build(Layer.fresh(stores())), yield* Layer.build(Layer.fresh(stores()))]
        const router = yield* serveWith(
          Server.layer(...routes).pipe(HttpRouter.provideRequest(Layer.succeedContext(first)))
        )
        const listening = yield* Layer.build(
          Listener.layer(createServer, routes, { port: 0, host: "127.0.0.1" }).pipe(
            Layer.provide(Layer.succeedContext(second))
          )
        )
        const bases = [router, `http://127.0.0.1:${Context.get(listening, Listener.Address).port}`]
        const keys = Array.from({ length: 100 }, (_, i) => `key ${i}`)
        const answers = yield* Effect.forEach(
          [...keys, ...keys].flatMap((name) => bases.map((base) => ({ base, name }))),
          ({ base, name }) =>
            Effect.promise(async () => {
              const found = await fetch(`${base}/once`, { method: "POST", headers: { "idempotency-key": `"${name}"` } })
              return {
                name,
                status: found.status,
                replayed: found.headers.get("idempotent-replayed"),
                body: Buffer.from(await found.arrayBuffer()).toString("base64")
              }
            }),
          { concurrency: 40 }
        )
        assert.strictEqual(runs.size, 100)
        assert.deepStrictEqual([...new Set(runs.values())], [1])
        assert.deepStrictEqual([...new Set(answers.map(({ status }) => status))], [200])
        assert.strictEqual(answers.filter(({ replayed }) => replayed === null).length, 100)
        for (const name of keys) {
          const bodies = new Set(answers.filter((answer) => answer.name === name).map(({ body }) => body))
          assert.strictEqual(bodies.size, 1, name)
        }
        // and of one client both let no more pass than its bucket holds
        const few = yield* Effect.forEach(
          Array.from({ length: 40 }, (_, i) => bases[i % 2]!),
          (base) => Effect.promise(() => call(base, "/few")),
          { concurrency: 20 }
        )
        assert.strictEqual(few.filter(({ status }) => status === 200).length, 10)
        assert.strictEqual(few.filter(({ status }) => status === 429).length, 30)
      }),
    60_000
  )
}

describeServer("two servers that share Redis", Redis.own(), (redis) => {
  registerBoth(() =>
    Layer.merge(IdempotencyRedis.layer({ url: redis().url }), RateLimitRedis.layer({ url: redis().url }))
  )
})

describePostgres("two servers that share PostgreSQL", (postgres) => {
  registerBoth(() =>
    Layer.merge(
      IdempotencyPostgres.layer({ url: postgres().url, table: "http_keys" }),
      RateLimitPostgres.layer({ url: postgres().url, table: "http_limits" })
    )
  )
})

describe("two servers that share a file of SQLite", () => {
  const folder = mkdtempSync(join(tmpdir(), "millrace-http-"))
  afterAll(() => rmSync(folder, { recursive: true, force: true }))
  registerBoth(() =>
    Layer.merge(
      IdempotencySqlite.layer({ filename: join(folder, "keys.db") }),
      RateLimitSqlite.layer({ filename: join(folder, "limits.db") })
    )
  )
})
