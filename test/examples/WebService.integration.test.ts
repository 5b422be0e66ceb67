import { PgClient } from "@effect/sql-pg"
import { Kafka, Postgres } from "@millrace/testing/servers"
import { Effect, Redacted } from "effect"
import { SqlClient } from "effect/sql"
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, assert, describe, it } from "vitest"
import { root } from "../repo/workspace.ts"
import { describeServer } from "../services/describe.ts"

const main = "examples/04-web-service/main.ts"

interface Service {
  readonly url: string
  readonly output: () => string
  /** Sends a signal and waits for the end: its exit code, or null after SIGKILL. */
  readonly end: (signal: NodeJS.Signals) => Promise<number | null>
}

const running = new Set<ChildProcess>()

/** The service as a process, once it listens. */
const start = async (env: Record<string, string>): Promise<Service> => {
  const child = spawn(process.execPath, [main], { cwd: root, env: { ...process.env, PORT: "0", ...env } })
  running.add(child)
  let output = ""
  child.stdout.on("data", (chunk) => output += chunk)
  child.stderr.on("data", (chunk) => output += chunk)
  const closed = once(child, "close")
  const address = async (): Promise<string> => {
    for (;;) {
      const found = /Listening at (http:\S+),/.exec(output)?.[1]
      if (found !== undefined) return found
      if (child.exitCode !== null) throw new Error(`The service has ended:\n${output}`)
      await sleep(50)
    }
  }
  return {
    url: await address(),
    output: () => output,
    end: async (signal) => {
      child.kill(signal)
      await closed
      running.delete(child)
      return child.exitCode
    }
  }
}

afterEach(() => {
  for (const child of running) child.kill("SIGKILL")
  running.clear()
})

/** Places an order; its id where it was accepted. */
const place = async (url: string, sku = "lamp"): Promise<string | undefined> => {
  const response = await fetch(`${url}/orders`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ customer: "ada", lines: [{ sku, quantity: 1 }] })
  })
  const { id } = await response.json() as { readonly id: string }
  return response.status === 202 ? id : undefined
}

const placeMany = async (url: string, count: number): Promise<ReadonlyArray<string>> => {
  const ids: Array<string> = []
  for (let i = 0; i < count; i++) {
    const id = await place(url, i % 5 === 4 ? "busy-lamp" : "lamp")
    assert.isDefined(id, "an order was not accepted")
    ids.push(id!)
  }
  return ids
}

interface Seen {
  readonly status: string
  readonly states: ReadonlyArray<{ readonly sequence: number; readonly status: string }>
}

const see = async (url: string, id: string): Promise<Seen> => await (await fetch(`${url}/orders/${id}`)).json() as Seen

/** Waits until each of them is completed, and answers how they came there. */
const completed = async (
  service: Service,
  ids: ReadonlyArray<string>,
  within: number
): Promise<ReadonlyArray<Seen>> => {
  const open = new Set(ids)
  const seen: Array<Seen> = []
  for (const deadline = performance.now() + within; open.size > 0; await sleep(200)) {
    for (const id of open) {
      const one = await see(service.url, id)
      if (one.status !== "completed") continue
      open.delete(id)
      seen.push(one)
    }
    assert.isBelow(performance.now(), deadline, `${open.size} of ${ids.length} have no end:\n${service.output()}`)
  }
  return seen
}

/** However often it came, it ended once, and last; where no reply is lost, each of its steps was seen. */
const endedOnce = (seen: ReadonlyArray<Seen>, replies: "kept" | "lost" = "kept") => {
  for (const { states } of seen) {
    assert.deepStrictEqual(states.flatMap(({ status }, i) => status === "completed" ? [i] : []), [states.length - 1])
    if (replies === "kept") assert.deepStrictEqual(states.map(({ sequence }) => sequence), states.map((_, i) => i))
  }
}

describe("the web service, embedded", () => {
  it("B8 what was accepted reaches its end, though the process is killed in the middle, with a broker that forgets", async () => {
    const folder = await mkdtemp(join(tmpdir(), "millrace-web-"))
    const env = { DATABASE: join(folder, "web.db"), WORK_TIME: "100 millis" }
    try {
      const ids: Array<string> = []
      for (let life = 0; life < 3; life++) {
        const service = await start(env)
        ids.push(...await placeMany(service.url, 20))
        assert.isNull(await service.end("SIGKILL"))
      }
      const service = await start(env)
      endedOnce(await completed(service, ids, 60_000), "lost")
      assert.strictEqual(await service.end("SIGTERM"), 0)
      assert.match(service.output(), /web-service stopped in \d+ ms: web \d+ ms, messages \d+ ms, services \d+ ms\n$/)
    } finally {
      await rm(folder, { recursive: true, force: true })
    }
  })
})

const servers = Effect.all({ kafka: Kafka.own(), postgres: Postgres.own() })

describeServer("the web service on Kafka and PostgreSQL", servers, (have) => {
  const env = () => ({
    BROKER: "kafka",
    KAFKA_BROKERS: have().kafka.brokers.join(","),
    DATABASE: Redacted.value(have().postgres.url),
    WORK_TIME: "20 millis"
  })

  it(
    "B8 orders are accepted while the broker is down, by a process that is killed and one that begins then, and all arrive",
    { timeout: 400_000 },
    async () => {
      const { kafka } = have()
      const first = await start(env())
      endedOnce(await completed(first, await placeMany(first.url, 5), 60_000))
      await Effect.runPromise(kafka.stop)
      const ids = [...await placeMany(first.url, 20)]
      assert.strictEqual((await see(first.url, ids[0]!)).status, "received")
      // between the commit and the publish, of all of them
      await first.end("SIGKILL")
      const second = await start(env())
      ids.push(...await placeMany(second.url, 5))
      await Effect.runPromise(kafka.start)
      endedOnce(await completed(second, ids, 240_000))
      assert.strictEqual(await second.end("SIGTERM"), 0)
    }
  )

  it(
    "B8 SIGTERM under load: what was accepted reaches its end after a restart, and nothing is there that was not",
    { timeout: 400_000 },
    async () => {
      const count = () =>
        Effect.runPromise(
          Effect.flatMap(SqlClient.SqlClient, (sql) =>
            sql<{ readonly n: number }>`SELECT count(*)::int AS n FROM web_orders`).pipe(
              Effect.map(([row]) =>
                row!.n
              ),
              Effect.provide(PgClient.layer({ url: have().postgres.url }))
            )
        )
      const first = await start(env())
      const before = await count()
      const ids: Array<string> = []
      let stopping = false
      const client = async () => {
        while (!stopping) {
          // refused connections are how a client learns that the service has gone
          const id = await place(first.url).catch(() => undefined)
          if (id !== undefined) ids.push(id)
        }
      }
      const clients = Array.from({ length: 8 }, client)
      while (ids.length < 200) await sleep(10)
      const code = await first.end("SIGTERM")
      stopping = true
      await Promise.all(clients)
      assert.strictEqual(code, 0)
      assert.match(first.output(), /web-service stopped in \d+ ms: web \d+ ms, messages \d+ ms, services \d+ ms\n$/)
      assert.strictEqual(await count(), before + ids.length)
      const second = await start(env())
      endedOnce(await completed(second, ids, 240_000))
      assert.strictEqual(await second.end("SIGTERM"), 0)
    }
  )
})
