/**
 * Effect's `SqlClient` over Node's own SQLite: for the outbox, the inbox and the program's own tables in one file.
 */
import { OptionCheck } from "@millrace/core"
import { Duration, Effect, Layer, Schedule, Semaphore, Stream } from "effect"
import { Reactivity } from "effect/reactivity"
import { SqlClient, type SqlConnection, SqlError, Statement } from "effect/sql"
import type { SQLInputValue, StatementSync } from "node:sqlite"
import { openDatabase } from "./internal/sqlite/open.ts"

/** Options of `layer`. */
export interface Options {
  /** The file, created if missing, its folder must exist; `:memory:` for a database that ends with the layer. */
  readonly filename: string
  /**
   * `full`: commits survive a loss of power. `normal`: they survive a crash of the process, but a crash of the machine loses
   * the last commits. Default: `full`.
   */
  readonly synchronous?: "full" | "normal" | undefined
  /** How long a transaction waits for another process's to end; from 0. The event loop is not blocked. Default: 5 seconds. */
  readonly busyTimeout?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: {
  readonly synchronous: "full"
  readonly busyTimeout: Duration.Duration
} = { synchronous: "full", busyTimeout: Duration.seconds(5) }

// the most compiled statements that are cached: a program that makes statements at run time must not fill the memory
const maximumStatements = 256

class SeveralStatements extends Error {
  override readonly message =
    "SqliteClient runs one statement at a time, and this text holds several: run each by itself"
}

/** Whether only blanks, comments and semicolons are left. */
const isEmpty = (sql: string): boolean => /^(?:[\s;]|--[^\n]*(?:\n|$)|\/\*[^]*?(?:\*\/|$))*$/.test(sql)

const codeOf = (cause: unknown): number | undefined =>
  cause instanceof Error && "errcode" in cause ? Number(cause.errcode) : undefined

/** node:sqlite names the code `errcode`, Effect reads it as `errno`; of extended codes only 2067 (not unique) is kept. */
const failed = (operation: string) => (cause: unknown): SqlError.SqlError => {
  const code = codeOf(cause)
  const known = cause instanceof Error && code !== undefined
    ? Object.assign(cause, { errno: code === 2067 ? code : code & 0xff })
    : cause
  const message = cause instanceof Error ? cause.message : String(cause)
  return new SqlError.SqlError({ reason: SqlError.classifySqliteError(known, { message, operation }) })
}

/** Converts a value to bind; SQLite has neither booleans nor dates. */
const bound = (value: unknown): SQLInputValue =>
  value === undefined
    ? null
    : typeof value === "boolean"
    ? Number(value)
    : value instanceof Date
    ? value.toISOString()
    // SQLite refuses other values with an error that names the type
    : value as SQLInputValue

interface Connection extends SqlConnection.Connection {
  readonly isTransaction: () => boolean
}

const connect = (options: Options, busy: number) =>
  Effect.acquireRelease(
    Effect.try({
      try: () => {
        // no wait inside SQLite: it would block the event loop
        return openDatabase(options.filename)
      },
      catch: failed("connect")
    }),
    (database) => Effect.sync(() => database.isOpen && database.close())
  ).pipe(Effect.flatMap((database) => {
    const statements = new Map<string, StatementSync>()
    const prepared = (sql: string): StatementSync => {
      const found = statements.get(sql)
      if (found !== undefined) return found
      if (statements.size >= maximumStatements) statements.delete(statements.keys().next().value!)
      const made = database.prepare(sql)
      // SQLite compiles the first statement and ignores the rest
      if (!isEmpty(sql.slice(made.sourceSQL.length))) throw new SeveralStatements()
      statements.set(sql, made)
      return made
    }
    // 5 ms, doubling to 100 ms
    const patience = Schedule.exponential("5 millis").pipe(
      Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.millis(100)))),
      Schedule.upTo({ duration: Duration.millis(busy) })
    )
    const isBusy = (error: SqlError.SqlError) =>
      // a retry inside a transaction would fail again: its snapshot is old
      error.reason._tag === "LockTimeoutError" && !database.isTransaction
    const attempt = <A>(use: () => A): Effect.Effect<A, SqlError.SqlError> =>
      Effect.retry(Effect.try({ try: use, catch: failed("execute") }), { while: isBusy, schedule: patience })
    const all = (sql: string, params: ReadonlyArray<unknown>, arrays: boolean) =>
      attempt(() => {
        const statement = prepared(sql)
        statement.setReturnArrays(arrays)
        // the caller declares the type of its rows
        return statement.all(...params.map(bound)) as ReadonlyArray<unknown>
      })
    const execute: Connection["execute"] = (sql, params, transform) =>
      Effect.map(all(sql, params, false), (rows) => transform === undefined ? rows : transform(rows as Array<object>))
    const values: Connection["executeValues"] = (sql, params) =>
      Effect.map(all(sql, params, true), (rows) => rows as ReadonlyArray<ReadonlyArray<unknown>>)
    const connection: Connection = {
      execute,
      executeUnprepared: execute,
      executeRaw: (sql, params) => attempt(() => prepared(sql).run(...params.map(bound))),
      executeValues: values,
      executeValuesUnprepared: values,
      executeStream: (sql, params, transform) => Stream.fromIterableEffect(execute(sql, params, transform)),
      isTransaction: () => database.isTransaction
    }
    const set = (pragma: string) => attempt(() => database.exec(`PRAGMA ${pragma}`))
    return Effect.as(
      Effect.andThen(
        set("journal_mode = WAL"),
        set(`synchronous = ${(options.synchronous ?? defaults.synchronous).toUpperCase()}`)
      ),
      connection
    )
  }))

/**
 * Provides a `SqlClient` on a SQLite file, by `node:sqlite` and without another dependency.
 *
 * Provides `SqlClient`; fails with a `SqlError` if the file does not open. The client has one connection, on the thread of the
 * program: transactions run one after the other, and begin as writers (`BEGIN IMMEDIATE`), so that none fails in the middle
 * because another process has written. A call that waits for another process's transaction fails after `busyTimeout` with a
 * `SqlError` of reason `LockTimeoutError`.
 *
 * Source: https://nodejs.org/api/sqlite.html and https://www.sqlite.org/lang_transaction.html
 *
 * **Example** (a table in memory)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { SqliteClient } from "@millrace/sql"
 *
 * const program = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`CREATE TABLE orders (id TEXT)`
 *   yield* sql.withTransaction(sql`INSERT INTO orders VALUES (${"a"})`)
 *   return yield* sql<{ id: string }>`SELECT id FROM orders`
 * })
 * const rows = await Effect.runPromise(Effect.provide(program, SqliteClient.layer({ filename: ":memory:" })))
 * console.log(rows[0]?.id) // => a
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> => {
  if (options.filename === "") throw new RangeError("SqliteClient.layer: filename is needed, and it is empty")
  const busy = OptionCheck.make("SqliteClient.layer").millis(
    "busyTimeout",
    options.busyTimeout ?? defaults.busyTimeout,
    {
      least: 0,
      most: OptionCheck.longestTimer
    }
  )
  return Layer.effect(
    SqlClient.SqlClient,
    Effect.gen(function*() {
      const connection = yield* connect(options, busy)
      return yield* SqlClient.make({
        ...SqlClient.makeSqliteAcquirers({
          connection: Effect.succeed(connection),
          semaphore: yield* Semaphore.make(1),
          isTransaction: (one) => one.isTransaction()
        }),
        compiler: Statement.makeCompilerSqlite(),
        beginTransaction: "BEGIN IMMEDIATE",
        driver: "sqlite-node",
        spanAttributes: [["db.system.name", "sqlite"]]
      })
    })
  ).pipe(Layer.provide(Reactivity.layer))
}
