import { Client, Connection } from "@temporalio/client"
import { PgClient } from "@effect/sql-pg"
import { assert, it } from "@effect/vitest"
import { Postgres, Temporal } from "@millrace/testing/servers"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { describeServer } from "../services/describe.ts"

const fixture = fileURLToPath(new URL("./fixtures/start.ts", import.meta.url))

// MILLRACE_WORKFLOWS=10000 is the long form
const messages = Number(process.env["MILLRACE_WORKFLOWS"] ?? 60)
const kills = Math.max(3, Math.round(messages / 200))
const timeLimit = 600_000 + messages * 100

/** Starts processes that kill themselves, then one that does not; afterwards each message is acknowledged. */
const lives = async (engine: string, check: () => Promise<void>): Promise<void> => {
  const folder = mkdtempSync(join(tmpdir(), "millrace-workflow-kill-"))
  try {
    let killed = 0
    for (let life = 0; life <= kills; life++) {
      // another step of a message each time, so that each kind of step kills
      const last = life < kills ? 7 + Math.floor(messages / kills) * 2 + life : 0
      const child = spawn(process.execPath, [
        "--disable-warning=ExperimentalWarning",
        fixture,
        engine,
        folder,
        String(messages),
        String(last)
      ], {
        stdio: ["ignore", "ignore", "inherit"]
      })
      const [code, signal] = await once(child, "close")
      if (signal === "SIGKILL") killed++
      else assert.strictEqual(code, 0)
    }
    assert.isAtLeast(killed, 2)
    const file = join(folder, "acks")
    const acknowledged = existsSync(file) ? readFileSync(file, "utf8").split("\n").filter((line) => line !== "") : []
    assert.strictEqual(new Set(acknowledged).size, messages)
    await check()
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

describeServer("A start and kill -9, PostgreSQL", Postgres.own(), (postgres) => {
  it("T5 one execution runs for each key, and no message is lost", async () => {
    const { url } = postgres()
    const query = <A>(use: (sql: SqlClient.SqlClient) => Effect.Effect<A, unknown>) =>
      Effect.runPromise(Effect.provide(Effect.flatMap(SqlClient.SqlClient, use), PgClient.layer({ url })))
    await query((sql) => sql`CREATE TABLE effects (id TEXT)`)
    await lives(Redacted.value(url), async () => {
      const runs = await query((sql) =>
        sql<
          { readonly n: number }
        >`SELECT count(*)::int AS n FROM cluster_messages WHERE tag = 'run' GROUP BY entity_id`
      )
      assert.strictEqual(runs.length, messages / 2)
      assert.isTrue(runs.every(({ n }) => n === 1))
    })
  }, timeLimit)
})

describeServer("A start and kill -9, Temporal", Temporal.own(), (temporal) => {
  it("T5 one execution runs for each key, and no message is lost", async () => {
    const { address } = temporal()
    await lives(address, async () => {
      const connection = await Connection.connect({ address })
      const { workflow } = new Client({ connection })
      for (let key = 0; key < messages / 2; key++) {
        const found = await workflow.getHandle(`Job/k${key}`).describe()
        assert.strictEqual(found.status.name, "RUNNING")
        // a second generation would be a second execution of the key
        const second = await workflow.getHandle(`Job/k${key}#2`).describe().then(() => "found", () => "missing")
        assert.strictEqual(second, "missing")
      }
      await connection.close()
    })
  }, timeLimit)
})
