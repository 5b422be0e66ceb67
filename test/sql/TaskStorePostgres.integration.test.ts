import { PgClient } from "@effect/sql-pg"
import { it } from "@effect/vitest"
import { TaskStore } from "@millrace/core"
import { TaskStorePostgres } from "@millrace/sql"
import { TaskStoreContract } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Layer, Logger, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import { assert } from "vitest"
import { describeServer } from "../services/describe.ts"

describeServer("TaskStorePostgres", Postgres.own(), (postgres) => {
  // the address is there when tests run, not when they are collected
  const client = Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url })))

  it.live("X11 a store whose connection for LISTEN ends says so once, and listens again", () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => lines.push(String(message)))
    return Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      yield* TaskStore.Store
      const listens = sql<{ readonly pid: number }>`SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%deaf%'`
      const until = (isDone: (found: ReadonlyArray<{ readonly pid: number }>) => boolean) =>
        Effect.repeat(listens, { until: isDone, schedule: Schedule.spaced("20 millis") })
      const [before] = yield* until((found) => found.length === 1)
      yield* sql`SELECT pg_terminate_backend(${before!.pid}, 5000)`
      yield* until((found) => found.length === 1 && found[0]!.pid !== before!.pid)
      const told = lines.filter((line) =>
        line.startsWith("TaskStorePostgres deaf: PostgreSQL tells of no ended tasks (")
      )
      assert.lengthOf(told, 1)
      assert.match(told[0] ?? "", /so results are looked for by poll alone until LISTEN works again$/)
    }).pipe(
      Effect.provide(
        Layer.provideMerge(
          TaskStorePostgres.layerClient({ table: "deaf" }),
          Layer.merge(client, Logger.layer([logger]))
        )
      )
    )
  }, 60_000)

  TaskStoreContract.suite(
    "PostgreSQL",
    Layer.unwrap(Effect.sync(() => TaskStorePostgres.layer({ url: postgres().url }))),
    { reopened: "keeps" }
  )
  TaskStoreContract.suite(
    "PostgreSQL, a client of the program's own and small groups",
    TaskStorePostgres.layerClient({ table: "public.own", maximumGroup: 7, pruneEvery: "10 millis" }).pipe(
      Layer.provide(client)
    ),
    { reopened: "keeps" }
  )
})
