import { IdempotencySqlite } from "@millrace/sql"
import { IdempotencyStoreContract } from "@millrace/testing"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe } from "vitest"
import * as Faults from "./IdempotencyFaults.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-idempotency-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

let files = 0
const file = (): string => join(folder, `idempotency-${++files}.db`)

IdempotencyStoreContract.suite("SQLite", IdempotencySqlite.layer({ filename: file() }), { reopened: "keeps" })
IdempotencyStoreContract.suite(
  "SQLite, small groups that outlive the process only",
  IdempotencySqlite.layer({ filename: file(), synchronous: "normal", maximumGroup: 7, pruneEvery: "10 millis" }),
  { reopened: "keeps" }
)

describe("IdempotencySqlite", () => {
  const filename = file()
  Faults.registerClocks(() => IdempotencySqlite.layer({ filename }))
})
