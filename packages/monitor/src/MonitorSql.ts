/**
 * Keeps the state of the monitor in PostgreSQL or SQLite, so that the counts of several processes add up, and a restart
 * forgets nothing.
 */
import { OptionCheck } from "@millrace/core"
import { Duration, Effect, Layer, Schedule } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { decode, encode, type State } from "./Fold.ts"
import { MonitorUnavailable, Store } from "./Monitor.ts"

/** Options of `layer`. */
export interface Options {
  /**
   * The table, created if missing: small letters, digits and `_`, optionally with a schema before a dot, which must exist.
   * Default: `millrace_monitor`.
   */
  readonly table?: string | undefined
  /** The name of the state: processes with the same name add up; 1 to 200 characters. Default: `default`. */
  readonly name?: string | undefined
  /** The longest time of one change or read, with the wait for other processes and for a connection; from 1 ms. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: { readonly table: string; readonly name: string; readonly timeout: Duration.Duration } = {
  table: "millrace_monitor",
  name: "default",
  timeout: Duration.seconds(5)
}

const module = "MonitorSql"
const check = OptionCheck.make(module)

const unavailable = (cause: unknown): MonitorUnavailable =>
  cause instanceof MonitorUnavailable ? cause : new MonitorUnavailable({
    message: `${module}: ${cause instanceof Error ? cause.message : String(cause)}`,
    cause
  })

/** Calls a pure function that may throw, as an effect. */
const attempt = <A>(call: () => A): Effect.Effect<A, MonitorUnavailable> =>
  Effect.try({ try: call, catch: unavailable })

/**
 * Provides a store of one row in the database of the program's `SqlClient`, of PostgreSQL or SQLite.
 *
 * Provides `Monitor.Store`; fails with `MonitorUnavailable` if the table cannot be created. A change locks the row, in a transaction
 * of its own: build the layer outside of any transaction, as layers are. Its text is usually some 10 KB, and at most 4 MiB.
 * While the database is unreachable, or slower than `timeout`, each call fails with `MonitorUnavailable`.
 *
 * **Example** (the processes of a machine)
 *
 * ```ts
 * import { Monitor, MonitorSql, Preset } from "@millrace/monitor"
 * import { SqliteClient } from "@millrace/sql"
 * import { Layer } from "effect"
 *
 * const monitor = Monitor.layer(Preset.production).pipe(
 *   Layer.provide(MonitorSql.layer()),
 *   Layer.provide(SqliteClient.layer({ filename: "monitor.db" }))
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<Store, MonitorUnavailable, SqlClient.SqlClient> => {
  const table = options.table ?? defaults.table
  if (!/^(?:[a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,62}$/.test(table)) {
    throw new RangeError(`${module}: table must be small letters, digits and _, got ${JSON.stringify(table)}`)
  }
  const name = options.name ?? defaults.name
  if (name.length === 0 || name.length > 200) {
    throw new RangeError(`${module}: name must be 1 to 200 characters, got ${name.length}`)
  }
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  return Layer.effect(Store, make(table, name, timeout))
}

const make = (table: string, name: string, timeout: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const isPostgres = sql.onDialectOrElse({ pg: () => true, orElse: () => false })
    const [first, second] = isPostgres ? ["$1", "$2"] : ["?", "?"]
    const limited = <A, E>(effect: Effect.Effect<A, E>): Effect.Effect<A, MonitorUnavailable> =>
      Effect.mapError(
        Effect.timeoutOrElse(effect, {
          duration: Duration.millis(timeout),
          orElse: () =>
            Effect.fail(
              new MonitorUnavailable({
                message: `${module}: the database gave no answer in ${Duration.format(Duration.millis(timeout))}`
              })
            )
        }),
        unavailable
      )
    const query = (
      text: string,
      values: ReadonlyArray<unknown> = []
    ): Effect.Effect<ReadonlyArray<object>, SqlError.SqlError> => sql.unsafe(text, values).withoutTransform

    yield* limited(
      Effect.andThen(
        query(`CREATE TABLE IF NOT EXISTS ${table} (name TEXT PRIMARY KEY, state TEXT NOT NULL)`),
        // a row that is there can be locked, and two processes that begin at once make one
        query(`INSERT INTO ${table} (name, state) VALUES (${first}, '') ON CONFLICT (name) DO NOTHING`, [name])
        // two processes that create the table at once: PostgreSQL refuses one of them
      ).pipe(Effect.retry({ times: 5, schedule: Schedule.spaced("50 millis") }))
    )
    const stateOf = (rows: ReadonlyArray<object>): Effect.Effect<State | undefined, MonitorUnavailable> => {
      const row = rows[0]
      const text: unknown = row !== undefined && "state" in row ? row.state : undefined
      if (typeof text !== "string") {
        return Effect.fail(
          new MonitorUnavailable({ message: `${module}: ${table} has no row ${name} any more: restart the program` })
        )
      }
      return text === "" ? Effect.succeed(undefined) : attempt(() => decode(text))
    }
    const locking = `SELECT state FROM ${table} WHERE name = ${first}${isPostgres ? " FOR UPDATE" : ""}`
    const writing = `UPDATE ${table} SET state = ${first} WHERE name = ${second}`

    return Store.of({
      change: <A>(change: (state: State | undefined) => readonly [State, A]) =>
        limited(sql.withTransaction(
          Effect.gen(function*() {
            const state = yield* stateOf(yield* query(locking, [name]))
            const [next, answer] = yield* attempt(() => change(state))
            yield* query(writing, [encode(next), name])
            return answer
          })
        )),
      read: limited(Effect.flatMap(query(`SELECT state FROM ${table} WHERE name = ${first}`, [name]), stateOf))
    })
  })
