import { Eager, type Envelope, Failure, Settlement, Timeout } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { deliver, runChain } from "./support.ts"

const after = Duration.seconds(5)
const late = Exit.fail(new Timeout.TimeoutExceeded({ channel: "orders", after }))

describe("Timeout", () => {
  it.effect("F19 a handler that is slower than the limit is interrupted then, and its message goes back to the source", () =>
    Effect.gen(function*() {
      let interruptedAt = -1
      const clock = yield* TestClock.testClockWith(Effect.succeed)
      const slow = (_message: Envelope) =>
        Effect.onInterrupt(Effect.sleep("1 minute"), () =>
          Effect.sync(() => {
            interruptedAt = clock.currentTimeMillisUnsafe()
          }))
      const fiber = yield* Effect.forkChild(runChain(Timeout.middleware({ after })(slow), deliver()))
      yield* TestClock.adjust("4999 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const exit = yield* Fiber.join(fiber)
      assert.deepStrictEqual(exit, late)
      assert.strictEqual(interruptedAt, 5000)
      assert.strictEqual(Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag, "Retry")
    }))

  it.effect("F19 fails exactly when the handler takes longer, and otherwise changes nothing", () =>
    Effect.promise(() =>
      fc.assert(fc.asyncProperty(fc.integer({ min: 0, max: 9999 }), fc.boolean(), async (takes, fails) => {
        fc.pre(takes !== 5000)
        const inner = Effect.andThen(Effect.sleep(takes), fails ? Effect.fail("own") : Effect.succeed("done"))
        const run = Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(runChain(Timeout.middleware({ after })(() => inner), deliver()))
          yield* TestClock.adjust("10 seconds")
          return yield* Fiber.join(fiber)
        }).pipe(Effect.provide(TestClock.layer()))
        const own = fails ? Exit.fail("own") : Exit.succeed("done")
        assert.deepStrictEqual<unknown>(await Effect.runPromise(run), takes < 5000 ? own : late)
      }))
    ))

  it.effect("F19 a request that was sent and must not be sent twice is not tried again after its time", () =>
    Effect.gen(function*() {
      const request = Object.assign(deliver(), { isUnrepeatable: true })
      const fiber = yield* Effect.forkChild(Effect.flip(Timeout.middleware({ after })(() => Effect.never)(request)))
      yield* TestClock.adjust("5 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(Failure.classOf(error), "permanent")
      assert.include(error.message, "was sent and is not sent twice")
    }))

  it.effect("F19 a handler that answers at once starts no timer", () =>
    Effect.gen(function*() {
      const done = Timeout.middleware({ after })(() => Exit.succeed(1))
      assert.isTrue(yield* Effect.sync(() => Eager.isDone(done(deliver()))))
    }))

  it.effect("F19 interrupting the chain interrupts the handler, and is no timeout", () =>
    Effect.gen(function*() {
      let interrupted = 0
      const slow = () => Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
      const fiber = yield* Effect.forkChild(Effect.suspend(() => Timeout.middleware()(slow)(deliver())))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.hasInterrupts(exit))
      assert.strictEqual(interrupted, 1)
    }))

  it("a limit that is not above 0 is refused when the middleware is built", () => {
    for (const wrong of [0, "-1 seconds"] as const) {
      assert.throws(
        () => Timeout.middleware({ after: wrong }),
        RangeError,
        "Timeout: after must be a finite duration from 1 ms"
      )
    }
  })
})
