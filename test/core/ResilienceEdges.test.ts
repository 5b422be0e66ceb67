import { assert, describe, it } from "@effect/vitest"
import { type Delivery, Hedge } from "@millrace/core"
import { Circuit } from "@millrace/core/circuit"
import { Effect, Fiber, pipe } from "effect"
import { TestClock } from "effect/testing"
import { deliver } from "./support.ts"

describe("edges of breakers and hedges", () => {
  it("X12 probes that have answered count among the probes that a half-open circuit lets in", () => {
    const policy = {
      trip: { _tag: "consecutive", failures: 1 },
      openFor: 10,
      maximumOpenFor: 10,
      probes: 2
    } as const
    const circuit = new Circuit("it", policy, 0, () => {})
    circuit.record(circuit.era, "fails", () => 0, undefined)
    assert.strictEqual(circuit.admit(10, undefined), 0)
    circuit.record(circuit.era, "answers", () => 10, undefined)
    assert.strictEqual(circuit.state, "half-open")
    assert.strictEqual(circuit.admit(10, undefined), 0)
    assert.isAbove(circuit.admit(10, undefined), 0)
  })

  it.effect("X12 the loser of a hedge has ended when the answer comes, also where the caller goes on", () =>
    Effect.gen(function*() {
      const ended: Array<number> = []
      let calls = 0
      const handler = pipe(
        (_: Delivery) => {
          const at = calls++
          return Effect.onExit(Effect.sleep(at === 0 ? "1 hour" : "1 second"), () => Effect.sync(() => ended.push(at)))
        },
        Hedge.middleware({ idempotent: true, after: 10 })
      )
      const seen = yield* Effect.forkChild(
        Effect.map(Effect.suspend(() => handler(deliver())), () => [...ended]).pipe(Effect.provide(Hedge.layer))
      )
      yield* TestClock.adjust("1 minute")
      assert.sameMembers(yield* Fiber.join(seen), [0, 1])
    }))
})
