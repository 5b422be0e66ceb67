/**
 * Reads at each tick what core counted since the last one: messages of each channel from the registry of `Metrics`, retries and
 * dead letters from Effect's registry.
 */
import { Metrics } from "@millrace/core"
import { Context, Effect, Metric } from "effect"
import type { Counted } from "./apply.ts"

const counters: Readonly<Record<string, Counted["measure"]>> = {
  "millrace.retries": "retries",
  "millrace.dead_letters": "deadLetters"
}

/** Makes the sampler of one process: each run answers the counts since the run before. */
export const make: Effect.Effect<
  (at: number) => Effect.Effect<ReadonlyArray<Counted>>,
  never,
  Metrics.Registry
> = Effect.gen(function*() {
  const registry = yield* Metrics.Registry
  const before = new Map<string, number>()
  const since = (key: string, now: number): number => {
    const count = now - (before.get(key) ?? 0)
    before.set(key, now)
    return count
  }
  const read = (at: number, context: Context.Context<never>): ReadonlyArray<Counted> => {
    const found: Array<Counted> = []
    for (const metadata of Context.get(context, Metric.MetricRegistry).values()) {
      const measure = counters[metadata.id]
      if (measure === undefined) continue
      const attributes: Readonly<Record<string, string>> = metadata.attributes ?? {}
      const { "error.type": tag, "http.route": route, "messaging.destination.name": name, "server.address": address } =
        attributes
      const channel = name ?? route ?? address ?? ""
      const state: unknown = metadata.hooks.get(context)
      const total = typeof state === "object" && state !== null && "count" in state ? Number(state.count) : 0
      const count = since(`${metadata.id} ${JSON.stringify(attributes)}`, total)
      if (count > 0) found.push({ type: "counted", at, measure, channel, tag, count })
    }
    return found
  }
  // what was counted before the monitor began is not its own
  yield* Effect.map(Effect.context<never>(), (context) => read(0, context))
  return (at) =>
    Effect.flatMap(Effect.context<never>(), (context) =>
      Effect.map(registry.snapshot, (channels) => {
        const found: Array<Counted> = []
        for (const { channel, done, failed, group, kind, rejected, retried } of channels) {
          const count = since(`messages ${kind} ${group} ${channel}`, done + failed + rejected + retried)
          if (count > 0) found.push({ type: "counted", at, measure: "messages", channel, tag: undefined, count })
        }
        return [...found, ...read(at, context)]
      }))
})
