/**
 * Shares rate limits between processes in Redis, by ioredis. One script decides all policies of a message in one round trip, by
 * the server's clock. Needs Redis 7.0 or newer, or Valkey.
 */
import { type BrokerError, DriverOptions, RateLimit } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Clock, type Config, Effect, Layer, Random, type Scope } from "effect"
import * as Client from "./internal/client/Client.ts"
import * as Environment from "./internal/client/Environment.ts"
import * as Eviction from "./internal/client/Eviction.ts"
import * as ClientOptions from "./internal/client/Options.ts"
import { leased } from "./internal/ratelimit/Leases.ts"
import * as Scripts from "./internal/ratelimit/Scripts.ts"

export type { Issued, Tls } from "./internal/client/Options.ts"

/** Options of `layer`. */
export interface Options extends ClientOptions.StoreOptions {
  /**
   * The prefix of all key names, without braces. Default: `millrace:rate`. The prefix is the keys' hash tag, so a cluster keeps
   * all of them on one node.
   */
  readonly prefix?: string | undefined
  /**
   * The clock that counts. `server`: that of Redis, the same for all processes. `process`: Effect's in this process, for tests
   * with a clock of their own. Default: `server`.
   */
  readonly clock?: "process" | "server" | undefined
  /** Reserves tokens of buckets and spends them in this process. Default: none, each message asks Redis. */
  readonly leases?: {
    /** The most tokens that a process reserves of a key at once, at most 1/10 of the burst; an integer from 1. Default: 100. */
    readonly tokens?: number | undefined
    /** The most keys for which a process holds tokens; an integer from 1. Default: 10,000. */
    readonly capacity?: number | undefined
  } | undefined
}

type Store = RateLimit.Store["Service"]

const unavailable = (error: BrokerError.BrokerError) =>
  new RateLimit.RateLimitUnavailable({
    message: `RateLimitRedis: ${error.message}`,
    retryAfter: error.retryAfter,
    cause: error
  })

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

const places = (charges: ReadonlyArray<RateLimit.Charge>) =>
  charges.filter(({ policy }) => policy.algorithm === "concurrency")

// 2^53 lease numbers: 2^32 processes, 2^21 leases of each at a time
const perProcess = 2 ** 21

const make = (options: Options): Effect.Effect<Store, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const { capacity, clock: counts, prefix, resolved, tokens } = yield* DriverOptions.checked(
      "redis",
      "RateLimitRedis",
      () => ({
        resolved: ClientOptions.resolveStore(options),
        prefix: options.prefix ?? "millrace:rate",
        clock: DriverOptions.oneOf("clock", options.clock, ["process", "server"], "server"),
        tokens: DriverOptions.integer("leases.tokens", options.leases?.tokens, 100),
        capacity: DriverOptions.integer("leases.capacity", options.leases?.capacity, 10_000)
      })
    )
    if (!/^[^{}]+$/.test(prefix)) {
      return yield* DriverOptions.checked("redis", "RateLimitRedis", () =>
        DriverOptions.bad(`prefix must be a text without braces, got "${prefix}"`))
    }
    const connection = yield* Client.open(resolved)
    yield* Eviction.warn(connection, "store")
    const clock = yield* Clock.Clock
    const process = yield* Random.nextIntBetween(0, 2 ** 32)
    let last = 0

    const time = (): string =>
      counts === "process" ? String(clock.currentTimeMillisUnsafe()) : ""
    const keyOf = ({ key, policy }: RateLimit.Charge): string =>
      `{${prefix}}:${compositeKey(policy.id, key)}`
    const run = (
      script: Client.Script,
      charges: ReadonlyArray<RateLimit.Charge>,
      args: ReadonlyArray<Client.Argument>
    ) =>
      Effect.mapError(
        connection.attempt("publish", () => connection.run(script, charges.map(keyOf), args)),
        unavailable
      )
    const store: Store = {
      take: (charges, within) =>
        Effect.suspend(() => {
          const lease = process * perProcess + (++last % perProcess)
          const args: Array<Client.Argument> = [time(), within, lease]
          for (const charge of charges) args.push(...argumentsOf(charge))
          // the script returns integers
          return Effect.map(run(Scripts.take, charges, args), (reply) =>
            decisionOf(reply as ReadonlyArray<number>, lease))
        }),
      renew: (charges, lease) =>
        Effect.suspend(() => {
          const held = places(charges)
          const args = held.flatMap(({ cost, policy }) => [policy.window, cost])
          return Effect.map(run(Scripts.renew, held, [time(), lease, ...args]), (reply) =>
            reply === 1)
        }),
      release: (charges, lease) =>
        Effect.suspend(() => {
          const held = places(charges)
          return Effect.asVoid(run(Scripts.release, held, [
            lease,
            ...held.map(({ cost }) =>
              cost
            )
          ]))
        })
    }
    if (options.leases === undefined) return store
    return yield* leased(store, {
      tokens,
      capacity,
      clock,
      reserve: (charge, want) =>
        Effect.suspend(() =>
          // the script returns integers
          Effect.map(
            run(Scripts.reserve, [charge], [time(), ...argumentsOf(charge), want]),
            (reply) => reply as ReadonlyArray<number>
          )
        ),
      giveBack: (charge) => Effect.suspend(() => run(Scripts.giveBack, [charge], [time(), ...argumentsOf(charge)]))
    })
  })

const argumentsOf = ({ cost, policy }: RateLimit.Charge): ReadonlyArray<Client.Argument> => {
  const { interval, scale } = RateLimit.ticks(policy)
  return [policy.algorithm, policy.limit, policy.window, policy.burst, scale, interval, cost]
}

/**
 * Provides `RateLimit.Store` from Redis.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no Redis answers, `Credentials` if Redis refuses
 * the user, the password or the certificate. A key expires when its whole limit is available again. While the connection is
 * lost, each call fails at once with `RateLimitUnavailable`, and the client reconnects; a call without an answer within
 * `requestTimeout` fails with the same error.
 *
 * With `leases` a process reserves tokens of `gcra` and `tokenBucket` and spends them without asking: over any time t at most
 * `burst + t * limit / window + tokens * processes` pass. Closing the layer returns unspent tokens; tokens of a process that
 * dies stay reserved and count as passed. Calls with several policies, and other algorithms, ask Redis each time.
 *
 * **Example** (a limit shared by all processes, and refusals that cost Redis nothing)
 *
 * ```ts
 * import { Layer, Redacted } from "effect"
 * import { RateLimit } from "@millrace/core"
 * import { RateLimitRedis } from "@millrace/redis"
 *
 * const store = RateLimit.denying().pipe(
 *   Layer.provide(RateLimitRedis.layer({ url: Redacted.make("redis://orders:secret@localhost:6379") }))
 * )
 * ```
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<RateLimit.Store, BrokerError.BrokerError> =>
  Layer.effect(RateLimit.Store, make(options))

/**
 * Builds `layer` with `REDIS_URL` and the other variables of the Redis drivers from the environment; `options` override
 * them. Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options = {}
): Layer.Layer<RateLimit.Store, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Environment.config(options), layer))
