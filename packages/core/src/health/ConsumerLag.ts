/**
 * Progress of subscriptions: consumer lag, age of the oldest message, and rate, as metrics and as values. An autoscaler such as
 * KEDA uses them to choose the number of processes of a consumer group.
 */
import { Clock, Context, type Duration, Effect, Layer, Metric, type Scope } from "effect"
import type { Health, Running } from "../broker/Broker.ts"
import * as Subscriptions from "../broker/Subscriptions.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Lost from "../telemetry/Lost.ts"
import * as Series from "../telemetry/Series.ts"

/** The progress of one subscription. */
export interface Progress {
  /** The name of the subscription. */
  readonly subscription: string
  readonly system: string
  readonly channel: string
  readonly group: string
  /** Messages not settled by the consumer group, over all partitions; undefined while the broker does not tell. */
  readonly lag: number | undefined
  /**
   * Seconds since the oldest unsettled message of this process was published: 0 if the group has no lag, undefined if
   * unknown.
   */
  readonly age: number | undefined
  /** Messages settled by this process per second, since the last measurement. */
  readonly rate: number
  /** Number of partitions assigned to this process. */
  readonly partitions: number
  /** Stuck messages and broker calls. */
  readonly stuck: number
  /** Unix time in milliseconds. */
  readonly measuredAt: number
}

/** Options of `observe` and `layer`. */
export interface Options {
  /** The time between two measurements, from 100 ms. Default: 15 seconds. */
  readonly every?: Duration.Input | undefined
  /** The time limit of the broker's answer, from 1 ms; a later lag is unknown. Default: 5 seconds. */
  readonly timeLimit?: Duration.Input | undefined
}

/** The defaults of `Options`. */
export const defaults: { readonly every: Duration.Input; readonly timeLimit: Duration.Input } = {
  every: "15 seconds",
  timeLimit: "5 seconds"
}

const check = OptionCheck.make("ConsumerLag")

interface Times {
  readonly every: number
  readonly timeLimit: number
}

const timesOf = (options: Options): Times => ({
  every: check.millis("every", options.every ?? defaults.every, { least: 100 }),
  timeLimit: check.millis("timeLimit", options.timeLimit ?? defaults.timeLimit)
})

interface Before {
  readonly at: number
  readonly settled: number
}

const lagOf = (running: Running, timeLimit: number): Effect.Effect<number | undefined> =>
  running.lag.pipe(
    Effect.map((parts) => parts.reduce((sum, { messages }) => sum + Math.max(0, messages), 0)),
    Effect.timeoutOrElse({ duration: timeLimit, orElse: () => Effect.undefined }),
    // the lag of a broker that does not count, or that is down, is unknown, not 0
    Effect.catchCause(() => Effect.undefined)
  )

const ageOf = (health: Health, lag: number | undefined, now: number): number | undefined => {
  const times = health.leases.flatMap(({ oldestPublished }) => oldestPublished ?? [])
  // publishers' clocks may be ahead of this one
  if (times.length > 0) return Math.max(0, now - Math.min(...times)) / 1000
  return health.pending === 0 && lag === 0 ? 0 : undefined
}

const measure = (
  running: Running,
  before: Before | undefined,
  timeLimit: number
): Effect.Effect<readonly [Progress, Before]> =>
  Effect.gen(function*() {
    const lag = yield* lagOf(running, timeLimit)
    const health = yield* running.health
    const now = (yield* Clock.Clock).currentTimeMillisUnsafe()
    const { channel, group, name, partitions, settled, stuck, system } = health
    const seconds = before === undefined ? 0 : (now - before.at) / 1000
    const progress: Progress = {
      subscription: name,
      system,
      channel,
      group,
      lag,
      age: ageOf(health, lag, now),
      rate: before === undefined || seconds <= 0 ? 0 : Math.max(0, settled - before.settled) / seconds,
      partitions: partitions.length,
      stuck,
      measuredAt: now
    }
    return [progress, { at: now, settled }]
  })

interface Figure {
  readonly id: string
  readonly description: string
  readonly unit: string
  readonly of: (progress: Progress) => number | undefined
}

const figures: ReadonlyArray<Figure> = [
  {
    id: "millrace.consumer.lag",
    description: "Messages that the consumer group has not settled.",
    unit: "{message}",
    of: ({ lag }) => lag
  },
  {
    id: "millrace.consumer.oldest.age",
    description: "Time since the oldest unsettled message was published.",
    unit: "s",
    of: ({ age }) => age
  },
  {
    id: "millrace.consumer.rate",
    description: "Messages that this process settles a second.",
    unit: "{message}/s",
    of: ({ rate }) => rate
  },
  {
    id: "millrace.consumer.stuck",
    description: "Messages and broker calls that do not move.",
    unit: "{message}",
    of: ({ stuck }) => stuck
  }
]

type SeriesRegistry = Effect.Success<typeof Metric.MetricRegistry>

/** Holds the last measurement of one subscription, and its metric series. */
class Observed {
  readonly running: Running
  progress: Progress | undefined
  private before: Before | undefined
  private readonly registry: SeriesRegistry
  private readonly shown = new Set<string>()

  constructor(running: Running, registry: SeriesRegistry) {
    this.running = running
    this.registry = registry
  }

  measure(timeLimit: number): Effect.Effect<Progress> {
    return Effect.map(measure(this.running, this.before, timeLimit), ([progress, before]) => {
      this.progress = progress
      this.before = before
      for (const figure of figures) this.show(figure, progress)
      return progress
    })
  }

  /** Shows a figure; an unknown figure has no series, because an exporter would write 0. */
  private show({ description, id, of, unit }: Figure, progress: Progress): void {
    const { channel, group, subscription, system } = progress
    const key = `millrace ${id} ${JSON.stringify([system, channel, group, subscription])}`
    if (of(progress) === undefined) {
      this.shown.delete(key)
      this.registry.delete(key)
      return
    }
    if (this.shown.has(key)) return
    this.shown.add(key)
    const labels = {
      "messaging.system": system,
      "messaging.destination.name": channel,
      "messaging.consumer.group.name": group,
      "millrace.subscription": subscription,
      unit
    }
    this.registry.set(key, Series.gauge(id, description, labels, () => of(this.progress ?? progress) ?? NaN))
  }

  /** Removes the series, so that no autoscaler uses figures of an ended subscription. */
  end(): void {
    for (const key of this.shown) this.registry.delete(key)
    this.shown.clear()
  }
}

/** Measures all subscriptions repeatedly, and removes ended ones. */
const loop = (
  subscriptions: Effect.Effect<ReadonlyArray<Running>>,
  registry: SeriesRegistry,
  { every, timeLimit }: Times
) => {
  const observed = new Map<Running, Observed>()
  const turn = Effect.flatMap(subscriptions, (all) => {
    for (const [running, each] of observed) {
      if (all.includes(running)) continue
      each.end()
      observed.delete(running)
    }
    for (const running of all) if (!observed.has(running)) observed.set(running, new Observed(running, registry))
    return Effect.forEach(observed.values(), (each) => each.measure(timeLimit), { concurrency: 8 })
  })
  const run = Effect.forever(Effect.andThen(Lost.quietly("ConsumerLag", turn), Effect.sleep(every)))
  const end = Effect.sync(() => {
    for (const each of observed.values()) each.end()
  })
  return { observed, turn, run, end }
}

/** The measurements of `layer`. */
class ConsumerLagReport extends Context.Service<ConsumerLagReport, {
  /** The last measurement of each running subscription, in start order. */
  readonly list: Effect.Effect<ReadonlyArray<Progress>>
}>()("@millrace/core/ConsumerLag/Report") {}
export { ConsumerLagReport as Report }

/**
 * Measures one subscription until the scope closes, and shows the figures in Effect's `Metric` registry, which Effect's
 * Prometheus and OTLP exporters read: `millrace.consumer.lag`, `millrace.consumer.oldest.age` (seconds),
 * `millrace.consumer.rate` and `millrace.consumer.stuck`, with `messaging.system`, `messaging.destination.name`,
 * `messaging.consumer.group.name` and `millrace.subscription`. An unknown figure has no series. Completes with the first
 * measurement.
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const observe = (running: Running, options: Options = {}): Effect.Effect<Progress, never, Scope.Scope> => {
  const times = timesOf(options)
  return Effect.gen(function*() {
    const { end, observed, run, turn } = loop(Effect.succeed([running]), yield* Metric.MetricRegistry, times)
    yield* Effect.addFinalizer(() => end)
    const [first] = yield* turn
    yield* Effect.forkScoped(Effect.delay(run, times.every))
    return first ?? observed.get(running)!.progress!
  })
}

/**
 * Measures all subscriptions of `Subscriptions.layer` as `observe` does, including subscriptions that start later.
 *
 * **Example** (the figures for an autoscaler)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { Channel, ConsumerLag, MemoryBroker, type Message, Subscription, Subscriptions } from "@millrace/core"
 *
 * const handler = (message: Message<Uint8Array>) => Effect.log(message.position)
 * const orders = Subscription.make(Channel.bytes("orders"), { group: "billing", name: "orders" }, handler)
 *
 * const layer = ConsumerLag.layer().pipe(
 *   Layer.provideMerge(Subscriptions.layer([orders])),
 *   Layer.provide(MemoryBroker.layer())
 * )
 * const program = Effect.gen(function*() {
 *   const [progress] = yield* (yield* ConsumerLag.Report).list
 *   console.log(progress?.subscription, progress?.lag, progress?.age) // => orders 0 0
 * })
 * await Effect.runPromise(Effect.provide(program, layer))
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<ConsumerLagReport, never, Subscriptions.Registry> => {
  const times = timesOf(options)
  return Layer.effect(
    ConsumerLagReport,
    Effect.gen(function*() {
      const subscriptions = yield* Subscriptions.Registry
      const { end, observed, run, turn } = loop(subscriptions.running, yield* Metric.MetricRegistry, times)
      yield* Effect.addFinalizer(() => end)
      yield* turn
      yield* Effect.forkScoped(Effect.delay(run, times.every))
      return ConsumerLagReport.of({
        list: Effect.sync(() => Array.from(observed.values()).flatMap(({ progress }) => progress ?? []))
      })
    })
  )
}
