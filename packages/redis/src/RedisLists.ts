/**
 * Uses Redis lists as work queues, by ioredis.
 *
 * At least once, and each message to one consumer: a list has one group, whose consumers share it. A consumer's unsettled
 * messages are kept beside the list, and return to its head when the consumer is gone. Deliveries are not counted,
 * and consumers keep no order among them. Any program can push plain values with `RPUSH`. Needs Redis 7.0 or newer, or
 * Valkey.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Client from "./internal/client/Client.ts"
import * as Codec from "./internal/client/Codec.ts"
import * as Environment from "./internal/client/Environment.ts"
import * as Eviction from "./internal/client/Eviction.ts"
import * as Publisher from "./internal/client/Publisher.ts"
import * as Browse from "./internal/lists/Browse.ts"
import { consume } from "./internal/lists/Consumer.ts"
import * as Options from "./internal/lists/Options.ts"
import * as Topology from "./internal/lists/Topology.ts"

export type { Issued, Tls } from "./internal/client/Options.ts"
export type { Wait } from "./internal/client/Publisher.ts"
export type { Options } from "./internal/lists/Options.ts"

const capabilities: Driver.Capabilities = {
  settlement: "message",
  ordering: "none",
  redelivery: true,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: true,
  fanOut: false,
  retention: false,
  replay: true,
  persistence: true,
  browse: true,
  ...Publisher.features,
  transactions: false,
  patterns: false,
  lag: true
}

/**
 * Opens Redis lists as a driver for a custom engine; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no Redis answers, `Credentials` if Redis
 * refuses the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (
  options: Options.Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const checked = yield* Options.check(options)
    const connection = yield* Client.open(checked.resolved)
    yield* Eviction.warn(connection, "driver")
    // WAIT blocks every later command on its connection
    const publishing = checked.wait === undefined ? connection : yield* Client.open(checked.resolved)
    const lists = { ...checked, connection, temporary: new Set<string>() }
    return {
      system: "redis",
      capabilities,
      consume: (consumer, sink) => consume(lists, consumer, sink),
      publish: (batch) =>
        Publisher.publish(
          publishing,
          batch,
          (outgoing) => ["RPUSH", outgoing.channel, Codec.toValue(outgoing)],
          checked.wait
        ),
      declare: (declaration) => Topology.declare(connection, lists.temporary, declaration),
      browse: (channel) => Browse.browse(connection, channel),
      check: connection.check,
      lag: (channel, group) => Topology.lag(connection, channel, group)
    }
  })

/**
 * Provides Redis lists as the broker of a program.
 *
 * **Example** (workers that share a queue)
 *
 * ```ts
 * import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
 * import { RedisLists } from "@millrace/redis"
 * import { Effect, Layer } from "effect"
 *
 * const Thumbnails = Channel.bytes("thumbnails")
 * const draw = (message: Message<Uint8Array>) => Effect.log(`drawn from ${message.payload.length} bytes`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Thumbnails, { group: "drawers", name: "draw", lanes: Lanes.unordered(8) }, draw)
 * ).pipe(Layer.provide(RedisLists.layer({ url: "redis://localhost:6379" })))
 * ```
 *
 * Fails with a `BrokerError` whose message names cause and remedy: a bad option, no Redis at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Provides Redis lists with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`, or
 * `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_ID`. `options` override
 * the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options.Options = {}
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Environment.config(options), layer))
