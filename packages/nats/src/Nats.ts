/**
 * Core NATS: fast, and at most once. A message is lost if no consumer is subscribed when it is published, or if a consumer
 * dies after receiving it. Consumers of one group share the messages; each group gets all of them. Use `JetStream` for
 * messages that must not be lost.
 */
import { type Broker, type BrokerError, type Driver, DriverOptions, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope, Stream } from "effect"
import * as Connection from "./internal/Connection.ts"
import * as NatsConsumer from "./internal/core/Consumer.ts"
import * as NatsError from "./internal/Errors.ts"
import * as NatsMessage from "./internal/Codec.ts"
import * as NatsNames from "./internal/Names.ts"
import * as NatsOptions from "./internal/Options.ts"
import * as NatsPublisher from "./internal/core/Publisher.ts"

export type { Issued } from "./internal/Credentials.ts"
export type { Tls } from "./internal/Options.ts"

/** Options of core NATS. */
export interface Options extends NatsOptions.Options {
  /** The most messages that wait while the handlers are busy; later messages are dropped, with a warning. */
  readonly waiting?: {
    /** An integer from 1. Default: 65,536. */
    readonly messages?: number | undefined
    /** Bytes of bodies; an integer from 1. Default: 64 MiB. */
    readonly bytes?: number | undefined
  } | undefined
}

const capabilities: Driver.Capabilities = {
  settlement: "none",
  ordering: "none",
  redelivery: false,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: true,
  fanOut: true,
  retention: false,
  replay: false,
  persistence: false,
  browse: false,
  ...NatsMessage.features,
  transactions: false,
  patterns: true,
  lag: false,
  instructions: NatsMessage.instructions
}

const declare = (
  { channel, partitions, settings = {} }: Driver.Declaration
): Effect.Effect<void, BrokerError.BrokerError> => {
  const refused = NatsNames.refuse(channel)
  if (refused !== undefined) return Effect.fail(NatsError.invalid("declare", refused))
  if (partitions !== undefined && partitions !== 1) {
    return Effect.fail(
      NatsError.make(
        "declare",
        "Unsupported",
        `A subject of NATS has no partitions, and ${channel} was declared with ${partitions}.`
      )
    )
  }
  const [setting] = Object.keys(settings)
  return setting === undefined
    // a subject exists while a client subscribes to it
    ? Effect.void
    : Effect.fail(
      NatsError.invalid("declare", `A subject of NATS has no settings, and ${channel} was declared with ${setting}.`)
    )
}

/**
 * Core NATS as a driver, for an engine of your own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no NATS answers, `Credentials` if the server
 * refuses the user, the password, the token or the certificate.
 *
 * @category constructors
 */
export const driver = (options: Options): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const resolved = yield* NatsOptions.check("Nats", options)
    const bound = yield* DriverOptions.checked("nats", "Nats", () => ({
      messages: DriverOptions.integer("waiting.messages", options.waiting?.messages, 65_536),
      bytes: DriverOptions.integer("waiting.bytes", options.waiting?.bytes, 64 * 1024 * 1024)
    }))
    const client = yield* Connection.make(resolved)
    const unsupported = (operation: "browse" | "lag", what: string) =>
      Effect.fail(
        NatsError.make(operation, "Unsupported", `Core NATS keeps no messages, so it ${what}: use JetStream.`)
      )
    return {
      system: "nats",
      capabilities,
      consume: (consume, sink) => NatsConsumer.consume(client, bound, consume, sink),
      publish: (batch) => NatsPublisher.publish(client, batch),
      declare,
      browse: () => Stream.fromEffect(unsupported("browse", "shows none")),
      check: client.check,
      lag: () => unsupported("lag", "counts none")
    }
  })

/**
 * Core NATS as the broker of a program.
 *
 * **Example** (a subscription on NATS)
 *
 * ```ts
 * import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
 * import { Nats } from "@millrace/nats"
 * import { Effect, Layer } from "effect"
 *
 * const Prices = Channel.bytes("prices.{symbol}")
 * const show = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes of ${message.channel}`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Prices, { group: "ticker", name: "show", lanes: Lanes.unordered(16) }, show)
 * ).pipe(Layer.provide(Nats.layer({ servers: "localhost:4222" })))
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no NATS at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Core NATS with its address and credentials from the environment: `NATS_SERVERS` (`host:port,…`, or
 * `nats://user:password@host:port`), `NATS_CLIENT_ID`, `NATS_USERNAME` with `NATS_PASSWORD`, `NATS_TOKEN`,
 * `NATS_CREDENTIALS` (a file), `NATS_NKEY`, `NATS_TLS` (`auto`, `on`). `options` override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(NatsOptions.config, (found) => layer({ ...found, ...options })))
