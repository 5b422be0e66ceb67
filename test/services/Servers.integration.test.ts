import { PgClient } from "@effect/sql-pg"
import { it } from "@effect/vitest"
import { Kafka, Postgres, type Server, ServerNotOwned, ServerUnavailable } from "@millrace/testing/servers"
import { Effect, Exit, Fiber, Redacted, type Scope } from "effect"
import { Kafka as KafkaJs, logLevel } from "kafkajs"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { text } from "node:stream/consumers"
import { setTimeout as sleep } from "node:timers/promises"
import { afterEach, describe, expect, onTestFinished, vi } from "vitest"
import { isRunning } from "../../packages/testing/src/servers/process.ts"
import { own } from "../../packages/testing/src/servers/Server.ts"
import { describeKafka, describePostgres, describeServer } from "./describe.ts"

const here = import.meta.dirname

const client = (kafka: Kafka.KafkaServer) => new KafkaJs({ brokers: kafka.brokers, logLevel: logLevel.NOTHING })

const produce = async (kafka: Kafka.KafkaServer, topic: string, values: ReadonlyArray<string>) => {
  const producer = client(kafka).producer()
  await producer.connect()
  await producer.send({ topic, acks: -1, messages: values.map((value) => ({ value })) })
  await producer.disconnect()
}

const consume = async (kafka: Kafka.KafkaServer, topic: string, groupId: string, count: number) => {
  const consumer = client(kafka).consumer({ groupId })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const values: Array<string> = []
  await new Promise<void>((resolve, reject) => {
    // a coordinator that still loads its groups crashes it; then it restarts by itself
    consumer.on("consumer.crash", ({ payload }) => payload.restart || reject(payload.error))
    const eachMessage = async ({ message }: { readonly message: { readonly value: Buffer | null } }) => {
      if (values.push(message.value?.toString() ?? "") === count) resolve()
    }
    consumer.run({ eachMessage }).catch(reject)
  })
  await consumer.disconnect()
  return values
}

const sql = <A>(postgres: Postgres.PostgresServer, use: (sql: PgClient.PgClient) => Effect.Effect<A, unknown>) =>
  Effect.flatMap(PgClient.PgClient, use).pipe(Effect.provide(PgClient.layer({ url: postgres.url })))

const folder = () => {
  const made = mkdtempSync(join(tmpdir(), "servers-test-"))
  // user postgres goes through it, where we are root
  chmodSync(made, 0o755)
  onTestFinished(() => rmSync(made, { recursive: true, force: true, maxRetries: 5 }))
  return made
}

afterEach(() => {
  vi.unstubAllEnvs()
})

describeServer("F15 a Kafka of one's own", Kafka.own(), (kafka) => {
  it.live("keeps what it acknowledged over kill -9 and restart, on the same port", () =>
    Effect.gen(function*() {
      const { address, kill, pid, restart } = kafka()
      yield* Effect.promise(() => produce(kafka(), "kept", ["one", "two"]))
      expect(yield* Effect.promise(() => consume(kafka(), "kept", "before", 2))).toEqual(["one", "two"])
      const first = yield* pid
      yield* kill
      expect(yield* pid).toBeUndefined()
      yield* kill
      yield* restart
      expect(yield* pid).not.toBe(first)
      expect(kafka().address).toBe(address)
      expect(yield* Effect.promise(() => consume(kafka(), "kept", "after", 2))).toEqual(["one", "two"])
    }))

  it.live("takes topics as soon as it is said to run", () =>
    Effect.gen(function*() {
      for (const round of [1, 2]) {
        yield* kafka().restart
        const admin = client(kafka()).admin({ retry: { retries: 0 } })
        yield* Effect.promise(() => admin.connect())
        expect(yield* Effect.promise(() => admin.createTopics({ topics: [{ topic: `early-${round}` }] }))).toBe(true)
        yield* Effect.promise(() => admin.disconnect())
      }
    }))

  it.live("used through MILLRACE_KAFKA it is not ours to kill, and the error says why", () =>
    Effect.gen(function*() {
      vi.stubEnv("MILLRACE_KAFKA", kafka().address)
      const used = yield* Kafka.make()
      expect(used.brokers).toEqual(kafka().brokers)
      const operations = [used.start, used.stop, used.kill, used.restart]
      for (const error of yield* Effect.forEach(operations, Effect.flip)) {
        expect(error).toBeInstanceOf(ServerNotOwned)
        expect(error.message).toMatch(/^Cannot \w+ Kafka at 127.0.0.1:\d+: MILLRACE_KAFKA names it/)
      }
      yield* kafka().kill
      vi.stubEnv("MILLRACE_KAFKA", "kafka")
      expect((yield* Effect.flip(Kafka.make())).message).toBe(`A Kafka's address is host:port, and "kafka" is not.`)
      vi.stubEnv("MILLRACE_KAFKA", kafka().address)
      expect((yield* Effect.flip(Kafka.make())).message).toContain(`Kafka does not answer at ${kafka().address}`)
    }).pipe(Effect.scoped))
})

describeServer("Kafka's starter", Kafka.own(), () => {
  it.live("two first starts at once fill one cache", () =>
    Effect.gen(function*() {
      const cache = folder()
      vi.stubEnv("XDG_CACHE_HOME", cache)
      const both = yield* Effect.all([Kafka.own(), Kafka.own()], { concurrency: 2 }).pipe(
        Effect.tap(([left, right]) => Effect.sync(() => expect(left.address).not.toBe(right.address))),
        Effect.tap(Effect.forEach((kafka) => Effect.promise(() => produce(kafka, "any", ["one"])))),
        Effect.scoped
      )
      for (const kafka of both) expect(yield* kafka.pid).toBeUndefined()
      expect(readdirSync(join(cache, "millrace"))).toEqual([`kafka-${Kafka.version}`])
      expect(readdirSync(join(cache, "millrace", `kafka-${Kafka.version}`))).toContainEqual(
        expect.stringMatching(/^classes-.*\.jsa$/)
      )
    }), 300_000)

  it.live("a server that ends at once fails with its last lines", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Kafka.own({ properties: { "num.partitions": "none" } }))
      expect(error).toMatchObject({ _tag: "ServerFailed", failure: "dependency" })
      expect(error.message).toMatch(/^Kafka 4.2.0 did not start: it ended with code 1\n[^]*num\.partitions/)
    }).pipe(Effect.scoped))

  it.live("a server that does not answer in time fails and is gone", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(Kafka.own({ startTimeout: "50 millis" }))
      expect(error.message).toMatch(/^Kafka 4.2.0 did not answer on port \d+ within 0.05 s/)
    }).pipe(Effect.scoped))

  it.live("is interrupted in the middle of a start", () =>
    Effect.gen(function*() {
      const temporary = folder()
      vi.stubEnv("TMPDIR", temporary)
      const fiber = yield* Effect.forkChild(Effect.scoped(Kafka.own()), { startImmediately: true })
      while (readdirSync(temporary).length === 0) yield* Effect.sleep("10 millis")
      yield* Fiber.interrupt(fiber)
      expect(readdirSync(temporary)).toEqual([])
    }))

  it.live("its layer gives the same server", () =>
    Effect.gen(function*() {
      const kafka = yield* Kafka.Server
      expect(yield* kafka.pid).toBeTypeOf("number")
    }).pipe(Effect.provide(Kafka.layer())))
})

describe("a missing tool", () => {
  const missing = <A>(make: Effect.Effect<A, unknown, Scope.Scope>) =>
    Effect.runPromise(Effect.scoped(Effect.flip(make)))

  it("says how to get Java", async () => {
    vi.stubEnv("PATH", "")
    vi.stubEnv("JAVA_HOME", undefined)
    const error = await missing(Kafka.own())
    expect(error).toBeInstanceOf(ServerUnavailable)
    expect(error).toMatchObject({
      tool: "java",
      message: expect.stringContaining("apt-get install default-jre-headless")
    })
  })

  it("says how to get Maven", async () => {
    const tools = folder()
    // never run: Maven is looked for first
    symlinkSync(process.execPath, join(tools, "java"))
    vi.stubEnv("PATH", tools)
    vi.stubEnv("JAVA_HOME", undefined)
    vi.stubEnv("XDG_CACHE_HOME", tools)
    const error = await missing(Kafka.own())
    expect(error).toBeInstanceOf(ServerUnavailable)
    expect(error).toMatchObject({ tool: "mvn", message: expect.stringContaining("apt-get install maven") })
    expect(readdirSync(tools)).toEqual(["java"])
  })

  it("says how to get PostgreSQL", async () => {
    const error = await missing(Postgres.own({ bin: "/nowhere" }))
    expect(error).toBeInstanceOf(ServerUnavailable)
    expect(error).toMatchObject({ tool: "initdb", message: expect.stringContaining("apt-get install postgresql") })
  })

  const run = async (CI: string) => {
    const reports = folder()
    const child = spawn(process.execPath, [
      join(here, "../node_modules/vitest/vitest.mjs"),
      "run",
      "--root",
      join(here, "fixtures"),
      "--reporter=json",
      `--outputFile=${join(reports, "report.json")}`
    ], { env: { ...process.env, CI, VITEST: undefined } })
    const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr)])
    const report: unknown = JSON.parse(readFileSync(join(reports, "report.json"), "utf8"))
    return { report, printed: output + errors }
  }

  it("skips its tests and says so once", async () => {
    const { printed, report } = await run("")
    expect(report).toMatchObject({ numPassedTests: 1, numFailedTests: 1, numPendingTests: 2 })
    expect(printed.split("Tests that need it are skipped: Flume needs flumed: build a flume.")).toHaveLength(2)
  })

  it("fails its tests where CI=true", async () => {
    const { report } = await run("true")
    expect(report).toMatchObject({ numPassedTests: 1, numFailedTests: 3, numPendingTests: 0 })
    expect(JSON.stringify(report)).toContain("Flume needs flumed: build a flume.")
  })
})

describeServer("a PostgreSQL of one's own", Postgres.own(), (postgres) => {
  it.live("keeps what it committed over kill -9 and restart, with a backend at work", () =>
    Effect.gen(function*() {
      yield* sql(postgres(), (sql) => sql`CREATE TABLE kept (n integer)`)
      yield* sql(postgres(), (sql) => sql`INSERT INTO kept VALUES (42)`)
      const busy = yield* Effect.forkChild(
        sql(postgres(), (sql) => sql`SELECT count(*) FROM generate_series(1, 2000000000)`),
        { startImmediately: true }
      )
      const atWork = sql(postgres(), (sql) => sql`SELECT 1 FROM pg_stat_activity WHERE query LIKE 'SELECT count%'`)
      while ((yield* atWork).length === 0) yield* Effect.sleep("20 millis")
      yield* postgres().kill
      expect(Exit.isFailure(yield* Fiber.await(busy))).toBe(true)
      yield* postgres().restart
      expect(yield* sql(postgres(), (sql) => sql`SELECT n FROM kept`)).toEqual([{ n: 42 }])
    }))

  it.live("asks for its password", () =>
    Effect.gen(function*() {
      const wrong = { ...postgres(), url: Redacted.make(`postgres://millrace:wrong@${postgres().address}/test`) }
      expect(Exit.isFailure(yield* Effect.exit(sql(wrong, (sql) => sql`SELECT 1`)))).toBe(true)
      expect(yield* sql(postgres(), (sql) => sql`SELECT current_database() AS name`)).toEqual([{ name: "test" }])
    }))
})

describe("nothing is left", () => {
  const forget = async (way: "end" | "wait", kill?: NodeJS.Signals) => {
    const temporary = folder()
    const child = spawn(process.execPath, [join(here, "fixtures/forgetful.ts"), way], {
      env: { ...process.env, TMPDIR: temporary },
      stdio: ["ignore", "pipe", "inherit"]
    })
    const [line] = await once(child.stdout, "data")
    // counted by the program: with "end" it may be gone before this line is read
    const { folders, pids }: { readonly folders: number; readonly pids: Array<number> } = JSON.parse(String(line))
    expect(pids).toEqual([expect.any(Number), expect.any(Number)])
    expect(folders).toBe(2)
    if (kill !== undefined) child.kill(kill)
    await once(child, "exit")
    const left = () => pids.some(isRunning) || readdirSync(temporary).length > 0
    for (let round = 0; round < 500 && left(); round++) await sleep(20)
    expect(pids.filter(isRunning)).toEqual([])
    expect(readdirSync(temporary)).toEqual([])
  }

  describeServer("Kafka and PostgreSQL", Effect.all([Kafka.own(), Postgres.own()]), () => {
    it("when a program ends without closing its servers", () => forget("end"))
    it("when it is asked to end", () => forget("wait", "SIGTERM"))
    it("when it is killed", () => forget("wait", "SIGKILL"))
  })
})

describe("a start", () => {
  // Echoes what it hears, once somebody else has taken its port as often as it is told.
  const echo = `
    const [port, taken, fs] = [process.argv[1], Number(process.argv[2]), require("node:fs")]
    fs.appendFileSync("ports", port + "\\n")
    if (fs.readFileSync("ports", "utf8").trim().split("\\n").length <= taken) {
      console.error("bind: Address already in use")
      process.exit(1)
    }
    require("node:net").createServer((socket) => socket.pipe(socket)).listen(port, "127.0.0.1")`

  const start = (taken: number, ports: Array<number>) =>
    own({
      name: "Echo",
      ports: 1,
      startTimeout: "10 seconds",
      prepare: () => Effect.void,
      program: (_folder, [port = 0]) => {
        ports.push(port)
        return {
          command: process.execPath,
          args: ["-e", echo, `${port}`, `${taken}`],
          stopSignal: "SIGTERM",
          probe: { host: "127.0.0.1", port, hello: Buffer.from("hello"), isAnswer: (reply) => reply.includes("hello") }
        }
      }
    })

  it.live("takes other ports where its own were taken meanwhile, twice", () =>
    Effect.gen(function*() {
      const ports: Array<number> = []
      const server = yield* start(2, ports)
      expect(new Set(ports).size).toBe(3)
      expect(server.address).toBe(`127.0.0.1:${ports[2]}`)
      expect(yield* server.logs).toBe("bind: Address already in use\n".repeat(2))
    }).pipe(Effect.scoped))

  it.live("gives up after the third", () =>
    Effect.gen(function*() {
      const ports: Array<number> = []
      const error = yield* Effect.flip(start(3, ports))
      expect(ports).toHaveLength(3)
      expect(error.message).toBe("Echo did not start: it ended with code 1\nbind: Address already in use\n")
    }).pipe(Effect.scoped))
})

const sharedBy = (server: Server) => Effect.map(Effect.flip(server.kill), (error) => error.message)

describeKafka("the Kafka of the run", (kafka) => {
  it.live("is shared", () =>
    Effect.gen(function*() {
      const topic = `shared-${process.pid}-${Date.now()}`
      yield* Effect.promise(() => produce(kafka(), topic, ["one"]))
      expect(yield* Effect.promise(() => consume(kafka(), topic, topic, 1))).toEqual(["one"])
      expect(yield* sharedBy(kafka())).toContain("all files of this test run share it")
    }))
})

describePostgres("the PostgreSQL of the run", (postgres) => {
  it.live("is shared", () =>
    Effect.gen(function*() {
      expect(yield* sql(postgres(), (sql) => sql`SELECT 1 AS one`)).toEqual([{ one: 1 }])
      expect(yield* sharedBy(postgres())).toContain("all files of this test run share it")
    }))
})
