/**
 * Shared by the SQL audit stores: the columns of a row, and the conditions of a query.
 */
import { Audit } from "@millrace/core"
import { Effect, Exit } from "effect"
import { columns, type Value } from "./columns.ts"

const kinds: ReadonlySet<string> = new Set<Audit.Entry["kind"]>(["consumer", "producer", "server", "client"])
const statuses: ReadonlySet<string> = new Set<Audit.Status>([
  "done",
  "retried",
  "deadLettered",
  "rejected",
  "released",
  "failed"
])

/** The values of an entry, in the order of `columns`. */
export const values = (entry: Audit.Entry): ReadonlyArray<Value> => [
  entry.kind,
  entry.channel,
  entry.partition ?? null,
  entry.position ?? null,
  entry.key ?? null,
  entry.body ?? null,
  entry.handler ?? null,
  entry.attempt ?? null,
  entry.startedAt,
  entry.completedAt,
  entry.duration,
  entry.status,
  entry.errorTag ?? null,
  entry.errorMessage ?? null
]

/** Reads a row of `id` and `columns`; PostgreSQL sends its largest numbers as text. */
export const read = (record: { readonly [column: string]: unknown }): Audit.Row => {
  const text = (column: string): string | undefined => {
    const value = record[column]
    return value === null || value === undefined ? undefined : String(value)
  }
  const number = (column: string): number | undefined => {
    const value = record[column]
    return value === null || value === undefined ? undefined : Number(value)
  }
  const kind = text("kind") ?? ""
  const status = text("status") ?? ""
  return {
    id: text("id") ?? "",
    // unknown values in rows of other programs show as the defaults below
    kind: (kinds.has(kind) ? kind : "consumer") as Audit.Entry["kind"],
    channel: text("channel") ?? "",
    partition: number("partition"),
    position: number("position"),
    key: text("key"),
    body: text("body"),
    handler: text("handler"),
    attempt: number("attempt"),
    startedAt: number("started_at") ?? 0,
    completedAt: number("completed_at") ?? 0,
    duration: number("duration") ?? 0,
    status: (statuses.has(status) ? status : "failed") as Audit.Status,
    errorTag: text("error_tag"),
    errorMessage: text("error_message")
  }
}

/** A statement and its parameters. */
export interface Statement {
  readonly sql: string
  readonly values: ReadonlyArray<Value>
}

class Conditions {
  readonly all: Array<string> = []
  readonly values: Array<Value> = []
  private readonly placeholder: (position: number) => string

  constructor(placeholder: (position: number) => string) {
    this.placeholder = placeholder
  }
  bind(value: Value): string {
    this.values.push(value)
    return this.placeholder(this.values.length)
  }
  and(column: string, operator: string, value: Value | undefined): void {
    if (value !== undefined) this.all.push(`${column} ${operator} ${this.bind(value)}`)
  }
  get where(): string {
    return this.all.length === 0 ? "" : ` WHERE ${this.all.join(" AND ")}`
  }
}

const filtered = (filter: Audit.Filter, { key, placeholder }: Dialect): Conditions => {
  const conditions = new Conditions(placeholder)
  conditions.and("completed_at", ">=", filter.from)
  conditions.and("completed_at", "<", filter.to)
  for (const column of longColumns) {
    const value = filter[column]
    conditions.and(column, "=", value === undefined ? undefined : key?.(value) ?? value)
  }
  // written out, not bound: only then does the planner consider the partial index of failures
  if (filter.status !== undefined) {
    conditions.all.push(statuses.has(filter.status) ? `status = '${filter.status}'` : "false")
  }
  return conditions
}

/** The syntax of a database. */
export interface Dialect {
  readonly table: string
  readonly placeholder: (position: number) => string
  /** The value of a cursor's id, or undefined if no row of this store can have it. */
  readonly id: (id: string) => Value | undefined
  /** The value in the column and its index for a text that may be long; default: the text itself. */
  readonly key?: ((text: string) => string) | undefined
  /** The expression by which a query reads a column; default: the column. */
  readonly shown?: ((column: string) => string) | undefined
}

/** The columns whose text may be too long for an index: a topic of MQTT has up to 65,535 bytes. */
export const longColumns = ["channel", "handler"] as const

/** The statement that counts rows, as `n`. */
export const count = (dialect: Dialect, filter: Audit.Filter = {}): Statement => {
  const conditions = filtered(filter, dialect)
  return { sql: `SELECT count(*) AS n FROM ${dialect.table}${conditions.where}`, values: conditions.values }
}

/** The statement of a page: it reads one row more than the limit, to tell whether there is a next page. */
const select = (
  dialect: Dialect,
  query: Audit.Query,
  page: {
    readonly order: "newest" | "oldest"
    readonly limit: number
    readonly after: { readonly completedAt: number } | undefined
  },
  id: Value | undefined
): Statement => {
  const conditions = filtered(query, dialect)
  const [operator, direction] = page.order === "newest" ? ["<", "DESC"] as const : [">", "ASC"] as const
  if (page.after !== undefined && id !== undefined) {
    const at = conditions.bind(page.after.completedAt)
    conditions.all.push(`(completed_at, id) ${operator} (${at}, ${conditions.bind(id)})`)
  }
  const limit = conditions.bind(page.limit + 1)
  return {
    sql:
      `SELECT id, ${
        columns.map((column) => dialect.shown?.(column) ?? column).join(", ")
      } FROM ${dialect.table}${conditions.where}`
      + ` ORDER BY completed_at ${direction}, id ${direction} LIMIT ${limit}`,
    values: conditions.values
  }
}

/** Runs a query; `run` reads the page. */
export const query = (
  dialect: Dialect,
  query: Audit.Query = {},
  run: (statement: Statement) => Effect.Effect<ReadonlyArray<{ readonly [column: string]: unknown }>, Audit.AuditError>
): Effect.Effect<Audit.Page, Audit.AuditError> =>
  Effect.flatMap(Audit.readQuery(query), (page) => {
    const id = page.after === undefined ? undefined : dialect.id(page.after.id)
    if (page.after !== undefined && id === undefined) {
      return Exit.fail(
        new Audit.AuditError({
          operation: "query",
          reason: "Invalid",
          message: "Audit: after is the next of another store"
        })
      )
    }
    return Effect.map(run(select(dialect, query, page, id)), (found) => {
      const rows = found.slice(0, page.limit).map(read)
      return { rows, next: found.length > page.limit ? Audit.cursorOf(rows.at(-1)!) : undefined }
    })
  })

/** Removes rows `most` at a time, so that other requests get their turn. */
export const prune = (
  most: number,
  some: Effect.Effect<number, Audit.AuditError>
): Effect.Effect<number, Audit.AuditError> => {
  const go = (before: number): Effect.Effect<number, Audit.AuditError> =>
    Effect.flatMap(some, (removed) => removed < most ? Exit.succeed(before + removed) : go(before + removed))
  return go(0)
}

/** The most rows that one statement of `prune` removes. */
export const pruned = 5_000

/** Builds a layer with options from the environment: an invalid value there is an error, not a defect of the program. */
export const built = <A>(build: () => A): Effect.Effect<A, Audit.AuditError> =>
  Effect.try({
    try: build,
    catch: (error) =>
      new Audit.AuditError({
        operation: "open",
        reason: "Invalid",
        message: error instanceof Error ? error.message : String(error)
      })
  })
