/**
 * Apache Kafka by @platformatic/kafka, the default client. It needs Kafka 3.1 or newer, the package `@platformatic/kafka`, and
 * Node 22.22 or 24.6. `KafkaJs` has the same options and runs on older ones.
 *
 * Delivery is at least once: an offset is committed when all messages below it are settled, and unsettled messages are
 * redelivered. Order is kept within a partition; messages of one key share a partition.
 */
import { type Broker, type BrokerError, type Driver, DriverOptions, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Admin from "./internal/Admin.ts"
import { Begun } from "./internal/Beginning.ts"
import { capabilities } from "./internal/capabilities.ts"
import * as KafkaOptions from "./internal/Options.ts"
import * as Publisher from "./internal/Publisher.ts"
import * as Topology from "./internal/Topology.ts"
import * as Transaction from "./internal/Transaction.ts"
import { browse } from "./internal/platformatic/Browse.ts"
import { connect } from "./internal/platformatic/Cluster.ts"
import { consume, type GroupProtocol } from "./internal/platformatic/Consumer.ts"
import { producers } from "./internal/platformatic/Publisher.ts"
import { transactional } from "./internal/platformatic/Transaction.ts"

export type { Sasl, Tls } from "./internal/Options.ts"

/** Options of this client: those of `KafkaJs` and `groupProtocol`. */
export interface Options extends KafkaOptions.Options {
  /**
   * Kafka's `group.protocol`. With `classic`, a rebalance stops all members of the group. With `consumer`, the broker assigns
   * the partitions and a rebalance stops only the partitions that move; this needs Kafka 4.0, and the broker sets the session
   * timeout and the heartbeat interval in place of `consumer.sessionTimeout` and `consumer.heartbeatInterval`. Default:
   * `classic`.
   */
  readonly groupProtocol?: GroupProtocol | undefined
}

const checked = (options: Options) =>
  Effect.zip(
    KafkaOptions.check(options),
    KafkaOptions.checked(() =>
      DriverOptions.oneOf("groupProtocol", options.groupProtocol, ["classic", "consumer"], "classic")
    )
  )

/**
 * Connects to Kafka as a driver for an engine of the caller's own. The connection closes with the scope.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no Kafka answers, `Credentials` if Kafka refuses
 * the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (options: Options): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const [settings, protocol] = yield* checked(options)
    const cluster = yield* connect(settings)
    const begun = new Begun()
    const publisher = yield* Publisher.make(settings, producers(settings), cluster)
    return {
      system: "kafka",
      capabilities,
      consume: (options, sink) => consume(settings, cluster, begun, protocol, options, sink),
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
 * **Example** (a subscription by the protocol "consumer")
 *
 * ```ts no-run
 * import { Channel, type Message, Subscription } from "@millrace/core"
 * import { Kafka } from "@millrace/kafka"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes at ${message.position}`)
 *
 * const program = Subscription.layer(Subscription.make(Orders, { group: "billing", name: "count" }, count)).pipe(
 *   Layer.provide(Kafka.layer({ brokers: ["localhost:9092"], groupProtocol: "consumer" }))
 * )
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no Kafka at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Provides Kafka with its address and credentials from the environment: `KAFKA_BROKERS` (`host:port,…`, or
 * `kafka://user:password@host:port`), `KAFKA_CLIENT_ID`, `KAFKA_TLS` (`on`, `off`), `KAFKA_SASL_MECHANISM`, `KAFKA_USERNAME`,
 * `KAFKA_PASSWORD`, `KAFKA_MISSING_TOPICS` (`refuse`, `create`). `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(KafkaOptions.config, (found) => layer({ ...found, ...options })))

/**
 * Provides the service `KafkaAdmin` by this client and connects at once.
 *
 * **Example** (a topic with the settings that the program needs)
 *
 * ```ts
 * import { Kafka, KafkaAdmin } from "@millrace/kafka"
 * import { Effect } from "effect"
 *
 * const program = Effect.gen(function*() {
 *   const admin = yield* KafkaAdmin.KafkaAdmin
 *   yield* admin.declare({ channel: "orders", partitions: 16, settings: { "retention.ms": "86400000" } })
 *   yield* Effect.log(yield* admin.lag("billing", "orders"))
 * }).pipe(Effect.provide(Kafka.layerAdmin({ brokers: "localhost:9092" })))
 * ```
 *
 * Fails with a `BrokerError` that says what to do if an option is bad, the address is wrong or the credentials are refused.
 *
 * @category layers
 */
export const layerAdmin = (options: Options): Layer.Layer<Admin.KafkaAdmin, BrokerError.BrokerError> =>
  Layer.effect(
    Admin.KafkaAdmin,
    Effect.gen(function*() {
      const [settings] = yield* checked(options)
      return Admin.make(settings, yield* connect(settings))
    })
  )

/**
 * Provides the service `KafkaTransaction` by this client and connects at once. With `after`, transactions are exactly once: a
 * transaction names the member and its generation, and Kafka refuses the transaction if the partition has moved to another
 * member.
 *
 * Fails with a `BrokerError` when an option is bad or Kafka cannot be reached.
 *
 * @category layers
 */
export const layerTransaction = (
  options: Transaction.TransactionOptions
): Layer.Layer<Transaction.KafkaTransaction, BrokerError.BrokerError> => Transaction.layer(options, transactional)
