/**
 * Stores idempotency keys in Redis, for many machines: a group of operations is one script and one round trip, and Redis
 * expires the keys. Needs Redis 7.0 or newer, or Valkey.
 */
import { type BrokerError, DriverOptions, Idempotency } from "@millrace/core"
import { Config, Duration, Effect, Layer, Random, Schedule, type Scope } from "effect"
import * as Client from "./internal/client/Client.ts"
import * as Environment from "./internal/client/Environment.ts"
import * as Eviction from "./internal/client/Eviction.ts"
import * as ClientOptions from "./internal/client/Options.ts"
import * as Scripts from "./internal/idempotency/Scripts.ts"

export type { Issued, Tls } from "./internal/client/Options.ts"

/** Options of `layer`. */
export interface Options extends ClientOptions.StoreOptions {
  /**
   * The prefix of all key names, without braces. Default: `millrace:idempotency`. The prefix is the keys' hash tag, so a
   * cluster keeps all of them on one node: give parts of a large program different prefixes.
   */
  readonly prefix?: string | undefined
  /** The most operations of one script, during which Redis runs nothing else; an integer from 1. Default: 256. */
  readonly maximumGroup?: number | undefined
  /**
   * How long the store retries a completion, an extension or a release while the server is unreachable or starting; from 0. A
   * claim, which a request waits for, fails when the server has been unreachable for `requestTimeout`, or after `patience` if
   * that is shorter. A retry does nothing twice. Default: 5 seconds.
   */
  readonly patience?: Duration.Input | undefined
}

/** The defaults of `layer`'s options. */
export const defaults: {
  readonly prefix: string
  readonly maximumGroup: number
  readonly patience: Duration.Duration
} = { prefix: "millrace:idempotency", maximumGroup: 256, patience: Duration.seconds(5) }

const module = "IdempotencyRedis"

const check = (options: Options) =>
  DriverOptions.checked("redis", module, () => {
    const prefix = options.prefix ?? defaults.prefix
    if (!/^[^{}]+$/.test(prefix)) DriverOptions.bad(`prefix must be a text without braces, got "${prefix}"`)
    return {
      prefix,
      resolved: ClientOptions.resolveStore({ clientId: "millrace-idempotency", ...options }),
      maximum: DriverOptions.integer("maximumGroup", options.maximumGroup, defaults.maximumGroup),
      patience: Duration.millis(
        DriverOptions.millis("patience", options.patience, Duration.toMillis(defaults.patience), 0)
      )
    }
  })

const unavailable = (error: BrokerError.BrokerError) =>
  new Idempotency.IdempotencyUnavailable({ message: error.message, retryAfter: error.retryAfter, cause: error })

/** Whether a retry may succeed: the server is unreachable or the connection was lost. */
const isWorthIt = (error: BrokerError.BrokerError): boolean => error.reason === "Unreachable" || error.reason === "Lost"

const half = /[\ud800-\udfff]/u

/** Encodes a text so that different texts have different UTF-8 bytes: UTF-8 would turn any lone surrogate into U+FFFD. */
const exact = (text: string): string =>
  half.test(text) || text.startsWith("json:") ? `json:${JSON.stringify(text)}` : text

const blank = Buffer.from(" ")

/** The part of a claim after its token: the claimant, and the fingerprint with its length. */
const asking = (operation: Idempotency.Operation, owner: string): string => {
  const fingerprint = exact(operation.fingerprint)
  return `${owner} ${Buffer.byteLength(fingerprint)} ${fingerprint}`
}

/** Appends the three arguments of a completion, an extension or a release. */
const push = (args: Array<Client.Argument>, { kind, millis, result, token }: Idempotency.Operation): void => {
  if (kind !== "complete") args.push(kind, token, millis)
  else if (result.length === 0) args.push(kind, token, `${millis} `)
  else args.push(kind, token, Buffer.concat([Buffer.from(String(millis)), blank, result]))
}

const letters = { completed: 68, running: 82 }

const claimOf = (reply: Buffer | number): Idempotency.Claim => {
  if (typeof reply === "number") return { _tag: "Claimed", token: reply }
  switch (reply[0]) {
    case letters.completed:
      // copy the bytes: the buffer of a socket read holds many replies
      return { _tag: "Completed", result: new Uint8Array(reply.subarray(1)) }
    case letters.running:
      return { _tag: "Running", left: Number(reply.toString("latin1", 1)) }
    default:
      return { _tag: "Reused" }
  }
}

const make = (
  options: Options
): Effect.Effect<Idempotency.Store["Service"], Idempotency.IdempotencyUnavailable, Scope.Scope> =>
  Effect.gen(function*() {
    const { maximum, patience, prefix, resolved } = yield* Effect.mapError(check(options), unavailable)
    const connection = yield* Effect.mapError(Client.open(resolved), unavailable)
    yield* Eviction.warn(connection, "store")
    const limit = Duration.toMillis(patience)
    const claimLimit = Math.min(limit, resolved.requestTimeout)
    // delays from 50 ms, doubling up to 1 second
    const within = (millis: number) =>
      Schedule.exponential("50 millis").pipe(
        Schedule.modifyDelay(({ duration }) => Effect.succeed(Duration.min(duration, Duration.seconds(1)))),
        Schedule.upTo({ duration: millis })
      )
    const retries = { claim: within(claimLimit), other: within(limit) }
    // retries a claim whose answer was lost; the script recognises the claim by its name
    const random = Effect.map(Random.nextIntBetween(0, 36 ** 8 - 1), (number) => number.toString(36).padStart(8, "0"))
    const writer = (yield* random) + (yield* random)
    let claims = 0

    const tokenKey = `{${prefix}}:token`
    const nameOf = ({ key }: Idempotency.Operation) => `{${prefix}}:k:${exact(key)}`

    /** Whether the server has been unreachable for too long to retry a claim; this counts time spent in an earlier group too. */
    const isLate = (kind: "claim" | "other") => kind === "claim" && connection.downFor(tokenKey) >= claimLimit

    const run = <A extends Buffer | number>(
      kind: "claim" | "other",
      script: Client.Script,
      keys: ReadonlyArray<string>,
      args: ReadonlyArray<Client.Argument>
    ) =>
      Effect.mapBoth(
        Effect.retry(connection.attempt("check", () => connection.run(script, keys, args)), {
          while: (error) => isWorthIt(error) && !isLate(kind),
          schedule: retries[kind]
        }),
        // the script returns one answer per operation
        { onSuccess: (reply) => reply as ReadonlyArray<A>, onFailure: unavailable }
      )

    const claimAll = (operations: ReadonlyArray<Idempotency.Operation>, lease: number) =>
      Effect.suspend(() => {
        const args: Array<Client.Argument> = [lease]
        for (const operation of operations) args.push(asking(operation, `${writer}${(claims++).toString(36)}`))
        return Effect.map(
          run<Buffer | number>("claim", Scripts.claims, [tokenKey, ...operations.map(nameOf)], args),
          (answers) => operations.forEach((operation, i) => operation.claimed(claimOf(answers[i]!)))
        )
      })

    const others = yield* Idempotency.grouped({
      maximum,
      write: (operations) =>
        Effect.suspend(() => {
          const args: Array<Client.Argument> = []
          for (const operation of operations) push(args, operation)
          return Effect.map(
            run<number>("other", Scripts.others, operations.map(nameOf), args),
            (answers) => operations.forEach((operation, i) => operation.held(answers[i] === 1))
          )
        })
    })
    const { claim } = yield* Idempotency.grouped({
      maximum,
      // usually all claims have one lease; a claim whose caller was interrupted becomes a release here
      write: (operations) => {
        const [claiming, rest] = [
          operations.filter(({ kind }) => kind === "claim"),
          operations.filter(({ kind }) => kind !== "claim")
        ]
        const leases = new Set(claiming.map(({ millis }) => millis))
        return Effect.andThen(
          Effect.forEach(rest, (each) => Effect.map(others.release(each.key, each.token), () => each.held(true)), {
            concurrency: "unbounded",
            discard: true
          }),
          Effect.forEach(leases, (lease) => claimAll(claiming.filter(({ millis }) => millis === lease), lease), {
            discard: true
          })
        )
      }
    })
    return { ...others, claim }
  })

/**
 * Provides `Idempotency.Store` from Redis.
 *
 * Fails with an `IdempotencyUnavailable` that names the cause: a bad option, no Redis at the address, wrong credentials.
 * Operations of one turn, or those that arrive during a round trip, share one script. The server's clock counts; clients'
 * clocks do not matter.
 *
 * Keys are as durable as the server: set `appendonly yes` and `appendfsync always` to survive a loss of power, and the policy
 * `noeviction`, since the request of an evicted key runs again. A replica promoted in a failover may lack the last keys.
 * A server that is full (`maxmemory`) refuses claims, but accepts their completions.
 *
 * While the server is unreachable, the store retries a claim for `requestTimeout` (or `patience`, if shorter) and a completion
 * for `patience`; then they fail. A retry finds a claim whose answer was lost, and a result is stored once. Closing the layer
 * finishes pending operations first.
 *
 * Source: fencing tokens by M. Kleppmann, How to do distributed locking, 2016.
 *
 * **Example** (one answer for each key, across many servers)
 *
 * ```ts
 * import { IdempotencyRedis } from "@millrace/redis"
 *
 * const store = IdempotencyRedis.layer({ url: "redis://localhost:6379" })
 * ```
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable> =>
  Layer.effect(Idempotency.Store, make(options))

const environment = Config.all({
  prefix: Config.withDefault(Config.NonEmptyString("IDEMPOTENCY_REDIS_PREFIX"), defaults.prefix),
  maximumGroup: Config.withDefault(Config.Int("IDEMPOTENCY_REDIS_MAXIMUM_GROUP"), defaults.maximumGroup),
  patience: Config.withDefault(Config.Duration("IDEMPOTENCY_REDIS_PATIENCE"), defaults.patience)
})

/**
 * Builds `layer` with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`, or
 * `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_ID`; and `IDEMPOTENCY_REDIS_PREFIX`,
 * `IDEMPOTENCY_REDIS_MAXIMUM_GROUP`, `IDEMPOTENCY_REDIS_PATIENCE` (as `5 seconds`). `options` override the
 * environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options = {}
): Layer.Layer<Idempotency.Store, Idempotency.IdempotencyUnavailable | Config.ConfigError> =>
  Layer.unwrap(
    Effect.map(
      Config.all({ client: Environment.config(options), found: environment }),
      ({ client, found }) => layer({ ...found, ...client })
    )
  )
