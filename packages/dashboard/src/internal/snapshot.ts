/**
 * Everything that the page shows, dead letters apart, as one JSON document.
 */
import { ConsumerLag, Failure, Health, Metrics, type Redaction, Subscriptions } from "@millrace/core"
import { Monitor } from "@millrace/monitor"
import { Clock, Effect } from "effect"

/** The services that the document reads. */
export type Needs =
  | ConsumerLag.Report
  | Health.Registry
  | Metrics.Registry
  | Monitor.Service
  | Subscriptions.Registry

/** The most stuck lanes of a subscription, groups of errors and alerts that the page shows. */
const most = { lanes: 10, groups: 50, alerts: 50, channels: 200 }

const told = (redaction: Redaction.Redaction, error: unknown): string | undefined =>
  error === undefined
    ? undefined
    : `${Failure.tagOf(error)}: ${redaction.text(Failure.messageOf(error, 300))}`

const subscriptions = (redaction: Redaction.Redaction) =>
  Effect.gen(function*() {
    const all = yield* (yield* Subscriptions.Registry).list
    const progress = yield* (yield* ConsumerLag.Report).list
    return all.map((each) => {
      const { age, lag, rate } = progress.find(({ subscription }) => subscription === each.name) ?? {}
      const { channel, deadLetters, dropped, group, name, partitions, pauses, pending } = each
      const { restarts, running, settled, state, stuck, system } = each
      return {
        name,
        system,
        channel,
        group,
        state,
        partitions: partitions.length,
        lag,
        age,
        rate,
        pending,
        running,
        settled,
        restarts,
        stuck,
        deadLetters,
        dropped,
        pauses: pauses.map(({ by }) => by),
        lastError: told(redaction, each.lastError),
        lanes: each.lanes.slice(0, most.lanes).map((
          { attempt, behind, error, key, partition, position, since, state }
        ) => ({
          partition,
          position,
          key: key === undefined ? undefined : redaction.text(key.slice(0, 200)),
          attempt,
          state,
          since,
          behind,
          error: told(redaction, error)
        }))
      }
    })
  })

/** Reads all of it; while the monitor's store is down, `monitor` has the sentence of its error. */
export const read = (redaction: Redaction.Redaction) =>
  Effect.gen(function*() {
    const at = yield* Clock.currentTimeMillis
    const health = yield* Health.report("all")
    const channels = yield* Metrics.snapshot
    const monitor = yield* Effect.all({
      errors: Monitor.errors,
      insights: Effect.map(
        Monitor.insights,
        ({ dropped, groups }) => ({ dropped, groups: groups.slice(0, most.groups) })
      ),
      trends: Monitor.trends(24),
      alerts: Effect.map(Monitor.transitions(24), (all) => all.slice(0, most.alerts))
    }).pipe(Effect.catch(({ message }) => Effect.succeed({ error: message })))
    return {
      at,
      health,
      subscriptions: yield* subscriptions(redaction),
      channels: channels.slice(0, most.channels).map((
        { channel, done, duration, failed, group, inFlight, kind, rejected, retried, started }
      ) => ({ kind, channel, group, started, inFlight, done, failed, retried, rejected, duration })),
      monitor
    }
  })

/** The document of `read`. */
export type Snapshot = Effect.Success<ReturnType<typeof read>>
