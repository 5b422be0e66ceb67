import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Audit } from "@millrace/core"
import { AuditPostgres } from "@millrace/sql"
import { AuditStoreContract } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Cause, ConfigProvider, Effect, Exit, Fiber, Layer, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { createServer } from "node:net"
import type { AddressInfo, Server } from "node:net"
import { inspect } from "node:util"
import { describePostgres, describeServer } from "../services/describe.ts"

const entry = AuditStoreContract.entry

const openError = (layer: Layer.Layer<Audit.Store, Audit.AuditError>) =>
  Effect.flip(Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), layer)))

const run = `r${process.pid}_${Date.now().toString(36)}`

describePostgres("AuditPostgres", (postgres) => {
  let tables = 0
  const table = () => `${run}_${++tables}`
  // the address is there when tests run, not when they are collected
  const lazy = (options: Omit<AuditPostgres.Options, "url">) =>
    Layer.unwrap(Effect.sync(() => AuditPostgres.layer({ url: postgres().url, ...options })))
  const changed = (change: (url: URL) => void): Redacted.Redacted<string> => {
    const url = new URL(Redacted.value(postgres().url))
    change(url)
    return Redacted.make(url.href)
  }
  const client = Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url })))

  AuditStoreContract.suite("PostgreSQL", lazy({ table: table() }), { reopened: "keeps" })
  AuditStoreContract.suite("PostgreSQL, small groups", lazy({ table: table(), maximumGroup: 7 }), { reopened: "keeps" })
  AuditStoreContract.suite(
    "PostgreSQL, a client of the program's own",
    AuditPostgres.layerClient({ table: table() }).pipe(Layer.provide(client)),
    { reopened: "keeps" }
  )

  it.live("F6 a database that does not open says why and what to do, and shows no password", () =>
    Effect.gen(function*() {
      const closed = yield* Effect.callback<number>((resume) => {
        const server = createServer().listen(0, "127.0.0.1", () => {
          const { port } = server.address() as AddressInfo
          server.close(() => resume(Effect.succeed(port)))
        })
      })
      const password = "hunter2-SECRET"
      const cases: ReadonlyArray<[Redacted.Redacted<string>, Audit.Reason, string]> = [
        [changed((url) => (url.port = String(closed), url.password = password)), "Unreachable", "is it running there"],
        [changed((url) => (url.pathname = "/no_such_database")), "NotFound", "make the database"],
        [Redacted.make(`postgres://user:${password}@[bad`), "Invalid", "URL"],
        [changed((url) => url.searchParams.set("sslmode", "sometimes")), "Invalid", "sslmode"],
        [Redacted.make(`mysql://user:${password}@localhost/test`), "Invalid", "postgres://"]
      ]
      for (const [url, reason, advice] of cases) {
        const error = yield* openError(AuditPostgres.layer({ url, table: table() }))
        assert.instanceOf(error, Audit.AuditError)
        assert.deepStrictEqual([error.reason, error.operation, error.failure], [reason, "open", "dependency"])
        assert.include(error.message, advice)
        assert.notInclude(inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(error), password)
      }
    }))

  it.live("F6 X9 a server that takes connections and says nothing is unreachable, and no mistake of the options", () =>
    Effect.gen(function*() {
      const silent = yield* Effect.acquireRelease(
        Effect.callback<Server>((resume) => {
          const server = createServer().listen(0, "127.0.0.1", () => resume(Effect.succeed(server)))
        }),
        (server) => Effect.sync(() => server.close())
      )
      const { port } = silent.address() as AddressInfo
      const url = changed((url) => (url.port = String(port)))
      const error = yield* openError(AuditPostgres.layer({ url, table: table(), connectTimeout: "100 millis" }))
      assert.strictEqual(error.reason, "Unreachable")
      assert.include(error.message, "is it running there")
    }).pipe(Effect.scoped))

  it.live("F6 a schema or a table that is missing is named", () =>
    Effect.gen(function*() {
      const missing = yield* openError(lazy({ table: `no_such_schema.${table()}` }))
      assert.strictEqual(missing.reason, "NotFound")
      assert.include(missing.message, "no_such_schema")

      const name = table()
      yield* Effect.gen(function*() {
        const store = yield* Audit.Store
        yield* store.append(entry())
        const sql = yield* SqlClient.SqlClient
        yield* sql.unsafe(`ALTER TABLE ${name} RENAME TO ${name}_gone`)
        const gone = yield* Effect.flip(store.append(entry()))
        assert.deepStrictEqual([gone.reason, gone.operation], ["NotFound", "append"])
        yield* sql.unsafe(`ALTER TABLE ${name}_gone RENAME TO ${name}`)
        yield* store.append(entry())
        assert.strictEqual(yield* store.count(), 2)
      }).pipe(Effect.provide([lazy({ table: name }), client]))
    }))

  it.live("F6 a user who may not write, and a database that takes no writes, are named", () =>
    Effect.gen(function*() {
      const role = table()
      const url = changed((url) => (url.username = role, url.password = "hunter2"))
      const sql = yield* SqlClient.SqlClient
      yield* Effect.acquireRelease(
        sql.unsafe(`CREATE ROLE ${role} LOGIN PASSWORD 'hunter2'`),
        () => Effect.orDie(sql.unsafe(`DROP ROLE ${role}`))
      )
      const name = table()
      const denied = yield* openError(AuditPostgres.layer({ url, table: name }))
      assert.strictEqual(denied.reason, "Permission")
      assert.include(denied.message, "grant the user")
      yield* sql.unsafe(`ALTER ROLE ${role} SET default_transaction_read_only = on`)
      const readOnly = yield* openError(AuditPostgres.layer({ url, table: name }))
      assert.strictEqual(readOnly.reason, "ReadOnly")
    }).pipe(Effect.scoped, Effect.provide(client)))

  it.live("F6 many programs that start at once make the table once", () =>
    Effect.gen(function*() {
      const name = table()
      const append = Effect.flatMap(Audit.Store, (store) => store.append(entry()))
      yield* Effect.all(
        Array.from({ length: 8 }, () =>
          Effect.provide(append, Layer.fresh(lazy({ table: name, maximumConnections: 2 })))),
        { concurrency: "unbounded" }
      )
      const count = Effect.flatMap(Audit.Store, (store) =>
        store.count())
      assert.strictEqual(yield* Effect.provide(count, lazy({ table: name })), 8)
    }))

  it.live("F6 queries use the indexes", () =>
    Effect.gen(function*() {
      const name = table()
      yield* Effect.gen(function*() {
        const store = yield* Audit.Store
        yield* Effect.all(
          Array.from({ length: 5_000 }, (_, i) =>
            store.append(entry({
              channel: `c${i % 50}`,
              handler: `h${i % 50}`,
              completedAt: i,
              status: i % 100 === 0 ? "failed" : "done"
            }))),
          { concurrency: "unbounded", discard: true }
        )
        const sql = yield* SqlClient.SqlClient
        yield* sql.unsafe(`ANALYZE ${name}`)
        const plan = (where: string) =>
          Effect.map(
            sql.unsafe(`EXPLAIN SELECT id FROM ${name} WHERE ${where} ORDER BY completed_at DESC, id DESC LIMIT 10`),
            (rows) => JSON.stringify(rows)
          )
        assert.include(yield* plan("completed_at < 100"), `${name}_time`)
        assert.include(yield* plan("channel = 'c1'"), `${name}_channel`)
        assert.include(yield* plan("handler = 'h1'"), `${name}_handler`)
        assert.include(yield* plan("status = 'failed'"), `${name}_trouble`)
      }).pipe(Effect.provide([lazy({ table: name }), client]))
    }))

  it.live("F6 options out of range are refused, from the environment with a typed error", () =>
    Effect.gen(function*() {
      const url = postgres().url
      assert.throws(() => AuditPostgres.layer({ url, table: "a; drop table b" }), RangeError, "AuditPostgres: table")
      assert.throws(() => AuditPostgres.layer({ url, maximumGroup: 0 }), RangeError, "maximumGroup")
      assert.throws(() => AuditPostgres.layer({ url, maximumConnections: 0 }), RangeError, "maximumConnections")
      assert.throws(() => AuditPostgres.layer({ url, patience: -1 }), RangeError, "patience")
      const open = (env: Record<string, string>) =>
        Effect.exit(Effect.scoped(Effect.provide(Effect.asVoid(Audit.Store), AuditPostgres.layerConfig()))).pipe(
          Effect.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env })))
        )
      const said = (exit: Exit.Exit<unknown, unknown>) =>
        Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "opened"
      assert.include(said(yield* open({})), "AUDIT_POSTGRES_URL")
      const AUDIT_POSTGRES_URL = Redacted.value(url)
      assert.include(
        said(yield* open({ AUDIT_POSTGRES_URL, AUDIT_POSTGRES_MAXIMUM_GROUP: "many" })),
        "AUDIT_POSTGRES_MAXIMUM_GROUP"
      )
      assert.include(said(yield* open({ AUDIT_POSTGRES_URL, AUDIT_POSTGRES_TABLE: "Table" })), "AuditPostgres: table")
      assert.strictEqual(said(yield* open({ AUDIT_POSTGRES_URL, AUDIT_POSTGRES_TABLE: table() })), "opened")
    }))
})

describeServer("AuditPostgres on a server of its own", Postgres.own(), (postgres) => {
  it.live("F6 a wrong password is named, and not shown", () =>
    Effect.gen(function*() {
      const url = new URL(Redacted.value(postgres().url))
      url.password = "hunter2-SECRET"
      const error = yield* openError(AuditPostgres.layer({ url: Redacted.make(url.href) }))
      assert.strictEqual(error.reason, "Credentials")
      assert.include(error.message, "check the user, its password")
      assert.notInclude(inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(error), "hunter2-SECRET")
    }))

  it.live("X9 rows wait for a server that is killed and comes back; each is there once, and what was acknowledged is there", () =>
    Effect.gen(function*() {
      const acknowledged: Array<number> = []
      yield* Effect.gen(function*() {
        const store = yield* Audit.Store
        let position = 0
        const flow = yield* Effect.forkChild(Effect.forever(Effect.suspend(() => {
          const chunk = Array.from({ length: 20 }, () => position++)
          return Effect.forEach(chunk, (each) => store.append(entry({ position: each })), {
            concurrency: "unbounded",
            discard: true
          }).pipe(
            Effect.tap(() => Effect.sync(() => acknowledged.push(...chunk))),
            Effect.andThen(Effect.sleep("1 millis"))
          )
        })))
        for (let i = 0; i < 3; i++) {
          yield* Effect.sleep("150 millis")
          yield* postgres().kill
          yield* Effect.sleep("100 millis")
          yield* postgres().start
        }
        yield* Effect.sleep("150 millis")
        // it never failed
        assert.isUndefined(flow.pollUnsafe())
        yield* Fiber.interrupt(flow)
        const rows = yield* store.query({ order: "oldest", limit: 10_000 })
        const stored = rows.rows.map((row) => row.position!)
        assert.strictEqual(new Set(stored).size, stored.length)
        assert.deepStrictEqual(acknowledged.filter((each) => !stored.includes(each)), [])
        assert.isAbove(acknowledged.length, 100)
      }).pipe(Effect.provide(AuditPostgres.layer({ url: postgres().url, table: "killed", patience: "30 seconds" })))
    }))

  it.live("X9 without patience a server that is gone fails the row with a typed error, and the next one finds it back", () =>
    Effect.gen(function*() {
      yield* Effect.gen(function*() {
        const store = yield* Audit.Store
        yield* store.append(entry())
        yield* postgres().kill
        const error = yield* Effect.flip(store.append(entry()))
        assert.oneOf(error.reason, ["Lost", "Unreachable"])
        const still = yield* Effect.flip(store.append(entry()))
        assert.strictEqual(still.reason, "Unreachable")
        yield* postgres().start
        yield* store.append(entry())
        assert.strictEqual(yield* store.count(), 2)
      }).pipe(Effect.provide(AuditPostgres.layer({ url: postgres().url, table: "gone", patience: 0 })))
    }))
})
