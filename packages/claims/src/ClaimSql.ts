/**
 * Stores claims in PostgreSQL or SQLite, in two tables of the program's own database.
 */
import { OptionCheck } from "@millrace/core"
import { Context, Duration, Effect, Layer, Schedule, Stream } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { ClaimStoreUnavailable, Store } from "./ClaimStore.ts"
import { dayOf, dayOfKey } from "./internal/days.ts"
import { unique } from "./internal/digest.ts"
import { nameOf, retentionOf } from "./internal/options.ts"
import { pruning } from "./internal/pruning.ts"
import { rechunk } from "./internal/rechunk.ts"

/** Options of `layer`. */
export interface Options {
  /**
   * How long bodies are kept, at least; from 1 hour, or `Infinity`. Make it longer than messages, dead letters and unsent rows of an outbox
   * live, or their bodies are gone. Bodies are removed by whole UTC days, so up to a day later.
   */
  readonly retention: Duration.Input
  /** The name in references, from 1 to 100 characters, the same in all programs. Default: `sql`. */
  readonly name?: string | undefined
  /**
   * The table of bodies, created if missing: at most 50 small letters, digits and `_`, optionally with a schema before a dot, which must
   * exist. The table of their parts is called the same with `_parts`. Default: `millrace_claims`.
   */
  readonly table?: string | undefined
  /** The longest time of one statement, with the wait for a connection; from 1 ms. Default: 10 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: { readonly name: string; readonly table: string; readonly timeout: Duration.Duration } = {
  name: "sql",
  table: "millrace_claims",
  timeout: Duration.seconds(10)
}

const module = "ClaimSql"

/** The bytes of a part, the last of a body may be shorter. */
const partBytes = 256 * 1024

/** The parts that one statement reads. */
const partsAtOnce = 4

/** The rows that one statement removes. */
const removedAtOnce = 200

type Row = { readonly [column: string]: unknown }

const wrong = (name: string, cause: unknown): ClaimStoreUnavailable =>
  cause instanceof ClaimStoreUnavailable ? cause : new ClaimStoreUnavailable({
    message: `The store ${name} cannot use its tables: ${cause instanceof Error ? cause.message : String(cause)}`,
    cause
  })

/** Runs statements outside of the transaction that may be open around the caller: its rollback would remove the body of a sent message. */
const outside =
  (sql: SqlClient.SqlClient, name: string) =>
  <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | ClaimStoreUnavailable, R> =>
    Effect.flatMap(Effect.context<R>(), (context): Effect.Effect<A, E | ClaimStoreUnavailable, R> => {
      const inside: Context.Context<never> = context
      if (Context.getOption(inside, sql.transactionService)._tag === "None") return effect
      if (sql.onDialectOrElse({ sqlite: () => true, orElse: () => false })) {
        return Effect.fail(
          new ClaimStoreUnavailable({
            message:
              `The store ${name} is in a SQLite database whose only connection is in a transaction around this call: put the body before the transaction, or give the store a file of its own`
          })
        )
      }
      // no effect can name the transaction's service, so its type does not change
      return Effect.updateContext(
        effect,
        (own: Context.Context<R>) => Context.omit(sql.transactionService)(own) as Context.Context<R>
      )
    })

/** The statements of a database. */
const statementsOf = (sql: SqlClient.SqlClient, name: string, table: string, timeout: number) => {
  const isPostgres = sql.onDialectOrElse({ pg: () => true, orElse: () => false })
  const out = outside(sql, name)
  const limited = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, ClaimStoreUnavailable, R> =>
    Effect.timeoutOrElse(effect, {
      duration: timeout,
      orElse: () =>
        Effect.fail(
          new ClaimStoreUnavailable({
            message:
              `The store ${name} gave no answer in ${timeout} ms: the server is slow or out of reach, or all connections of the client are in use`
          })
        )
    }).pipe(Effect.mapError((cause) => wrong(name, cause)))
  const query = (
    text: string,
    values: ReadonlyArray<unknown> = []
  ): Effect.Effect<ReadonlyArray<Row>, SqlError.SqlError> =>
    sql.unsafe<Row>(isPostgres ? text : text.replaceAll(/\$\d/g, "?"), values).withoutTransform
  const ask = (text: string, values: ReadonlyArray<unknown> = []) => limited(out(query(text, values)))
  const parts = `${table}_parts`
  const bytes = isPostgres ? "BYTEA" : "BLOB"
  const removal = (from: string, columns: string, key: string) => (day: string) =>
    Effect.map(
      ask(
        `DELETE FROM ${from} WHERE (${columns}) IN (SELECT ${columns} FROM ${from} WHERE ${key} < $1 LIMIT ${removedAtOnce}) RETURNING 1 AS n`,
        [day]
      ),
      (rows) => rows.length
    )
  return {
    create: Effect.andThen(
      ask(`CREATE TABLE IF NOT EXISTS ${table} (name TEXT PRIMARY KEY, write TEXT NOT NULL, size BIGINT NOT NULL)`),
      ask(
        `CREATE TABLE IF NOT EXISTS ${parts} (write TEXT, part INTEGER, body ${bytes} NOT NULL, PRIMARY KEY (write, part))`
      )
    ),
    find: (key: string) => Effect.map(ask(`SELECT write, size FROM ${table} WHERE name = $1`, [key]), ([row]) => row),
    append: (write: string, part: number, body: Uint8Array) =>
      ask(`INSERT INTO ${parts} (write, part, body) VALUES ($1, $2, $3)`, [write, part, body]),
    /** Makes a body visible; another write of the same key may have come first, and its parts stay. */
    publish: (key: string, write: string, size: number) =>
      ask(`INSERT INTO ${table} (name, write, size) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING`, [
        key,
        write,
        size
      ]),
    discard: (write: string) => ask(`DELETE FROM ${parts} WHERE write = $1`, [write]),
    some: (write: string, from: number) =>
      ask(`SELECT body FROM ${parts} WHERE write = $1 AND part >= $2 AND part < $3 ORDER BY part`, [
        write,
        from,
        from + partsAtOnce
      ]),
    removeBodies: removal(table, "name", "name"),
    removeParts: removal(parts, "write, part", "write")
  }
}

type Statements = ReturnType<typeof statementsOf>

/** The parts of a body from an offset, a few at a time. */
const streamOf = (
  statements: Statements,
  name: string,
  write: string,
  size: number,
  offset: number
): Stream.Stream<Uint8Array, ClaimStoreUnavailable> =>
  Stream.suspend(() => {
    let skipped = offset % partBytes
    return Stream.unfold(Math.floor(offset / partBytes), (part) => {
      if (part * partBytes >= size) return Effect.undefined
      return Effect.flatMap(statements.some(write, part), (rows) => {
        const bodies = rows.flatMap(({ body }) => body instanceof Uint8Array ? [body] : [])
        // the day of this body is being removed
        return bodies.length === 0
          ? Effect.fail(new ClaimStoreUnavailable({ message: `The store ${name} lacks a part of a body` }))
          : Effect.succeed([bodies, part + bodies.length] as const)
      })
    }).pipe(
      Stream.flattenIterable,
      Stream.map((body) => {
        const rest = body.subarray(skipped)
        skipped = 0
        return rest
      })
    )
  })

const make = (name: string, table: string, retention: number, timeout: number) =>
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const statements = statementsOf(sql, name, table, timeout)
    // two processes that create a table at once: PostgreSQL refuses one of them
    yield* Effect.retry(statements.create, { times: 5, schedule: Schedule.spaced("50 millis") })

    const writeStream = <E, R>(key: string, body: Stream.Stream<Uint8Array, E, R>) =>
      Effect.suspend(() => {
        const write = `${dayOfKey(key)}/${unique()}`
        let part = 0
        let size = 0
        return Effect.onError(
          Effect.andThen(
            Stream.runForEach(rechunk(partBytes)(body), (bytes) => {
              size += bytes.length
              return statements.append(write, part++, bytes)
            }),
            Effect.suspend(() => statements.publish(key, write, size))
          ).pipe(
            Effect.andThen(statements.find(key)),
            Effect.flatMap((row) => row?.["write"] === write ? Effect.void : Effect.asVoid(statements.discard(write)))
          ),
          // what cannot be removed now is removed with its day
          () => Effect.ignore(statements.discard(write))
        )
      })

    const found = (key: string) =>
      Effect.map(statements.find(key), (row) => {
        const write = row?.["write"]
        return typeof write === "string" ? { write, size: Number(row?.["size"]) } : undefined
      })

    const prune = (before: number) =>
      Effect.gen(function*() {
        const day = dayOf(before)
        let count = 0
        for (const remove of [statements.removeBodies, statements.removeParts]) {
          for (let some = removedAtOnce; some === removedAtOnce;) {
            some = yield* remove(day)
            if (remove === statements.removeBodies) count += some
          }
        }
        return count
      })

    yield* pruning(module, retention, prune)
    return Store.of({
      name,
      write: (key, body) =>
        Effect.flatMap(found(key), (row) => row === undefined ? writeStream(key, Stream.make(body)) : Effect.void),
      writeStream,
      read: (key, most) =>
        Effect.flatMap(found(key), (row) => {
          if (row === undefined) return Effect.undefined
          const length = Math.min(row.size, most)
          const parts = Stream.take(
            streamOf(statements, name, row.write, row.size, 0),
            Math.max(1, Math.ceil(length / partBytes))
          )
          return Effect.map(Stream.mkUint8Array(parts), (body) => body.subarray(0, length))
        }),
      open: (key, offset) =>
        Effect.map(
          found(key),
          (row) => row === undefined ? undefined : streamOf(statements, name, row.write, row.size, offset)
        ),
      prune
    })
  })

/**
 * Provides a store in the database of the program's `SqlClient`, of PostgreSQL or SQLite.
 *
 * Provides `ClaimStore.Store`; fails with `ClaimStoreUnavailable` if the tables cannot be created. A body has rows of 256 KiB and is visible
 * once its last row is committed; rows of interrupted writes are removed with their day. Each statement commits by itself, outside of a
 * transaction around the caller; in a transaction on SQLite, which has one connection, a write or read fails. While the database is unreachable, or
 * slower than `timeout` for one statement, each call fails with `ClaimStoreUnavailable`.
 *
 * Bodies of up to a few MiB suit a database; larger ones fill its log and its backups.
 *
 * **Example** (in the program's own database)
 *
 * ```ts
 * import { ClaimSql } from "@millrace/claims"
 * import { SqliteClient } from "@millrace/sql"
 * import { Layer } from "effect"
 *
 * const store = ClaimSql.layer({ retention: "30 days" }).pipe(
 *   Layer.provide(SqliteClient.layer({ filename: "claims.db" }))
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Store, ClaimStoreUnavailable, SqlClient.SqlClient> => {
  const check = OptionCheck.make(module)
  const name = nameOf(module, options.name ?? defaults.name)
  const table = options.table ?? defaults.table
  if (!/^(?:[a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,49}$/.test(table)) {
    throw new RangeError(`${module}: table must be small letters, digits and _, got ${JSON.stringify(table)}`)
  }
  const retention = retentionOf(module, options.retention)
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  return Layer.effect(Store, make(name, table, retention, timeout))
}
