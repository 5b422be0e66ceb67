import { RateLimitPostgres } from "@millrace/sql"
import { RateLimitStoreContract } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Layer } from "effect"
import { describeServer } from "../services/describe.ts"

describeServer("RateLimitPostgres", Postgres.own(), (postgres) => {
  // the address is there when tests run, not when they are collected
  const lazy = (options: Omit<RateLimitPostgres.Options, "url"> = {}) =>
    Layer.unwrap(Effect.sync(() => RateLimitPostgres.layer({ url: postgres().url, ...options })))

  RateLimitStoreContract.suite("PostgreSQL, by its clock", lazy(), { reopened: "keeps", programs: 15 })
  RateLimitStoreContract.suite("PostgreSQL, by the time of the test", lazy({ clock: "process", table: "tested" }), {
    clock: "effect",
    programs: 15
  })
})
