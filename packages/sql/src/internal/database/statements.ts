/**
 * Runs the stores' statements: outside of the caller's open transaction, at READ COMMITTED, and with a time limit.
 */
import { Context, Effect } from "effect"
import { SqlClient, type SqlConnection, SqlError } from "effect/sql"
import { limited, type Step } from "./limited.ts"

/** A row from a database. */
export type Row = { readonly [column: string]: unknown }

/** The ways in which a store runs statements. */
export interface Statements {
  /** Runs one statement on a separate connection; `limit`, in milliseconds, overrides the store's time limit. */
  readonly ask: <R extends object = Row>(
    statement: string,
    values?: ReadonlyArray<unknown>,
    limit?: number
  ) => Effect.Effect<ReadonlyArray<R>, SqlError.SqlError>
  /** Runs statements of `inside` in one transaction, on a separate connection. */
  readonly transaction: <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E | SqlError.SqlError, R>
  /** Runs one statement in the open transaction. */
  readonly inside: <R extends object = Row>(
    statement: string,
    values?: ReadonlyArray<unknown>
  ) => Effect.Effect<ReadonlyArray<R>, SqlError.SqlError>
}

/** The database did not answer in time, or the client had no free connection. */
export class NoAnswer extends Error {}

/** Makes the failure of a call that took longer than `millis`. */
export const noAnswer = (millis: number, operation: string, hint: string): SqlError.SqlError => {
  const message = `no answer within ${millis} ms: ${hint}`
  return new SqlError.SqlError({
    reason: new SqlError.StatementTimeoutError({ cause: new NoAnswer(message), message, operation })
  })
}

/** Possible causes of a missing answer. */
export const hints = {
  any: "the server hangs or is out of reach, or all connections of the client are in use: give it more connections "
    + "(maxConnections)",
  inside: "this call is inside a transaction of the same SqlClient and needs a second connection: give the client more "
    + "connections (maxConnections) than handlers that run at once, or give the store its own connections (layer)"
}

/** Possible causes if a transaction around a handler does not begin or end. */
export const lateEnds: { readonly [S in Step]: string } = {
  begin: `the transaction did not begin; ${hints.any} than handlers that run at once`,
  end: "the transaction did not end, and may have been committed or not: the server hangs or is out of reach"
}

/** Whether the fiber is inside a transaction of the client. */
const isInside = (sql: SqlClient.SqlClient, context: Context.Context<never>): boolean =>
  Context.getOption(context, sql.transactionService)._tag === "Some"

/** Refuses a call that would deadlock: SQLite's only connection belongs to the transaction around the call. */
const onlyConnection = (operation: string): SqlError.SqlError => {
  const message =
    "a transaction of this SqlClient is open around this call, and SQLite has one connection: call it outside of the transaction"
  return new SqlError.SqlError({
    reason: new SqlError.LockTimeoutError({ cause: new Error(message), message, operation })
  })
}

/** Runs an effect outside of the fiber's transaction. */
export const outside = (sql: SqlClient.SqlClient) => {
  const isAlone = sql.onDialectOrElse({ sqlite: () => true, orElse: () => false })
  return <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | SqlError.SqlError, R> =>
    Effect.flatMap(Effect.context<R>(), (context): Effect.Effect<A, E | SqlError.SqlError, R> => {
      if (!isInside(sql, context)) return effect
      if (isAlone) return Effect.fail(onlyConnection("acquireConnection"))
      return Effect.updateContext(
        effect,
        // no effect can name the transaction's service, so its type does not change
        (own: Context.Context<R>) => Context.omit(sql.transactionService)(own) as Context.Context<R>
      )
    })
}

const readCommitted = "BEGIN ISOLATION LEVEL READ COMMITTED"

const isRolledBack = (result: unknown): boolean =>
  typeof result === "object" && result !== null && "command" in result && result.command === "ROLLBACK"

/**
 * Runs a PostgreSQL transaction whose own statements have a time limit. A late connection is closed when the transaction
 * returns it. The client's own `withTransaction` cannot be used inside, as it does not know this transaction.
 */
const postgresTransaction = (sql: SqlClient.SqlClient, millis: number) => {
  const soon = <A, R>(effect: Effect.Effect<A, SqlError.SqlError, R>, operation: string) =>
    limited(effect, millis, () => noAnswer(millis, operation, hints.any))
  const control = (connection: SqlConnection.Connection, statement: string) =>
    Effect.asVoid(soon(connection.execute(statement, [], undefined), "transaction"))
  return SqlClient.makeWithTransaction({
    transactionService: sql.transactionService,
    spanAttributes: [["db.system.name", "postgresql"]],
    acquireConnection: (restore) => restore(soon(sql.reserve, "acquireConnection")),
    begin: (connection) => control(connection, readCommitted),
    savepoint: (connection, id) => control(connection, `SAVEPOINT effect_sql_${id}`),
    rollbackSavepoint: (connection, id) => control(connection, `ROLLBACK TO SAVEPOINT effect_sql_${id}`),
    commit: (connection) =>
      Effect.flatMap(soon(connection.executeRaw("COMMIT", []), "commit"), (result) =>
        isRolledBack(result)
          ? Effect.fail(
            new SqlError.SqlError({
              reason: new SqlError.UnknownError({ cause: result, message: "the transaction was rolled back" })
            })
          )
          : Effect.void),
    // if a connection cannot roll back, it is lost, and its server rolls back
    rollback: (connection) => Effect.ignore(control(connection, "ROLLBACK"))
  })
}

/**
 * Makes the statements of a store. `millis` limits each statement, including the wait for its connection. If the database's
 * default isolation level is not READ COMMITTED, each statement gets a transaction: otherwise two calls that meet at one row
 * would fail.
 */
export const make = (sql: SqlClient.SqlClient, millis: number): Effect.Effect<Statements, SqlError.SqlError> => {
  const isPostgres = sql.onDialectOrElse({ pg: () => true, orElse: () => false })
  const out = outside(sql)
  const run = <R extends object = Row>(statement: string, values: ReadonlyArray<unknown> = []) =>
    sql.unsafe<R>(statement, values).withoutTransform

  const limit = <A, E, R>(
    effect: Effect.Effect<A, E, R>,
    most: number
  ): Effect.Effect<A, E | SqlError.SqlError, R> =>
    isPostgres
      ? Effect.flatMap(
        Effect.context<R>(),
        (context) =>
          limited(out(effect), most, () => noAnswer(most, "execute", isInside(sql, context) ? hints.inside : hints.any))
      )
      : out(effect)

  if (!isPostgres) {
    return Effect.succeed({
      ask: (statement, values) => out(run(statement, values)),
      inside: run,
      transaction: (effect) => out(sql.withTransaction(effect))
    })
  }
  const within = postgresTransaction(sql, millis)
  const transaction: Statements["transaction"] = (effect) => out(within(effect))
  return Effect.map(
    limit(run<{ readonly level: string }>("SELECT current_setting('default_transaction_isolation') AS level"), 30_000),
    ([row]): Statements => ({
      ask: row?.level === "read committed"
        ? (statement, values, most = millis) => limit(run(statement, values), most)
        : (statement, values, most = millis) => limit(within(run(statement, values)), most),
      inside: (statement, values) =>
        limited(run(statement, values), millis, () => noAnswer(millis, "execute", hints.any)),
      transaction
    })
  )
}
