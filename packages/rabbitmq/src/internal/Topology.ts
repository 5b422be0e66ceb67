/**
 * How channels and groups are laid out in RabbitMQ.
 *
 * All channels share one durable topic exchange; a channel's name is its routing key. A declared channel has a log, a stream of
 * its name. Each group has a durable queue for each channel or pattern that it reads, `CHANNEL@GROUP`, bound by the name or by the
 * pattern in the words of topic exchanges. When a group begins with the earliest, its queue is filled from the log before anybody
 * consumes it; an exchange of the queue's name tells that this was done.
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

// what a log drops at once when it is too old or too long
const segment = 64_000_000

/** The queue of a group. */
export const queueOf = (channel: string, group: string): string => `${channel}@${group}`

/** The queue by which members of a group that keep order take turns. */
export const lockOf = (queue: string): string => `${queue}@lock`

/** Where a message is published to. */
export interface Target {
  readonly exchange: string
  readonly key: string
}

/** Replies to a caller that consumes without a queue (direct reply-to) are not routed to a queue, so `mandatory` returns them. */
export const isDirectReply = (channel: string): boolean => channel.startsWith("amq.rabbitmq.reply-to.")

/** The queue of a name, by RabbitMQ's exchange that leads to each queue. */
export const queueTarget = (queue: string): Target => ({ exchange: "", key: queue })

/** Whether a publisher may say the routing key of a message for a channel. */
export const isRouted = (resolved: ResolvedOptions, channel: string): boolean =>
  resolved.channels.get(channel)?.exchange !== undefined

/** Where messages of a channel are published to; `key` is the routing key that the publisher said. */
export const targetOf = (resolved: ResolvedOptions, channel: string, key?: string): Target => {
  const route = resolved.channels.get(channel)
  if (route === undefined) {
    // names that RabbitMQ keeps for queues of its own: no channel has one, and a caller of another client is answered there
    return channel.startsWith("amq.") ? queueTarget(channel) : { exchange: resolved.exchange, key: channel }
  }
  return route.exchange === undefined
    ? queueTarget(route.queue ?? channel)
    : { exchange: route.exchange, key: key ?? route.routingKey ?? channel }
}

/** RabbitMQ takes line breaks out of the name of a queue that is declared, and then does not find it. */
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

/** A pattern in the words of topic exchanges, whose only separator is the dot: it may be wider than the pattern. */
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

/** Makes the exchange of all channels. */
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
    // declared before with settings of its own, and none are asked for now; it may also be no stream at all
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

// milliseconds after which RabbitMQ deletes a temporary queue without a consumer: its program has died
const unused = 300_000

/** Makes the queue of a temporary channel or group, and binds it. */
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

/** Creates a channel's log, or compares it with what was declared; of a channel with a route, asks whether it is there. */
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
    // RabbitMQ ends the whole connection over it (seen with 3.10)
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

/** Asks whether what a channel needs is there; refused with 404 where it is not. */
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

/** What a subscription consumes. */
export interface Source {
  readonly queue: string
  /** Undefined for a queue of others, which is consumed as it is. */
  readonly binding: {
    readonly exchange: string
    readonly key: string
    readonly arguments: Readonly<Record<string, string>> | undefined
  } | undefined
  /** The log that a new group begins with, where there is one. */
  readonly log: string | undefined
  /** The queue ends with the subscription. */
  readonly isTemporary: boolean
}

/**
 * What a subscription consumes, by its options; `temporary` are the channels that this program has declared as such: their queues
 * have their names.
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

/** A channel that nobody has declared. */
export const missing = (operation: Failed["operation"], channel: string): Failed =>
  Errors.make(
    operation,
    "NotFound",
    `The channel ${channel} does not exist, or no queue takes its messages: declare it, or set missingChannels to "create".`
  )
