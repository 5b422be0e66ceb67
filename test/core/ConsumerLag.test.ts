import { Broker, BrokerError, Channel, ConsumerLag, Lanes, MemoryBroker, type Message, Outgoing } from "@millrace/core"
import { Subscription, Subscriptions } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit, Layer, Metric, Scope } from "effect"
import { TestClock } from "effect/testing"

const Orders = Channel.bytes("orders")
const one = new Uint8Array(1)

/** A subscription whose handler waits for `gate`, on a broker that answers questions of lag by `lag`. */
const setUp = (lag?: Broker.Running["lag"]) =>
  Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 2 })
    const gate = yield* Deferred.make<void>()
    const running = yield* Effect.provideService(
      Subscription.run(
        Subscription.make(
          Orders,
          { group: "billing", name: "bill", lanes: Lanes.unordered(10), grace: { drain: 0 } },
          (_: Message<Uint8Array>) => Deferred.await(gate)
        )
      ),
      Broker.Broker,
      memory.broker
    )
    const publish = (count: number, timestamp?: number) =>
      memory.broker.publishAll(
        Array.from(
          { length: count },
          (_, i) => new Outgoing("orders", one, `k${i}`, {}, timestamp === undefined ? undefined : { timestamp })
        )
      )
    const registry = yield* Metric.MetricRegistry
    const figures = () =>
      Object.fromEntries(
        Array.from(registry.values()).map(({ hooks, id }) => {
          const state: unknown = hooks.get(undefined as never)
          return [
            id.replace("millrace.consumer.", ""),
            typeof state === "object" && state !== null && "value" in state ? state.value : state
          ]
        })
      )
    return { memory, gate, publish, figures, running: lag === undefined ? running : { ...running, lag } }
  })

const own = <A, E>(effect: Effect.Effect<A, E, Scope.Scope>) =>
  Effect.provideService(Effect.scoped(effect), Metric.MetricRegistry, new Map())

const unsupported = Effect.fail(BrokerError.make({
  system: "memory",
  operation: "lag",
  reason: "Unsupported",
  message: "This broker does not count."
}))

describe("ConsumerLag", () => {
  it.effect("X15 lag, age and rate follow what the group settles", () =>
    own(Effect.gen(function*() {
      const { figures, gate, publish, running } = yield* setUp()
      const first = yield* ConsumerLag.observe(running)
      assert.deepInclude(first, { subscription: "bill", group: "billing", channel: "orders", lag: 0, age: 0, rate: 0 })
      yield* publish(4)
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(figures(), { lag: 4, "oldest.age": 30, rate: 0, stuck: 0 })
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust("15 seconds")
      const after = figures()
      assert.deepInclude(after, { lag: 0, "oldest.age": 0 })
      assert.closeTo(Number(after["rate"]), 4 / 15, 1e-6)
    })))

  it.effect("X15 a message that does not move is counted, and its age grows", () =>
    own(Effect.gen(function*() {
      const { figures, publish, running } = yield* setUp()
      yield* ConsumerLag.observe(running, { every: "1 minute" })
      yield* publish(1)
      yield* TestClock.adjust("10 minutes")
      assert.deepInclude(figures(), { stuck: 1, "oldest.age": 600 })
    })))

  it.effect("X15 a lag that is unknown has no series, and is not 0", () =>
    own(Effect.gen(function*() {
      const { figures, publish, running } = yield* setUp(unsupported)
      const first = yield* ConsumerLag.observe(running)
      assert.deepInclude(first, { lag: undefined, age: undefined })
      assert.notProperty(figures(), "lag")
      assert.notProperty(figures(), "oldest.age")
      yield* publish(1)
      yield* TestClock.adjust("15 seconds")
      assert.notProperty(figures(), "lag")
      assert.strictEqual(figures()["oldest.age"], 15)
    })))

  it.effect("X15 a broker that stops saying its lag takes the series with it", () =>
    own(Effect.gen(function*() {
      let isDown = false
      const { figures, running } = yield* setUp(
        Effect.suspend(() => isDown ? Effect.die(new Error("driver")) : Effect.succeed([{ partition: 0, messages: 7 }]))
      )
      yield* ConsumerLag.observe(running)
      assert.strictEqual(figures()["lag"], 7)
      isDown = true
      yield* TestClock.adjust("15 seconds")
      assert.notProperty(figures(), "lag")
      isDown = false
      yield* TestClock.adjust("15 seconds")
      assert.strictEqual(figures()["lag"], 7)
    })))

  it.effect("X15 a broker that never answers holds nothing up", () =>
    own(Effect.gen(function*() {
      const { figures, running } = yield* setUp(Effect.never)
      const asked = yield* Effect.forkChild(ConsumerLag.observe(running, { timeLimit: "2 seconds" }))
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(asked.pollUnsafe()?._tag, "Success")
      assert.notProperty(figures(), "lag")
    })))

  it.effect("X15 odd answers: a negative lag is 0, and a message from the future is 0 seconds old", () =>
    own(Effect.gen(function*() {
      const { figures, publish, running } = yield* setUp(Effect.succeed([
        { partition: 0, messages: -3 },
        { partition: 1, messages: 2 }
      ]))
      const now = yield* Clock.currentTimeMillis
      yield* publish(1, now + 3_600_000)
      yield* TestClock.adjust(1)
      yield* ConsumerLag.observe(running)
      assert.deepInclude(figures(), { lag: 2, "oldest.age": 0 })
    })))

  it.effect("X15 all subscriptions are measured, those that start later too, and those that end leave no series", () => {
    const of = (name: string) =>
      Subscription.make(Channel.bytes(name), { group: "g", name }, (_: Message<Uint8Array>) => Effect.void)
    const layer = ConsumerLag.layer({ every: "1 second" }).pipe(
      Layer.provideMerge(Subscriptions.layer([of("a")])),
      Layer.provide(MemoryBroker.layer())
    )
    return own(Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(layer, scope)
      const registry = yield* Metric.MetricRegistry
      const program = Effect.gen(function*() {
        const { list } = yield* ConsumerLag.Report
        const subscriptions = yield* Subscriptions.Registry
        const names = Effect.map(list, (all) => all.map(({ subscription }) => subscription))
        assert.deepStrictEqual(yield* names, ["a"])
        yield* subscriptions.start(of("b"))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* names, ["a", "b"])
        yield* subscriptions.stop("a")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* names, ["b"])
        const named = Array.from(registry.values()).map(({ attributes }) => attributes?.["millrace.subscription"])
        assert.deepStrictEqual(new Set(named), new Set(["b"]))
      })
      yield* Effect.provideContext(program, context).pipe(Effect.provide(MemoryBroker.layer()))
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(registry.size, 0)
    }))
  })

  it("X15 options out of range are refused", () => {
    assert.throws(() => ConsumerLag.layer({ every: 0 }), RangeError, /ConsumerLag: every/)
    assert.throws(() => ConsumerLag.layer({ timeLimit: NaN }), RangeError, /ConsumerLag: timeLimit/)
  })
})
