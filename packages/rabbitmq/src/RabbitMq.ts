/**
 * RabbitMQ by amqplib.
 *
 * At least once: a message is acknowledged when it is settled, and what was not is delivered again. A channel is in order where
 * its subscriptions ask for it, one member of a group at a time; else the members share its messages.
 */
import { type Broker, type BrokerError, type Driver, Engine } from "@millrace/core"
import { type Config, Effect, Layer, type Scope } from "effect"
import * as RabbitMqBrowse from "./RabbitMqBrowse.ts"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqConsumer from "./RabbitMqConsumer.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import * as RabbitMqGroups from "./RabbitMqGroups.ts"
import type { Member } from "./RabbitMqMember.ts"
import { features, instructions } from "./RabbitMqProperties.ts"
import * as RabbitMqOptions from "./RabbitMqOptions.ts"
import * as RabbitMqPublisher from "./RabbitMqPublisher.ts"
import * as RabbitMqTopology from "./RabbitMqTopology.ts"

export type { Options, Route, Tls } from "./RabbitMqOptions.ts"

const capabilitiesOf = ({ log, queueType }: RabbitMqOptions.Connection): Driver.Capabilities => ({
  settlement: "message",
  ordering: "channel",
  redelivery: true,
  delay: queueType === "quorum",
  deadLetter: false,
  attempts: queueType === "quorum",
  groups: true,
  fanOut: true,
  // without a log nothing is kept for a group that is not there yet
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
 * RabbitMQ as a driver, for an engine of one's own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` where no RabbitMQ answers, `Credentials` where it
 * refuses the user, the password or the certificate, `NotFound` or `Permission` where the virtual host is missing or not the
 * user's.
 *
 * @category constructors
 */
export const driver = (
  options: RabbitMqOptions.Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const connection = yield* RabbitMqOptions.check(options)
    // RabbitMQ stops reading from a connection that publishes when memory or disk is short; consumers go on
    const publishing = yield* RabbitMqClient.link(connection, "publishes")
    const consuming = yield* RabbitMqClient.link(connection, "consumes")
    yield* RabbitMqClient.ask(connection, "connect", () => publishing.open())
    const temporary = new Set<string>()
    const declare = (declaration: Driver.Declaration) =>
      Effect.map(RabbitMqTopology.declare(publishing, declaration), () => {
        if (declaration.temporary === true) temporary.add(declaration.channel)
      })
    const publisher = yield* RabbitMqPublisher.make(publishing, (channel) => declare({ channel }))
    const members = new Map<string, Set<Member>>()
    return {
      system: "rabbitmq",
      capabilities: capabilitiesOf(connection),
      consume: (consume, sink) => RabbitMqConsumer.consume(consuming, publishing, members, temporary, consume, sink),
      publish: publisher.publish,
      declare,
      browse: (channel) => RabbitMqBrowse.browse(publishing, channel),
      check: Effect.suspend(() =>
        publishing.blocked === undefined
          ? RabbitMqClient.ask(connection, "check", () =>
            RabbitMqClient.using(publishing, RabbitMqClient.plain, () => Promise.resolve()))
          : Effect.fail(RabbitMqError.alarmed("check", connection.place, publishing.blocked))
      ),
      lag: (channel, group) =>
        Effect.map(RabbitMqGroups.ready(publishing, channel, group), (ready) => {
          if (ready === undefined) return []
          let messages = ready
          const queue = connection.channels.get(channel)?.queue ?? RabbitMqTopology.queueOf(channel, group)
          for (const member of members.get(queue) ?? []) messages += member.held
          return [{ partition: 0, messages }]
        })
    }
  })

/**
 * RabbitMQ as the broker of a program.
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
export const layer = (options: RabbitMqOptions.Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * RabbitMQ with its address and credentials from the environment: `RABBITMQ_URL` (`amqp://user:password@host:port/vhost`),
 * `RABBITMQ_USERNAME`, `RABBITMQ_PASSWORD`, `RABBITMQ_CLIENT_ID`, `RABBITMQ_QUEUE_TYPE` (`quorum`, `classic`),
 * `RABBITMQ_MISSING_CHANNELS` (`refuse`, `create`). `options` go before the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options?: Partial<RabbitMqOptions.Options>
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(RabbitMqOptions.config, (found) => layer({ ...found, ...options })))
