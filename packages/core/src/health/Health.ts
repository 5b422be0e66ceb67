/**
 * The health of a program: checks of its dependencies, run concurrently, and one report of them for probes, logs and messages.
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
  /** How long an answer is valid; reports in the meantime reuse it. From 0. Default: 1 second. */
  readonly cache?: Duration.Input | undefined
  /** The most checks that run at once; an integer from 1. Default: 16. */
  readonly concurrency?: number | undefined
  /** The most checks; an integer from 1. Default: 100. */
  readonly maximumChecks?: number | undefined
  /** The built-in liveness check; `off` leaves it out. */
  readonly eventLoop?: Pulse.Options | "off" | undefined
}

/** The defaults of `layer`. */
export const defaults: {
  readonly cache: Duration.Duration
  readonly concurrency: number
  readonly maximumChecks: number
  readonly eventLoop: { readonly delay: Duration.Duration }
} = { cache: Duration.seconds(1), concurrency: 16, maximumChecks: 100, eventLoop: Pulse.defaults }

/** The checks of a program. */
class HealthRegistry extends Context.Service<HealthRegistry, {
  /**
   * Runs the checks of a kind, except those with a fresh answer; `all` runs checks of every kind. It takes at most the
   * longest time limit, times the rounds needed under `concurrency`. Interrupting the report interrupts no check.
   */
  readonly report: (kind?: Report["kind"]) => Effect.Effect<Report>
  /** Marks the program as started: from now on it can be ready. */
  readonly started: Effect.Effect<void>
  /** Marks the program as draining: it is not ready, regardless of its checks; reports run only liveness checks. */
  readonly draining: Effect.Effect<void>
  /**
   * Adds a check until the scope closes. A duplicate name, and a check beyond the maximum, are defects
   * (`RangeError`).
   */
  readonly add: <R = never>(check: Check.Check<R> | Check.Liveness) => Effect.Effect<void, never, R | Scope.Scope>
}>()("@millrace/core/Health/Registry") {}

export { HealthRegistry as Registry }

/**
 * Makes the report, as a value.
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
 * Provides the checks of a program as `Registry`; needs the services of the checks. The program is not ready until it is marked
 * as started, by `layerLifetime` or `started`.
 *
 * A status change of a check is logged once, with its whole cause when it goes down, and sets the gauge `millrace.health.up` by
 * `check`: 1, 0.5 while degraded, 0 while down. Names beyond the first 1,000 have no gauge.
 *
 * **Example** (a broker, and an optional store of rate limits)
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
 * @throws RangeError when an option is out of range, a name is duplicate, or there are too many checks
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
  // each check needs at most the services that all need together
  const all = checks as ReadonlyArray<Check.Any> as ReadonlyArray<
    Check.Check<Check.Needs<Checks[number]>> | Check.Liveness
  >
  return Layer.effect(HealthRegistry, make(all, settings, eventLoop))
}

/** Options of `layerLifetime`. */
export interface LifetimeOptions {
  /**
   * How long the program continues to work normally after it is marked as draining, so that load balancers notice; from 0.
   * Default: 0.
   */
  readonly wait?: Duration.Input | undefined
}

/**
 * Marks the program as started when this layer is built, and as draining when its scope closes, e.g. by SIGTERM.
 *
 * Put this layer on top of everything that must run before the program is ready, such as subscriptions and servers: they are
 * built before it, and end after it.
 *
 * **Example** (ready once the subscription runs, not ready once it begins to drain)
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
