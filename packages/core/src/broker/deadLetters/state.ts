/**
 * The state of dead letters: open until they are replayed, or until a person discards them.
 */
import { Clock, Effect } from "effect"
import type { BrokerError } from "../../driver/BrokerError.ts"
import type { Broker } from "../Broker.ts"
import { type DeadLetter, keyIn, type Options } from "./list.ts"
import * as Record from "./replayRecord.ts"

/** The state of a dead letter. Brokers keep a letter in its channel in each of them. */
export type State = "open" | "replayed" | "discarded"

/**
 * Returns the id of a dead letter, 32 characters that stay the same in every process and on every read: a hash of its body, key
 * and headers.
 */
export const idOf = ({ delivery }: DeadLetter): string => Record.letterIdOf(delivery)

/**
 * Reads which letters of a channel were replayed or discarded, and returns the state of a letter; a letter that was replayed and
 * then discarded is `discarded`. The ids of those letters are held in memory, about 100 bytes each.
 *
 * Needs the `Broker`, or the given one. Fails with its `BrokerError`.
 */
export const states = <On = Broker>(
  channel: string,
  options?: Options<On>
): Effect.Effect<(letter: DeadLetter) => State, BrokerError, On> =>
  Effect.flatMap(
    keyIn(options),
    (broker) =>
      Effect.map(Record.closed(broker, channel), ({ discarded, replayed }) => (letter: DeadLetter): State => {
        const id = idOf(letter)
        return discarded.has(id) ? "discarded" : replayed.has(id) ? "replayed" : "open"
      })
  )

/** The person who discards letters, and the reason; the record keeps both. */
export interface DiscardOptions<On> extends Options<On> {
  /** 1 to 200 characters. */
  readonly by: string
  /** 1 to 1,000 characters. */
  readonly reason: string
}

const checkText = (option: string, text: string, most: number): void => {
  if (text.trim() === "" || text.length > most) {
    throw new RangeError(`DeadLetters: ${option} must have 1 to ${most} characters, got ${text.length}`)
  }
}

/**
 * Discards dead letters of one channel for good: no later replay publishes them. The letters stay in their channel, and the
 * record, the channel `NAME.replayed` beside it, keeps who discarded them, when and why.
 *
 * Needs the `Broker`, or the given one. Fails with its `BrokerError`; the letters are open then.
 *
 * **Example** (letters of a test that reached production)
 *
 * ```ts
 * import { DeadLetters, MemoryBroker } from "@millrace/core"
 * import { Effect, Stream } from "effect"
 *
 * const channel = "orders.dead-letters"
 * const program = Effect.gen(function*() {
 *   const letters = yield* Stream.runCollect(DeadLetters.list(channel, { filter: { errorType: "NoSuchCustomer" } }))
 *   yield* DeadLetters.discard(letters, { by: "ada", reason: "orders of the load test" })
 *   return letters.length
 * })
 * console.log(await Effect.runPromise(Effect.provide(program, MemoryBroker.layer()))) // => 0
 * ```
 *
 * @throws RangeError when `by` or `reason` is empty or too long, or when the letters are of several channels
 */
export const discard = <On = Broker>(
  letters: ReadonlyArray<DeadLetter>,
  options: DiscardOptions<On>
): Effect.Effect<void, BrokerError, On> => {
  const { by, reason } = options
  checkText("by", by, 200)
  checkText("reason", reason, 1000)
  const [channel, ...others] = new Set(letters.map(({ delivery }) => delivery.channel))
  if (others.length > 0) {
    throw new RangeError(`DeadLetters: letters must be of one channel, got ${channel} and ${others[0]}`)
  }
  if (channel === undefined) return Effect.void
  return Effect.flatMap(keyIn(options), (broker) =>
    Effect.flatMap(Clock.currentTimeMillis, (at) =>
      Effect.forEach(
        chunks(letters.map(idOf)),
        (discarded) => Record.discard(broker, channel, { discarded, by, reason, at }),
        { discard: true }
      )))
}

// ids of one message of the record: 100 stay below 4 KiB
const chunks = (ids: ReadonlyArray<string>): ReadonlyArray<ReadonlyArray<string>> =>
  Array.from({ length: Math.ceil(ids.length / 100) }, (_, i) => ids.slice(i * 100, (i + 1) * 100))
