/**
 * Rate limits in Redis, by ioredis: processes share them. One script decides all policies of a message in one round trip, by the
 * server's clock. Needs Redis 7.0 or newer, or Valkey.
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
   * The text that names of keys begin with, without braces. Default: `millrace:rate`. It is their hash tag, so a cluster keeps all of
   * them at one node.
   */
  readonly prefix?: string | undefined
  /**
   * Whose clock counts. `server`: that of Redis, which is the same for all processes. `process`: Effect's in this process, as tests
   * with a time of their own want it. Default: `server`.
   */
  readonly clock?: "process" | "server" | undefined
  /** Reserves tokens of buckets and spends them in this process. Default: none, each message asks. */
  readonly leases?: {
    /** The most tokens that a process reserves of a key at once, and a tenth of the burst at most; an integer from 1. Default: 100. */
    readonly tokens?: number | undefined
    /** The most keys of which it holds tokens; an integer from 1. Default: 10,000. */
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

// 2^53 leases: those of 2^32 processes, 2^21 of each at a time
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
          // the script answers integers
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
          // the script answers integers
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
 * A store in Redis.
 *
 * Provides `RateLimit.Store`; fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` where no Redis answers,
 * `Credentials` where it refuses the user, the password or the certificate. A key lives until all of its limit is back. While
 * the connection is lost each call fails at once with `RateLimitUnavailable`, and the connection is opened again by itself; a call
 * that gets no answer within `requestTimeout` fails with the same.
 *
 * With `leases` a process reserves tokens of `gcra` and `tokenBucket` and spends them without asking: over any time t at most
 * `burst + t * limit / window + tokens * processes` pass. What is unspent is given back when the layer closes; a process that dies
 * takes its tokens with it, which are then part of what has passed. Calls of several policies, and other algorithms, ask each
 * time.
 *
 * **Example** (a limit of all processes, and refusals that cost Redis nothing)
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
 * As `layer`, with `REDIS_URL` and the other variables of the Redis drivers from the environment; what is given as `options` goes
 * before them. Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options = {}
): Layer.Layer<RateLimit.Store, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Environment.config(options), layer))
