import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Logger } from "effect"
import { called, fork, isFault, log, logged } from "../../packages/core/src/internal/engine/guard.ts"
import { lines } from "./altered.ts"

/** A logger of a user that throws. */
const broken = Logger.layer([
  Logger.make(() => {
    throw new Error("disk full")
  })
])

class Answer extends Context.Service<Answer, number>()("test/Answer") {}

describe("F13 the guard around code that the engine does not own", () => {
  it.effect("F13 passes on the effect that a call answers; a throw, or another answer, is a defect", () =>
    Effect.gen(function*() {
      const effect = Effect.sleep(1)
      assert.strictEqual(called(() => effect), effect)
      const thrown = called((): Effect.Effect<void> => {
        throw new Error("thrown")
      })
      assert.strictEqual(String(yield* Effect.exit(thrown)), String(Exit.die(new Error("thrown"))))
      // code without types may answer anything
      const untyped: { readonly effect: Effect.Effect<void> } = JSON.parse("{\"effect\": 1}")
      assert.include(String(yield* Effect.exit(called(() => untyped.effect))), "returned a number instead of an Effect")
    }))

  it.effect("F13 writes log lines with the loggers of the context, and drops those of a logger that throws", () =>
    Effect.gen(function*() {
      const warnings = lines("Warn")
      yield* Effect.provide(logged(Effect.logWarning("first")), warnings.layer)
      const second = Effect.map(Effect.context<never>(), (context) => log(context, Effect.logWarning("second")))
      yield* Effect.provide(second, warnings.layer)
      assert.deepStrictEqual(warnings.found, ["first", "second"])
      yield* Effect.provide(logged(Effect.logWarning("third")), broken)
    }))

  it("F13 takes for a fault each failure but a pure interruption", () => {
    const both = Cause.combine(Cause.interrupt(1), Cause.fail("x"))
    const exits = [Exit.void, Exit.fail("x"), Exit.die("x"), Exit.interrupt(1), Exit.failCause(both)]
    assert.deepStrictEqual(exits.map(isFault), [false, true, true, false, true])
  })

  it.effect("F13 tells how a forked effect ended, at once where it has ended already", () =>
    Effect.gen(function*() {
      const context = Context.make(Answer, 42)
      const told: Array<string> = []
      const ended = (exit: Exit.Exit<unknown, unknown>) => void told.push(String(exit))
      assert.isUndefined(fork(context, Exit.fail("x"), ended))
      assert.deepStrictEqual(told, [String(Exit.fail("x"))])
      const gate = Deferred.makeUnsafe<void>()
      const fiber = fork(context, Effect.andThen(Deferred.await(gate), Effect.service(Answer)), ended)
      assert.strictEqual(told.length, 1)
      Deferred.doneUnsafe(gate, Exit.void)
      yield* Effect.yieldNow
      assert.deepStrictEqual([told[1], String(fiber?.pollUnsafe())], [
        String(Exit.succeed(42)),
        String(Exit.succeed(42))
      ])
    }))
})
