/**
 * Shares rate limits between the processes of one machine in a SQLite file.
 */
import { OptionCheck, RateLimit } from "@millrace/core"
import { Clock, Duration, Effect, Exit, Layer, Random, type Scope } from "effect"
import type { DatabaseSync } from "node:sqlite"
import { identityOf, leases, most, places, pruning } from "./internal/ratelimit/identity.ts"
import { openDatabase } from "./internal/sqlite/open.ts"
import { inTransaction } from "./internal/sqlite/transaction.ts"

/** Options of `layer`. */
export interface Options {
  /** The file, created if missing; its folder must exist. */
  readonly filename: string
  /** How long to wait for another process that writes, without blocking this one; from 0. Default: 1 second. */
  readonly busyTimeout?: Duration.Input | undefined
  /** How often the store removes rows of keys whose whole limit is available again; from 10 ms. Default: 10 seconds. */
  readonly pruneEvery?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: { readonly busyTimeout: Duration.Duration; readonly pruneEvery: Duration.Duration } = {
  busyTimeout: Duration.seconds(1),
  pruneEvery: Duration.seconds(10)
}

type Store = RateLimit.Store["Service"]
type Failed = RateLimit.RateLimitUnavailable

const module = "RateLimitSqlite"
const check = OptionCheck.make(module)

/** The steps of the schema, oldest first: never change a released step, add the next. */
const migrations: ReadonlyArray<string> = [
  `CREATE TABLE rate_limit (id TEXT PRIMARY KEY, state TEXT NOT NULL, ends_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
  CREATE INDEX rate_limit_end ON rate_limit (ends_at);`
]

// https://www.sqlite.org/rescode.html
const isBusy = (error: unknown): boolean =>
  error instanceof Error && "errcode" in error && (Number(error.errcode) & 0xff) === 5

const open = (filename: string): DatabaseSync => {
  // a wait inside SQLite would block the whole process, so this store polls
  const database = openDatabase(filename)
  try {
    // NORMAL: counts survive a crash of the process; a crash of the machine loses the last second of them
    // a checkpoint waits for the disk: at 1,000 pages, the default, one decision in 200 did
    database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA wal_autocheckpoint = 8000")
    database.exec("BEGIN IMMEDIATE")
    database.exec("CREATE TABLE IF NOT EXISTS rate_limit_versions (version INTEGER PRIMARY KEY) STRICT")
    const version = Number(
      database.prepare("SELECT coalesce(max(version), 0) AS version FROM rate_limit_versions").get()?.["version"]
    )
    if (version > migrations.length) {
      throw new Error(
        `its schema is version ${version}, and this program knows ${migrations.length}: update the program`
      )
    }
    migrations.slice(version).forEach((step, i) => {
      database.exec(step)
      database.prepare("INSERT INTO rate_limit_versions VALUES (?)").run(version + i + 1)
    })
    database.exec("COMMIT")
    return database
  } catch (error) {
    database.close()
    throw error
  }
}

const make = (filename: string, busy: number, every: number): Effect.Effect<Store, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const failed = (error: unknown) =>
      new RateLimit.RateLimitUnavailable({
        message: `SQLite file ${filename}: ${error instanceof Error ? error.message : String(error)}${
          isBusy(error) ? "; another process holds it: let it end, or wait longer with busyTimeout" : ""
        }`,
        cause: error
      })

    /** Runs now, and again each millisecond while another process writes. */
    const patiently = <A>(run: () => A, until = clock.currentTimeMillisUnsafe() + busy): Effect.Effect<A, Failed> => {
      try {
        return Exit.succeed(run())
      } catch (error) {
        return isBusy(error) && clock.currentTimeMillisUnsafe() < until
          ? Effect.andThen(Effect.sleep(1), Effect.suspend(() => patiently(run, until)))
          : Exit.fail(failed(error))
      }
    }

    const database = yield* Effect.acquireRelease(
      Effect.suspend(() => patiently(() => open(filename))),
      (database) => Effect.sync(() => database.close())
    )
    const select = database.prepare("SELECT state FROM rate_limit WHERE id = ?")
    const upsert = database.prepare(
      "INSERT INTO rate_limit VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET state = excluded.state, ends_at = excluded.ends_at"
    )
    const remove = database.prepare(
      `DELETE FROM rate_limit WHERE id IN (SELECT id FROM rate_limit WHERE ends_at <= ? LIMIT ${most})`
    )
    const lease = leases(yield* Random.nextIntBetween(0, 2 ** 32))

    const stateOf = (id: string): RateLimit.State => {
      const row = select.get(id)
      // as `write` stores it
      return row === undefined ? [] : JSON.parse(String(row["state"])) as RateLimit.State
    }
    const write = (id: string, { policy }: RateLimit.Charge, state: RateLimit.State, now: number): void => {
      upsert.run(id, JSON.stringify(state), now + RateLimit.resetOf(policy, state, now))
    }

    yield* pruning(
      every,
      Effect.suspend(() => patiently(() => Number(remove.run(clock.currentTimeMillisUnsafe()).changes)))
    )
    return {
      take: (charges, within) =>
        Effect.suspend(() => {
          const ids = charges.map(identityOf)
          return patiently(() =>
            inTransaction(database, () => {
              const now = clock.currentTimeMillisUnsafe()
              const { decision, states } = RateLimit.decide(charges, ids.map(stateOf), now, within, lease())
              states?.forEach((state, i) => charges[i]!.cost > 0 && write(ids[i]!, charges[i]!, state, now))
              return decision
            })
          )
        }),
      renew: (charges, lease) =>
        Effect.suspend(() =>
          patiently(() =>
            inTransaction(database, () => {
              const now = clock.currentTimeMillisUnsafe()
              return places(charges).map((charge) => {
                const id = identityOf(charge)
                const state = RateLimit.renew(charge.policy, stateOf(id), lease, now)
                if (state !== undefined) write(id, charge, state, now)
                return state !== undefined
              }).every((isHeld) => isHeld)
            })
          )
        ),
      release: (charges, lease) =>
        Effect.suspend(() =>
          patiently(() =>
            inTransaction(database, () => {
              const now = clock.currentTimeMillisUnsafe()
              for (const charge of places(charges)) {
                const id = identityOf(charge)
                write(id, charge, RateLimit.release(stateOf(id), lease), now)
              }
            })
          )
        )
    }
  })

/**
 * Provides a store in a SQLite file, by the clock of the machine.
 *
 * Provides `RateLimit.Store`; fails with `RateLimitUnavailable` if the file does not open. A call is one transaction, which
 * takes some ten microseconds of the event loop and waits for no disk. While another process writes, the call is retried each
 * millisecond for `busyTimeout`, and then fails.
 *
 * **Example** (the processes of a machine share their limits)
 *
 * ```ts
 * import { RateLimitSqlite } from "@millrace/sql"
 *
 * const store = RateLimitSqlite.layer({ filename: "limits.db" })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<RateLimit.Store, RateLimit.RateLimitUnavailable> => {
  const { filename } = options
  if (filename === "") throw new RangeError(`${module}: filename is needed, and it is empty`)
  const busy = check.millis("busyTimeout", options.busyTimeout ?? defaults.busyTimeout, {
    least: 0,
    most: OptionCheck.longestTimer
  })
  const every = check.millis("pruneEvery", options.pruneEvery ?? defaults.pruneEvery, { least: 10 })
  return Layer.effect(RateLimit.Store, make(filename, busy, every))
}
