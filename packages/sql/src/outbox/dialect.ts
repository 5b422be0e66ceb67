/**
 * What PostgreSQL and SQLite write differently: the schema, the clock, a list as a parameter, locks.
 */
import { PgTypes } from "@effect/sql-pg"
import { Result } from "effect"
import type { SqlClient } from "effect/sql"
import type { Row } from "./rows.ts"

/** A statement and what it binds. */
export interface Statement {
  readonly sql: string
  readonly values: ReadonlyArray<unknown>
}

/** A database's own words. */
export interface Dialect {
  readonly name: "pg" | "sqlite"
  /** Milliseconds of Unix time by the clock of the database, which all relays share. */
  readonly now: string
  readonly placeholder: (position: number) => string
  /** The ids of a parameter, as what stands in `IN (…)`. */
  readonly ids: (position: number) => string
  readonly list: (ids: ReadonlyArray<string>) => unknown
  /** Ends a SELECT that takes rows for itself. */
  readonly skipLocked: string
  readonly outbox: (table: string, name: string) => ReadonlyArray<string>
  readonly inbox: (table: string, name: string) => ReadonlyArray<string>
  readonly insert: (table: string, broker: string, rows: ReadonlyArray<Row>) => Statement
  /** Keeps others from writing to the same lanes until the transaction ends, where writers are not alone anyway. */
  readonly lock: ((table: string, lanes: ReadonlyArray<number>) => Statement) | undefined
  /** Tells listening relays, once the transaction has been committed. */
  readonly notify: ((table: string) => Statement) | undefined
}

const columns = ["message", "shard", "lane", "channel", "key", "headers", "native", "payload", "size"] as const

const outbox = (type: { readonly id: string; readonly bytes: string; readonly integer: string }, end: string) =>
(
  table: string,
  name: string
): ReadonlyArray<string> => [
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
]

const inbox = (integer: string, end: string) => (table: string, name: string): ReadonlyArray<string> => [
  `CREATE TABLE ${table} (
    consumer TEXT NOT NULL, channel TEXT NOT NULL, message TEXT NOT NULL, handled_at ${integer} NOT NULL,
    PRIMARY KEY (consumer, channel, message)
  )${end}`,
  `CREATE INDEX ${name}_time ON ${table} (handled_at)`
]

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
    // identities are given after sorting
    sql: `INSERT INTO ${table} (broker, created_at, ${columns.join(", ")}) SELECT $1, ${pgNow}, ${
      columns.map((column) => `${column}::${pgTypes[column][1]}`).join(", ")
    } FROM unnest(${
      columns.map((column, i) => `$${i + 2}::${pgTypes[column][0]}[]`).join(", ")
    }) WITH ORDINALITY AS rows (${columns.join(", ")}, place) ORDER BY place`,
    values: [broker, ...columns.map((column) => array(rows.map((row) => row[column]), pgTypes[column][0]))]
  }),
  lock: (table, lanes) => ({
    sql: "SELECT pg_advisory_xact_lock(hashtext($1), lane) FROM unnest($2::float8[]::int[]) AS lanes (lane)",
    // one order for all who lock several, and what an int holds
    values: [table, array(Array.from(new Set(lanes.map((lane) => lane % 0x7fff_ffff))).sort((a, b) => a - b), "float8")]
  }),
  notify: (table) => ({ sql: "SELECT pg_notify($1, '')", values: [table] })
}

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
  lock: undefined,
  notify: undefined
}

/** The dialect of a client, or undefined where it is another database's. */
export const of = (sql: SqlClient.SqlClient): Dialect | undefined =>
  sql.onDialectOrElse({ pg: () => pg, sqlite: () => sqlite, orElse: () => undefined })
