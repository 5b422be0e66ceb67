/**
 * The transactional outbox: publishing writes rows in the caller's transaction, and a relay (`OutboxRelay`) sends what was
 * committed.
 *
 * What is rolled back was never published; what is committed is published at least once, each key in the order of its commits.
 */
import { Broker, BrokerError, type Channel, OptionCheck, type Outgoing, Publisher } from "@millrace/core"
import { PgClient } from "@effect/sql-pg"
import { Context, Duration, Effect, Fiber, Layer, Option, Random, Stream } from "effect"
import { SqlClient } from "effect/sql"
import { OutboxError } from "./outbox/error.ts"
import * as Reading from "./outbox/reading.ts"
import * as Rows from "./outbox/rows.ts"
import * as Tables from "./outbox/tables.ts"
import * as Wakes from "./outbox/wakes.ts"

export { OutboxError } from "./outbox/error.ts"

/** Which outbox: its table, and the broker that its messages are for. */
export interface Options<On = Broker.Broker> {
  /**
   * The table, made where it is missing: small letters, digits and `_`, with a schema before a dot where it is in one, which
   * has to be there. Default: `millrace_outbox`.
   */
  readonly table?: string | undefined
  /** Whose messages: each broker of a program has its own part of the table. Default: `Broker`. */
  readonly broker?: Broker.Key<On> | undefined
  /**
   * How long one statement may take; from 1 ms. A statement waits for other transactions that publish to the same key, and,
   * where no transaction is open, for a connection. Default: 5 seconds.
   */
  readonly timeout?: Duration.Input | undefined
}

/** What is taken where an option is not given. */
export const defaults: { readonly table: string; readonly timeout: Duration.Duration } = {
  table: "millrace_outbox",
  timeout: Duration.seconds(5)
}

declare const broker: unique symbol

/** The outbox before a broker, as a type: what publishes through it needs its `layer`. */
export interface To<in out On> {
  readonly [broker]: (_: On) => On
}

/** The service of the outbox before a broker: a door that is a broker itself, and takes nothing but publishes. */
export const to = <On = Broker.Broker>(
  // without the argument On is the default's type
  key: Broker.Key<On> = Broker.Broker as unknown as Broker.Key<On>
): Context.Service<To<On>, Broker.Broker["Service"]> =>
  Context.Service<To<On>, Broker.Broker["Service"]>(`@millrace/sql/Outbox/${key.key}`)

/**
 * The channel behind the outbox: what publishes to it writes a row, and the relay publishes the row to the channel.
 *
 * It goes wherever a channel to publish to does: `Publisher.make`, `Publish.middleware`, `Publish.route`. Publish middlewares
 * run when the row is written, so a trace context that `Trace.middleware()` writes there travels with the message.
 *
 * **Example** (an answer in the transaction of the handler)
 *
 * ```ts
 * import { Effect, pipe, Schema } from "effect"
 * import { Channel, Decode, type Message, Publish } from "@millrace/core"
 * import { Inbox, Outbox } from "@millrace/sql"
 *
 * const Order = Schema.Struct({ id: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order })
 * const Invoices = Channel.make("invoices", { payload: Order, key: (invoice) => invoice.id })
 *
 * const handler = pipe(
 *   (message: Message<typeof Order.Type>) => Effect.succeed(message.payload),
 *   Publish.middleware(Outbox.on(Invoices)),
 *   Decode.middleware(Orders),
 *   Inbox.middleware()
 * )
 * ```
 */
export const on = <P, Name extends string, On>(
  channel: Channel.Channel<P, Name, On>
): Channel.Channel<P, Name, To<Broker.Of<On>>> => Broker.on(to(Broker.keyOf(channel)), channel)

/**
 * A publisher whose messages become rows of the outbox, in the transaction that it is called in, or in one of its own.
 *
 * Typed payloads, keys, headers and addresses are as in `Publisher.make`. `publish` and `publishAll` complete when the rows are
 * written, and are published when the transaction has been committed. Each message gets a `message-id` header, unless it has
 * one: what the relay sends twice has it twice, for an `Inbox`.
 *
 * Fails with `EncodeError`, and with a `BrokerError` of system `outbox` where the row is not written; then the transaction should
 * fail too.
 *
 * **Example** (an order and its event, both or none)
 *
 * ```ts
 * import { Effect, Layer, Schema } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { Channel, MemoryBroker } from "@millrace/core"
 * import { Outbox, OutboxRelay, SqliteClient } from "@millrace/sql"
 *
 * const Order = Schema.Struct({ id: Schema.String })
 * const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
 * const orders = Outbox.publisher(Orders)
 *
 * const place = (id: string) =>
 *   Effect.flatMap(SqlClient.SqlClient, (sql) =>
 *     sql.withTransaction(Effect.andThen(sql`INSERT INTO orders VALUES (${id})`, orders.publish({ id }))))
 *
 * const program = Layer.mergeAll(Outbox.layer(), OutboxRelay.layer()).pipe(
 *   Layer.provide(MemoryBroker.layer()),
 *   Layer.provideMerge(SqliteClient.layer({ filename: "shop.db" }))
 * )
 * ```
 *
 * @category constructors
 */
export const publisher = <P, Name extends string, On>(
  channel: Channel.Channel<P, Name, On>
): Publisher.Publisher<P, Publisher.EncodeError | BrokerError.BrokerError, To<Broker.Of<On>>, Name> =>
  Publisher.make(on(channel))

const system = "outbox"
const check = OptionCheck.make("Outbox")

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

const keyOf = <On>(options: Options<On>): Broker.Key<On> =>
  // without the option On is the default's type
  options.broker ?? (Broker.Broker as unknown as Broker.Key<On>)

const open = (table: string, timeout: Duration.Input | undefined) =>
  Tables.open(
    "outbox",
    table,
    check.millis("timeout", timeout ?? defaults.timeout, { most: OptionCheck.longestTimer }),
    (told) => new OutboxError(told)
  )

/** The most keys that a transaction locks one by one; each lock takes room in a table that all connections share. */
const maximumLocks = 32

// SQLite binds 32,766 values in one statement
const maximumRows = 1000

/** Hexadecimal digits by chance. */
const digits = Effect.map(Random.nextIntBetween(0, 0xffff_ffff), (number) => number.toString(16).padStart(8, "0"))

const door = <On>(options: Options<On>) =>
  Effect.gen(function*() {
    const table = yield* open(options.table ?? defaults.table, options.timeout)
    const { dialect, sql } = table
    const target = keyOf(options).key
    const writer = (yield* digits) + (yield* digits) + (yield* digits)
    let written = 0
    const ask = (statement: { readonly sql: string; readonly values: ReadonlyArray<unknown> } | undefined) =>
      statement === undefined ? Effect.void : Effect.asVoid(table.inside(statement.sql, statement.values))
    /** How many keys a transaction has locked, by its connection. */
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
          // before the rows get their ids, so those of one lane are in the order of commits
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

/**
 * The outbox of a program: makes its tables where they are missing, and writes what is published through `publisher` and `on`.
 *
 * Provides `To` of the broker and needs the `SqlClient`, PostgreSQL's or SQLite's; it has to be the one whose transactions the
 * program uses. Fails with an `OutboxError` where the tables are not there and cannot be made.
 *
 * @throws RangeError when the table's name is none
 * @category layers
 */
export const layer = <On = Broker.Broker>(
  options: Options<On> = {}
): Layer.Layer<To<On>, OutboxError, SqlClient.SqlClient> => {
  Tables.check("Outbox.layer", options.table ?? defaults.table)
  check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  return Layer.effect(to(keyOf(options)), door(options))
}

/**
 * Makes the tables, or brings them up to date: for a deployment whose programs may not create tables. A layer does the same, and
 * only reads where nothing is to do.
 *
 * Fails with an `OutboxError`, also where the schema is newer than the program.
 *
 * **Example** (a step of a deployment, with a user that owns the tables)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Inbox, Outbox, SqliteClient } from "@millrace/sql"
 *
 * const migrate = Effect.andThen(Outbox.migrate(), Inbox.migrate())
 * await Effect.runPromise(Effect.provide(migrate, SqliteClient.layer({ filename: ":memory:" })))
 * ```
 *
 * @throws RangeError when the table's name is none
 */
export const migrate = (
  options: Pick<Options, "table"> = {}
): Effect.Effect<void, OutboxError, SqlClient.SqlClient> =>
  Tables.migrate(
    "outbox",
    Tables.check("Outbox.migrate", options.table ?? defaults.table),
    (told) => new OutboxError(told)
  )

/** How far an outbox is behind. */
export interface Lag {
  /** Rows that are committed and not published. */
  readonly pending: number
  /** Milliseconds since the oldest of them was written, by the database's clock; undefined where there is none. */
  readonly age: number | undefined
  /** Those of them that have failed, and wait for their next attempt; each holds up its key. */
  readonly failing: number
  /** Rows that were given up. */
  readonly parked: number
}

/** A row that was given up: it is not published, and holds nothing up. */
export interface Parked {
  readonly id: string
  /** The message as it would be published; of a row that cannot be read, the parts that can. */
  readonly message: Outgoing<Uint8Array>
  readonly attempts: number
  /** Unix time in milliseconds at which it was written. */
  readonly createdAt: number
  readonly errorTag: string
  readonly errorMessage: string
}

/** An outbox as those who watch over it see it. */
export interface Watch {
  readonly lag: Effect.Effect<Lag, OutboxError>
  /**
   * The rows that were given up, oldest first. `after` is the id of the last one seen; `limit` is 100 where it is not given. A page
   * ends earlier where its rows have more than 32 MiB together: an empty page is the last one.
   */
  readonly parked: (page?: {
    readonly after?: string | undefined
    readonly limit?: number | undefined
  }) => Effect.Effect<ReadonlyArray<Parked>, OutboxError>
  /** Publishes parked rows after all, from their first attempt; later ones of their keys may be out already. Answers how many. */
  readonly retry: (ids: ReadonlyArray<string>) => Effect.Effect<number, OutboxError>
  /** Deletes parked rows. Answers how many. */
  readonly discard: (ids: ReadonlyArray<string>) => Effect.Effect<number, OutboxError>
}

/** Payloads of one page of parked rows. */
const pageBytes = 32 * 1024 * 1024

/**
 * Opens an outbox to look at it, in a program that publishes, relays, or neither.
 *
 * **Example** (rows that were given up for a channel that was missing)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Outbox, SqliteClient } from "@millrace/sql"
 *
 * const program = Effect.gen(function*() {
 *   const outbox = yield* Outbox.watch()
 *   const missing = (yield* outbox.parked()).filter((row) => row.errorMessage.includes("orders"))
 *   return yield* outbox.retry(missing.map((row) => row.id))
 * })
 * const layer = SqliteClient.layer({ filename: ":memory:" })
 * console.log(await Effect.runPromise(Effect.provide(program, layer))) // => 0
 * ```
 *
 * @throws RangeError when the table's name is none
 */
export const watch = <On = Broker.Broker>(
  options: Options<On> = {}
): Effect.Effect<Watch, OutboxError, SqlClient.SqlClient> => {
  Tables.check("Outbox.watch", options.table ?? defaults.table)
  const opened = Effect.all([
    open(options.table ?? defaults.table, options.timeout),
    Effect.serviceOption(PgClient.PgClient)
  ])
  return Effect.map(opened, ([table, client]): Watch => {
    const { ask, dialect, name } = table
    const reading = Reading.make(table, Option.getOrUndefined(client)?.config.maxMessageSize)
    const [first, second] = [dialect.placeholder(1), dialect.placeholder(2)]
    const target = keyOf(options).key
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
          // each count by an index of its own
          `SELECT (SELECT count(*) FROM ${name} WHERE broker = ${first} AND state = 'pending' AND attempts = 0) AS fresh,`
            + ` (SELECT count(*) FROM ${name} WHERE broker = ${second} AND state = 'pending' AND attempts > 0) AS failing,`
            + ` (SELECT count(*) FROM ${name} WHERE broker = ${dialect.placeholder(3)} AND state = 'parked') AS parked,`
            + ` (SELECT ${dialect.now} - created_at FROM ${name} WHERE broker = ${dialect.placeholder(4)}`
            + ` AND state = 'pending' AND attempts = 0 ORDER BY id LIMIT 1) AS age,`
            + ` (SELECT ${dialect.now} - min(created_at) FROM ${name} WHERE broker = ${dialect.placeholder(5)}`
            + ` AND state = 'pending' AND attempts > 0) AS longest`,
          [target, target, target, target, target]
        ),
        ([row]) => ({
          pending: Number(row?.["fresh"]) + Number(row?.["failing"]),
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
  })
}
