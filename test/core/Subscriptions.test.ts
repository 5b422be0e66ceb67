import {
  Broker,
  BrokerError,
  Channel,
  MemoryBroker,
  type Message,
  Publisher,
  Subscription,
  Subscriptions
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

const memory = MemoryBroker.layer({ partitions: 1 })
const layer = Layer.provideMerge(Subscriptions.layer(), memory)
const one = new Uint8Array(1)

const subscribe = (
  name: string,
  handler: (message: Message<Uint8Array>) => Effect.Effect<void> = () => Effect.void,
  channel = name
) => Subscription.make(Channel.bytes(channel), { group: "g", name }, handler)

const publish = (channel: string) => Publisher.make(Channel.bytes(channel)).publish(one)

const names = Effect.flatMap(
  Subscriptions.Registry,
  (registry) => Effect.map(registry.list, (all) => all.map(({ name }) => name))
)

describe("Subscriptions", () => {
  it.effect("F20 one is started, seen, and stopped while the program runs; what comes then waits for the next", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      const seen: Array<number> = []
      const of = () => subscribe("a", (message) => Effect.sync(() => void seen.push(message.position)))
      yield* registry.start(of())
      yield* publish("a")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [0])
      assert.containSubset(yield* registry.health("a"), { name: "a", state: "running", settled: 1 })
      assert.deepStrictEqual(yield* names, ["a"])
      assert.isTrue(yield* registry.stop("a"))
      assert.isUndefined(yield* registry.health("a"))
      assert.isFalse(yield* registry.stop("a"))
      yield* publish("a")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [0])
      yield* registry.start(of())
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [0, 1])
    }).pipe(Effect.provide(layer)))

  it.effect("F20 stopping drains: what runs may finish, and whoever stops waits for it", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      let ended = 0
      yield* registry.start(
        subscribe("a", () => Effect.andThen(Effect.sleep("5 seconds"), Effect.sync(() => void ended++)))
      )
      yield* publish("a")
      yield* TestClock.adjust("1 second")
      const first = yield* Effect.forkChild(registry.stop("a"))
      const second = yield* Effect.forkChild(registry.stop("a"))
      yield* TestClock.adjust("1 second")
      assert.isUndefined(first.pollUnsafe())
      assert.strictEqual((yield* registry.health("a"))?.state, "draining")
      const error = yield* Effect.flip(registry.start(subscribe("a")))
      assert.strictEqual(error.reason, "Conflict")
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual([first.pollUnsafe(), second.pollUnsafe(), ended], [
        Exit.succeed(true),
        Exit.succeed(true),
        1
      ])
      yield* registry.start(subscribe("a"))
    }).pipe(Effect.provide(layer)))

  it.effect("F20 a drain goes on when whoever asked for it no longer waits", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      let ended = 0
      yield* registry.start(
        subscribe("a", () => Effect.andThen(Effect.sleep("5 seconds"), Effect.sync(() => void ended++)))
      )
      yield* publish("a")
      yield* TestClock.adjust("1 second")
      const stopping = yield* Effect.forkChild(registry.stop("a"))
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(stopping)
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual([ended, yield* names], [1, []])
    }).pipe(Effect.provide(layer)))

  it.effect("F20 a name that runs is refused, and nothing has changed", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      yield* registry.start(subscribe("a"))
      const error = yield* Effect.flip(registry.start(subscribe("a", () => Effect.void, "other")))
      assert.instanceOf(error, BrokerError.BrokerError)
      assert.strictEqual(error.reason, "Conflict")
      assert.include(error.message, "A subscription of the name a runs already")
      assert.strictEqual((yield* registry.health("a"))?.channel, "a")
    }).pipe(Effect.provide(layer)))

  it.effect("F20 of many that start at once under one name, one runs", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      const exits = yield* Effect.forEach(
        [1, 2, 3, 4, 5],
        () => Effect.exit(registry.start(subscribe("a"))),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 1)
      assert.deepStrictEqual(yield* names, ["a"])
    }).pipe(Effect.provide(layer)))

  it.effect("F20 a start that fails is the caller's error, and its name is free", () =>
    Effect.gen(function*() {
      const { broker, start, stop } = yield* MemoryBroker.make()
      yield* Effect.gen(function*() {
        const registry = yield* Subscriptions.Registry
        yield* stop
        const error = yield* Effect.flip(registry.start(subscribe("a")))
        assert.strictEqual(error.reason, "Unreachable")
        assert.deepStrictEqual(yield* names, [])
        yield* start
        yield* registry.start(subscribe("a"))
        assert.deepStrictEqual(yield* names, ["a"])
      }).pipe(Effect.provide(Layer.provideMerge(Subscriptions.layer(), Layer.succeed(Broker.Broker, broker))))
    }))

  it.effect("F20 an interrupted start leaves nothing, and a stop waits for a start", () =>
    Effect.gen(function*() {
      const { broker } = yield* MemoryBroker.make()
      const slow = Broker.Broker.of({
        ...broker,
        consume: (consumer) => Effect.andThen(Effect.sleep("5 seconds"), broker.consume(consumer))
      })
      yield* Effect.gen(function*() {
        const registry = yield* Subscriptions.Registry
        const first = yield* Effect.forkChild(registry.start(subscribe("a")))
        yield* TestClock.adjust("1 second")
        yield* Fiber.interrupt(first)
        const second = yield* Effect.forkChild(registry.start(subscribe("a")))
        yield* TestClock.adjust("1 second")
        assert.isUndefined(yield* registry.health("a"))
        const stopping = yield* Effect.forkChild(registry.stop("a"))
        yield* TestClock.adjust("1 second")
        assert.isUndefined(stopping.pollUnsafe())
        yield* TestClock.adjust("3 seconds")
        assert.isTrue(Exit.isSuccess(yield* Fiber.await(second)))
        assert.isTrue(yield* Fiber.join(stopping))
        assert.deepStrictEqual(yield* names, [])
      }).pipe(Effect.provide(Layer.provideMerge(Subscriptions.layer(), Layer.succeed(Broker.Broker, slow))))
    }))

  it.effect("F20 all are drained side by side when the layer's scope closes", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(layer, scope)
      const registry = Context.get(context, Subscriptions.Registry)
      const ended: Array<string> = []
      const slow = (message: Message<Uint8Array>) =>
        Effect.andThen(Effect.sleep("2 seconds"), Effect.sync(() => void ended.push(message.channel)))
      for (const name of ["a", "b", "c"]) {
        yield* Effect.provideContext(registry.start(subscribe(name, slow)), context)
        for (let i = 0; i < 3; i++) yield* Effect.provideContext(publish(name), context)
      }
      yield* TestClock.adjust("1 second")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(ended.sort(), ["a", "b", "c"])
      assert.isDefined(closing.pollUnsafe())
    }))

  it.effect("F20 none starts any more when the layer's scope has closed, and what was starting hears of it", () =>
    Effect.gen(function*() {
      const { broker } = yield* MemoryBroker.make()
      const slow = Broker.Broker.of({ ...broker, consume: () => Effect.never })
      const provided = Effect.provideService(Broker.Broker, slow)
      const scope = yield* Scope.make()
      const registry = Context.get(yield* Layer.buildWithScope(Subscriptions.layer(), scope), Subscriptions.Registry)
      const starting = yield* Effect.forkChild(Effect.flip(provided(registry.start(subscribe("a")))))
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual((yield* Fiber.join(starting)).reason, "Lost")
      assert.strictEqual((yield* Effect.flip(provided(registry.start(subscribe("b"))))).reason, "Lost")
    }))

  it.effect("F20 those of the layer run from its beginning, and can be stopped as any other", () =>
    Effect.gen(function*() {
      const registry = yield* Subscriptions.Registry
      assert.deepStrictEqual(yield* names, ["a", "b"])
      yield* registry.stop("a")
      assert.deepStrictEqual(yield* names, ["b"])
    }).pipe(Effect.provide(Layer.provideMerge(Subscriptions.layer([subscribe("a"), subscribe("b")]), memory))))

  it("F20 random histories of starts and stops: what runs is what was started and not stopped, and each message is handled once", () =>
    fc.assert(fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom("start", "stop", "publish"), fc.constantFrom("a", "b")), { maxLength: 25 }),
      (history) =>
        Effect.runPromise(
          Effect.gen(function*() {
            const registry = yield* Subscriptions.Registry
            const running = new Set<string>()
            const seen: Record<string, Array<number>> = { a: [], b: [] }
            const published: Record<string, number> = { a: 0, b: 0 }
            const of = (name: string) =>
              subscribe(name, (message) => Effect.sync(() => void seen[name]!.push(message.position)))
            for (const [what, name] of history) {
              if (what === "start") {
                const exit = yield* Effect.exit(registry.start(of(name)))
                assert.strictEqual(Exit.isFailure(exit), running.has(name))
                running.add(name)
              } else if (what === "stop") {
                assert.strictEqual(yield* registry.stop(name), running.delete(name))
              } else {
                yield* publish(name)
                published[name]!++
              }
              assert.deepStrictEqual([...(yield* names)].sort(), [...running].sort())
            }
            for (const name of ["a", "b"]) if (!running.has(name)) yield* registry.start(of(name))
            yield* TestClock.adjust("1 minute")
            for (const name of ["a", "b"]) {
              assert.deepStrictEqual(seen[name], Array.from({ length: published[name]! }, (_, i) => i))
            }
          }).pipe(Effect.provide([layer, TestClock.layer()]))
        )
    )))
})
