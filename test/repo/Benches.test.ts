import { resolve } from "node:path"
import { assert, describe, it } from "vitest"
import { onServers } from "../bench/benches.ts"
import { run } from "./workspace.ts"

const bench = (...args: ReadonlyArray<string>) => run(process.execPath, ["test/bench/main.ts", ...args])

const listed = async (): Promise<ReadonlyArray<string>> =>
  (await bench()).output.trim().split("\n").map((line) => line.split(" ")[0]!)

describe("benchmarks", { timeout: 300_000 }, () => {
  it("all that need no server run, with few messages", async () => {
    // those on real servers are in Benches.integration.test.ts
    const names = (await listed()).filter((name) => !onServers.includes(name))
    const { code, output } = await bench(...names, "--trial")
    assert.strictEqual(code, 0, output)
    for (const name of names) assert.match(output, new RegExp(`^${name}: \\d+ variants work$`, "m"))
  })

  it("a name that does not exist is refused with those that do", async () => {
    const { code, output } = await bench("nothing")
    assert.strictEqual(code, 2)
    assert.include(output, `no benchmark is called nothing; there are: ${(await listed()).join(", ")}`)
  })

  it("another checkout is measured in turn with this one, and what is none is refused", async () => {
    const folder = resolve(import.meta.dirname, "../..")
    const { code, output } = await bench("keyed", "--rounds", "1", "--trial", "--against", folder)
    assert.strictEqual(code, 0, output)
    assert.match(output, /^1 ms, by key +CPU us\/message +[\d.]+ +[\d.]+ +\d+\.\d\d$/m)
    assert.notInclude(output, "one after another")
    const nowhere = await bench("keyed", "--against", "/nowhere")
    assert.strictEqual(nowhere.code, 2)
    assert.include(nowhere.output, "--against must be a checkout of Millrace, got /nowhere")
  })

  it("options that do not exist, or are out of range, are refused with the usage", async () => {
    const unknown = await bench("--fast")
    assert.strictEqual(unknown.code, 2)
    assert.include(unknown.output, "Usage: pnpm bench")
    const rounds = await bench("dispatch", "--rounds", "0")
    assert.strictEqual(rounds.code, 2)
    assert.include(rounds.output, "--rounds must be an integer from 1, got 0")
  })
})
