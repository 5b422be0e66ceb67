import { After, type Hook } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Exit } from "effect"
import * as fc from "fast-check"

class HookFailed extends Data.TaggedError("HookFailed")<{ readonly at: number }> {
  readonly failure = "transient" as const
}

const hook = fc.record({
  when: fc.constantFrom("at once", "later", "at its call"),
  fails: fc.boolean()
})

describe("the hooks of a message", () => {
  it("F2 all run to their ends, the last registered first, and the first failure is the answer", () => {
    fc.assert(fc.property(fc.array(hook, { maxLength: 6 }), (all) => {
      const called: Array<number> = []
      const ended = new Set<number>()
      const effects = all.map(({ fails, when }, at) => {
        const end = Effect.suspend(() => {
          ended.add(at)
          return fails ? Exit.fail(new HookFailed({ at })) : Exit.void
        })
        return when === "later" ? Effect.andThen(Effect.yieldNow, end) : end
      })
      const hooks = all.map(({ fails, when }, at): Hook => () => {
        called.push(at)
        if (when === "later") return effects[at]!
        ended.add(at)
        if (when === "at its call" && fails) throw new HookFailed({ at })
        if (when === "at its call") return undefined
        return fails ? Exit.fail(new HookFailed({ at })) : Exit.void
      })
      const after = After.run(hooks, Exit.void, undefined)
      const suspended = all.flatMap(({ when }, at) => when === "later" ? [at] : [])
      const isFailed = all.some(({ fails, when }) => fails && when !== "later")
      // messages that wait for one group commit are told by it
      if (suspended.length === 1 && !isFailed) assert.strictEqual(after, effects[suspended[0]!])
      const exit = Effect.runSyncExit(after)
      assert.deepStrictEqual(called, Array.from(all.keys()).toReversed())
      assert.strictEqual(ended.size, all.length)
      const first = all.findLastIndex(({ fails }) => fails)
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.strictEqual(error instanceof HookFailed ? error.at : -1, first)
    }))
  })
})
