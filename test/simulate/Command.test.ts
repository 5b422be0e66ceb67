import { assert, describe, it } from "vitest"
import { run } from "../repo/workspace.ts"

const simulate = (...args: ReadonlyArray<string>) => run("node", ["test/simulate/main.ts", ...args])

describe("X16 the simulate command", { timeout: 60_000 }, () => {
  it("X16 replays what a range found, with the same fault and a log that can be read", async () => {
    const found = await simulate("--plant", "two-calls-at-once", "--seeds", "1000")
    assert.strictEqual(found.code, 1)
    const [, seed, fault] = /^seed (\d+) does not hold\n {2}(.+)$/m.exec(found.output)!
    assert.include(found.output, `again: npx -y pnpm@12 simulate --seed ${seed} --plant two-calls-at-once`)
    const replayed = await simulate("--plant", "two-calls-at-once", "--seed", seed!)
    assert.strictEqual(replayed.code, 1)
    assert.include(replayed.output, ` ms  FAULT ${fault}`)
    assert.match(replayed.output, / ms {2}consumer 1 starts$/m)
  })

  it("X16 says that a seed holds, and what a range has covered", async () => {
    const one = await simulate("--seed", "7")
    assert.deepStrictEqual([one.code, /^seed 7 holds: /m.test(one.output)], [0, true])
    const many = await simulate("--from", "5", "--seeds", "20")
    assert.deepStrictEqual([many.code, many.output.startsWith("20 of 20 hold\nchecked\n")], [0, true])
  })

  it("X16 refuses wrong options with what to do instead", async () => {
    const refusals = [
      [["--seed", "x"], "--seed must be an integer from 0, got x"],
      [["--seeds", "0"], "--seeds must be an integer from 1, got 0"],
      [["--seed", "1", "--from", "2"], "give --from and --seeds instead"],
      [["--plant", "weed"], "no bug is called weed; there are: commit-past-gap, "],
      [["--speed"], "Usage: pnpm simulate"]
    ] as const
    const answers = await Promise.all(refusals.map(([args]) => simulate(...args)))
    answers.forEach(({ code, output }, i) => {
      assert.strictEqual(code, 2)
      assert.include(output, refusals[i]![1])
    })
  })
})
