import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { Fifo } from "../../packages/core/src/internal/engine/Fifo.ts"
import { collectGarbage } from "./collectGarbage.ts"

type Step = readonly ["push" | "unshift" | "shift" | "drop" | "peek" | "insert", number]

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.constant("push" as const), fc.integer({ min: 1, max: 60 })) },
  { weight: 3, arbitrary: fc.tuple(fc.constant("shift" as const), fc.integer({ min: 1, max: 60 })) },
  { weight: 1, arbitrary: fc.tuple(fc.constant("unshift" as const), fc.integer({ min: 1, max: 3 })) },
  { weight: 1, arbitrary: fc.tuple(fc.constant("drop" as const), fc.integer({ min: 2, max: 4 })) },
  { weight: 1, arbitrary: fc.tuple(fc.constant("insert" as const), fc.integer({ min: 1, max: 20 })) },
  { weight: 1, arbitrary: fc.tuple(fc.constant("peek" as const), fc.constant(1)) }
)

describe("X19 a queue of the engine", () => {
  it("X3 X19 is a list: in at the end or the front, out at the front, and nothing else of it is lost", () => {
    fc.assert(fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const fifo = new Fifo<number>()
      let model: Array<number> = []
      let next = 0
      for (const [name, count] of steps) {
        if (name === "drop") {
          fifo.drop((item) => item % count === 0)
          model = model.filter((item) => item % count !== 0)
        } else if (name === "insert") {
          const at = model.findLastIndex((item) => item < next - count) + 1
          fifo.insert(next, (item) => item >= next - count)
          model.splice(at, 0, next++)
        } else if (name === "peek") assert.strictEqual(fifo.peek(), model[0])
        else {
          for (let i = 0; i < count; i++) {
            if (name === "push") model.push(next)
            if (name === "push") fifo.push(next++)
            if (name === "unshift") model.unshift(next)
            if (name === "unshift") fifo.unshift(next++)
            if (name === "shift") assert.strictEqual(fifo.shift(), model.shift())
          }
        }
        assert.strictEqual(fifo.length, model.length)
        assert.deepStrictEqual([...fifo], model)
      }
    }))
  })

  for (const [name, isDropped] of [["gave out", false], ["dropped", true]] as const) {
    it(`X19 holds nothing that it ${name}`, async () => {
      const fifo = new Fifo<object>()
      const refs = Array.from({ length: 4 }, () => {
        const item = {}
        fifo.push(item)
        return new WeakRef(item)
      })
      if (isDropped) fifo.drop((item) => item === refs[0]!.deref())
      else fifo.shift()
      for (let turn = 0; turn < 2; turn++) {
        await new Promise<void>((resolve) => setImmediate(resolve))
        collectGarbage()
      }
      assert.deepStrictEqual(refs.map((ref) => ref.deref() !== undefined), [false, true, true, true])
      assert.strictEqual(fifo.length, 3)
    })
  }

  it("X19 takes no more room for the items that have left, though it is never empty", () => {
    const fifo = new Fifo<number>()
    fifo.push(0)
    collectGarbage()
    const before = process.memoryUsage().heapUsed
    for (let i = 0; i < 1_000_000; i++) {
      fifo.push(i)
      fifo.shift()
    }
    collectGarbage()
    // the places of a million items take 8 MB
    assert.isBelow(process.memoryUsage().heapUsed - before, 2_000_000)
    assert.strictEqual(fifo.length, 1)
  })
})
