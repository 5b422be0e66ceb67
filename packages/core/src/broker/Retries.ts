/**
 * Decides where a failed message waits for its next attempt: in its place, or elsewhere while its lane continues.
 */
import type { Duration } from "effect"
import type * as Headers from "../message/Headers.ts"
import { type Delivery, Outgoing } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import { asItWas } from "./asItWas.ts"
import * as Instructions from "./instructions.ts"

/** Waits in its place: order is kept, and later messages of its lane wait too. */
export interface Held {
  readonly _tag: "held"
}

/** Leaves its place: later messages of its lane continue, and the retry comes later, out of order. */
export interface Delayed {
  readonly _tag: "delayed"
  /** Milliseconds before each retry, the shortest first; as many retries as there are delays. */
  readonly delays: readonly [number, ...ReadonlyArray<number>]
  /** The prefix of the retry channels' names; undefined for `CHANNEL.GROUP`. */
  readonly prefix: string | undefined
}

/** How a subscription retries. */
export type Retries = Held | Delayed

/** Options of `delayed`. */
export interface Options {
  /** The prefix of the retry channels' names: `PREFIX.retry-1` … Default: `CHANNEL.GROUP`. */
  readonly prefix?: string | undefined
}

/**
 * Keeps a failed message in its place for the `backoff` of its subscription. Later messages of its lane wait too, and `hold`
 * bounds the wait. If the broker itself delays and lanes are unordered, the message waits at the broker.
 */
export const held: Held = { _tag: "held" }

/**
 * Moves a failed message elsewhere while its lane continues. Order is lost for that message: a later message of its key may
 * run before it or at the same time.
 *
 * The n-th retry comes after the n-th delay, never earlier; after the last failed retry, the message becomes a dead letter.
 * `backoff`, `hold.attempts` and `hold.age` do not apply. An error with a `retryAfter` spends no retry: up to the first delay
 * the message waits in its place, beyond that elsewhere. `hold.retryAfter` bounds such waits.
 *
 * - If the broker itself delays and counts deliveries, the broker delays: the message is settled as a retry, with any lanes,
 *   and joins its lane again at redelivery. Every delivery counts.
 * - Otherwise the engine delays, through one channel for each delay: `PREFIX.retry-1`, `PREFIX.retry-2` … The engine
 *   publishes the message there with its origin, attempt and time in headers, settles it in its own channel after the
 *   broker's confirmation, and holds it in a reader of that channel until it is due. Handler and middlewares see its own
 *   channel, partition, position, key, headers and timestamp. The channels are declared when the subscription starts.
 *
 * Delays use the clocks of the processes that write and read. If you change the delays, keep their number: messages stay in a
 * retry channel that no subscription reads any more.
 *
 * Default: after 10 seconds, 1 minute and 10 minutes.
 *
 * **Example** (three retries within a quarter of an hour)
 *
 * ```ts
 * import { Retries } from "@millrace/core"
 *
 * const retries = Retries.delayed(["5 seconds", "1 minute", "10 minutes"])
 * console.log(retries.delays) // => [ 5000, 60000, 600000 ]
 * ```
 *
 * @throws RangeError when there is no delay, one is below a millisecond, or they do not grow
 * @category constructors
 */
export const delayed = (
  delays: ReadonlyArray<Duration.Input> = ["10 seconds", "1 minute", "10 minutes"],
  options: Options = {}
): Delayed => {
  const check = OptionCheck.make("Retries")
  const [first, ...rest] = delays.map((each) => check.millis("each of delays", each))
  if (first === undefined) throw new RangeError("Retries: delays must be at least one, got none")
  rest.reduce((before, each) => {
    if (each >= before) return each
    throw new RangeError(`Retries: delays must not become shorter, got ${each} ms after ${before} ms`)
  }, first)
  if (options.prefix === "") throw new RangeError("Retries: prefix must be a name, got an empty text")
  return { _tag: "delayed", delays: [first, ...rest], prefix: options.prefix }
}

/** The channel of the n-th delay, from 1. */
export const channelOf = (prefix: string, level: number): string => `${prefix}.retry-${level}`

/** Names of the headers that a message carries in a retry channel; each value is text. */
export const names = {
  channel: "delayed-retry-channel",
  partition: "delayed-retry-partition",
  position: "delayed-retry-position",
  timestamp: "delayed-retry-timestamp",
  attempts: "delayed-retry-attempts",
  failures: "delayed-retry-failures",
  named: "delayed-retry-named",
  at: "delayed-retry-at",
  due: "delayed-retry-due"
} as const

const own: ReadonlySet<string> = new Set(Object.values(names))

/** The progress of a message that waits for its next attempt. */
export interface Progress {
  /** The runs of its handler so far. */
  readonly attempts: number
  /** The number of retries spent. */
  readonly failures: number
  /** The sum of the waits that its errors have named (`retryAfter`), in milliseconds. */
  readonly named: number
  /** Unix time in milliseconds at which the message was put where it waits. */
  readonly at: number
  /** Unix time in milliseconds of its next attempt. */
  readonly due: number
}

/** Makes the message for a retry channel: bytes, key and native headers unchanged, and the headers of `names`. */
export const toOutgoing = (original: Delivery, channel: string, progress: Progress): Outgoing<Uint8Array> => {
  const added: Record<string, string> = Object.create(null)
  added[names.channel] = original.channel
  added[names.partition] = String(original.partition)
  added[names.position] = String(original.position)
  if (original.timestamp !== undefined) added[names.timestamp] = String(original.timestamp)
  added[names.attempts] = String(progress.attempts)
  added[names.failures] = String(progress.failures)
  if (progress.named > 0) added[names.named] = String(progress.named)
  added[names.at] = String(progress.at)
  added[names.due] = String(progress.due)
  return new Outgoing(channel, original.raw, original.key, added, {
    keyBytes: original.keyBytes,
    fields: original.fields,
    tombstone: original.tombstone
  })
}

const originalFields = (waiting: Delivery): ReadonlyArray<Headers.Field> =>
  Instructions.restore(waiting.fields.filter(([name]) => !own.has(name.toLowerCase())))

/** A message of a retry channel, read back. */
export interface Waiting extends Progress {
  /** The message as it was in its own channel, at its next attempt. */
  readonly original: Delivery
}

const integer = (text: string | undefined): number | undefined => {
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isSafeInteger(value) ? value : undefined
}

const millis = (text: string | undefined): number | undefined => {
  const value = text === undefined ? Number.NaN : Number(text)
  return Number.isFinite(value) ? value : undefined
}

/** Reads a message of a retry channel; undefined if its headers are missing or invalid, i.e. another program published it. */
export const read = (waiting: Delivery, group: string): Waiting | undefined => {
  const { headers, origin } = waiting
  const channel = headers[names.channel]
  const partition = integer(headers[names.partition])
  const position = integer(headers[names.position])
  const attempts = integer(headers[names.attempts])
  const failures = integer(headers[names.failures])
  const at = millis(headers[names.at])
  const due = millis(headers[names.due])
  if (
    channel === undefined || partition === undefined || position === undefined || attempts === undefined ||
    failures === undefined || at === undefined || due === undefined
  ) return undefined
  const place = {
    channel,
    partition,
    position,
    timestamp: millis(headers[names.timestamp]),
    group,
    handler: origin.handler
  }
  return {
    attempts,
    failures,
    named: millis(headers[names.named]) ?? 0,
    at,
    due,
    original: asItWas(waiting, place, attempts + waiting.attempts, originalFields)
  }
}
