/**
 * NATS JetStream.
 *
 * At least once: each message is acknowledged individually, and unacknowledged messages are redelivered. A channel is a
 * subject, in a stream of its own or in an existing one. Consumers of a group share its messages; where order matters, one
 * consumer reads and the others stand by.
 */
import { type Broker, type BrokerError, type Driver, DriverOptions, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as JetStreamBrowse from "./internal/jetstream/Browse.ts"
import * as JetStreamConsumer from "./internal/jetstream/Consumer.ts"
import * as JetStreamOptions from "./internal/jetstream/Options.ts"
import * as JetStreamPublisher from "./internal/jetstream/Publisher.ts"
import * as JetStreamStreams from "./internal/jetstream/Topology.ts"
import * as Connection from "./internal/Connection.ts"
import * as NatsMessage from "./internal/Codec.ts"
import * as NatsOptions from "./internal/Options.ts"

export type { Issued } from "./internal/Credentials.ts"
export type { Options } from "./internal/jetstream/Options.ts"
export type { Tls } from "./internal/Options.ts"

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
  ...NatsMessage.features,
  transactions: false,
  patterns: true,
  lag: true,
  instructions: NatsMessage.instructions
}

/**
 * JetStream as a driver, for an engine of your own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no NATS answers, `Credentials` if the server
 * refuses the user, the password, the token or the certificate, `Unsupported` if the server runs without JetStream.
 *
 * @category constructors
 */
export const driver = (
  options: JetStreamOptions.Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const resolved = yield* NatsOptions.check("JetStream", options)
    const settings = yield* DriverOptions.checked("nats", "JetStream", () => JetStreamOptions.resolve(options))
    const client = yield* Connection.make(resolved)
    const publisher = yield* JetStreamPublisher.make(client, settings)
    const memory: JetStreamConsumer.Memory = { locks: new Map(), streams: new Set(), replies: new Map() }
    return {
      system: "nats",
      capabilities,
      consume: (consume, sink) => JetStreamConsumer.consume(client, settings, memory, consume, sink),
      publish: publisher.publish,
      declare: (declaration) => JetStreamStreams.declare(client, settings, declaration, memory.streams),
      browse: (channel) => JetStreamBrowse.browse(client, settings, channel),
      check: JetStreamStreams.check(client, settings),
      lag: (channel, group) => JetStreamStreams.lag(client, settings, channel, group)
    }
  })

/**
 * JetStream as the broker of a program.
 *
 * **Example** (a subscription on JetStream)
 *
 * ```ts
 * import { Broker, Channel, type Message, Subscription } from "@millrace/core"
 * import { JetStream } from "@millrace/nats"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes at ${message.position}`)
 *
 * const declared = Layer.effectDiscard(Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel: "orders" })))
 * const program = Subscription.layer(Subscription.make(Orders, { group: "billing", name: "count" }, count)).pipe(
 *   Layer.provide(declared),
 *   Layer.provide(JetStream.layer({ servers: "localhost:4222" }))
 * )
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no NATS at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: JetStreamOptions.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * JetStream with its address and credentials from the environment: `NATS_SERVERS` (`host:port,…`, or
 * `nats://user:password@host:port`), `NATS_CLIENT_ID`, `NATS_USERNAME` with `NATS_PASSWORD`, `NATS_TOKEN`,
 * `NATS_CREDENTIALS` (a file), `NATS_NKEY`, `NATS_TLS` (`auto`, `on`). `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<JetStreamOptions.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(NatsOptions.config, (found) => layer({ ...found, ...options })))
