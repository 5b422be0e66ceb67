import { PgClient } from "@effect/sql-pg"
import { TaskStorePostgres } from "@millrace/sql"
import { TaskStoreContract } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Layer } from "effect"
import { describeServer } from "../services/describe.ts"

describeServer("TaskStorePostgres", Postgres.own(), (postgres) => {
  // the address is there when tests run, not when they are collected
  const client = Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url })))

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
