/**
 * Apache Kafka by kafkajs.
 *
 * At least once: a position is committed when all below it is settled, and what was not is delivered again. Order is kept
 * within a partition; messages of one key share one.
 */
import { type Broker, BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import { Begun } from "./client/Beginning.ts"
import { capabilities } from "./client/capabilities.ts"
import * as KafkaOptions from "./client/Options.ts"
import * as Publisher from "./client/Publisher.ts"
import * as Topics from "./client/Topics.ts"
import { browse } from "./kafkajs/Browse.ts"
import * as Client from "./kafkajs/Client.ts"
import { connect } from "./kafkajs/Cluster.ts"
import { consume } from "./kafkajs/Consumer.ts"
import { producing } from "./kafkajs/Producing.ts"

export type { Options, Sasl, Tls } from "./client/Options.ts"

/**
 * Kafka as a driver, for an engine of one's own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` where no Kafka answers, `Credentials` where it
 * refuses the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (
  options: KafkaOptions.Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = yield* KafkaOptions.check(options)
    if (settings.consumer.instanceId !== null) {
      return yield* Effect.fail(BrokerError.make({
        system: "kafka",
        operation: "connect",
        reason: "Unsupported",
        message: "kafkajs has no static members: leave consumer.instanceId out, or use KafkaPlatformatic."
      }))
    }
    const cluster = yield* connect(settings)
    const begun = new Begun()
    const kafka = Client.make(settings, yield* Client.logger(settings))
    const publisher = yield* Publisher.make(settings, producing(settings, kafka), cluster)
    return {
      system: "kafka",
      capabilities,
      consume: (options, sink) => consume(settings, cluster, begun, options, sink),
      publish: publisher.publish,
      declare: (declaration) => Topics.declare(settings, cluster, declaration),
      browse: (channel) => browse(settings, cluster, channel),
      check: Topics.check(settings, cluster),
      lag: (channel, group) => Topics.lag(settings, cluster, channel, group)
    }
  })

/**
 * Kafka as the broker of a program.
 *
 * **Example** (a subscription on Kafka)
 *
 * ```ts
 * import { Channel, type Message, Subscription } from "@millrace/core"
 * import { Kafka } from "@millrace/kafka"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes at ${message.position}`)
 *
 * const program = Subscription.layer(Subscription.make(Orders, { group: "billing", name: "count" }, count)).pipe(
 *   Layer.provide(Kafka.layer({ brokers: ["localhost:9092"] }))
 * )
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no Kafka at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: KafkaOptions.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Kafka with its address and credentials from the environment: `KAFKA_BROKERS` (`host:port,…`, or
 * `kafka://user:password@host:port`), `KAFKA_CLIENT_ID`, `KAFKA_TLS` (`on`, `off`), `KAFKA_SASL_MECHANISM`, `KAFKA_USERNAME`,
 * `KAFKA_PASSWORD`, `KAFKA_MISSING_TOPICS` (`refuse`, `create`). `options` go before the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<KafkaOptions.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(KafkaOptions.config, (found) => layer({ ...found, ...options })))
