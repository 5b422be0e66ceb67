/**
 * The layout of channels and groups in RabbitMQ.
 *
 * All channels share one durable topic exchange; a channel's name is its routing key. A declared channel has a log, a stream
 * of its name. Each group has a durable queue for each channel or pattern that it reads, `CHANNEL@GROUP`, bound by the name,
 * or by the pattern translated for topic exchanges. For a group that begins with the earliest message, the queue is filled
 * from the log before it is consumed; an exchange of the queue's name records that the group has begun.
 */
import { Address, type BrokerError, type Driver } from "@millrace/core"
import { Effect } from "effect"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Options from "./Options.ts"
import * as Requests from "./Requests.ts"

type Failed = BrokerError.BrokerError

// the unit in which a log drops messages when it is too old or too long
const segment = 64_000_000

/** Names the queue of a group. */
export const queueOf = (channel: string, group: string): string => `${channel}@${group}`

/** Names the queue that serves as a lock, so members of a group that keeps order consume one at a time. */
export const lockOf = (queue: string): string => `${queue}@lock`

/** The exchange and the routing key to publish to. */
export interface Target {
  readonly exchange: string
  readonly key: string
}

/**
 * Whether a reply goes to a caller that consumes without a queue (direct reply-to): the reply is not routed to a queue, so
 * RabbitMQ returns it if it is `mandatory`.
 */
export const isDirectReply = (channel: string): boolean => channel.startsWith("amq.rabbitmq.reply-to.")

/** Targets the queue of a name, by RabbitMQ's default exchange. */
export const queueTarget = (queue: string): Target => ({ exchange: "", key: queue })

/** Whether a publisher may set the routing key of a message for a channel. */
export const isRouted = (resolved: ResolvedOptions, channel: string): boolean =>
  resolved.channels.get(channel)?.exchange !== undefined

/** Finds the target for messages of a channel; `key` is the publisher's routing key. */
export const targetOf = (resolved: ResolvedOptions, channel: string, key?: string): Target => {
  const route = resolved.channels.get(channel)
  if (route === undefined) {
    // no channel has a name that RabbitMQ reserves for its own queues; such a name is the reply queue of another client
    return channel.startsWith("amq.") ? queueTarget(channel) : { exchange: resolved.exchange, key: channel }
  }
  return route.exchange === undefined
    ? queueTarget(route.queue ?? channel)
    : { exchange: route.exchange, key: key ?? route.routingKey ?? channel }
}

/**
 * Whether a name has no control characters: RabbitMQ drops line breaks from a declared queue's name, and then does not find
 * the queue.
 */
const isPrintable = (name: string): boolean => !/\p{Cc}/u.test(name)

const refuseName = (channel: string): Failed | undefined =>
  channel === "" || channel.includes("@") || Buffer.byteLength(channel) > 200 || !isPrintable(channel) ||
    channel.split(".").some((word) => word === "*" || word === "#")
    ? Errors.invalid(
      "declare",
      `RabbitMQ takes no channel named ${
        JSON.stringify(channel)
      }: use 1 to 200 bytes, no "@", no line breaks or other control characters, and no word "*" or "#" between dots.`
    )
    : undefined

/** Translates a pattern for topic exchanges, whose only separator is the dot: the binding may match more than the pattern. */
const wordsOf = (pattern: Address.Pattern): string | Failed => {
  const one = "\u0000"
  const rest = "\u0001"
  const words = Address.render(pattern, { one, rest }).split(".")
  if (
    words.some((word) => word === "*" || word === "#") || pattern.address.includes("@") || !isPrintable(pattern.address)
  ) {
    return Errors.invalid(
      "consume",
      `RabbitMQ takes no pattern ${
        JSON.stringify(pattern.address)
      }: use no "@", no control characters, and no word "*" or "#" between dots.`
    )
  }
  return words.map((word) => word === rest ? "#" : word.includes(rest) ? "*.#" : word.includes(one) ? "*" : word).join(
    "."
  )
}

const numbered = (settings: Readonly<Record<string, string>>): Readonly<Record<string, string | number>> =>
  Object.fromEntries(
    Object.entries(settings).map(([name, value]) => [name, /^\d+$/.test(value) ? Number(value) : value])
  )

const logArguments = (resolved: ResolvedOptions, settings: Readonly<Record<string, string>> = {}) => ({
  "x-queue-type": "stream",
  "x-max-age": resolved.logAge,
  "x-max-length-bytes": resolved.logBytes,
  "x-stream-max-segment-size-bytes": segment,
  ...numbered(settings)
})

/** Declares the exchange of all channels. */
export const exchange = (connection: Connection): Promise<unknown> =>
  Channels.using(
    connection,
    Channels.plain,
    (channel) => channel.assertExchange(connection.resolved.exchange, "topic", { durable: true })
  )

const log = async (connection: Connection, { channel: name, settings }: Driver.Declaration): Promise<void> => {
  const { resolved } = connection
  await exchange(connection)
  if (resolved.log === "none") return
  const assert = (all: Readonly<Record<string, string | number>>) =>
    Channels.using(connection, Channels.plain, (channel) => channel.assertQueue(name, { arguments: all }))
  await assert(logArguments(resolved, settings)).catch(async (error) => {
    if (settings !== undefined || Errors.replyOf(error) !== 406) throw error
    // the log has earlier settings, and none are requested now; the queue may also be no stream at all
    await assert({ "x-queue-type": "stream" }).catch((again) => {
      if (Errors.replyOf(again) !== 406 || String(again).includes("x-queue-type")) throw again
    })
  })
  await Channels.using(
    connection,
    Channels.plain,
    (channel) => channel.bindQueue(name, resolved.exchange, name)
  )
}

// milliseconds after which RabbitMQ deletes a temporary queue without a consumer, because its program has died
const unused = 300_000

/** Declares the queue of a temporary channel or group, and binds it. */
export const temporaryQueue = (
  connection: Connection,
  { binding, queue }: Source,
  settings: Readonly<Record<string, string>> = {}
): Promise<unknown> =>
  Channels.using(connection, Channels.plain, async (channel) => {
    const wanted = { ...numbered(settings), "x-queue-type": "classic", "x-expires": unused }
    await channel.assertQueue(queue, { arguments: wanted })
    if (binding !== undefined) await channel.bindQueue(queue, binding.exchange, binding.key, binding.arguments ?? {})
  })

/**
 * Creates a channel's log, or compares an existing one with the declaration; for a channel with a route, checks that the
 * route exists.
 */
export const declare = (connection: Connection, declaration: Driver.Declaration): Effect.Effect<void, Failed> =>
  Effect.suspend(() => {
    const { resolved } = connection
    const { channel, partitions, settings = {} } = declaration
    if (partitions !== undefined && (!Number.isInteger(partitions) || partitions < 1)) {
      return Effect.fail(
        Errors.invalid("declare", `partitions of ${channel} must be an integer from 1, got ${partitions}.`)
      )
    }
    if (partitions !== undefined && partitions > 1) {
      return Effect.fail(Errors.make(
        "declare",
        "Unsupported",
        `A channel of RabbitMQ has one partition, and ${partitions} were declared for ${channel}: leave partitions out.`
      ))
    }
    const route = resolved.channels.get(channel)
    if (route !== undefined) {
      if (Object.keys(settings).length > 0) {
        return Effect.fail(
          Errors.invalid("declare", `${channel} has a route to what others declare, so it takes no settings.`)
        )
      }
      return Effect.asVoid(Requests.ask(resolved, "declare", () => found(connection, channel), { channel }))
    }
    const refused = refuseName(channel)
    if (refused !== undefined) return Effect.fail(refused)
    if (declaration.temporary === true) {
      const binding = { exchange: resolved.exchange, key: channel, arguments: undefined }
      return Requests.ask(resolved, "declare", async () => {
        await exchange(connection)
        await temporaryQueue(connection, { queue: channel, binding, log: undefined, isTemporary: true }, settings)
      }, { channel })
    }
    const age = settings["x-max-age"]
    // RabbitMQ would close the whole connection (seen with 3.10)
    if (age !== undefined && !Options.age.test(age)) {
      return Effect.fail(
        Errors.invalid(
          "declare",
          `x-max-age of ${channel} must be a number and one of Y, M, D, h, m, s, got ${age}.`
        )
      )
    }
    if (resolved.log === "none" && Object.keys(settings).length > 0) {
      return Effect.fail(
        Errors.invalid("declare", `settings of ${channel} are its log's, and the option log is "none".`)
      )
    }
    return Requests.ask(resolved, "declare", () => log(connection, declaration), { channel })
  })

/** Checks that the log, exchange or queue of a channel exists; rejects with 404 if not. */
export const found = (connection: Connection, name: string): Promise<void> =>
  Channels.using(connection, Channels.plain, async (channel) => {
    const { resolved } = connection
    const route = resolved.channels.get(name)
    if (route === undefined) {
      if (resolved.log === "stream") await channel.checkQueue(name)
      return
    }
    if (route.exchange !== undefined && route.exchange !== "") await channel.checkExchange(route.exchange)
    if (route.queue !== undefined) await channel.checkQueue(route.queue)
  })

/** The queue that a subscription consumes, and its binding. */
export interface Source {
  readonly queue: string
  /** Undefined for another program's queue, which is consumed unchanged. */
  readonly binding: {
    readonly exchange: string
    readonly key: string
    readonly arguments: Readonly<Record<string, string>> | undefined
  } | undefined
  /** The log with which a new group begins, if there is one. */
  readonly log: string | undefined
  /** Whether the queue is deleted with the subscription. */
  readonly isTemporary: boolean
}

/**
 * Finds the source of a subscription from its options; `temporary` are the temporary channels that this program has declared:
 * their queues have their names.
 */
export const sourceOf = (
  resolved: ResolvedOptions,
  options: Driver.ConsumeOptions,
  temporary: ReadonlySet<string> = new Set()
): Source | Failed => {
  const { channel, group, pattern } = options
  const isTemporary = options.temporary === true
  if (isTemporary && temporary.has(channel)) {
    const binding = { exchange: resolved.exchange, key: channel, arguments: undefined }
    return { queue: channel, binding, log: undefined, isTemporary }
  }
  const route = resolved.channels.get(channel)
  const queue = queueOf(channel, group)
  if (group === "") {
    return Errors.invalid(
      "consume",
      `The group of ${options.handler} is empty: give the subscription the name of its consumer group, which its queue ${channel}@GROUP has.`
    )
  }
  if (route?.queue !== undefined) return { queue: route.queue, binding: undefined, log: undefined, isTemporary: false }
  if (group.includes("@") || !isPrintable(group) || Buffer.byteLength(queue) > 220) {
    return Errors.invalid(
      "consume",
      `RabbitMQ takes no group named ${
        JSON.stringify(group)
      }: use no "@", no line breaks or other control characters, and at most 219 bytes with the channel's name.`
    )
  }
  if (route?.exchange !== undefined) {
    const key = route.routingKey ?? channel
    return {
      queue,
      binding: { exchange: route.exchange, key, arguments: route.arguments },
      log: undefined,
      isTemporary
    }
  }
  if (pattern !== undefined) {
    const key = wordsOf(pattern)
    return typeof key === "string"
      ? { queue, binding: { exchange: resolved.exchange, key, arguments: undefined }, log: undefined, isTemporary }
      : key
  }
  return refuseName(channel) ?? {
    queue,
    binding: { exchange: resolved.exchange, key: channel, arguments: undefined },
    log: resolved.log === "none" || isTemporary ? undefined : channel,
    isTemporary
  }
}

/** The error of a channel that does not exist, or whose messages no queue takes. */
export const missing = (operation: Failed["operation"], channel: string): Failed =>
  Errors.make(
    operation,
    "NotFound",
    `The channel ${channel} does not exist, or no queue takes its messages: declare it, or set missingChannels to "create".`
  )
