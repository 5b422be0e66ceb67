import { NodeFileSystem } from "@effect/platform-node"
import { Effect, Stream } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { assert, describe, it } from "vitest"
import * as FileBroker from "../../examples/06-own-broker/fileBroker.ts"
import { root, run } from "../repo/workspace.ts"

const main = "examples/06-own-broker/main.ts"

/** Runs a program until it has said enough, kills it, and answers all that it said. */
const killed = async (file: string, folder: string, enough: (lines: ReadonlyArray<string>) => boolean) => {
  const child = spawn(process.execPath, [file, folder], { cwd: root, stdio: ["ignore", "pipe", "inherit"] })
  const gone = once(child, "exit")
  const lines: Array<string> = []
  for await (const line of createInterface(child.stdout)) {
    lines.push(line)
    if (enough(lines)) child.kill("SIGKILL")
  }
  const [, signal] = await gone
  assert.strictEqual(signal, "SIGKILL", lines.join("\n"))
  return lines
}

const inFolder = async (use: (folder: string) => Promise<void>) => {
  const folder = mkdtempSync(join(tmpdir(), "own-broker-"))
  try {
    await use(folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

const weighed = (lines: ReadonlyArray<string>) =>
  lines.flatMap((line) => /^parcel (\d+): \d+ g$/.exec(line)?.slice(1).map(Number) ?? [])

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index)

describe("the own broker's processes", () => {
  it("T17 goes on where it was killed, and finishes", () =>
    inFolder(async (folder) => {
      const position = () => Number(readFileSync(join(folder, "parcels@scales.position"), "utf8"))
      const first = weighed(await killed(main, folder, (lines) => weighed(lines).length > 0 && position() >= 3))
      const done = position()
      assert.deepStrictEqual(first, range(1, first.length))
      assert.isAtLeast(first.length, done)
      const { code, output } = await run(process.execPath, [main, folder])
      assert.strictEqual(code, 0, output)
      assert.include(output, `parcels 21 to 40 came to ${folder}\n`)
      assert.deepStrictEqual(weighed(output.split("\n")), range(done + 1, 40))
      assert.strictEqual(position(), 40)
    }))

  it(
    "T17 keeps every message that was confirmed before a kill, in order and once",
    { timeout: 60_000 },
    () =>
      inFolder(async (folder) => {
        for (const batches of [1, 10, 30]) {
          rmSync(folder, { recursive: true })
          const lines = await killed("test/examples/publisher/main.ts", folder, ({ length }) => length >= batches)
          const bodies = await Effect.runPromise(
            FileBroker.make(folder).pipe(
              Effect.flatMap((driver) => Stream.runCollect(driver.browse("numbers"))),
              Effect.scoped,
              Effect.provide(NodeFileSystem.layer)
            )
          )
          const numbers = bodies.map(({ raw }) => Number.parseInt(new TextDecoder().decode(raw), 10))
          assert.deepStrictEqual(numbers, range(0, numbers.length - 1))
          assert.isAtLeast(numbers.length, Number(lines.at(-1)) + 1)
        }
      })
  )

  it("T17 refuses a folder that another process has, until that one is killed", () =>
    inFolder(async (folder) => {
      let refused: Promise<{ readonly code: number; readonly output: string }> | undefined
      const child = spawn(process.execPath, ["test/examples/publisher/main.ts", folder], { cwd: root })
      for await (const _ of createInterface(child.stdout)) {
        refused ??= run(process.execPath, [main, folder]).finally(() => child.kill("SIGKILL"))
      }
      const { code, output } = await (refused ?? Promise.reject(new Error("the publisher said nothing")))
      assert.strictEqual(code, 1)
      assert.include(output, `${folder} has another broker, or cannot be locked`)
      const after = await run(process.execPath, [main, folder])
      assert.strictEqual(after.code, 0, after.output)
    }))
})
