import { assert, describe, it } from "@effect/vitest"
import { countDeadLetter, countDropped, countRetry, countSentRetry, countServedRetry } from "@millrace/core/Counters"
import { Context, Effect, Metric } from "effect"
import { PrometheusMetrics } from "effect/observability"
import * as fc from "fast-check"

const fresh = () => Context.make(Metric.MetricRegistry, new Map())

const read = (context: Context.Context<never>) =>
  Metric.snapshotUnsafe(context).map(({ attributes, id, state }) => ({
    id,
    channel: attributes?.["messaging.destination.name"],
    tag: attributes?.["error.type"],
    count: "count" in state ? state.count : undefined
  }))

const counters = [
  ["millrace.retries", countRetry],
  ["millrace.dead_letters", countDeadLetter],
  ["millrace.dead_letters.dropped", countDropped]
] as const

describe("Counters", () => {
  it("F11 count by channel and error tag, in the registry of the context", () => {
    for (const [id, count] of counters) {
      const [context, another] = [fresh(), fresh()]
      count(context, "orders", "Busy")
      count(context, "orders", "Busy")
      count(context, "orders", "Gone")
      count(another, "bills", "Busy")
      assert.sameDeepMembers(read(context), [
        { id, channel: "orders", tag: "Busy", count: 2 },
        { id, channel: "orders", tag: "Gone", count: 1 }
      ])
      assert.deepStrictEqual(read(another), [{ id, channel: "bills", tag: "Busy", count: 1 }])
    }
  })

  it("F11 count retries of requests by route, and of a client by server", () => {
    const context = fresh()
    countServedRetry(context, "GET /orders", "Busy")
    countSentRetry(context, "example.com", "Busy")
    const more = { "error.type": "Busy", unit: "{retry}" }
    assert.deepStrictEqual(Metric.snapshotUnsafe(context).map(({ attributes, id }) => ({ id, attributes })), [
      { id: "millrace.retries", attributes: { "http.route": "GET /orders", ...more } },
      { id: "millrace.retries", attributes: { "server.address": "example.com", ...more } }
    ])
  })

  it("make no more than 501 series each and lose no count, whatever arrives", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }))),
        fc.integer({ min: 0, max: 2000 }),
        (pairs, many) => {
          const context = fresh()
          const all: Array<readonly [string, string]> = [
            ...pairs,
            ...Array.from({ length: many }, (_, i) => [`device/${i}`, "Busy"] as const)
          ]
          for (const [channel, tag] of all) countRetry(context, channel, tag)
          const series = read(context)
          assert.isAtMost(series.length, 501)
          assert.strictEqual(series.reduce((sum, { count }) => sum + Number(count), 0), all.length)
          const distinct = new Set(all.map((pair) => JSON.stringify(pair))).size
          if (distinct > 500) assert.isTrue(series.some(({ channel, tag }) => channel === "other" && tag === "other"))
          else assert.strictEqual(series.length, distinct)
        }
      ),
      { numRuns: 50 }
    )
  })

  it("keep what a pair had counted when the bound is reached", () => {
    const context = fresh()
    for (let i = 0; i < 1000; i++) countDeadLetter(context, `device/${i}`, "Busy")
    countDeadLetter(context, "device/0", "Busy")
    const counts = new Map(read(context).map(({ channel, count }) => [channel, count]))
    assert.strictEqual(counts.get("device/0"), 2)
    assert.strictEqual(counts.get("other"), 500)
  })

  it("cut long labels", () => {
    const context = fresh()
    countRetry(context, "c".repeat(100_000), "t".repeat(100_000))
    assert.deepStrictEqual(read(context).map(({ channel, tag }) => [channel?.length, tag?.length]), [[255, 255]])
  })

  it("never throw: a registry that throws loses a count", () => {
    class Broken extends Map<string, never> {
      override get(): undefined {
        throw new Error("no")
      }
    }
    for (const [, count] of counters) {
      assert.doesNotThrow(() => count(Context.make(Metric.MetricRegistry, new Broken()), "orders", "Busy"))
      // a caller without types
      const odd: unknown = undefined
      assert.doesNotThrow(() => count(fresh(), odd as string, odd as string))
    }
  })

  it.effect("are read by Effect's exporters", () =>
    Effect.gen(function*() {
      const context = yield* Effect.context<never>()
      countRetry(context, "orders", "Busy")
      const text = yield* PrometheusMetrics.format()
      assert.match(text, /millrace_retries\{[^}]*messaging_destination_name="orders"[^}]*\} 1/)
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})
