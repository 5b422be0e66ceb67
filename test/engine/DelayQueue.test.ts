import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { DelayQueue, isDue } from "../../packages/core/src/internal/engine/DelayQueue.ts"

describe("X19 F11 the messages of a retry channel that wait", () => {
  it("F11 a time has come when less than a hundredth of a millisecond is missing", () => {
    assert.deepStrictEqual([99, 99.98, 99.995, 100, 101].map((now) => isDue(100, now)), [
      false,
      false,
      true,
      true,
      true
    ])
    assert.isFalse(isDue(0.01, 0))
  })

  it("F11 X19 come in the order of their times, those of equal times in the order in which they came, none too early", () => {
    const step = fc.oneof(
      fc.record({ push: fc.array(fc.integer({ min: 0, max: 30 }), { minLength: 1, maxLength: 30 }) }),
      fc.record({ advance: fc.integer({ min: 0, max: 20 }), most: fc.integer({ min: 0, max: 60 }) }),
      fc.record({ drop: fc.integer({ min: 2, max: 5 }) })
    )
    const all = Array.from({ length: 1200 }, (_, position) => Deliveries.make({ position }))
    fc.assert(fc.property(fc.array(step, { maxLength: 30 }), (steps) => {
      const queue = new DelayQueue()
      let model: Array<{ readonly position: number; readonly due: number }> = []
      let next = 0
      let now = 0
      for (const each of steps) {
        if ("push" in each) {
          for (const after of each.push) {
            const position = next++
            queue.push(all[position]!, now + after)
            model.push({ position, due: now + after })
            // sorting is stable
            model.sort((a, b) => a.due - b.due)
          }
        } else if ("drop" in each) {
          queue.drop(({ position }) => position % each.drop === 0)
          model = model.filter(({ position }) => position % each.drop !== 0)
        } else {
          now += each.advance
          for (let i = 0; i < each.most; i++) {
            const isReady = model[0] !== undefined && model[0].due <= now
            assert.strictEqual(queue.shift(now)?.position, isReady ? model.shift()!.position : undefined)
          }
        }
        assert.strictEqual(queue.length, model.length)
        assert.strictEqual(queue.next, model[0]?.due ?? Number.POSITIVE_INFINITY)
      }
    }))
  })
})
