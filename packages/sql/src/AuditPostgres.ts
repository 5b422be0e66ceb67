/**
 * Stores audit rows in PostgreSQL, for many machines: one table that several programs write to, one group of rows at a time.
 */
import { PgTypes } from "@effect/sql-pg"
import { Audit, Gather, OptionCheck } from "@millrace/core"
import { Config, Duration, Effect, Layer, Random, Result } from "effect"
import { SqlClient } from "effect/sql"
import { columns } from "./internal/audit/columns.ts"
import * as Migrate from "./internal/database/migrate.ts"
import * as Statements from "./internal/database/statements.ts"
import { storable as storableKey } from "./internal/database/storable.ts"
import { checkTable, nameOf } from "./internal/database/table.ts"
import * as Address from "./internal/postgres/address.ts"
import * as Connection from "./internal/postgres/connection.ts"
import * as Errors from "./internal/postgres/errors.ts"
import { retry } from "./internal/postgres/retry.ts"
import * as Rows from "./internal/audit/rows.ts"

/** Options of `layerClient`. */
export interface TableOptions {
  /**
   * The table, created if missing: small letters, digits and `_`, optionally with a schema before a dot; the schema
   * must exist. Default: `millrace_audit`.
   */
  readonly table?: string | undefined
  /** The most rows of one statement; an integer from 1. Default: 1024. */
  readonly maximumGroup?: number | undefined
  /**
   * How long the store retries a group while the server is unreachable or busy, before its messages are retried; from 0.
   * A retry writes nothing twice. Default: 5 seconds.
   */
  readonly patience?: Duration.Input | undefined
  /**
   * The longest that one attempt to write a group may take, including the wait for a connection; from 1 ms. Default: 1 second.
   */
  readonly timeout?: Duration.Input | undefined
}

/** Options of `layer`. */
export interface Options extends TableOptions, Connection.Options {}

/** The defaults of the layers' options. */
export const defaults: {
  readonly table: string
  readonly maximumGroup: number
  readonly patience: Duration.Duration
  readonly timeout: Duration.Duration
  readonly maximumConnections: number
  readonly connectTimeout: Duration.Duration
} = {
  table: "millrace_audit",
  maximumGroup: 1024,
  patience: Duration.seconds(5),
  timeout: Duration.seconds(1),
  ...Connection.defaults
}

/** The type of each column: as sent, and as stored. */
const types: { readonly [Column in typeof columns[number]]: readonly [sent: "text" | "float8", stored: string] } = {
  kind: ["text", "text NOT NULL"],
  channel: ["text", "text NOT NULL"],
  partition: ["float8", "bigint"],
  position: ["float8", "bigint"],
  key: ["text", "text"],
  body: ["text", "text"],
  handler: ["text", "text"],
  attempt: ["float8", "bigint"],
  started_at: ["float8", "bigint NOT NULL"],
  completed_at: ["float8", "bigint NOT NULL"],
  duration: ["float8", "double precision NOT NULL"],
  status: ["text", "text NOT NULL"],
  error_tag: ["text", "text"],
  error_message: ["text", "text"]
}

/** The steps of the schema, oldest first. */
const schema = (table: string): Migrate.Schema => {
  const name = nameOf(table)
  const all = (...statements: ReadonlyArray<string>): Migrate.Schema["steps"][number] => (sql) =>
    Effect.forEach(statements, (statement) => sql.unsafe(statement), { discard: true })
  return {
    table,
    steps: [
      all(
        // ids have one length and are made by this program: as bytes they sort in the order of appending, unlike in a locale
        `CREATE TABLE ${table} (id text COLLATE "C" PRIMARY KEY, ${
          columns.map((column) => `${column} ${types[column][1]}`).join(", ")
        })`,
        `CREATE INDEX ${name}_time ON ${table} (completed_at, id)`,
        `CREATE INDEX ${name}_channel ON ${table} (channel, completed_at, id)`,
        `CREATE INDEX ${name}_handler ON ${table} (handler, completed_at, id)`,
        `CREATE INDEX ${name}_trouble ON ${table} (status, completed_at, id) WHERE status <> 'done'`
      ),
      // an index of PostgreSQL takes up to 2,700 bytes: for a longer text the indexed column holds its hash
      all(...Rows.longColumns.map((column) => `ALTER TABLE ${table} ADD COLUMN long_${column} text`))
    ]
  }
}

// text of PostgreSQL holds every character except NUL
const storable = (text: string): string => text.includes("\0") ? text.replaceAll("\0", "\ufffd") : text

/** The statement binds one array for each column, so it is the same for every size of group and stays prepared. */
const insert = (table: string): string =>
  `INSERT INTO ${table} (id, ${
    [...columns, ...Rows.longColumns.map((column) => `long_${column}`)].join(", ")
  }) SELECT * FROM unnest($1::text[], ${columns.map((column, i) => `$${i + 2}::${types[column][0]}[]`).join(", ")}, ${
    Rows.longColumns.map((_, i) => `$${columns.length + 2 + i}::text[]`).join(", ")
  }) ON CONFLICT (id) DO NOTHING`

const columnsOfLong: ReadonlySet<string> = new Set(Rows.longColumns)

/** The text for the column of long texts, or null for a short one. */
const long = (text: string | undefined): string | null =>
  text === undefined || storableKey(text) === text ? null : storable(text)

const parameters = (
  ids: ReadonlyArray<string>,
  entries: ReadonlyArray<Audit.Entry>
): ReadonlyArray<PgTypes.Parameter> => {
  const values: Array<Array<string | number | null>> = columns.map(() => [])
  const longs: Array<Array<string | null>> = Rows.longColumns.map(() => [])
  for (const entry of entries) {
    Rows.values(entry).forEach((value, i) => {
      const text = typeof value !== "string"
        ? value
        : columnsOfLong.has(columns[i]!)
        ? storableKey(value)
        : storable(value)
      values[i]!.push(text)
    })
    Rows.longColumns.forEach((column, i) => longs[i]!.push(long(entry[column])))
  }
  const array = (of: ReadonlyArray<string | number | null>, type: "text" | "float8") =>
    // both types are built in
    Result.getOrThrow(PgTypes.array(of, PgTypes.OID[type]))
  return [
    array(ids, "text"),
    ...columns.map((column, i) => array(values[i]!, types[column][0])),
    ...longs.map((column) => array(column, "text"))
  ]
}

const check = OptionCheck.make("AuditPostgres")

/**
 * Creates or updates the table, for a deployment whose programs may not create tables. A layer does the same, and
 * only reads if the table is up to date.
 *
 * Fails with `AuditError`; its reason is `Invalid` if the schema is newer than the program.
 *
 * @throws RangeError when the table's name is none
 */
export const migrate = (
  options: Pick<TableOptions, "table"> = {}
): Effect.Effect<void, Audit.AuditError, SqlClient.SqlClient> =>
  Effect.mapError(
    Migrate.run(schema(checkTable("AuditPostgres", options.table ?? defaults.table))),
    Errors.told("open", Errors.theirs)
  )

/** Milliseconds that a query of the trail, or a removal of old rows, may take. */
const readLimit = 60_000

const make = (options: TableOptions, server: Errors.Server) => {
  const table = checkTable("AuditPostgres", options.table ?? defaults.table)
  const maximumGroup = check.count("maximumGroup", options.maximumGroup ?? defaults.maximumGroup)
  const patience = check.millis("patience", options.patience ?? defaults.patience, { least: 0 })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  const dialect: Rows.Dialect = {
    table,
    placeholder: (position) => `$${position}`,
    id: (id) => id,
    key: storableKey,
    shown: (column) => columnsOfLong.has(column) ? `coalesce(long_${column}, ${column}) AS ${column}` : column
  }
  const statement = insert(table)
  const retried = retry(server, patience, ({ reason }: Audit.AuditError) => reason)

  return Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* Effect.mapError(Migrate.run(schema(table)), Errors.told("open", server))
    const statements = yield* Effect.mapError(Statements.make(sql, timeout), Errors.told("open", server))
    const ask = (
      operation: Audit.AuditError["operation"],
      text: string,
      values: ReadonlyArray<unknown>,
      limit: number = readLimit
    ) => Effect.mapError(statements.ask(text, values, limit), Errors.told(operation, server))
    // ids are made here, so a retry of a group whose commit was not confirmed writes no row twice
    const random = Effect.map(Random.nextIntBetween(0, 36 ** 8 - 1), (number) => number.toString(36).padStart(8, "0"))
    const writer = (yield* random) + (yield* random)
    let appended = 0
    const gather = yield* Gather.make<Audit.Entry, Audit.AuditError>({
      maximum: maximumGroup,
      write: (entries) =>
        Effect.suspend(() => {
          const ids = entries.map(() => `${writer}${(appended++).toString(36).padStart(10, "0")}`)
          return ask("append", statement, parameters(ids, entries), timeout).pipe(
            retried,
            Effect.asVoid
          )
        })
    })
    return Audit.Store.of({
      append: gather.add,
      query: (query) => Rows.query(dialect, query, (page) => ask("query", page.sql, page.values)),
      count: (filter) => {
        const { sql, values } = Rows.count(dialect, filter)
        return Effect.map(ask("count", sql, values), (rows) => Number(rows[0]?.["n"]))
      },
      prune: ({ before }) =>
        Rows.prune(
          Rows.pruned,
          Effect.map(
            ask(
              "prune",
              `WITH gone AS (DELETE FROM ${table} WHERE id IN (SELECT id FROM ${table} WHERE completed_at < $1 `
                + "ORDER BY completed_at, id LIMIT $2) RETURNING 1) SELECT count(*) AS n FROM gone",
              [before, Rows.pruned]
            ),
            (rows) => Number(rows[0]?.["n"])
          )
        )
    })
  })
}

/**
 * Provides a store in the database of the program's own `SqlClient`, which must be PostgreSQL's.
 *
 * As `layer`; provides `Audit.Store` and needs the `SqlClient`. The store writes rows on a separate connection, never in a
 * transaction that the caller has open.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerClient = (
  options: TableOptions = {}
): Layer.Layer<Audit.Store, Audit.AuditError, SqlClient.SqlClient> =>
  Layer.effect(Audit.Store, make(options, Errors.theirs))

const noAddress = () =>
  new Audit.AuditError({
    operation: "open",
    reason: "Invalid",
    message: Address.needed
  })

/**
 * Provides a store in a PostgreSQL database, with connections of its own.
 *
 * Provides `Audit.Store`; fails with an `AuditError` whose reason and message tell why the database does not open:
 * `Unreachable`, `Credentials`, `NotFound`, `Permission`, `Invalid` for a malformed address. Rows of one turn, or rows that
 * arrive during a statement, share one statement and one commit. A row is as durable as the server's `synchronous_commit` makes
 * it.
 *
 * While the server is unreachable, busy, or hangs for longer than `timeout`, the store retries a group for `patience`, and then
 * fails the group's rows. Closing the layer writes the gathered rows.
 *
 * **Example** (the address from a secret variable)
 *
 * ```ts
 * import { AuditPostgres } from "@millrace/sql"
 * import { Redacted } from "effect"
 *
 * const store = AuditPostgres.layer({ url: Redacted.make("postgres://billing:secret@localhost:5432/audit") })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Audit.Store, Audit.AuditError> =>
  Connection.own(Audit.Store, options, {
    module: "AuditPostgres",
    applicationName: "millrace-audit",
    make: (server) => make(options, server),
    invalid: noAddress,
    told: (server) => Errors.told("open", server)
  })

const environment = (options: Partial<Options>): Config.Config<Options> =>
  Config.all({
    url: options.url === undefined ? Config.Redacted("AUDIT_POSTGRES_URL") : Config.succeed(options.url),
    table: Config.withDefault(Config.NonEmptyString("AUDIT_POSTGRES_TABLE"), defaults.table),
    maximumGroup: Config.withDefault(Config.Int("AUDIT_POSTGRES_MAXIMUM_GROUP"), defaults.maximumGroup),
    patience: Config.withDefault(Config.Duration("AUDIT_POSTGRES_PATIENCE"), defaults.patience)
  })

/**
 * Builds `layer` with options from the environment: `AUDIT_POSTGRES_URL` (needed), `AUDIT_POSTGRES_TABLE`,
 * `AUDIT_POSTGRES_MAXIMUM_GROUP`, `AUDIT_POSTGRES_PATIENCE` (as `5 seconds`). `options` override the
 * environment.
 *
 * Fails with a `ConfigError` that names the variable, with an `AuditError` of reason `Invalid` if a value is out of range,
 * or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<Audit.Store, Audit.AuditError | Config.ConfigError> =>
  Layer.unwrap(Effect.flatMap(environment(options), (found) => Rows.built(() => layer({ ...found, ...options }))))
