import { Channel, Engine, Lanes, Retries, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, Duration, Effect, Exit, Fiber, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { altered, isLetter, lines, message, refusal } from "./altered.ts"

const Orders = Channel.bytes("c")

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter?: Duration.Duration | undefined }> {
  readonly failure = "transient" as const
}
class Wrong extends Data.TaggedError("Wrong") {
  readonly failure = "permanent" as const
}

describe("restarts", () => {
  /** A source whose connection is lost again and again, each time after so long; answers how often it has begun. */
  const livesOf = (length: Duration.Input, { offers, settlement }: {
    readonly offers: number
    readonly settlement: "none" | "position"
  }) =>
    Effect.gen(function*() {
      let lives = 0
      const { memory } = yield* altered({ partitions: 1 }, {})
      const broker = Engine.make({
        ...memory.driver,
        capabilities: { ...memory.driver.capabilities, settlement, redelivery: settlement !== "none" },
        consume: (_, sink) =>
          Effect.suspend(() => {
            const lease = { partition: 0 }
            sink.ready()
            sink.open(lease)
            return Effect.gen(function*() {
              if (lives++ < offers) {
                yield* sink.offer(lease, yield* Effect.orDie(Stream.runCollect(memory.driver.browse("c"))))
              }
              yield* Effect.sleep(length)
              return yield* Effect.fail(refusal("Lost"))
            })
          })
      })
      yield* memory.broker.publish(message("a"))
      yield* broker.consume(
        Subscription.make(
          Orders,
          { group: "g", name: "s", restart: { base: 100, cap: "5 seconds" } },
          () => Effect.void
        )
          .consumer
      )
      yield* TestClock.adjust("1 minute")
      return lives
    }).pipe(Effect.scoped)

  it.effect("F2 a broker that acknowledges nothing: handled messages show that the source works", () =>
    Effect.gen(function*() {
      // 1.1 seconds for each life
      assert.isAtLeast(yield* livesOf("1 second", { offers: Number.POSITIVE_INFINITY, settlement: "none" }), 50)
    }))

  it.effect("F2 a broker that acknowledges nothing: lives in which nothing is handled make the waits longer", () =>
    Effect.gen(function*() {
      // 0.1, 0.2, 0.4 … 5 seconds of waiting, with a second between them
      assert.isAtMost(yield* livesOf("1 second", { offers: 3, settlement: "none" }), 18)
    }))

  it.effect("F2 a source that was connected for longer than the longest wait has shown that it works", () =>
    Effect.gen(function*() {
      assert.isAtMost(yield* livesOf("4 seconds", { offers: 0, settlement: "position" }), 10)
      // 5.1 seconds for each life
      assert.isAtLeast(yield* livesOf("5 seconds", { offers: 0, settlement: "position" }), 11)
    }))
})

describe("drivers whose scope does not close", () => {
  it.effect("F2 a finalizer that throws keeps no source from starting again and from draining", () =>
    Effect.gen(function*() {
      let handled = 0
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          consume: (options, sink) =>
            Effect.andThen(
              Effect.addFinalizer(() => Effect.die(new Error("the finalizer throws"))),
              driver.consume(options, sink)
            )
        })
      })
      const running = yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.sync(() => void handled++)).consumer
      )
      yield* memory.stop
      yield* memory.start
      yield* TestClock.adjust("1 second")
      yield* memory.broker.publish(message("a"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([handled, (yield* running.health).restarts], [1, 1])
      yield* running.drain
      const { lastError, state } = yield* running.health
      assert.deepStrictEqual([state, String(lastError)], ["stopped", "Error: the finalizer throws"])
    }).pipe(Effect.scoped))
})

describe("pauses", () => {
  it.effect("a lease that opens while its subscription is paused is paused, too", () =>
    Effect.gen(function*() {
      const turns: Array<string> = []
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        lease: (lease) => ({
          ...lease,
          pause: Effect.sync(() => void turns.push("pause")),
          resume: Effect.sync(() => void turns.push("resume"))
        })
      })
      const running = yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer
      )
      yield* running.pause
      yield* memory.stop
      yield* memory.start
      yield* TestClock.adjust("5 seconds")
      yield* running.resume
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(turns, ["pause", "pause", "resume"])
    }).pipe(Effect.scoped))

  it.effect("a pause that takes its time is over before the lease resumes", () =>
    Effect.gen(function*() {
      let isPaused = false
      const { broker } = yield* altered({ partitions: 1 }, {
        lease: (lease) => ({
          ...lease,
          pause: Effect.andThen(Effect.sleep(100), Effect.sync(() => void (isPaused = true))),
          resume: Effect.andThen(Effect.sleep(10), Effect.sync(() => void (isPaused = false)))
        })
      })
      const running = yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer
      )
      yield* running.pause
      yield* running.resume
      yield* TestClock.adjust("5 seconds")
      assert.isFalse(isPaused)
    }).pipe(Effect.scoped))
})

describe("claims", () => {
  it.effect("claims of a broker that stops answering lapse before it redelivers their messages", () =>
    Effect.gen(function*() {
      let opened = 0
      let calls = 0
      let interruptedAt = 0
      const { broker } = yield* altered({ partitions: 1, settlement: "message", claim: "1 minute" }, {
        lease: (lease) => ({ ...lease, extend: () => ++calls > 0 ? Effect.never : Effect.void })
      })
      const now = Effect.clockWith((clock) => clock.currentTimeMillis)
      opened = yield* now
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", lanes: Lanes.unordered(2) },
        () => Effect.onInterrupt(Effect.never, () => Effect.map(now, (at) => void (interruptedAt ||= at)))
      )
      const running = yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("2 minutes")
      yield* Effect.forkChild(running.drain)
      yield* TestClock.adjust("2 minutes")
      assert.isAbove(interruptedAt, opened)
      assert.isAtMost(interruptedAt - opened, 60_000)
    }).pipe(Effect.scoped))
})

describe("named waits", () => {
  it.effect("F11 waits that a broker keeps add up to no more than hold.retryAfter", () =>
    Effect.gen(function*() {
      let attempts = 0
      const { broker, memory } = yield* altered({ partitions: 1, settlement: "message" }, {})
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", lanes: Lanes.unordered(2), hold: { retryAfter: "5 hours" } },
        () =>
          Effect.suspend(() => {
            attempts++
            return Effect.fail(new Busy({ retryAfter: Duration.hours(1) }))
          })
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("20 hours")
      assert.deepStrictEqual([attempts, memory.ends("c.dead-letters")], [6, [1]])
    }).pipe(Effect.scoped))

  it.effect("rule 9: a hook that fails for good makes no dead letter of a message that is to come back", () =>
    Effect.gen(function*() {
      let attempts = 0
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, (delivery) =>
        Effect.suspend(() => {
          if (++attempts > 1) return Effect.void
          delivery.after(() => Effect.fail(new Wrong()))
          return Effect.fail(new Busy({ retryAfter: Duration.seconds(5) }))
        }))
      yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([attempts, memory.ends("c.dead-letters"), memory.positions("c", "g")], [2, [0], [1]])
    }).pipe(Effect.scoped))
})

describe("what a driver cannot read", () => {
  it.effect("health shows a handler whose message has an unreadable key", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          consume: (options, sink) =>
            driver.consume(options, {
              ...sink,
              offer: (lease, batch) => {
                for (const each of batch) {
                  Object.defineProperty(each, "key", {
                    get: () => {
                      throw new Error("unreadable")
                    }
                  })
                }
                return sink.offer(lease, batch)
              }
            })
        })
      })
      const running = yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.sleep("5 seconds")).consumer
      )
      yield* memory.broker.publish(message("a"))
      yield* TestClock.adjust("1 second")
      const exit = yield* Effect.exit(running.health)
      assert.strictEqual(exit._tag, "Success")
      yield* TestClock.adjust("10 seconds")
    }).pipe(Effect.scoped))

  it.effect("F13 a message of a retry channel that cannot be read becomes a dead letter, and those behind it go on", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          consume: (options, sink) =>
            driver.consume(options, {
              ...sink,
              offer: (lease, batch) => {
                for (const each of batch) {
                  if (each.channel.includes("retry") && each.position === 0) {
                    Object.defineProperty(each, "headers", {
                      get: () => {
                        throw new Error("unreadable")
                      }
                    })
                  }
                }
                return sink.offer(lease, batch)
              }
            })
        })
      })
      let handled = 0
      yield* broker.consume(
        Subscription.make(
          Orders,
          { group: "g", name: "s", retries: Retries.delayed(["1 second"]) },
          (delivery) =>
            Effect.suspend(() => {
              if (delivery.attempt === 1) return Effect.fail(new Busy({}))
              handled++
              return Effect.void
            })
        ).consumer
      )
      yield* memory.broker.publishAll([message("a"), message("b"), message("d")])
      yield* TestClock.adjust("20 seconds")
      assert.strictEqual(handled, 2)
      assert.deepStrictEqual(memory.positions("c.g.retry-1", "g.retry-1"), [3])
    }).pipe(Effect.scoped))
})

describe("dead letters", () => {
  it.effect("F22 a dead letter that is parked is shown as waiting again while the broker is away", () =>
    Effect.gen(function*() {
      let reason: "TooLarge" | "Unreachable" = "TooLarge"
      const { broker } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          publish: (batch) => isLetter(batch) ? Effect.fail(refusal(reason)) : driver.publish(batch)
        })
      })
      const running = yield* broker.consume(
        Subscription.make(Orders, { group: "g", name: "s", grace: { drain: 0 } }, () => Effect.die("x")).consumer
      )
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* running.health).lanes[0]!.state, "parked")
      reason = "Unreachable"
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual((yield* running.health).lanes[0]!.state, "dead letter")
      yield* Effect.forkChild(running.drain)
      yield* TestClock.adjust("5 seconds")
    }).pipe(Effect.scoped))
})

describe("drains", () => {
  it.effect("wait for the hooks of a message whose lease was lost before", () =>
    Effect.gen(function*() {
      let isReleased = false
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, (delivery) => {
        delivery.after(() => Effect.andThen(Effect.sleep("2 seconds"), Effect.sync(() => void (isReleased = true))))
        return Effect.never
      })
      const scope = yield* Scope.make()
      const running = yield* Scope.provide(broker.consume(subscription.consumer), scope)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust(10)
      yield* memory.stop
      yield* TestClock.adjust(1500)
      const drain = yield* Effect.forkChild(running.drain)
      yield* TestClock.adjust(100)
      assert.isUndefined(drain.pollUnsafe())
      yield* TestClock.adjust("5 seconds")
      assert.isTrue(isReleased)
      yield* Fiber.join(drain)
      yield* Scope.close(scope, Exit.void)
    }))
})

describe("watching for stalls", () => {
  it.effect("ends with the drain, also where a handler ends later", () =>
    Effect.gen(function*() {
      const warnings = lines("Warn")
      yield* Effect.gen(function*() {
        const { broker } = yield* altered({ partitions: 1 }, {})
        const subscription = Subscription.make(Orders, { group: "g", name: "s", grace: { drain: 0 } }, (delivery) => {
          delivery.after(() => Effect.never)
          return Effect.uninterruptible(Effect.sleep("5 seconds"))
        })
        const running = yield* broker.consume(subscription.consumer)
        yield* broker.publish(message("a"))
        yield* TestClock.adjust(10)
        const drain = yield* Effect.forkChild(running.drain)
        yield* TestClock.adjust("1 hour")
        yield* Fiber.join(drain)
        assert.deepStrictEqual(warnings.found.filter((line) => line.includes("stuck")), [])
      }).pipe(Effect.provide(warnings.layer), Effect.scoped)
    }))
})

describe("a message that the broker delays", () => {
  it.effect("F11 is handed to the driver with the number of its next attempt, which a driver writes beside it", () =>
    Effect.gen(function*() {
      const told: Array<readonly [attempt: number, next: number]> = []
      const { broker } = yield* altered({ partitions: 1, settlement: "message" }, {
        lease: (lease) => ({
          ...lease,
          settle: (batch) => {
            for (const { delivery, outcome } of batch) {
              if (outcome._tag === "Retry") told.push([told.length + 1, delivery.attempts])
            }
            return lease.settle!(batch)
          }
        })
      })
      const options = { group: "g", name: "s", lanes: Lanes.unordered(4), backoff: { base: 10 } }
      const attempts: Array<number> = []
      const { consumer } = Subscription.make(Orders, options, (delivery) => {
        attempts.push(delivery.attempt)
        return delivery.attempt < 4 ? Effect.fail({ _tag: "Busy", failure: "transient" } as const) : Effect.void
      })
      yield* broker.consume(consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([attempts, told], [[1, 2, 3, 4], [[1, 2], [2, 3], [3, 4]]])
    }).pipe(Effect.scoped))
})
