/**
 * Sends alerts through their channels: each channel has its own queue and fiber, so that one that hangs delays no other.
 */
import { Clock, Deferred, Duration, Effect, Exit, Metric, Queue, type Scope } from "effect"
import { type AlertChannel, type AlertUnsent, gets, write } from "../AlertChannel.ts"
import type { Alert } from "./state.ts"

/** Alerts sent, by `channel`. */
const sentTotal = Metric.counter("millrace.alerts.sent", {
  description: "Alerts that a channel has sent.",
  incremental: true
})

/** Alerts that a channel could not send, by `channel`; they were written to the log. */
const failedTotal = Metric.counter("millrace.alerts.failed", {
  description: "Alerts that a channel could not send, and that were written to the log.",
  incremental: true
})

/** How alerts are sent. */
export interface Sending {
  /** The most alerts that wait for one channel. */
  readonly queue: number
  readonly attempts: number
  /** Milliseconds of one attempt. */
  readonly timeout: number
  /** Milliseconds before the second attempt, which double. */
  readonly backoff: number
}

/** Sends alerts; `send` only puts them into queues. */
export interface Notifier {
  readonly send: (alerts: ReadonlyArray<Alert>) => Effect.Effect<void>
  /** Waits until every queue is empty. */
  readonly drained: Effect.Effect<void>
}

/** After this many failures in a row, a channel gets one attempt for each alert. */
const patience = 3

interface Lane<R> {
  readonly channel: AlertChannel<R>
  readonly queue: Queue.Queue<Alert>
  dropped: number
  failures: number
  /** The time at which the last alert was sent. */
  last: number
  /** Alerts that wait or are being sent. */
  open: number
}

/**
 * Makes a notifier, whose fibers end with the scope. `confirmed` is called once for each alert, when every channel has sent it
 * or it was written to the log.
 */
export const make = <R>(
  channels: ReadonlyArray<AlertChannel<R>>,
  sending: Sending,
  confirmed: (id: string) => void
): Effect.Effect<Notifier, never, R | Scope.Scope> =>
  Effect.gen(function*() {
    const lanes: ReadonlyArray<Lane<R>> = yield* Effect.forEach(
      channels,
      (channel) =>
        Effect.map(
          Queue.unbounded<Alert>(),
          (queue): Lane<R> => ({ channel, queue, dropped: 0, failures: 0, last: 0, open: 0 })
        )
    )
    const left = new Map<string, number>()
    const waiting = new Set<Deferred.Deferred<void>>()
    const done = (id: string): void => {
      const rest = (left.get(id) ?? 1) - 1
      if (rest > 0) return void left.set(id, rest)
      left.delete(id)
      confirmed(id)
    }

    const attempt = ({ channel }: Lane<R>, alert: Alert): Effect.Effect<void, AlertUnsent | "hangs" | "defect", R> =>
      Effect.suspend(() => channel.send(alert)).pipe(
        Effect.catchDefect(() => Effect.fail("defect" as const)),
        Effect.timeoutOrElse({
          duration: Duration.millis(sending.timeout),
          orElse: () => Effect.fail("hangs" as const)
        })
      )

    const wordOf = (error: AlertUnsent | "hangs" | "defect"): string =>
      error === "hangs"
        ? `it gave no answer in ${Duration.format(Duration.millis(sending.timeout))}`
        : error === "defect"
        ? "its code threw"
        : error.message

    const waitFor = (error: AlertUnsent | "hangs" | "defect", n: number): Duration.Duration | undefined => {
      if (n >= sending.attempts || error === "defect") return undefined
      const own = Duration.millis(sending.backoff * 2 ** (n - 1))
      if (error === "hangs") return own
      return error.isFinal ? undefined : error.retryAfter ?? own
    }

    const deliver = (lane: Lane<R>, alert: Alert, n: number): Effect.Effect<string | undefined, never, R> =>
      Effect.matchEffect(attempt(lane, alert), {
        onSuccess: () => Effect.succeed(undefined),
        onFailure: (error) => {
          const wait = lane.failures >= patience ? undefined : waitFor(error, n)
          return wait === undefined
            ? Effect.succeed(wordOf(error))
            : Effect.andThen(Effect.sleep(wait), Effect.suspend(() => deliver(lane, alert, n + 1)))
        }
      })

    const count = (metric: typeof sentTotal, { channel: { name } }: Lane<R>) =>
      Metric.update(Metric.withAttributes(metric, { channel: name }), 1)

    const serve = (lane: Lane<R>): Effect.Effect<never, never, R> =>
      Effect.gen(function*() {
        const alert = yield* Queue.take(lane.queue)
        const { spacing } = lane.channel
        const rest = spacing === undefined
          ? 0
          : lane.last + Duration.toMillis(spacing) - (yield* Clock.currentTimeMillis)
        if (rest > 0) yield* Effect.sleep(Duration.millis(rest))
        const failure = yield* deliver(lane, alert, 1)
        lane.open -= 1
        if (failure === undefined) {
          lane.failures = 0
          lane.last = yield* Clock.currentTimeMillis
          yield* count(sentTotal, lane)
        } else {
          lane.failures += 1
          yield* count(failedTotal, lane)
          yield* write(alert, { unsent: `Channel ${lane.channel.name} could not send this alert: ${failure}` })
        }
        done(alert.id)
        if (lanes.some(({ open }) => open > 0)) return
        for (const empty of waiting) Deferred.doneUnsafe(empty, Exit.void)
        waiting.clear()
      }).pipe(Effect.forever)

    yield* Effect.forEach(lanes, (lane) => Effect.forkScoped(serve(lane)), { discard: true })

    const offer = (lane: Lane<R>, alert: Alert): Effect.Effect<void> => {
      if (lane.open < sending.queue) {
        lane.open += 1
        return Effect.asVoid(Queue.offer(lane.queue, alert))
      }
      lane.dropped += 1
      done(alert.id)
      return Effect.andThen(
        count(failedTotal, lane),
        write(alert, {
          unsent:
            `Channel ${lane.channel.name} has ${sending.queue} alerts waiting, and takes no more; dropped so far: ${lane.dropped}`
        })
      )
    }

    return {
      send: (alerts) =>
        Effect.forEach(alerts, (alert) => {
          const found = lanes.filter(({ channel }) => gets(channel, alert))
          if (found.length === 0) return Effect.sync(() => confirmed(alert.id))
          left.set(alert.id, found.length)
          return Effect.forEach(found, (lane) => offer(lane, alert), { discard: true })
        }, { discard: true }),
      drained: Effect.suspend(() => {
        if (lanes.every(({ open }) => open === 0)) return Effect.void
        const empty = Deferred.makeUnsafe<void>()
        waiting.add(empty)
        return Deferred.await(empty)
      })
    }
  })
