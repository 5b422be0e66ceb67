/**
 * Apache Kafka by kafkajs.
 *
 * At least once: a position is committed when all below it is settled, and what was not is delivered again. Order is kept
 * within a partition; messages of one key share one.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as KafkaBrowse from "./KafkaBrowse.ts"
import * as KafkaClient from "./KafkaClient.ts"
import * as KafkaConsumer from "./KafkaConsumer.ts"
import * as KafkaOptions from "./KafkaOptions.ts"
import * as KafkaPublisher from "./KafkaPublisher.ts"
import * as KafkaTopics from "./KafkaTopics.ts"

export type { Options, Sasl, Tls } from "./KafkaOptions.ts"

const capabilities: Driver.Capabilities = {
  settlement: "position",
  ordering: "partition",
  redelivery: true,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: true,
  persistence: true,
  browse: true,
  tombstones: true,
  transactions: true
}

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
    const connection = yield* KafkaClient.make(options)
    const admin = yield* KafkaTopics.connect(connection)
    const publisher = yield* KafkaPublisher.make(connection, admin)
    return {
      system: "kafka",
      capabilities,
      consume: (consume, sink) => KafkaConsumer.consume(connection, admin, consume, sink),
      publish: publisher.publish,
      declare: (declaration) => KafkaTopics.declare(connection, admin, declaration),
      browse: (channel) => KafkaBrowse.browse(connection, admin, channel)
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
 * `KAFKA_PASSWORD`, `KAFKA_MISSING_TOPICS` (`refuse`, `create`). What is given as `options` goes before the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<KafkaOptions.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(KafkaOptions.config, (found) => layer({ ...found, ...options })))
