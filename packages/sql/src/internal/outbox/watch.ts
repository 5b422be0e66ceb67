/**
 * Lets an operator inspect an outbox and repair it.
 */
import type { Outgoing } from "@millrace/core"
import { Effect } from "effect"
import type { OutboxError } from "./error.ts"
import * as Reading from "./reading.ts"
import type { Table } from "./tables.ts"

/** The lag of an outbox. */
export interface Lag {
  /** Committed rows that are not published yet. */
  readonly pending: number
  /** Milliseconds since the oldest pending row was written, by the database's clock; undefined if none is pending. */
  readonly age: number | undefined
  /** Pending rows that have failed and wait for a retry; each holds up its key. */
  readonly failing: number
  /** Parked rows. */
  readonly parked: number
}

/** A parked row: the relay does not publish it, and it holds up no other row. */
export interface Parked {
  readonly id: string
  /** The message as it would be published; for an unreadable row, its readable parts. */
  readonly message: Outgoing<Uint8Array>
  readonly attempts: number
  /** Unix time in milliseconds at which the row was written. */
  readonly createdAt: number
  readonly errorTag: string
  readonly errorMessage: string
}

/** The operator's access to an outbox. */
export interface Watch {
  readonly lag: Effect.Effect<Lag, OutboxError>
  /**
   * Reads parked rows, oldest first. `after` is the id of the last row seen; `limit` is 100 by default. A page
   * ends earlier if its rows have more than 32 MiB together: an empty page is the last one.
   */
  readonly parked: (page?: {
    readonly after?: string | undefined
    readonly limit?: number | undefined
  }) => Effect.Effect<ReadonlyArray<Parked>, OutboxError>
  /** Unparks rows to publish them, from their first attempt; later rows of their keys may be out already. Answers the number. */
  readonly retry: (ids: ReadonlyArray<string>) => Effect.Effect<number, OutboxError>
  /** Deletes parked rows. Answers their number. */
  readonly discard: (ids: ReadonlyArray<string>) => Effect.Effect<number, OutboxError>
}

/** The most payload bytes of one page of parked rows. */
const pageBytes = 32 * 1024 * 1024

/** Watches the rows of the broker of the key `target`; `answer` is the largest answer of the client in bytes, if known. */
export const make = (table: Table<OutboxError>, target: string, answer: number | undefined): Watch => {
  const { ask, dialect, name } = table
  const reading = Reading.make(table, answer)
  const [first, second] = [dialect.placeholder(1), dialect.placeholder(2)]
  const changed = (statement: string) => (ids: ReadonlyArray<string>): Effect.Effect<number, OutboxError> =>
    Effect.suspend(() => {
      const known = ids.filter((id) => /^\d{1,18}$/.test(id))
      return Effect.map(
        ask(
          `${statement} WHERE broker = ${first} AND state = 'parked' AND id IN (${dialect.ids(2)}) RETURNING id`,
          [target, dialect.list(known)]
        ),
        (rows) => rows.length
      )
    })
  return {
    lag: Effect.map(
      ask(
        // each count uses its own index
        `SELECT (SELECT count(*) FROM ${name} WHERE broker = ${first} AND state = 'pending' AND attempts = 0) AS fresh,`
          + ` (SELECT count(*) FROM ${name} WHERE broker = ${second} AND state = 'pending' AND attempts > 0) AS failing,`
          + ` (SELECT count(*) FROM ${name} WHERE broker = ${dialect.placeholder(3)} AND state = 'parked') AS parked,`
          + ` (SELECT ${dialect.now} - created_at FROM ${name} WHERE broker = ${dialect.placeholder(4)}`
          + ` AND state = 'pending' AND attempts = 0 ORDER BY id LIMIT 1) AS age,`
          + ` (SELECT ${dialect.now} - min(created_at) FROM ${name} WHERE broker = ${dialect.placeholder(5)}`
          + ` AND state = 'pending' AND attempts > 0) AS longest,`
          + ` (SELECT count(*) FROM ${name} WHERE broker = ${dialect.placeholder(6)} AND state = 'held') AS held`,
        [target, target, target, target, target, target]
      ),
      ([row]) => ({
        pending: Number(row?.["fresh"]) + Number(row?.["failing"]) + Number(row?.["held"]),
        age: row?.["age"] === null && row["longest"] === null
          ? undefined
          : Math.max(0, Number(row?.["age"]), Number(row?.["longest"])),
        failing: Number(row?.["failing"]),
        parked: Number(row?.["parked"])
      })
    ),
    parked: (page = {}) =>
      Effect.flatMap(
        ask(
          `SELECT ${reading.columns}, o.error_tag, o.error_message FROM (SELECT r.id, r.size, sum(r.size) OVER (ORDER BY r.id)`
            + ` AS total FROM (SELECT p.id, ${reading.size("p")} AS size FROM ${name} p WHERE p.broker = ${first}`
            + ` AND p.state = 'parked' AND p.id > ${second} ORDER BY p.id LIMIT ${dialect.placeholder(3)}`
            + `) r) c JOIN ${name} o ON o.id = c.id WHERE c.total - c.size < ${pageBytes} ORDER BY o.id`,
          [target, /^\d{1,15}$/.test(page.after ?? "") ? Number(page.after) : 0, page.limit ?? 100]
        ),
        (records) =>
          Effect.map(reading.rows(records), (rows) =>
            rows.map(({ attempts, createdAt, id, outgoing }, i): Parked => ({
              id,
              message: outgoing,
              attempts,
              createdAt,
              errorTag: String(records[i]!["error_tag"]),
              errorMessage: String(records[i]!["error_message"])
            })))
      ),
    retry: changed(`UPDATE ${name} SET state = 'pending', attempts = 0, due_at = 0`),
    discard: changed(`DELETE FROM ${name}`)
  }
}
