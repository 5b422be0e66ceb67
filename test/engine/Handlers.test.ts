import { Lanes as Kind, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { Handlers } from "../../packages/core/src/internal/engine/Handlers.ts"
import { Lanes } from "../../packages/core/src/internal/engine/Lanes.ts"
import { HeldRetries } from "../../packages/core/src/internal/engine/RetryPolicy.ts"
import { fakeLease } from "./support.ts"

const limits = {
  hold: { attempts: 10, age: 1000, span: 10, retryAfter: 1000 },
  backoff: { base: 1, factor: 1, cap: 1, jitter: 0 },
  retries: { _tag: "held" as const }
}

/** The handlers of a worker under two leases, and all that they tell. */
const make = (kind: Kind.Lanes = Kind.partition) =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const [one, two] = [yield* fakeLease(), yield* fakeLease()]
    const handlers = new Handlers(clock)
    const lanes = new Lanes(kind)
    const policy = new HeldRetries(limits, false, () => 0)
    const [a] = one.take(0)
    const [b] = two.take(1)
    const told: Array<string> = []
    return {
      handlers,
      lanes,
      policy,
      told,
      one: one.state,
      two: two.state,
      a: a!,
      b: b!,
      run: (delivery: typeof a, effect: Effect.Effect<void, string>) =>
        Effect.map(Effect.forkDetach(effect), (fiber) => {
          handlers.running(fiber, delivery!)
          fiber.addObserver((exit) => {
            handlers.ended(fiber)
            told.push(`${delivery!.position} ${exit._tag}, ${Array.from(handlers.inFlight(lanes, policy)).length} left`)
          })
          return fiber
        }),
      wait: (delivery: typeof a, millis: number) =>
        Effect.map(Effect.forkDetach(Effect.sleep(millis)), (timer) =>
          handlers.waiting(timer, delivery!, lanes.hold(delivery!, undefined), () => {
            told.push(`${delivery!.position} again, ${Array.from(handlers.inFlight(lanes, policy)).length} left`)
          }))
    }
  })

describe("X4 X19 the fibers of messages that have started", () => {
  it.effect("X19 nothing is kept of a handler that has ended", () =>
    Effect.gen(function*() {
      const { a, b, handlers, one, run, told, two } = yield* make()
      yield* run(a, Effect.sleep(2))
      yield* TestClock.adjust(1)
      yield* run(b, Effect.andThen(Effect.sleep(2), Effect.fail("x")))
      assert.deepStrictEqual([handlers.oldest(), handlers.leases()], [{ delivery: a, since: 0 }, [one, two]])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([told, handlers.oldest(), handlers.leases()], [
        ["0 Success, 1 left"],
        { delivery: b, since: 1 },
        [two]
      ])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([told[1], handlers.oldest(), handlers.leases()], ["1 Failure, 0 left", undefined, []])
    }))

  it.effect("X4 handlers of a lease are interrupted, and those of no other", () =>
    Effect.gen(function*() {
      const { a, b, handlers, one, run, told } = yield* make()
      const running = yield* run(a, Effect.never)
      const other = yield* run(b, Effect.never)
      handlers.interrupt(one)
      yield* Effect.yieldNow
      assert.deepStrictEqual(told, ["0 Failure, 1 left"])
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(running)))
      assert.isUndefined(other.pollUnsafe())
      yield* Fiber.interrupt(other)
    }))

  it.effect("X4 a handler that suspends when its lease is lost is interrupted, and its end is told", () =>
    Effect.gen(function*() {
      const { a, b, one, run, told } = yield* make()
      one.end()
      const other = yield* run(b, Effect.never)
      yield* run(a, Effect.never)
      yield* Effect.yieldNow
      assert.deepStrictEqual(told, ["0 Failure, 1 left"])
      yield* Fiber.interrupt(other)
    }))

  it.effect("F2 a message that waits runs again at its time; one whose wait is cancelled does not", () =>
    Effect.gen(function*() {
      for (const cancelled of ["none", "one", "all"] as const) {
        const { a, b, handlers, lanes, one, policy, told, wait } = yield* make()
        yield* wait(a, 10)
        yield* wait(b, 20)
        yield* TestClock.adjust(5)
        if (cancelled === "one") handlers.cancel(one)
        if (cancelled === "all") handlers.cancelAll()
        yield* Effect.yieldNow
        const left = Array.from(handlers.inFlight(lanes, policy), ({ delivery }) => delivery.position)
        assert.deepStrictEqual(left, { none: [0, 1], one: [1], all: [] }[cancelled])
        yield* TestClock.adjust(4)
        assert.deepStrictEqual(told, [])
        yield* TestClock.adjust(11)
        assert.deepStrictEqual(
          told,
          { none: ["0 again, 1 left", "1 again, 0 left"], one: ["1 again, 0 left"], all: [] }[cancelled]
        )
        // a message that waits keeps no handler
        assert.deepStrictEqual([handlers.oldest(), handlers.leases()], [undefined, []])
      }
    }))

  it.effect("X19 what is in flight, with the messages behind it and what it has failed with", () =>
    Effect.gen(function*() {
      const { a, b, handlers, lanes, policy, run, wait } = yield* make()
      const since = yield* Clock.currentTimeMillis
      const inFlight = () => Array.from(handlers.inFlight(lanes, policy))
      const running = yield* run(a, Effect.never)
      assert.deepStrictEqual(inFlight(), [{ delivery: a, since, state: "running", behind: 0, error: undefined }])
      lanes.hold(a, undefined)!.queue.push(a)
      yield* TestClock.adjust(7)
      yield* wait(b, 10)
      const first = { delivery: a, since, state: "running" as const, behind: 1, error: undefined }
      const held = { delivery: b, since: since + 7, state: "retry" as const, behind: 0, error: undefined }
      assert.deepStrictEqual(inFlight(), [first, held])
      const verdict = policy.decide(b, Outcome.Retry(), "refused", since + 3)
      if (verdict._tag === "Hold") policy.held(b, verdict)
      lanes.behind(b)!.queue.push(b)
      lanes.behind(b)!.queue.push(b)
      assert.deepStrictEqual(inFlight(), [first, { ...held, since: since + 3, behind: 2, error: "refused" }])
      yield* Fiber.interrupt(running)
    }))

  it.effect("X19 nothing is behind a held message that has no lane", () =>
    Effect.gen(function*() {
      const { a, b, handlers, lanes, policy, wait } = yield* make(Kind.unordered(2))
      yield* wait(a, 10)
      yield* wait(b, 10)
      assert.deepStrictEqual(Array.from(handlers.inFlight(lanes, policy), ({ behind }) => behind), [0, 0])
      yield* TestClock.adjust(10)
    }))
})
