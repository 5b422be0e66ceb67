import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { setFlagsFromString } from "node:v8"
import { runInNewContext } from "node:vm"
import { Fifo } from "../../packages/core/src/engine/Fifo.ts"

setFlagsFromString("--expose-gc")
const collectGarbage: () => void = runInNewContext("gc")

type Step = readonly ["push" | "unshift" | "shift" | "drop" | "peek", number]

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.tuple(fc.constant("push" as const), fc.integer({ min: 1, max: 60 })) },
  { weight: 3, arbitrary: fc.tuple(fc.constant("shift" as const), fc.integer({ min: 1, max: 60 })) },
  { weight: 1, arbitrary: fc.tuple(fc.constant("unshift" as const), fc.integer({ min: 1, max: 3 })) },
  { weight: 1, arbitrary: fc.tuple(fc.constant("drop" as const), fc.integer({ min: 2, max: 4 })) },
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

  it("X19 holds nothing that it gave out or dropped", async () => {
    const fifo = new Fifo<object>()
    const refs = Array.from({ length: 4 }, () => {
      const item = {}
      fifo.push(item)
      return new WeakRef(item)
    })
    fifo.shift()
    const second = fifo.peek()
    fifo.drop((item) => item === second)
    for (let turn = 0; turn < 2; turn++) {
      await new Promise<void>((resolve) => setImmediate(resolve))
      collectGarbage()
    }
    assert.deepStrictEqual(refs.slice(2).map((ref) => ref.deref() !== undefined), [true, true])
    assert.strictEqual(refs[0]!.deref(), undefined)
    assert.strictEqual(fifo.length, 2)
  })
})
