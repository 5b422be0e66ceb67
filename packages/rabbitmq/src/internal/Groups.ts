/**
 * Creates the queues of groups. One member of a group creates the queue and its first content while the other members wait.
 */
import type { BrokerError, Driver } from "@millrace/core"
import type { Channel } from "amqplib"
import { Effect, Random } from "effect"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import { copied } from "./Copies.ts"
import * as Errors from "./Errors.ts"
import * as Lock from "./Lock.ts"
import * as Log from "./Log.ts"
import type { ResolvedOptions } from "./Options.ts"
import * as Requests from "./Requests.ts"
import { declare, exchange, found, lockOf, missing, queueOf, type Source, temporaryQueue } from "./Topology.ts"

type Failed = BrokerError.BrokerError

// more than a queue ever counts; without a limit RabbitMQ puts returned messages behind all others
const deliveries = 1_000_000_000
// copies in flight without a confirmation
const window = 1000

/** Checks whether queues or exchanges exist. */
const isThere = (connection: Connection, check: (channel: Channel) => Promise<unknown>): Promise<boolean> =>
  Channels.using(connection, Channels.plain, check).then(
    () => true,
    (error) => {
      if (Errors.isMissing(error)) return false
      throw error
    }
  )

/** Whether the exchange and the queues that the members of a group need exist. */
const hasBegun = (connection: Connection, { binding, queue }: Source, ordered: boolean): Promise<boolean> =>
  isThere(connection, async (channel) => {
    if (binding !== undefined) {
      await channel.checkExchange(queue)
      // the queue may have been deleted since, by hand or by a policy
      await channel.checkQueue(queue)
    }
    if (ordered) await channel.checkQueue(lockOf(queue))
  })

/** Whether a group has begun before, even if its queue is gone. */
const hadBegun = (connection: Connection, { queue }: Source): Promise<boolean> =>
  isThere(connection, (channel) => channel.checkExchange(queue))

const argumentsOf = ({ queueArguments, queueType }: ResolvedOptions) =>
  queueType === "quorum"
    ? { "x-delivery-limit": deliveries, ...queueArguments, "x-queue-type": "quorum" }
    : { ...queueArguments, "x-queue-type": "classic" }

const bind = (connection: Connection, { binding, queue }: Source): Promise<unknown> =>
  Channels.using(connection, Channels.plain, async (channel) => {
    await channel.assertQueue(queue, { arguments: argumentsOf(connection.resolved) })
    if (binding !== undefined) await channel.bindQueue(queue, binding.exchange, binding.key, binding.arguments ?? {})
  })

/** The mark that a group writes into a log when it begins with the latest message. */
const beginningOf = (queue: string): string => `begin ${queue}`

/** Counts the marks of a group's beginning in its log: 0 once the log has dropped them. */
const beginnings = async (connection: Connection, { queue }: Source, log: string, end: string): Promise<number> => {
  let found = 0
  await Log.mark(connection, log, end)
  await Log.read(connection, log, async (_, mark) => {
    if (mark === beginningOf(queue)) found++
    return mark === end ? "enough" : "more"
  })
  return found
}

/**
 * Copies a log into a new queue, binds the queue, and copies messages published meanwhile, so none is missing. Messages
 * published during the binding may be in the queue twice. `skipped`: the copy begins after this many marks of the group's
 * beginning.
 */
const fill = async (
  connection: Connection,
  source: Source,
  log: string,
  ends: { readonly first: string; readonly second: string },
  skipped = 0
): Promise<void> => {
  const { queue } = source
  const { first, second } = ends
  await Channels.using(
    connection,
    Channels.plain,
    (channel) => channel.assertQueue(queue, { arguments: argumentsOf(connection.resolved) })
  )
  await Log.mark(connection, log, first)
  let left = skipped
  await Channels.using(
    connection,
    Channels.confirming,
    (channel) =>
      Log.read(connection, log, async (messages, mark) => {
        for (let i = 0; left === 0 && i < messages.length; i += window) {
          for (const message of messages.slice(i, i + window)) {
            channel.sendToQueue(queue, message.content, copied(message))
          }
          await connection.confirmed(channel)
        }
        if (mark === beginningOf(queue)) left = Math.max(0, left - 1)
        if (mark === first) {
          await bind(connection, source)
          await Log.mark(connection, log, second)
        }
        return mark === second ? "enough" : "more"
      })
  )
}

/**
 * Fills a new queue with the log's messages since the group began, after the queue of a group was deleted with its messages.
 * Messages that the group has already handled are redelivered.
 */
const restore = (
  connection: Connection,
  source: Source,
  log: string,
  { channel, from, group }: Driver.ConsumeOptions,
  id: string
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { queue } = source
    yield* Effect.logWarning(
      `The queue ${queue} of the group ${group} was deleted: it is filled from the log of ${channel}, so messages that the group has handled come again.`
    )
    yield* Requests.attempt(connection.resolved, "consume", async () => {
      const skipped = from === "latest" ? await beginnings(connection, source, log, `${id} 0`) : 0
      // without this, a process that dies halfway would leave half a queue that counts as complete
      await Channels.using(connection, Channels.plain, (each) => each.deleteExchange(queue))
      await fill(connection, source, log, { first: `${id} 1`, second: `${id} 2` }, skipped)
    }, { channel, queue })
  })

/** Declares the queue of a temporary group, which belongs to one subscription and ends with it. */
const beginTemporary = (
  connection: Connection,
  source: Source,
  { channel }: Driver.ConsumeOptions
): Effect.Effect<void, Failed> => {
  const where = { channel, queue: source.queue }
  const ask = <A>(call: () => Promise<A>) => Requests.ask(connection.resolved, "consume", call, where)
  const isOfChannel = source.queue === channel
  return Effect.andThen(
    isOfChannel || connection.resolved.missingChannels === "create" ? ask(() => exchange(connection)) : Effect.mapError(
      ask(() => found(connection, channel)),
      (error) => Errors.isAbsent(error) ? missing("consume", channel) : error
    ),
    ask(() => temporaryQueue(connection, source))
  )
}

/** Deletes the queue of a temporary group; if that fails, RabbitMQ deletes it some minutes later. */
export const end = (connection: Connection, { queue }: Source): Effect.Effect<void> =>
  Effect.ignore(Requests.ask(
    connection.resolved,
    "consume",
    () => Channels.using(connection, Channels.plain, (channel) => channel.deleteQueue(queue)),
    { queue }
  ))

/** Creates the queue of a group, if it does not exist, with its first content. */
export const begin = (
  connection: Connection,
  source: Source,
  options: Driver.ConsumeOptions
): Effect.Effect<void, Failed> =>
  source.isTemporary ? beginTemporary(connection, source, options) : beginLasting(connection, source, options)

const beginLasting = (
  connection: Connection,
  source: Source,
  options: Driver.ConsumeOptions
): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { resolved } = connection
    const { channel, from, ordered, pattern } = options
    const where = { channel, queue: source.queue }
    const ask = <A>(call: () => Promise<A>) => Requests.ask(resolved, "consume", call, where)
    if (resolved.missingChannels === "create" && pattern === undefined && !resolved.channels.has(channel)) {
      yield* declare(connection, { channel })
    } else if (pattern === undefined) {
      yield* Effect.mapError(
        ask(() => found(connection, channel)),
        (error) => Errors.isAbsent(error) ? missing("consume", channel) : error
      )
    } else yield* ask(() => exchange(connection))
    if (yield* ask(() => hasBegun(connection, source, ordered))) {
      if (source.binding !== undefined) yield* ask(() => bind(connection, source))
      return
    }
    // one member of the group at a time
    yield* Effect.scoped(Effect.gen(function*() {
      const place = yield* Lock.stand(connection, `${source.queue}@begin`, Lock.brief)
      yield* Effect.raceFirst(
        Effect.promise(() => place.held),
        Effect.flatMap(Effect.promise(() => place.lost), (error) => Effect.fail(error))
      )
      if (yield* ask(() => hasBegun(connection, source, ordered))) return
      if (ordered) {
        yield* ask(() =>
          Channels.using(
            connection,
            Channels.plain,
            (each) => each.assertQueue(lockOf(source.queue), { arguments: Lock.lasting(resolved.queueType) })
          )
        )
      }
      if (source.binding === undefined || (yield* ask(() => hasBegun(connection, source, false)))) return
      const { log } = source
      const id = `${source.queue} ${yield* Random.nextIntBetween(0, 1_000_000_000)}`
      if (log !== undefined && (yield* ask(() => hadBegun(connection, source)))) {
        yield* restore(connection, source, log, options, id)
      } else if (from === "earliest" && log !== undefined) {
        yield* Requests.attempt(
          resolved,
          "consume",
          () => fill(connection, source, log, { first: `${id} 1`, second: `${id} 2` }),
          where
        )
      } else {
        if (from === "earliest" && pattern === undefined) {
          yield* Effect.logInfo(
            `The group ${options.group} begins with what is published to ${channel} from now on: it has no log.`
          )
        }
        // a message between the mark and the binding would be redelivered unnecessarily, but not lost, if the queue is ever
        // deleted
        if (log !== undefined) yield* ask(() => Log.mark(connection, log, beginningOf(source.queue)))
        yield* ask(() => bind(connection, source))
      }
      yield* ask(() =>
        Channels.using(
          connection,
          Channels.plain,
          (each) => each.assertExchange(source.queue, "fanout", { durable: true })
        )
      )
    }))
  })

/** Counts the messages that are ready in the queue of a group; undefined if there is no queue. */
export const ready = (
  connection: Connection,
  channel: string,
  group: string
): Effect.Effect<number | undefined, Failed> => {
  const queue = connection.resolved.channels.get(channel)?.queue ?? queueOf(channel, group)
  return Requests.ask(
    connection.resolved,
    "lag",
    () => Channels.using(connection, Channels.plain, (each) => each.checkQueue(queue)),
    { channel, queue }
  ).pipe(
    Effect.map(({ messageCount }): number | undefined => messageCount),
    Effect.catchIf(Errors.isAbsent, () => Effect.undefined)
  )
}
