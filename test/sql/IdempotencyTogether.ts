// Handles keys one after another, eight at a time, each with a row of its own, and dies now and then: the address, how many keys,
// and `handler` or `own`.
import { PgClient } from "@effect/sql-pg"
import { type Delivery, Failure, Idempotency } from "@millrace/core"
import { IdempotencyPostgres } from "@millrace/sql"
import { Deliveries } from "@millrace/testing"
import { Effect, Layer, pipe, Redacted } from "effect"
import { SqlClient } from "effect/sql"

const [, , url = "", count = "0", transaction] = process.argv

const mayDie = () => {
  if (Math.random() < 0.02) process.kill(process.pid, "SIGKILL")
}
// a key that was done by an earlier process ends nothing, so that the number of processes does not grow with that of keys
const handled = new Set<string>()

const chain = pipe(
  (message: Delivery) =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const key = message.headers["idempotency-key"]!
      yield* sql`INSERT INTO effects (key) VALUES (${key})`
      handled.add(key)
      mayDie()
    }),
  Idempotency.middleware({ running: "wait", lease: 600, maximumWait: "30 seconds" })
)

const isConflict = (error: unknown): boolean => Failure.isClassified(error) && error.failure === "conflict"

const database = PgClient.layer({ url: Redacted.make(url), maxConnections: 10 })

await Effect.runPromise(
  Effect.forEach(Array.from({ length: Number(count) }, (_, i) => i), (i) =>
    Effect.flatMap(
      Deliveries.run(chain, Deliveries.make({ headers: { "idempotency-key": `k${i}` } })),
      ({ exit }) => Effect.andThen(Effect.sync(() => handled.has(`k${i}`) && mayDie()), exit)
      // a machine that stands still for a lease loses the claim: the message comes again, as it does from a broker
    ).pipe(Effect.retry({ while: isConflict, times: 100 })), { concurrency: 8, discard: true }).pipe(
      Effect.provide(
        IdempotencyPostgres.layerClient({
          table: "together_keys",
          transaction: transaction === "handler" ? "handler" : "own"
        }).pipe(Layer.provideMerge(database))
      )
    )
)
