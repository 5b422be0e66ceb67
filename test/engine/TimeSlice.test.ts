import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import * as fc from "fast-check"
import { TimeSlice } from "../../packages/core/src/internal/engine/TimeSlice.ts"

/** A slice whose clock moves by hand, and counts how often it is read. */
const make = (start = 1000) =>
  Effect.map(Clock.Clock, (clock) => {
    let now = start
    let reads = 0
    const slice = new TimeSlice({
      ...clock,
      currentTimeMillisUnsafe: () => {
        reads++
        return now
      }
    })
    /** Runs one message; whether the clock was read after it, and whether the slice is over. */
    const run = (millis: number) => {
      now += millis
      const before = reads
      const isOver = slice.isOver()
      return { isOver, isRead: reads > before }
    }
    return { slice, run }
  })

describe("X6 the time slices of the loop", () => {
  it.effect("X6 the clock is read twice as seldom after each quick message that it was read for, down to every 64th", () =>
    Effect.gen(function*() {
      const { run, slice } = yield* make()
      for (let round = 0; round < 2; round++) {
        slice.begin()
        const read: Array<number> = []
        for (let count = 1; count <= 260; count++) if (run(0).isRead) read.push(count)
        assert.deepStrictEqual(read, [1, 3, 7, 15, 31, 63, 127, 191, 255])
      }
    }))

  it.effect("X6 the clock is read after each message once one has taken time", () =>
    Effect.gen(function*() {
      const { run, slice } = yield* make()
      slice.begin()
      for (let count = 1; count <= 7; count++) run(0)
      // messages 8 to 14 go without a look
      assert.deepStrictEqual([run(1).isRead, run(0).isRead], [false, false])
      for (let count = 10; count <= 14; count++) assert.isFalse(run(0).isRead)
      assert.isTrue(run(0).isRead)
      assert.deepStrictEqual(run(0), { isOver: false, isRead: true })
      assert.deepStrictEqual([run(0).isRead, run(0).isRead], [false, true])
    }))

  it.effect("X6 a look at the clock ends the slice from 4 ms on, and no sooner", () =>
    Effect.gen(function*() {
      const plan = fc.record({
        start: fc.integer({ min: 0, max: 1e9 }),
        times: fc.array(fc.constantFrom(0, 0, 0, 0, 0, 1, 2, 3), { minLength: 1, maxLength: 300 })
      })
      let ended = 0
      for (const { start, times } of fc.sample(plan, { numRuns: 100, seed: 7 })) {
        const { run, slice } = yield* make(start)
        slice.begin()
        let spent = 0
        for (const time of times) {
          spent += time
          const { isOver, isRead } = run(time)
          assert.strictEqual(isOver, isRead && spent >= 4)
          assert.strictEqual(slice.isOpen(), spent < 4)
          if (isOver) break
        }
        ended += spent >= 4 ? 1 : 0
      }
      assert.isAbove(ended, 10)
    }))

  it.effect("X4 a slice that is ended is over after the next message, and before the first one begins", () =>
    Effect.gen(function*() {
      const { run, slice } = yield* make(0)
      assert.deepStrictEqual([slice.isOpen(), run(0).isOver], [false, true])
      slice.begin()
      for (let count = 1; count <= 10; count++) assert.isFalse(run(0).isOver)
      slice.end()
      assert.deepStrictEqual([slice.isOpen(), run(0).isOver, run(0).isOver], [false, true, true])
      slice.begin()
      assert.deepStrictEqual([slice.isOpen(), run(0)], [true, { isOver: false, isRead: true }])
    }))
})
