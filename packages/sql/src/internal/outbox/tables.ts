/**
 * Opens the tables of outbox and inbox, and runs statements on them.
 */
import { Effect } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import * as Migrate from "../database/migrate.ts"
import * as Statements from "../database/statements.ts"
import { checkTable, nameOf } from "../database/table.ts"
import * as Dialect from "./dialect.ts"
import { type Told, told, typed } from "./failure.ts"

/** An existing table, and the ways to run statements on it. */
export interface Table<E> {
  readonly name: string
  readonly sql: SqlClient.SqlClient
  readonly dialect: Dialect.Dialect
  /** Runs a statement on a separate connection, outside of the caller's transaction. */
  readonly ask: (statement: string, values?: ReadonlyArray<unknown>) => Effect.Effect<ReadonlyArray<Statements.Row>, E>
  /** Runs a statement in the open transaction. */
  readonly inside: (
    statement: string,
    values?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<Statements.Row>, E>
  /** Runs statements of `inside` in a separate transaction. */
  readonly transaction: <A>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
}

/** The longest name of a table: the names of its indexes and additional tables begin with it. */
const longest = 45

/** Checks the name of a table. */
export const check = (module: string, table: string): string => checkTable(module, table, longest)

/** The kinds of tables. */
export type Kind = "outbox" | "inbox"

const titles = { outbox: "Outbox", inbox: "Inbox" } as const

const found = <E>(
  kind: Kind,
  table: string,
  fail: (told: Told) => E
): Effect.Effect<{ readonly sql: SqlClient.SqlClient; readonly dialect: Dialect.Dialect }, E, SqlClient.SqlClient> =>
  Effect.flatMap(SqlClient.SqlClient, (sql) => {
    const dialect = Dialect.of(sql)
    return dialect === undefined
      ? Effect.fail(fail({
        message: `${titles[kind]} ${table}: the SqlClient has to be PostgreSQL's or SQLite's`,
        failure: "permanent",
        cause: undefined
      }))
      : Effect.succeed({ sql, dialect })
  })

/** Creates or updates the tables. */
export const migrate = <E>(
  kind: Kind,
  table: string,
  fail: (told: Told) => E
): Effect.Effect<void, E, SqlClient.SqlClient> =>
  Effect.flatMap(found(kind, table, fail), ({ dialect }) =>
    Effect.mapError(
      Migrate.run({
        table,
        steps: dialect[kind](table, nameOf(table)).map((statements) => (sql) =>
          Effect.forEach(statements, (statement) => sql.unsafe(statement), { discard: true })
        )
      }),
      (error) => fail(told(`${titles[kind]} ${table}`, error))
    ))

/** Opens a table by the program's `SqlClient`, and creates it if missing. `millis` limits each statement. */
export const open = <E>(
  kind: Kind,
  table: string,
  millis: number,
  fail: (told: Told) => E
): Effect.Effect<Table<E>, E, SqlClient.SqlClient> =>
  Effect.gen(function*() {
    const { dialect, sql } = yield* found(kind, table, fail)
    const failed = (error: Migrate.Failed) => fail(told(`${titles[kind]} ${table}`, error))
    yield* migrate(kind, table, fail)
    const statements = yield* Effect.mapError(Statements.make(sql, millis), failed)
    return {
      name: table,
      sql,
      dialect,
      ask: (statement, values) => Effect.mapError(statements.ask(statement, values), failed),
      inside: (statement, values) => Effect.mapError(statements.inside(statement, values), failed),
      transaction: (effect) =>
        Effect.mapError(typed(statements.transaction(effect)), (error) =>
          error instanceof SqlError.SqlError ? failed(error) : error)
    }
  })
