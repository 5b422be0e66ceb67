/**
 * RabbitMQ by amqplib.
 *
 * Delivery is at least once: a message is acknowledged when it is settled, and unsettled messages are redelivered. If a
 * channel's subscriptions ask for order, one member of a group consumes at a time; otherwise the members share its messages.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as Browse from "./internal/Browse.ts"
import * as Channels from "./internal/Channels.ts"
import * as Connection from "./internal/Connection.ts"
import type { Consumer } from "./internal/Consumer.ts"
import * as Errors from "./internal/Errors.ts"
import * as GroupMember from "./internal/GroupMember.ts"
import * as Groups from "./internal/Groups.ts"
import { check, config, type Options, type ResolvedOptions } from "./internal/Options.ts"
import { features, instructions } from "./internal/Properties.ts"
import * as Publisher from "./internal/Publisher.ts"
import * as Requests from "./internal/Requests.ts"
import * as Topology from "./internal/Topology.ts"

export type { Issued, Options, Route, Tls } from "./internal/Options.ts"

const capabilitiesOf = ({ log, queueType }: ResolvedOptions): Driver.Capabilities => ({
  settlement: "message",
  ordering: "channel",
  redelivery: true,
  delay: queueType === "quorum",
  deadLetter: false,
  attempts: queueType === "quorum",
  groups: true,
  fanOut: true,
  // without a log, messages published before a group begins are not kept for it
  retention: log === "stream",
  replay: log === "stream",
  persistence: true,
  browse: log === "stream",
  ...features,
  transactions: false,
  patterns: true,
  lag: true,
  instructions
})

/**
 * Connects to RabbitMQ as a driver for an engine of the caller's own. The connections close with the scope.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` if no RabbitMQ answers, `Credentials` if RabbitMQ
 * refuses the user, the password or the certificate, `NotFound` or `Permission` if the virtual host is missing or the user
 * has no access to it.
 *
 * @category constructors
 */
export const driver = (
  options: Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const resolved = yield* check(options)
    // RabbitMQ stops reading from a publishing connection when memory or disk is short; consumers go on
    const publishing = yield* Connection.make(resolved, "publishes")
    const consuming = yield* Connection.make(resolved, "consumes")
    yield* Requests.ask(resolved, "connect", () => publishing.open())
    const temporary = new Set<string>()
    const declare = (declaration: Driver.Declaration) =>
      Effect.map(Topology.declare(publishing, declaration), () => {
        if (declaration.temporary === true) temporary.add(declaration.channel)
      })
    const publisher = yield* Publisher.make(publishing, (channel) => declare({ channel }))
    const consumers = new Map<string, Set<Consumer>>()
    return {
      system: "rabbitmq",
      capabilities: capabilitiesOf(resolved),
      consume: (consume, sink) => GroupMember.consume(consuming, publishing, consumers, temporary, consume, sink),
      publish: publisher.publish,
      declare,
      browse: (channel) => Browse.browse(publishing, channel),
      check: Effect.suspend(() => {
        // open connections work until their credentials expire
        const unissued = resolved.credentials?.lastError()
        if (unissued !== undefined) return Effect.fail(unissued)
        return publishing.blocked === undefined
          ? Requests.ask(
            resolved,
            "check",
            () => Channels.using(publishing, Channels.plain, () => Promise.resolve())
          )
          : Effect.fail(Errors.alarmed("check", resolved.place, publishing.blocked))
      }),
      lag: (channel, group) =>
        Effect.map(Groups.ready(publishing, channel, group), (ready) => {
          if (ready === undefined) return []
          let messages = ready
          const queue = resolved.channels.get(channel)?.queue ?? Topology.queueOf(channel, group)
          for (const { held } of consumers.get(queue) ?? []) messages += held
          return [{ partition: 0, messages }]
        })
    }
  })

/**
 * Provides RabbitMQ as the broker of a program.
 *
 * **Example** (a subscription on RabbitMQ)
 *
 * ```ts
 * import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
 * import { RabbitMq } from "@millrace/rabbitmq"
 * import { Effect, Layer } from "effect"
 *
 * const Orders = Channel.bytes("orders")
 * const count = (message: Message<Uint8Array>) => Effect.log(`${message.payload.length} bytes, attempt ${message.attempt}`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Orders, { group: "billing", name: "count", lanes: Lanes.unordered(100) }, count)
 * ).pipe(
 *   Layer.provide(RabbitMq.layer({ url: "amqp://guest:guest@localhost:5672" }))
 * )
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no RabbitMQ at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Provides RabbitMQ with its address and credentials from the environment: `RABBITMQ_URL`
 * (`amqp://user:password@host:port/vhost`), `RABBITMQ_USERNAME`, `RABBITMQ_PASSWORD`, `RABBITMQ_CLIENT_ID`,
 * `RABBITMQ_QUEUE_TYPE` (`quorum`, `classic`), `RABBITMQ_MISSING_CHANNELS` (`refuse`, `create`). `options` override the
 * environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(config, (found) => layer({ ...found, ...options })))
