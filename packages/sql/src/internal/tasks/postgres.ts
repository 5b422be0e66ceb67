/**
 * The table of tasks in PostgreSQL. Each statement carries a group of operations, one array for each column.
 */
import { PgTypes } from "@effect/sql-pg"
import { Gather, type TaskStore } from "@millrace/core"
import { Effect, Result, type Scope } from "effect"
import type * as Migrate from "../database/migrate.ts"
import type { Statements } from "../database/statements.ts"
import { storable } from "../database/storable.ts"
import { nameOf } from "../database/table.ts"
import { distinct, rowOf, type StoredRow } from "./shared.ts"

type Failed = TaskStore.TaskStoreUnavailable

/** Milliseconds of the server's clock, which moves within a statement. */
const now = "floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

/** The steps of the schema, oldest first. */
export const schema = (table: string): Migrate.Schema => ({
  table,
  steps: [
    (sql) =>
      Effect.forEach([
        `CREATE TABLE ${table} (id text COLLATE "C" PRIMARY KEY, queue text COLLATE "C" NOT NULL, state text NOT NULL, `
        + "version bigint NOT NULL, created_at bigint NOT NULL, content text NOT NULL, payload bytea NOT NULL, "
        + "due_at bigint, remove_at bigint, unique_key text COLLATE \"C\" UNIQUE, unique_until bigint)",
        `CREATE INDEX ${nameOf(table)}_due ON ${table} (due_at) WHERE due_at IS NOT NULL`,
        `CREATE INDEX ${nameOf(table)}_removal ON ${table} (remove_at) WHERE remove_at IS NOT NULL`,
        `CREATE INDEX ${nameOf(table)}_queue ON ${table} (queue, id)`
      ], (statement) =>
        sql.unsafe(statement), { discard: true })
  ]
})

const array = (of: ReadonlyArray<unknown>, type: "text" | "float8" | "bytea" | "bool") =>
  // the types are built in
  Result.getOrThrow(PgTypes.array(of, PgTypes.OID[type]))

/** The channel of the table's events. */
export const eventsOf = (table: string): string => `${nameOf(table)}_events`

const columns = "id, queue, state, version::float8 AS version, created_at::float8 AS created_at, content"

const statementsOf = (table: string) => ({
  insert:
    `INSERT INTO ${table} (id, queue, state, version, created_at, content, payload, due_at, unique_key, unique_until) `
    + `SELECT id, queue, 'pending', 1, ${now}, content, payload, coalesce(at::bigint, ${now} + after::bigint), `
    + `unique_key, ${now} + unique_millis::bigint `
    + "FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) "
    + "AS asked(id, queue, content, payload, after, at, unique_key, unique_millis) ORDER BY id COLLATE \"C\" "
    + "ON CONFLICT DO NOTHING RETURNING id",
  conflicts: `SELECT id, unique_key, coalesce(remove_at <= ${now}, false) AS gone, `
    + `coalesce(unique_until <= ${now}, false) AS free FROM ${table} WHERE id = ANY($1) OR unique_key = ANY($2)`,
  gone: `DELETE FROM ${table} WHERE id = ANY($1) AND remove_at <= ${now}`,
  free: `UPDATE ${table} SET unique_key = NULL WHERE id = ANY($1) AND unique_until <= ${now}`,
  load: `SELECT asked.id AS asked, ${now}::float8 AS now, row.* FROM unnest($1) AS asked(id) LEFT JOIN LATERAL `
    + `(SELECT ${columns} FROM ${table} WHERE id = asked.id AND (remove_at IS NULL OR remove_at > ${now})) AS row ON true`,
  save: `WITH asked AS (SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8) `
    + "AS each(id, version, state, content, is_due, keep, releases, tells) ORDER BY id COLLATE \"C\"), "
    + `saved AS (UPDATE ${table} AS row SET version = row.version + 1, state = asked.state, content = asked.content, `
    + `due_at = CASE WHEN asked.is_due THEN ${now} END, `
    + `remove_at = CASE WHEN asked.keep IS NOT NULL THEN greatest(${now} + asked.keep::bigint, row.unique_until) END, `
    + "unique_key = CASE WHEN asked.releases IS NOT NULL AND asked.releases = row.unique_key THEN NULL "
    + "ELSE row.unique_key END "
    + "FROM asked WHERE row.id = asked.id AND row.version = asked.version::bigint RETURNING row.id, asked.tells) "
    + `SELECT id, CASE WHEN tells THEN pg_notify('${eventsOf(table)}', id)::text END AS told FROM saved`,
  // a row that is locked is being begun, and is no longer due after that
  published: `UPDATE ${table} SET due_at = NULL WHERE id IN (SELECT id FROM ${table} WHERE id = ANY($1) `
    + "AND due_at IS NOT NULL AND state IN ('pending', 'retrying') FOR UPDATE SKIP LOCKED)",
  due: `UPDATE ${table} AS row SET due_at = ${now} + $2::bigint FROM (SELECT id FROM ${table} WHERE due_at <= ${now} `
    + "ORDER BY due_at LIMIT $1::int FOR UPDATE SKIP LOCKED) AS taken WHERE row.id = taken.id "
    + "RETURNING row.id, row.queue, row.content, row.payload",
  next: `SELECT (min(due_at) - ${now})::float8 AS next FROM ${table} WHERE due_at IS NOT NULL`,
  scan: `SELECT ${columns} FROM ${table} WHERE queue = $1 AND id > $2 `
    + `AND (remove_at IS NULL OR remove_at > ${now}) ORDER BY id LIMIT $3::int`,
  remove: `WITH gone AS (DELETE FROM ${table} WHERE id = $1 AND version = $2::bigint RETURNING id) `
    + `SELECT id, pg_notify('${eventsOf(table)}', id)::text AS told FROM gone`,
  prune: `WITH gone AS (DELETE FROM ${table} WHERE id IN (SELECT id FROM ${table} WHERE remove_at < ${now} `
    + "ORDER BY remove_at LIMIT $1::int FOR UPDATE SKIP LOCKED) RETURNING 1) SELECT count(*)::float8 AS n FROM gone"
})

/** Removes rows whose time is over; answers their number, as `n`. */
export const prune = (table: string): string => statementsOf(table).prune

interface Asked<Q, A> {
  readonly of: Q
  answer: A | undefined
}

/** Gathers operations of one kind: those that arrive during a statement are the next one. */
const grouped = <Q, A>(
  maximum: number,
  write: (group: ReadonlyArray<Asked<Q, A>>) => Effect.Effect<void, Failed>
): Effect.Effect<(of: Q) => Effect.Effect<A, Failed>, never, Scope.Scope> =>
  Effect.map(Gather.make<Asked<Q, A>, Failed>({ maximum, write }), (gather) => (of: Q) =>
    Effect.suspend(() => {
      const asked: Asked<Q, A> = { of, answer: undefined }
      // `write` answers each operation
      return Effect.map(gather.add(asked), () => asked.answer as A)
    }))

/** Options of `make`. */
export interface Options {
  readonly table: string
  readonly statements: Statements
  readonly maximum: number
  /** Retries a statement whose failure may pass, and makes its error the store's. */
  readonly safe: <A>(effect: Effect.Effect<A, Migrate.Failed>) => Effect.Effect<A, Failed>
  readonly watchers: TaskStore.Watchers
  readonly isTold: boolean
}

/** How often an insertion is tried again whose place was freed meanwhile. */
const tries = 3

/** Makes the table. */
export const make = (
  { isTold, maximum, safe, statements, table, watchers }: Options
): Effect.Effect<TaskStore.Table, never, Scope.Scope> =>
  Effect.gen(function*() {
    const sql = statementsOf(table)
    const ask = <R extends object>(statement: string, values: ReadonlyArray<unknown>) =>
      safe(Effect.suspend(() => statements.ask<R>(statement, values)))

    const insertAll = (
      group: ReadonlyArray<Asked<TaskStore.NewRow, TaskStore.Insertion>>,
      left: number
    ): Effect.Effect<void, Failed> => {
      const rows = group.map(({ of }) => of)
      return Effect.flatMap(
        ask<{ readonly id: string }>(sql.insert, [
          array(rows.map(({ id }) => id), "text"),
          array(rows.map(({ queue }) => queue), "text"),
          array(rows.map(({ content }) => content), "text"),
          array(rows.map(({ payload }) => payload), "bytea"),
          array(rows.map(({ due }) => due !== undefined && "after" in due ? Math.ceil(due.after) : null), "float8"),
          array(rows.map(({ due }) => due !== undefined && "at" in due ? Math.ceil(due.at) : null), "float8"),
          array(rows.map(({ unique }) => unique === undefined ? null : storable(unique.key)), "text"),
          array(rows.map(({ unique }) => unique?.millis ?? null), "float8")
        ]),
        (inserted) => {
          const ids = new Set(inserted.map(({ id }) => id))
          const rest = group.filter((asked) => {
            if (!ids.has(asked.of.id)) return true
            asked.answer = { _tag: "Inserted" }
            return false
          })
          return rest.length === 0 ? Effect.void : conflicting(rest, left)
        }
      )
    }

    const conflicting = (
      group: ReadonlyArray<Asked<TaskStore.NewRow, TaskStore.Insertion>>,
      left: number
    ): Effect.Effect<void, Failed> =>
      Effect.flatMap(
        ask<
          { readonly id: string; readonly unique_key: string | null; readonly gone: boolean; readonly free: boolean }
        >(
          sql.conflicts,
          [
            array(group.map(({ of }) => of.id), "text"),
            array(group.flatMap(({ of }) => of.unique === undefined ? [] : [storable(of.unique.key)]), "text")
          ]
        ),
        (found) => {
          const gone = found.filter((row) => row.gone).map(({ id }) => id)
          const free = found.filter((row) => row.free && !row.gone).map(({ id }) => id)
          const again = group.filter((asked) => {
            const { id, unique } = asked.of
            if (found.some((row) => row.id === id && !row.gone)) {
              asked.answer = { _tag: "Exists" }
              return false
            }
            const key = unique === undefined ? undefined : storable(unique.key)
            const holder = found.find((row) => row.unique_key === key && !row.gone && !row.free)
            if (key === undefined || holder === undefined) return true
            asked.answer = { _tag: "Held", id: holder.id }
            return false
          })
          if (again.length === 0) return Effect.void
          const freed = Effect.andThen(
            gone.length === 0 ? Effect.void : ask(sql.gone, [array(gone, "text")]),
            free.length === 0 ? Effect.void : ask(sql.free, [array(free, "text")])
          )
          // a place that stays taken without a row is another process's open insertion: the next try finds its row
          return Effect.andThen(freed, insertAll(again, left - 1))
        }
      )

    const insert = yield* grouped<TaskStore.NewRow, TaskStore.Insertion>(
      maximum,
      (group) => Effect.forEach(distinct(group, ({ of }) => of.id), (part) => insertAll(part, tries), { discard: true })
    )

    const load = yield* grouped<string, { readonly now: number; readonly row: TaskStore.Row | undefined }>(
      maximum,
      (group) =>
        Effect.map(
          ask<{ readonly asked: string; readonly now: number } & Partial<StoredRow>>(sql.load, [
            array(Array.from(new Set(group.map(({ of }) => of))), "text")
          ]),
          (rows) => {
            const found = new Map(rows.map((row) => [row.asked, row]))
            for (const asked of group) {
              const row = found.get(asked.of)!
              asked.answer = { now: row.now, row: rowOf(row) }
            }
          }
        )
    )

    const save = yield* grouped<TaskStore.Save, boolean>(maximum, (group) =>
      Effect.forEach(
        distinct(group, ({ of }) => of.id),
        (part) => {
          const saves = part.map(({ of }) => of)
          return Effect.map(
            ask<{ readonly id: string }>(sql.save, [
              array(saves.map(({ id }) => id), "text"),
              array(saves.map(({ version }) => version), "float8"),
              array(saves.map(({ state }) => state), "text"),
              array(saves.map(({ content }) => content), "text"),
              array(saves.map(({ isDue }) => isDue ?? false), "bool"),
              array(saves.map(({ keep }) => keep === undefined ? null : Math.ceil(keep)), "float8"),
              array(saves.map(({ releases }) => releases === undefined ? null : storable(releases)), "text"),
              array(saves.map(({ tells }) => tells), "bool")
            ]),
            (rows) => {
              const saved = new Set(rows.map(({ id }) => id))
              for (const asked of part) {
                asked.answer = saved.has(asked.of.id)
                if (asked.answer && asked.of.tells) watchers.tell(asked.of.id)
              }
            }
          )
        },
        { discard: true }
      ))

    const published = yield* grouped<string, void>(
      maximum,
      (group) => Effect.asVoid(ask(sql.published, [array(group.map(({ of }) => of), "text")]))
    )

    return {
      insert,
      load,
      save,
      published,
      due: (limit, lease) =>
        Effect.gen(function*() {
          const rows = yield* ask<TaskStore.DueRow>(sql.due, [limit, Math.ceil(lease)])
          const [first] = yield* ask<{ readonly next: number | null }>(sql.next, [])
          const next = first?.next ?? undefined
          return { rows, next: next === undefined ? undefined : Math.max(0, next) }
        }),
      scan: (queue, after, limit) =>
        Effect.map(
          ask<StoredRow>(sql.scan, [queue, after, limit]),
          (rows) => rows.flatMap((row) => rowOf(row) ?? [])
        ),
      remove: (id, _queue, version) => Effect.map(ask(sql.remove, [id, version]), (rows) => rows.length > 0),
      watch: watchers.watch,
      isTold
    }
  })
