/**
 * Lists the dead letters of a channel that fit a filter, with the origin and the error of each message.
 */
import { Effect, Stream } from "effect"
import type { Delivery } from "../../message/Message.ts"
import type { Place } from "../asItWas.ts"
import { Broker, type Key } from "../Broker.ts"
import type { BrokerError } from "../../driver/BrokerError.ts"
import { names } from "./letter.ts"
import { letterIdOf } from "./replayRecord.ts"

/** A dead letter, with the place where its message was first read. */
export interface DeadLetter extends Place {
  /** The dead letter's own channel, partition and position. */
  readonly delivery: Delivery
  /** The attempts before the message was given up. */
  readonly attempts: number
  readonly errorType: string
  readonly errorMessage: string
  /** Unix time in milliseconds at which it was given up. */
  readonly at: number
  /** 1, plus one for each replay that failed again. */
  readonly passes: number
  /** The parts that the broker refused and the letter lacks: original headers, or headers and body. */
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

/** The broker that holds the dead letters. */
export interface Options<On> {
  /** Default: `Broker`. */
  readonly broker?: Key<On> | undefined
}

/** Conditions for dead letters; all must hold. */
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
  /** Letters with these ids, as `idOf` returns them. */
  readonly ids?: ReadonlySet<string> | undefined
  /**
   * The most times that the message was given up; 1 selects messages that were never replayed. A publisher of the original
   * channel can write this count as a header, so use it only where publishers are trusted.
   */
  readonly passes?: number | undefined
}

const fits = (filter: Filter | undefined) => (letter: DeadLetter): boolean =>
  filter === undefined || (
    letter.channel === (filter.channel ?? letter.channel) && letter.group === (filter.group ?? letter.group) &&
    letter.handler === (filter.handler ?? letter.handler) &&
    letter.errorType === (filter.errorType ?? letter.errorType) &&
    letter.at >= (filter.from ?? -Infinity) && letter.at < (filter.to ?? Infinity) &&
    letter.passes <= (filter.passes ?? Infinity) && filter.ids?.has(letterIdOf(letter.delivery)) !== false
  )

/** The service of the broker that holds the dead letters. */
export const keyIn = <On>(options: Options<On> | undefined): Key<On> =>
  // without the option On is the default's type
  options?.broker ?? (Broker as unknown as Key<On>)

/**
 * Lists the dead letters that are in a channel now and fit, oldest first, without consuming them. Skips other messages.
 *
 * Fails with a `BrokerError` of reason `Unsupported` if the broker cannot be browsed. Needs the `Broker`, or the given one.
 */
export const list = <On = Broker>(
  channel: string,
  options?: Options<On> & { readonly filter?: Filter | undefined }
): Stream.Stream<DeadLetter, BrokerError, On> =>
  Stream.unwrap(Effect.map(keyIn(options), (broker) => broker.browse(channel))).pipe(
    Stream.flatMap((delivery) => Stream.fromIterable([read(delivery)].filter((letter) => letter !== undefined))),
    Stream.filter(fits(options?.filter))
  )
