/**
 * Makes the tables, and runs statements on them.
 */
import { Effect, Schedule } from "effect"
import { Migrator, SqlClient, SqlError } from "effect/sql"
import * as Dialect from "./dialect.ts"
import { checkTable, type Told, told, typed } from "./failure.ts"

/** A table that is there, and how to ask it. */
export interface Table<E> {
  readonly name: string
  readonly sql: SqlClient.SqlClient
  readonly dialect: Dialect.Dialect
  readonly ask: (
    statement: string,
    values?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<{ readonly [column: string]: unknown }>, E>
  readonly transaction: <A>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
}

/** Refuses what is no table. */
export const check = checkTable

/** Two processes that begin together: the one that comes second finds all done. */
const again = Schedule.exponential("20 millis").pipe(Schedule.upTo({ duration: "5 seconds" }))

const isRace = (error: SqlError.SqlError | Migrator.MigrationError): boolean =>
  error instanceof Migrator.MigrationError
    ? error.kind === "Locked" || error.kind === "Failed"
    : ["LockTimeoutError", "UniqueViolation", "DeadlockError", "SerializationError"].includes(error.reason._tag)

/** Opens a table of the program's `SqlClient`, and makes it where it is missing. */
export const open = <E>(
  kind: "outbox" | "inbox",
  table: string,
  fail: (told: Told) => E
): Effect.Effect<Table<E>, E, SqlClient.SqlClient> =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const where = `${kind === "outbox" ? "Outbox" : "Inbox"} ${table}`
    const failed = (error: SqlError.SqlError | Migrator.MigrationError) => fail(told(where, error))
    const dialect = Dialect.of(sql)
    if (dialect === undefined) {
      return yield* Effect.fail(fail({
        message: `${where}: the SqlClient has to be PostgreSQL's or SQLite's`,
        failure: "permanent",
        cause: undefined
      }))
    }
    const name = checkTable(where, table).split(".").at(-1)!
    yield* Migrator.make({})({
      // a step that was released is never changed, the next is added
      loader: Migrator.fromRecord({
        [`1_${kind}`]: Effect.forEach(dialect[kind](table, name), (step) => sql.unsafe(step), { discard: true })
      }),
      table: `${table}_versions`
    }).pipe(
      Effect.retry({ while: isRace, schedule: again }),
      Effect.mapError(failed)
    )
    return {
      name: table,
      sql,
      dialect,
      ask: (statement, values = []) =>
        Effect.mapError(
          sql.unsafe<{ readonly [column: string]: unknown }>(statement, values).withoutTransform,
          failed
        ),
      transaction: (effect) =>
        Effect.mapError(typed(sql.withTransaction(effect)), (error) =>
          error instanceof SqlError.SqlError ? failed(error) : error)
    }
  })
