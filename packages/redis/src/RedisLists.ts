/**
 * Redis lists as work queues, by ioredis.
 *
 * At least once, and each message to one consumer: a list has one group, whose consumers share it. What a consumer has and
 * has not settled is kept beside the list, and goes back to its head when the consumer is gone. Deliveries are not counted,
 * and no order is kept among consumers. Any program can push plain values with `RPUSH`. Needs Redis 7.0 or newer, or
 * Valkey.
 */
import {
  type Broker,
  type BrokerError,
  type Delivery,
  delivery,
  type Driver,
  DriverOptions,
  Engine
} from "@millrace/core"
import { type Config, type Duration, Effect, Layer, Option, type Scope, Stream } from "effect"
import * as Client from "./client/Client.ts"
import * as Declaration from "./client/Declaration.ts"
import * as Envelope from "./client/Envelope.ts"
import * as Environment from "./client/Environment.ts"
import * as ClientOptions from "./client/Options.ts"
import { originOf } from "./client/Origin.ts"
import * as Publishing from "./client/Publishing.ts"
import { consume, keysOf } from "./lists/Consumer.ts"
import * as Scripts from "./lists/Scripts.ts"

export type { Issued, Tls } from "./client/Options.ts"
export type { Wait } from "./client/Publishing.ts"

/** Options of Redis lists. */
export interface Options extends ClientOptions.Options {
  /** Consuming. */
  readonly consumer?: {
    /** A consumer without a sign of life for so long loses its messages to the others; from 100 ms. Default: 30 seconds. */
    readonly claim?: Duration.Input | undefined
    /** How long Redis may wait for messages to come before it answers that there are none. Default: 1 second. */
    readonly maximumWait?: Duration.Input | undefined
  } | undefined
  /**
   * Makes a publish wait until replicas have its messages, by a connection of its own (`WAIT`). Default: the primary's answer is
   * enough, and a failover may lose the last messages.
   */
  readonly wait?: Publishing.Wait | undefined
}

const capabilities: Driver.Capabilities = {
  settlement: "message",
  ordering: "none",
  redelivery: true,
  delay: false,
  deadLetter: false,
  attempts: false,
  groups: true,
  fanOut: false,
  retention: false,
  replay: true,
  persistence: true,
  browse: true,
  ...Publishing.features,
  transactions: false,
  patterns: false,
  lag: true
}

const check = (options: Options) =>
  DriverOptions.checked("redis", "RedisLists", () => {
    const settings = ClientOptions.settings(options)
    const maximumWait = DriverOptions.millis("consumer.maximumWait", options.consumer?.maximumWait, 1000)
    if (maximumWait >= settings.commandTimeout) {
      DriverOptions.bad(
        `consumer.maximumWait must be less than commandTimeout (${settings.commandTimeout} ms), got ${maximumWait} ms`
      )
    }
    return {
      settings,
      wait: Publishing.replicas(options.wait, settings.commandTimeout),
      maximumWait,
      claim: DriverOptions.millis("consumer.claim", options.consumer?.claim, 30_000, 100)
    }
  })

const declare = (connection: Client.Client, declaration: Driver.Declaration) => {
  const refused = Declaration.refuse(declaration)
  if (refused !== undefined) return Effect.fail(refused)
  const { channel } = declaration
  // an empty list is no key at all, so all there is to see is whether something else is there
  return Effect.asVoid(connection.attempt("declare", () => connection.send(channel, "LLEN", [channel]), { channel }))
}

const page = 256

const browse = (
  connection: Client.Client,
  channel: string
): Stream.Stream<Delivery, BrokerError.BrokerError> => {
  const origin = originOf(channel)
  const range = (key: string, from: number) =>
    Effect.map(
      connection.attempt("browse", () => connection.send(key, "LRANGE", [key, from, from + page - 1]), { channel }),
      // a list of values
      (reply) => reply as ReadonlyArray<Buffer>
    )
  const pages = (key: string) =>
    Stream.paginate(
      0,
      (from) =>
        Effect.map(range(key, from), (found) =>
          [found, found.length < page ? Option.none() : Option.some(from + page)] as const)
    )
  // what is published meanwhile is not read: a reader that publishes here would never end
  const values = (key: string) =>
    Stream.unwrap(
      Effect.map(
        connection.attempt("browse", () => connection.send(key, "LLEN", [key]), { channel }),
        (length) => Stream.take(pages(key), Number(length))
      )
    )
  return Stream.concat(values(keysOf(channel).first), values(channel)).pipe(
    Stream.map((value) => Envelope.open(value)),
    Stream.zipWithIndex,
    Stream.map(([envelope, i]) => delivery(origin, Envelope.reader, envelope, i + 1, Envelope.bodyOf(envelope), 1))
  )
}

/**
 * Redis lists as a driver, for an engine of one's own; connected as long as the scope is open.
 *
 * Fails with a `BrokerError`: `Invalid` for a bad option, `Unreachable` where no Redis answers, `Credentials` where it
 * refuses the user, the password or the certificate.
 *
 * @category constructors
 */
export const driver = (
  options: Options
): Effect.Effect<Driver.Driver, BrokerError.BrokerError, Scope.Scope> =>
  Effect.gen(function*() {
    const checked = yield* check(options)
    const connection = yield* Client.open(checked.settings)
    // a connection that waits for replicas holds up every command behind it
    const publishing = checked.wait === undefined ? connection : yield* Client.open(checked.settings)
    const lists = { ...checked, connection }
    return {
      system: "redis",
      capabilities,
      consume: (consumer, sink) => consume(lists, consumer, sink),
      publish: (batch) =>
        Publishing.publish(
          publishing,
          batch,
          (outgoing) => ["RPUSH", outgoing.channel, Envelope.toValue(outgoing)],
          checked.wait
        ),
      declare: (declaration) => declare(connection, declaration),
      browse: (channel) => browse(connection, channel),
      check: connection.check,
      lag: (channel, group) => {
        const keys = keysOf(channel)
        return Effect.map(
          connection.perform("lag", Scripts.lag, [keys.alive, keys.group, channel, keys.first], [group, keys.taken], {
            channel,
            group
          }),
          // a list of at most one number
          (reply) => (reply as ReadonlyArray<number>).map((messages) => ({ partition: 0, messages }))
        )
      }
    }
  })

/**
 * Redis lists as the broker of a program.
 *
 * **Example** (workers that share a queue)
 *
 * ```ts
 * import { Channel, Lanes, type Message, Subscription } from "@millrace/core"
 * import { RedisLists } from "@millrace/redis"
 * import { Effect, Layer } from "effect"
 *
 * const Thumbnails = Channel.bytes("thumbnails")
 * const draw = (message: Message<Uint8Array>) => Effect.log(`drawn from ${message.payload.length} bytes`)
 *
 * const program = Subscription.layer(
 *   Subscription.make(Thumbnails, { group: "drawers", name: "draw", lanes: Lanes.unordered(8) }, draw)
 * ).pipe(Layer.provide(RedisLists.layer({ url: "redis://localhost:6379" })))
 * ```
 *
 * Fails with a `BrokerError` whose message says what to do: a bad option, no Redis at the address, wrong credentials.
 *
 * @category layers
 */
export const layer = (options: Options): Layer.Layer<Broker.Broker, BrokerError.BrokerError> =>
  Engine.layer(driver(options))

/**
 * Redis lists with address and credentials from the environment: `REDIS_URL` (`redis://user:password@host:port/db`, or
 * `rediss://` for TLS), `REDIS_CLUSTER` or `REDIS_SENTINELS` (addresses between commas) with `REDIS_SENTINEL_NAME`;
 * `REDIS_USERNAME`, `REDIS_PASSWORD`, `REDIS_TLS` (`on`, `off`), `REDIS_CLIENT_NAME`. `options` go before
 * the environment.
 *
 * Fails with a `ConfigError` that names the variable, or as `layer` does.
 *
 * @category layers
 */
export const layerConfig = (
  options: Options = {}
): Layer.Layer<Broker.Broker, BrokerError.BrokerError | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Environment.config(options), layer))
