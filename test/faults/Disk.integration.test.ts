import { it } from "@effect/vitest"
import { Effect } from "effect"
import { execFileSync } from "node:child_process"
import { appendFileSync, rmSync } from "node:fs"
import { join } from "node:path"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import { reconcile, run, server } from "./support.ts"

/** A small disk of its own, as long as the scope is open; only root may mount one. */
const disk = (folder: string) =>
  Effect.acquireRelease(
    Effect.sync(() => execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "none", folder])),
    // the evidence still has the file open
    () => Effect.sync(() => execFileSync("umount", ["-l", folder]))
  )

/** Writes until there is no room. */
const fill = (file: string): void => {
  for (const size of [65_536, 1024, 1]) {
    try {
      for (;;) appendFileSync(file, "x".repeat(size))
    } catch (error) {
      expect(error).toMatchObject({ code: "ENOSPC" })
    }
  }
}

describeServer("A disk that is full", server, (kafka) => {
  it.live.skipIf(process.getuid?.() !== 0)(
    "X9 nothing is acknowledged while the audit's disk is full, however long; with room again all goes on by itself",
    () => {
      const how = { inFlight: 256, session: 6000, slowest: 0, lanes: "key" } as const
      return run("disk", kafka(), { partitions: 2, keys: 100, comesAgain: true }, how, (run) =>
        Effect.gen(function*() {
          const { check, evidence, say, start } = run
          yield* disk(evidence.auditFolder)
          const life = yield* start
          yield* evidence.publish(500)
          yield* evidence.untilDone
          yield* check
          const other = join(evidence.auditFolder, "other")
          fill(other)
          yield* evidence.publish(5000)
          // all that is in flight has come again, and one failed attempt would have been enough for a dead letter
          const before = evidence.runs
          while (evidence.runs < before + 3 * 256 || evidence.repeated < 256) {
            expect(life.isRunning(), life.printed()).toBe(true)
            yield* check
            yield* Effect.sleep("100 millis")
          }
          expect(evidence.uncommitted).not.toEqual([])
          expect(life.printed()).toContain("free some space on its disk")
          yield* say(`${evidence.handled} handled, ${evidence.rows} audit rows while the disk is full`)
          rmSync(other)
          yield* reconcile(run, life)
        }))
    },
    120_000
  )
})
