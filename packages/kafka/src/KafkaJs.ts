/**
 * Apache Kafka by kafkajs, for old brokers (0.11 and newer) and for a Node below 22.22. It needs the package `kafkajs`.
 *
 * Delivery is at least once, as with `Kafka`, and the options are the same. kafkajs has no group protocol "consumer", no static
 * members and no exactly-once transactions; `docs/kafka.md` has the table.
 */
import { type Broker, BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Admin from "./internal/Admin.ts"
import { Begun } from "./internal/Beginning.ts"
import { capabilities } from "./internal/capabilities.ts"
import * as KafkaOptions from "./internal/Options.ts"
import * as Publisher from "./internal/Publisher.ts"
import * as Topology from "./internal/Topology.ts"
import * as Transaction from "./internal/Transaction.ts"
import { browse } from "./internal/kafkajs/Browse.ts"
import * as Connection from "./internal/kafkajs/Connection.ts"
import { connect } from "./internal/kafkajs/Cluster.ts"
import { consume } from "./internal/kafkajs/Consumer.ts"
import { producers } from "./internal/kafkajs/Publisher.ts"
import { transactional } from "./internal/kafkajs/Transaction.ts"

export type { Options, Sasl, Tls } from "./internal/Options.ts"

const unsupported = (message: string): BrokerError.BrokerError =>
  BrokerError.make({ system: "kafka", operation: "connect", reason: "Unsupported", message })

/** Checks options and refuses those that kafkajs does not support. */
const check = (options: KafkaOptions.Options): Effect.Effect<KafkaOptions.ResolvedOptions, BrokerError.BrokerError> =>
  Effect.flatMap(KafkaOptions.check(options), (settings) => {
    const { instanceId, rack } = settings.consumer
    if (instanceId !== null) {
      return Effect.fail(unsupported("kafkajs has no static members: leave consumer.instanceId out, or use Kafka."))
    }
    if (options.consumer?.progress === "metadata") {
      return Effect.fail(unsupported("kafkajs commits offsets alone: leave consumer.progress out, or use Kafka."))
    }
    // kafkajs's check of the preferred read replica is never true, so it resets the offset when a follower lags behind
    return rack === ""
      ? Effect.succeed(settings)
      : Effect.fail(unsupported(
        "kafkajs goes back to the first message where a near replica is behind: leave consumer.rack out, or use Kafka."
      ))
  })

/**
 * Connects to Kafka as a driver for an engine of the caller's own. The connection closes with the scope.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no Kafka answers, `Credentials` if Kafka refuses
 * the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (
  options: KafkaOptions.Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const settings = yield* check(options)
    const cluster = yield* connect(settings)
    const begun = new Begun()
    const kafka = Connection.make(settings, yield* Connection.logger(settings))
    const publisher = yield* Publisher.make(settings, producers(settings, kafka), cluster)
    return {
      system: "kafka",
      capabilities,
      consume: (options, sink) => consume(settings, cluster, begun, options, sink),
      publish: publisher.publish,
      declare: (declaration) => Topology.declare(settings, cluster, declaration),
      browse: (channel) => browse(settings, cluster, channel),
      check: Topology.check(settings, cluster),
      lag: (channel, group) => Topology.lag(settings, cluster, channel, group)
    }
  })

/**
 * Provides Kafka as the broker of a program.
 *
 * **Example** (a subscription on Kafka)
 *
 * ```ts
 * import { Channel, type Message, Subscription } from "@millrace/core"
 * import * as KafkaJs from "@millrace/kafka/KafkaJs"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes at ${message.position}`)
 *
 * const program = Subscription.layer(Subscription.make(Orders, { group: "billing", name: "count" }, count)).pipe(
 *   Layer.provide(KafkaJs.layer({ brokers: ["localhost:9092"] }))
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
 * Provides Kafka with its address and credentials from the environment, by the same variables as `Kafka.layerConfig`.
 * `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<KafkaOptions.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(KafkaOptions.config, (found) => layer({ ...found, ...options })))

/**
 * Provides the service `KafkaAdmin` of `@millrace/kafka/KafkaAdmin` by this client and connects at once.
 *
 * Fails with a `BrokerError` that says what to do if an option is bad, the address is wrong or the credentials are refused.
 *
 * @category layers
 */
export const layerAdmin = (
  options: KafkaOptions.Options
): Layer.Layer<Admin.KafkaAdmin, BrokerError.BrokerError> =>
  Layer.effect(
    Admin.KafkaAdmin,
    Effect.gen(function*() {
      const settings = yield* check(options)
      return Admin.make(settings, yield* connect(settings))
    })
  )

/**
 * Provides the service `KafkaTransaction` of `@millrace/kafka/KafkaTransaction` by this client and connects at once.
 *
 * With `after`, transactions are **at least once**: kafkajs cannot name the member whose offsets a transaction commits, so
 * the layer checks the membership just before the commit. `Kafka.layerTransaction` is exactly once, also for consumers by
 * kafkajs.
 *
 * Fails with a `BrokerError` when an option is bad or Kafka cannot be reached.
 *
 * @category layers
 */
export const layerTransaction = (
  options: Transaction.TransactionOptions
): Layer.Layer<Transaction.KafkaTransaction, BrokerError.BrokerError> => Transaction.layer(options, transactional)
