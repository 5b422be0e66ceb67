/**
 * The transactional outbox: publishing writes rows in the caller's transaction, and a relay (`OutboxRelay`) sends the committed
 * rows.
 *
 * A rollback publishes nothing; committed rows are published at least once, each key in the order of its commits.
 */
import { Broker, type BrokerError, type Channel, OptionCheck, Publisher } from "@millrace/core"
import { PgClient } from "@effect/sql-pg"
import { Context, Duration, Effect, Layer, Option } from "effect"
import type { SqlClient } from "effect/sql"
import { OutboxError } from "./internal/outbox/error.ts"
import * as RowPublisher from "./internal/outbox/publisher.ts"
import * as Tables from "./internal/outbox/tables.ts"
import * as Watching from "./internal/outbox/watch.ts"

export { OutboxError } from "./internal/outbox/error.ts"
export type { Lag, Parked, Watch } from "./internal/outbox/watch.ts"

/** Selects an outbox: its table, and the broker of its messages. */
export interface Options<On = Broker.Broker> {
  /**
   * The table, created if missing: small letters, digits and `_`, optionally with a schema before a dot; the schema
   * must exist. Default: `millrace_outbox`.
   */
  readonly table?: string | undefined
  /** The broker of the messages: each broker of a program has its own part of the table. Default: `Broker`. */
  readonly broker?: Broker.Key<On> | undefined
  /**
   * The longest that one statement may take; from 1 ms. A statement waits for other transactions that publish to the same key,
   * and, outside of a transaction, for a connection. Default: 5 seconds.
   */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of the options. */
export const defaults: { readonly table: string; readonly timeout: Duration.Duration } = {
  table: "millrace_outbox",
  timeout: Duration.seconds(5)
}

declare const broker: unique symbol

/** The outbox of a broker, as a type: a publisher through the outbox needs its `layer`. */
export interface To<in out On> {
  readonly [broker]: (_: On) => On
}

/** The service of a broker's outbox: a broker that supports publishing only. */
export const to = <On = Broker.Broker>(
  // without the argument, On is the default's type
  key: Broker.Key<On> = Broker.Broker as unknown as Broker.Key<On>
): Context.Service<To<On>, Broker.Broker["Service"]> =>
  Context.Service<To<On>, Broker.Broker["Service"]>(`@millrace/sql/Outbox/${key.key}`)

/**
 * Wraps a channel in the outbox: publishing to it writes a row, and the relay publishes the row to the channel.
 *
 * Use it like any channel to publish to: `Publisher.make`, `Publish.middleware`, `Publish.route`. Publish middlewares
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
export const on = <P, Name extends string, On, R>(
  channel: Channel.Channel<P, Name, On, R>
): Channel.Channel<P, Name, To<Broker.Of<On>>, R> => Broker.on(to(Broker.keyOf(channel)), channel)

/**
 * Makes a publisher whose messages become rows of the outbox, in the caller's transaction or in a separate one.
 *
 * Typed payloads, keys, headers and addresses are as in `Publisher.make`. `publish` and `publishAll` complete when the rows are
 * written; the relay publishes the rows after the commit. Each message gets a `message-id` header, unless it has
 * one: copies that the relay sends have the same id, for an `Inbox`.
 *
 * Fails with `EncodeError`, and with a `BrokerError` of system `outbox` if the row is not written; then the transaction should
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
export const publisher = <P, Name extends string, On, R>(
  channel: Channel.Channel<P, Name, On, R>
): Publisher.Publisher<P, Publisher.EncodeError | BrokerError.BrokerError, To<Broker.Of<On>> | R, Name> =>
  Publisher.make(on(channel))

const check = OptionCheck.make("Outbox")

const keyOf = <On>(options: Options<On>): Broker.Key<On> =>
  // without the option, On is the default's type
  options.broker ?? (Broker.Broker as unknown as Broker.Key<On>)

const open = <On>({ table, timeout }: Options<On>) =>
  Tables.open(
    "outbox",
    table ?? defaults.table,
    check.millis("timeout", timeout ?? defaults.timeout, { most: OptionCheck.longestTimer }),
    (told) => new OutboxError(told)
  )

/**
 * Provides the outbox of a program: creates its tables if missing, and writes messages of `publisher` and `on` as rows.
 *
 * Provides `To` of the broker and needs the `SqlClient`, PostgreSQL's or SQLite's; it must be the client whose transactions the
 * program uses. Fails with an `OutboxError` if the tables are missing and cannot be created.
 *
 * @throws RangeError when the table's name is none
 * @category layers
 */
export const layer = <On = Broker.Broker>(
  options: Options<On> = {}
): Layer.Layer<To<On>, OutboxError, SqlClient.SqlClient> => {
  Tables.check("Outbox.layer", options.table ?? defaults.table)
  check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  return Layer.effect(
    to(keyOf(options)),
    Effect.flatMap(open(options), (table) => RowPublisher.make(table, keyOf(options).key))
  )
}

/**
 * Creates or updates the tables, for a deployment whose programs may not create tables. A layer does the same, and
 * only reads if the tables are up to date.
 *
 * Fails with an `OutboxError`, also if the schema is newer than the program.
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

/**
 * Opens an outbox to inspect it, in a program that publishes, relays, or neither.
 *
 * **Example** (retry rows that were parked because a channel was missing)
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
): Effect.Effect<Watching.Watch, OutboxError, SqlClient.SqlClient> => {
  Tables.check("Outbox.watch", options.table ?? defaults.table)
  const opened = Effect.all([open(options), Effect.serviceOption(PgClient.PgClient)])
  return Effect.map(
    opened,
    ([table, client]) => Watching.make(table, keyOf(options).key, Option.getOrUndefined(client)?.config.maxMessageSize)
  )
}
