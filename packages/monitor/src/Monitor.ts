/**
 * Watches consumers, publishers, HTTP servers and clients alike: errors by class and tag, groups of errors, trends, slow calls,
 * and alerts. A call that succeeds in time costs nothing beyond `Metrics`.
 */
import {
  type Around,
  Auth,
  Correlation,
  type Envelope,
  Failure,
  Message,
  Metrics,
  OptionCheck,
  Redaction
} from "@millrace/core"
import type { Middleware } from "@millrace/core"
import { Cause, Clock, Context, Data, Duration, Effect, Exit, Fiber, Layer, Metric, Ref } from "effect"
import type { AlertChannel } from "./AlertChannel.ts"
import * as AlertRule from "./AlertRule.ts"
import * as Fingerprint from "./Fingerprint.ts"
import * as Fold from "./Fold.ts"
import * as Notifier from "./internal/notifier.ts"
import * as Sample from "./internal/sample.ts"
import * as Unsent from "./internal/unsent.ts"
import type { Preset } from "./Preset.ts"
import * as Severity from "./Severity.ts"

/** The store of the monitor cannot be read or changed. Class `dependency`; no message is affected. */
export class MonitorUnavailable extends Data.TaggedError("MonitorUnavailable")<{
  readonly message: string
  readonly cause?: unknown
}> {
  readonly failure = "dependency" as const
}

/** Keeps the state that all processes share. */
class MonitorStore extends Context.Service<MonitorStore, {
  /**
   * Changes the state in one step, which no other change can come between, and returns the second part of `change`'s answer. A
   * failure changes nothing. `change` is pure, and may be called again.
   */
  readonly change: <A>(
    change: (state: Fold.State | undefined) => readonly [Fold.State, A]
  ) => Effect.Effect<A, MonitorUnavailable>
  /** Reads the state; undefined if there is none yet. */
  readonly read: Effect.Effect<Fold.State | undefined, MonitorUnavailable>
}>()("@millrace/monitor/Monitor/Store") {}
export { MonitorStore as Store }

/** Keeps the state in memory: for one process, until it ends. */
export const layerMemory: Layer.Layer<MonitorStore> = Layer.effect(
  MonitorStore,
  Effect.map(Ref.make<Fold.State | undefined>(undefined), (ref) => ({
    change: (change) =>
      Ref.modify(ref, (state) => {
        const [next, answer] = change(state)
        return [answer, next]
      }),
    read: Ref.get(ref)
  }))
)

/** What a monitor knows. The counts of this process are included up to now, those of others up to their last tick. */
class MonitorService extends Context.Service<MonitorService, {
  /** The state, for `Fold.errors`, `Fold.trends`, `Fold.insights` and `Fold.transitions`. */
  readonly state: Effect.Effect<Fold.State, MonitorUnavailable>
  /** Evaluates the rules now, beside the regular ticks. A store that is down delays nothing: the process goes on by itself. */
  readonly tick: Effect.Effect<void>
  /** Sends nothing for a rule, or for all, for a time; `author` and `reason` are kept with it. */
  readonly mute: (mute: {
    readonly rule?: string | undefined
    readonly for: Duration.Input
    readonly author: string
    readonly reason: string
  }) => Effect.Effect<void>
  /** Gives the value of a gauge, for rules of kind `gauge`. */
  readonly gauge: (name: string, label: string, value: number) => Effect.Effect<void>
}>()("@millrace/monitor/Monitor/Service") {}
export { MonitorService as Service }

/** A channel, or the configuration or effect that makes one at start. */
export type Channel<E, R> = AlertChannel<R> | Effect.Effect<AlertChannel<R>, E, R>

/** Options of `layer`. */
export interface Options<E = never, R = never> extends Pick<Fold.Options, "channels" | "groups" | "tags" | "handlers"> {
  /** Default: `AlertRule.standard`. */
  readonly rules?: ReadonlyArray<AlertRule.Rule> | undefined
  /** Where alerts go. An effect, such as `AlertChannel.slackConfig()`, runs at start. Default: the log gets none, and no other. */
  readonly send?: ReadonlyArray<Channel<E, R>> | undefined
  /** Severities that differ from the table. */
  readonly severity?: Severity.Options | undefined
  /** The duration from which a call is slow; from 1 ms, `Infinity` for never. Default: the preset's, 1 second. */
  readonly slow?: Duration.Input | undefined
  /** How often rules are evaluated and counts are stored, on the clock; from 1 second. Default: 15 seconds. */
  readonly every?: Duration.Input | undefined
  /**
   * The user whom an error affects, of whom only a hash is kept. Default: the subject of the `Principal`, where the middleware
   * stands inside `Auth`.
   */
  readonly affected?: ((message: Envelope) => string | undefined) | undefined
  /** Secrets beside the usual ones, which are removed from the messages of groups. */
  readonly redact?: Redaction.Options | undefined
  /** The most alerts that wait for one channel, from 1. Default: 100. */
  readonly queue?: number | undefined
  /** The attempts to send an alert through one channel, from 1. Default: 3. */
  readonly attempts?: number | undefined
  /** The longest time of one attempt; from 1 ms. Default: 10 seconds. */
  readonly timeout?: Duration.Input | undefined
  /** The time before the second attempt, which doubles; a receiver's `Retry-After` takes precedence. Default: 1 second. */
  readonly backoff?: Duration.Input | undefined
  /** See `Fold.make`. Default: 30 seconds. */
  readonly groupWait?: Duration.Input | undefined
  /** See `Fold.make`. Default: 5 minutes. */
  readonly groupInterval?: Duration.Input | undefined
  /** See `Fold.make`. Default: 4 hours. */
  readonly repeat?: Duration.Input | undefined
}

/** The defaults of the options of `layer`. */
export const defaults = {
  every: "15 seconds",
  queue: 100,
  attempts: 3,
  timeout: "10 seconds",
  backoff: "1 second"
} as const satisfies Options

/** Ticks that could not use the store. */
const unstoredTotal = Metric.counter("millrace.monitor.unstored", {
  description: "Ticks at which the store of the monitor failed.",
  incremental: true
})

/** Milliseconds that closing waits for the last tick, and for alerts that are being sent. */
const closing = Duration.seconds(5)

const check = OptionCheck.make("Monitor")

const current = <I, S>(key: Context.Key<I, S>): S | undefined => {
  const fiber = Fiber.getCurrent()
  return fiber === undefined ? undefined : Context.getOrUndefined(fiber.context, key)
}

/** Makes the observer that turns calls into events. */
const observerOf = (
  preset: Preset,
  options: Options<unknown, unknown>,
  clock: Clock.Clock,
  add: (event: Fold.Event) => void,
  isKnown: (fingerprint: string) => boolean
): Metrics.Observer => {
  const severityOf = Severity.make(options.severity)
  const redaction = Redaction.make(options.redact)
  const slow = check.millis("slow", options.slow ?? preset.slow, { infinite: true }) * 1e6
  const affectedOf = options.affected ?? (() => current(Auth.Principal)?.subject)
  return {
    slow,
    ended: (message, _exit, nanos, { error, status }) => {
      const at = clock.currentTimeMillisUnsafe()
      const channel = message.template ?? message.channel
      const handler = message instanceof Message ? message.delivery.origin.handler : undefined
      const correlationId = Correlation.current()?.id
      const isError = status === "failed" || (status === "rejected" && error !== undefined)
      if (isError) {
        const failure = Failure.classOf(error)
        const tag = typeof error === "number" ? String(error) : Failure.tagOf(error)
        const { fingerprint, message: text } = Fingerprint.of(error)
        const own = preset.analysis ? fingerprint : "1:all"
        add({
          type: "failed",
          at,
          channel,
          handler,
          tag,
          failure,
          severity: severityOf(tag, failure),
          fingerprint: own,
          // a known group has its message already
          message: isKnown(own) ? "" : preset.analysis ? redaction.text(text) : "all errors",
          correlationId,
          affected: affectedOf(message)
        })
      }
      if (nanos < slow) return
      const started = at - nanos / 1e6
      const published = message instanceof Message ? message.timestamp : undefined
      add({
        type: "slow",
        at,
        kind: message.kind,
        channel,
        handler,
        waited: published === undefined || published === 0 ? undefined : Math.max(0, Math.round(started - published)),
        handled: Math.round(nanos / 1e6),
        attempt: message instanceof Message ? message.attempt : undefined,
        correlationId,
        traceId: Fiber.getCurrent()?.cache.span?.traceId,
        failed: isError
      })
    }
  }
}

const make = <E, R>(preset: Preset, options: Options<E, R>) => {
  const every = check.millis("every", options.every ?? defaults.every, { least: 1_000, most: OptionCheck.longestTimer })
  const sending: Notifier.Sending = {
    queue: check.count("queue", options.queue ?? defaults.queue),
    attempts: check.count("attempts", options.attempts ?? defaults.attempts, { most: 10 }),
    timeout: check.millis("timeout", options.timeout ?? defaults.timeout, { most: OptionCheck.longestTimer }),
    backoff: check.millis("backoff", options.backoff ?? defaults.backoff, { most: 60_000 })
  }
  const fold = Fold.make({
    ...options,
    retention: preset.retention,
    rules: preset.alerting ? options.rules ?? AlertRule.standard : []
  })
  const lease = Unsent.leaseOf(sending)
  // checks the options of severities before the layer is built
  Severity.make(options.severity)
  check.millis("slow", options.slow ?? preset.slow, { infinite: true })

  return Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const store = yield* MonitorStore
    const channels = preset.alerting
      ? yield* Effect.forEach(
        options.send ?? [],
        (channel) => Effect.isEffect(channel) ? channel : Effect.succeed(channel)
      )
      : []

    /** The counts since the last tick. */
    let pending = fold.empty()
    /** The counts of earlier ticks at which the store was down. */
    let unsaved = fold.empty()
    /** The last state of the store, with what this process added while the store was down. */
    let local = fold.empty()
    let isDown = false
    let sent: Array<string> = []

    const observer = observerOf(
      preset,
      options,
      clock,
      (event) => preset.monitoring ? fold.add(pending, event) : undefined,
      (fingerprint) => pending.groups.has(fingerprint)
    )
    const registry = yield* Metrics.make({ observer })
    const sample = yield* Effect.provideService(Sample.make, Metrics.Registry, registry)

    const notifier = yield* Notifier.make(channels, sending, (id) => void sent.push(id))

    const evaluate = (
      state: Fold.State | undefined,
      own: Fold.State,
      confirmed: ReadonlyArray<string>,
      now: number
    ) => {
      const [next, alerts] = fold.run(fold.merge(state ?? fold.empty(), own), [{ type: "tick", at: now }])
      return [next, Unsent.claim(next, alerts, confirmed, now, lease)] as const
    }

    const down = (error: unknown): Effect.Effect<void> => {
      const told = isDown ? Effect.void : Effect.logWarning(
        `The store of the monitor is unavailable, and this process watches by itself: ${Failure.messageOf(error, 500)}`
      )
      isDown = true
      return Effect.andThen(Metric.update(unstoredTotal, 1), told)
    }

    const tick = Effect.uninterruptible(Effect.gen(function*() {
      const now = clock.currentTimeMillisUnsafe()
      // an event of this moment belongs to the next window
      for (const event of yield* sample(now - 1)) if (preset.monitoring) fold.add(pending, event)
      const own = pending
      const confirmed = sent
      pending = fold.empty()
      sent = []
      const added = fold.merge(unsaved, own)
      const exit = yield* Effect.exit(store.change((state) => {
        const [next, due] = evaluate(state, added, confirmed, now)
        return [next, { next, due }]
      }))
      if (Exit.isSuccess(exit)) {
        local = exit.value.next
        unsaved = fold.empty()
        isDown = false
        return yield* notifier.send(exit.value.due)
      }
      // the store gets these counts later; the alerts of now cannot wait for it
      unsaved = added
      sent = [...confirmed, ...sent]
      const [next, due] = evaluate(local, own, confirmed, now)
      local = next
      yield* down(Cause.squash(exit.cause))
      yield* notifier.send(due)
    }))

    const untilNext = Effect.suspend(() => {
      const now = clock.currentTimeMillisUnsafe()
      return Effect.sleep(Duration.millis(every - now % every))
    })
    yield* Effect.forkScoped(Effect.forever(Effect.andThen(untilNext, tick)))
    yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeout(Effect.andThen(tick, notifier.drained), closing)))

    const monitor: MonitorService["Service"] = {
      state: Effect.map(store.read, (state) => fold.merge(fold.merge(state ?? fold.empty(), unsaved), pending)),
      tick,
      mute: ({ author, for: time, reason, rule }) =>
        Effect.sync(() => {
          const at = clock.currentTimeMillisUnsafe()
          const until = at + check.millis("for", time)
          fold.add(pending, { type: "muted", at, from: at, until, author, reason, rule })
        }),
      gauge: (name, label, value) =>
        Effect.sync(() =>
          fold.add(pending, { type: "gauged", at: clock.currentTimeMillisUnsafe(), name, label, value })
        )
    }
    return Context.make(MonitorService, monitor).pipe(Context.add(Metrics.Registry, registry))
  })
}

/**
 * Provides a monitor, and the registry of `Metrics` that it reads: everything that `Metrics.middleware` or `Monitor.middleware`
 * counts is watched. Needs a `Store`: `layerMemory`, or `MonitorSql.layer` for several processes.
 *
 * Every 15 seconds the counts of this process are added to the stored state, and the rules are evaluated on it, in one step of the
 * store: of several processes one sends each alert, and a restart neither repeats nor forgets one. An alert that no process has
 * confirmed is sent again after the time that its attempts may take. While the store is down, each process evaluates the
 * rules by itself, so an alert may come from each of them, and adds its counts later.
 *
 * Fails if a channel is an effect that fails, e.g. with a `ConfigError` that names a missing variable.
 *
 * **Example** (alerts of production to Slack)
 *
 * ```ts
 * import { AlertChannel, Monitor, Preset } from "@millrace/monitor"
 * import { Layer } from "effect"
 * import { FetchHttpClient } from "effect/http"
 *
 * const monitor = Monitor.layer(Preset.production, { send: [AlertChannel.slackConfig({ levels: ["critical"] })] }).pipe(
 *   Layer.provide([Monitor.layerMemory, FetchHttpClient.layer])
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = <E = never, R = never>(
  preset: Preset,
  options: Options<E, R> = {}
): Layer.Layer<MonitorService | Metrics.Registry, E, R | MonitorStore> => Layer.effectContext(make(preset, options))

/** The types of `Monitor.middleware`: `Service` and the registry of `Metrics` enter R. */
export type Watch = Around<Envelope, Middleware.FullConfig<{ requires: MonitorService | Metrics.Registry }>>

/**
 * Counts and times the messages of each channel, as `Metrics.middleware` does, for a monitor: its failures and slow calls are
 * watched. Use it in the place of `Metrics.middleware`; a chain with both counts each message twice.
 *
 * In: any message of a consumer, a publisher, a server or a client. E and A stay; `Service` and `Metrics.Registry` enter R.
 *
 * @throws RangeError when `timeOneIn` is not an integer from 1
 * @category constructors
 */
export const middleware = (options: Metrics.Options = {}): Watch => Metrics.middleware(options)

/** The errors so far: totals, rates, counts by severity, class, tag, channel and handler, and slow calls. */
export const errors: Effect.Effect<Fold.Errors, MonitorUnavailable, MonitorService> = Effect.gen(function*() {
  const state = yield* Effect.flatMap(MonitorService, (monitor) => monitor.state)
  return Fold.errors(state, yield* Clock.currentTimeMillis)
})

/** Groups of errors, the worst first. */
export const insights: Effect.Effect<Fold.Insights, MonitorUnavailable, MonitorService> = Effect.gen(function*() {
  const state = yield* Effect.flatMap(MonitorService, (monitor) => monitor.state)
  return Fold.insights(state, yield* Clock.currentTimeMillis)
})

/**
 * Errors by the hour.
 *
 * @throws RangeError when `hours` is not an integer from 1 to 168
 */
export const trends = (hours: number): Effect.Effect<Fold.Trends, MonitorUnavailable, MonitorService> => {
  OptionCheck.make("Monitor.trends").count("hours", hours, { most: 168 })
  return Effect.gen(function*() {
    const state = yield* Effect.flatMap(MonitorService, (monitor) => monitor.state)
    return Fold.trends(state, hours, yield* Clock.currentTimeMillis)
  })
}

/**
 * Rules that began or ceased to fire, the newest first; the last 500.
 *
 * @throws RangeError when `hours` is not a number from 1 to 168
 */
export const transitions = (
  hours: number
): Effect.Effect<ReadonlyArray<Fold.Transition>, MonitorUnavailable, MonitorService> => {
  OptionCheck.make("Monitor.transitions").number("hours", hours, { least: 1, most: 168 })
  return Effect.gen(function*() {
    const state = yield* Effect.flatMap(MonitorService, (monitor) => monitor.state)
    return Fold.transitions(state, hours, yield* Clock.currentTimeMillis)
  })
}
