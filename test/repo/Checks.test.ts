import { assert, describe, it } from "vitest"
import { run } from "./workspace.ts"

const passes = (command: string, ...args: ReadonlyArray<string>) => async () => {
  const { code, output } = await run(command, args)
  assert.strictEqual(code, 0, `${command} ${args.join(" ")}\n${output}`)
}

describe("checks", { timeout: 300_000, concurrent: true }, () => {
  it("types: packages, tests, examples", passes("tsc", "-b"))
  it("lint", passes("oxlint", "--deny-warnings"))
  it("format: run `pnpm format`", passes("dprint", "check", "--list-different"))
  it("dependencies and files are used", passes("knip", "--no-config-hints", "--no-progress"))
  it(
    "Effect rules",
    passes(
      "effect-tsgo",
      "diagnostics",
      "--project",
      "tsconfig.json",
      "--format",
      "text",
      "--severity",
      "error,warning",
      "--strict"
    )
  )
})
