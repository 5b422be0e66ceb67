/**
 * The queues of groups: how one is made, with its beginning, by one of its members while the others wait.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Effect, Random } from "effect"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import * as RabbitMqLock from "./RabbitMqLock.ts"
import * as RabbitMqLog from "./RabbitMqLog.ts"
import type { Connection } from "./RabbitMqOptions.ts"
import { declare, exchange, found, lockOf, missing, queueOf, type Source } from "./RabbitMqTopology.ts"

type Failed = BrokerError.BrokerError
type Link = RabbitMqClient.Link

// above any count that a queue reaches, and without a limit RabbitMQ puts what is given back behind all others
const deliveries = 1_000_000_000
// copies that wait for their confirmation
const window = 1000

/** Whether all that the members of a group need is there. */
const hasBegun = (link: Link, { binding, queue }: Source, ordered: boolean): Promise<boolean> =>
  RabbitMqClient.using(link, RabbitMqClient.plain, async (channel) => {
    if (binding !== undefined) await channel.checkExchange(queue)
    if (ordered) await channel.checkQueue(lockOf(queue))
  }).then(
    () => true,
    (error) => {
      if (RabbitMqError.isMissing(error)) return false
      throw error
    }
  )

const queueArguments = ({ queueType }: Connection) =>
  queueType === "quorum"
    ? { "x-queue-type": "quorum", "x-delivery-limit": deliveries }
    : { "x-queue-type": "classic" }

const bind = (link: Link, { binding, queue }: Source): Promise<unknown> =>
  RabbitMqClient.using(link, RabbitMqClient.plain, async (channel) => {
    await channel.assertQueue(queue, { arguments: queueArguments(link.connection) })
    if (binding !== undefined) await channel.bindQueue(queue, binding.exchange, binding.key, binding.arguments ?? {})
  })

/**
 * Copies a log into a new queue, binds it, and copies what was published meanwhile: nothing is left out. What is published in
 * the moment of the binding may be in the queue twice.
 */
const fill = async (link: Link, source: Source, log: string, first: string, second: string): Promise<void> => {
  await RabbitMqClient.using(
    link,
    RabbitMqClient.plain,
    (channel) => channel.assertQueue(source.queue, { arguments: queueArguments(link.connection) })
  )
  await RabbitMqLog.mark(link, log, first)
  await RabbitMqClient.using(
    link,
    RabbitMqClient.confirming,
    (channel) =>
      RabbitMqLog.read(link, log, async (messages, mark) => {
        for (let i = 0; i < messages.length; i += window) {
          for (const message of messages.slice(i, i + window)) {
            channel.sendToQueue(source.queue, message.content, RabbitMqLog.copied(message))
          }
          await link.confirmed(channel)
        }
        if (mark === first) {
          await bind(link, source)
          await RabbitMqLog.mark(link, log, second)
        }
        return mark === second ? "enough" : "more"
      })
  )
}

/** Makes the queue of a group, if it is not there, and gives it its beginning. */
export const begin = (link: Link, source: Source, options: Driver.ConsumeOptions): Effect.Effect<void, Failed> =>
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
      if (from === "earliest" && log !== undefined) {
        const chance = yield* Random.nextIntBetween(0, 1_000_000_000)
        const id = `${source.queue} ${chance}`
        yield* RabbitMqClient.attempt(
          connection,
          "consume",
          () => fill(link, source, log, `${id} 1`, `${id} 2`),
          where
        )
      } else {
        if (from === "earliest" && pattern === undefined) {
          yield* Effect.logInfo(
            `The group ${options.group} begins with what is published to ${channel} from now on: it has no log.`
          )
        }
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
