/**
 * Rate limits: the most messages of a channel, a consumer, a key or any other group in a time.
 */
import { Data, Duration, Effect, Exit, Fiber, Metric } from "effect"
import { type Envelope, Message } from "../message/Message.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, Fixed, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { isStreaming } from "../pipeline/streaming.ts"
import {
  type AnyOptions,
  chargesOf,
  type ConsumerOptions,
  type Handling,
  type KeyedOptions,
  type Options,
  type PoliciesOptions,
  rulesOf,
  textOf
} from "./rateLimit/options.ts"
import { type Charge, check, type Decision, type Policy } from "./rateLimit/policy.ts"
import { refusalOf } from "./rateLimit/state.ts"
import { RateLimitStore, type RateLimitUnavailable } from "./rateLimit/store.ts"

export { denying, type DenyOptions } from "./rateLimit/deny.ts"
export { layerMemory, type MemoryOptions } from "./rateLimit/memory.ts"
export {
  type Asked,
  type ConsumerOptions,
  type Cost,
  type Handling,
  type KeyedOptions,
  type Limits,
  type Options,
  type PoliciesOptions,
  type PolicyOptions
} from "./rateLimit/options.ts"
export {
  type Algorithm,
  type Charge,
  type Decision,
  type Policy,
  policy,
  type PolicyNumbers,
  type Verdict
} from "./rateLimit/policy.ts"
export { decide, type Decided, release, renew, resetOf, type State, ticks } from "./rateLimit/state.ts"
export { RateLimitStore as Store, RateLimitUnavailable } from "./rateLimit/store.ts"

/** The defaults of `middleware`; `burst` defaults to `limit`, and `by` to `channel`. */
export const defaults: {
  readonly limit: number
  readonly window: Duration.Duration
  readonly onExceeded: "refuse"
  readonly maximumDelay: Duration.Duration
} = { limit: 100, window: Duration.seconds(1), onExceeded: "refuse", maximumDelay: Duration.seconds(1) }

/** The message came too early; class `throttled`, so the message returns to its source for `retryAfter`. */
export class RateLimited extends Data.TaggedError("RateLimited")<{
  /** The key of the policy with the longest wait; `limit` and `window` are that policy's. */
  readonly key: string
  readonly limit: number
  readonly window: Duration.Duration
  /** Exact at the time of the answer: the message would pass then, and not a millisecond earlier. */
  readonly retryAfter: Duration.Duration
  /** The names of the policies that refuse the message. */
  readonly violated: ReadonlyArray<string>
  /** All policies of the call; `decision` holds the store's verdicts in the same order. */
  readonly policies: ReadonlyArray<Policy>
  readonly decision: Decision
}> {
  readonly failure = "throttled" as const
  override get message(): string {
    return `More than ${this.limit} in ${Duration.format(this.window)} (${this.violated.join(", ")}): come back in ${
      Duration.format(this.retryAfter)
    }`
  }
}

/** Messages that passed uncounted because the store was unavailable, by the attribute `limit`, the names of the policies. */
export const unavailable = Metric.counter("millrace.rate_limit.unavailable", {
  description: "Messages that passed uncounted because the store of their rate limit could not be asked",
  incremental: true
})

type Restore = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

type Needs = { requires: RateLimitStore; fails: RateLimited | RateLimitUnavailable }

/** The overloads of `middleware`: `by` decides which messages it accepts. */
export interface Build {
  (options?: Options): Around<Envelope, FullConfig<Needs>>
  (options: ConsumerOptions): Around<Message<unknown>, FullConfig<Needs>>
  <M extends Envelope>(options: KeyedOptions<M>): Fixed<M, FullConfig<Needs>>
  <M extends Envelope>(options: PoliciesOptions<M>): Fixed<M, FullConfig<Needs>>
}

/** Renews places while the answer is being sent, then releases them. */
const keepUntilSent = <A, E>(
  message: Envelope,
  release: Effect.Effect<void>,
  beat: Effect.Effect<never>,
  exit: Exit.Exit<A, E>
): Effect.Effect<A, E> =>
  Effect.flatMap(Effect.forkDetach(Effect.interruptible(beat)), (fiber) => {
    message.afterAnswer?.(Effect.andThen(Fiber.interrupt(fiber), release))
    return exit
  })

const refusal = (charges: ReadonlyArray<Charge>, decision: Decision, within: number): RateLimited => {
  const waits = decision.verdicts.map(({ wait }, i) => refusalOf(charges[i]!.policy, wait, within))
  const longest = charges[waits.indexOf(Math.max(...waits))]!
  return new RateLimited({
    key: longest.key,
    limit: longest.policy.limit,
    window: Duration.millis(longest.policy.window),
    retryAfter: Duration.millis(Math.ceil(decision.wait)),
    violated: charges.filter((_, i) => waits[i]! > 0).map(({ policy }) => policy.name),
    policies: charges.map(({ policy }) => policy),
    decision
  })
}

/**
 * Lets at most `limit` messages pass in each `window`, by channel, key, consumer or a function of the message; or by
 * several such policies, decided together.
 *
 * Types: any message in, the same message on (by `consumer` only a consumer's, by a function the type that it reads);
 * `Store` enters R, `RateLimited` and `RateLimitUnavailable` enter E.
 *
 * By `gcra`, over any time t at most `burst + t * limit / window` pass: there is no window edge at which twice the rate
 * gets through. docs/rate-limit.md has the guarantees of the other algorithms. The middleware releases a place of
 * `concurrency` when the handler has ended, by any exit, and renews it every third of its window. A delay reserves the
 * turn of the message and waits in its lane, which applies backpressure; interrupting it spends the turn. Waits are
 * rounded up to a millisecond, which is then part of t.
 *
 * Errors: `RateLimited` (class `throttled`) returns the message to its source for exactly `retryAfter`;
 * `RateLimitUnavailable` (class `dependency`) returns it with the backoff of the subscription. A `cost` out of range is a
 * defect.
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
 * **Example** (two limits, by the weight of a message: a message refused by one limit is counted by none)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Message, RateLimit } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   RateLimit.middleware({
 *     policies: [
 *       { name: "calls", by: "key", limit: 100, window: "1 minute", algorithm: "slidingCounter" },
 *       {
 *         name: "kilobytes",
 *         limit: 10_000,
 *         cost: (message: Message<Uint8Array>) => Math.min(10_000, Math.ceil(message.payload.length / 1000))
 *       }
 *     ]
 *   })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware: Build = ((
  options: AnyOptions & Handling | PoliciesOptions<Envelope> = {}
) => {
  const rules = rulesOf("policies" in options ? options.policies : [options])
  const [only] = rules
  const maximumDelay = check.millis("maximumDelay", options.maximumDelay ?? defaults.maximumDelay, { least: 0 })
  const charge = chargesOf(rules)
  const exceeded = check.oneOf("onExceeded", options.onExceeded ?? defaults.onExceeded, ["delay", "refuse"])
  const delays = exceeded === "delay" && maximumDelay > 0
  const withinOf = (message: Envelope): number =>
    message instanceof Message ? Math.min(maximumDelay, message.delivery.origin.holdLimit / 2) : maximumDelay
  const onExceeded = delays ? `delay up to ${Duration.format(Duration.millis(maximumDelay))}` : "refuse"
  const leases = rules.flatMap(({ policy }) => policy.algorithm === "concurrency" ? [policy.window] : [])
  const beats = Math.min(...leases) / 3
  const policies = rules.map(({ policy }) => policy)
  const { onDecision } = options
  const passes = check.oneOf("unavailable", options.unavailable ?? "refuse", ["pass", "refuse"]) === "pass"
    ? Metric.update(Metric.withAttributes(unavailable, { limit: rules.map(({ policy }) => policy.name).join(",") }), 1)
    : undefined
  return Middleware.make()({
    name: "RateLimit",
    stage: "consume",
    // places are held while the batch is published, so a batch takes one place
    inBatch: leases.length > 0 ? "once" : "each",
    shows: only !== undefined && !("policies" in options)
      ? {
        by: only.by,
        limit: textOf(only.policy),
        burst: only.policy.burst === only.policy.limit ? undefined : only.policy.burst,
        algorithm: only.policy.algorithm === "gcra" ? undefined : only.policy.algorithm,
        onExceeded
      }
      : { policies: rules.map(({ policy }) => `${policy.name}: ${textOf(policy)}`).join(", "), onExceeded }
  }, (next) => {
    /** Runs the rest of the chain while it holds places, then releases them. */
    const holding = (
      message: Envelope,
      store: RateLimitStore["Service"],
      charges: ReadonlyArray<Charge>,
      { lease, wait }: Decision
    ): Middleware.Returns => {
      // a place whose release fails expires by itself
      const release = Effect.suspend(() => Effect.ignore(store.release(charges, lease)))
      const later = Effect.suspend(() => next(message))
      const result: Middleware.Returns = wait === 0
        ? Eager.guard(next)(message)
        : Effect.andThen(Effect.sleep(wait), later)
      const beat: Effect.Effect<never> = Effect.forever(
        Effect.andThen(Effect.sleep(beats), Effect.suspend(() => Effect.ignore(store.renew(charges, lease))))
      )
      if (isStreaming(message, result)) return keepUntilSent(message, release, beat, result)
      if (Eager.isDone(result)) {
        return Effect.flatMapEager(store.release(charges, lease).pipe(Effect.catchEager(() => Exit.void)), () => result)
      }
      let isPending = true
      // an interruption may come before the chain's first step: then only this hook releases the places
      message.after(() => isPending ? release : undefined)
      return Effect.uninterruptibleMask((restore) =>
        Effect.flatMap(Effect.exit(restore(Effect.raceFirst(result, beat))), (exit): Middleware.Returns => {
          isPending = false
          return isStreaming(message, exit)
            ? keepUntilSent(message, release, beat, exit)
            : Effect.andThen(release, exit)
        })
      )
    }

    const go = (
      message: Envelope,
      store: RateLimitStore["Service"],
      charges: ReadonlyArray<Charge>,
      decision: Decision,
      within: number
    ): Middleware.Returns<RateLimited> => {
      onDecision?.(message, { policies, decision })
      if (!decision.isAdmitted) return Exit.fail(refusal(charges, decision, within))
      if (decision.lease !== 0) return holding(message, store, charges, decision)
      return decision.wait === 0
        ? next(message)
        : Effect.andThen(Effect.sleep(decision.wait), Effect.suspend(() => next(message)))
    }

    return (message): Middleware.Returns<RateLimited | RateLimitUnavailable, RateLimitStore> => {
      const charges = charge(message)
      const within = delays ? withinOf(message) : 0
      return Effect.flatMapEager(Eager.service(RateLimitStore), (store) => {
        const taken = store.take(charges, within)
        if (Eager.isDone(taken) && taken._tag === "Success") return go(message, store, charges, taken.value, within)
        const answered = (restore: Restore) =>
          Effect.matchEffect(taken, {
            onSuccess: (decision): Middleware.Returns<RateLimited> =>
              restore(go(message, store, charges, decision, within)),
            onFailure: (error): Middleware.Returns<RateLimitUnavailable> =>
              passes === undefined
                ? Exit.fail(error)
                : restore(Effect.andThen(passes, Effect.suspend(() => next(message))))
          })
        // uninterruptible, so that a fiber that was given a place releases it
        return leases.length > 0 ? Effect.uninterruptibleMask(answered) : answered((effect) => effect)
      })
    }
  })
}) as Build
