import { PgClient } from "@effect/sql-pg"
import { Postgres } from "@millrace/testing/servers"
import { EffectWorkflows } from "@millrace/workflow"
import { Effect, Layer } from "effect"
import { describeServer } from "../services/describe.ts"
import { suite } from "./suite.ts"
import { implementations } from "./workflows.ts"

describeServer("EffectWorkflows on PostgreSQL", Postgres.own(), (postgres) => {
  // the address is there when tests run, not when they are collected
  const engine = Layer.unwrap(
    Effect.sync(() =>
      EffectWorkflows.layerSql(...implementations).pipe(
        Layer.provide(PgClient.layer({ url: postgres().url, maxConnections: 8 }))
      )
    )
  )
  suite("Effect on PostgreSQL", engine, { prefix: "", races: 100 })
})
