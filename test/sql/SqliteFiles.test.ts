import { assert, describe, it } from "@effect/vitest"
import { SqliteClient } from "@millrace/sql"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import { execFileSync } from "node:child_process"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import * as Thread from "../../packages/sql/src/internal/sqlite/Thread.ts"

const root = join(import.meta.dirname, "../..")

describe("SQLite's files", () => {
  it.effect("X10 the client refuses several statements in one text, where SQLite would run the first of them", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const error = yield* Effect.flip(sql.unsafe("CREATE TABLE a (x INTEGER); CREATE TABLE b (x INTEGER)"))
      assert.include(String(error.reason.cause), "one statement at a time")
      assert.deepStrictEqual(yield* sql`SELECT name FROM sqlite_master`, [])
      yield* sql.unsafe("CREATE TABLE a (x TEXT); -- the last one\n /* and; that */ ;")
      yield* sql.unsafe("INSERT INTO a VALUES ('one; two')")
      assert.deepStrictEqual(yield* sql`SELECT x FROM a`, [{ x: "one; two" }])
    }).pipe(Effect.provide(SqliteClient.layer({ filename: ":memory:" }))))

  it("F6 a program that imports the package does not load node:sqlite", () => {
    const loaded = execFileSync(process.execPath, [
      "--input-type=module",
      "--eval",
      "await import('@millrace/sql'); console.log(process.moduleLoadList.filter((name) => /sqlite/.test(name)).join())"
    ], { cwd: join(root, "test"), encoding: "utf8" })
    assert.strictEqual(loaded.trim(), "")
  })

  it.effect("F6 a store whose thread was left out by a bundler says so", () =>
    Effect.gen(function*() {
      const thread = Thread.make(
        pathToFileURL(join(tmpdir(), "bundle.js")).href,
        "./internal/audit/worker",
        { filename: ":memory:", synchronous: "full", busy: 0 },
        () => []
      )
      const failed = yield* Effect.flip(thread.open)
      assert.match(failed.message, /worker\.js, which is not there: a bundler leaves it out.*external/)
      yield* thread.close
    }))
})
