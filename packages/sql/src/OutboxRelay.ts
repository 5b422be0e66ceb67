/**
 * The relay of an outbox: reads what was committed, publishes it by the program's broker, and marks it done once that has
 * confirmed it.
 */
import { Broker, type BrokerError, Detached, Failure, OptionCheck } from "@millrace/core"
import { PgClient } from "@effect/sql-pg"
import {
  Clock,
  Context,
  Duration,
  Effect,
  Fiber,
  Latch,
  Layer,
  Option,
  Queue,
  Random,
  Schedule,
  Semaphore
} from "effect"
import type { SqlClient } from "effect/sql"
import * as Claims from "./outbox/claims.ts"
import { OutboxError } from "./outbox/error.ts"
import * as Send from "./outbox/send.ts"
import * as Tables from "./outbox/tables.ts"
import * as Wakes from "./outbox/wakes.ts"
import * as Outbox from "./Outbox.ts"

/** Options of `layer`. */
export interface Options<On = Broker.Broker> extends Outbox.Options<On> {
  /** The most rows that are read, sent and marked together; an integer from 1. Default: 256. */
  readonly batch?: number | undefined
  /** The most bytes of them, though one row is always read; an integer from 1. Default: 8 MiB. */
  readonly maximumBytes?: number | undefined
  /**
   * The most rows of one key that are handed to the broker together; an integer from 1. 1 keeps the order of a key whatever
   * fails. More is faster for keys that have many rows, and as safe where the broker confirms none of them before one that it
   * refuses, as Kafka does. Default: 1.
   */
  readonly perKey?: number | undefined
  /**
   * How long a relay that gives no sign of life keeps its share from the others; from 1 second. Three signs fit into it.
   * Default: 15 seconds.
   */
  readonly lease?: Duration.Input | undefined
  /** How long it waits before it looks again where nothing wakes it; from 10 ms. Default: 500 ms. */
  readonly poll?: Duration.Input | undefined
  /** How often a row is tried that its broker refuses for good, before it is parked; an integer from 1. Default: 8. */
  readonly attempts?: number | undefined
  /** How long a row that failed waits, doubled with each attempt, and its key with it; from 1 ms. Default: 1 second. */
  readonly retryBase?: Duration.Input | undefined
  /** The longest of these waits. Default: 1 minute. */
  readonly retryCap?: Duration.Input | undefined
  /** How long rows that are done are kept; 0 deletes them at once. Default: 1 day. */
  readonly keep?: Duration.Input | undefined
  /** How often rows that are older are deleted; from 1 second. Default: 1 minute. */
  readonly pruneEvery?: Duration.Input | undefined
  /** How long closing the layer waits for what is being sent. Default: 10 seconds. */
  readonly grace?: Duration.Input | undefined
}

/** What `layer` does where an option is not given. */
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
  grace: Duration.seconds(10)
} as const satisfies Options

/** How a relay is. */
export interface Health {
  /** `waiting`: the database or the broker failed, and it tries again; `lastError` says which. */
  readonly state: "starting" | "idle" | "sending" | "waiting" | "stopped"
  /** The parts of the outbox that are this relay's, of 64. */
  readonly shards: number
  /** Rows in its hands. */
  readonly inFlight: number
  /** Rows that it has published, since it began. */
  readonly published: number
  /** Failed attempts of rows, since it began. */
  readonly failed: number
  /** Rows that it has given up, since it began. */
  readonly parked: number
  /** Unix time in milliseconds of its last confirmed row. */
  readonly lastPublished: number | undefined
  /** What failed last; undefined again once all is well. */
  readonly lastError: OutboxError | BrokerError.BrokerError | undefined
}

/** A relay that runs. */
class OutboxRelay extends Context.Service<OutboxRelay, {
  readonly health: Effect.Effect<Health>
  /** How far the whole outbox is behind, whoever relays it. */
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
  grace: check.millis("grace", options.grace ?? defaults.grace, { least: 0 })
})

// waits of 100 ms, doubling to 5 seconds
const patience = Schedule.exponential("100 millis").pipe(
  Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(5))))
)

const words = Effect.map(Random.nextIntBetween(0, 0xffff_ffff), (number) => number.toString(16).padStart(8, "0"))

const relay = <On>(options: Options<On>, settings: ReturnType<typeof settled>) =>
  Effect.gen(function*() {
    // without the option On is the default's type
    const key = options.broker ?? (Broker.Broker as unknown as Broker.Key<On>)
    const broker = yield* key
    const clock = yield* Clock.Clock
    const watch = yield* Outbox.watch(options)
    const table = yield* Tables.open("outbox", settings.table, (told) => new OutboxError(told))
    const owner = (yield* words) + (yield* words) + (yield* words)
    const claims = Claims.make(table, { ...settings, broker: key.key, owner })

    const latch = Latch.makeUnsafe(false)
    // one statement on the shards at a time, or a relay would lock itself out
    const tending = Semaphore.makeUnsafe(1)
    let state: Health["state"] = "starting"
    let held: ReadonlySet<number> = new Set()
    /** By this process's own clock, counted from before the claim was sent: never later than the database's. */
    let heldUntil = 0
    let balancedAt = -Infinity
    let isStopping = false
    const counts = { inFlight: 0, published: 0, failed: 0, parked: 0 }
    let lastPublished: number | undefined
    let lastError: Health["lastError"]

    const now = (): number => Number(clock.currentTimeNanosUnsafe()) / 1e6
    const isHeld = (): boolean => now() < heldUntil

    const tend = (claim: Effect.Effect<ReadonlySet<number>, OutboxError>) =>
      tending.withPermit(Effect.suspend(() => {
        const from = now()
        return Effect.map(claim, (found) => {
          held = found
          heldUntil = from + settings.lease
        })
      }))

    const send = Send.make(broker, settings, isHeld)

    /** Nothing else is sent before this is written: what was confirmed shall not be sent again. */
    const mark = ({ done, failed }: Send.Sent): Effect.Effect<void> =>
      Effect.andThen(
        done.length === 0 ? Effect.void : claims.done(done),
        failed.length === 0 ? Effect.void : claims.failed(failed)
      ).pipe(
        Effect.tapError((error) => Effect.sync(() => troubled(error))),
        Effect.retry(patience),
        Effect.orDie
      )

    const troubled = (error: OutboxError | BrokerError.BrokerError): void => {
      state = "waiting"
      lastError = error
    }

    const rest = (time: number) => Effect.timeoutOption(latch.await, time)

    const cycle: Effect.Effect<void, OutboxError | BrokerError.BrokerError> = Effect.gen(function*() {
      const every = Math.min(settings.lease / 6, 2000)
      if (!isHeld() || now() - balancedAt >= every) {
        yield* tend(claims.balance)
        balancedAt = now()
      }
      latch.closeUnsafe()
      const rows = held.size === 0 ? [] : yield* claims.next(held)
      if (rows.length === 0) {
        state = "idle"
        lastError = undefined
        if (!isStopping) yield* rest(Math.min(settings.poll, held.size === 0 ? every : settings.poll))
        return
      }
      state = "sending"
      counts.inFlight = rows.length
      const sent = yield* send(rows)
      yield* mark(sent)
      counts.inFlight = 0
      counts.published += sent.done.length
      counts.failed += sent.failed.length
      counts.parked += sent.failed.filter(({ after }) => after === undefined).length
      if (sent.done.length > 0) lastPublished = clock.currentTimeMillisUnsafe()
      lastError = sent.lastError
      if (sent.stopped !== undefined) return yield* Effect.fail(sent.stopped)
    })

    const main = Effect.suspend(() => cycle).pipe(
      // a relay that is there and does nothing would be worse
      Effect.catchDefect((defect) =>
        Effect.fail(
          new OutboxError({
            message: `The relay of ${settings.table} has a defect: ${
              Failure.messageOf(defect) || Failure.tagOf(defect)
            }`,
            failure: "defect",
            cause: defect
          })
        )
      ),
      Effect.tapError((error) => Effect.sync(() => troubled(error))),
      Effect.retry({ while: () => !isStopping, schedule: patience }),
      Effect.ignore,
      Effect.repeat({ while: () => !isStopping })
    )

    const beat = Effect.suspend(() => tend(claims.renew)).pipe(
      // the claim ends by itself if this goes on
      Effect.tapError((error) => Effect.sync(() => void (lastError = error))),
      Effect.ignoreCause,
      Effect.delay(settings.lease / 3),
      Effect.forever
    )

    const prune = Effect.suspend(() => claims.prune).pipe(
      Effect.repeat({ while: (deleted) => deleted === Claims.pruned }),
      Effect.ignoreCause,
      Effect.delay(settings.pruneEvery),
      Effect.forever
    )

    const client = yield* Effect.serviceOption(PgClient.PgClient)
    const listen = Option.match(client, {
      onNone: () => Effect.void,
      onSome: (pg) =>
        pg.listen(settings.table).pipe(
          Effect.flatMap((notices) => Effect.forever(Effect.andThen(Queue.take(notices), latch.open))),
          Effect.scoped,
          Effect.retry(patience),
          Effect.ignoreCause
        )
    })

    yield* claims.join
    yield* Effect.acquireRelease(
      Effect.sync(() => Wakes.add(table.sql, () => void latch.openUnsafe())),
      (remove) => Effect.sync(remove)
    )
    for (const each of [beat, prune, listen]) yield* Effect.forkScoped(Detached.effect(each))
    const running = yield* Effect.forkScoped(Detached.effect(main))
    yield* Effect.addFinalizer(() =>
      Effect.gen(function*() {
        isStopping = true
        latch.openUnsafe()
        const ended = yield* Effect.timeoutOption(Fiber.await(running), settings.grace)
        // what is still on its way keeps its claim until that ends by itself
        if (Option.isSome(ended)) {
          yield* Effect.ignore(Effect.timeoutOption(tending.withPermit(claims.leave), "2 seconds"))
        }
        state = "stopped"
      })
    )
    return OutboxRelay.of({
      health: Effect.sync(() => ({ state, shards: held.size, ...counts, lastPublished, lastError })),
      lag: watch.lag
    })
  })

/**
 * Runs a relay for as long as the layer lives.
 *
 * Provides `Relay`, its health; needs the `SqlClient` and the `Broker`, or the one given. Fails with an `OutboxError` where the
 * tables are not there and cannot be made. Any number of processes may run it: the outbox has 64 parts, by key, each of which
 * belongs to one relay for a lease, and they share the parts evenly. A row is marked done after the broker has confirmed it,
 * so it is published at least once, and again only if the relay dies, or cannot reach the database for a lease, in between;
 * at most the batch in its hands.
 *
 * A broker that is out of reach, or refuses the credentials, is tried again without end, and no row counts it. A row that fails
 * alone waits, and later ones of its key wait behind it; those of other keys go on. What may go well later is tried without
 * end; what cannot (`NotFound`, `TooLarge`, `Invalid` …) is parked after `attempts`, with its error, and its key goes on:
 * see `Outbox.watch`.
 *
 * It is woken by commits of its own program, by PostgreSQL's NOTIFY where a `PgClient` is there (which keeps one connection),
 * and by `poll`. Closing the layer sends what is in its hands, up to `grace`, and gives its share back.
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
  return Layer.effect(OutboxRelay, relay(options, settings))
}
