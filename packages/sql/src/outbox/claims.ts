/**
 * The relay's statements: who has which shards, what is next in them, and what became of it.
 *
 * A shard belongs to one relay at a time, until its lease ends by the database's clock. So the rows of a key are in one pair of
 * hands, and are read in the order of their ids, which is that of their commits.
 */
import { Effect } from "effect"
import type { OutboxError } from "./error.ts"
import { read, shards, type Stored } from "./rows.ts"
import type { Table } from "./tables.ts"

/** What a relay is told; times in milliseconds, whole numbers. */
export interface Settings {
  readonly broker: string
  /** New with each start, so nobody acts under the claim of another life. */
  readonly owner: string
  readonly lease: number
  readonly batch: number
  readonly bytes: number
  readonly keep: number
}

/** What is written of a row that failed. */
export interface Verdict {
  readonly id: string
  /** The next attempt, in milliseconds from now; undefined parks the row. */
  readonly after: number | undefined
  readonly tag: string
  readonly message: string
}

/** A relay's hands on the table. */
export interface Claims {
  readonly join: Effect.Effect<void, OutboxError>
  /** Renews what this relay has, and answers it. */
  readonly renew: Effect.Effect<ReadonlySet<number>, OutboxError>
  /** As `renew`, and takes or gives shards until each relay has its share. */
  readonly balance: Effect.Effect<ReadonlySet<number>, OutboxError>
  readonly next: (held: ReadonlySet<number>) => Effect.Effect<ReadonlyArray<Stored>, OutboxError>
  readonly done: (ids: ReadonlyArray<string>) => Effect.Effect<void, OutboxError>
  readonly failed: (verdicts: ReadonlyArray<Verdict>) => Effect.Effect<void, OutboxError>
  readonly prune: Effect.Effect<number, OutboxError>
  readonly leave: Effect.Effect<void, OutboxError>
}

/** The most rows that one statement prunes. */
export const pruned = 1000

/** How long a relay that died is remembered after its lease. */
const remembered = 60_000

const numbers = (rows: ReadonlyArray<{ readonly [column: string]: unknown }>): Set<number> =>
  new Set(rows.map((row) => Number(row["shard"])))

/** PostgreSQL's text has no NUL. */
const text = (value: string): string => value.replaceAll("\0", "\ufffd").toWellFormed().slice(0, 1024)

/** The statements of one relay. */
export const make = (table: Table<OutboxError>, settings: Settings): Claims => {
  const { ask, dialect, name, transaction } = table
  const { broker, owner } = settings
  const at = dialect.placeholder
  const until = `${dialect.now} + ${settings.lease}`

  const renewed = ask(
    `UPDATE ${name}_shards SET until = ${until} WHERE broker = ${at(1)} AND owner = ${at(2)} RETURNING shard`,
    [broker, owner]
  )
  const greet = ask(
    `INSERT INTO ${name}_relays (broker, id, until) VALUES (${at(1)}, ${at(2)}, ${until})`
      + " ON CONFLICT (broker, id) DO UPDATE SET until = excluded.until",
    [broker, owner]
  )
  const alive = ask(`SELECT count(*) AS n FROM ${name}_relays WHERE broker = ${at(1)} AND until > ${dialect.now}`, [
    broker
  ])
  const take = (most: number) =>
    ask(
      `UPDATE ${name}_shards SET owner = ${at(1)}, until = ${until} WHERE broker = ${at(2)} AND shard IN (`
        + `SELECT shard FROM ${name}_shards WHERE broker = ${at(3)} AND (owner IS NULL OR until <= ${dialect.now})`
        + ` ORDER BY shard LIMIT ${most}${dialect.skipLocked}) RETURNING shard`,
      [owner, broker, broker]
    )
  const give = (some: ReadonlyArray<number>) =>
    ask(
      `UPDATE ${name}_shards SET owner = NULL, until = 0 WHERE broker = ${at(1)} AND owner = ${at(2)}`
        + ` AND shard IN (${some.join(", ")})`,
      [broker, owner]
    )

  const verdict = ({ after, id, message, tag }: Verdict) =>
    ask(
      // of rows that are still this relay's: the next owner has its own opinion
      `UPDATE ${name} SET attempts = attempts + 1, error_tag = ${at(1)}, error_message = ${at(2)}, ${
        after === undefined
          ? `state = 'parked', done_at = ${dialect.now}`
          : `due_at = ${dialect.now} + ${Math.ceil(after)}`
      } WHERE id = ${at(3)} AND state = 'pending' AND EXISTS (SELECT 1 FROM ${name}_shards s WHERE s.broker = ${
        at(4)
      } AND s.shard = ${name}.shard AND s.owner = ${at(5)})`,
      [text(tag), text(message), Number(id), broker, owner]
    )

  return {
    join: transaction(Effect.andThen(
      ask(
        `INSERT INTO ${name}_shards (broker, shard) VALUES ${
          Array.from({ length: shards }, (_, shard) => `(${at(1)}, ${shard})`).join(", ")
        } ON CONFLICT (broker, shard) DO NOTHING`,
        dialect.name === "pg" ? [broker] : Array.from({ length: shards }, () => broker)
      ),
      Effect.asVoid(greet)
    )),
    renew: transaction(Effect.andThen(greet, Effect.map(renewed, numbers))),
    balance: transaction(Effect.gen(function*() {
      yield* greet
      const held = numbers(yield* renewed)
      const [row] = yield* alive
      const share = Math.ceil(shards / Math.max(1, Number(row?.["n"])))
      if (held.size > share) {
        const over = Array.from(held).slice(share)
        yield* give(over)
        over.forEach((shard) => held.delete(shard))
      } else if (held.size < share) {
        numbers(yield* take(share - held.size)).forEach((shard) => held.add(shard))
      }
      return held
    })),
    next: (held) =>
      Effect.map(
        ask(
          "SELECT o.id, o.lane, o.channel, o.key, o.headers, o.native, o.payload, o.attempts, o.created_at FROM ("
            + "SELECT r.id, r.size, sum(r.size) OVER (ORDER BY r.id) AS total FROM ("
            + `SELECT p.id, p.size FROM ${name} p WHERE p.broker = ${at(1)} AND p.state = 'pending'`
            + ` AND p.due_at <= ${dialect.now} AND p.shard IN (${Array.from(held).sort((a, b) => a - b).join(", ")})`
            // behind a row that waits, its key waits
            + ` AND NOT EXISTS (SELECT 1 FROM ${name} w WHERE w.state = 'pending' AND w.attempts > 0`
            + ` AND w.lane = p.lane AND w.id < p.id AND w.broker = p.broker AND w.due_at > ${dialect.now})`
            + ` ORDER BY p.id LIMIT ${settings.batch}`
            + `) r) c JOIN ${name} o ON o.id = c.id WHERE c.total - c.size < ${settings.bytes} ORDER BY o.id`,
          [broker]
        ),
        (rows) => rows.map(read)
      ),
    done: (ids) =>
      Effect.asVoid(ask(
        // true whoever says it: it was confirmed
        settings.keep === 0
          ? `DELETE FROM ${name} WHERE id IN (${dialect.ids(1)})`
          : `UPDATE ${name} SET state = 'done', done_at = ${dialect.now} WHERE id IN (${
            dialect.ids(1)
          }) AND state <> 'done'`,
        [dialect.list(ids)]
      )),
    failed: (verdicts) => Effect.forEach(verdicts, verdict, { discard: true }),
    prune: Effect.andThen(
      ask(`DELETE FROM ${name}_relays WHERE broker = ${at(1)} AND until < ${dialect.now} - ${remembered}`, [broker]),
      Effect.map(
        ask(
          `DELETE FROM ${name} WHERE id IN (SELECT id FROM ${name} WHERE state = 'done'`
            + ` AND done_at <= ${dialect.now} - ${settings.keep} ORDER BY done_at LIMIT ${pruned}${dialect.skipLocked})`
            + " RETURNING id"
        ),
        (rows) => rows.length
      )
    ),
    leave: transaction(Effect.andThen(
      ask(`UPDATE ${name}_shards SET owner = NULL, until = 0 WHERE broker = ${at(1)} AND owner = ${at(2)}`, [
        broker,
        owner
      ]),
      Effect.asVoid(
        ask(`DELETE FROM ${name}_relays WHERE broker = ${at(1)} AND id = ${at(2)}`, [broker, owner])
      )
    ))
  }
}
