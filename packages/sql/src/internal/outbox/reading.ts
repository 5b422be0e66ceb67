/**
 * Reads rows of an outbox of any size: a row that does not fit one answer of the database is read in parts.
 */
import { Effect, Exit } from "effect"
import type { OutboxError } from "./error.ts"
import { read, type Stored } from "./rows.ts"
import type { Table } from "./tables.ts"

type Record = { readonly [column: string]: unknown }

/** Reads the rows that a query finds. */
export interface Reading {
  /** The columns of a row `o` that `rows` needs. */
  readonly columns: string
  /** The bytes that a row of the alias counts for. */
  readonly size: (alias: string) => string
  /** Makes messages of the rows of a query, large rows part by part. */
  readonly rows: (records: ReadonlyArray<Record>) => Effect.Effect<ReadonlyArray<Stored>, OutboxError>
}

/** `most` is the largest answer of the database's client in bytes. */
export const make = (table: Table<OutboxError>, most: number | undefined): Reading => {
  const { ask, dialect, name } = table
  const wide = dialect.wide === undefined ? undefined : Math.floor(Math.min(dialect.wide, (most ?? Infinity) / 4))
  const texts = ["channel", "key", "headers", "native"]
  const textBytes = texts.map((column) => dialect.bytes(`o.${column}`)).join(" + ")
  const columns = wide === undefined
    ? `o.id, o.lane, o.attempts, o.created_at, o.channel, o.key, o.headers, o.native, o.payload, ${
      dialect.bytes("o.payload")
    } AS bytes`
    : `o.id, o.lane, o.attempts, o.created_at, ${
      dialect.bytes("o.payload")
    } AS bytes, ${textBytes} > ${wide} AS is_wide, `
      + `CASE WHEN ${dialect.bytes("o.payload")} <= ${wide} THEN o.payload END AS payload, `
      + texts.map((column) => `CASE WHEN ${textBytes} <= ${wide} THEN o.${column} END AS ${column}`).join(", ")

  const whole = (record: Record, size: number): Effect.Effect<Stored, OutboxError> => {
    const payload = new Uint8Array(size)
    // PostgreSQL counts bytes from 1
    const part = (from: number): Effect.Effect<Stored, OutboxError> =>
      from >= size ? Exit.succeed(read(record, payload)) : Effect.flatMap(
        ask(
          `SELECT substring(payload FROM $2::float8::int FOR $3::float8::int) AS part FROM ${name} WHERE id = $1::text::bigint`,
          [String(record["id"]), from + 1, wide]
        ),
        ([row]) => {
          const bytes = row?.["part"]
          // the row was deleted, or another program has changed it
          if (!(bytes instanceof Uint8Array) || bytes.length === 0) return Exit.succeed(read(record, undefined))
          payload.set(bytes.subarray(0, size - from), from)
          return part(from + bytes.length)
        }
      )
    return part(0)
  }

  return {
    columns,
    // another program may have written a wrong `size`
    size: (alias) => `${dialect.greatest}(${alias}.size, ${dialect.bytes(`${alias}.payload`)})`,
    rows: (records) =>
      Effect.forEach(records, (record) => {
        const size = Number(record["bytes"])
        return wide === undefined || size <= wide || record["is_wide"] === true
          ? Exit.succeed(read(record))
          : whole(record, size)
      })
  }
}
