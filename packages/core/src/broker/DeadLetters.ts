/**
 * Dead letters: the message as it was published, and beside it why it failed, where it came from and who gave up on it.
 */
import { Data, Effect, Stream } from "effect"
import { type Delivery, Outgoing } from "../model/Message.ts"
import * as After from "../pipeline/After.ts"
import * as Description from "../pipeline/Description.ts"
import type { Handler } from "../pipeline/Handler.ts"
import * as Order from "../pipeline/Order.ts"
import { Broker, type Key } from "./Broker.ts"
import type { BrokerError } from "./BrokerError.ts"
import { names, originalFields, replayed as replayedName } from "./deadLetter.ts"
import { hookFailed, type Through } from "./Publisher.ts"

export { channelOf, maximumMessage, names, toOutgoing } from "./deadLetter.ts"

/** A dead letter, read back. */
export interface DeadLetter {
  /** The dead letter's own channel, partition and position. */
  readonly delivery: Delivery
  /** Where the message was first read from. */
  readonly channel: string
  readonly partition: number
  readonly position: number
  /** Unix time in milliseconds of the original message, or undefined where its broker did not say. */
  readonly timestamp: number | undefined
  readonly group: string
  readonly handler: string
  /** How often it had been tried. */
  readonly attempts: number
  readonly errorType: string
  readonly errorMessage: string
  /** Unix time in milliseconds at which it was given up. */
  readonly at: number
  /** 1, and one more each time a replay of it came back. */
  readonly passes: number
  /** What the letter lacks, since the broker refused it as it was: original headers, or headers and body. */
  readonly omitted: ReadonlyArray<string>
}

const numberOf = (text: string | undefined): number | undefined => {
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isNaN(value) ? undefined : value
}

const read = (delivery: Delivery): DeadLetter | undefined => {
  const headers = delivery.headers
  const channel = headers[names.channel]
  if (channel === undefined) return undefined
  return {
    delivery,
    channel,
    partition: numberOf(headers[names.partition]) ?? 0,
    position: numberOf(headers[names.position]) ?? 0,
    timestamp: numberOf(headers[names.timestamp]),
    group: headers[names.group] ?? "",
    handler: headers[names.handler] ?? "",
    attempts: numberOf(headers[names.attempts]) ?? 1,
    errorType: headers[names.errorType] ?? "",
    errorMessage: headers[names.errorMessage] ?? "",
    at: numberOf(headers[names.at]) ?? 0,
    passes: numberOf(headers[names.passes]) ?? 1,
    omitted: headers[names.omitted]?.split(",") ?? []
  }
}

/** Where dead letters are. */
export interface Options<On> {
  /** Default: `Broker`. */
  readonly broker?: Key<On> | undefined
}

/** Which dead letters; all conditions hold together. */
export interface Filter {
  /** The channel that the message was first read from. */
  readonly channel?: string | undefined
  readonly group?: string | undefined
  readonly handler?: string | undefined
  readonly errorType?: string | undefined
  /** Given up at this Unix time in milliseconds or later. */
  readonly from?: number | undefined
  /** Given up before this Unix time in milliseconds. */
  readonly to?: number | undefined
  /** How often it had been given up, at most; 1 is what was never replayed. */
  readonly passes?: number | undefined
}

const fits = (filter: Filter | undefined) => (letter: DeadLetter): boolean =>
  filter === undefined || (
    letter.channel === (filter.channel ?? letter.channel) && letter.group === (filter.group ?? letter.group) &&
    letter.handler === (filter.handler ?? letter.handler) &&
    letter.errorType === (filter.errorType ?? letter.errorType) &&
    letter.at >= (filter.from ?? -Infinity) && letter.at < (filter.to ?? Infinity) &&
    letter.passes <= (filter.passes ?? Infinity)
  )

const keyIn = <On>(options: Options<On> | undefined): Key<On> =>
  // without the option On is the default's type
  options?.broker ?? (Broker as unknown as Key<On>)

/**
 * The dead letters that are in a channel now and fit, oldest first; nothing is consumed. What is no dead letter is passed over.
 *
 * Fails with a `BrokerError` of reason `Unsupported` where the broker cannot be browsed. Needs the `Broker`, or the one given.
 */
export const list = <On = Broker>(
  channel: string,
  options?: Options<On> & { readonly filter?: Filter | undefined }
): Stream.Stream<DeadLetter, BrokerError, On> =>
  Stream.unwrap(Effect.map(keyIn(options), (broker) => broker.browse(channel))).pipe(
    Stream.flatMap((delivery) => Stream.fromIterable([read(delivery)].filter((letter) => letter !== undefined))),
    Stream.filter(fits(options?.filter))
  )

/** A dead letter that was published again. */
export class Replayed extends Data.Class<{
  readonly letter: DeadLetter
  readonly channel: string
}> {}

/** How dead letters are published again. */
export interface ReplayOptions<On, E, R> extends Options<On> {
  /** Another channel than the one that the message came from. */
  readonly to?: string | undefined
  /** Publish middlewares, e.g. `Audit.middleware()`: a replay is a publish like any other. Default: none. */
  readonly through?: Through<Uint8Array, E, R, On> | undefined
}

const replaying = <On, E, R>(options: ReplayOptions<On, E, R> | undefined) => {
  const key = keyIn(options)
  const innermost = Description.describe(
    (outgoing: Outgoing<Uint8Array>) => Effect.flatMap(key, (broker) => broker.publish(outgoing)),
    [{ name: "Broker", stage: "publish" }]
  )
  // without middlewares E and R are those of the innermost handler
  const chain = (options?.through?.(innermost) ?? innermost) as Handler<Outgoing<Uint8Array>, unknown, E, R>
  Order.check(chain)
  return (letter: DeadLetter): Effect.Effect<Replayed, E | BrokerError, R | On> =>
    Effect.suspend(() => {
      const channel = options?.to ?? letter.channel
      const headers: Record<string, string> = Object.create(null)
      headers[names.passes] = String(letter.passes)
      headers[replayedName] = "true"
      const outgoing = new Outgoing(channel, letter.delivery.raw, letter.delivery.key, headers, {
        keyBytes: letter.delivery.keyBytes,
        fields: originalFields(letter.delivery),
        tombstone: letter.delivery.tombstone
      })
      return Effect.as(After.around(outgoing.fresh(), chain, hookFailed), new Replayed({ letter, channel }))
    })
}

/**
 * Publishes a dead letter to the channel that it came from, with its original bytes, key and headers; completes when the
 * broker has confirmed it. `passes` goes with it, so a message that comes back is known. The letter stays where it is.
 *
 * Needs the `Broker`, or the one given; fails with its `BrokerError`, and then nothing has changed. What `through` needs and
 * fails with comes beside it.
 *
 * @throws OrderError when the publish middlewares stand in a wrong order
 */
export const replay = <On = Broker, E = never, R = never>(
  letter: DeadLetter,
  options?: ReplayOptions<On, E, R>
): Effect.Effect<Replayed, E | BrokerError, R | On> => replaying(options)(letter)

/**
 * Replays all dead letters of a channel that fit, oldest first, and answers which. What comes back meanwhile is not replayed
 * again.
 *
 * Fails as `list` and `replay` do: then those before the one that failed have been published.
 *
 * **Example** (all that one bug has caused, and an audit row for each)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Audit, DeadLetters, MemoryBroker } from "@millrace/core"
 *
 * const program = DeadLetters.replayAll("orders.dead-letters", {
 *   filter: { errorType: "PaymentFailed", passes: 1 },
 *   through: Audit.middleware()
 * })
 * const layer = Layer.merge(MemoryBroker.layer(), Audit.layerMemory())
 * console.log((await Effect.runPromise(Effect.provide(program, layer))).length) // => 0
 * ```
 *
 * @throws OrderError when the publish middlewares stand in a wrong order
 */
export const replayAll = <On = Broker, E = never, R = never>(
  channel: string,
  options?: ReplayOptions<On, E, R> & { readonly filter?: Filter | undefined }
): Effect.Effect<ReadonlyArray<Replayed>, E | BrokerError, R | On> => {
  const one = replaying(options)
  return Effect.flatMap(Stream.runCollect(list(channel, options)), (letters) => Effect.forEach(letters, one))
}
