import {
  Broker,
  Channel,
  CircuitBreaker,
  type Delivery,
  type Failure,
  Lanes,
  MemoryBroker,
  Outgoing,
  Publisher,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Data, Deferred, Duration, Effect, Exit, Fiber, Layer, Metric, pipe, Stream } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { deliver } from "./support.ts"

class Trouble extends Data.TaggedError("Trouble")<{ readonly failure: Failure.FailureClass }> {}

type Ending = "ok" | "fails" | "wrong" | "dies" | "interrupted"

const endings: Record<Ending, Effect.Effect<string, Trouble>> = {
  ok: Effect.succeed("ok"),
  fails: Effect.fail(new Trouble({ failure: "dependency" })),
  wrong: Effect.fail(new Trouble({ failure: "validation" })),
  dies: Effect.die(new Error("no")),
  interrupted: Effect.interrupt
}

interface Model {
  state: CircuitBreaker.State
  until: number
  wait: number
  failures: number
  successes: number
  calls: Array<{ readonly at: number; readonly fails: boolean }>
}

const reference = (numbers: Numbers) => {
  const model: Model = { state: "closed", until: 0, wait: numbers.openFor, failures: 0, successes: 0, calls: [] }
  const open = (now: number) => {
    model.state = "open"
    model.until = now + model.wait
    model.wait = Math.min(numbers.maximumOpenFor, model.wait * 2)
    model.failures = model.successes = 0
  }
  const close = () => {
    Object.assign(model, { state: "closed", wait: numbers.openFor, failures: 0, successes: 0, calls: [] })
  }
  return {
    model,
    /** Milliseconds to wait; 0 where the call passes. */
    call: (now: number, ending: Ending): number => {
      if (model.state === "open") {
        if (now < model.until) return model.until - now
        model.state = "half-open"
      }
      const verdict = ending === "fails" ? false : ending === "ok" || ending === "wrong" ? true : undefined
      if (verdict === undefined) return 0
      if (model.state === "half-open") {
        if (!verdict) open(now)
        else if (++model.successes === numbers.probes) close()
        return 0
      }
      if (numbers.rate === undefined) {
        model.failures = verdict ? 0 : model.failures + 1
        if (model.failures === numbers.consecutive) open(now)
        return 0
      }
      const width = numbers.window / 10
      model.calls.push({ at: Math.floor(now / width), fails: !verdict })
      const recent = model.calls.filter(({ at }) => at > Math.floor(now / width) - 10)
      const failed = recent.filter(({ fails }) => fails).length
      if (!verdict && recent.length >= numbers.minimum && failed >= numbers.rate * recent.length) {
        open(now)
        model.calls = []
      }
      return 0
    }
  }
}

interface Numbers {
  readonly consecutive: number
  readonly rate: number | undefined
  readonly minimum: number
  readonly window: number
  readonly openFor: number
  readonly maximumOpenFor: number
  readonly probes: number
}

const numbers: fc.Arbitrary<Numbers> = fc.record({
  consecutive: fc.integer({ min: 1, max: 4 }),
  rate: fc.option(fc.constantFrom(0.1, 0.5, 1), { nil: undefined }),
  minimum: fc.integer({ min: 1, max: 6 }),
  window: fc.constantFrom(10, 100, 1000),
  openFor: fc.integer({ min: 1, max: 50 }),
  maximumOpenFor: fc.integer({ min: 50, max: 300 }),
  probes: fc.integer({ min: 1, max: 3 })
})

const steps = fc.array(
  fc.record({
    pause: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 120 })),
    ending: fc.constantFrom<Ending>("ok", "ok", "fails", "fails", "fails", "wrong", "dies", "interrupted")
  }),
  { maxLength: 80 }
)

const of = ({ consecutive, maximumOpenFor, minimum, openFor, probes, rate, window }: Numbers) =>
  CircuitBreaker.middleware({
    name: "it",
    openFor,
    maximumOpenFor,
    probes,
    trip: rate === undefined
      ? CircuitBreaker.consecutive(consecutive)
      : CircuitBreaker.rate({ rate, minimum, window })
  })

const isolated = <A, E>(effect: Effect.Effect<A, E, CircuitBreaker.Circuits>) =>
  Effect.runPromise(effect.pipe(Effect.provide(Layer.provideMerge(CircuitBreaker.layer(), TestClock.layer()))))

const Jobs = Channel.bytes("jobs")

describe("X12 a circuit", () => {
  it("X12 does what the reference says, whatever comes when, at once or later", () =>
    fc.assert(
      fc.asyncProperty(numbers, steps, fc.boolean(), (numbers, steps, isLate) =>
        isolated(Effect.gen(function*() {
          const { call, model } = reference(numbers)
          const circuits = yield* CircuitBreaker.Circuits
          let calls = 0
          const clock = yield* Clock.Clock
          for (const { ending, pause } of steps) {
            yield* TestClock.adjust(pause)
            const handler = pipe((_: Delivery) => {
              calls++
              return isLate ? Effect.andThen(Effect.yieldNow, endings[ending]) : endings[ending]
            }, of(numbers))
            const before = calls
            const exit = yield* Effect.exit(Effect.suspend(() => handler(deliver())))
            const wait = call(clock.currentTimeMillisUnsafe(), ending)
            assert.strictEqual(calls - before, wait === 0 ? 1 : 0)
            if (wait > 0) {
              const error = yield* Effect.flip(exit)
              assert.instanceOf(error, CircuitBreaker.CircuitOpen)
              if (error._tag !== "CircuitOpen") return
              assert.strictEqual(Duration.toMillis(error.retryAfter), wait)
              assert.strictEqual(error.failure, "dependency")
            }
            const [shown] = yield* circuits.snapshot
            assert.deepStrictEqual([shown?.state, shown?.until], [
              model.state,
              model.state === "open" ? model.until : undefined
            ])
          }
        }))),
      { numRuns: 300 }
    ))

  it.effect("X12 lets no more probes in at once than it says, and what was called before has no say", () =>
    Effect.gen(function*() {
      const gates: Array<Deferred.Deferred<string, Trouble>> = []
      const handler = pipe(
        (_: Delivery) => {
          const gate = Deferred.makeUnsafe<string, Trouble>()
          gates.push(gate)
          return Deferred.await(gate)
        },
        CircuitBreaker.middleware({ name: "it", trip: CircuitBreaker.consecutive(1), openFor: "1 second", probes: 2 })
      )
      const call = Effect.forkChild(Effect.exit(Effect.suspend(() => handler(deliver()))), { startImmediately: true })
      yield* call
      yield* call
      yield* call
      yield* Deferred.done(gates[0]!, Exit.fail(new Trouble({ failure: "timeout" })))
      yield* Effect.yieldNow
      yield* call
      assert.strictEqual(gates.length, 3)
      yield* TestClock.adjust("1 second")
      yield* call
      yield* call
      const third = yield* call
      assert.strictEqual(gates.length, 5)
      assert.isTrue(Exit.isFailure(yield* Fiber.join(third)))
      const circuits = yield* CircuitBreaker.Circuits
      // called before it opened
      yield* Deferred.succeed(gates[1]!, "late")
      yield* Deferred.done(gates[2]!, Exit.fail(new Trouble({ failure: "timeout" })))
      yield* TestClock.adjust(0)
      assert.strictEqual((yield* circuits.snapshot)[0]?.state, "half-open")
      yield* Deferred.succeed(gates[3]!, "ok")
      yield* TestClock.adjust(0)
      assert.strictEqual((yield* circuits.snapshot)[0]?.state, "half-open")
      yield* Deferred.succeed(gates[4]!, "ok")
      yield* TestClock.adjust(0)
      assert.strictEqual((yield* circuits.snapshot)[0]?.state, "closed")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("X12 a probe that is interrupted makes room for the next", () =>
    Effect.gen(function*() {
      let calls = 0
      const handler = pipe(
        (_: Delivery): Effect.Effect<string, Trouble> => ++calls === 1 ? endings.fails : Effect.never,
        CircuitBreaker.middleware({ name: "it", trip: CircuitBreaker.consecutive(1), openFor: "1 second" })
      )
      const call = Effect.suspend(() => handler(deliver()))
      yield* Effect.exit(call)
      yield* TestClock.adjust("1 second")
      for (let i = 0; i < 3; i++) {
        const probe = yield* Effect.forkChild(call, { startImmediately: true })
        assert.strictEqual(calls, 2 + i)
        yield* Fiber.interrupt(probe)
      }
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("X12 is opened and closed by hand, and tells of each change", () =>
    Effect.gen(function*() {
      const circuits = yield* CircuitBreaker.Circuits
      const told = yield* Effect.forkChild(Stream.runCollect(Stream.take(circuits.transitions, 2)), {
        startImmediately: true
      })
      const handler = pipe((_: Delivery) => Effect.succeed(1), CircuitBreaker.middleware({ name: "hand" }))
      const call = Effect.exit(Effect.suspend(() => handler(deliver())))
      assert.isFalse(yield* circuits.open("hand"))
      yield* call
      assert.isTrue(yield* circuits.open("hand"))
      yield* TestClock.adjust("1 day")
      assert.isTrue(Exit.isFailure(yield* call))
      assert.deepInclude((yield* circuits.snapshot)[0], { name: "hand", state: "open", until: Infinity, refused: 1 })
      assert.isTrue(yield* circuits.close("hand"))
      assert.isTrue(Exit.isSuccess(yield* call))
      assert.deepStrictEqual(
        (yield* Fiber.join(told)).map(({ from, name, to }) => [name, from, to]),
        [["hand", "closed", "open"], ["hand", "open", "closed"]]
      )
      const counted = (yield* Metric.snapshot).filter(({ attributes, id }) =>
        id === "millrace.circuit.transitions" && attributes?.["circuit"] === "hand"
      )
      assert.deepStrictEqual(counted.map(({ attributes }) => attributes?.["state"]).toSorted(), ["closed", "open"])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("X12 keys have circuits of their own, as many as there is room for", () =>
    Effect.gen(function*() {
      const circuits = yield* CircuitBreaker.Circuits
      const handler = pipe(
        (message: Delivery) => message.key === "bad" ? endings.fails : endings.ok,
        CircuitBreaker.middleware({
          name: "host",
          by: (message) => message.key ?? "",
          trip: CircuitBreaker.consecutive(1)
        })
      )
      const call = (key: string) => Effect.exit(Effect.suspend(() => handler(deliver({ key }))))
      yield* call("bad")
      for (let i = 0; i < 100; i++) assert.isTrue(Exit.isSuccess(yield* call(`good-${i}`)))
      const open = yield* Effect.flip(yield* call("bad"))
      assert.strictEqual(open._tag, "CircuitOpen")
      const shown = yield* circuits.snapshot
      assert.strictEqual(shown.length, 10)
      assert.isTrue(shown.some(({ name }) => name === "host/bad"))
    }).pipe(Effect.provide(CircuitBreaker.layer({ capacity: 10 }))))

  it("X12 wrong options are refused with their name", () => {
    const build = (options: Partial<CircuitBreaker.Options>) => () =>
      CircuitBreaker.middleware({ name: "it", ...options })
    assert.throws(build({ name: "" }), RangeError, "CircuitBreaker: name must say what is protected")
    assert.throws(
      build({ openFor: 0 }),
      RangeError,
      "CircuitBreaker: openFor must be a finite duration from 1 ms, got 0"
    )
    assert.throws(build({ probes: 0.5 }), RangeError, "CircuitBreaker: probes must be an integer from 1, got 0.5")
    assert.throws(
      build({ openFor: 9, maximumOpenFor: 8 }),
      RangeError,
      "maximumOpenFor must be at least openFor, got 8 ms"
    )
    assert.throws(() => CircuitBreaker.consecutive(0), RangeError, "consecutive must be an integer from 1, got 0")
    assert.throws(() => CircuitBreaker.rate({ rate: 0 }), RangeError, "rate must be above 0 to 1, got 0")
    assert.throws(() => CircuitBreaker.layer({ capacity: 0 }), RangeError, "capacity must be an integer from 1, got 0")
  })
})

/** A subscription whose dependency is down until a time. */
const outage = Effect.fnUntraced(function*(options: {
  readonly until: number
  readonly lanes: Lanes.Lanes
  readonly messages: number
  readonly breaker?: Partial<CircuitBreaker.Options>
}) {
  const memory = yield* MemoryBroker.make({ partitions: 1 })
  const clock = yield* Clock.Clock
  const done: Array<number> = []
  let calls = 0
  let atOnce = 0
  let most = 0
  const handler = pipe(
    (message: Delivery) =>
      Effect.gen(function*() {
        calls++
        most = Math.max(most, ++atOnce)
        yield* Effect.ensuring(Effect.sleep(10), Effect.sync(() => atOnce--))
        if (clock.currentTimeMillisUnsafe() < options.until) return yield* new Trouble({ failure: "dependency" })
        done.push(message.position)
      }),
    CircuitBreaker.middleware({
      name: "payments",
      trip: CircuitBreaker.consecutive(3),
      openFor: "10 seconds",
      ...options.breaker
    })
  )
  const subscription = Subscription.make(Jobs, {
    group: "g",
    lanes: options.lanes,
    backoff: { cap: "1 second" },
    // each probe that fails spends an attempt of its message
    hold: { attempts: 1000, age: "1 day" }
  }, handler)
  const running = yield* Subscription.run(subscription).pipe(Effect.provideService(Broker.Broker, memory.broker))
  yield* memory.driver.publish(
    Array.from({ length: options.messages }, () => new Outgoing("jobs", new Uint8Array(1), undefined, {}))
  )
  return {
    memory,
    running,
    done,
    counts: () => ({ calls, most })
  }
})

describe("X12 a circuit around a consumer", () => {
  for (const lanes of [Lanes.partition, Lanes.unordered(4)]) {
    it.effect(`X12 X4 pauses the intake while it is open, tries now and then, and loses nothing (${lanes._tag})`, () =>
      Effect.gen(function*() {
        const { counts, done, memory, running } = yield* outage({ until: 600_000, lanes, messages: 500 })
        let paused = 0
        for (let second = 0; second < 600; second++) {
          yield* TestClock.adjust("1 second")
          const { pauses, state } = yield* running.health
          if (state === "paused" && pauses[0]?.by === "circuit payments is open") paused++
        }
        assert.isAbove(paused, 500)
        const circuits = yield* CircuitBreaker.Circuits
        const [circuit] = yield* circuits.snapshot
        // ten minutes, a probe each ten seconds: a hot loop would have called and refused without end
        assert.isAtMost(counts().calls, 80)
        assert.isAtMost(circuit!.refused, 400)
        assert.strictEqual(done.length, 0)
        yield* TestClock.adjust("3 minutes")
        assert.strictEqual(new Set(done).size, 500)
        if (lanes._tag === "partition") assert.deepStrictEqual(done, Array.from({ length: 500 }, (_, i) => i))
        assert.deepStrictEqual(memory.positions("jobs", "g"), [500])
        assert.deepStrictEqual(memory.ends("jobs.dead-letters"), [0])
        assert.deepStrictEqual((yield* running.health).pauses, [])
      }).pipe(Effect.provide(CircuitBreaker.layer())))
  }

  it.effect("X12 pauses every subscription that met it, and all go on when it closes", () =>
    Effect.gen(function*() {
      const one = yield* outage({ until: 60_000, lanes: Lanes.unordered(4), messages: 20 })
      const two = yield* outage({ until: 60_000, lanes: Lanes.unordered(4), messages: 20 })
      yield* TestClock.adjust("5 seconds")
      for (const { running } of [one, two]) assert.strictEqual((yield* running.health).pauses.length, 1)
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual([new Set(one.done).size, new Set(two.done).size], [20, 20])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("X12 closing it by hand lets all intakes go on at once", () =>
    Effect.gen(function*() {
      const { done, running } = yield* outage({ until: 10, lanes: Lanes.partition, messages: 5 })
      const circuits = yield* CircuitBreaker.Circuits
      yield* TestClock.adjust(5)
      yield* circuits.open("payments")
      yield* TestClock.adjust("1 minute")
      // the one that ran when it was opened has ended
      assert.deepStrictEqual([done.length, (yield* running.health).state], [1, "paused"])
      yield* circuits.close("payments")
      assert.strictEqual((yield* running.health).state, "running")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(done.length, 5)
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("X12 a drain while it is open ends, and what it held is there for the next", () =>
    Effect.gen(function*() {
      const { memory, running } = yield* outage({ until: 600_000, lanes: Lanes.partition, messages: 5 })
      yield* TestClock.adjust("1 minute")
      yield* running.drain
      assert.deepStrictEqual(memory.positions("jobs", "g"), [0])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("X12 where it refuses, the intake goes on for whom it does not concern", () =>
    Effect.gen(function*() {
      const memory = yield* MemoryBroker.make({ partitions: 1 })
      const done: Array<string> = []
      const handler = pipe(
        (message: Delivery) =>
          message.key === "down" ? endings.fails : Effect.sync(() => void done.push(message.key ?? "")),
        CircuitBreaker.middleware({
          name: "tenant",
          by: (message) => message.key ?? "",
          trip: CircuitBreaker.consecutive(1),
          openFor: "1 minute"
        })
      )
      const { health } = yield* Subscription.run(Subscription.make(Jobs, { group: "g", lanes: Lanes.key(8) }, handler))
        .pipe(Effect.provideService(Broker.Broker, memory.broker))
      yield* memory.driver.publish(
        ["down", "a", "down", "b", "c"].map((key) => new Outgoing("jobs", new Uint8Array(1), key, {}))
      )
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(done, ["a", "b", "c"])
      assert.deepStrictEqual((yield* health).pauses, [])
    }).pipe(Effect.provide(CircuitBreaker.layer())))
})

describe("X12 a circuit around a publisher", () => {
  it.effect("X12 fails at once with a class and a time, and calls the broker no more", () =>
    Effect.gen(function*() {
      const memory = yield* MemoryBroker.make()
      let calls = 0
      const broker = Broker.Broker.of({
        ...memory.broker,
        publish: (message) => {
          calls++
          return memory.broker.publish(message)
        }
      })
      yield* memory.stop
      const publisher = Publisher.make(
        Jobs,
        CircuitBreaker.middleware({ name: "broker", trip: CircuitBreaker.consecutive(2), openFor: "5 seconds" })
      )
      const publish = Effect.flip(publisher.publish(new Uint8Array(1))).pipe(
        Effect.provideService(Broker.Broker, broker)
      )
      yield* publish
      yield* publish
      const refused = yield* publish
      assert.strictEqual(calls, 2)
      assert.strictEqual(refused._tag, "CircuitOpen")
      if (refused._tag === "CircuitOpen") assert.strictEqual(Duration.toMillis(refused.retryAfter), 5000)
      assert.include(refused.message, "come back in 5s")
      yield* memory.start
      yield* TestClock.adjust("5 seconds")
      yield* publisher.publish(new Uint8Array(1)).pipe(Effect.provideService(Broker.Broker, broker))
    }).pipe(Effect.provide(CircuitBreaker.layer())))
})
