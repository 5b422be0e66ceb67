import { assert, describe, it } from "vitest"
import { attacks } from "./attacks.ts"
import { names, run } from "./hostile.ts"

// `pnpm hostile` does it for ten minutes
describe("hostile clients", { timeout: 180_000 }, () => {
  it.concurrent.each(names)(
    "W12 W4 W10 %s answers a quiet client beside them, and holds nothing of them",
    async (name) => {
      const { after, attacked, before, beside } = await run({ name, seconds: 20, connections: 16 })
      assert.sameMembers(Object.keys(attacked), Object.keys(attacks))
      assert.isAbove(beside.asked, 0)
      assert.deepStrictEqual(beside.wrong, [])
      // the fibers of attacks were seen, and have ended
      assert.isAbove(after.mostFibers, 1)
      assert.isAtMost(after.fibers, before.fibers)
      assert.isAtMost(after.descriptors, before.descriptors)
      // a leak of an attack is many times as much
      assert.isBelow(after.heap - before.heap, 16 * 1024 * 1024)
    }
  )
})
