/**
 * Shares rate limits between processes in PostgreSQL. One function call decides all policies of a message, by the server's
 * clock.
 */
import { OptionCheck, RateLimit } from "@millrace/core"
import { Clock, Duration, Effect, Layer, Random, type Scope } from "effect"
import { SqlClient } from "effect/sql"
import * as Migrate from "./internal/database/migrate.ts"
import * as Statements from "./internal/database/statements.ts"
import { checkTable, nameOf } from "./internal/database/table.ts"
import * as Address from "./internal/postgres/address.ts"
import * as Connection from "./internal/postgres/connection.ts"
import * as Errors from "./internal/postgres/errors.ts"
import { functions } from "./internal/ratelimit/functions.ts"
import { identityOf, leases, most, places, pruning } from "./internal/ratelimit/identity.ts"

/** Options of `layerClient`. */
export interface ClientOptions {
  /**
   * The table, created if missing, with functions whose names begin with its name: small letters, digits and `_`, optionally
   * with a schema before a dot; the schema must exist. Default: `millrace_rate`.
   */
  readonly table?: string | undefined
  /** How often the store removes rows of keys whose whole limit is available again; from 10 ms. Default: 10 seconds. */
  readonly pruneEvery?: Duration.Input | undefined
  /**
   * The longest that a call may take, including the wait for a connection, before it fails with `RateLimitUnavailable`; from 1
   * ms. Default: 1 second.
   */
  readonly timeout?: Duration.Input | undefined
  /**
   * The clock that counts. `server`: that of PostgreSQL, the same for all processes. `process`: Effect's in this process, for
   * tests with a clock of their own. Default: `server`.
   */
  readonly clock?: "process" | "server" | undefined
}

/** Options of `layer`. */
export interface Options extends ClientOptions, Connection.Options {}

/** The defaults of the layers' options. */
export const defaults: {
  readonly table: string
  readonly pruneEvery: Duration.Duration
  readonly timeout: Duration.Duration
  readonly maximumConnections: number
  readonly connectTimeout: Duration.Duration
} = {
  table: "millrace_rate",
  pruneEvery: Duration.seconds(10),
  timeout: Duration.seconds(1),
  ...Connection.defaults
}

type Store = RateLimit.Store["Service"]
type Failed = RateLimit.RateLimitUnavailable

const module = "RateLimitPostgres"
const check = OptionCheck.make(module)

const unavailable = (server: Errors.Server) => (error: Migrate.Failed) =>
  new RateLimit.RateLimitUnavailable({ message: `${module}: ${Errors.read(server, error).message}`, cause: error })

/** The steps of the schema, oldest first. */
const schema = (table: string): Migrate.Schema => ({
  table,
  steps: [
    (sql) =>
      Effect.forEach(functions(table, nameOf(table)), (statement) => sql.unsafe(statement), {
        discard: true
      })
  ]
})

/**
 * Creates or updates the table and its functions, for a deployment whose programs may not create tables. A layer
 * does the same, and only reads if they are up to date.
 *
 * Fails with `RateLimitUnavailable`, also if the schema is newer than the program.
 *
 * @throws RangeError when the table's name is none
 */
export const migrate = (
  options: Pick<ClientOptions, "table"> = {}
): Effect.Effect<void, RateLimit.RateLimitUnavailable, SqlClient.SqlClient> =>
  Effect.mapError(Migrate.run(schema(checkTable(module, options.table ?? defaults.table))), unavailable(Errors.theirs))

const text = (charges: ReadonlyArray<RateLimit.Charge>): string =>
  JSON.stringify(charges.map((charge) => {
    const { cost, policy } = charge
    const { interval, scale } = RateLimit.ticks(policy)
    return [identityOf(charge), policy.algorithm, policy.limit, policy.window, policy.burst, scale, interval, cost]
  }))

/** Milliseconds that a removal of old rows may take. */
const pruneLimit = 30_000

const never = (millis: number): number => millis < 0 ? Infinity : millis

const decisionOf = (reply: ReadonlyArray<number>, lease: number): RateLimit.Decision => {
  const verdicts: Array<RateLimit.Verdict> = []
  for (let i = 4; i < reply.length; i += 3) {
    verdicts.push({ wait: never(reply[i]!), remaining: reply[i + 1]!, reset: reply[i + 2]! })
  }
  return {
    isAdmitted: reply[0] === 1,
    wait: never(reply[1]!),
    at: reply[2]!,
    lease: reply[3] === 1 ? lease : 0,
    verdicts
  }
}

const make = (
  options: ClientOptions,
  server: Errors.Server
): Effect.Effect<Store, Failed, SqlClient.SqlClient | Scope.Scope> => {
  const table = checkTable(module, options.table ?? defaults.table)
  const every = check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 10 })
  const timeout = check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
  return Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const clock = yield* Clock.Clock
    const failed = unavailable(server)
    yield* Effect.mapError(Migrate.run(schema(table)), failed)
    const statements = yield* Effect.mapError(Statements.make(sql, timeout), failed)
    const lease = leases(yield* Random.nextIntBetween(0, 2 ** 32))
    const time = () => options.clock === "process" ? clock.currentTimeMillisUnsafe() : null
    const ask = (statement: string, values: ReadonlyArray<unknown>, limit?: number) =>
      Effect.map(
        Effect.mapError(statements.ask<{ readonly answer: string }>(statement, values, limit), failed),
        // a function returns one row, with JSON as text
        ([row]): unknown => JSON.parse(row!.answer)
      )
    const taking =
      `SELECT array_to_json(${table}_take($1::float8::bigint, $2::float8::bigint, $3::float8::bigint, $4::text::jsonb))::text AS answer`
    const holding =
      `SELECT to_json(${table}_hold($1::float8::bigint, $2::float8::bigint, $3::text::boolean, $4::text::jsonb))::text AS answer`
    const hold = (charges: ReadonlyArray<RateLimit.Charge>, lease: number, keeps: string) =>
      Effect.suspend(() => ask(holding, [time(), lease, keeps, text(places(charges))]))

    yield* pruning(
      every,
      Effect.suspend(() =>
        Effect.map(
          ask(
            // the statement's time is the same for all rows, so the index finds them; PostgreSQL checks a row
            // that a call has changed meanwhile again after locking it
            `WITH gone AS (DELETE FROM ${table} WHERE id IN (SELECT id FROM ${table} WHERE ends_at <= `
              + "coalesce($1::float8, floor(extract(epoch FROM statement_timestamp()) * 1000))::bigint "
              + "ORDER BY ends_at LIMIT $2::float8::bigint FOR UPDATE SKIP LOCKED) RETURNING 1) "
              + "SELECT count(*)::text AS answer FROM gone",
            [time(), most],
            pruneLimit
          ),
          Number
        )
      )
    )
    return {
      take: (charges, within) =>
        Effect.suspend(() => {
          const own = lease()
          return Effect.map(
            ask(taking, [time(), Math.floor(within), own, text(charges)]),
            // the function returns bigints below 2^53
            (reply) => decisionOf(reply as ReadonlyArray<number>, own)
          )
        }),
      renew: (charges, lease) => Effect.map(hold(charges, lease, "true"), (isHeld) => isHeld === true),
      release: (charges, lease) => Effect.asVoid(hold(charges, lease, "false"))
    }
  })
}

/**
 * Provides a store in the database of the program's own `SqlClient`, which must be PostgreSQL's.
 *
 * As `layer`; provides `RateLimit.Store` and needs the `SqlClient`. A call never runs in a transaction that its caller has open:
 * it takes another connection of the client, and commits separately.
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layerClient = (
  options: ClientOptions = {}
): Layer.Layer<RateLimit.Store, RateLimit.RateLimitUnavailable, SqlClient.SqlClient> =>
  Layer.effect(RateLimit.Store, make(options, Errors.theirs))

/**
 * Provides a store in a PostgreSQL database, with connections of its own.
 *
 * Provides `RateLimit.Store`; fails with `RateLimitUnavailable`, whose message names the cause and the remedy. A call is one
 * statement, decided under locks of its keys. A server that crashes may lose the last second of counts. While the server is
 * unreachable, or hangs for longer than `timeout`, each call fails with `RateLimitUnavailable`, and the client reconnects on
 * its own.
 *
 * **Example** (limits beside the orders)
 *
 * ```ts
 * import { RateLimitPostgres } from "@millrace/sql"
 * import { Redacted } from "effect"
 *
 * const store = RateLimitPostgres.layer({ url: Redacted.make("postgres://orders:secret@localhost:5432/orders") })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<RateLimit.Store, RateLimit.RateLimitUnavailable> =>
  Connection.own(RateLimit.Store, options, {
    module,
    applicationName: "millrace-rate-limit",
    make: (server) => make(options, server),
    invalid: () => new RateLimit.RateLimitUnavailable({ message: `${module}: ${Address.needed}` }),
    told: unavailable
  })
