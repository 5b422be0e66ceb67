import { ClaimFile, ClaimSql, ClaimStore } from "@millrace/claims"
import { SqliteClient } from "@millrace/sql"
import { Effect, Layer } from "effect"
import { SqlClient } from "effect/sql"
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll } from "vitest"
import { suite } from "./contract.ts"

const folder = mkdtempSync(join(tmpdir(), "millrace-claims-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

suite("memory", () => ClaimStore.layerMemory(), {
  prunes: true,
  replace: (key, body) =>
    Effect.flatMap(
      ClaimStore.Store,
      // each test has a store of its own, and its year is before 8000
      (store) => body === undefined ? store.prune!(200_000_000_000_000) : store.write(key, body)
    )
})

const directory = join(folder, "files")
const filesOf = (of: string) => existsSync(join(directory, of)) ? readdirSync(join(directory, of)).length : 0
suite("file", () => ClaimFile.layer({ directory, retention: "Infinity" }), {
  prunes: true,
  count: (day) => Effect.sync(() => filesOf(day) + filesOf(".partial")),
  replace: (key, body) =>
    Effect.sync(() => body === undefined ? rmSync(join(directory, key)) : writeFileSync(join(directory, key), body))
})

const client = SqliteClient.layer({ filename: join(folder, "claims.db"), synchronous: "normal" })
const inDatabase = <A, E>(effect: Effect.Effect<A, E, SqlClient.SqlClient>) => Effect.provide(effect, client)
suite("SQLite", () => Layer.provide(ClaimSql.layer({ retention: "Infinity" }), client), {
  prunes: true,
  count: (day) =>
    inDatabase(Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const [row] = yield* sql<
        { n: number }
      >`SELECT (SELECT count(*) FROM millrace_claims WHERE name LIKE ${`${day}%`}) + (SELECT count(*) FROM millrace_claims_parts WHERE write LIKE ${`${day}%`}) AS n`
      return row!.n
    })),
  replace: (key, body) =>
    Effect.gen(function*() {
      const store = yield* ClaimStore.Store
      yield* inDatabase(
        Effect.flatMap(SqlClient.SqlClient, (sql) => sql`DELETE FROM millrace_claims WHERE name = ${key}`)
      )
      if (body !== undefined) yield* store.write(key, body)
    })
})
