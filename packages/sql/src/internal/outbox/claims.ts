/**
 * The relay's statements: they assign shards to relays, read the next rows, and write the results.
 *
 * A relay is alive until its row of `_relays` expires by the database's clock, and a shard belongs to one living relay. So one
 * relay at a time sends the rows of a key, and reads them in the order of their ids, which is that of their commits. A heartbeat
 * writes one row, however many shards a relay has.
 */
import { Effect } from "effect"
import type { OutboxError } from "./error.ts"
import * as Reading from "./reading.ts"
import { shards, type Stored } from "./rows.ts"
import type { Table } from "./tables.ts"

/** The settings of a relay; times in milliseconds, whole numbers. */
export interface Settings {
  readonly broker: string
  /** New with each start, so no relay acts under the claim of an earlier start. */
  readonly owner: string
  readonly lease: number
  readonly batch: number
  readonly bytes: number
  readonly keep: number
  /** The largest answer of the database's client in bytes; undefined if unknown. */
  readonly answer: number | undefined
}

/** The result of a failed row. */
export interface Verdict {
  readonly id: string
  /** The next attempt, in milliseconds from now; undefined parks the row. */
  readonly after: number | undefined
  readonly tag: string
  readonly message: string
}

/** The rows that this relay is sending: they, and the later rows of their lanes, are not read again. */
export interface InFlight {
  readonly ids: ReadonlyArray<string>
  readonly lanes: ReadonlyArray<string>
}

/** The shards of a relay, and whether it has written a heartbeat. */
export interface Share {
  readonly held: ReadonlySet<number>
  readonly isRenewed: boolean
}

/** The relay's access to the table. */
export interface Claims {
  readonly join: Effect.Effect<void, OutboxError>
  /** Writes a heartbeat and reads the relay's shards. A relay that stands by has none while other relays are active. */
  readonly renew: (standsBy: boolean) => Effect.Effect<Share, OutboxError>
  /** Takes or releases shards until each relay has its share; only reads if the share is right. */
  readonly balance: (standsBy: boolean, held: ReadonlySet<number>) => Effect.Effect<Share, OutboxError>
  /** Reads the next rows that have not failed, oldest first. */
  readonly next: (held: ReadonlySet<number>, flight: InFlight) => Effect.Effect<ReadonlyArray<Stored>, OutboxError>
  /** Reads failed rows that may be retried now. */
  readonly due: (
    held: ReadonlySet<number>,
    flight: InFlight,
    most: number
  ) => Effect.Effect<ReadonlyArray<Stored>, OutboxError>
  /**
   * Holds rows behind a failed row, among the oldest fresh rows: later reads skip them until they are released.
   * Returns their number.
   */
  readonly hold: (held: ReadonlySet<number>) => Effect.Effect<number, OutboxError>
  /** Releases held rows of the lanes that have no earlier failed row, oldest first. Returns their number. */
  readonly release: (lanes: ReadonlyArray<string>) => Effect.Effect<number, OutboxError>
  /** The lanes with held rows but no failed row: their relay died before it released them. */
  readonly forgotten: (held: ReadonlySet<number>) => Effect.Effect<ReadonlyArray<string>, OutboxError>
  readonly done: (ids: ReadonlyArray<string>) => Effect.Effect<void, OutboxError>
  readonly failed: (verdicts: ReadonlyArray<Verdict>) => Effect.Effect<void, OutboxError>
  readonly prune: Effect.Effect<number, OutboxError>
  readonly leave: Effect.Effect<void, OutboxError>
}

/** The most rows that one statement prunes. */
export const pruned = 1000

/** The most rows that one statement holds or releases. */
export const shifted = 2000

const numbers = (rows: ReadonlyArray<{ readonly [column: string]: unknown }>): Set<number> =>
  new Set(rows.map((row) => Number(row["shard"])))

/** PostgreSQL's text has no NUL. */
const text = (value: string): string => value.replaceAll("\0", "\ufffd").toWellFormed().slice(0, 1024)

/** The statements of one relay. */
export const make = (table: Table<OutboxError>, settings: Settings): Claims => {
  const { ask, dialect, inside, name, transaction } = table
  const { broker, owner } = settings
  const reading = Reading.make(table, settings.answer)
  const at = dialect.placeholder
  const until = `${dialect.now} + ${settings.lease}`
  const exclusive = dialect.exclusive?.(name)
  // decisions on shares run one at a time, and each sees the result of the last
  const alone: Effect.Effect<unknown, OutboxError> = exclusive === undefined
    ? Effect.void
    : inside(exclusive.sql, exclusive.values)
  const flag = (standsBy: boolean) => standsBy ? 1 : 0

  const sign = (standsBy: boolean) => ({
    sql: `UPDATE ${name}_relays SET until = ${until}, standby = ${flag(standsBy)} WHERE broker = ${at(1)} AND id = ${
      at(2)
    } AND until > ${dialect.now} RETURNING id`,
    values: [broker, owner]
  })
  const owned = {
    sql: `SELECT shard FROM ${name}_shards WHERE broker = ${at(1)} AND owner = ${at(2)}`,
    values: [broker, owner]
  }
  const release = (some: ReadonlyArray<number> | undefined) =>
    inside(
      `UPDATE ${name}_shards SET owner = NULL WHERE broker = ${at(1)} AND owner = ${at(2)}${
        some === undefined ? "" : ` AND shard IN (${some.join(", ")})`
      }`,
      [broker, owner]
    )
  const bury = inside(`DELETE FROM ${name}_relays WHERE broker = ${at(1)} AND until <= ${dialect.now}`, [broker])
  const dead = (alias: string) =>
    `(${alias}.owner IS NULL OR NOT EXISTS (SELECT 1 FROM ${name}_relays r WHERE r.broker = ${alias}.broker`
    + ` AND r.id = ${alias}.owner AND r.until > ${dialect.now}))`
  const take = (most: number) =>
    inside(
      `UPDATE ${name}_shards SET owner = ${at(1)} WHERE broker = ${at(2)} AND shard IN (`
        + `SELECT s.shard FROM ${name}_shards s WHERE s.broker = ${at(3)} AND ${
          dead("s")
        } ORDER BY s.shard LIMIT ${most}) RETURNING shard`,
      [owner, broker, broker]
    )
  const counts = {
    sql: `SELECT (SELECT count(*) FROM ${name}_relays r WHERE r.broker = ${at(1)} AND r.until > ${dialect.now}`
      + ` AND r.standby = 0 AND r.id <> ${at(2)}) AS active, (SELECT count(*) FROM ${name}_relays r WHERE r.broker = ${
        at(3)
      } AND r.until > ${dialect.now} AND r.standby = 1 AND r.id <> ${at(4)}) AS standby,`
      + ` (SELECT count(*) FROM ${name}_shards s WHERE s.broker = ${at(5)} AND ${dead("s")}) AS free`,
    values: [broker, owner, broker, owner, broker]
  }

  /** How many shards this relay should have, given the other living relays. */
  const shareOf = (row: { readonly [column: string]: unknown } | undefined, standsBy: boolean): number => {
    const active = Number(row?.["active"] ?? 0)
    if (standsBy && active > 0) return 0
    return Math.ceil(shards / (1 + (standsBy ? Number(row?.["standby"] ?? 0) : active)))
  }

  /** The shards that this relay still owns; a relay whose row has expired owns none, and starts again. */
  const live = (standsBy: boolean): Effect.Effect<Set<number>, OutboxError> => {
    const own = sign(standsBy)
    return Effect.flatMap(inside(own.sql, own.values), (found) => {
      if (found.length > 0) return Effect.map(inside(owned.sql, owned.values), numbers)
      return Effect.as(
        Effect.andThen(
          release(undefined),
          inside(
            `INSERT INTO ${name}_relays (broker, id, until, standby) VALUES (${at(1)}, ${at(2)}, ${until}, ${
              flag(standsBy)
            }) ON CONFLICT (broker, id) DO UPDATE SET until = excluded.until, standby = excluded.standby`,
            [broker, owner]
          )
        ),
        new Set<number>()
      )
    })
  }

  const settle = (standsBy: boolean): Effect.Effect<Share, OutboxError> =>
    transaction(Effect.andThen(
      alone,
      Effect.gen(function*() {
        yield* bury
        const held = yield* live(standsBy)
        const [row] = yield* inside(counts.sql, counts.values)
        const share = shareOf(row, standsBy)
        if (held.size > share) {
          const over = Array.from(held).slice(share)
          yield* release(over)
          over.forEach((shard) => held.delete(shard))
        } else if (held.size < share) {
          numbers(yield* take(share - held.size)).forEach((shard) => held.add(shard))
        }
        return { held, isRenewed: true }
      })
    ))

  const holdsNot = (alias: string, first: number) =>
    `${alias}.id NOT IN (${dialect.ids(first)}) AND (${alias}.lane IS NULL OR ${alias}.lane NOT IN (${
      dialect.ids(first + 1)
    }))`
  const list = (held: ReadonlySet<number>) => Array.from(held).sort((a, b) => a - b).join(", ")
  // the sum `id + 0` leaves only the index of lanes: a planner without statistics would take the index of all ids
  const failing = (alias: string) =>
    `SELECT 1 FROM ${name} w WHERE w.state = 'pending' AND w.attempts > 0 AND w.lane = ${alias}.lane`
    + ` AND w.id + 0 < ${alias}.id AND w.broker = ${alias}.broker`
  const waiting = (alias: string) =>
    `SELECT 1 FROM ${name} h WHERE h.state = 'held' AND h.lane = ${alias}.lane`
    + ` AND h.id + 0 < ${alias}.id AND h.broker = ${alias}.broker`

  /** Two statements, since a planner may run the search for each row if one statement does both. */
  const move = (rows: ReadonlyArray<{ readonly [column: string]: unknown }>, to: string, from: string) =>
    rows.length === 0 ? Effect.succeed(0) : Effect.as(
      ask(`UPDATE ${name} SET state = '${to}' WHERE id IN (${dialect.ids(1)}) AND ${from}`, [
        dialect.list(rows.map((row) => String(row["id"])))
      ]),
      rows.length
    )

  return {
    join: Effect.asVoid(ask(
      `INSERT INTO ${name}_shards (broker, shard) VALUES ${
        Array.from({ length: shards }, (_, shard) => `(${at(1)}, ${shard})`).join(", ")
      } ON CONFLICT (broker, shard) DO NOTHING`,
      dialect.name === "pg" ? [broker] : Array.from({ length: shards }, () => broker)
    )),
    renew: (standsBy) => {
      const own = sign(standsBy)
      return Effect.flatMap(ask(own.sql, own.values), (found) =>
        found.length === 0
          ? settle(standsBy)
          : Effect.map(ask(owned.sql, owned.values), (rows) => ({ held: numbers(rows), isRenewed: true })))
    },
    balance: (standsBy, held) =>
      Effect.flatMap(ask(counts.sql, counts.values), ([row]) => {
        const share = shareOf(row, standsBy)
        const isFair = held.size === share || (held.size < share && held.size > 0 && Number(row?.["free"]) === 0)
        return isFair ? Effect.succeed({ held, isRenewed: false }) : settle(standsBy)
      }),
    next: (held, flight) =>
      Effect.flatMap(
        ask(
          `SELECT ${reading.columns} FROM (SELECT r.id, r.size, sum(r.size) OVER (ORDER BY r.id) AS total FROM (`
            + `SELECT p.id, ${reading.size("p")} AS size FROM ${name} p WHERE p.broker = ${at(1)}`
            + ` AND p.state = 'pending' AND p.attempts = 0 AND p.due_at <= ${dialect.now}`
            + ` AND p.shard IN (${list(held)}) AND ${holdsNot("p", 2)}`
            // rows behind a failed row of their key wait
            + ` AND NOT EXISTS (${failing("p")}) AND NOT EXISTS (${waiting("p")}) ORDER BY p.id LIMIT ${settings.batch}`
            + `) r) c JOIN ${name} o ON o.id = c.id WHERE c.total - c.size < ${settings.bytes} ORDER BY o.id`,
          [broker, dialect.list(flight.ids), dialect.list(flight.lanes)]
        ),
        reading.rows
      ),
    due: (held, flight, most) =>
      Effect.flatMap(
        ask(
          `SELECT ${reading.columns} FROM ${name} o WHERE o.broker = ${at(1)} AND o.state = 'pending'`
            + ` AND o.attempts > 0 AND o.due_at <= ${dialect.now} AND o.shard IN (${list(held)}) AND ${
              holdsNot("o", 2)
            }`
            + ` AND NOT EXISTS (${failing("o")}) ORDER BY o.due_at LIMIT ${most}`,
          [broker, dialect.list(flight.ids), dialect.list(flight.lanes)]
        ),
        reading.rows
      ),
    hold: (held) =>
      Effect.flatMap(
        ask(
          `SELECT p.id FROM (SELECT o.id, o.lane, o.broker FROM ${name} o WHERE o.broker = ${at(1)}`
            + ` AND o.state = 'pending' AND o.attempts = 0 AND o.shard IN (${list(held)}) ORDER BY o.id`
            + ` LIMIT ${shifted}) p WHERE p.lane IS NOT NULL AND (EXISTS (${failing("p")}) OR EXISTS (${
              waiting("p")
            }))`,
          [broker]
        ),
        (rows) => move(rows, "held", "state = 'pending' AND attempts = 0")
      ),
    release: (lanes) =>
      Effect.flatMap(
        ask(
          `SELECT p.id FROM ${name} p WHERE p.state = 'held' AND p.lane IN (${dialect.ids(1)}) AND p.broker = ${at(2)}`
            + ` AND NOT EXISTS (${failing("p")}) ORDER BY p.id LIMIT ${shifted}`,
          [dialect.list(lanes), broker]
        ),
        (rows) => move(rows, "pending", "state = 'held'")
      ),
    forgotten: (held) =>
      Effect.map(
        ask(
          // from one lane to the next by the index, however many rows each has
          `WITH RECURSIVE lanes (lane) AS (SELECT min(lane) FROM ${name} WHERE state = 'held' UNION ALL`
            + ` SELECT (SELECT min(o.lane) FROM ${name} o WHERE o.state = 'held' AND o.lane > lanes.lane) FROM lanes`
            + " WHERE lanes.lane IS NOT NULL) SELECT lane FROM lanes WHERE lane IS NOT NULL"
            + ` AND lane % ${shards} IN (${
              list(held)
            }) AND NOT EXISTS (SELECT 1 FROM ${name} w WHERE w.state = 'pending'`
            + ` AND w.attempts > 0 AND w.lane = lanes.lane AND w.broker = ${at(1)}) LIMIT 1000`,
          [broker]
        ),
        (rows) => rows.map((row) => String(row["lane"]))
      ),
    done: (ids) =>
      Effect.asVoid(ask(
        // valid from any relay, since the broker has confirmed the rows
        settings.keep === 0
          ? `DELETE FROM ${name} WHERE id IN (${dialect.ids(1)})`
          : `UPDATE ${name} SET state = 'done', done_at = ${dialect.now} WHERE id IN (${
            dialect.ids(1)
          }) AND state <> 'done'`,
        [dialect.list(ids)]
      )),
    failed: (verdicts) =>
      Effect.asVoid(ask(
        `UPDATE ${name} SET attempts = attempts + 1, error_tag = v.tag, error_message = v.message,`
          + ` state = CASE WHEN v.after IS NULL THEN 'parked' ELSE 'pending' END,`
          + ` done_at = CASE WHEN v.after IS NULL THEN ${dialect.now} END,`
          + ` due_at = CASE WHEN v.after IS NULL THEN due_at ELSE ${dialect.now} + CAST(v.after AS BIGINT) END`
          + ` FROM ${dialect.verdicts.from} WHERE ${name}.id = v.id AND state = 'pending'`
          // only rows that this relay still owns: the next owner decides for itself
          + ` AND EXISTS (SELECT 1 FROM ${name}_shards s WHERE s.broker = ${at(dialect.verdicts.count + 1)}`
          + ` AND s.shard = ${name}.shard AND s.owner = ${at(dialect.verdicts.count + 2)})`,
        [
          ...dialect.verdicts.values(verdicts.map(({ after, id, message, tag }) => ({
            id,
            after: after === undefined ? undefined : Math.ceil(after),
            tag: text(tag),
            message: text(message)
          }))),
          broker,
          owner
        ]
      )),
    prune: Effect.map(
      ask(
        `DELETE FROM ${name} WHERE id IN (SELECT id FROM ${name} WHERE state = 'done'`
          + ` AND done_at <= ${dialect.now} - ${settings.keep} ORDER BY done_at LIMIT ${pruned}${dialect.skipLocked})`
          + " RETURNING id"
      ),
      (rows) => rows.length
    ),
    leave: transaction(Effect.andThen(
      alone,
      Effect.andThen(
        release(undefined),
        Effect.asVoid(
          inside(`DELETE FROM ${name}_relays WHERE broker = ${at(1)} AND id = ${at(2)}`, [broker, owner])
        )
      )
    ))
  }
}
