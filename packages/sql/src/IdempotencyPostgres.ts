/**
 * Stores idempotency keys in PostgreSQL, for many machines: one table, one group of operations at a time. A second kind of store
 * commits completions together with the handler's writes.
 */
import { Idempotency, OptionCheck } from "@millrace/core"
import { Config, Duration, Effect, Layer, Random, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import { limitedEnds } from "./internal/database/limited.ts"
import * as Migrate from "./internal/database/migrate.ts"
import * as Pruning from "./internal/database/pruning.ts"
import * as Statements from "./internal/database/statements.ts"
import { checkTable } from "./internal/database/table.ts"
import * as Table from "./internal/idempotency/postgres.ts"
import * as Shared from "./internal/idempotency/shared.ts"
import { typed } from "./internal/outbox/failure.ts"
import * as Address from "./internal/postgres/address.ts"
import * as Connection from "./internal/postgres/connection.ts"
import * as Errors from "./internal/postgres/errors.ts"
import { retry } from "./internal/postgres/retry.ts"

/** Options of every layer of this module. */
export interface TableOptions {
  /**
   * The table, created if missing: small letters, digits and `_`, optionally with a schema before a dot; the schema
   * must exist. The names of a sequence, a function and a table of versions begin with its name. Default:
   * `millrace_idempotency`.
   */
  readonly table?: string | undefined
  /** The most operations of one statement; an integer from 1. Default: 1024. */
  readonly maximumGroup?: number | undefined
  /**
   * How long the store retries a group while the server is unreachable or busy, before its messages are retried; from 0.
   * A retry does nothing twice. Default: 5 seconds.
   */
  readonly patience?: Duration.Input | undefined
  /** The longest that one call may take, including the wait for a connection; from 1 ms. Default: 1 second. */
  readonly timeout?: Duration.Input | undefined
  /** How often expired rows are removed; from 10 ms. Default: 10 seconds. */
  readonly pruneEvery?: Duration.Input | undefined
}

/** Options of `layerClient`. */
export interface ClientOptions extends TableOptions {
  /**
   * `own`: the store keeps an answer in its own transaction, after the handler has succeeded. `handler`: the handler runs in a
   * transaction that also stores the answer, so the handler's writes by the same `SqlClient` and the completion commit together
   * or not at all. This takes one of the client's connections for as long as the handler runs. Default: `own`.
   */
  readonly transaction?: "own" | "handler" | undefined
}

/** Options of `layer`. */
export interface Options extends TableOptions, Connection.Options {}

/** The defaults of the layers' options. */
export const defaults: {
  readonly table: string
  readonly maximumGroup: number
  readonly patience: Duration.Duration
  readonly timeout: Duration.Duration
  readonly pruneEvery: Duration.Duration
  readonly transaction: "own"
  readonly maximumConnections: number
  readonly connectTimeout: Duration.Duration
} = {
  table: "millrace_idempotency",
  maximumGroup: 1024,
  patience: Duration.seconds(5),
  timeout: Duration.seconds(1),
  pruneEvery: Duration.seconds(10),
  transaction: "own",
  ...Connection.defaults
}

const module = "IdempotencyPostgres"
const check = OptionCheck.make(module)

type Store = Idempotency.Store["Service"]

/** Wraps a handler's error, to tell it apart from an error of its transaction. */
class OfHandler<E> {
  readonly error: E
  constructor(error: E) {
    this.error = error
  }
}

const unavailable = (server: Errors.Server) => (error: Migrate.Failed) =>
  new Idempotency.IdempotencyUnavailable({ message: Errors.read(server, error).message, cause: error })

/**
 * Creates or updates the table, its sequence and its function, for a deployment whose programs may not create
 * tables. A layer does the same, and only reads if they are up to date.
 *
 * Fails with `IdempotencyUnavailable`, also if the schema is newer than the program.
 *
 * @throws RangeError when the table's name is none
 */
export const migrate = (
  options: Pick<TableOptions, "table"> = {}
): Effect.Effect<void, Idempotency.IdempotencyUnavailable, SqlClient.SqlClient> =>
  Effect.mapError(
    Migrate.run(Table.schema(checkTable(module, options.table ?? defaults.table))),
    unavailable(Errors.theirs)
  )

const make = (
  options: ClientOptions,
  server: Errors.Server
): Effect.Effect<Store, Idempotency.IdempotencyUnavailable, SqlClient.SqlClient | Scope.Scope> => {
  const table = checkTable(module, options.table ?? defaults.table)
  const maximum = check.count("maximumGroup", options.maximumGroup ?? defaults.maximumGroup)
  const patience = check.millis("patience", options.patience ?? defaults.patience, { least: 0 })
  const every = check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 10 })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  const statement = Table.statement(table)
  const retried = retry(server, patience, (error: Migrate.Failed) => Errors.read(server, error).reason)

  return Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const failed = unavailable(server)
    yield* Effect.mapError(Migrate.run(Table.schema(table)), failed)
    const statements = yield* Effect.mapError(Statements.make(sql, timeout), failed)
    const asked = (
      run: typeof statements.inside,
      operations: ReadonlyArray<Idempotency.Operation>,
      owners: ReadonlyArray<string>
    ) =>
      Effect.map(
        run<Table.Row>(statement, Table.parameters(operations, owners)),
        (rows) => Table.answer(operations, rows)
      )
    // retries a claim whose answer was lost; the statement recognises the claim by its name
    const random = Effect.map(Random.nextIntBetween(0, 36 ** 8 - 1), (number) => number.toString(36).padStart(8, "0"))
    const writer = (yield* random) + (yield* random)
    let claims = 0
    yield* Pruning.pruning("Idempotency", every, Pruning.removed(statements, Table.prune(table)))
    const store = yield* Idempotency.grouped({
      maximum,
      write: (operations) =>
        Effect.suspend(() => {
          const owners = operations.map(({ kind }) => kind === "claim" ? `${writer}${(claims++).toString(36)}` : "")
          return Effect.suspend(() => asked(statements.ask, operations, owners)).pipe(
            retried,
            Effect.mapError(failed)
          )
        })
    })
    if (options.transaction !== "handler") return store
    const ends = Math.max(patience, timeout)
    return Idempotency.Store.of({
      ...store,
      complete: (key, token, result, keep) =>
        Effect.flatMap(Effect.serviceOption(sql.transactionService), (transaction) => {
          if (transaction._tag === "None") return store.complete(key, token, result, keep)
          const operation = new Idempotency.Operation("complete", key, "", token, Math.ceil(keep), result)
          // on the connection of this fiber's transaction
          return Effect.mapBoth(asked(statements.inside, [operation], [""]), {
            onSuccess: () => operation.found === true,
            onFailure: failed
          })
        }),
      transaction: (run) =>
        Effect.catch(
          limitedEnds(
            Effect.mapError(run, (error) => new OfHandler(error)),
            (effect) => typed(sql.withTransaction(effect)),
            ends,
            (step) => Statements.noAnswer(ends, step, Statements.lateEnds[step])
          ),
          (error) => Effect.fail(error instanceof OfHandler ? error.error : failed(error))
        )
    })
  })
}

/**
 * Provides a store in the database of the program's own `SqlClient`, which must be PostgreSQL's.
 *
 * As `layer`; provides `Idempotency.Store` and needs the `SqlClient`. With `transaction: "handler"` each key has its effect
 * exactly once: the handler runs in a transaction of that client, and its writes commit together with its answer. They are
 * rolled back if the handler fails, is interrupted, or answers that the message is to be retried, if its claim has ended,
 * or if the process dies. Effects outside this transaction are not rolled back.
 *
 * **Example** (an order and its answer, both or neither)
 *
 * ```ts no-run
 * import { PgClient } from "@effect/sql-pg"
 * import { Idempotency, type Message } from "@millrace/core"
 * import { IdempotencyPostgres } from "@millrace/sql"
 * import { Effect, Layer, pipe, Redacted } from "effect"
 * import { SqlClient } from "effect/sql"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) =>
 *     Effect.asVoid(
 *       Effect.flatMap(SqlClient.SqlClient, (sql) => sql`INSERT INTO orders (body) VALUES (${message.payload})`)
 *     ),
 *   Idempotency.middleware()
 * )
 *
 * const database = PgClient.layer({ url: Redacted.make("postgres://orders:secret@localhost:5432/orders") })
 * const store = IdempotencyPostgres.layerClient({ transaction: "handler" }).pipe(Layer.provideMerge(database))
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerClient = (
  options: ClientOptions = {}
): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable, SqlClient.SqlClient> => {
  const { transaction } = options
  if (transaction !== undefined) check.oneOf("transaction", transaction, ["own", "handler"])
  return Layer.effect(Idempotency.Store, make(options, Errors.theirs))
}

/**
 * Provides a store in a PostgreSQL database, with connections of its own.
 *
 * Provides `Idempotency.Store`; fails with an `IdempotencyUnavailable` whose message tells why the database does not open.
 * Operations of one turn, or those that arrive during a statement, share one statement and one commit. They are as durable as
 * the server's `synchronous_commit` makes them. The server's clock counts; clients' clocks do not matter.
 *
 * While the server is unreachable, busy, or hangs for longer than `timeout`, the store retries a group for `patience`, and then
 * fails its operations. A retry finds a claim whose answer was lost, and a result is stored once. Closing the layer finishes
 * pending operations first.
 *
 * **Example** (the address from a secret variable)
 *
 * ```ts
 * import { IdempotencyPostgres } from "@millrace/sql"
 * import { Redacted } from "effect"
 *
 * const store = IdempotencyPostgres.layer({ url: Redacted.make("postgres://billing:secret@localhost:5432/billing") })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable> =>
  Connection.own(Idempotency.Store, options, {
    module,
    applicationName: "millrace-idempotency",
    make: (server) => make(options, server),
    invalid: () => new Idempotency.IdempotencyUnavailable({ message: Address.needed }),
    told: unavailable
  })

const environment = (options: Partial<Options>): Config.Config<Options> =>
  Config.all({
    url: options.url === undefined ? Config.Redacted("IDEMPOTENCY_POSTGRES_URL") : Config.succeed(options.url),
    table: Config.withDefault(Config.NonEmptyString("IDEMPOTENCY_POSTGRES_TABLE"), defaults.table),
    maximumGroup: Config.withDefault(Config.Int("IDEMPOTENCY_POSTGRES_MAXIMUM_GROUP"), defaults.maximumGroup),
    patience: Config.withDefault(Config.Duration("IDEMPOTENCY_POSTGRES_PATIENCE"), defaults.patience),
    pruneEvery: Config.withDefault(Config.Duration("IDEMPOTENCY_POSTGRES_PRUNE_EVERY"), defaults.pruneEvery)
  })

/**
 * Builds `layer` with options from the environment: `IDEMPOTENCY_POSTGRES_URL` (needed), `IDEMPOTENCY_POSTGRES_TABLE`,
 * `IDEMPOTENCY_POSTGRES_MAXIMUM_GROUP`, `IDEMPOTENCY_POSTGRES_PATIENCE` and `IDEMPOTENCY_POSTGRES_PRUNE_EVERY` (as `5 seconds`).
 * `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, with an `IdempotencyUnavailable` if a value is out of range, or as
 * `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Partial<Options> = {}
): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable | Config.ConfigError> =>
  Layer.unwrap(Effect.flatMap(environment(options), (found) => Shared.built(() => layer({ ...found, ...options }))))
