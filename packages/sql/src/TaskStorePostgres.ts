/**
 * Stores tasks in PostgreSQL, for many machines: one table, one statement for a group of operations, and NOTIFY of the end of
 * a task.
 */
import { PgClient } from "@effect/sql-pg"
import { Detached, OptionCheck, TaskStore } from "@millrace/core"
import { Clock, Config, Duration, Effect, Layer, Option, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import * as Migrate from "./internal/database/migrate.ts"
import * as Pruning from "./internal/database/pruning.ts"
import * as Statements from "./internal/database/statements.ts"
import { checkTable } from "./internal/database/table.ts"
import * as Address from "./internal/postgres/address.ts"
import * as Connection from "./internal/postgres/connection.ts"
import * as Errors from "./internal/postgres/errors.ts"
import { listening } from "./internal/postgres/listening.ts"
import { retry } from "./internal/postgres/retry.ts"
import * as Table from "./internal/tasks/postgres.ts"

/** Options of every layer of this module. */
export interface TableOptions {
  /**
   * The table, created if missing: small letters, digits and `_`, optionally with a schema before a dot; the schema must exist.
   * The names of its indexes and of a table of versions begin with its name. Default: `millrace_tasks`.
   */
  readonly table?: string | undefined
  /** The most operations of one statement; an integer from 1. Default: 1024. */
  readonly maximumGroup?: number | undefined
  /**
   * How long the store retries a group while the server is unreachable or busy, before its messages are retried; from 0. A retry
   * does nothing twice. Default: 5 seconds.
   */
  readonly patience?: Duration.Input | undefined
  /** The longest that one call may take, including the wait for a connection; from 1 ms. Default: 5 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** How often records whose time is over are removed; from 10 ms. Default: 10 seconds. */
  readonly pruneEvery?: Duration.Input | undefined
}

/** Options of `layer`. */
export interface Options extends TableOptions, Connection.Options {}

/** The defaults of the layers' options. */
export const defaults: {
  readonly table: string
  readonly maximumGroup: number
  readonly patience: Duration.Duration
  readonly timeout: Duration.Duration
  readonly pruneEvery: Duration.Duration
  readonly maximumConnections: number
  readonly connectTimeout: Duration.Duration
} = {
  table: "millrace_tasks",
  maximumGroup: 1024,
  patience: Duration.seconds(5),
  timeout: Duration.seconds(5),
  pruneEvery: Duration.seconds(10),
  ...Connection.defaults
}

const module = "TaskStorePostgres"
const check = OptionCheck.make(module)

const unavailable = (server: Errors.Server) => (error: Migrate.Failed) =>
  new TaskStore.TaskStoreUnavailable({ message: Errors.read(server, error).message, cause: error })

/**
 * Creates or updates the table, for a deployment whose programs may not create tables. A layer does the same, and only reads if
 * the table is up to date.
 *
 * Fails with `TaskStoreUnavailable`, also if the schema is newer than the program.
 *
 * @throws RangeError when the table's name is none
 */
export const migrate = (
  options: Pick<TableOptions, "table"> = {}
): Effect.Effect<void, TaskStore.TaskStoreUnavailable, SqlClient.SqlClient> =>
  Effect.mapError(
    Migrate.run(Table.schema(checkTable(module, options.table ?? defaults.table))),
    unavailable(Errors.theirs)
  )

const make = (
  options: TableOptions,
  server: Errors.Server
): Effect.Effect<TaskStore.Store["Service"], TaskStore.TaskStoreUnavailable, SqlClient.SqlClient | Scope.Scope> => {
  const table = checkTable(module, options.table ?? defaults.table, 40)
  const maximum = check.count("maximumGroup", options.maximumGroup ?? defaults.maximumGroup)
  const patience = check.millis("patience", options.patience ?? defaults.patience, { least: 0 })
  const every = check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 10 })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  const retried = retry(server, patience, (error: Migrate.Failed) => Errors.read(server, error).reason)

  return Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const failed = unavailable(server)
    yield* Effect.mapError(Migrate.run(Table.schema(table)), failed)
    const statements = yield* Effect.mapError(Statements.make(sql, timeout), failed)
    const client = yield* Effect.serviceOption(PgClient.PgClient)
    const watchers = new TaskStore.Watchers()
    // a client with one connection keeps it for statements
    const listener = Option.filter(
      client,
      (pg) => !("maxConnections" in pg.config && pg.config.maxConnections === 1)
    )
    if (Option.isSome(listener)) {
      yield* Effect.forkScoped(Detached.effect(listening({
        pg: listener.value,
        channel: Table.eventsOf(table),
        name: `${module} ${table}`,
        news: "ended tasks",
        instead: "results are looked for by poll alone",
        ask: statements.ask("SELECT 1", []),
        // events of the time without a connection are lost
        onListening: () => watchers.tellAll(),
        onNotice: (payload) => payload === undefined ? undefined : watchers.tell(payload)
      })))
    }
    yield* Pruning.pruning(module, every, Pruning.removed(statements, Table.prune(table)))
    const made = yield* Table.make({
      table,
      statements,
      maximum,
      safe: (effect) => Effect.mapError(retried(effect), failed),
      watchers,
      isTold: Option.isSome(listener)
    })
    return TaskStore.make(made, yield* Clock.Clock)
  })
}

/**
 * Provides a store in the database of the program's own `SqlClient`, which must be PostgreSQL's.
 *
 * As `layer`; provides `TaskStore.Store` and needs the `SqlClient`. One of the client's connections listens for the ends of
 * tasks; a client with a single connection looks for them by poll.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerClient = (
  options: TableOptions = {}
): Layer.Layer<TaskStore.Store, TaskStore.TaskStoreUnavailable, SqlClient.SqlClient> =>
  Layer.effect(TaskStore.Store, make(options, Errors.theirs))

/**
 * Provides a store in a PostgreSQL database, with connections of its own, of which one listens.
 *
 * Provides `TaskStore.Store`; fails with a `TaskStoreUnavailable` whose message tells why the database does not open.
 * Operations of one turn, or those that arrive during a statement, share one statement and one commit. They are as durable as
 * the server's `synchronous_commit` makes them. The server's clock counts; clients' clocks do not matter.
 *
 * While the server is unreachable, busy, or hangs for longer than `timeout`, the store retries a group for `patience`, and then
 * fails its operations. Closing the layer finishes pending operations first.
 *
 * **Example** (the address from a secret variable)
 *
 * ```ts
 * import { TaskStorePostgres } from "@millrace/sql"
 * import { Redacted } from "effect"
 *
 * const store = TaskStorePostgres.layer({ url: Redacted.make("postgres://shop:secret@localhost:5432/shop") })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<TaskStore.Store, TaskStore.TaskStoreUnavailable> =>
  Connection.own(TaskStore.Store, options, {
    module,
    applicationName: "millrace-tasks",
    make: (server) => make(options, server),
    invalid: () => new TaskStore.TaskStoreUnavailable({ message: Address.needed }),
    told: unavailable
  })

const environment = (options: Partial<Options>): Config.Config<Options> =>
  Config.all({
    url: options.url === undefined ? Config.Redacted("TASK_STORE_POSTGRES_URL") : Config.succeed(options.url),
    table: Config.withDefault(Config.NonEmptyString("TASK_STORE_POSTGRES_TABLE"), defaults.table)
  })

/**
 * Builds `layer` with options from the environment: `TASK_STORE_POSTGRES_URL` (needed) and `TASK_STORE_POSTGRES_TABLE`. `options`
 * override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<TaskStore.Store, TaskStore.TaskStoreUnavailable | Config.ConfigError> =>
  Layer.unwrap(Effect.map(environment(options), (found) => layer({ ...found, ...options })))
