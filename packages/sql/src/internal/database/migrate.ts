/**
 * Creates and updates the tables of the stores: each store has a list of steps, of which a database has done the first ones.
 */
import { Effect, Schedule } from "effect"
import { Migrator, SqlClient, type SqlError } from "effect/sql"
import { limited } from "./limited.ts"
import { hints, noAnswer, outside } from "./statements.ts"
import { nameOf } from "./table.ts"

/** The tables of one store. */
export interface Schema {
  /** The store's table; the name of the table of versions begins with its name. */
  readonly table: string
  /** Never change a released step, add the next. */
  readonly steps: ReadonlyArray<(sql: SqlClient.SqlClient) => Effect.Effect<unknown, SqlError.SqlError>>
}

/** The errors of creating or updating tables. */
export type Failed = SqlError.SqlError | Migrator.MigrationError

/** Milliseconds that a database may take to report its version. */
const patience = 30_000

/** Retries when two processes migrate at the same time: the second finds all steps done. */
const again = Schedule.exponential("20 millis").pipe(Schedule.upTo({ duration: "5 seconds" }))

const isRace = (error: Failed): boolean =>
  error instanceof Migrator.MigrationError
    ? error.kind === "Locked" || error.kind === "Failed"
    : ["LockTimeoutError", "UniqueViolation", "DeadlockError", "SerializationError"].includes(error.reason._tag)

const newer = (table: string, version: number, known: number) =>
  new Migrator.MigrationError({
    kind: "BadState",
    message:
      `the schema of ${table} has version ${version}, and this program knows versions up to ${known}: update the program`
  })

/** The database's schema version; 0 if it has none. */
const versionOf = (sql: SqlClient.SqlClient, versions: string): Effect.Effect<number, SqlError.SqlError> => {
  const found = sql.onDialectOrElse({
    pg: () => sql.unsafe("SELECT 1 AS found WHERE to_regclass($1) IS NOT NULL", [versions]),
    orElse: () => sql.unsafe("SELECT 1 AS found FROM sqlite_master WHERE name = ?", [versions])
  }).withoutTransform
  return limited(
    Effect.flatMap(found, (tables) =>
      tables.length === 0 ? Effect.succeed(0) : Effect.map(
        sql.unsafe<{ readonly version: unknown }>(
          `SELECT coalesce(max(migration_id), 0) AS version FROM ${versions}`
        ).withoutTransform,
        ([row]) => Number(row?.version ?? 0)
      )),
    patience,
    () => noAnswer(patience, "execute", hints.any)
  )
}

/**
 * Brings the tables of a store up to date. A database that is up to date is only read, so the user needs no right to create
 * tables; a database whose version is newer than the program's is refused.
 */
export const run = ({ steps, table }: Schema): Effect.Effect<void, Failed, SqlClient.SqlClient> =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const versions = `${table}_versions`
    const version = yield* versionOf(sql, versions)
    if (version > steps.length) return yield* newer(table, version, steps.length)
    if (version === steps.length) return
    const record = Object.fromEntries(
      steps.map((step, i) => [`${i + 1}_${nameOf(table)}`, Effect.asVoid(step(sql))])
    )
    yield* Migrator.make({})({ loader: Migrator.fromRecord(record), table: versions })
  }).pipe(
    Effect.retry({ while: isRace, schedule: again }),
    (effect) => Effect.flatMap(SqlClient.SqlClient, (sql) => outside(sql)(effect))
  )
