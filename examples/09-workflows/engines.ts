/**
 * The engines: another one is another Layer here, and nothing else.
 */
import { PgClient } from "@effect/sql-pg"
import { Idempotency } from "@millrace/core"
import { IdempotencyPostgres } from "@millrace/sql"
import { Temporal, TemporalWorker } from "@millrace/temporal"
import { Postgres, Temporal as TemporalServer } from "@millrace/testing/servers"
import { EffectWorkflows } from "@millrace/workflow"
import { Effect, Layer } from "effect"
import { fileURLToPath } from "node:url"
import { charge, Fulfil, ship } from "./orders.ts"

export const names = ["memory", "postgres", "temporal"] as const
export type Name = typeof names[number]

// the code of the workflow for Effect's engines; temporal.ts is the same for Temporal
const fulfil = EffectWorkflows.implement(Fulfil, (order) => Effect.flatMap(charge.execute(order), ship.execute))

const memory = Layer.merge(EffectWorkflows.layerMemory(fulfil), Idempotency.layerMemory())

/** A PostgreSQL that is started for the run: the executions and the records are in it. */
const postgres = Layer.unwrap(Effect.map(Postgres.own(), ({ url }) =>
  Layer.merge(
    Layer.provide(EffectWorkflows.layerSql(fulfil), PgClient.layer({ url, maxConnections: 8 })),
    IdempotencyPostgres.layer({ url })
  )))

/** Temporal's test server, started for the run, with a client and a worker of this process. */
const temporal = Layer.unwrap(Effect.map(TemporalServer.own(), ({ address }) => {
  const connection = { address, taskQueue: "orders" }
  return Layer.mergeAll(
    Temporal.layer(connection),
    TemporalWorker.layer({
      ...connection,
      workflows: { path: fileURLToPath(new URL("temporal.ts", import.meta.url)) },
      activities: [charge, ship],
      // the test server has no queues for the workflows of one worker
      cachedWorkflows: 0
    }),
    Idempotency.layerMemory()
  )
}))

export const layers = { memory, postgres, temporal }
