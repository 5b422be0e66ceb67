import { assert, describe, it } from "vitest"
import { run } from "../repo/workspace.ts"

describe("X20 Millrace beside a framework, without Effect", { timeout: 60_000 }, () => {
  it.each(["express", "nest"])(
    "X4 an order placed by a route of %s is charged, after a connection was reset",
    async (name) => {
      const { code, output } = await run(process.execPath, ["examples/07-plain/main.ts", name])
      assert.include(output, "202 {\"accepted\":\"o-1\"}\n")
      assert.include(output, "charged 3 for o-1\n")
      assert.strictEqual(code, 0)
    }
  )
})
