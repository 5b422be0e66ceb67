/**
 * What both sides of the service need of the database: its tables, one error, and transactions.
 */
import { type BrokerError, type Publisher } from "@millrace/core"
import { Data, Effect, Layer, Schedule } from "effect"
import { SqlClient, SqlError } from "effect/sql"

/** The database failed, and everything of the transaction is undone. Class `dependency`: 503, or handled again. */
export class StoreFailed
  extends Data.TaggedError("StoreFailed")<{ readonly message: string; readonly cause: unknown }>
{
  readonly failure = "dependency" as const
}

/** The same row was written meanwhile. Class `conflict`: handled again. */
export class Overtaken extends Data.TaggedError("Overtaken")<{ readonly id: string }> {
  readonly failure = "conflict" as const
}

/** What writing to the database and its outbox fails with. */
export type Failed = StoreFailed | BrokerError.BrokerError | Publisher.EncodeError

const failed = (cause: SqlError.SqlError) =>
  new StoreFailed({ message: `The database failed: ${cause.message}`, cause })

/** An error of the database as one that has a class. */
export const typed = <A, E, R>(
  effect: Effect.Effect<A, E | SqlError.SqlError, R>
): Effect.Effect<A, E | StoreFailed, R> =>
  Effect.mapError(effect, (error) => SqlError.isSqlError(error) ? failed(error) : error)

const create = Effect.gen(function*() {
  const sql = yield* SqlClient.SqlClient
  yield* sql`CREATE TABLE IF NOT EXISTS web_orders
    (id TEXT PRIMARY KEY, correlation_id TEXT NOT NULL, body TEXT NOT NULL, status TEXT NOT NULL, sequence INTEGER NOT NULL)`
  yield* sql`CREATE TABLE IF NOT EXISTS web_states
    (id TEXT NOT NULL, sequence INTEGER NOT NULL, status TEXT NOT NULL, reason TEXT, PRIMARY KEY (id, sequence))`
  yield* sql`CREATE TABLE IF NOT EXISTS web_jobs
    (id TEXT PRIMARY KEY, status TEXT NOT NULL, sequence INTEGER NOT NULL, reason TEXT)`
})

/**
 * The tables: those of the front, `web_orders` and `web_states`, and that of the worker, `web_jobs`. Of processes that make them
 * at the same time PostgreSQL refuses all but one, so the others look again.
 */
export const tables = Layer.effectDiscard(
  typed(Effect.retry(create, { times: 3, schedule: Schedule.spaced("100 millis") }))
)
