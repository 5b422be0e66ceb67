import { PgClient } from "@effect/sql-pg"
import { MonitorSql } from "@millrace/monitor"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Layer } from "effect"
import { describeServer } from "../services/describe.ts"
import { suite } from "./storeSuite.ts"

describeServer("MonitorSql on PostgreSQL", Postgres.own(), (postgres) => {
  suite(
    "PostgreSQL",
    (name) =>
      Layer.provide(
        MonitorSql.layer({ name, timeout: "20 seconds" }),
        Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url })))
      ),
    { shared: true }
  )
})
