import { Monitor, MonitorSql } from "@millrace/monitor"
import { SqliteClient } from "@millrace/sql"
import { Effect, Layer } from "effect"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, it } from "vitest"
import { suite } from "./storeSuite.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-monitor-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

suite("memory", () => Monitor.layerMemory, { shared: false })
suite(
  "SQLite",
  (name) =>
    Layer.provide(
      MonitorSql.layer({ name, timeout: "20 seconds" }),
      SqliteClient.layer({ filename: join(folder, "monitor.db") })
    ),
  { shared: true }
)

it("H11 a table or a name that cannot be is refused", () => {
  assert.throws(() => MonitorSql.layer({ table: "a; DROP TABLE b" }), "MonitorSql: table must be")
  assert.throws(() => MonitorSql.layer({ name: "" }), "MonitorSql: name must be")
})

it("H11 a database that cannot be written tells why", async () => {
  const layer = Layer.provide(
    MonitorSql.layer({ table: "none.monitor" }),
    SqliteClient.layer({ filename: join(folder, "other.db") })
  )
  const error = await Effect.runPromise(Effect.flip(Effect.scoped(Layer.build(layer))))
  assert.instanceOf(error, Monitor.MonitorUnavailable)
  assert.match(error.message, /^MonitorSql: /)
})
