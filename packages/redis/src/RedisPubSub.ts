/**
 * Uses Redis Pub/Sub by ioredis.
 *
 * At most once: Redis delivers a message to the clients subscribed at the moment, and does not store it. There is nothing to
 * acknowledge, so a failing handler, a restart or a broken connection loses messages. Every subscription gets every message;
 * there are no groups. Each channel keeps its order.
 */
import { type Broker, type BrokerError, type Driver, DriverOptions, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope, Stream } from "effect"
import * as Client from "./internal/client/Client.ts"
import * as Topology from "./internal/client/Topology.ts"
import * as Codec from "./internal/client/Codec.ts"
import * as Errors from "./internal/client/Errors.ts"
import * as Environment from "./internal/client/Environment.ts"
import * as ClientOptions from "./internal/client/Options.ts"
import * as Publisher from "./internal/client/Publisher.ts"
import { consume } from "./internal/pubsub/Consumer.ts"

export type { Issued, Tls } from "./internal/client/Options.ts"

/** Options of Redis Pub/Sub: those of every Redis client. */
export interface Options extends ClientOptions.Options {}

const capabilities = {
  settlement: "none",
  ordering: "channel",
  redelivery: false,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: false,
  fanOut: true,
  retention: false,
  replay: false,
  persistence: false,
  browse: false,
  ...Publisher.features,
  transactions: false,
  patterns: true,
  lag: false
} as const satisfies Driver.Capabilities

/** A driver whose type tells that messages are not acknowledged: at most once. */
export interface PubSubDriver extends Driver.Driver {
  readonly capabilities: typeof capabilities
}

/**
 * Opens Redis Pub/Sub as a driver for a custom engine; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no Redis answers, `Credentials` if Redis
 * refuses the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (
  options: Options
): Effect.Effect<PubSubDriver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const resolved = yield* DriverOptions.checked("redis", "RedisPubSub", () => ClientOptions.resolve(options))
    const connection = yield* Client.open(resolved)
    const pubSub = { connection, silence: resolved.requestTimeout, groups: new Set<string>() }
    return {
      system: "redis",
      capabilities,
      consume: (consumer, sink) => consume(pubSub, consumer, sink),
      publish: (batch) =>
        Publisher.publish(
          connection,
          batch,
          (outgoing) => ["PUBLISH", outgoing.channel, Codec.toValue(outgoing)]
        ),
      declare: (declaration) => {
        const refused = Topology.refuse(declaration)
        return refused === undefined ? Effect.void : Effect.fail(refused)
      },
      browse: (channel) =>
        Stream.fail(
          Errors.unsupported(
            "browse",
            `Pub/Sub keeps nothing, so there is nothing to see in ${channel}: use RedisStreams.`
          )
        ),
      check: connection.check,
      lag: (channel) =>
        Effect.fail(
          Errors.unsupported("lag", `Pub/Sub keeps nothing, so nobody is behind in ${channel}: use RedisStreams.`)
        )
    }
  })

/**
 * Provides Redis Pub/Sub as the broker of a program.
 *
 * **Example** (every process is notified of every change)
 *
 * ```ts
 * import { Channel, type Message, Subscription } from "@millrace/core"
 * import { RedisPubSub } from "@millrace/redis"
 * import { Effect, Layer } from "effect"
 *
 * const Changes = Channel.bytes("settings.{name}.changed")
 * const forget = (message: Message<Uint8Array>) => Effect.log(`read again: ${message.channel}`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Changes, { group: "cache", name: "forget" }, forget)
 * ).pipe(Layer.provide(RedisPubSub.layer({ url: "redis://localhost:6379" })))
 * ```
 *
 * Fails with a `BrokerError` whose message names cause and remedy: a bad option, no Redis at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Provides Redis Pub/Sub with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`,
 * or `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_ID`. `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options = {}
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Environment.config(options), layer))
