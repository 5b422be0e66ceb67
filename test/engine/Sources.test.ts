import { assert, describe, it } from "@effect/vitest"
import { Channel, Engine, Lanes, type Outcome, Subscription } from "@millrace/core"
import { Duration, Effect, Exit, Fiber, Logger, References, Scope } from "effect"
import { TestClock } from "effect/testing"
import { altered, isLetter, message, refusal } from "./altered.ts"

const Orders = Channel.bytes("c")

class Throttled {
  readonly _tag = "Throttled"
  readonly failure = "throttled" as const
  readonly retryAfter: Duration.Duration

  constructor(retryAfter: Duration.Duration) {
    this.retryAfter = retryAfter
  }
}

/** A logger as users write them: it throws on what JSON cannot hold. */
const throwing = Logger.layer([
  Logger.make(() => {
    throw new TypeError("Converting circular structure to JSON")
  })
])

describe("loggers that throw", () => {
  it.effect("F2 keep neither a restart nor a dead letter from happening, and shorten no wait", () =>
    Effect.gen(function*() {
      let refuses = true
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          publish: (batch) => isLetter(batch) && refuses ? Effect.fail(refusal("Lost")) : driver.publish(batch)
        })
      })
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s" },
        ({ key }) => key === "bad" ? Effect.die("x") : Effect.void
      )
      const running = yield* broker.consume(subscription.consumer)
      yield* memory.stop
      yield* TestClock.adjust("10 seconds")
      // 100, 200, 400 … 6,400 ms
      const { restarts } = yield* running.health
      assert.isAtLeast(restarts, 4)
      assert.isAtMost(restarts, 8)
      yield* memory.start
      yield* TestClock.adjust("10 seconds")
      yield* memory.broker.publishAll([message("bad"), message("a")])
      yield* TestClock.adjust("1 minute")
      refuses = false
      yield* TestClock.adjust("2 minutes")
      assert.deepStrictEqual([memory.positions("c", "g"), memory.ends("c.dead-letters")], [[2], [1]])
    }).pipe(Effect.provide(throwing), Effect.scoped))

  it.effect("F2 F13 keep no subscription from starting whose dead letter channel cannot be declared", () =>
    Effect.gen(function*() {
      const { broker } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({ ...driver, declare: () => Effect.fail(refusal("Permission")) })
      })
      const running = yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer
      )
      assert.strictEqual((yield* running.health).state, "running")
    }).pipe(Effect.provide(throwing), Effect.scoped))

  it.effect("F2 F22 keep no message unsettled whose dead letter was written in a smaller form", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          publish: (batch) =>
            isLetter(batch) && batch[0]!.fields.some(([name]) => name === "odd")
              ? Effect.fail(refusal("Invalid"))
              : driver.publish(batch)
        })
      })
      yield* broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.die("x")).consumer)
      yield* broker.publish(message("bad", { odd: "1" }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([memory.positions("c", "g"), memory.ends("c.dead-letters")], [[1], [1]])
    }).pipe(Effect.provide(throwing), Effect.scoped))
})

describe("waits that errors name", () => {
  for (const [name, after] of Object.entries({ "0": 0, "a time in the past": -5000, "no number": Number.NaN })) {
    it.effect(`F11 retryAfter of ${name} is no hot loop`, () =>
      Effect.gen(function*() {
        const { broker } = yield* altered({ partitions: 1 }, {})
        let attempts = 0
        const subscription = Subscription.make(
          Orders,
          { group: "g", name: "s", backoff: { base: "1 second" } },
          () =>
            Effect.suspend(() => {
              attempts++
              return Effect.fail(new Throttled(Duration.millis(after)))
            })
        )
        yield* broker.consume(subscription.consumer)
        yield* broker.publish(message("a"))
        yield* TestClock.adjust("10 seconds")
        assert.isAtMost(attempts, 11)
        assert.isAtLeast(attempts, 5)
      }).pipe(Effect.scoped))
  }

  it.effect("F11 a wait of a year, or waits that add up to more than hold.retryAfter, become dead letters", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      const attempts: Record<string, number> = { year: 0, hour: 0 }
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", lanes: Lanes.key(4), hold: { retryAfter: "5 hours" } },
        ({ key }) =>
          Effect.suspend(() => {
            attempts[key!]!++
            return Effect.fail(new Throttled(key === "year" ? Duration.days(365) : Duration.hours(1)))
          })
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publishAll([message("year"), message("hour")])
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(memory.ends("c.dead-letters"), [1])
      yield* TestClock.adjust("6 hours")
      assert.deepStrictEqual([attempts, memory.ends("c.dead-letters")], [{ year: 1, hour: 6 }, [2]])
    }).pipe(Effect.scoped))
})

describe("restarts", () => {
  it.effect("F2 commits that are always refused make the waits between restarts longer", () =>
    Effect.gen(function*() {
      let handled = 0
      const { broker } = yield* altered({ partitions: 1 }, {
        lease: (lease) => ({ ...lease, commit: () => Effect.fail(refusal("Permission")) })
      })
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.sync(() => void handled++))
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("10 seconds")
      // 100, 200, 400 … 6,400 ms
      assert.isAtMost(handled, 8)
      assert.isAtLeast(handled, 4)
    }).pipe(Effect.scoped))

  it.effect("F2 a driver whose commit throws during a drain ends the drain, commits the other leases and closes its scope", () =>
    Effect.gen(function*() {
      let isDraining = false
      let closed = 0
      const { broker, memory } = yield* altered({ partitions: 2 }, {
        lease: (lease) => ({
          ...lease,
          commit: (position) => {
            if (isDraining && lease.partition === 0) throw new Error("thrown by the client")
            return lease.commit!(position)
          }
        }),
        driver: (driver) => ({
          ...driver,
          consume: (options, sink) =>
            Effect.andThen(Effect.addFinalizer(() => Effect.sync(() => void closed++)), driver.consume(options, sink))
        })
      })
      const scope = yield* Scope.make()
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.sleep(20))
      const running = yield* Scope.provide(broker.consume(subscription.consumer), scope)
      yield* broker.publishAll([message(), message(), message(), message()])
      yield* TestClock.adjust(10)
      isDraining = true
      const drain = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(drain.pollUnsafe())
      assert.deepStrictEqual([closed, (yield* running.health).state], [1, "stopped"])
      assert.strictEqual(memory.positions("c", "g")[1], 1)
    }))

  it.effect("F2 a driver whose consume throws fails the start with that error", () =>
    Effect.gen(function*() {
      const { memory } = yield* altered({ partitions: 1 }, {})
      const broker = Engine.make({
        ...memory.driver,
        consume: () => {
          throw new Error("thrown by the client")
        }
      })
      const exit = yield* Effect.exit(
        broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer)
      )
      assert.match(String(exit), /thrown by the client/)
    }).pipe(Effect.scoped))

  it.effect("F2 a start that is interrupted leaves nothing running", () =>
    Effect.gen(function*() {
      let isConsuming = false
      const { memory } = yield* altered({ partitions: 1 }, {})
      const broker = Engine.make({
        ...memory.driver,
        consume: () => {
          isConsuming = true
          return Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (isConsuming = false)))
        }
      })
      const start = yield* Effect.forkChild(
        broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer)
      )
      yield* TestClock.adjust(10)
      assert.isTrue(isConsuming)
      yield* Fiber.interrupt(start)
      assert.isFalse(isConsuming)
    }).pipe(Effect.scoped))
})

describe("claims", () => {
  const claims = (extend: (call: number) => Effect.Effect<void, ReturnType<typeof refusal>> | undefined) =>
    Effect.gen(function*() {
      let calls = 0
      let started = 0
      let interrupted = 0
      const { broker } = yield* altered({ partitions: 1, settlement: "message", claim: "1 minute" }, {
        lease: (lease) => ({ ...lease, extend: (batch) => extend(++calls) ?? lease.extend!(batch) })
      })
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", lanes: Lanes.unordered(2) },
        () =>
          Effect.onInterrupt(
            Effect.andThen(Effect.sync(() => void started++), Effect.sleep("5 minutes")),
            () => Effect.sync(() => void interrupted++)
          )
      )
      const running = yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("6 minutes")
      yield* Effect.forkChild(running.drain)
      yield* TestClock.adjust("2 minutes")
      return { started, interrupted, restarts: (yield* running.health).restarts }
    }).pipe(Effect.scoped)

  it.effect("X3 a call that is lost now and then costs nothing", () =>
    Effect.gen(function*() {
      const lost = yield* claims((call) => call % 2 === 1 ? Effect.fail(refusal("Lost")) : undefined)
      assert.deepStrictEqual(lost, { started: 1, interrupted: 0, restarts: 0 })
    }))

  it.effect("X3 a call that is never answered is a lost one", () =>
    Effect.gen(function*() {
      const lost = yield* claims((call) => call % 3 === 1 ? Effect.never : undefined)
      assert.deepStrictEqual(lost, { started: 1, interrupted: 0, restarts: 0 })
    }))

  it.effect("X3 claims that lapse start the source again before another consumer has the message long", () =>
    Effect.gen(function*() {
      const { restarts } = yield* claims(() => Effect.fail(refusal("Lost")))
      assert.isAtLeast(restarts, 1)
    }))
})

describe("backpressure", () => {
  it.effect("X3 a partition that stands still does not stop the others", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 3 }, {})
      let handled = 0
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", inFlight: { messages: 100 }, grace: { drain: 0 } },
        ({ partition }) => partition === 0 ? Effect.never : Effect.sync(() => void handled++)
      )
      const running = yield* broker.consume(subscription.consumer)
      for (let i = 0; i < 400; i++) yield* memory.broker.publishAll([message(), message(), message()])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(handled, 800)
      assert.isAtMost((yield* running.health).pending, 200)
      yield* Effect.forkChild(running.drain)
      yield* TestClock.adjust("5 seconds")
    }).pipe(Effect.scoped))
})

describe("scopes", () => {
  for (const when of ["at once", "later"] as const) {
    it.effect(`F18 what a handler opens is closed before its message is settled, ${when}`, () =>
      Effect.gen(function*() {
        let open = 0
        let most = 0
        const settledWhileOpen: Array<number> = []
        const { broker, memory } = yield* altered({ partitions: 1, settlement: "message" }, {
          lease: (lease) => ({
            ...lease,
            settle: (batch) => {
              settledWhileOpen.push(open)
              return lease.settle!(batch)
            }
          })
        })
        const acquire = Effect.acquireRelease(
          Effect.sync(() => void (most = Math.max(most, ++open))),
          () => Effect.sync(() => void open--)
        )
        const subscription = Subscription.make(
          Orders,
          { group: "g", name: "s" },
          () => when === "at once" ? acquire : Effect.andThen(Effect.sleep(1), acquire)
        )
        yield* broker.consume(subscription.consumer)
        yield* broker.publishAll(Array.from({ length: 50 }, () => message("a")))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([memory.positions("c", "g"), open, most], [[50], 0, 1])
        assert.isTrue(settledWhileOpen.every((count) => count === 0))
      }).pipe(Effect.scoped))
  }
})

describe("one decision", () => {
  it.effect("F13 hooks are told the dead letter that a message becomes while they wait", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", hold: { age: 100 }, backoff: { base: 50, factor: 1, jitter: 0 } },
        (delivery) => {
          delivery.after((_, outcome) => {
            told.push(outcome!._tag)
            return Effect.sleep(60)
          })
          return Effect.fail({ _tag: "Busy" as const, failure: "transient" as const })
        }
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(told, ["Retry", "DeadLetter"])
      assert.deepStrictEqual(memory.ends("c.dead-letters"), [1])
    }).pipe(Effect.scoped))

  it.effect("H1 an entry that answers no outcome gives a dead letter", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      // a caller in JavaScript
      const entry = (() => undefined) as unknown as () => Outcome.Outcome
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", settle: { Odd: entry } },
        () => Effect.fail({ _tag: "Odd" as const })
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([memory.ends("c.dead-letters"), memory.positions("c", "g")], [[1], [1]])
    }).pipe(Effect.scoped))
})

describe("a subscription that is started inside a request", () => {
  it.effect("W3 B6 does not carry the annotations of that request", () =>
    Effect.gen(function*() {
      const { broker } = yield* altered({ partitions: 1 }, {})
      const seen: Array<unknown> = []
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s" },
        () => Effect.map(References.CurrentLogAnnotations, (annotations) => void seen.push(annotations))
      )
      yield* Effect.annotateLogs(broker.consume(subscription.consumer), { request: "r-1" })
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [{}])
    }).pipe(Effect.scoped))
})
