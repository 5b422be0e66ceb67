/**
 * Replays for one consumer group: a channel beside that of the subscription, which only the failed group reads.
 */
import { Effect, Exit, Layer, type Scope } from "effect"
import * as Address from "../message/Address.ts"
import type * as Headers from "../message/Headers.ts"
import type { Delivery } from "../message/Message.ts"
import * as Outcome from "../message/Outcome.ts"
import { asItWas } from "./asItWas.ts"
import type { Running } from "./Broker.ts"
import type { BrokerError } from "../driver/BrokerError.ts"
import { names, originalFields, replayed, replayId } from "./deadLetters/letter.ts"
import * as Instructions from "./instructions.ts"
import { groupChannel } from "./deadLetters/replayRecord.ts"
import * as Retries from "./Retries.ts"
import * as Subscription from "./Subscription.ts"

export { groupChannel as channelOf } from "./deadLetters/replayRecord.ts"

const counted = (text: string | undefined): number => {
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isSafeInteger(value) ? value : 0
}

// the handler sees only these headers of a replay, and a dead letter of it continues their count
const shown = new Set<string>([names.passes, replayed, replayId])

const fieldsOf = (copy: Delivery): ReadonlyArray<Headers.Field> =>
  Instructions.restore(originalFields(copy)).concat(copy.fields.filter(([name]) => shown.has(name.toLowerCase())))

/**
 * Reads the message of a replay as it was in its own channel; undefined if it is no replay for this group. Its channel is the
 * broker's, without the suffix of replay channels: no header decides it.
 */
const read = (copy: Delivery, group: string, handler: string): Delivery | undefined => {
  const { headers } = copy
  const end = groupChannel("", group)
  if (!copy.channel.endsWith(end) || headers[names.group] !== group || headers[replayId] === undefined) return undefined
  const timestamp = headers[names.timestamp]
  return asItWas(
    copy,
    {
      channel: copy.channel.slice(0, -end.length),
      partition: counted(headers[names.partition]),
      position: counted(headers[names.position]),
      timestamp: timestamp === undefined ? undefined : counted(timestamp),
      group,
      handler
    },
    copy.attempts,
    fieldsOf
  )
}

/** Returns the pattern of a subscription's replay channels; the subscription's own pattern must not match them. */
const patternOf = (pattern: Address.Pattern, group: string): Address.Pattern | undefined => {
  const { address, parts } = pattern
  const last = parts.at(-1)
  const own = typeof last === "object" && last.reach === "rest"
    ? undefined
    : Address.pattern(groupChannel(address, group))
  const values = parts.flatMap((part) => typeof part === "string" ? [] : [[part.name, "x"]])
  if (own !== undefined && pattern.match(Address.fill(own, Object.fromEntries(values))) === undefined) return own
  throw new RangeError(
    `Replays: ${address} matches its own replay channels, so every group that reads it would get each replay: replay its dead letters with reach "all"`
  )
}

/**
 * Makes the subscription that takes the replays for the group of another subscription, with the same handler.
 *
 * In: the subscription whose dead letters are replayed. Out: a subscription to `CHANNEL.GROUP.replay`, by the group
 * `GROUP.replay` and the name `NAME.replay`, which is run as any other. Handler and middlewares see each message with its own
 * channel, group, partition, position, key, headers and timestamp, and with the header `dead-letter-replay-id`. A message
 * that fails again waits in its place (`Retries.held`), and then becomes a dead letter of its own channel again. A message
 * that `DeadLetters.replay` has not published for this group becomes a dead letter of the replay channel. Middlewares of
 * `Broker.wrap` run outside, and see the replay channel.
 *
 * A program that may write to the replay channel can make the group handle any message: grant write access only to the
 * programs that replay.
 *
 * @throws RangeError when the subscription reads a pattern that matches its own replay channels
 * @category constructors
 */
export const make = <R, On>(
  subscription: Subscription.Subscription<R, On>
): Subscription.Subscription<R, On> => {
  const { consumer } = subscription
  const { group, name } = consumer
  const channel = groupChannel(consumer.channel, group)
  return {
    ...subscription,
    name: `${name}.replay`,
    channel,
    consumer: {
      ...consumer,
      channel,
      pattern: consumer.pattern === undefined ? undefined : patternOf(consumer.pattern, group),
      // a group reads one channel: members that join and leave here must not stop the others
      group: `${group}.replay`,
      name: `${name}.replay`,
      from: "earliest",
      // retry channels for the few messages of a replay would outlive it
      retries: Retries.held,
      handle: (copy) => {
        const original = read(copy, group, name)
        if (original === undefined) {
          return Exit.succeed(Outcome.DeadLetter(new Error(`${copy.channel} takes replays for the group ${group}`)))
        }
        // the handler registers hooks on the original, the engine runs those of the copy; outer middlewares have registered
        // theirs before
        original.hooks = copy.hooks ??= []
        return consumer.handle(original)
      },
      deadLetter: (copy, error, at, form) => consumer.deadLetter(read(copy, group, name) ?? copy, error, at, form)
    }
  }
}

/**
 * Declares the replay channel and starts the subscription of `make`; completes when its source is ready. Closing the scope
 * drains the subscription. The channels of a pattern are not declared.
 *
 * Needs the subscription's broker and the services of its handler; fails with the `BrokerError` that kept the channel from
 * being declared or the source from starting.
 *
 * @throws RangeError as `make` does
 */
export const run = <R, On>(
  subscription: Subscription.Subscription<R, On>
): Effect.Effect<Running, BrokerError, On | R | Scope.Scope> => {
  const replays = make(subscription)
  const { channel, pattern } = replays.consumer
  return Effect.flatMap(
    replays.broker,
    (broker) =>
      Effect.andThen(pattern === undefined ? broker.declare({ channel }) : Effect.void, Subscription.run(replays))
  )
}

/**
 * Runs `run` as a layer: takes replays for as long as the layer lives.
 *
 * **Example** (a subscription, and the replays of its dead letters)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Channel, MemoryBroker, type Message, Replays, Subscription } from "@millrace/core"
 *
 * const orders = Subscription.make(
 *   Channel.bytes("orders"),
 *   { group: "billing", name: "bill" },
 *   (message: Message<Uint8Array>) => Effect.log(message.raw.length)
 * )
 * const program = Layer.provide(Layer.merge(Subscription.layer(orders), Replays.layer(orders)), MemoryBroker.layer())
 * ```
 *
 * @throws RangeError as `make` does
 * @category layers
 */
export const layer = <R, On>(
  subscription: Subscription.Subscription<R, On>
): Layer.Layer<never, BrokerError, On | Exclude<R, Scope.Scope>> => Layer.effectDiscard(run(subscription))
