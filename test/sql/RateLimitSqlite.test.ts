import { RateLimitSqlite } from "@millrace/sql"
import { RateLimitStoreContract } from "@millrace/testing"
import { mkdtempSync, rmSync } from "node:fs"
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
