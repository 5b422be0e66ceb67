/**
 * Redis Streams by ioredis.
 *
 * At least once: a message is acknowledged when it is done, and what was not is delivered again, to another consumer of its
 * group where its own is gone. Where order matters one consumer of a group reads and the others stand by; where it does not
 * they share the messages, and what waits for its next attempt is kept by Redis. Needs Redis 7.0 or newer, or Valkey.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Client from "./client/Client.ts"
import * as Environment from "./client/Environment.ts"
import * as Publishing from "./client/Publishing.ts"
import * as Admin from "./streams/Admin.ts"
import * as Competing from "./streams/Competing.ts"
import { toFields } from "./streams/Entry.ts"
import * as Options from "./streams/Options.ts"
import * as Ordered from "./streams/Ordered.ts"
import { Streams } from "./streams/Streams.ts"

export type { Issued, Tls } from "./client/Options.ts"
export type { Wait } from "./client/Publishing.ts"
export { idAt } from "./streams/Entry.ts"
export type { Options } from "./streams/Options.ts"

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
  ...Publishing.features,
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
    const { retention, settings, times, wait } = yield* Options.check(options)
    const connection = yield* Client.open(settings)
    // a connection that waits for replicas holds up every command behind it
    const publishing = wait === undefined ? connection : yield* Client.open(settings)
    const streams = new Streams(settings, connection, times, retention)
    const { maximumAge, maximumLength } = retention
    const trim = maximumLength === undefined ? [] : ["MAXLEN", "~", maximumLength]
    return {
      system: "redis",
      capabilities,
      consume: (consume, sink) => (consume.ordered ? Ordered : Competing).consume(streams, consume, sink),
      publish: (batch) => {
        if (maximumAge === undefined) {
          return Publishing.publish(
            publishing,
            batch,
            (outgoing) => ["XADD", outgoing.channel, ...trim, "*", ...toFields(outgoing)],
            wait
          )
        }
        return Effect.clockWith((clock) => {
          const least = clock.currentTimeMillisUnsafe() - maximumAge
          return Publishing.publish(
            publishing,
            batch,
            (outgoing) => ["XADD", outgoing.channel, "MINID", "~", least, "*", ...toFields(outgoing)],
            wait
          )
        })
      },
      declare: (declaration) => Admin.declare(streams, declaration),
      browse: (channel) => Admin.browse(streams, channel),
      check: connection.check,
      lag: (channel, group) => Admin.lag(streams, channel, group)
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
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_NAME`. `options` go before
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
