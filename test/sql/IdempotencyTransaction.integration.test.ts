import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { type Delivery, Idempotency, Outcome } from "@millrace/core"
import { IdempotencyPostgres } from "@millrace/sql"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Exit, Layer, pipe, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { fileURLToPath } from "node:url"
import { deliver, runChain } from "../core/support.ts"
import { describeServer } from "../services/describe.ts"

const script = fileURLToPath(new URL("./IdempotencyTogether.ts", import.meta.url))

describeServer("IdempotencyPostgres in the handler's transaction", Postgres.own(), (postgres) => {
  const client = Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url })))
  const together = IdempotencyPostgres.layerClient({ table: "keys", transaction: "handler" }).pipe(
    Layer.provideMerge(client)
  )

  const write = (name: string) =>
    Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO rows (name) VALUES (${name})`)
  const count = (name: string) =>
    Effect.flatMap(
      SqlClient.SqlClient,
      (sql) =>
        Effect.map(sql<{ n: number }>`SELECT count(*)::float8 AS n FROM rows WHERE name = ${name}`, ([row]) => row!.n)
    )
  const prepare = Effect.flatMap(SqlClient.SqlClient, (sql) => sql`CREATE TABLE IF NOT EXISTS rows (name text)`)
  const request = (key: string): Delivery => deliver({ headers: { "idempotency-key": key } })
  const free = (key: string) =>
    Effect.flatMap(Idempotency.Store, (store) =>
      Effect.map(
        store.claim({ key, fingerprint: "", lease: 1000 }),
        ({ _tag }) => _tag === "Claimed"
      ))

  it.live("W4 W5 what a handler writes and its answer commit together, and a duplicate writes nothing", () =>
    Effect.gen(function*() {
      yield* prepare
      let isSeenOutside: number | undefined
      const outside = yield* Layer.build(Layer.fresh(client))
      const chain = pipe(
        (_: Delivery) =>
          Effect.gen(function*() {
            yield* write("both")
            isSeenOutside = yield* Effect.provideContext(count("both"), outside)
          }),
        Idempotency.middleware()
      )
      assert.deepStrictEqual(yield* runChain(chain, request("both")), Exit.void)
      assert.strictEqual(isSeenOutside, 0)
      assert.deepStrictEqual(yield* runChain(chain, request("both")), Exit.void)
      assert.strictEqual(yield* count("both"), 1)
    }).pipe(Effect.scoped, Effect.provide(together)))

  it.live("W5 nothing is written by a handler that fails, asks to be tried again, is interrupted, or has lost its claim", () =>
    Effect.gen(function*() {
      yield* prepare
      const run = <E, R>(name: string, then: Effect.Effect<void | Outcome.Outcome, E, R>) =>
        runChain(
          pipe((_: Delivery) => Effect.andThen(write(name), then), Idempotency.middleware({ lease: 600 })),
          request(name)
        )
      const failed = yield* run("fails", Effect.fail({ _tag: "Refused", failure: "permanent" } as const))
      assert.isTrue(Exit.isFailure(failed))
      assert.include(String(Exit.isFailure(failed) ? JSON.stringify(failed.cause) : ""), "Refused")
      const answered = yield* run("again", Effect.succeed(Outcome.Release))
      assert.deepStrictEqual(answered, Exit.succeed(Outcome.Release))
      yield* run("interrupted", Effect.interrupt)
      const outside = yield* Layer.build(Layer.fresh(client))
      // on another connection, as by an hour's sleep of this program
      const expire = Effect.provideContext(
        Effect.flatMap(
          SqlClient.SqlClient,
          (sql) => sql`UPDATE keys SET expires_at = now() - interval '1 second' WHERE result IS NULL`
        ),
        outside
      )
      const lost = yield* run("lost", Effect.asVoid(expire))
      assert.include(Exit.isFailure(lost) ? JSON.stringify(lost.cause) : "", "IdempotencyLost")
      for (const name of ["fails", "again", "interrupted", "lost"]) {
        assert.strictEqual(yield* count(name), 0, name)
      }
      assert.isTrue(yield* free("not asked for"))
    }).pipe(Effect.scoped, Effect.provide(together)))

  const round = (transaction: "own" | "handler", keys: number) =>
    Effect.callback<number | null>((resume) => {
      const child = spawn(
        process.execPath,
        ["--no-warnings", script, Redacted.value(postgres().url), String(keys), transaction],
        { stdio: ["ignore", "ignore", "inherit"] }
      )
      child.on("close", (code) => resume(Effect.succeed(code)))
      return Effect.sync(() => child.removeAllListeners("close").kill("SIGKILL"))
    })

  it.live(
    "W5 each key has exactly one effect, though the process is killed between effect and completion",
    () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`CREATE TABLE effects (key text)`
        yield* Effect.scoped(Layer.build(IdempotencyPostgres.layerClient({ table: "together_keys" })))
        const keys = 400
        let deaths = 0
        for (let code: number | null = null; code !== 0;) {
          code = yield* round("handler", keys)
          if (code === null) deaths++
          else assert.strictEqual(code, 0)
          const [twice] = yield* sql<
            { n: number }
          >`SELECT count(*)::float8 - count(DISTINCT key)::float8 AS n FROM effects`
          assert.strictEqual(twice!.n, 0)
          // an effect without its completion, or the other way round
          const [half] = yield* sql<{ n: number }>`SELECT count(*)::float8 AS n FROM effects
          FULL JOIN (SELECT key FROM together_keys WHERE result IS NOT NULL) AS done
          ON split_part(done.key, ':', -1) = effects.key WHERE done.key IS NULL OR effects.key IS NULL`
          assert.strictEqual(half!.n, 0)
        }
        assert.isAbove(deaths, 1)
        const [all] = yield* sql<{ n: number }>`SELECT count(*)::float8 AS n FROM effects`
        assert.strictEqual(all!.n, keys)
      }).pipe(Effect.scoped, Effect.provide(client)),
    400_000
  )
})
