/**
 * MQTT 5 by mqtt.js.
 *
 * At QoS 1 and 2 at least once: a message is acknowledged when it is settled, and unacknowledged messages are redelivered.
 * At QoS 0 at most once. Processes of a group share its messages without order, or one process receives all of them in
 * order.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope, Stream } from "effect"
import * as MqttConsumer from "./internal/Consumer.ts"
import * as MqttError from "./internal/Errors.ts"
import { instructions } from "./internal/Codec.ts"
import * as MqttOptions from "./internal/Options.ts"
import { features } from "./internal/Packet.ts"
import * as MqttPublisher from "./internal/Publisher.ts"
import * as MqttTopics from "./internal/Topology.ts"

export type { Issued, Options, Tls } from "./internal/Options.ts"

const capabilities = ({ qos, sharing }: MqttOptions.ResolvedOptions): Driver.Capabilities => ({
  settlement: qos === 0 ? "none" : sharing === "exclusive" ? "position" : "message",
  ordering: sharing === "exclusive" ? "channel" : "none",
  redelivery: qos > 0,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: sharing === "group",
  fanOut: true,
  retention: false,
  replay: false,
  persistence: qos > 0,
  browse: false,
  ...features,
  transactions: false,
  patterns: true,
  lag: false,
  instructions
})

/**
 * MQTT as a driver, for an engine of your own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no MQTT server answers, `Credentials` if the
 * server refuses the user, the password or the certificate, `Unsupported` if the server does not speak MQTT 5.
 *
 * @category constructors
 */
export const driver = (
  options: MqttOptions.Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const resolved = yield* MqttOptions.check(options)
    const sessions = yield* MqttConsumer.sessions(resolved)
    const publisher = yield* MqttPublisher.make(resolved)
    return {
      system: "mqtt",
      capabilities: capabilities(resolved),
      consume: (consume, sink) => MqttConsumer.consume(resolved, sessions, consume, sink),
      publish: publisher.publish,
      declare: MqttTopics.declare,
      browse: (channel) =>
        Stream.fail(MqttError.unsupported(
          "browse",
          `MQTT cannot show what is in ${channel}: a server keeps messages for sessions, and only its sessions get them.`
        )),
      check: publisher.check,
      lag: (channel, group) =>
        Effect.fail(MqttError.unsupported(
          "lag",
          `MQTT does not tell how far ${group} is behind in ${channel}: ask the server's own statistics.`
        ))
    }
  })

/**
 * MQTT as the broker of a program.
 *
 * **Example** (a subscription on MQTT)
 *
 * ```ts no-run
 * import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
 * import { Mqtt } from "@millrace/mqtt"
 * import { Effect, Layer } from "effect"
 *
 * const Readings = Channel.bytes("plant/{machine}/temperature")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes of ${message.channel}`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Readings, { group: "monitor", name: "count", lanes: Lanes.unordered(16) }, count)
 * ).pipe(Layer.provide(Mqtt.layer({ url: "mqtt://localhost", clientId: "monitor-1" })))
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no server at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: MqttOptions.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * MQTT with its address and credentials from the environment: `MQTT_URL` (`mqtt://user:password@host:port`, or `mqtts`,
 * `ws`, `wss`), `MQTT_CLIENT_ID`, and optionally `MQTT_USERNAME`, `MQTT_PASSWORD` and `MQTT_QOS` (`0`, `1`, `2`). `options`
 * override the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<MqttOptions.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(MqttOptions.config, (found) => layer({ ...found, ...options })))
