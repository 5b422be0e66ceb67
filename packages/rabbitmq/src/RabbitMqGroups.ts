/**
 * The queues of groups: how one is made, with its beginning, by one of its members while the others wait.
 */
import type { BrokerError, Driver } from "@millrace/core"
import type { Channel } from "amqplib"
import { Effect, Random } from "effect"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import * as RabbitMqLock from "./RabbitMqLock.ts"
import * as RabbitMqLog from "./RabbitMqLog.ts"
import type { Connection } from "./RabbitMqOptions.ts"
import { copied } from "./RabbitMqOutgoing.ts"
import { declare, exchange, found, lockOf, missing, queueOf, type Source, temporaryQueue } from "./RabbitMqTopology.ts"

type Failed = BrokerError.BrokerError
type Link = RabbitMqClient.Link

// above any count that a queue reaches, and without a limit RabbitMQ puts what is given back behind all others
const deliveries = 1_000_000_000
// copies that wait for their confirmation
const window = 1000

/** Asks whether queues or exchanges are there. */
const isThere = (link: Link, check: (channel: Channel) => Promise<unknown>): Promise<boolean> =>
  RabbitMqClient.using(link, RabbitMqClient.plain, check).then(
    () => true,
    (error) => {
      if (RabbitMqError.isMissing(error)) return false
      throw error
    }
  )

/** Whether all that the members of a group need is there. */
const hasBegun = (link: Link, { binding, queue }: Source, ordered: boolean): Promise<boolean> =>
  isThere(link, async (channel) => {
    if (binding !== undefined) {
      await channel.checkExchange(queue)
      // it may have been deleted since, by hand or by a policy
      await channel.checkQueue(queue)
    }
    if (ordered) await channel.checkQueue(lockOf(queue))
  })

/** Whether a group had a beginning, also where its queue is gone. */
const hadBegun = (link: Link, { queue }: Source): Promise<boolean> =>
  isThere(link, (channel) => channel.checkExchange(queue))

const argumentsOf = ({ queueArguments, queueType }: Connection) =>
  queueType === "quorum"
    ? { "x-delivery-limit": deliveries, ...queueArguments, "x-queue-type": "quorum" }
    : { ...queueArguments, "x-queue-type": "classic" }

const bind = (link: Link, { binding, queue }: Source): Promise<unknown> =>
  RabbitMqClient.using(link, RabbitMqClient.plain, async (channel) => {
    await channel.assertQueue(queue, { arguments: argumentsOf(link.connection) })
    if (binding !== undefined) await channel.bindQueue(queue, binding.exchange, binding.key, binding.arguments ?? {})
  })

/** The mark that a group writes into a log where it begins with the latest. */
const beginningOf = (queue: string): string => `begin ${queue}`

/** How often the mark of a group's beginning is in its log: not at all once the log has dropped it. */
const beginnings = async (link: Link, { queue }: Source, log: string, end: string): Promise<number> => {
  let found = 0
  await RabbitMqLog.mark(link, log, end)
  await RabbitMqLog.read(link, log, async (_, mark) => {
    if (mark === beginningOf(queue)) found++
    return mark === end ? "enough" : "more"
  })
  return found
}

/**
 * Copies a log into a new queue, binds it, and copies what was published meanwhile: nothing is left out. What is published in
 * the moment of the binding may be in the queue twice. `skipped`: the copy begins behind so many marks of the group's beginning.
 */
const fill = async (
  link: Link,
  source: Source,
  log: string,
  ends: { readonly first: string; readonly second: string },
  skipped = 0
): Promise<void> => {
  const { queue } = source
  const { first, second } = ends
  await RabbitMqClient.using(
    link,
    RabbitMqClient.plain,
    (channel) => channel.assertQueue(queue, { arguments: argumentsOf(link.connection) })
  )
  await RabbitMqLog.mark(link, log, first)
  let left = skipped
  await RabbitMqClient.using(
    link,
    RabbitMqClient.confirming,
    (channel) =>
      RabbitMqLog.read(link, log, async (messages, mark) => {
        for (let i = 0; left === 0 && i < messages.length; i += window) {
          for (const message of messages.slice(i, i + window)) {
            channel.sendToQueue(queue, message.content, copied(message))
          }
          await link.confirmed(channel)
        }
        if (mark === beginningOf(queue)) left = Math.max(0, left - 1)
        if (mark === first) {
          await bind(link, source)
          await RabbitMqLog.mark(link, log, second)
        }
        return mark === second ? "enough" : "more"
      })
  )
}

/**
 * The queue of a group that had begun was deleted, and what was in it is gone, but the log has it: fills a new queue with what the
 * log keeps since the group began. What the group had done comes again.
 */
const restore = (
  link: Link,
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
    yield* RabbitMqClient.attempt(link.connection, "consume", async () => {
      const skipped = from === "latest" ? await beginnings(link, source, log, `${id} 0`) : 0
      // else a process that dies in the middle would leave half of a queue that says that it is whole
      await RabbitMqClient.using(link, RabbitMqClient.plain, (each) => each.deleteExchange(queue))
      await fill(link, source, log, { first: `${id} 1`, second: `${id} 2` }, skipped)
    }, { channel, queue })
  })

/** Makes the queue of a group that is of one subscription alone, and ends with it. */
const beginTemporary = (
  link: Link,
  source: Source,
  { channel }: Driver.ConsumeOptions
): Effect.Effect<void, Failed> => {
  const where = { channel, queue: source.queue }
  const ask = <A>(call: () => Promise<A>) => RabbitMqClient.ask(link.connection, "consume", call, where)
  const isOfChannel = source.queue === channel
  return Effect.andThen(
    isOfChannel || link.connection.missingChannels === "create" ? ask(() => exchange(link)) : Effect.mapError(
      ask(() => found(link, channel)),
      (error) => error.reason === "NotFound" ? missing("consume", channel) : error
    ),
    ask(() => temporaryQueue(link, source))
  )
}

/** Deletes the queue of a temporary group; one that cannot be deleted is gone some minutes later. */
export const end = (link: Link, { queue }: Source): Effect.Effect<void> =>
  Effect.ignore(RabbitMqClient.ask(
    link.connection,
    "consume",
    () => RabbitMqClient.using(link, RabbitMqClient.plain, (channel) => channel.deleteQueue(queue)),
    { queue }
  ))

/** Makes the queue of a group, if it is not there, and gives it its beginning. */
export const begin = (link: Link, source: Source, options: Driver.ConsumeOptions): Effect.Effect<void, Failed> =>
  source.isTemporary ? beginTemporary(link, source, options) : beginLasting(link, source, options)

const beginLasting = (link: Link, source: Source, options: Driver.ConsumeOptions): Effect.Effect<void, Failed> =>
  Effect.gen(function*() {
    const { connection } = link
    const { channel, from, ordered, pattern } = options
    const where = { channel, queue: source.queue }
    const ask = <A>(call: () => Promise<A>) => RabbitMqClient.ask(connection, "consume", call, where)
    if (connection.missingChannels === "create" && pattern === undefined && !connection.channels.has(channel)) {
      yield* declare(link, { channel })
    } else if (pattern === undefined) {
      yield* Effect.mapError(
        ask(() => found(link, channel)),
        (error) => error.reason === "NotFound" ? missing("consume", channel) : error
      )
    } else yield* ask(() => exchange(link))
    if (yield* ask(() => hasBegun(link, source, ordered))) {
      if (source.binding !== undefined) yield* ask(() => bind(link, source))
      return
    }
    // one at a time, among all members of the group
    yield* Effect.scoped(Effect.gen(function*() {
      const place = yield* RabbitMqLock.stand(link, `${source.queue}@begin`, RabbitMqLock.brief)
      yield* Effect.raceFirst(
        Effect.promise(() => place.held),
        Effect.flatMap(Effect.promise(() => place.lost), (error) => Effect.fail(error))
      )
      if (yield* ask(() => hasBegun(link, source, ordered))) return
      if (ordered) {
        yield* ask(() =>
          RabbitMqClient.using(
            link,
            RabbitMqClient.plain,
            (each) => each.assertQueue(lockOf(source.queue), { arguments: RabbitMqLock.lasting(connection.queueType) })
          )
        )
      }
      if (source.binding === undefined || (yield* ask(() => hasBegun(link, source, false)))) return
      const { log } = source
      const id = `${source.queue} ${yield* Random.nextIntBetween(0, 1_000_000_000)}`
      if (log !== undefined && (yield* ask(() => hadBegun(link, source)))) {
        yield* restore(link, source, log, options, id)
      } else if (from === "earliest" && log !== undefined) {
        yield* RabbitMqClient.attempt(
          connection,
          "consume",
          () => fill(link, source, log, { first: `${id} 1`, second: `${id} 2` }),
          where
        )
      } else {
        if (from === "earliest" && pattern === undefined) {
          yield* Effect.logInfo(
            `The group ${options.group} begins with what is published to ${channel} from now on: it has no log.`
          )
        }
        // a message between the mark and the binding would come too early, and not be lost, if the queue is ever deleted
        if (log !== undefined) yield* ask(() => RabbitMqLog.mark(link, log, beginningOf(source.queue)))
        yield* ask(() => bind(link, source))
      }
      yield* ask(() =>
        RabbitMqClient.using(
          link,
          RabbitMqClient.plain,
          (each) => each.assertExchange(source.queue, "fanout", { durable: true })
        )
      )
    }))
  })

/** Messages that wait in the queue of a group. */
export const ready = (link: Link, channel: string, group: string): Effect.Effect<number | undefined, Failed> => {
  const queue = link.connection.channels.get(channel)?.queue ?? queueOf(channel, group)
  return RabbitMqClient.ask(
    link.connection,
    "lag",
    () => RabbitMqClient.using(link, RabbitMqClient.plain, (each) => each.checkQueue(queue)),
    { channel, queue }
  ).pipe(
    Effect.map(({ messageCount }): number | undefined => messageCount),
    Effect.catchIf((error) => error.reason === "NotFound", () => Effect.undefined)
  )
}
