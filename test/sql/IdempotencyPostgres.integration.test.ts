import { PgClient } from "@effect/sql-pg"
import { IdempotencyPostgres } from "@millrace/sql"
import { IdempotencyStoreContract } from "@millrace/testing"
import { Postgres } from "@millrace/testing/servers"
import { Effect, Layer, Redacted } from "effect"
import { it } from "@effect/vitest"
import { describeServer } from "../services/describe.ts"
import * as Faults from "./IdempotencyFaults.ts"
import * as Race from "./IdempotencyRace.ts"

describeServer("IdempotencyPostgres", Postgres.own(), (postgres) => {
  // the address is there when tests run, not when they are collected
  const lazy = (options: Omit<IdempotencyPostgres.Options, "url">) =>
    Layer.unwrap(Effect.sync(() => IdempotencyPostgres.layer({ url: postgres().url, ...options })))
  const client = Layer.unwrap(Effect.sync(() => PgClient.layer({ url: postgres().url })))

  IdempotencyStoreContract.suite("PostgreSQL", lazy({}), { reopened: "keeps" })
  IdempotencyStoreContract.suite(
    "PostgreSQL, small groups",
    lazy({ table: "small", maximumGroup: 7, pruneEvery: "10 millis" }),
    { reopened: "keeps" }
  )
  IdempotencyStoreContract.suite(
    "PostgreSQL, a client of the program's own",
    IdempotencyPostgres.layerClient({ table: "public.client", transaction: "handler" }).pipe(Layer.provide(client)),
    { reopened: "keeps" }
  )

  it.live(
    "W5 of many processes that die at any moment one completes each key, and no late one overwrites it",
    () =>
      Effect.provide(
        Race.check(Race.racer("PostgreSQL", Redacted.value(postgres().url), "race")),
        lazy({ table: "race" })
      ),
    Race.timeLimit
  )

  // a clock that jumps by days would prune thousands of times
  Faults.registerClocks(() => IdempotencyPostgres.layer({ url: postgres().url, pruneEvery: "6 hours" }))
  Faults.registerOutages(
    postgres,
    ({ name, patience }) => IdempotencyPostgres.layer({ url: postgres().url, table: name, patience })
  )

  Faults.registerLostAnswers(postgres, (port) => {
    const url = new URL(Redacted.value(postgres().url))
    url.port = String(port)
    // one connection, whose statement is known to the server when an answer is lost
    return IdempotencyPostgres.layer({ url: Redacted.make(url.href), maximumConnections: 1, pruneEvery: "1 hour" })
  })
})
