import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"
import { PauseControl } from "../../packages/core/src/internal/engine/PauseControl.ts"

const make = Effect.map(Effect.context<never>(), (context) => {
  const turns: Array<boolean> = []
  return { turns, control: new PauseControl(context, (isOpen) => turns.push(isOpen)) }
})

describe("X19 X4 the pauses of a subscription", () => {
  it.effect("X4 the intake is shut while any owner pauses it, and is told only of changes", () =>
    Effect.gen(function*() {
      const { control, turns } = yield* make
      const [a, b] = [{}, {}]
      control.resume(a)
      control.pause(a, "a")
      control.pause(b, "b", 100)
      assert.deepStrictEqual(control.pauses(), [{ by: "a", until: undefined }, { by: "b", until: 100 }])
      control.resume(a)
      assert.deepStrictEqual(turns, [false])
      yield* TestClock.adjust(99)
      assert.deepStrictEqual(turns, [false])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([turns, control.pauses()], [[false, true], []])
    }))

  it.effect("X4 a later pause of an owner replaces its earlier one, whichever is longer", () =>
    Effect.gen(function*() {
      const { control, turns } = yield* make
      const owner = {}
      control.pause(owner, "first", 100)
      yield* TestClock.adjust(50)
      control.pause(owner, "second", 200)
      assert.deepStrictEqual(control.pauses(), [{ by: "second", until: 250 }])
      yield* TestClock.adjust(199)
      assert.deepStrictEqual(turns, [false])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(turns, [false, true])
      control.pause(owner, "third", 100)
      control.pause(owner, "for good")
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual([turns, control.pauses().length], [[false, true, false], 1])
      // resumed by hand, its timer does not resume a pause that begins later
      control.pause(owner, "fourth", 100)
      control.resume(owner)
      control.pause(owner, "fifth", 1000)
      yield* TestClock.adjust(500)
      assert.deepStrictEqual(turns, [false, true, false, true, false])
    }))

  it.effect("X4 a subscription that has ended neither pauses nor resumes", () =>
    Effect.gen(function*() {
      const { control, turns } = yield* make
      control.pause({}, "before", 100)
      control.pause({}, "for good")
      control.end()
      control.pause({}, "after")
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(turns, [false])
      assert.deepStrictEqual(control.pauses().map(({ by }) => by), ["before", "for good"])
    }))
})
