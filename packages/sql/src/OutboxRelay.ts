/**
 * The relay of an outbox: reads committed rows, publishes them by the program's broker, and marks them done after the broker has
 * confirmed them.
 */
import { Broker, type BrokerError, Detached, Failure, OptionCheck } from "@millrace/core"
import { PgClient } from "@effect/sql-pg"
import { Clock, Context, Duration, Effect, Fiber, Layer, Option } from "effect"
import { SqlClient, SqlError } from "effect/sql"
import { outside } from "./internal/database/statements.ts"
import { identity } from "./internal/outbox/identity.ts"
import * as Claims from "./internal/outbox/claims.ts"
import { noticesOf } from "./internal/outbox/dialect.ts"
import { OutboxError } from "./internal/outbox/error.ts"
import { told } from "./internal/outbox/failure.ts"
import * as Loop from "./internal/outbox/relay.ts"
import * as Tables from "./internal/outbox/tables.ts"
import * as Wakes from "./internal/outbox/wakes.ts"
import { listening } from "./internal/postgres/listening.ts"
import * as Outbox from "./Outbox.ts"

/** Options of `layer`. */
export interface Options<On = Broker.Broker> extends Outbox.Options<On> {
  /** The most rows that are read, sent and marked together; an integer from 1. Default: 256. */
  readonly batch?: number | undefined
  /** The most bytes of a batch, though at least one row is read; an integer from 1. Default: 8 MiB. */
  readonly maximumBytes?: number | undefined
  /**
   * The most rows of one key that the relay hands to the broker together; an integer from 1. 1 keeps the order of a key despite
   * any failure. More is faster for keys with many rows, and as safe if the broker never confirms a row after refusing an
   * earlier one, as Kafka does. Default: 1.
   */
  readonly perKey?: number | undefined
  /**
   * How long a relay without a heartbeat keeps its share; from 1 second. Three heartbeats fit into it.
   * Default: 15 seconds.
   */
  readonly lease?: Duration.Input | undefined
  /** How long the relay waits before it looks for rows again if nothing wakes it; from 10 ms. Default: 500 ms. */
  readonly poll?: Duration.Input | undefined
  /** How many attempts a row gets that its broker refuses permanently, before it is parked; an integer from 1. Default: 8. */
  readonly attempts?: number | undefined
  /** The backoff of a failed row and its key, doubled with each attempt; from 1 ms. Default: 1 second. */
  readonly retryBase?: Duration.Input | undefined
  /** The longest backoff. Default: 1 minute. */
  readonly retryCap?: Duration.Input | undefined
  /** How long done rows are kept; 0 deletes them at once. Default: 1 day. */
  readonly keep?: Duration.Input | undefined
  /** How often older done rows are deleted; from 1 second. Default: 1 minute. */
  readonly pruneEvery?: Duration.Input | undefined
  /** How long closing the layer waits for rows in flight. Default: 10 seconds. */
  readonly grace?: Duration.Input | undefined
  /** The longest that one statement may take, including the wait for a connection; from 1 ms. Default: 10 seconds. */
  readonly timeout?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults = {
  table: Outbox.defaults.table,
  batch: 256,
  maximumBytes: 8 * 1024 * 1024,
  perKey: 1,
  lease: Duration.seconds(15),
  poll: Duration.millis(500),
  attempts: 8,
  retryBase: Duration.seconds(1),
  retryCap: Duration.minutes(1),
  keep: Duration.days(1),
  pruneEvery: Duration.minutes(1),
  grace: Duration.seconds(10),
  timeout: Duration.seconds(10)
} as const satisfies Options

/** The state of a relay. */
export interface Health {
  /** `waiting`: the database or the broker failed, and the relay retries; `lastError` names the error. */
  readonly state: "starting" | "idle" | "sending" | "waiting" | "stopped"
  /** The number of the outbox's 64 shards that this relay owns. */
  readonly shards: number
  /** Rows in flight. */
  readonly inFlight: number
  /** Rows published since the relay started. */
  readonly published: number
  /** Failed attempts of rows since the relay started. */
  readonly failed: number
  /** Rows parked since the relay started. */
  readonly parked: number
  /** Unix time in milliseconds of the last confirmed row. */
  readonly lastPublished: number | undefined
  /** The last error; undefined once the relay has recovered. */
  readonly lastError: OutboxError | BrokerError.BrokerError | undefined
}

/** A running relay. */
class OutboxRelay extends Context.Service<OutboxRelay, {
  readonly health: Effect.Effect<Health>
  /** The lag of the whole outbox, across all relays. */
  readonly lag: Effect.Effect<Outbox.Lag, OutboxError>
}>()("@millrace/sql/OutboxRelay") {}

export { OutboxRelay as Relay }

const check = OptionCheck.make("OutboxRelay")

const settled = <On>(options: Options<On>) => ({
  table: Tables.check("OutboxRelay", options.table ?? defaults.table),
  batch: check.count("batch", options.batch ?? defaults.batch),
  bytes: check.count("maximumBytes", options.maximumBytes ?? defaults.maximumBytes),
  perKey: check.count("perKey", options.perKey ?? defaults.perKey),
  lease: check.millis("lease", options.lease ?? defaults.lease, { least: 1000 }),
  poll: check.millis("poll", options.poll ?? defaults.poll, { least: 10 }),
  attempts: check.count("attempts", options.attempts ?? defaults.attempts),
  base: check.millis("retryBase", options.retryBase ?? defaults.retryBase),
  cap: check.millis("retryCap", options.retryCap ?? defaults.retryCap),
  keep: check.millis("keep", options.keep ?? defaults.keep, { least: 0 }),
  pruneEvery: check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 1000 }),
  grace: check.millis("grace", options.grace ?? defaults.grace, { least: 0 }),
  timeout: check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer })
})

const relay = <On>(options: Options<On>, settings: ReturnType<typeof settled>) =>
  Effect.gen(function*() {
    // without the option, On is the default's type
    const key = options.broker ?? (Broker.Broker as unknown as Broker.Key<On>)
    const broker = yield* key
    const clock = yield* Clock.Clock
    const watch = yield* Outbox.watch(options)
    const table = yield* Tables.open("outbox", settings.table, settings.timeout, (told) => new OutboxError(told))
    const client = yield* Effect.serviceOption(PgClient.PgClient)
    const owner = yield* identity
    const claims = Claims.make(table, {
      ...settings,
      broker: key.key,
      owner,
      answer: Option.getOrUndefined(client)?.config.maxMessageSize
    })
    const loop = Loop.make({ settings, claims, broker, rules: { ...settings, limit: settings.lease }, clock })
    const { flight, shown } = loop

    const prune = Effect.suspend(() => claims.prune).pipe(
      Effect.repeat({ while: (deleted) => deleted === Claims.pruned }),
      Effect.ignoreCause,
      Effect.delay(settings.pruneEvery),
      Effect.forever
    )

    const listen = Option.match(client, {
      onNone: () => Effect.void,
      onSome: (pg) =>
        listening({
          pg,
          channel: noticesOf(table.name),
          name: `OutboxRelay ${table.name}`,
          news: "new rows",
          instead: "the relay looks for rows by poll alone",
          ask: table.ask("SELECT 1"),
          onNotice: loop.wake
        })
    })

    yield* claims.join
    yield* Effect.acquireRelease(
      Effect.sync(() => Wakes.add(table.sql, loop.wake)),
      (remove) => Effect.sync(remove)
    )
    for (const each of [loop.beat, prune, listen]) yield* Effect.forkScoped(Detached.effect(each))
    const running = yield* Effect.forkScoped(Detached.effect(loop.run((defect) =>
      new OutboxError({
        message: `The relay of ${settings.table} has a defect: ${Failure.messageOf(defect) || Failure.tagOf(defect)}`,
        failure: "defect",
        cause: defect
      })
    )))
    yield* Effect.addFinalizer(() =>
      Effect.gen(function*() {
        loop.stop()
        const ended = yield* Effect.timeoutOption(Fiber.await(running), settings.grace)
        // rows still in flight keep their claim until it expires
        if (Option.isSome(ended)) yield* Effect.ignore(Effect.timeoutOption(loop.leave, "2 seconds"))
        shown.state = "stopped"
      })
    )
    return OutboxRelay.of({
      health: Effect.sync(() => ({
        state: shown.state,
        shards: shown.held.size,
        inFlight: flight.size,
        published: shown.published,
        failed: shown.failed,
        parked: shown.parked,
        lastPublished: shown.lastPublished,
        lastError: shown.lastError
      })),
      lag: watch.lag
    })
  })

/**
 * Runs a relay for as long as the layer lives.
 *
 * Provides `Relay`, its health; needs the `SqlClient` and the `Broker`, or the broker given. Fails with an `OutboxError` if the
 * tables are missing and cannot be created. Any number of processes may run a relay: the outbox has 64 shards, by key, each
 * shard belongs to one relay for a lease, and the relays share them evenly. A row is marked done after the broker has confirmed
 * it, so it is published at least once. It is published again only if the relay dies, or cannot reach the database for a lease,
 * in between; at most the batch in flight.
 *
 * The relay retries without limit while the broker is unreachable or refuses the credentials; this counts as no attempt of a
 * row. A row that fails alone waits, and later rows of its key wait behind it; other keys go on. Failures that may pass are
 * retried without limit; a permanent failure (`NotFound`, `TooLarge`, `Invalid` …) parks the row with its error after
 * `attempts`, and its key goes on: see `Outbox.watch`.
 *
 * The relay is woken by commits of its own program, by PostgreSQL's NOTIFY if a `PgClient` is provided (which keeps one
 * connection), and by `poll`. Closing the layer finishes rows in flight, up to `grace`, and releases the relay's shards.
 *
 * Source: the transactional outbox by C. Richardson, https://microservices.io/patterns/data/transactional-outbox.html
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = <On = Broker.Broker>(
  options: Options<On> = {}
): Layer.Layer<OutboxRelay, OutboxError, SqlClient.SqlClient | On> => {
  const settings = settled(options)
  return Layer.effect(
    OutboxRelay,
    Effect.flatMap(SqlClient.SqlClient, (sql) =>
      // a relay's fibers outlive a transaction in which its layer may be built
      Effect.mapError(outside(sql)(relay(options, settings)), (error) =>
        SqlError.isSqlError(error) ? new OutboxError(told(`Outbox ${settings.table}`, error)) : error))
  )
}
