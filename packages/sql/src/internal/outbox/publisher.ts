/**
 * Publishes by writing rows: the broker that stands for the outbox.
 */
import { Broker, BrokerError, type Outgoing } from "@millrace/core"
import { Context, Effect, Fiber, Option, Stream } from "effect"
import { SqlClient } from "effect/sql"
import type { OutboxError } from "./error.ts"
import { identity } from "./identity.ts"
import * as Rows from "./rows.ts"
import type { Table } from "./tables.ts"
import * as Wakes from "./wakes.ts"

const system = "outbox"
const refused = (error: OutboxError): BrokerError.BrokerError =>
  BrokerError.make({
    system,
    operation: "publish",
    reason: error.failure === "dependency" ? "Unreachable" : "Unknown",
    message: error.message,
    failure: error.failure,
    cause: error
  })

const unsupported = (operation: BrokerError.BrokerError["operation"]) =>
  Effect.fail(BrokerError.make({
    system,
    operation,
    reason: "Unsupported",
    message: `An outbox takes messages and gives none: ${operation} on the broker behind it`
  }))

const elsewhere = (table: string) =>
  BrokerError.make({
    system,
    operation: "publish",
    reason: "Invalid",
    message:
      `Outbox ${table}: the transaction is one of another SqlClient than the outbox's, so the row would not be part of it: give both the same layer`
  })

/** The most keys that a transaction locks one by one; each lock takes room in a table that all connections share. */
const maximumLocks = 32

// SQLite binds 32,766 values in one statement
const maximumRows = 1000

/** Makes a broker that writes rows of `table` for the broker of the key `target`, in the caller's transaction or its own. */
export const make = (table: Table<OutboxError>, target: string): Effect.Effect<Broker.Broker["Service"]> =>
  Effect.gen(function*() {
    const { dialect, sql } = table
    const writer = yield* identity
    let written = 0
    const ask = (statement: { readonly sql: string; readonly values: ReadonlyArray<unknown> } | undefined) =>
      statement === undefined ? Effect.void : Effect.asVoid(table.inside(statement.sql, statement.values))
    /** The number of keys that a transaction has locked, by its connection. */
    const locked = new WeakMap<object, number>()
    const isWide = (lanes: ReadonlyArray<number>): boolean => {
      const context = Fiber.getCurrent()?.context ?? Context.empty()
      const [connection] = Option.getOrElse(Context.getOption(context, sql.transactionService), () => [{}] as const)
      const before = locked.get(connection) ?? 0
      const own = new Set(lanes).size
      if (before + own > maximumLocks) return true
      locked.set(connection, before + own)
      return false
    }
    const wake = sql.afterCommit(Effect.sync(() => Wakes.wake(sql)))

    const write = (messages: ReadonlyArray<Outgoing<Uint8Array>>): Effect.Effect<void, OutboxError> =>
      Effect.suspend(() => {
        const rows = messages.map((message) => {
          const number = written++
          return Rows.write(message, `${writer}-${number.toString(36)}`, number)
        })
        const lanes = rows.flatMap(({ lane }) => lane === null ? [] : [lane])
        const groups = Array.from(
          { length: Math.ceil(rows.length / maximumRows) },
          (_, i) => rows.slice(i * maximumRows, (i + 1) * maximumRows)
        )
        return Effect.andThen(
          // lock before the rows get their ids, so rows of one lane are in the order of commits
          ask(lanes.length === 0 ? undefined : dialect.lock?.(table.name, lanes, isWide(lanes))),
          Effect.andThen(
            Effect.forEach(groups, (group) => ask(dialect.insert(table.name, target, group)), { discard: true }),
            Effect.andThen(ask(dialect.notify?.(table.name)), wake)
          )
        )
      })

    const publishAll = (messages: ReadonlyArray<Outgoing<Uint8Array>>) =>
      Effect.suspend((): Effect.Effect<void, BrokerError.BrokerError> => {
        if (messages.length === 0) return Effect.void
        const context = Fiber.getCurrent()?.context ?? Context.empty()
        if (Context.getOption(context, sql.transactionService)._tag === "Some") {
          return Effect.mapError(write(messages), refused)
        }
        const other = Context.getOption(context, SqlClient.SqlClient)
        const isElsewhere = other._tag === "Some" &&
          Context.getOption(context, other.value.transactionService)._tag === "Some"
        return isElsewhere
          ? Effect.fail(elsewhere(table.name))
          : Effect.mapError(table.transaction(write(messages)), refused)
      })

    return Broker.Broker.of({
      system,
      capabilities: {
        settlement: "none",
        ordering: "none",
        redelivery: false,
        delay: false,
        deadLetter: false,
        attempts: false,
        groups: false,
        fanOut: false,
        retention: false,
        replay: false,
        persistence: true,
        browse: false,
        tombstones: true,
        partitions: true,
        timestamps: "milliseconds",
        transactions: true,
        patterns: false,
        lag: false
      },
      publish: (message) => publishAll([message]),
      publishAll,
      consume: () => unsupported("consume"),
      declare: () => unsupported("declare"),
      browse: () => Stream.unwrap(unsupported("browse")),
      check: Effect.asVoid(Effect.mapError(table.ask("SELECT 1"), refused)),
      lag: () => unsupported("lag")
    })
  })
