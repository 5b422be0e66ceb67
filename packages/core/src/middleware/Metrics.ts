/**
 * Statistics of each channel: totals, errors by tag and class, durations with percentiles, bytes, messages in flight.
 *
 * Messages are counted in place, in records bound once for each channel; figures are computed when they are read, not for
 * each message.
 */
import { Clock, Context, Effect, Fiber, Layer, Metric } from "effect"
import { Broker } from "../broker/Broker.ts"
import { type Envelope, Message } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import { attributesOf, destinationOf } from "../telemetry/Conventions.ts"
import * as Eager from "../pipeline/Eager.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import { type ChannelStatistics, groupOf, type Observer, other, Recorder } from "../telemetry/Recorder.ts"
import * as Series from "../telemetry/Series.ts"

export type { ChannelStatistics, ErrorStatistics, Observer, Recorder } from "../telemetry/Recorder.ts"

const sizeOf = (message: Envelope): number => {
  if (message instanceof Message) return message.raw.length
  const body = "payload" in message ? message.payload : undefined
  return body instanceof Uint8Array ? body.length : 0
}

/** The records of all channels. */
class MetricsRegistry extends Context.Service<MetricsRegistry, {
  /** The record of a message's channel, made at its first message; `system` is used if the message does not name one. */
  readonly recorder: (message: Envelope, system: string | undefined) => Recorder
  /** The statistics so far, in the order in which channels were first seen. */
  readonly snapshot: Effect.Effect<ReadonlyArray<ChannelStatistics>>
}>()("@millrace/core/Metrics/Registry") {}
export { MetricsRegistry as Registry }

const check = OptionCheck.make("Metrics")

/** Options of `make`. */
export interface RegistryOptions {
  /** The most distinct error tags of a channel, an integer from 1; further tags are counted as `other`. Default: 20. */
  readonly tags?: number | undefined
  /**
   * The most distinct channels, an integer from 1; a channel with parameters counts once. Messages of further channels
   * are counted together, as the channel `other` of their kind and group. Default: 1000.
   */
  readonly channels?: number | undefined
  /**
   * Is told of each call that failed, was refused with an error, or was slow, whichever `Metrics.middleware` counted it; a
   * call that succeeds in time costs nothing. Default: none.
   */
  readonly observer?: Observer | undefined
}

/**
 * Makes a registry, and shows it in Effect's `Metric` registry, so that Effect's Prometheus and OTLP exporters read it:
 * `messaging.process.duration`, `messaging.client.operation.duration` (histograms in seconds, with `error.type` on
 * failures), `messaging.client.consumed.messages`, `messaging.client.sent.messages`, `millrace.messages` by
 * `millrace.status`, `millrace.in_flight`, `millrace.bytes`. The figures are computed when an exporter reads them. The
 * series stay registered when the program ends, so that an exporter that closes last exports the final figures.
 *
 * Labels follow OpenTelemetry: `messaging.destination.name`, or for a channel with parameters its address as
 * `messaging.destination.template`, so a subscription of thousands of topics has one set of series.
 *
 * @throws RangeError when an option is not an integer from 1
 * @category constructors
 */
export const make = (options: RegistryOptions = {}): Effect.Effect<MetricsRegistry["Service"]> => {
  const tags = check.count("tags", options.tags ?? 20)
  const channels = check.count("channels", options.channels ?? 1000)
  return Effect.map(Metric.MetricRegistry, (series) => {
    const recorders = new Map<string, Recorder>()
    const show = (metadata: Series.Series) =>
      void series.set(`millrace ${metadata.id} ${JSON.stringify(metadata.attributes)}`, metadata)
    const distinct = new Set<string>()
    const nameOf = (message: Envelope): string => {
      const channel = destinationOf(message)
      if (distinct.size < channels) distinct.add(channel)
      return distinct.has(channel) ? channel : other
    }
    return MetricsRegistry.of({
      recorder: (message, system) => {
        const channel = nameOf(message)
        const id = `${message.kind} ${groupOf(message) ?? ""} ${channel}`
        const known = recorders.get(id)
        if (known !== undefined) return known
        const labels = Series.labelsOf(message, channel, attributesOf(message, system))
        const recorder = new Recorder(
          message,
          channel,
          tags,
          (end, nanos) => show(Series.duration(message.kind, labels, end, nanos)),
          options.observer
        )
        recorders.set(id, recorder)
        Series.counters(message.kind, labels, recorder).forEach(show)
        return recorder
      },
      snapshot: Effect.sync(() => [...recorders.values()].map((recorder) => recorder.statistics()))
    })
  })
}

/**
 * Makes a registry for each build of the layer, with the defaults of `make`.
 *
 * @category layers
 */
export const layer: Layer.Layer<MetricsRegistry> = Layer.effect(MetricsRegistry, make())

/** The statistics so far, of each channel that had a message. */
export const snapshot: Effect.Effect<ReadonlyArray<ChannelStatistics>, never, MetricsRegistry> = Effect.flatMap(
  MetricsRegistry,
  (registry) => registry.snapshot
)

/** Finds the record of a message, and reuses the last one while context and channel are the same. */
class Finder {
  clock: Clock.Clock | undefined
  #context: Context.Context<never> | undefined
  #registry: MetricsRegistry["Service"] | undefined
  #last: Recorder | undefined

  find(fiber: Fiber.Fiber<unknown, unknown>, message: Envelope): Recorder {
    if (fiber.context !== this.#context) {
      this.#context = fiber.context
      this.clock = fiber.getRef(Clock.Clock)
      // the middleware's R demands it
      const registry = Context.getUnsafe(fiber.context as Context.Context<MetricsRegistry>, MetricsRegistry)
      if (registry !== this.#registry) this.#last = undefined
      this.#registry = registry
    }
    if (this.#last?.serves(message) !== true) {
      this.#last = this.#registry!.recorder(message, Context.getOrUndefined(fiber.context, Broker)?.system)
    }
    return this.#last!
  }
}

/** Nanoseconds since `start`, or -1 for a message that is not timed. */
const since = (clock: Clock.Clock | undefined, start: bigint): number =>
  clock === undefined ? -1 : Number(clock.monotonicTimeNanosUnsafe() - start)

/** Options of `middleware`. */
export interface Options {
  /**
   * Times one message in this many, an integer from 1; all are counted. Two readings of the clock cost about five times
   * the counting, so a channel of very cheap handlers may want 16 or 64. Default: 1.
   */
  readonly timeOneIn?: number | undefined
}

/**
 * Counts and times the messages of each channel, in the `Registry`, which enters R. E and A stay as they are.
 *
 * Failed messages have a duration too, and a channel's errors are counted even if no message ever succeeds; a dead letter
 * that an inner middleware answered counts as a failure. Times are those of the Clock's monotonic time.
 *
 * **Example** (percentiles of a channel)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { type Message, Metrics } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   Metrics.middleware()
 * )
 * const report = Effect.gen(function*() {
 *   for (const { channel, duration } of yield* Metrics.snapshot) yield* Effect.log(channel, `p99 ${duration.p99} ms`)
 * }).pipe(Effect.provide(Metrics.layer))
 * ```
 *
 * @throws RangeError when `timeOneIn` is not an integer from 1
 * @category constructors
 */
export const middleware = (options: Options = {}) => {
  const timeOneIn = check.count("timeOneIn", options.timeOneIn ?? 1)
  return Middleware.make()(
    { name: "Metrics", stage: "consume", inBatch: "each", shows: timeOneIn === 1 ? {} : { timeOneIn } },
    (next) => {
      const finder = new Finder()
      let untilTimed = 1
      const handle = (message: Envelope): Middleware.Returns<never, MetricsRegistry> => {
        const fiber = Fiber.getCurrent()
        if (fiber === undefined) return Effect.suspend(() => handle(message))
        const recorder = finder.find(fiber, message)
        recorder.begin(sizeOf(message))
        untilTimed -= 1
        const clock = untilTimed > 0 ? undefined : finder.clock
        if (untilTimed <= 0) untilTimed = timeOneIn
        const start = clock === undefined ? 0n : clock.monotonicTimeNanosUnsafe()
        const result = next(message)
        if (!Eager.isDone(result)) {
          return Eager.around(message, () => result, (exit) => recorder.end(message, exit, since(clock, start)))
        }
        recorder.end(message, result, since(clock, start))
        return result
      }
      return handle
    }
  )
}

/**
 * Counts every delivery, including those that `Filter` then drops: `received` of the channel's statistics. Needs the
 * `Registry`.
 *
 * @category constructors
 */
export const received = () =>
  Middleware.make()(
    {
      name: "Metrics.received",
      stage: "receive",
      order: [{ outside: "Filter", because: "what the filter drops was received too" }]
    },
    (next) => {
      const finder = new Finder()
      const handle = (message: Envelope): Middleware.Returns<never, MetricsRegistry> => {
        const fiber = Fiber.getCurrent()
        if (fiber === undefined) return Effect.suspend(() => handle(message))
        finder.find(fiber, message).received += 1
        return next(message)
      }
      return handle
    }
  )
