/**
 * Stores tasks in Redis, for many machines: each operation is one script by the server's clock, and Pub/Sub tells of the end
 * of a task. Needs Redis 7.0 or newer, or Valkey.
 */
import { type BrokerError, DriverOptions, TaskStore } from "@millrace/core"
import { Clock, Config, Duration, Effect, Layer, Schedule, type Scope } from "effect"
import * as Client from "./internal/client/Client.ts"
import * as Environment from "./internal/client/Environment.ts"
import * as Eviction from "./internal/client/Eviction.ts"
import * as ClientOptions from "./internal/client/Options.ts"
import * as Table from "./internal/tasks/Table.ts"

export type { Issued, Tls } from "./internal/client/Options.ts"

/** Options of `layer`. */
export interface Options extends ClientOptions.StoreOptions {
  /**
   * The prefix of all key names, without braces. Default: `millrace:tasks`. The prefix is the keys' hash tag, so a cluster keeps
   * all of them on one node.
   */
  readonly prefix?: string | undefined
  /**
   * How long the store retries a call while the server is unreachable or starting; from 0. A retry does nothing twice. Default: 5
   * seconds.
   */
  readonly patience?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: { readonly prefix: string; readonly patience: Duration.Duration } = {
  prefix: "millrace:tasks",
  patience: Duration.seconds(5)
}

const check = (options: Options) =>
  DriverOptions.checked("redis", "TaskStoreRedis", () => {
    const prefix = options.prefix ?? defaults.prefix
    if (!/^[^{}]+$/.test(prefix)) DriverOptions.bad(`prefix must be a text without braces, got "${prefix}"`)
    return {
      prefix,
      resolved: ClientOptions.resolveStore({ clientId: "millrace-tasks", ...options }),
      patience: DriverOptions.millis("patience", options.patience, Duration.toMillis(defaults.patience), 0)
    }
  })

const unavailable = (error: BrokerError.BrokerError) =>
  new TaskStore.TaskStoreUnavailable({ message: error.message, retryAfter: error.retryAfter, cause: error })

const isWorthIt = (error: BrokerError.BrokerError): boolean => error.reason === "Unreachable" || error.reason === "Lost"

const make = (
  options: Options
): Effect.Effect<TaskStore.Store["Service"], TaskStore.TaskStoreUnavailable, Scope.Scope> =>
  Effect.gen(function*() {
    const { patience, prefix, resolved } = yield* Effect.mapError(check(options), unavailable)
    const connection = yield* Effect.mapError(Client.open(resolved), unavailable)
    yield* Eviction.warn(connection, "store")
    // delays from 50 ms, doubling up to 1 second
    const schedule = Schedule.exponential("50 millis").pipe(
      Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1)))),
      Schedule.upTo({ duration: patience })
    )
    const table = yield* Table.make(connection, {
      prefix,
      unavailable,
      retried: (effect) => Effect.retry(effect, { while: isWorthIt, schedule })
    })
    return TaskStore.make(table, yield* Clock.Clock)
  })

/**
 * Provides `TaskStore.Store` from Redis.
 *
 * Fails with a `TaskStoreUnavailable` that names the cause: a bad option, no Redis at the address, wrong credentials. The
 * server's clock counts; clients' clocks do not matter. Redis removes ended tasks when their time is over.
 *
 * Tasks are as durable as the server: set `appendonly yes` and `appendfsync always` to survive a loss of power, and the policy
 * `noeviction`. A replica promoted in a failover may lack the last changes. A server that is full (`maxmemory`) refuses new
 * tasks, but accepts the ends of others.
 *
 * **Example** (tasks of many machines)
 *
 * ```ts
 * import { TaskStoreRedis } from "@millrace/redis"
 *
 * const store = TaskStoreRedis.layer({ url: "redis://localhost:6379" })
 * ```
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<TaskStore.Store, TaskStore.TaskStoreUnavailable> =>
  Layer.effect(TaskStore.Store, make(options))

const environment = Config.all({
  prefix: Config.withDefault(Config.NonEmptyString("TASK_STORE_REDIS_PREFIX"), defaults.prefix),
  patience: Config.withDefault(Config.Duration("TASK_STORE_REDIS_PATIENCE"), defaults.patience)
})

/**
 * Builds `layer` with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`, or
 * `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_ID`; and `TASK_STORE_REDIS_PREFIX` and
 * `TASK_STORE_REDIS_PATIENCE` (as `5 seconds`). `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options = {}
): Layer.Layer<TaskStore.Store, TaskStore.TaskStoreUnavailable | Config.ConfigError> =>
  Layer.unwrap(
    Effect.map(
      Config.all({ client: Environment.config(options), found: environment }),
      ({ client, found }) => layer({ ...found, ...client })
    )
  )
