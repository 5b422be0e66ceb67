/**
 * Rate limits: how many messages of a channel, a consumer, a key or anything else may pass in a time.
 */
import { Clock, Context, Data, Duration, Effect, Exit, Layer } from "effect"
import { type Envelope, Message } from "../model/Message.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, Fixed, Make } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { Table } from "./gcra.ts"

/** How much may pass, and what becomes of the rest. */
export interface Limits {
  /** Messages in each `window`; an integer from 1. Default: 100. */
  readonly limit?: number | undefined
  /** Whole milliseconds from 1. Default: 1 second. */
  readonly window?: Duration.Input | undefined
  /** How many may come at the same instant after a pause; an integer from 1. Default: as many as `limit`. */
  readonly burst?: number | undefined
  /**
   * `refuse`: fails with `RateLimited`. `delay`: waits in place for its turn, in the order of arrival, where that comes
   * within `maximumDelay`, and is refused otherwise. Default: `refuse`.
   */
  readonly onExceeded?: "delay" | "refuse" | undefined
  /**
   * The longest wait in place, from 0; for a consumer at most half of what its broker allows an attempt to take, so that
   * the handler has the other half. Default: 1 second.
   */
  readonly maximumDelay?: Duration.Input | undefined
}

/** Options of `middleware` that work on any message. */
export interface Options extends Limits {
  /** Messages of one `channel`, or of one `key` of a channel, share a limit. Default: `channel`. */
  readonly by?: "channel" | "key" | undefined
  /** Limits of the same name and the same numbers share their counts in one store. Default: what `by` says. */
  readonly name?: string | undefined
}

/** Options of `middleware` for consumers. */
export interface ConsumerOptions extends Limits {
  /** All messages of one consumer group share a limit, whatever their channel. */
  readonly by: "consumer"
  readonly name?: string | undefined
}

/** Options of `middleware` with a key of one's own. */
export interface KeyedOptions<in M> extends Limits {
  /** Messages for which it answers the same share a limit. */
  readonly by: (message: M) => string
  /** Limits of the same name and the same numbers share their counts in one store. */
  readonly name: string
}

/** What `middleware` does where an option is not given; `burst` is then `limit`, and `by` is `channel`. */
export const defaults: {
  readonly limit: number
  readonly window: Duration.Duration
  readonly onExceeded: "refuse"
  readonly maximumDelay: Duration.Duration
} = { limit: 100, window: Duration.seconds(1), onExceeded: "refuse", maximumDelay: Duration.seconds(1) }

/** The message came too early; class `throttled`, so it goes back to its source for as long as `retryAfter` says. */
export class RateLimited extends Data.TaggedError("RateLimited")<{
  readonly key: string
  readonly limit: number
  readonly window: Duration.Duration
  /** Exact at the time of the answer: the message would pass then, and not a millisecond earlier. */
  readonly retryAfter: Duration.Duration
}> {
  readonly failure = "throttled" as const
  override get message(): string {
    return `More than ${this.limit} in ${Duration.format(this.window)}: come back in ${
      Duration.format(this.retryAfter)
    }`
  }
}

/** The store of a rate limit cannot be asked; class `dependency`, so the message is tried again. */
export class RateLimitUnavailable extends Data.TaggedError("RateLimitUnavailable")<{
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** A limit as a store sees it. */
export interface Policy {
  /** The name and the numbers: what differs here is counted apart. */
  readonly id: string
  readonly limit: number
  /** Milliseconds. */
  readonly window: number
  readonly burst: number
}

/** Counts. */
class RateLimitStore extends Context.Service<RateLimitStore, {
  /**
   * The whole milliseconds that a message of `key` has to wait for its turn. Where that is at most `within`, the message is
   * counted and its turn kept; where it is more, nothing was counted, and a call made once the difference has passed is
   * counted, if no other comes before it. Answers as an Exit where nothing has to be fetched.
   */
  readonly take: (policy: Policy, key: string, within: number) => Effect.Effect<number, RateLimitUnavailable>
}>()("@millrace/core/RateLimit/Store") {}
export { RateLimitStore as Store }

const count = (option: string, value: number): number => {
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new RangeError(`RateLimit: ${option} must be an integer from 1, got ${value}`)
}

const millis = (option: string, value: Duration.Input, from: number): number => {
  const found = Duration.toMillis(Duration.fromInputUnsafe(value))
  if (Number.isSafeInteger(found) && found >= from) return found
  throw new RangeError(`RateLimit: ${option} must be whole milliseconds from ${from}, got ${String(value)}`)
}

const words = {
  channel: (message: Envelope) => message.channel,
  // the same key in two channels is two things
  key: (message: Envelope) => message.key === undefined ? message.channel : `${message.channel}\n${message.key}`,
  consumer: (message: Message<unknown>) => message.delivery.origin.group
}

type Needs = { requires: RateLimitStore; fails: RateLimited | RateLimitUnavailable }

/** The forms of `middleware`: what it limits by says which messages it reads. */
export interface Build {
  (options?: Options): Around<Envelope, Make<Needs>>
  (options: ConsumerOptions): Around<Message<unknown>, Make<Needs>>
  <M extends Envelope>(options: KeyedOptions<M>): Fixed<M, Make<Needs>>
}

/**
 * Lets at most `limit` messages pass in each `window`, by channel, key, consumer or a function of the message.
 *
 * Types: any message in, the same message on (by `consumer` only a consumer's, by a function the one it reads); `Store`
 * enters R, `RateLimited` and `RateLimitUnavailable` enter E.
 *
 * Over any time t at most `burst + t * limit / window` pass: there is no window edge at which twice the rate gets through. A
 * delay keeps the turn of the message and waits in its lane, which is the back-pressure; interrupting it spends the turn.
 * Waits are rounded up to a millisecond, which is then part of t.
 *
 * Errors: `RateLimited` (class `throttled`) goes back to the source for exactly `retryAfter`; `RateLimitUnavailable` (class
 * `dependency`) goes back by the back-off of the subscription.
 *
 * Source: the generic cell rate algorithm, ITU-T I.371; a leaky bucket as a meter.
 *
 * **Example** (ten a second for each customer, and one wait of up to five seconds)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Message, RateLimit } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<{ readonly customer: string }>) => Effect.succeed(message.payload.customer),
 *   RateLimit.middleware({
 *     name: "customer",
 *     by: (message) => message.payload.customer,
 *     limit: 10,
 *     onExceeded: "delay",
 *     maximumDelay: "5 seconds"
 *   })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware: Build = ((options: Options | ConsumerOptions | KeyedOptions<Envelope> = {}) => {
  const limit = count("limit", options.limit ?? defaults.limit)
  const burst = count("burst", options.burst ?? limit)
  const window = millis("window", options.window ?? defaults.window, 1)
  const maximumDelay = millis("maximumDelay", options.maximumDelay ?? defaults.maximumDelay, 0)
  const by = options.by ?? "channel"
  const name = options.name ?? by
  const policy: Policy = { id: `${String(name)}:${limit}/${window}/${burst}`, limit, window, burst }
  // `by` says which messages the middleware is for, and Build types it so
  const keyOf = (typeof by === "function" ? by : words[by]) as (message: Envelope) => string
  const delays = (options.onExceeded ?? defaults.onExceeded) === "delay" && maximumDelay > 0
  const withinOf = (message: Envelope): number =>
    message instanceof Message ? Math.min(maximumDelay, message.delivery.origin.holdLimit / 2) : maximumDelay
  return Middleware.make()({
    name: "RateLimit",
    stage: "consume",
    shows: {
      by: typeof by === "function" ? options.name : by,
      limit: `${limit} in ${Duration.format(Duration.millis(window))}`,
      burst: burst === limit ? undefined : burst,
      onExceeded: delays ? `delay up to ${Duration.format(Duration.millis(maximumDelay))}` : "refuse"
    }
  }, (next) => {
    const late = (message: Envelope, key: string, wait: number, within: number): Middleware.Returns<RateLimited> =>
      wait <= within
        ? Effect.andThen(Effect.sleep(wait), Effect.suspend(() => next(message)))
        : Exit.fail(
          new RateLimited({
            key,
            limit,
            window: Duration.millis(window),
            retryAfter: Duration.millis(Math.ceil(wait - within))
          })
        )
    return (message): Middleware.Returns<RateLimited | RateLimitUnavailable, RateLimitStore> => {
      const key = keyOf(message)
      const within = delays ? withinOf(message) : 0
      return Effect.flatMapEager(Eager.service(RateLimitStore), (store) => {
        const taken = store.take(policy, key, within)
        if (Eager.isDone(taken) && taken._tag === "Success" && taken.value === 0) return next(message)
        return Effect.flatMapEager(taken, (wait) => wait === 0 ? next(message) : late(message, key, wait, within))
      })
    }
  })
}) as Build

/** How much a memory store keeps. */
export interface MemoryOptions {
  /** The most keys of each policy; an integer from 1. Default: 100,000. */
  readonly capacity?: number | undefined
}

/**
 * A store in the memory of this process: exact, answered at once, and bounded.
 *
 * A key takes about 100 bytes beside its own text. At `capacity`, a key that has its whole burst again makes room for a new
 * one, which changes no answer. Where 16 keys looked at are all in use, the new key shares one count with all others that
 * found no room: such keys get less than the limit, never more. After a restart every key starts with its whole burst; each
 * of several processes counts for itself.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const layerMemory = (options: MemoryOptions = {}): Layer.Layer<RateLimitStore> => {
  const capacity = count("capacity", options.capacity ?? 100_000)
  return Layer.effect(
    RateLimitStore,
    Effect.map(Clock.Clock, (clock) => {
      const tables = new Map<string, Table>()
      return {
        take: (policy, key, within) => {
          const now = clock.currentTimeMillisUnsafe()
          let table = tables.get(policy.id)
          if (table === undefined) tables.set(policy.id, table = new Table(policy, capacity, now))
          const wait = table.take(key, now, within)
          return wait === 0 ? atOnce : Exit.succeed(wait)
        }
      }
    })
  )
}

const atOnce = Exit.succeed(0)
