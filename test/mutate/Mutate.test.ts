import { assert, describe, it } from "vitest"
import { mutated } from "../simulate/greenhouse.ts"
import { run } from "../repo/workspace.ts"
import { equivalents } from "./equivalent.ts"
import { switched } from "./operators.ts"
import { planted } from "./planted.ts"

const mutate = (...args: ReadonlyArray<string>) => run("node", ["test/mutate/main.ts", ...args])

describe("X19 mutants", () => {
  const lines = (source: string): ReadonlyArray<string> =>
    switched("a.ts", source, 0).mutants.map(({ mutated, operator, original }) =>
      `${operator}: ${original} → ${mutated}`
    )

  it("X19 are the changes that a careless edit makes", () => {
    assert.deepStrictEqual(lines("if (a < b && !c) f(); else g()"), [
      "condition: a < b && !c → false",
      "logical: a < b && !c → a < b || !c",
      "operand: a < b → true",
      "boundary: a < b → a <= b",
      "operand: !c → true",
      "negation: !c → c",
      "removal: f(); → nothing",
      "removal: g() → nothing"
    ])
    assert.deepStrictEqual(lines("const f = (a: string) => { n += 1; return a?.b ?? [].slice(1) }"), [
      "body: { n += 1; return a?.b ?? [].slice(1) } → nothing",
      "removal: n += 1; → nothing",
      "assignment: n += 1 → n -= 1",
      "number: 1 → 0",
      "return: a?.b ?? [].slice(1) → undefined",
      "nullish: a?.b ?? [].slice(1) → a?.b",
      "nullish: a?.b ?? [].slice(1) → [].slice(1)",
      "optional: a?.b → a.b",
      "method: [].slice(1) → []",
      "number: 1 → 0"
    ])
    assert.deepStrictEqual(lines("run.pipe(Effect.ignore); x = Effect.ensuring(run, end); y = [Math.min(a, b)]"), [
      "removal: run.pipe(Effect.ignore); → nothing",
      "removal: x = Effect.ensuring(run, end); → nothing",
      "effect: Effect.ensuring(run, end) → run",
      "removal: y = [Math.min(a, b)] → nothing",
      "method: Math.min(a, b) → Math.max(a, b)"
    ])
  })

  it("X19 types, imports and the wording of errors have none", () => {
    assert.deepStrictEqual(lines("import { a } from \"b\"\nexport interface C { readonly d: 0 | 1 }"), [])
    assert.deepStrictEqual(lines("if (a) throw new RangeError(`${b ? 0 : 1}`)"), [
      "condition: a → true",
      "condition: a → false",
      "removal: throw new RangeError(`${b ? 0 : 1}`) → nothing"
    ])
  })

  it("X19 a file with switches does what it did, and with one on what the mutant does", () => {
    const source = "const f = (a, b) => { let n = 0; for (let i = a; i < b; i++) n += 2; return n }; answer = f(1, 4)"
    const { mutants, text } = switched("a.ts", source, 10)
    // oxlint-disable-next-line no-new-func, typescript/no-implied-eval
    const call = new Function("__m", `let answer; ${text}; return answer`)
    const answers = mutants.map(({ id, mutated, operator }) => {
      let limit = 100
      const isOn = (other: number): boolean => {
        if (--limit === 0) throw new Error("endless")
        return other === id
      }
      try {
        return `${operator} ${mutated}: ${call(isOn)}`
      } catch (error) {
        return `${operator} ${mutated}: ${error instanceof Error ? error.message : ""}`
      }
    })
    assert.strictEqual(call(() => false), 6)
    assert.deepStrictEqual(answers, [
      "body nothing: undefined",
      "number 1: 7",
      "condition false: 0",
      "boundary i <= b: 8",
      "update i--: endless",
      "removal nothing: 0",
      "assignment n -= 2: -6",
      "return undefined: undefined",
      "removal nothing: undefined",
      "number 0: 8"
    ])
  })

  it.each(planted.map((plant) => [plant.name, plant] as const))("X19 planted %s fits its source", (_, plant) => {
    assert.isAbove(mutated(plant, "test/mutate/planted.ts").size, 0)
  })

  it("X19 each entry of those that change nothing says why", () => {
    for (const { reason } of equivalents) assert.match(reason, /^[A-Z`].{20,}\.$/s)
  })
})

describe("X19 the mutate command", { timeout: 120_000 }, () => {
  it("X19 kills mutants of the memory broker by its unit tests", async () => {
    const { code, output } = await mutate(
      "memory/MemoryLog.ts",
      "--only",
      " update ",
      "--tests",
      "memory/MemoryLog",
      "--jobs",
      "1",
      "--fresh"
    )
    assert.match(output, /^memory\/ +\d+ +\d+ +0 +0 +100\.0 %$/m)
    assert.strictEqual(code, 0)
  })

  it("X19 lists what no test kills, and fails", async () => {
    const { code, output } = await mutate(
      "memory/MemoryLog.ts",
      "--only",
      " update ",
      "--tests",
      "core/Timeout",
      "--fresh"
    )
    assert.match(output, /^ {2}packages\/core\/src\/memory\/MemoryLog\.ts:\d+:\d+ update this\.end\+\+ → this\.end--$/m)
    assert.match(output, /^memory\/ +0 +0 +[4-9] +0 +0\.0 %$/m)
    assert.strictEqual(code, 1)
  })

  it("X19 refuses wrong options with what to do instead", async () => {
    const refusals = [
      [["nowhere"], "nowhere names no file of packages/core/src"],
      [["--jobs", "0"], "--jobs must be a number from 1, got 0"],
      [["--speed"], "Usage: pnpm mutate"]
    ] as const
    const answers = await Promise.all(refusals.map(([args]) => mutate(...args)))
    answers.forEach(({ code, output }, i) => {
      assert.strictEqual(code, 2)
      assert.include(output, refusals[i]![1])
    })
  })
})
