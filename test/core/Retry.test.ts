import { assert, describe, it } from "@effect/vitest"
import {
  DeadLetter,
  type Failure,
  type Handler,
  type Message,
  Order,
  Outgoing,
  Retry,
  Stack,
  Timeout
} from "@millrace/core"
import {
  Cause,
  Clock,
  Context,
  Data,
  Duration,
  Effect,
  Exit,
  Fiber,
  Metric,
  pipe,
  Random,
  Schedule,
  type Tracer
} from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

class Flaky extends Data.TaggedError("Flaky")<{ readonly at?: number }> {}
class Failed extends Data.TaggedError("Failed")<{
  readonly failure: Failure.FailureClass
  readonly retryAfter?: Duration.Duration
}> {}

/** A handler that fails as told, and the times at which it was called. */
const failing = <E>(fail: (attempt: number) => Effect.Effect<string, E>) => {
  const calls: Array<number> = []
  const handler = (_: Message<unknown>) => Effect.flatMap(Clock.currentTimeMillis, (now) => fail(calls.push(now)))
  return { calls, handler }
}

const flaky = (times: number) =>
  failing((attempt) => attempt <= times ? Effect.fail(new Flaky({})) : Effect.succeed("done"))

/** Runs a chain while the clock jumps ahead as far as anybody waits. */
const settle = <A, E, R>(handler: Handler<Message<Uint8Array>, A, E, R>, holdLimit = Infinity) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(runChain(handler, deliver({ holdLimit })), { startImmediately: true })
    yield* TestClock.adjust("1 day")
    return yield* Fiber.join(fiber)
  })

const even = Retry.exponential({ jitter: 0 })

describe("Retry", () => {
  it.effect("F11, F19 retries 3 times, after 1, 2 and 4 seconds, and fails with the last error", () =>
    Effect.gen(function*() {
      const { calls, handler } = failing((attempt) => Effect.fail(new Flaky({ at: attempt })))
      const exit = yield* settle(pipe(handler, Retry.middleware({ schedule: even })))
      assert.deepStrictEqual(calls, [0, 1000, 3000, 7000])
      assert.deepStrictEqual(exit, Exit.fail(new Flaky({ at: 4 })))
    }))

  describe("telemetry", () => {
    const counts = Effect.map(
      Metric.snapshot,
      (all) =>
        all.filter(({ id }) => id === "millrace.retries").map(({ attributes, state }) => [
          attributes?.["messaging.destination.name"] ?? attributes?.["http.route"],
          attributes?.["error.type"],
          "count" in state ? state.count : 0
        ])
    )
    const fresh = <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Effect.suspend(() => Effect.provideService(self, Metric.MetricRegistry, new Map()))

    it.effect("F11 each retry is counted by channel and error, and is an event on the current span", () =>
      fresh(Effect.gen(function*() {
        const { handler } = failing((attempt) =>
          attempt === 1
            ? Effect.fail(new Flaky({}))
            : attempt === 2
            ? Effect.die(new TypeError("no"))
            : Effect.succeed("")
        )
        const span = yield* Effect.makeSpan("process")
        yield* Effect.withParentSpan(
          settle(pipe(handler, Retry.middleware({ schedule: even, defects: "retry" }))),
          span
        )
        assert.deepStrictEqual(yield* counts, [["orders", "Flaky", 1], ["orders", "TypeError", 1]])
        assert.deepStrictEqual((span as Tracer.NativeSpan).events, [
          ["millrace.retry", 0n, {
            "millrace.retry.attempt": 2,
            "millrace.retry.delay": 1,
            "error.type": "Flaky"
          }],
          ["millrace.retry", 1_000_000_000n, {
            "millrace.retry.attempt": 3,
            "millrace.retry.delay": 2,
            "error.type": "TypeError"
          }]
        ])
      })))

    it.effect("F11 neither a success nor the last failure is counted", () =>
      fresh(Effect.gen(function*() {
        yield* settle(pipe(flaky(0).handler, Retry.middleware({ schedule: even })))
        assert.deepStrictEqual(yield* counts, [])
        yield* settle(pipe(flaky(99).handler, Retry.middleware({ schedule: even })))
        assert.deepStrictEqual(yield* counts, [["orders", "Flaky", 3]])
      })))

    it.effect("F11 a span that throws changes nothing", () =>
      fresh(Effect.gen(function*() {
        const span = yield* Effect.makeSpan("process")
        ;(span as Tracer.NativeSpan).event = () => {
          throw new Error("no")
        }
        const { calls, handler } = flaky(1)
        const exit = yield* Effect.withParentSpan(
          settle(pipe(handler, Retry.middleware({ schedule: even }))),
          span
        )
        assert.deepStrictEqual(exit, Exit.succeed("done"))
        assert.strictEqual(calls.length, 2)
      })))
  })

  it.effect("F11 stops at the first success", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(2)
      assert.deepStrictEqual(yield* settle(pipe(handler, Retry.middleware({ schedule: even }))), Exit.succeed("done"))
      assert.deepStrictEqual(calls, [0, 1000, 3000])
    }))

  it.effect("F11 the waits grow by the factor up to the cap", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(99)
      const schedule = Retry.exponential({ times: 5, base: "10 seconds", factor: 3, cap: "1 minute", jitter: 0 })
      yield* settle(pipe(handler, Retry.middleware({ schedule })))
      assert.deepStrictEqual(calls, [0, 10_000, 40_000, 100_000, 160_000, 220_000])
    }))

  it("F11 jitter keeps each wait within its part", () =>
    fc.assert(
      fc.property(fc.string(), fc.double({ min: 0, max: 1, noNaN: true }), (seed, jitter) => {
        const waits = Effect.runSync(
          Effect.gen(function*() {
            const step = yield* Schedule.toStep(Retry.exponential({ jitter }))
            const first = yield* step(0, undefined)
            const second = yield* step(0, undefined)
            return [Duration.toMillis(first[1]), Duration.toMillis(second[1])] as const
          }).pipe(Random.withSeed(seed))
        )
        assert.isAtMost(Math.abs(waits[0] - 1000), 1000 * jitter + 1e-6)
        assert.isAtMost(Math.abs(waits[1] - 2000), 2000 * jitter + 1e-6)
      })
    ))

  it.effect("F11 jitter is there by default, and comes from Random", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(1)
      yield* settle(pipe(handler, Retry.middleware())).pipe(Random.withSeed("a"))
      assert.notStrictEqual(calls[1], 1000)
      assert.isAtLeast(calls[1]!, 800)
      assert.isAtMost(calls[1]!, 1200)
    }))

  it.effect("F11 any schedule of Effect's serves, and starts anew for each message", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(99)
      const chain = pipe(handler, Retry.middleware({ schedule: Schedule.fibonacci("1 second"), times: 4 }))
      yield* settle(chain)
      assert.deepStrictEqual(calls, [0, 1000, 2000, 4000, 7000])
      const start = yield* Clock.currentTimeMillis
      yield* settle(chain)
      assert.deepStrictEqual(calls.slice(5).map((at) => at - start), [0, 1000, 2000, 4000, 7000])
    }))

  it.effect("F11 times alone changes the default schedule", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(99)
      yield* settle(pipe(handler, Retry.middleware({ times: 5 })))
      assert.strictEqual(calls.length, 6)
    }))

  it.effect.each(
    [
      ["transient", 4],
      ["timeout", 4],
      ["dependency", 4],
      ["conflict", 4],
      ["throttled", 4],
      ["permanent", 1],
      ["auth", 1],
      ["validation", 1],
      ["poison", 1],
      ["defect", 1]
    ] as const
  )("F11 what is retried follows from the class: %s", ([failure, expected]) =>
    Effect.gen(function*() {
      const { calls, handler } = failing(() => Effect.fail(new Failed({ failure })))
      yield* settle(pipe(handler, Retry.middleware()))
      assert.strictEqual(calls.length, expected)
    }))

  it.effect("F11 `while` names tags and classes, and nothing else is retried", () =>
    Effect.gen(function*() {
      const run = (error: Flaky | Failed, filter: Retry.Filter) => {
        const { calls, handler } = failing(() => Effect.fail(error))
        return Effect.map(settle(pipe(handler, Retry.middleware({ while: filter }))), () => calls.length)
      }
      assert.strictEqual(yield* run(new Flaky({}), { tags: ["Flaky"] }), 4)
      assert.strictEqual(yield* run(new Flaky({}), { tags: ["Other"] }), 1)
      assert.strictEqual(yield* run(new Flaky({}), { classes: ["transient"] }), 1)
      assert.strictEqual(yield* run(new Failed({ failure: "auth" }), { classes: ["auth"] }), 4)
      assert.strictEqual(yield* run(new Failed({ failure: "timeout" }), { tags: ["Flaky"], classes: ["auth"] }), 1)
    }))

  it.effect("F11 a function decides by the error's fields", () =>
    Effect.gen(function*() {
      const { calls, handler } = failing((attempt) => Effect.fail(new Flaky({ at: attempt })))
      const exit = yield* settle(pipe(handler, Retry.when((error) => error.at !== 3)))
      assert.strictEqual(calls.length, 3)
      assert.deepStrictEqual(exit, Exit.fail(new Flaky({ at: 3 })))
    }))

  it.effect("F11 a defect is retried only where that is asked for", () =>
    Effect.gen(function*() {
      const dying = () => {
        const calls: Array<number> = []
        return {
          calls,
          handler: (_: Message<unknown>): Effect.Effect<string, Flaky> => {
            calls.push(0)
            throw new Error("broken")
          }
        }
      }
      const passes = dying()
      const exit = yield* settle(pipe(passes.handler, Retry.middleware()))
      assert.strictEqual(passes.calls.length, 1)
      assert(exit._tag === "Failure" && exit.cause.reasons[0]?._tag === "Die")
      const retries = dying()
      yield* settle(pipe(retries.handler, Retry.middleware({ defects: "retry" })))
      assert.strictEqual(retries.calls.length, 4)
    }))

  it.effect("F11 an interruption is never retried", () =>
    Effect.gen(function*() {
      const { calls, handler } = failing((): Effect.Effect<string, Flaky> => Effect.interrupt)
      const exit = yield* settle(pipe(handler, Retry.middleware({ defects: "retry" })))
      assert.strictEqual(calls.length, 1)
      assert(exit._tag === "Failure" && Cause.hasInterrupts(exit.cause))
    }))

  it.effect("F11 the wait can be interrupted", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(99)
      const fiber = yield* Effect.forkChild(runChain(pipe(handler, Retry.middleware()), deliver()), {
        startImmediately: true
      })
      yield* TestClock.adjust("100 millis")
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("1 day")
      assert.strictEqual(calls.length, 1)
    }))

  it.effect("F11 never waits past the limit after which the broker gives the message away", () =>
    Effect.gen(function*() {
      const { calls, handler } = failing((attempt) => Effect.fail(new Flaky({ at: attempt })))
      const schedule = Schedule.spaced("2 minutes")
      const exit = yield* settle(pipe(handler, Retry.middleware({ schedule })), 300_000)
      assert.deepStrictEqual(calls, [0, 120_000, 240_000])
      assert.deepStrictEqual(exit, Exit.fail(new Flaky({ at: 3 })))
    }))

  it.effect("F11 counts what the attempts themselves take, and what the next one may take", () =>
    Effect.gen(function*() {
      const { calls, handler } = failing(() => Effect.andThen(Effect.sleep("1 minute"), Effect.fail(new Flaky({}))))
      yield* settle(pipe(handler, Retry.middleware({ schedule: Schedule.spaced("1 minute") })), 300_000)
      // 0 to 60 s, 120 to 180 s, and 240 to 300 s just fits
      assert.deepStrictEqual(calls, [0, 120_000, 240_000])
      const tight = failing(() => Effect.andThen(Effect.sleep("1 minute"), Effect.fail(new Flaky({}))))
      yield* settle(pipe(tight.handler, Retry.middleware({ schedule: Schedule.spaced("1 minute") })), 299_999)
      assert.strictEqual(tight.calls.length, 2)
    }))

  it("F11 no history of failing attempts ends after the hold limit", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 0, max: 60_000 }), { minLength: 1, maxLength: 20 }),
        fc.integer({ min: 1, max: 120_000 }),
        fc.integer({ min: 1000, max: 400_000 }),
        (waits, taken, limit) =>
          Effect.runPromise(
            Effect.gen(function*() {
              const { handler } = failing(() =>
                Effect.andThen(Effect.sleep(Math.min(taken, limit)), Effect.fail(new Flaky({})))
              )
              let ended = 0
              const schedule = Schedule.fromStep(
                Effect.sync(() => {
                  let at = 0
                  return () =>
                    Effect.succeed([0, Duration.millis(waits[at++ % waits.length]!)] as [number, Duration.Duration])
                })
              )
              const chain = pipe(handler, Retry.middleware({ schedule, times: 50 }))
              yield* settle(
                (message: Message<Uint8Array>) =>
                  Effect.ensuring(chain(message), Effect.map(Clock.currentTimeMillis, (now) => ended = now)),
                limit
              )
              assert.isAtMost(ended, limit)
            }).pipe(Effect.provide(TestClock.layer()))
          )
      ),
      { numRuns: 100 }
    ))

  it.effect("F11 maximumElapsed ends it early", () =>
    Effect.gen(function*() {
      const { calls, handler } = flaky(99)
      yield* settle(pipe(handler, Retry.middleware({ schedule: even, maximumElapsed: "3 seconds" })))
      assert.deepStrictEqual(calls, [0, 1000, 3000])
    }))

  it.effect("F11 what names its own time is waited for if short, and goes back to the source if long", () =>
    Effect.gen(function*() {
      const run = (retryAfter: Duration.Duration, options?: Retry.Options) => {
        const { calls, handler } = failing((attempt) =>
          attempt > 1 ? Effect.succeed("done") : Effect.fail(new Failed({ failure: "throttled", retryAfter }))
        )
        return Effect.map(settle(pipe(handler, Retry.middleware({ schedule: even, ...options }))), (exit) => ({
          calls: calls.map((at) => at - calls[0]!),
          exit: exit._tag
        }))
      }
      assert.deepStrictEqual(yield* run(Duration.seconds(10)), { calls: [0, 10_000], exit: "Success" })
      assert.deepStrictEqual(yield* run(Duration.millis(10)), { calls: [0, 1000], exit: "Success" })
      assert.deepStrictEqual(yield* run(Duration.seconds(31)), { calls: [0], exit: "Failure" })
      assert.deepStrictEqual(yield* run(Duration.seconds(31), { maximumElapsed: "1 minute" }), {
        calls: [0, 31_000],
        exit: "Success"
      })
      assert.deepStrictEqual(yield* run(Duration.seconds(10), { maximumElapsed: "9 seconds" }), {
        calls: [0],
        exit: "Failure"
      })
    }))

  it.effect("F11 a handler reads the number of its attempt", () =>
    Effect.gen(function*() {
      const attempts: Array<number> = []
      const handler = (_: Message<unknown>) =>
        Effect.flatMap(Retry.Attempt, (attempt): Effect.Effect<void, Flaky> => {
          attempts.push(attempt)
          return Effect.fail(new Flaky({}))
        })
      yield* settle(pipe(handler, Retry.middleware()))
      assert.deepStrictEqual(attempts, [1, 2, 3, 4])
      assert.strictEqual(yield* Retry.Attempt, 1)
    }))

  it.effect("F11 each attempt has its own time-out inside", () =>
    Effect.gen(function*() {
      const { calls, handler } = failing((attempt): Effect.Effect<string> =>
        attempt < 3 ? Effect.never : Effect.succeed("done")
      )
      const chain = pipe(handler, Timeout.middleware({ after: "5 seconds" }), Retry.middleware({ schedule: even }))
      assert.deepStrictEqual(yield* settle(chain), Exit.succeed("done"))
      assert.deepStrictEqual(calls, [0, 6000, 13_000])
    }))

  it.effect("F11 a schedule's own needs and errors are the chain's", () =>
    Effect.gen(function*() {
      class Limit extends Context.Service<Limit, number>()("test/Limit") {}
      const schedule = Schedule.spaced("1 second").pipe(
        Schedule.while(({ attempt }) =>
          Effect.flatMap(Limit, (limit) => attempt < limit ? Effect.succeed(true) : Effect.fail("spent" as const))
        )
      )
      const { calls, handler } = flaky(99)
      const exit = yield* settle(pipe(handler, Retry.middleware({ schedule }))).pipe(Effect.provideService(Limit, 3))
      assert.strictEqual(calls.length, 3)
      assert.deepStrictEqual(exit, Exit.fail("spent"))
    }))

  it.effect("X1 it retries a publish as it retries a handler", () =>
    Effect.gen(function*() {
      let calls = 0
      const publish = (_: Outgoing<string>) => ++calls < 3 ? Effect.fail(new Flaky({})) : Effect.void
      const chain = pipe(publish, Retry.middleware({ schedule: even }))
      const fiber = yield* Effect.forkChild(
        Effect.suspend(() => chain(new Outgoing("orders", "a", undefined, {}))),
        { startImmediately: true }
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.strictEqual(calls, 3)
    }))

  it("F11 options out of range are refused by name", () => {
    assert.throws(() => Retry.middleware({ times: 0 }), RangeError, "Retry: times must be an integer from 1, got 0")
    assert.throws(() => Retry.middleware({ maximumElapsed: -1 }), RangeError, "Retry: maximumElapsed")
    assert.throws(() => Retry.exponential({ times: 1.5 }), RangeError, "Retry: times")
    assert.throws(
      () => Retry.exponential({ factor: 0.5 }),
      RangeError,
      "Retry: factor must be a number from 1, got 0.5"
    )
    assert.throws(() => Retry.exponential({ jitter: 2 }), RangeError, "Retry: jitter must be from 0 to 1, got 2")
    assert.throws(
      () => Retry.middleware({ while: { classes: ["fatal" as "auth"] } }),
      RangeError,
      "Retry: each of while.classes must be \"transient\""
    )
  })

  it("F16 DeadLetter inside Retry is refused by a sentence that names both", () => {
    const { handler } = flaky(1)
    const wrong = pipe(handler, DeadLetter.tags("Other"), Retry.middleware())
    assert.throws(() => Order.check(wrong), Order.OrderError, "DeadLetter must stand outside Retry, not inside it: ")
    const right = Stack.start<Message<Uint8Array>>().use(DeadLetter.tags("Other")).use(Retry.middleware())
    assert.doesNotThrow(() => Order.check(right.handle(handler)))
  })
})
