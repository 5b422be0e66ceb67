import { type Delivery, Hedge } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, pipe } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { deliver } from "./support.ts"

interface Attempt {
  readonly takes: number
  readonly ok: boolean
}

/** A handler whose n-th attempt does what it was told, and what became of each. */
const play = (attempts: ReadonlyArray<Attempt>, options: Partial<Hedge.Options>) => {
  const ended: Array<string> = []
  let calls = 0
  const handler = pipe(
    (_: Delivery): Effect.Effect<number, number> => {
      const at = calls++
      const { ok, takes } = attempts[at] ?? { ok: true, takes: 0 }
      return Effect.andThen(Effect.sleep(takes), ok ? Effect.succeed(at) : Effect.fail(at)).pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            ended[at] = exit._tag === "Success" ? "ok" : exit.cause.reasons[0]?._tag ?? ""
          })
        )
      )
    },
    Hedge.middleware({ idempotent: true, after: 10, name: "it", ...options })
  )
  return { ended, calls: () => calls, call: Effect.suspend(() => handler(deliver())) }
}

const attempt = fc.record({ takes: fc.integer({ min: 1, max: 40 }), ok: fc.boolean() })

const expected = (first: Attempt, second: Attempt) => {
  if (first.takes <= 10) return { calls: 1, at: first.takes, answer: first.ok ? 0 : "fails 0" }
  const ends = [first.takes, 10 + second.takes] as const
  const done = [first, second].map(({ ok }, i) => ok ? ends[i]! : Infinity)
  const at = Math.min(...done)
  return at === Infinity
    ? { calls: 2, at: Math.max(...ends), answer: "fails 0" }
    : { calls: 2, at, answer: done.indexOf(at) }
}

describe("X12 a hedge", () => {
  it("X12 the first success is the answer at its time, the other is interrupted before, nothing runs on", () =>
    fc.assert(
      fc.asyncProperty(attempt, attempt, (first, second) => {
        // both at the same instant may go either way
        fc.pre(first.takes !== 10 && first.takes !== 10 + second.takes)
        return Effect.runPromise(
          Effect.gen(function*() {
            const { call, calls, ended } = play([first, second], {})
            const clock = yield* Clock.Clock
            const began = clock.currentTimeMillisUnsafe()
            let at = 0
            const fiber = yield* Effect.forkChild(
              Effect.onExit(call, () => Effect.sync(() => at = clock.currentTimeMillisUnsafe() - began))
            )
            for (let i = 0; i < 60; i++) yield* TestClock.adjust(1)
            const exit = yield* Fiber.await(fiber)
            const wanted = expected(first, second)
            assert.deepStrictEqual(
              [calls(), at, Exit.isSuccess(exit) ? exit.value : `fails ${yield* Effect.flip(exit)}`],
              [wanted.calls, wanted.at, wanted.answer]
            )
            for (let i = 0; i < calls(); i++) assert.isDefined(ended[i])
          }).pipe(Effect.provide(Layer.mergeAll(Hedge.layer, TestClock.layer())))
        )
      }),
      { numRuns: 200 }
    ))

  it.effect("X12 an interruption ends both attempts, and comes when they have ended", () =>
    Effect.gen(function*() {
      const slow = { ok: true, takes: 1000 }
      const { call, calls, ended } = play([slow, slow], {})
      const fiber = yield* Effect.forkChild(call, { startImmediately: true })
      yield* TestClock.adjust(20)
      assert.strictEqual(calls(), 2)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(ended, ["Interrupt", "Interrupt"])
      const early = play([slow], {})
      const other = yield* Effect.forkChild(early.call, { startImmediately: true })
      yield* TestClock.adjust(5)
      yield* Fiber.interrupt(other)
      assert.deepStrictEqual([early.calls(), early.ended], [1, ["Interrupt"]])
    }).pipe(Effect.provide(Hedge.layer)))

  it.effect("X12 second attempts never cost more than their budget", () =>
    Effect.gen(function*() {
      const total = 500
      const { call, calls } = play(Array.from({ length: 2 * total }, () => ({ ok: true, takes: 25 })), {
        budget: 0.1,
        burst: 5
      })
      for (let i = 0; i < total; i++) {
        const fiber = yield* Effect.forkChild(call, { startImmediately: true })
        yield* TestClock.adjust(50)
        yield* Fiber.join(fiber)
      }
      const [spending] = yield* (yield* Hedge.Budgets).snapshot
      assert.deepInclude(spending, { name: "it", calls: total })
      assert.strictEqual(calls() - total, spending!.hedged)
      assert.isAtMost(spending!.hedged, 5 + total * 0.1)
      assert.isAtLeast(spending!.hedged, total * 0.1)
      assert.strictEqual(spending!.refused, total - spending!.hedged)
    }).pipe(Effect.provide(Hedge.layer)))

  it.effect("X12 counts which attempt gave the answer", () =>
    Effect.gen(function*() {
      const { call } = play([{ ok: true, takes: 100 }, { ok: true, takes: 5 }], {})
      const fiber = yield* Effect.forkChild(call, { startImmediately: true })
      yield* TestClock.adjust(20)
      assert.strictEqual(yield* Fiber.join(fiber), 1)
      assert.deepInclude((yield* (yield* Hedge.Budgets).snapshot)[0], { hedged: 1, won: 1 })
    }).pipe(Effect.provide(Hedge.layer)))

  it("X12 wrong options are refused with their name", () => {
    const build = (options: object) => () => Hedge.middleware({ idempotent: true, ...options })
    assert.throws(build({ idempotent: false }), RangeError, "Hedge: idempotent must be true, got false")
    assert.throws(build({ budget: 0 }), RangeError, "Hedge: budget must be above 0 to 1, got 0")
    assert.throws(build({ burst: 0 }), RangeError, "Hedge: burst must be an integer from 1, got 0")
    // @ts-expect-error nobody hedges without having said that it may happen twice
    assert.throws(() => Hedge.middleware({ after: 1 }), RangeError, "Hedge: idempotent must be true, got undefined")
  })
})
