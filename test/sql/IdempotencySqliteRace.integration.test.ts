import { describe, it } from "@effect/vitest"
import { IdempotencySqlite } from "@millrace/sql"
import { Effect } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import * as Race from "./IdempotencyRace.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-idempotency-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("IdempotencySqlite", () => {
  it.live("W5 of many processes that die at any moment one completes each key, and no late one overwrites it", () => {
    const filename = join(folder, "race.db")
    return Effect.provide(Race.check(Race.racer("SQLite", filename, "")), IdempotencySqlite.layer({ filename }))
  }, Race.timeLimit)
})
