/**
 * Apache Kafka by @platformatic/kafka: the faster client, and the one that speaks Kafka's group protocol "consumer" (KIP-848).
 *
 * What it promises is what `Kafka` promises, and the options are the same; `docs/kafka.md` says which to take. It needs Kafka
 * 3.1 or newer, the package `@platformatic/kafka` and a Node that this one runs on (22.22 or 24.6).
 */
import { type Broker, type BrokerError, type Driver, DriverOptions, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Admin from "./client/Admin.ts"
import { Begun } from "./client/Beginning.ts"
import { capabilities } from "./client/capabilities.ts"
import * as KafkaOptions from "./client/Options.ts"
import * as Publisher from "./client/Publisher.ts"
import * as Topics from "./client/Topics.ts"
import * as Transaction from "./client/Transaction.ts"
import { browse } from "./platformatic/Browse.ts"
import { connect } from "./platformatic/Cluster.ts"
import { consume, type GroupProtocol } from "./platformatic/Consumer.ts"
import { producing } from "./platformatic/Producing.ts"
import { transactional } from "./platformatic/Transactional.ts"

/** Options of this client: those of `Kafka`, and one more. */
export interface Options extends KafkaOptions.Options {
  /**
   * Kafka's `group.protocol`. By `classic`, all members of a group stop when one comes or goes. By `consumer`, the broker
   * divides the partitions and only those stop that move; it needs Kafka 4.0, and the broker sets the session timeout and the
   * heartbeat interval in place of `consumer.sessionTimeout` and `consumer.heartbeatInterval`. Default: `classic`.
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
 * Kafka as a driver, for an engine of one's own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` where no Kafka answers, `Credentials` where it
 * refuses the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (options: Options): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const [settings, protocol] = yield* checked(options)
    const cluster = yield* connect(settings)
    const begun = new Begun()
    const publisher = yield* Publisher.make(settings, producing(settings), cluster)
    return {
      system: "kafka",
      capabilities,
      consume: (options, sink) => consume(settings, cluster, begun, protocol, options, sink),
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
 * **Example** (a subscription by the protocol "consumer")
 *
 * ```ts no-run
 * import { Channel, type Message, Subscription } from "@millrace/core"
 * import * as KafkaPlatformatic from "@millrace/kafka/KafkaPlatformatic"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes at ${message.position}`)
 *
 * const program = Subscription.layer(Subscription.make(Orders, { group: "billing", name: "count" }, count)).pipe(
 *   Layer.provide(KafkaPlatformatic.layer({ brokers: ["localhost:9092"], groupProtocol: "consumer" }))
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
 * Kafka with its address and credentials from the environment, by the same variables as `Kafka.layerConfig`. What is given as
 * `options` goes before the environment.
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
 * `KafkaAdmin` by this client, connected at once: a wrong address, wrong credentials or a bad option fail with a `BrokerError`
 * that says what to do.
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
 * `KafkaTransaction` by this client, connected at once. With `after` it promises exactly once: the transaction names the member and
 * its generation, and Kafka refuses one whose partition is another member's by now.
 *
 * Fails with a `BrokerError` when an option is bad or Kafka cannot be reached.
 *
 * @category layers
 */
export const layerTransaction = (
  options: Transaction.TransactionOptions
): Layer.Layer<Transaction.KafkaTransaction, BrokerError.BrokerError> => Transaction.layer(options, transactional)
