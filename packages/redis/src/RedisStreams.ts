/**
 * Redis Streams by ioredis.
 *
 * At least once: a message is acknowledged when it is done, and what was not is delivered again, to another consumer of its
 * group where its own is gone. Where order matters one consumer of a group reads and the others stand by; where it does not
 * they share the messages, and what waits for its next attempt is kept by Redis. Needs Redis 7.0 or newer, or Valkey.
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
 * Redis Streams as a driver, for an engine of one's own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` where no Redis answers, `Credentials` where it
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
    // a connection that waits for replicas holds up every command behind it
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
 * Redis Streams as the broker of a program.
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
 * Fails with a `BrokerError` whose message says what to do: a bad option, no Redis at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Redis Streams with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`, or
 * `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_ID`. `options` go before
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
