/**
 * Starts a second attempt beside a slow first one; the first success is the answer.
 */
import { Context, Duration, Effect, type Exit, Fiber, Layer } from "effect"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"

/** Options of `middleware`. */
export interface Options {
  /**
   * Confirms that the inner chain may run twice, at the same time, with the effect of one run: the losing attempt may
   * have done its work. There is no other value, so that every program that hedges has stated this.
   */
  readonly idempotent: true
  /** How long the first attempt has before the second starts; from 0. Default: 1 second. */
  readonly after?: Duration.Input | undefined
  /** The share of the messages that may cost a second attempt, above 0 to 1. Default: 0.1. */
  readonly budget?: number | undefined
  /** The most second attempts in a row after a while without; an integer from 1. Default: 10. */
  readonly burst?: number | undefined
  /** Hedges of the same name share their budget. Default: the channel of the message. */
  readonly name?: string | undefined
}

/** The defaults of `middleware`. */
export const defaults: { readonly after: Duration.Duration; readonly budget: number; readonly burst: number } = {
  after: Duration.seconds(1),
  budget: 0.1,
  burst: 10
}

/** The use of a hedge budget. */
export interface Spending {
  readonly name: string
  readonly calls: number
  /** How many calls cost a second attempt. */
  readonly hedged: number
  /** How many second attempts gave the answer. */
  readonly won: number
  /** How many second attempts the budget did not allow. */
  readonly refused: number
}

/** A token bucket: each call adds a part of a token, each second attempt costs one. */
class Budget {
  readonly name: string
  calls = 0
  hedged = 0
  won = 0
  refused = 0
  private tokens: number

  constructor(name: string, burst: number) {
    this.name = name
    this.tokens = burst
  }

  call(budget: number, burst: number): void {
    this.calls++
    if (this.tokens < burst) this.tokens = Math.min(burst, this.tokens + budget)
  }

  spend(): boolean {
    // sums of tenths are a little less than one
    if (this.tokens < 1 - 1e-9) {
      this.refused++
      return false
    }
    this.tokens--
    this.hedged++
    return true
  }
}

/** The budgets of this process. */
class HedgeBudgets extends Context.Service<HedgeBudgets, {
  readonly of: (name: string, burst: number) => Budget
  readonly snapshot: Effect.Effect<ReadonlyArray<Spending>>
}>()("@millrace/core/Hedge/Budgets") {}
export { HedgeBudgets as Budgets }

/** The most names; beyond it the oldest is evicted, and its next call begins with a whole burst. */
const capacity = 1000

/**
 * Budgets in the memory of this process, of up to 1,000 names.
 *
 * @category layers
 */
export const layer: Layer.Layer<HedgeBudgets> = Layer.sync(HedgeBudgets, () => {
  const all = new Map<string, Budget>()
  return {
    of: (name, burst) => {
      const known = all.get(name)
      if (known !== undefined) return known
      if (all.size >= capacity) {
        for (const oldest of all.keys()) {
          all.delete(oldest)
          break
        }
      }
      const made = new Budget(name, burst)
      all.set(name, made)
      return made
    },
    snapshot: Effect.sync(() =>
      Array.from(
        all.values(),
        ({ calls, hedged, name, refused, won }) => ({ name, calls, hedged, won, refused })
      )
    )
  }
})

/**
 * Starts a second attempt when the first has not ended after a while, if the budget allows it: the first success is the
 * answer, and the other attempt is interrupted. For clients, and for handlers that may run twice at once.
 *
 * Types: any message in, the same message on; `Budgets` enters R. E stays as it is.
 *
 * A first attempt that fails before its time is not hedged: use `Retry` for that. Once there are two, a failure waits for
 * the other attempt; if both fail, the failure of the first is the answer. An interruption ends both. The answer is
 * returned when the losing attempt has ended.
 *
 * A client's request that was sent and must not be sent twice (a POST without `Idempotency-Key`) gets no second attempt.
 *
 * Both attempts share one message, and hooks that they register on it run for both: place this middleware inside those
 * that count, audit or acknowledge a message once.
 *
 * Errors: none of its own.
 *
 * Source: hedged requests, Dean and Barroso, The Tail at Scale (2013); the budget as a token bucket, as gRPC's retry throttling.
 *
 * **Example** (a second request after 50 ms, for one in twenty at most)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { Hedge, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.as(Effect.sleep("20 millis"), message.payload.length),
 *   Hedge.middleware({ idempotent: true, after: "50 millis", budget: 0.05 })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware = (options: Options): Around<Envelope, FullConfig<{ requires: HedgeBudgets }>> => {
  const check = OptionCheck.make("Hedge")
  check.oneOf("idempotent", options.idempotent, [true])
  const after = check.millis("after", options.after ?? defaults.after, { least: 0 })
  const budget = check.fraction("budget", options.budget ?? defaults.budget, "above 0")
  const burst = check.count("burst", options.burst ?? defaults.burst)
  const shows = { after: Duration.format(Duration.millis(after)), budget, name: options.name }
  return Middleware.make()({ name: "Hedge", stage: "consume", inBatch: "once", shows }, (next) => {
    /** Awaits a first attempt that has not ended at once, and starts a second if it takes long. */
    const hedge = (
      spending: Budget,
      message: Envelope,
      result: Middleware.Returns
    ): Middleware.Returns =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function*() {
          const first = yield* Effect.forkChild(restore(result), { startImmediately: true })
          const early = yield* Effect.onInterrupt(
            restore(Effect.timeoutOption(Fiber.await(first), after)),
            () => Fiber.interrupt(first)
          )
          if (early._tag === "Some") return yield* early.value
          // an unrepeatable request that was sent must not be sent twice
          if (message.isUnrepeatable === true || !spending.spend()) return yield* whole(restore, first)
          const second = yield* Effect.forkChild(restore(Effect.suspend(() => next(message))), {
            startImmediately: true
          })
          const both = Effect.onInterrupt(
            restore(Effect.raceFirst(tagged(first, "first"), tagged(second, "second"))),
            () => Fiber.interruptAll([first, second])
          )
          const { exit, who } = yield* both
          const other = who === "first" ? second : first
          if (exit._tag === "Success") {
            if (who === "second") spending.won++
            yield* Fiber.interrupt(other)
            return yield* exit
          }
          const last = yield* Effect.onInterrupt(restore(Fiber.await(other)), () => Fiber.interrupt(other))
          if (last._tag === "Success") {
            if (who === "first") spending.won++
            return yield* last
          }
          return yield* who === "first" ? exit : last
        })
      )
    const call = (all: HedgeBudgets["Service"], message: Envelope): Middleware.Returns => {
      const spending = all.of(options.name ?? message.channel, burst)
      spending.call(budget, burst)
      const result = next(message)
      return Eager.isDone(result) ? result : hedge(spending, message, result)
    }
    return (message): Middleware.Returns<never, HedgeBudgets> =>
      Effect.flatMapEager(Eager.service(HedgeBudgets), (all) => call(all, message))
  })
}

const whole = <A, E>(
  restore: <B, F, R>(effect: Effect.Effect<B, F, R>) => Effect.Effect<B, F, R>,
  fiber: Fiber.Fiber<A, E>
): Effect.Effect<A, E> => Effect.onInterrupt(restore(Fiber.join(fiber)), () => Fiber.interrupt(fiber))

const tagged = <A, E>(
  fiber: Fiber.Fiber<A, E>,
  who: "first" | "second"
): Effect.Effect<{ readonly exit: Exit.Exit<A, E>; readonly who: "first" | "second" }> =>
  Effect.map(Fiber.await(fiber), (exit) => ({ exit, who }))
