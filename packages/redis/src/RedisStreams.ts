/**
 * Uses Redis Streams by ioredis.
 *
 * At least once: a settled message is acknowledged, and an unsettled message is redelivered, to another consumer of the
 * group if its own is gone. In an ordered subscription one consumer of a group reads and the others stand by; otherwise
 * the consumers share the messages, and Redis keeps messages that wait for a retry. Needs Redis 7.0 or newer, or Valkey.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Client from "./internal/client/Client.ts"
import * as Environment from "./internal/client/Environment.ts"
import * as Eviction from "./internal/client/Eviction.ts"
import { features } from "./internal/client/Publisher.ts"
import * as Browse from "./internal/streams/Browse.ts"
import * as Consumer from "./internal/streams/Consumer.ts"
import * as Options from "./internal/streams/Options.ts"
import * as Publisher from "./internal/streams/Publisher.ts"
import { Streams } from "./internal/streams/Streams.ts"
import * as Topology from "./internal/streams/Topology.ts"

export type { Issued, Tls } from "./internal/client/Options.ts"
export type { Wait } from "./internal/client/Publisher.ts"
export { idAt } from "./internal/streams/Codec.ts"
export type { Options } from "./internal/streams/Options.ts"

const capabilities: Driver.Capabilities = {
  settlement: "message",
  ordering: "channel",
  redelivery: true,
  delay: true,
  deadLetter: false,
  attempts: true,
  groups: true,
  fanOut: true,
  retention: true,
  replay: true,
  persistence: true,
  browse: true,
  ...features,
  transactions: false,
  patterns: false,
  lag: true
}

/**
 * Opens Redis Streams as a driver for a custom engine; connected as long as the scope is open.
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
    const { retention, resolved, times, wait } = yield* Options.check(options)
    const connection = yield* Client.open(resolved)
    yield* Eviction.warn(connection, "driver")
    // WAIT blocks every later command on its connection
    const publishing = wait === undefined ? connection : yield* Client.open(resolved)
    const streams = new Streams(resolved, connection, times, retention)
    return {
      system: "redis",
      capabilities,
      consume: (consume, sink) => Consumer.consume(streams, consume, sink),
      publish: (batch) => Publisher.publish(publishing, batch, retention, wait),
      declare: (declaration) => Topology.declare(streams, declaration),
      browse: (channel) => Browse.browse(streams, channel),
      check: connection.check,
      lag: (channel, group) => Topology.lag(streams, channel, group)
    }
  })

/**
 * Provides Redis Streams as the broker of a program.
 *
 * **Example** (a subscription on a stream)
 *
 * ```ts
 * import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
 * import { RedisStreams } from "@millrace/redis"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes, attempt ${message.attempt}`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Orders, { group: "billing", name: "count", lanes: Lanes.unordered(64) }, count)
 * ).pipe(Layer.provide(RedisStreams.layer({ url: "redis://localhost:6379" })))
 * ```
 *
 * Fails with a `BrokerError` whose message names cause and remedy: a bad option, no Redis at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Provides Redis Streams with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`,
 * or `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_ID`. `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options.Options = {}
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Environment.config(options), layer))
