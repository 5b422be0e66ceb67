import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Idempotency } from "@millrace/core"
import { IdempotencyRedis } from "@millrace/redis"
import { IdempotencyPostgres, IdempotencySqlite } from "@millrace/sql"
import { Postgres, Redis } from "@millrace/testing/servers"
import { Cause, ConfigProvider, Effect, Exit, Fiber, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { inspect } from "node:util"
import { afterAll } from "vitest"
import { describeServer } from "../services/describe.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-idempotency-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const password = "hunter2-SECRET"

const openError = (layer: Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable>) =>
  Effect.tap(
    Effect.flip(Effect.scoped(Effect.provide(Effect.asVoid(Idempotency.Store), layer))),
    (error) =>
      Effect.sync(() => {
        assert.strictEqual(error._tag, "IdempotencyUnavailable")
        assert.notInclude(inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(error), password)
      })
  )

const said = (
  layer: Layer.Layer<Idempotency.Store, unknown>,
  env: Record<string, string>
): Effect.Effect<string> =>
  Effect.map(
    Effect.exit(Effect.scoped(Effect.provide(Effect.asVoid(Idempotency.Store), layer))).pipe(
      Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
    ),
    (exit) => Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "opened"
  )

const fill = (count: number, lease: number) =>
  Effect.flatMap(Idempotency.Store, (store) =>
    Effect.forEach(
      Array.from({ length: count }, (_, i) => i),
      (i) => store.claim({ key: `key-${i}`, fingerprint: "", lease }),
      { concurrency: "unbounded", discard: true }
    ))

const until = <E, R>(isSo: Effect.Effect<boolean, E, R>): Effect.Effect<void, E, R> =>
  Effect.flatMap(isSo, (so) => so ? Effect.void : Effect.andThen(Effect.sleep(20), until(isSo)))

describe("IdempotencySqlite, its file", () => {
  it.live("W5 a file that does not open or takes no writes says why and what to do", () =>
    Effect.gen(function*() {
      const missing = yield* openError(IdempotencySqlite.layer({ filename: join(folder, "no", "such", "file.db") }))
      assert.include(missing.message, "make its folder")
      const filename = join(folder, "locked.db")
      yield* Effect.gen(function*() {
        const store = yield* Idempotency.Store
        const database = new DatabaseSync(filename)
        database.exec("BEGIN IMMEDIATE")
        const ask = store.claim({ key: "a", fingerprint: "", lease: 1000 })
        const error = yield* Effect.flip(ask)
        assert.include(error.message, "another process holds it")
        database.exec("ROLLBACK")
        assert.strictEqual((yield* ask)._tag, "Claimed")
        database.exec("INSERT INTO idempotency_versions VALUES (99)")
        database.close()
      }).pipe(Effect.provide(IdempotencySqlite.layer({ filename, busyTimeout: "20 millis" })))
      assert.include((yield* openError(IdempotencySqlite.layer({ filename }))).message, "update the program")
    }))

  it.live("W5 options out of range are refused, from the environment with a typed error", () =>
    Effect.gen(function*() {
      assert.throws(() => IdempotencySqlite.layer({ filename: "" }), RangeError, "IdempotencySqlite: filename")
      assert.throws(() => IdempotencySqlite.layer({ filename: "a", maximumGroup: 0 }), RangeError, "maximumGroup")
      assert.throws(() => IdempotencySqlite.layer({ filename: "a", busyTimeout: -1 }), RangeError, "busyTimeout")
      assert.throws(() => IdempotencySqlite.layer({ filename: "a", pruneEvery: 0 }), RangeError, "pruneEvery")
      const layer = IdempotencySqlite.layerConfig()
      const IDEMPOTENCY_SQLITE_FILENAME = join(folder, "environment.db")
      assert.include(yield* said(layer, {}), "IDEMPOTENCY_SQLITE_FILENAME")
      assert.include(
        yield* said(layer, { IDEMPOTENCY_SQLITE_FILENAME, IDEMPOTENCY_SQLITE_MAXIMUM_GROUP: "0" }),
        "maximumGroup must be an integer from 1"
      )
      assert.strictEqual(yield* said(layer, { IDEMPOTENCY_SQLITE_FILENAME }), "opened")
    }))

  it.live("W5 what has ended is removed, and what has not stays", () =>
    Effect.gen(function*() {
      const filename = join(folder, "pruned.db")
      yield* Effect.gen(function*() {
        yield* fill(2_500, 100)
        const store = yield* Idempotency.Store
        yield* store.claim({ key: "stays", fingerprint: "", lease: 60_000 })
        const database = new DatabaseSync(filename)
        const count = Effect.sync(() => Number(database.prepare("SELECT count(*) AS n FROM idempotency").get()!["n"]))
        yield* until(Effect.map(count, (n) => n === 1))
        yield* Effect.sleep(100)
        assert.strictEqual(yield* count, 1)
        database.close()
      }).pipe(Effect.provide(IdempotencySqlite.layer({ filename, pruneEvery: "50 millis" })))
    }))
})

describeServer("IdempotencyPostgres, its table", Postgres.own(), (postgres) => {
  it.live("W5 a database that does not open says why and what to do, and shows no password", () =>
    Effect.gen(function*() {
      const changed = (change: (url: URL) => void) => {
        const url = new URL(Redacted.value(postgres().url))
        change(url)
        return IdempotencyPostgres.layer({ url: Redacted.make(url.href) })
      }
      const cases: ReadonlyArray<[Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable>, string]> = [
        [changed((url) => (url.password = password)), "check the user, its password"],
        [changed((url) => (url.port = "1", url.password = password)), "is it running there"],
        [changed((url) => (url.pathname = "/no_such_database")), "make the database"],
        [
          IdempotencyPostgres.layer({ url: Redacted.make(`postgres://user:${password}@[bad`) }),
          "postgres://user:password@"
        ]
      ]
      for (const [layer, advice] of cases) assert.include((yield* openError(layer)).message, advice)
      assert.throws(
        () => IdempotencyPostgres.layer({ url: postgres().url, table: "a; drop table b" }),
        RangeError,
        "IdempotencyPostgres: table"
      )
      assert.throws(() => IdempotencyPostgres.layerClient({ maximumGroup: 0 }), RangeError, "maximumGroup")
      const layer = IdempotencyPostgres.layerConfig()
      assert.include(yield* said(layer, {}), "IDEMPOTENCY_POSTGRES_URL")
      const IDEMPOTENCY_POSTGRES_URL = Redacted.value(postgres().url)
      assert.include(
        yield* said(layer, { IDEMPOTENCY_POSTGRES_URL, IDEMPOTENCY_POSTGRES_TABLE: "Table" }),
        "IdempotencyPostgres: table"
      )
      assert.strictEqual(yield* said(layer, { IDEMPOTENCY_POSTGRES_URL }), "opened")
    }))

  it.live("W5 what ended a minute ago is removed; programs that start at once make the table once", () =>
    Effect.gen(function*() {
      const url = postgres().url
      const layer = IdempotencyPostgres.layer({ url, table: "pruned", pruneEvery: "50 millis" })
      yield* Effect.gen(function*() {
        const opening = yield* Effect.forkChild(
          Effect.all(
            Array.from({ length: 4 }, () => Effect.scoped(Layer.build(Layer.fresh(layer)))),
            { concurrency: "unbounded" }
          )
        )
        yield* Fiber.join(opening)
        const sql = yield* SqlClient.SqlClient
        yield* Effect.provide(
          Effect.gen(function*() {
            yield* fill(2_500, 60_000)
            yield* sql`UPDATE pruned SET expires_at = now() - interval '50 seconds' WHERE key = 'key-7'`
            yield* sql`UPDATE pruned SET expires_at = now() - interval '2 minutes' WHERE key > 'key-7'`
            const count = Effect.map(
              sql<{ n: number }>`SELECT count(*)::float8 AS n FROM pruned WHERE key > 'key-7'`,
              ([row]) => row!.n
            )
            yield* until(Effect.map(count, (n) => n === 0))
            const [left] = yield* sql<{ n: number }>`SELECT count(*)::float8 AS n FROM pruned WHERE key <= 'key-7'`
            assert.isAbove(left!.n, 1)
          }),
          layer
        )
      }).pipe(Effect.provide(PgClient.layer({ url })))
    }))
})

describeServer("IdempotencyRedis, its server", Redis.own({ password: "right" }), (redis) => {
  it.live("W5 a server that does not open says why and what to do, and shows no password", () =>
    Effect.gen(function*() {
      const url = `redis://default:${password}@127.0.0.1:${redis().port}`
      assert.include((yield* openError(IdempotencyRedis.layer({ url }))).message, "check the user and the password")
      const closed = yield* openError(IdempotencyRedis.layer({ url: `redis://default:${password}@127.0.0.1:1` }))
      assert.include(closed.message, "connection refused")
      const bad = yield* openError(IdempotencyRedis.layer({ url: redis().url, maximumGroup: 0 }))
      assert.include(bad.message, "IdempotencyRedis: maximumGroup must be an integer from 1, got 0")
      const layer = IdempotencyRedis.layerConfig()
      const REDIS_URL = Redacted.value(redis().url)
      assert.include(yield* said(layer, {}), "REDIS_URL")
      assert.include(yield* said(layer, { REDIS_URL, IDEMPOTENCY_REDIS_MAXIMUM_GROUP: "x" }), "MAXIMUM_GROUP")
      assert.strictEqual(yield* said(layer, { REDIS_URL }), "opened")
    }))

  it.live("W5 a server that lost its data gives larger tokens all the same; one that is full takes completions", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      const ask = (key: string, fingerprint = "") => store.claim({ key, fingerprint, lease: 60_000 })
      const first = yield* ask("a")
      assert(first._tag === "Claimed")
      const { Redis: Client } = yield* Effect.promise(() => import("ioredis"))
      const client = new Client(Redacted.value(redis().url))
      yield* Effect.promise(() => client.flushall())
      const second = yield* ask("a")
      assert(second._tag === "Claimed")
      assert.isAbove(second.token, first.token)
      assert.isFalse(yield* store.complete("a", first.token, new Uint8Array([1]), 1000))
      yield* Effect.promise(() => client.config("SET", "maxmemory", "1"))
      assert.include((yield* Effect.flip(ask("b"))).message, "is full")
      assert.isTrue(yield* store.complete("a", second.token, new Uint8Array([2]), 60_000))
      yield* Effect.promise(() => client.config("SET", "maxmemory", "0"))
      assert.strictEqual((yield* ask("a"))._tag, "Completed")
      client.disconnect()
    }).pipe(Effect.provide(Layer.unwrap(Effect.sync(() => IdempotencyRedis.layer({ url: redis().url }))))))
})
