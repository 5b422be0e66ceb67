import { assert, it } from "@effect/vitest"
import { RateLimit } from "@millrace/core"
import { RateLimitSqlite } from "@millrace/sql"
import { RateLimitStoreContract } from "@millrace/testing"
import { Effect } from "effect"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"

const folder = mkdtempSync(join(tmpdir(), "millrace-rate-"))
afterAll(() => rmSync(folder, { recursive: true }))

RateLimitStoreContract.suite("SQLite", RateLimitSqlite.layer({ filename: join(folder, "limits.db") }), {
  clock: "effect",
  reopened: "keeps",
  programs: 100
})

// https://www.sqlite.org/walformat.html: the log counts its checkpoints, each of which waits for the disk
const checkpoints = (filename: string): number => readFileSync(`${filename}-wal`).readUInt32BE(12)

it.live("W6 W7 decisions wait for the disk at most once in a thousand", () => {
  const filename = join(folder, "disk.db")
  return Effect.gen(function*() {
    const store = yield* RateLimit.Store
    const policy = RateLimit.policy("p", { limit: 1_000_000 })
    const decide = (count: number) =>
      Effect.forEach(
        Array.from({ length: count }, (_, i) => i),
        (i) => store.take([{ policy, key: `k${i % 1000}`, cost: 1 }], 0),
        { discard: true }
      )
    yield* decide(1)
    const before = checkpoints(filename)
    yield* decide(4000)
    assert.isAtMost(checkpoints(filename) - before, 4)
  }).pipe(Effect.provide(RateLimitSqlite.layer({ filename })))
})
