import { fork } from "node:child_process"
import { mkdirSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join, relative } from "node:path"
import { assert, beforeAll, describe, it } from "vitest"
import { collect, expectedOutput, type Fence } from "./fences.ts"
import { root, run } from "./workspace.ts"

// Below test/, because that is where every workspace package resolves.
const folder = join(root, "test", ".cache", "docs")
const { faults, fences } = collect()

const titleOf = (fence: Fence): string => `${fence.file}:${fence.line}`
const fileOf = (fence: Fence): string => join(folder, `${titleOf(fence).replace(/[^\w]+/g, "_")}.ts`)

interface Ran {
  readonly file: string
  readonly output: ReadonlyArray<string>
  readonly error: string | undefined
}

/** Runs files in one process; the one that ends the process fails, and those behind it run in another. */
const runAll = async (files: ReadonlyArray<string>): Promise<ReadonlyArray<Ran>> => {
  if (files.length === 0) return []
  const reports: Array<Ran> = []
  const child = fork(join(root, "test", "repo", "runFences.ts"), [...files], { cwd: folder, silent: true })
  let printed = ""
  child.stdout?.on("data", (chunk: Buffer) => printed += chunk.toString())
  child.stderr?.on("data", (chunk: Buffer) => printed += chunk.toString())
  child.on("message", (report: Ran) => reports.push(report))
  await new Promise((closed) => child.once("close", closed))
  const [broken, ...rest] = files.slice(reports.length)
  return broken === undefined
    ? reports
    : [...reports, { file: broken, output: [], error: `it ended the process\n${printed}` }, ...await runAll(rest)]
}

const inSourceOf = new Map(fences.map((fence) => [fileOf(fence), titleOf(fence)]))
const typeErrors = new Map<string, ReadonlyArray<string>>()
const otherErrors: Array<string> = []
const ran = new Map<string, Ran>()

beforeAll(async () => {
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  // The code keeps its line, so an error in the written file is at the line to mend.
  for (const fence of fences) writeFileSync(fileOf(fence), "\n".repeat(fence.line - 1) + fence.code + "\n")
  writeFileSync(
    join(folder, "tsconfig.json"),
    JSON.stringify({
      extends: relative(folder, join(root, "tsconfig.json")),
      files: fences.length === 0
        ? [relative(folder, join(root, "test", "repo", "fences.ts"))]
        : fences.map((fence) => relative(folder, fileOf(fence))),
      compilerOptions: {
        noEmit: true,
        rewriteRelativeImportExtensions: false,
        noUnusedLocals: false,
        noUnusedParameters: false
      }
    })
  )
  const runnable = fences.filter((fence) => fence.run).map(fileOf)
  const processes = Math.min(4, availableParallelism())
  const lots = Array.from({ length: processes }, (_, lot) => runnable.filter((_, index) => index % processes === lot))
  const [check, ...results] = await Promise.all([
    run("tsc", ["-p", folder, "--pretty", "false"]),
    ...lots.map(runAll)
  ])
  for (const report of results.flat()) ran.set(report.file, report)
  for (const line of check.output.split("\n")) {
    const [, file = "", at = "", message = ""] = /^(\S.*?)\((\d+),\d+\): (.*)$/.exec(line) ?? []
    const path = join(root, file)
    const title = inSourceOf.get(path)
    if (title !== undefined) {
      typeErrors.set(path, [...(typeErrors.get(path) ?? []), `${title.replace(/:\d+$/, "")}:${at}: ${message}`])
    } else if (file !== "") otherErrors.push(line)
  }
  if (check.code !== 0 && typeErrors.size === 0 && otherErrors.length === 0) otherErrors.push(check.output)
}, 120_000)

describe("docs", () => {
  it("each fence can be taken", () => {
    assert.deepStrictEqual(faults, [])
  })

  it("what the fences import type-checks", () => {
    assert.deepStrictEqual(otherErrors, [])
  })

  for (const fence of fences) {
    it(titleOf(fence), () => {
      assert.deepStrictEqual(typeErrors.get(fileOf(fence)) ?? [], [])
      if (!fence.run) return
      const report = ran.get(fileOf(fence))
      assert.isDefined(report)
      assert.isUndefined(report?.error, `${titleOf(fence)} fails`)
      const expected = expectedOutput(fence.code)
      if (expected.length > 0) {
        assert.deepStrictEqual(report?.output, expected, `${titleOf(fence)} prints something else`)
      }
    })
  }
})
