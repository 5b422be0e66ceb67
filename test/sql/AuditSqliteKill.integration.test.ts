import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { DatabaseSync } from "node:sqlite"
import { fileURLToPath } from "node:url"
import { afterAll } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "millrace-audit-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const acknowledge = fileURLToPath(new URL("./fixtures/acknowledge.ts", import.meta.url))

describe("AuditSqlite and kill -9", () => {
  // each round: a child acknowledges as fast as it can, and is killed at a moment of its own
  const round = (filename: string, after: number) =>
    Effect.callback<Array<number>>((resume) => {
      const child = spawn(process.execPath, [acknowledge, filename], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      let output = ""
      child.stdout.on("data", (chunk) => {
        // the moment counts from the first acknowledgement: the start of a process takes longer than a round
        if (output === "") setTimeout(() => child.kill("SIGKILL"), after)
        output += chunk
      })
      child.on("close", (code) => {
        assert.isNull(code)
        // the last line may be cut
        resume(Effect.succeed(output.split("\n").slice(0, -1).filter((line) => line !== "").map(Number)))
      })
    })

  it.live(
    "X9 P5 every row that was acknowledged is in the file after kill -9, in 20 rounds",
    () =>
      Effect.gen(function*() {
        const filename = join(folder, "audit.db")
        let acknowledged = 0
        for (let i = 0; i < 20; i++) {
          const seen = yield* round(filename, (i * 37) % 90)
          acknowledged += seen.length
          const database = new DatabaseSync(filename)
          const stored = new Set(
            database.prepare("SELECT position FROM audit").all().map((row) => Number(row["position"]))
          )
          assert.deepStrictEqual(seen.filter((position) => !stored.has(position)), [])
          database.exec("DELETE FROM audit")
          database.close()
        }
        assert.isAbove(acknowledged, 1_000)
      }),
    120_000
  )
})
