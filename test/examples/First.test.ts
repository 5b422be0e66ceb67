import { assert, describe, it } from "vitest"
import { collect, expectedOutput } from "../repo/fences.ts"
import { read, run } from "../repo/workspace.ts"

const file = "examples/00-first/main.ts"

describe("the first program", () => {
  it("T17 prints what it says that it prints", { timeout: 120_000 }, async () => {
    const expected = expectedOutput(read(file))
    const { code, output } = await run(process.execPath, [file])
    assert.isAbove(expected.length, 2)
    // the engine's Warn line of the dead letter has a time
    const warning = /^\[[\d:.]+\] WARN [^]*?^\}\n/m
    assert.match(output, warning)
    assert.strictEqual(output.replace(warning, ""), `${expected.join("\n")}\n`)
    assert.strictEqual(code, 0)
  })

  it("has at most 40 lines", () => {
    assert.isAtMost(read(file).trimEnd().split("\n").length, 40)
  })
})

describe("the README", () => {
  it("shows the first program as it is", () => {
    const shown = collect().fences.find((fence) => fence.file === "README.md" && fence.code.includes("runPromise"))
    assert.strictEqual(`${shown?.code}\n`, read(file))
  })
})
