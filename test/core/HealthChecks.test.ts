import {
  Audit,
  Broker,
  Channel,
  CircuitBreaker,
  Health,
  Idempotency,
  KillSwitch,
  MemoryBroker,
  type Message,
  Publisher,
  RateLimit,
  Subscription,
  Subscriptions
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { type Context, Effect, Exit, Fiber, Layer, Logger, Scope } from "effect"
import { TestClock } from "effect/testing"

const one = new Uint8Array(1)
const bytes = Channel.bytes("orders")
const publish = (n: number) =>
  Effect.forEach(Array.from({ length: n }), () => Publisher.make(bytes).publish(one), { discard: true })
const slowly = (_: Message<Uint8Array>) => Effect.sleep("1 hour")

/** What one check comes to, each time that it is asked. */
const single = (check: Health.Check<never>) =>
  Effect.map(
    Layer.build(Health.layer([check], { eventLoop: "off", cache: 0 }).pipe(Layer.provide(Logger.layer([])))),
    (context) =>
      Effect.map(Effect.provideContext(Health.report("readiness"), context), ({ checks: [result] }) => [
        result?.status,
        result?.why ?? result?.error?.message,
        result?.details
      ])
  )

const bound = <R>(check: Health.Check<R>) =>
  Effect.contextWith((context: Context.Context<R>) =>
    single({ ...check, ask: Effect.provideContext(check.ask, context) })
  )

describe("Health of what the library knows", () => {
  it.effect("W8 X15 a broker is asked for an answer, and of its error no more than the reason is shown", () =>
    Effect.gen(function*() {
      const { broker, start, stop } = yield* MemoryBroker.make()
      const ask = yield* Effect.provideService(bound(Health.broker()), Broker.Broker, broker)
      assert.deepStrictEqual(yield* ask, ["up", undefined, undefined])
      yield* stop
      assert.deepStrictEqual(yield* ask, ["down", "Unreachable", undefined])
      yield* start
      assert.deepStrictEqual(yield* ask, ["up", undefined, undefined])
    }).pipe(Effect.scoped))

  it.effect("W8 the stores in memory are up, and asking them changes nothing", () =>
    Effect.gen(function*() {
      for (const check of [Health.audit(), Health.idempotency(), Health.rateLimit()] as const) {
        const ask = yield* bound<Audit.Store | Idempotency.Store | RateLimit.Store>(check)
        assert.deepStrictEqual(yield* ask, ["up", undefined, undefined])
      }
      const audit = yield* Audit.Store
      assert.strictEqual(yield* audit.count(), 0)
    }).pipe(
      Effect.provide(Layer.mergeAll(Audit.layerMemory(), Idempotency.layerMemory(), RateLimit.layerMemory())),
      Effect.scoped
    ))

  it.effect("W8 X15 a subscription is degraded while it is paused, behind or stuck, and down when it does not run", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const subscription = Subscription.make(bytes, { group: "g", name: "slow", grace: { drain: 0 } }, slowly)
      const running = yield* Effect.provideService(Subscription.run(subscription), Scope.Scope, scope)
      const ask = yield* single(Health.subscription(running, { name: "orders", lag: 2, stuck: "1 minute" }))
      assert.containSubset(yield* ask, ["up", undefined, { state: "running", partitions: 1, messages: 0 }])
      yield* running.pause
      assert.containSubset(yield* ask, ["degraded", { state: "paused" }])
      yield* running.resume
      running.intake.pause(ask, "breaker payments", 1000)
      assert.containSubset(yield* ask, ["degraded", "slow is paused by breaker payments"])
      yield* TestClock.adjust(1000)
      yield* publish(3)
      yield* TestClock.adjust(1000)
      assert.containSubset(yield* ask, ["degraded", "3 messages behind, above 2", { messages: 3, oldestPosition: 0 }])
      yield* TestClock.adjust("1 minute")
      assert.containSubset(yield* ask, [
        "degraded",
        "slow is stuck for 61000 ms at position 0 of partition 0: its handler runs"
      ])
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* ask, ["down", "slow is stopped", undefined])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it.effect("W8 X15 all subscriptions as one check: their states by name, and the ones that are missed", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      const ask = yield* bound(Health.subscriptions({ expected: ["a"] }))
      assert.deepStrictEqual(yield* ask, ["down", "a is not there", undefined])
      const running = yield* registry.start(Subscription.make(bytes, { group: "g", name: "a" }, slowly))
      yield* registry.start(Subscription.make(bytes, { group: "h", name: "b" }, slowly))
      assert.deepStrictEqual(yield* ask, ["up", undefined, { a: "running", b: "running" }])
      yield* running.pause
      assert.containSubset(yield* ask, ["degraded", { a: "paused", b: "running" }])
      yield* registry.stop("a")
      assert.deepStrictEqual(yield* ask, ["down", "a is not there", undefined])
    }).pipe(
      Effect.provide(Layer.provideMerge(Subscriptions.layer(), MemoryBroker.layer({ partitions: 1 }))),
      Effect.scoped
    ))

  it.effect("W8 X15 a source that gives no sign of life is down", () =>
    Effect.gen(function*() {
      const running = yield* Subscription.run(Subscription.make(bytes, { group: "g", name: "a" }, slowly))
      const silent = { ...running, health: Effect.map(running.health, (health) => ({ ...health, lastPoll: 0 })) }
      const ask = yield* single(Health.subscription(silent, { name: "a", silence: "1 minute" }))
      assert.containSubset(yield* ask, ["up"])
      yield* TestClock.adjust(60_001)
      assert.deepStrictEqual(yield* ask, ["down", "a has given no sign of life for 60001 ms", undefined])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it.effect("W8 a group that is far behind is degraded", () =>
    Effect.gen(function*() {
      const ask = yield* bound(Health.lag({ channel: "orders", group: "g", most: 1 }))
      yield* Subscription.run(Subscription.make(bytes, { group: "g", name: "a" }, slowly))
      yield* publish(1)
      assert.deepStrictEqual(yield* ask, ["up", undefined, { messages: 1 }])
      yield* publish(1)
      assert.deepStrictEqual(yield* ask, ["degraded", "2 messages behind, above 1", { messages: 2 }])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it.effect("W8 circuits that are open and a switch that is engaged make it degraded", () =>
    Effect.gen(function*() {
      const circuits = yield* CircuitBreaker.Circuits
      const policy = { trip: CircuitBreaker.consecutive(1), openFor: 1000, maximumOpenFor: 1000, probes: 1 }
      circuits.of("payments", policy)
      circuits.of("mail", policy)
      const all = yield* bound(Health.circuits())
      const mail = yield* bound(Health.circuits({ circuits: ["mail"] }))
      assert.deepStrictEqual(yield* all, ["up", undefined, undefined])
      yield* circuits.open("payments")
      assert.deepStrictEqual(yield* all, ["degraded", "1 of 2 circuits are not closed", { payments: "open" }])
      assert.deepStrictEqual(yield* mail, ["up", undefined, undefined])
      const kill = yield* KillSwitch.KillSwitch
      const engaged = yield* bound(Health.killSwitch())
      assert.deepStrictEqual(yield* engaged, ["up", undefined, undefined])
      yield* kill.engage("migration")
      assert.deepStrictEqual(yield* engaged, ["degraded", "engaged: migration", undefined])
    }).pipe(
      Effect.provide(Layer.mergeAll(CircuitBreaker.layer(), Layer.provide(KillSwitch.layer(), MemoryBroker.layer()))),
      Effect.scoped
    ))

  it.effect("W8 a program is ready when its subscriptions are, and not any more before they drain", () => {
    const events: Array<string> = []
    const subscription = Subscription.make(
      bytes,
      { group: "g" },
      () => Effect.andThen(Effect.sleep("3 seconds"), Effect.sync(() => void events.push("handled")))
    )
    return Effect.gen(function*() {
      const scope = yield* Scope.make()
      const health = yield* Layer.build(Health.layer([Health.broker(), Health.liveness("own", () => true)]))
      const ready = Effect.map(
        Effect.provideContext(Health.report("readiness"), health),
        ({ phase, status }) => `${phase}: ${status}`
      )
      const slow = Layer.effectDiscard(Effect.sleep("1 second"))
      const program = Health.layerLifetime({ wait: "2 seconds" }).pipe(
        Layer.provide(Layer.provideMerge(Subscription.layer(subscription), slow)),
        Layer.provide(Layer.succeedContext(health))
      )
      const starting = yield* Effect.forkChild(Layer.buildWithScope(program, scope))
      yield* TestClock.adjust(500)
      assert.strictEqual(yield* ready, "starting: down")
      yield* TestClock.adjust(500)
      yield* Fiber.join(starting)
      assert.strictEqual(yield* ready, "started: up")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust(0)
      assert.strictEqual(yield* ready, "draining: down")
      // who has not seen it yet still sends, and is served
      yield* publish(1)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(events, [])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(events, ["handled"])
      yield* Fiber.join(closing)
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped)
  })
})
