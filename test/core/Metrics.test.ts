import { assert, describe, it } from "@effect/vitest"
import {
  After,
  Broker,
  Channel,
  type Delivery,
  type Envelope,
  Filter,
  Headers,
  Histogram,
  Lanes,
  MemoryBroker,
  type Message,
  Metrics,
  Order,
  Outcome,
  Outgoing,
  Publisher,
  Subscription
} from "@millrace/core"
import { Data, Deferred, Effect, Fiber, Layer, Metric, pipe } from "effect"
import { FetchHttpClient } from "effect/http"
import { Otlp, PrometheusMetrics } from "effect/observability"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createServer } from "node:http"
import { expectTypeOf } from "vitest"
import { deliver, runChain } from "./support.ts"

class Broken extends Data.TaggedError("Broken")<{}> {
  readonly failure = "poison" as const
}

class Refused extends Data.TaggedError("Refused")<{}> {}

const only = Effect.map(Metrics.snapshot, (channels) => {
  assert.strictEqual(channels.length, 1)
  return channels[0]!
})

/** A handler that takes as many milliseconds as the message's position says, and then ends by its key. */
const slow = Metrics.middleware()((message: Delivery): Effect.Effect<unknown, Broken | Refused> =>
  Effect.andThen(
    Effect.sleep(message.position),
    Effect.suspend((): Effect.Effect<unknown, Broken | Refused> => {
      switch (message.key) {
        case "broken":
          return Effect.fail(new Broken())
        case "refused":
          return Effect.fail(new Refused())
        case "defect":
          return Effect.die(new TypeError("no"))
        case "dead":
          return Effect.succeed(Outcome.DeadLetter())
        case "retry":
          return Effect.succeed(Outcome.Retry())
        case "reject":
          return Effect.succeed(Outcome.Reject())
        default:
          return Effect.void
      }
    })
  )
)

const fresh = Effect.provide(Layer.fresh(Metrics.layer))

describe("Metrics", () => {
  it.effect("F7 totals, bytes, errors by tag and class, and durations of everything that ended", () =>
    Effect.gen(function*() {
      const keys = [undefined, "broken", "broken", "refused", "defect", "dead", "retry", "reject"]
      for (const [i, key] of keys.entries()) {
        const fiber = yield* Effect.forkChild(
          runChain(slow, deliver({ key, position: i + 1, body: new Uint8Array(10) }))
        )
        yield* TestClock.adjust(i + 1)
        yield* Fiber.join(fiber)
      }
      const { duration, errors, ...rest } = yield* only
      assert.deepStrictEqual(rest, {
        kind: "consumer",
        channel: "orders",
        group: "billing",
        received: 0,
        started: 8,
        inFlight: 0,
        done: 1,
        failed: 5,
        interrupted: 0,
        retried: 1,
        rejected: 1,
        bytes: 80
      })
      assert.deepInclude(duration, { count: 8, min: 1, max: 8, mean: 4.5 })
      assert.approximately(duration.p50, 4, 4 * Histogram.relativeError)
      assert.deepStrictEqual(errors.map(({ count, duration, failure, tag }) => [tag, failure, count, duration.max]), [
        ["Broken", "poison", 2, 3],
        ["Refused", undefined, 1, 4],
        ["TypeError", undefined, 1, 5],
        ["DeadLetter", undefined, 1, 6]
      ])
    }).pipe(fresh))

  it.effect("F7 errors of a channel that never succeeds are counted, with their durations", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(runChain(slow, deliver({ key: "broken", position: 7 })))
      yield* TestClock.adjust(7)
      yield* Fiber.join(fiber)
      const channel = yield* only
      assert.deepInclude(channel, { started: 1, done: 0, failed: 1 })
      assert.deepInclude(channel.duration, { count: 1, max: 7 })
      assert.deepInclude(channel.errors[0]!.duration, { count: 1, max: 7 })
    }).pipe(fresh))

  it.effect("F7 what is in flight, and what was interrupted", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const handler = Metrics.middleware()((_: Delivery) =>
        Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
      )
      const fiber = yield* Effect.forkChild(runChain(handler, deliver()))
      yield* Deferred.await(started)
      yield* Effect.yieldNow
      assert.deepInclude(yield* only, { started: 1, inFlight: 1 })
      yield* Fiber.interrupt(fiber)
      const channel = yield* only
      assert.deepInclude(channel, { inFlight: 0, interrupted: 1, failed: 0 })
      assert.strictEqual(channel.duration.count, 0)
    }).pipe(fresh))

  it.effect("F7 one record for each kind, channel and group, whatever the order", () =>
    Effect.gen(function*() {
      const handler = Metrics.middleware()((_: Envelope) => Effect.void)
      const channels = ["a", "a", "b", "b", "a"]
      const groups = ["x", "y", "y", "x", "x"]
      for (const [partition, channel] of channels.entries()) {
        yield* runChain(handler, deliver({ channel, group: groups[partition]!, partition }))
      }
      yield* After.around(new Outgoing("a", new Uint8Array(5), undefined, Headers.empty), handler)
      const request: Envelope = {
        kind: "client",
        channel: "a",
        key: undefined,
        headers: Headers.empty,
        withHeader() {
          return this
        },
        after: () => {}
      }
      yield* Effect.suspend(() => handler(request))
      yield* runChain(handler, deliver({ channel: "a", group: "x" }))
      assert.deepStrictEqual(
        (yield* Metrics.snapshot).map((
          { bytes, channel, group, kind, started }
        ) => [kind, channel, group, started, bytes]),
        [
          ["consumer", "a", "x", 3, 6],
          ["consumer", "a", "y", 1, 2],
          ["consumer", "b", "y", 1, 2],
          ["consumer", "b", "x", 1, 2],
          ["producer", "a", undefined, 1, 5],
          ["client", "a", undefined, 1, 0]
        ]
      )
    }).pipe(fresh))

  it.effect("F7 two handlers, two registries: each counts into the one of its context", () =>
    Effect.gen(function*() {
      const handler = Metrics.middleware()((_: Delivery) => Effect.void)
      const one = yield* Metrics.make()
      const two = yield* Metrics.make()
      for (const registry of [one, two, two, one, two]) {
        yield* Effect.provideService(runChain(handler, deliver()), Metrics.Registry, registry)
      }
      assert.deepStrictEqual((yield* one.snapshot).map(({ started }) => started), [2])
      assert.deepStrictEqual((yield* two.snapshot).map(({ started }) => started), [3])
    }).pipe(Effect.scoped))

  it.effect("F7 tags are bounded: what comes after the first is other", () =>
    Effect.gen(function*() {
      const registry = yield* Metrics.make({ tags: 3 })
      const handler = Metrics.middleware()((message: Delivery) => Effect.fail({ _tag: `E${message.position % 5}` }))
      for (let i = 0; i < 20; i++) {
        yield* Effect.provideService(runChain(handler, deliver({ position: i })), Metrics.Registry, registry)
      }
      const [channel] = yield* registry.snapshot
      assert.deepStrictEqual(channel?.errors.map(({ count, tag }) => [tag, count]), [
        ["other", 8],
        ["E0", 4],
        ["E1", 4],
        ["E2", 4]
      ])
      assert.strictEqual(channel?.failed, 20)
    }).pipe(Effect.scoped))

  it.effect("F7 of every message counted, one of n is timed", () =>
    Effect.gen(function*() {
      const handler = Metrics.middleware({ timeOneIn: 4 })((_: Delivery) => Effect.void)
      for (let i = 0; i < 10; i++) yield* runChain(handler, deliver())
      const channel = yield* only
      assert.deepInclude(channel, { started: 10, done: 10 })
      assert.strictEqual(channel.duration.count, 3)
    }).pipe(fresh))

  it.effect("F3 received counts every delivery, also those that the filter then drops", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (_: Delivery) => Effect.void,
        Metrics.middleware(),
        Filter.middleware((message: Delivery) => message.position % 3 === 0, { onFiltered: Outcome.Reject() }),
        Metrics.received()
      )
      for (let i = 0; i < 9; i++) yield* runChain(handler, deliver({ position: i }))
      assert.deepInclude(yield* only, { received: 9, started: 3, done: 3 })
    }).pipe(fresh))

  it("F3 counting inside the filter is refused when the pipeline is built", () => {
    const wrong = pipe(
      (_: Delivery) => Effect.void,
      Metrics.received(),
      Filter.middleware((_: Delivery) => true)
    )
    assert.throws(
      () => Order.check(wrong),
      Order.OrderError,
      "Metrics.received must stand outside Filter, not inside it: what the filter drops was received too"
    )
  })

  it.effect("F7 Effect's exporters read the figures by the names of the conventions", () =>
    Effect.gen(function*() {
      const context = yield* Effect.context<never>()
      const text = yield* Effect.gen(function*() {
        for (const [position, key] of [[4, undefined], [60, undefined], [700, "broken"]] as const) {
          const fiber = yield* Effect.forkChild(runChain(slow, deliver({ system: "kafka", position, key })))
          yield* TestClock.adjust(position)
          yield* Fiber.join(fiber)
        }
        yield* After.around(
          new Outgoing("next", new Uint8Array(3), undefined, Headers.empty),
          Metrics.middleware()((_: Outgoing<Uint8Array>) => Effect.void)
        )
        return PrometheusMetrics.formatUnsafe(context)
      }).pipe(
        Effect.provide(Layer.fresh(Metrics.layer)),
        Effect.provideService(Broker.Broker, { system: "nats" } as Broker.Broker["Service"])
      )
      const lines = text.split("\n")
      const value = (name: string, ...labels: ReadonlyArray<string>) =>
        lines.filter((line) => line.startsWith(`${name}{`) && labels.every((label) => line.includes(label)))
          .map((line) => Number(line.split(" ").at(-1)))
      const processed = "messaging_process_duration"
      assert.deepStrictEqual(value(`${processed}_count`, "messaging_destination_name=\"orders\""), [2, 1])
      assert.deepStrictEqual(value(`${processed}_sum`, "error_type=\"Broken\""), [0.7])
      assert.deepStrictEqual(value(`${processed}_bucket`, "error_type=\"Broken\"", "le=\"0.5\""), [0])
      assert.deepStrictEqual(value(`${processed}_bucket`, "error_type=\"Broken\"", "le=\"0.75\""), [1])
      assert.deepStrictEqual(value(`${processed}_bucket`, "le=\"0.005\"", "messaging_system=\"kafka\""), [1, 0])
      assert.deepStrictEqual(value("messaging_client_consumed_messages", "messaging_consumer_group_name=\"billing\""), [
        3
      ])
      assert.deepStrictEqual(value("messaging_client_sent_messages", "messaging_system=\"nats\""), [1])
      assert.deepStrictEqual(value("millrace_messages", "millrace_status=\"failed\"", "\"orders\""), [1])
      assert.deepStrictEqual(value("millrace_bytes", "\"next\""), [3])
      assert.deepStrictEqual(value("millrace_in_flight", "\"orders\""), [0])
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

  it.each(["first", "last"])(
    "F7 the last OTLP export has the final figures, also when its layer closes %s",
    async (which) => {
      const bodies: Array<string> = []
      const server = createServer((request, response) => {
        let body = ""
        request.on("data", (chunk) => body += String(chunk))
        request.on("end", () => {
          if (request.url === "/v1/metrics") bodies.push(body)
          response.end("{}")
        })
      })
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
      const address = server.address()
      const port = typeof address === "object" && address !== null ? address.port : 0
      const Telemetry = Otlp.layerJson({ baseUrl: `http://127.0.0.1:${port}`, resource: { serviceName: "billing" } })
        .pipe(
          Layer.provide(FetchHttpClient.layer)
        )
      const registry = Layer.fresh(Metrics.layer)
      const handler = Metrics.middleware()((_: Delivery) => Effect.void)
      try {
        await Effect.runPromise(
          Effect.forEach([1, 2, 3], (position) => runChain(handler, deliver({ system: "kafka", position }))).pipe(
            // the exporter sends once more when its scope closes
            Effect.provide(
              which === "first" ? Layer.provideMerge(Telemetry, registry) : Layer.provideMerge(registry, Telemetry)
            ),
            Effect.provideService(Metric.MetricRegistry, new Map())
          )
        )
      } finally {
        server.close()
      }
      const metrics = bodies.flatMap((body) => JSON.parse(body).resourceMetrics)
        .flatMap(({ scopeMetrics }) => scopeMetrics).flatMap((scope) => scope.metrics)
      const duration = metrics.findLast(({ name }) => name === "messaging.process.duration")
      assert.strictEqual(duration?.unit, "s")
      assert.strictEqual(duration?.histogram.dataPoints[0].count, 3)
      assert.strictEqual(duration?.histogram.dataPoints[0].explicitBounds.length, 14)
    }
  )

  it.effect("F7 a subscription and a publisher of thousands of topics have one set of series each, named by the address", () =>
    Effect.gen(function*() {
      const series = yield* Metric.MetricRegistry
      const Temperatures = Channel.bytes("plant.{machine}.temperature")
      const counted = pipe((_: Message<Uint8Array>) => Effect.void, Metrics.middleware())
      const { health } = yield* Subscription.run(
        Subscription.make(Temperatures, { group: "g", lanes: Lanes.unordered(8) }, counted)
      )
      const publisher = Publisher.make(Temperatures, Metrics.middleware())
      for (let i = 0; i < 300; i++) {
        yield* publisher.publish(new Uint8Array(1), { parameters: { machine: `m${i}` } })
      }
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* health).settled, 300)
      const channels = yield* Metrics.snapshot
      assert.sameDeepMembers(channels.map(({ channel, done, kind }) => [kind, channel, done]), [
        ["producer", Temperatures.name, 300],
        ["consumer", Temperatures.name, 300]
      ])
      assert.isBelow(series.size, 20)
      for (const { attributes } of series.values()) {
        assert.strictEqual(attributes?.["messaging.destination.template"], Temperatures.name)
        assert.notProperty(attributes, "messaging.destination.name")
      }
    }).pipe(
      Effect.scoped,
      Effect.provide([MemoryBroker.layer({ partitions: 1 }), Layer.fresh(Metrics.layer)]),
      Effect.provideService(Metric.MetricRegistry, new Map())
    ))

  it("F7 series are bounded whatever arrives: channels beyond the first are counted as other", () =>
    fc.assert(fc.asyncProperty(
      fc.integer({ min: 1, max: 4 }),
      fc.array(fc.constantFrom("a", "b", "c", "d", "e", "f", "other"), { maxLength: 40 }),
      (channels, all) =>
        Effect.runPromise(
          Effect.gen(function*() {
            const series = yield* Metric.MetricRegistry
            const registry = yield* Metrics.make({ channels })
            const handler = Metrics.middleware()((_: Delivery) => Effect.void)
            for (const channel of all) {
              yield* Effect.provideService(runChain(handler, deliver({ channel })), Metrics.Registry, registry)
            }
            const named = new Set([...new Set(all)].slice(0, channels))
            const expected = new Map<string, number>()
            for (const channel of all) {
              const name = named.has(channel) ? channel : "other"
              expected.set(name, (expected.get(name) ?? 0) + 1)
            }
            const found = yield* registry.snapshot
            assert.deepStrictEqual(new Map(found.map(({ channel, done }) => [channel, done])), expected)
            assert.isAtMost(series.size, 9 * (channels + 1))
          }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()))
        )
    )))

  it("F7 options out of range are refused", () => {
    assert.throws(
      () => Metrics.middleware({ timeOneIn: 0 }),
      RangeError,
      "Metrics: timeOneIn must be an integer from 1, got 0"
    )
    assert.throws(() => Metrics.make({ tags: 0 }), RangeError, "Metrics: tags must be an integer from 1, got 0")
    assert.throws(() => Metrics.make({ channels: 0 }), RangeError, "Metrics: channels must be an integer from 1, got 0")
    assert.throws(() => Metrics.make({ tags: 1.5 }), RangeError, "Metrics: tags must be an integer from 1, got 1.5")
  })

  it("F7 the registry is asked for by the types", () => {
    const handler = Metrics.middleware()((_: Delivery) => Effect.void)
    expectTypeOf(handler(deliver())).toEqualTypeOf<Effect.Effect<void, never, Metrics.Registry>>()
  })
})

describe("Histogram", () => {
  const values = fc.array(fc.double({ min: 1, max: 2 ** 43, noNaN: true }), { minLength: 1, maxLength: 200 })

  it("F7 a quantile errs by less than 1 / 128 of the value", () => {
    fc.assert(fc.property(values, fc.double({ min: 0, max: 1, noNaN: true }), (numbers, q) => {
      const histogram = new Histogram.Histogram()
      for (const number of numbers) histogram.record(number)
      const sorted = numbers.toSorted((a, b) => a - b)
      const exact = sorted[Math.max(1, Math.ceil(q * numbers.length)) - 1]!
      assert.isAtMost(Math.abs(histogram.quantile(q) - exact) / exact, Histogram.relativeError)
    }))
  })

  it("F7 merging two is recording both, and bounds count what is at most them", () => {
    fc.assert(fc.property(values, values, fc.double({ min: 2, max: 2 ** 43, noNaN: true }), (left, right, bound) => {
      const record = (numbers: ReadonlyArray<number>) => {
        const histogram = new Histogram.Histogram()
        for (const number of numbers) histogram.record(number)
        return histogram
      }
      const merged = record(left)
      merged.merge(record(right))
      const both = record([...left, ...right])
      assert.strictEqual(merged.quantile(0.9), both.quantile(0.9))
      assert.deepInclude(merged.distribution(), { count: both.count, min: both.min, max: both.max })
      const [[, counted]] = both.cumulative([bound]) as [[number, number]]
      const atMost = (limit: number) => [...left, ...right].filter((number) => number <= limit).length
      assert.isAtLeast(counted, atMost(bound * (1 - 1 / 64)))
      assert.isAtMost(counted, atMost(bound * (1 + 1 / 64)))
    }))
  })

  it("F7 what is outside its range is counted at the nearer end", () => {
    const histogram = new Histogram.Histogram()
    for (const number of [0, -5, 0.5, 2 ** 60, Number.POSITIVE_INFINITY]) histogram.record(number)
    assert.strictEqual(histogram.count, 5)
    assert.isAtMost(histogram.quantile(0.5), 1.01)
    assert.isAtLeast(histogram.quantile(0.8), 2 ** 43)
    assert.deepStrictEqual(new Histogram.Histogram().distribution().p99, 0)
  })
})
