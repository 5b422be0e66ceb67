/**
 * The differences between PostgreSQL and SQLite: the schema, the clock, a list as a parameter, locks.
 */
import { PgTypes } from "@effect/sql-pg"
import { Result } from "effect"
import type { SqlClient } from "effect/sql"
import { createHash } from "node:crypto"
import { type Row, shards } from "./rows.ts"

/** A statement and its parameters. */
export interface Statement {
  readonly sql: string
  readonly values: ReadonlyArray<unknown>
}

/** Rows of `v (id, after, tag, message)`, made of parameters. */
export interface Verdicts {
  readonly from: string
  /** The number of parameters that `from` binds. */
  readonly count: number
  readonly values: (
    rows: ReadonlyArray<
      { readonly id: string; readonly after: number | undefined; readonly tag: string; readonly message: string }
    >
  ) => ReadonlyArray<unknown>
}

/** The syntax of one database. */
export interface Dialect {
  readonly name: "pg" | "sqlite"
  /** Milliseconds of Unix time by the clock of the database, which all relays share. */
  readonly now: string
  readonly placeholder: (position: number) => string
  /** The ids of a parameter, as the operand of `IN (…)`. */
  readonly ids: (position: number) => string
  readonly list: (ids: ReadonlyArray<string>) => unknown
  /** Ends a SELECT that locks its rows. */
  readonly skipLocked: string
  /** The steps of a schema, oldest first, each as its statements. */
  readonly outbox: (table: string, name: string) => ReadonlyArray<ReadonlyArray<string>>
  readonly inbox: (table: string, name: string) => ReadonlyArray<ReadonlyArray<string>>
  /** The function that returns the largest of its arguments. */
  readonly greatest: string
  /** The bytes of a column of bytes or of text. */
  readonly bytes: (column: string) => string
  /** The largest value that is read in one piece with its row; undefined if there is no limit. */
  readonly wide: number | undefined
  /** The results of failed rows, from up to four parameters, as `v (id, after, tag, message)`. */
  readonly verdicts: Verdicts
  readonly insert: (table: string, broker: string, rows: ReadonlyArray<Row>) => Statement
  /**
   * Keeps other transactions from writing to the same lanes until this one ends; undefined if writers are exclusive anyway.
   * `isWide` locks the shards of the lanes: for many lanes, since each lock takes room in a table that all connections share.
   */
  readonly lock: ((table: string, lanes: ReadonlyArray<number>, isWide: boolean) => Statement) | undefined
  /** Lets one transaction at a time go on; undefined if writers are exclusive anyway. */
  readonly exclusive: ((table: string) => Statement) | undefined
  /** Notifies listening relays, once the transaction has been committed. */
  readonly notify: ((table: string) => Statement) | undefined
}

const columns = ["message", "shard", "lane", "channel", "key", "headers", "native", "payload", "size"] as const

const outbox = (type: { readonly id: string; readonly bytes: string; readonly integer: string }, end: string) =>
(
  table: string,
  name: string
): ReadonlyArray<ReadonlyArray<string>> => [[
  `CREATE TABLE ${table} (
    id ${type.id},
    message TEXT NOT NULL,
    broker TEXT NOT NULL,
    shard ${type.integer} NOT NULL,
    lane ${type.integer},
    channel TEXT NOT NULL,
    key TEXT,
    headers TEXT NOT NULL,
    native TEXT,
    payload ${type.bytes} NOT NULL,
    size ${type.integer} NOT NULL,
    created_at ${type.integer} NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending',
    attempts ${type.integer} NOT NULL DEFAULT 0,
    due_at ${type.integer} NOT NULL DEFAULT 0,
    done_at ${type.integer},
    error_tag TEXT,
    error_message TEXT
  )${end}`,
  `CREATE INDEX ${name}_pending ON ${table} (broker, id) WHERE state = 'pending'`,
  `CREATE INDEX ${name}_failing ON ${table} (lane, id) WHERE state = 'pending' AND attempts > 0`,
  `CREATE INDEX ${name}_done ON ${table} (done_at) WHERE state = 'done'`,
  `CREATE INDEX ${name}_parked ON ${table} (broker, id) WHERE state = 'parked'`,
  `CREATE TABLE ${table}_shards (
    broker TEXT NOT NULL, shard ${type.integer} NOT NULL, owner TEXT, until ${type.integer} NOT NULL DEFAULT 0,
    PRIMARY KEY (broker, shard)
  )${end}`,
  `CREATE TABLE ${table}_relays (
    broker TEXT NOT NULL, id TEXT NOT NULL, until ${type.integer} NOT NULL, PRIMARY KEY (broker, id)
  )${end}`
], [
  // failed rows and fresh rows have separate indexes: no number of the one slows the other. The broker is not in the index of
  // failed rows by time, or a planner without statistics would use it to find those of one lane
  `DROP INDEX ${table.includes(".") ? `${table.split(".")[0]}.` : ""}${name}_pending`,
  `CREATE INDEX ${name}_fresh ON ${table} (broker, id) WHERE state = 'pending' AND attempts = 0`,
  `CREATE INDEX ${name}_due ON ${table} (due_at) WHERE state = 'pending' AND attempts > 0`,
  `ALTER TABLE ${table}_relays ADD COLUMN standby ${type.integer} NOT NULL DEFAULT 0`
], [
  // rows held behind a failed row leave the index of fresh rows: no number of them slows the reading of other keys
  `CREATE INDEX ${name}_held ON ${table} (lane, id) WHERE state = 'held'`
]]

const inbox =
  (integer: string, end: string) => (table: string, name: string): ReadonlyArray<ReadonlyArray<string>> => [[
    `CREATE TABLE ${table} (
    consumer TEXT NOT NULL, channel TEXT NOT NULL, message TEXT NOT NULL, handled_at ${integer} NOT NULL,
    PRIMARY KEY (consumer, channel, message)
  )${end}`,
    `CREATE INDEX ${name}_time ON ${table} (handled_at)`
  ]]

// all types are built in
const array = (values: ReadonlyArray<unknown>, type: "text" | "float8" | "bytea") =>
  Result.getOrThrow(PgTypes.array(values, PgTypes.OID[type]))

const pgTypes = {
  message: ["text", "text"],
  shard: ["float8", "bigint"],
  lane: ["float8", "bigint"],
  channel: ["text", "text"],
  key: ["text", "text"],
  headers: ["text", "text"],
  native: ["text", "text"],
  payload: ["bytea", "bytea"],
  size: ["float8", "bigint"]
} as const satisfies { [Column in typeof columns[number]]: readonly [sent: string, stored: string] }

const pgNow = "(extract(epoch from statement_timestamp()) * 1000)::bigint"

const pg: Dialect = {
  name: "pg",
  now: pgNow,
  placeholder: (position) => `$${position}`,
  ids: (position) => `SELECT unnest($${position}::text[]::bigint[])`,
  list: (ids) => array(ids, "text"),
  skipLocked: " FOR UPDATE SKIP LOCKED",
  outbox: outbox({ id: "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY", bytes: "BYTEA", integer: "BIGINT" }, ""),
  inbox: inbox("BIGINT", ""),
  insert: (table, broker, rows) => ({
    // PostgreSQL assigns identities after sorting
    sql: `INSERT INTO ${table} (broker, created_at, ${columns.join(", ")}) SELECT $1, ${pgNow}, ${
      columns.map((column) => `${column}::${pgTypes[column][1]}`).join(", ")
    } FROM unnest(${
      columns.map((column, i) => `$${i + 2}::${pgTypes[column][0]}[]`).join(", ")
    }) WITH ORDINALITY AS rows (${columns.join(", ")}, place) ORDER BY place`,
    values: [broker, ...columns.map((column) => array(rows.map((row) => row[column]), pgTypes[column][0]))]
  }),
  greatest: "greatest",
  bytes: (column) => `coalesce(octet_length(${column}), 0)`,
  // a row of 16 MiB ends the connection that reads it
  wide: 4 * 1024 * 1024,
  verdicts: {
    from: "unnest($1::text[]::bigint[], $2::float8[], $3::text[], $4::text[]) AS v (id, after, tag, message)",
    count: 4,
    values: (rows) => [
      array(rows.map(({ id }) => id), "text"),
      array(rows.map(({ after }) => after ?? null), "float8"),
      array(rows.map(({ tag }) => tag), "text"),
      array(rows.map(({ message }) => message), "text")
    ]
  },
  lock: (table, lanes, isWide) => {
    // all transactions lock in one order
    const sorted = (numbers: ReadonlyArray<number>) =>
      array(Array.from(new Set(numbers)).sort((a, b) => a - b), "float8")
    const parts = sorted(lanes.map((lane) => lane % shards))
    const part = (mode: string) =>
      `SELECT pg_advisory_xact_lock${mode}(hashtext($1), part) FROM unnest($2::float8[]::int[]) AS parts (part)`
    return isWide
      ? { sql: part(""), values: [`${table} parts`, parts] }
      : {
        sql: `${part("_shared")} UNION ALL `
          + "SELECT pg_advisory_xact_lock(hashtext($3), lane) FROM unnest($4::float8[]::int[]) AS lanes (lane)",
        // the largest value of an int
        values: [`${table} parts`, parts, table, sorted(lanes.map((lane) => lane % 0x7fff_ffff))]
      }
  },
  exclusive: (table) => ({ sql: "SELECT pg_advisory_xact_lock(hashtext($1), 0)", values: [`${table} shares`] }),
  notify: (table) => ({ sql: "SELECT pg_notify($1, '')", values: [noticesOf(table)] })
}

/** The channel of NOTIFY for a table: a name of PostgreSQL has at most 63 bytes, and a table's name may include a schema. */
export const noticesOf = (table: string): string =>
  table.length <= 63 ? table : `millrace_${createHash("sha256").update(table).digest("hex").slice(0, 40)}`

const sqliteNow = "CAST(unixepoch('subsec') * 1000 AS INTEGER)"

const sqlite: Dialect = {
  name: "sqlite",
  now: sqliteNow,
  placeholder: () => "?",
  ids: () => "SELECT CAST(value AS INTEGER) FROM json_each(?)",
  list: (ids) => JSON.stringify(ids),
  skipLocked: "",
  outbox: outbox({ id: "INTEGER PRIMARY KEY AUTOINCREMENT", bytes: "BLOB", integer: "INTEGER" }, " STRICT"),
  inbox: inbox("INTEGER", " STRICT, WITHOUT ROWID"),
  insert: (table, broker, rows) => ({
    sql: `INSERT INTO ${table} (broker, created_at, ${columns.join(", ")}) VALUES ${
      rows.map(() => `(?, ${sqliteNow}, ${columns.map(() => "?").join(", ")})`).join(", ")
    }`,
    values: rows.flatMap((row) => [broker, ...columns.map((column) => row[column])])
  }),
  greatest: "max",
  bytes: (column) => `coalesce(octet_length(${column}), 0)`,
  wide: undefined,
  verdicts: {
    from: "(SELECT json_extract(value, '$[0]') AS id, json_extract(value, '$[1]') AS after, "
      + "json_extract(value, '$[2]') AS tag, json_extract(value, '$[3]') AS message FROM json_each(?)) AS v",
    count: 1,
    values: (rows) => [
      JSON.stringify(rows.map(({ after, id, message, tag }) => [Number(id), after ?? null, tag, message]))
    ]
  },
  lock: undefined,
  exclusive: undefined,
  notify: undefined
}

/** The dialect of a client, or undefined for another database. */
export const of = (sql: SqlClient.SqlClient): Dialect | undefined =>
  sql.onDialectOrElse({ pg: () => pg, sqlite: () => sqlite, orElse: () => undefined })
