/**
 * The health of a program: checks of what it depends on, asked side by side, and one report of them for probes, logs and
 * messages.
 */
import { Clock, Context, Duration, Effect, Layer, type Scope } from "effect"
import * as Detached from "../message/Detached.ts"
import * as Check from "./Check.ts"
import * as Pulse from "./Pulse.ts"
import * as Checks from "./Registry.ts"
import type { Report } from "./Report.ts"

export {
  type Answer,
  type Any,
  type Check,
  check,
  type Common,
  defaults as checkDefaults,
  type Degraded,
  degraded,
  type Details,
  type Kind,
  type Liveness,
  liveness,
  maximumDetails,
  maximumText,
  type Needs,
  type Options as CheckOptions
} from "./Check.ts"
export {
  audit,
  broker,
  type BrokerOptions,
  circuits,
  type CircuitsOptions,
  idempotency,
  killSwitch,
  lag,
  type LagOptions,
  rateLimit,
  SubscriptionDown
} from "./checks.ts"
export type { Phase, Report, Result, Shown, Status } from "./Report.ts"
export { subscription, subscriptions, type SubscriptionsOptions } from "./subscriptions.ts"
export { teardown } from "./teardown.ts"

/** Options of `layer`. */
export interface Options {
  /** How long an answer is good for; who asks meanwhile gets it at once. From 0. Default: 1 second. */
  readonly cache?: Duration.Input | undefined
  /** How many checks run at once; an integer from 1. Default: 16. */
  readonly concurrency?: number | undefined
  /** The most checks; an integer from 1. Default: 100. */
  readonly maximumChecks?: number | undefined
  /** The check of liveness that is always there; `off` leaves it out. */
  readonly eventLoop?: Pulse.Options | "off" | undefined
}

/** What `layer` does where an option is not given. */
export const defaults: {
  readonly cache: Duration.Duration
  readonly concurrency: number
  readonly maximumChecks: number
  readonly eventLoop: { readonly delay: Duration.Duration }
} = { cache: Duration.seconds(1), concurrency: 16, maximumChecks: 100, eventLoop: Pulse.defaults }

/** The checks of a program. */
class HealthRegistry extends Context.Service<HealthRegistry, {
  /**
   * Asks the checks of a kind, and of none where their answers are new enough; `all` asks every one. It takes no longer than
   * the longest time limit, times the rounds that `concurrency` makes of them. Interrupting it interrupts no check.
   */
  readonly report: (kind?: Report["kind"]) => Effect.Effect<Report>
  /** The program has started: what was not ready until now may be. */
  readonly started: Effect.Effect<void>
  /** The program ends: from now on it is not ready, whatever its checks say, and they are not asked for it any more. */
  readonly draining: Effect.Effect<void>
  /**
   * Adds a check until the scope closes. A name that is there already, and one check more than there may be, are defects
   * (`RangeError`).
   */
  readonly add: <R = never>(check: Check.Check<R> | Check.Liveness) => Effect.Effect<void, never, R | Scope.Scope>
}>()("@millrace/core/Health/Registry") {}

export { HealthRegistry as Registry }

/**
 * The report, as a value.
 *
 * **Example** (a program without HTTP logs it)
 *
 * ```ts
 * import { Effect } from "effect"
 * import { Health } from "@millrace/core"
 *
 * const program = Effect.gen(function*() {
 *   const { checks, status } = yield* Health.report("readiness")
 *   console.log(status, checks.map(({ name, status }) => `${name} is ${status}`)) // => up [ 'prices is up' ]
 * })
 *
 * const prices = Health.check({ name: "prices", check: Effect.succeed({ known: 120 }) })
 * await Effect.runPromise(Effect.provide(Effect.andThen(Health.started, program), Health.layer([prices])))
 * ```
 */
export const report = (kind: Report["kind"] = "all"): Effect.Effect<Report, never, HealthRegistry> =>
  Effect.flatMap(HealthRegistry, (registry) => registry.report(kind))

/** Marks the program as started. */
export const started: Effect.Effect<void, never, HealthRegistry> = Effect.flatMap(
  HealthRegistry,
  (registry) => registry.started
)

/** Marks the program as draining, for good. */
export const draining: Effect.Effect<void, never, HealthRegistry> = Effect.flatMap(
  HealthRegistry,
  (registry) => registry.draining
)

const make = <R>(
  checks: ReadonlyArray<Check.Check<R> | Check.Liveness>,
  settings: Checks.Settings,
  eventLoop: Pulse.Options | "off"
): Effect.Effect<HealthRegistry["Service"], never, R | Scope.Scope> =>
  Effect.gen(function*() {
    const registry = yield* Checks.make(settings)
    const add = <R = never>(check: Check.Check<R> | Check.Liveness): Effect.Effect<void, never, R | Scope.Scope> =>
      Effect.contextWith((context: Context.Context<R>) =>
        registry.add(
          check._tag === "Liveness"
            ? check
            : { ...check, ask: Effect.provideContext(check.ask, Detached.context(context)) }
        )
      )
    if (eventLoop !== "off") {
      const pulse = Pulse.make(yield* Clock.Clock, eventLoop)
      yield* Effect.forkScoped(Detached.effect(pulse.run))
      yield* add(pulse.check)
    }
    for (const check of checks) yield* add(check)
    return {
      report: (kind = "all") => registry.report(kind),
      started: registry.phase("started"),
      draining: registry.phase("draining"),
      add
    }
  })

/**
 * The checks of a program.
 *
 * Provides `Registry`; needs what the checks ask. Until the program is marked as started, by `layerLifetime` or `started`,
 * it is not ready.
 *
 * A check that changes its status is logged once, with all of its cause when it goes down, and is seen in the gauge
 * `millrace.health.up` by `check`: 1, 0.5 while degraded, 0 while down; names beyond the first 1,000 are not.
 *
 * **Example** (a broker, and a store of rate limits that the program can do without)
 *
 * ```ts
 * import { Layer } from "effect"
 * import { Health, MemoryBroker, RateLimit } from "@millrace/core"
 *
 * const health = Health.layer([Health.broker(), Health.rateLimit({ whenDown: "degraded" })]).pipe(
 *   Layer.provide([MemoryBroker.layer(), RateLimit.layerMemory()])
 * )
 * ```
 *
 * @throws RangeError when an option is out of range, a name is there twice, or there are too many checks
 * @category layers
 */
export const layer = <const Checks extends ReadonlyArray<Check.Any>>(
  checks: Checks,
  options: Options = {}
): Layer.Layer<HealthRegistry, never, Exclude<Check.Needs<Checks[number]>, Scope.Scope>> => {
  const settings: Checks.Settings = {
    cache: Check.checkOption.millis("cache", options.cache ?? defaults.cache, { least: 0 }),
    concurrency: Check.checkOption.count("concurrency", options.concurrency ?? defaults.concurrency),
    maximumChecks: Check.checkOption.count("maximumChecks", options.maximumChecks ?? defaults.maximumChecks)
  }
  const { eventLoop = defaults.eventLoop } = options
  if (checks.length + (eventLoop === "off" ? 0 : 1) > settings.maximumChecks) {
    throw new RangeError(
      `Health: checks must be at most ${settings.maximumChecks}, the event loop's among them, got ${checks.length}`
    )
  }
  const twice = checks.find(({ name }, i) => checks.findIndex((other) => other.name === name) !== i)
  if (twice !== undefined) throw new RangeError(`Health: name must be of one check, got ${twice.name} twice`)
  if (eventLoop !== "off") Pulse.delayOf(eventLoop)
  // each of them needs no more than all do
  const all = checks as ReadonlyArray<Check.Any> as ReadonlyArray<
    Check.Check<Check.Needs<Checks[number]>> | Check.Liveness
  >
  return Layer.effect(HealthRegistry, make(all, settings, eventLoop))
}

/** Options of `layerLifetime`. */
export interface LifetimeOptions {
  /**
   * How long the program goes on as if nothing was once it says that it drains, so that those who send it work have seen it; from 0. Default: 0.
   */
  readonly wait?: Duration.Input | undefined
}

/**
 * Marks the program as started when this layer is built, and as draining when its scope closes, e.g. by SIGTERM.
 *
 * Put it on top of all that must run before the program is ready, subscriptions and servers: they are built before it, and end
 * after it.
 *
 * **Example** (ready when the subscription is, and not any more when it begins to drain)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Channel, Health, MemoryBroker, type Message, Subscription } from "@millrace/core"
 *
 * const orders = Subscription.make(
 *   Channel.bytes("orders"),
 *   { group: "billing" },
 *   (message: Message<Uint8Array>) => Effect.log(message.raw.length)
 * )
 *
 * const program = Health.layerLifetime({ wait: "5 seconds" }).pipe(
 *   Layer.provide(Subscription.layer(orders)),
 *   Layer.provide(Health.layer([Health.broker()])),
 *   Layer.provide(MemoryBroker.layer())
 * )
 * ```
 *
 * @throws RangeError when `wait` is out of range
 * @category layers
 */
export const layerLifetime = (options: LifetimeOptions = {}): Layer.Layer<never, never, HealthRegistry> => {
  const wait = Check.checkOption.millis("wait", options.wait ?? 0, { least: 0 })
  return Layer.effectDiscard(
    Effect.acquireRelease(
      started,
      () => wait === 0 ? draining : Effect.andThen(draining, Effect.sleep(wait))
    )
  )
}
