import { assert, describe, it } from "vitest"
import { names } from "@millrace/examples/09-workflows/engines.ts"
import { run } from "../repo/workspace.ts"

const main = "examples/09-workflows/main.ts"

describe("messages that start workflows", { timeout: 300_000 }, () => {
  it.each(names)("T5 T17 --engine %s runs each order once, inline or by workflow", async (name) => {
    const { code, output } = await run(process.execPath, [main, "--engine", name, "--orders", "100"])
    assert.include(output, "simple: handled 110\n")
    assert.include(output, "with workflow: 100 started, 10 duplicates\n")
    assert.include(output, "advanced: 59 inline, 40 by workflow, 0 duplicates, ")
    assert.strictEqual(code, 0)
  })
})
