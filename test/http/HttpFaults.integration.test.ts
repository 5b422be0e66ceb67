import { PgClient } from "@effect/sql-pg"
import { it } from "@effect/vitest"
import { Bulkhead, Timeout } from "@millrace/core"
import { IdempotencyKey, type Request, Server } from "@millrace/http"
import * as Listener from "@millrace/http/Listener"
import { IdempotencyPostgres } from "@millrace/sql"
import { Postgres, Redis } from "@millrace/testing/servers"
import { Context, Effect, Layer, pipe, Redacted, References, Schedule } from "effect"
import { SqlClient } from "effect/sql"
import { spawn } from "node:child_process"
import { Agent, createServer, type IncomingHttpHeaders, request as nodeRequest } from "node:http"
import { connect } from "node:net"
import { createInterface } from "node:readline"
import { expect } from "vitest"
import { describeServer } from "../services/describe.ts"
import type { Settings } from "./fixtures/guardedProgram.ts"

const servers = Effect.all({ redis: Redis.own(), postgres: Postgres.own() }, { concurrency: "unbounded" })

const program = new URL("fixtures/guardedProgram.ts", import.meta.url).pathname

/** The program as a process of its own, and what it has said so far. */
const start = (settings: Settings) =>
  Effect.gen(function*() {
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, ["--no-warnings", program, JSON.stringify(settings)], {
          stdio: ["ignore", "pipe", "inherit"]
        })
      ),
      (child) => Effect.sync(() => void child.kill("SIGKILL"))
    )
    const lines: Array<string> = []
    const ended = new Promise<number | string | null>((resolve) => {
      child.once("close", (code, signal) => resolve(signal ?? code))
    })
    createInterface({ input: child.stdout }).on("line", (line) => lines.push(line))
    yield* until(() => lines.length > 0)
    const port = Number(lines[0]!.split(" ")[1])
    const said = (word: string) =>
      lines.flatMap((line) => line.startsWith(`${word} `) ? [line.slice(word.length + 1)] : [])
    return { child, pid: child.pid!, port, base: `http://127.0.0.1:${port}`, said, ended: Effect.promise(() => ended) }
  })

type Program = Effect.Success<ReturnType<typeof start>>

const until = (isSo: () => boolean | Promise<boolean>) =>
  Effect.promise(async () => isSo()).pipe(
    Effect.repeat({ until: (is) => is, schedule: Schedule.spaced("10 millis") }),
    Effect.timeout("30 seconds"),
    Effect.orDie
  )

const pause = (millis: number) => new Promise((resolve) => setTimeout(resolve, millis))

interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly millis: number
}

interface Asked {
  readonly method?: string
  readonly headers?: Record<string, string>
  readonly body?: string
  readonly agent?: Agent
  readonly from?: string
}

/** The answer began, and did not come to its end. */
class Cut extends Error {}

/** One request; rejects with `Cut` where an answer is cut, and with another error where there was none. */
const ask = (base: string, path: string, asked: Asked = {}): Promise<Answer> =>
  new Promise((resolve, reject) => {
    const at = performance.now()
    const request = nodeRequest(base + path, {
      method: asked.method ?? "POST",
      headers: asked.headers ?? {},
      agent: asked.agent ?? false,
      ...(asked.from === undefined ? {} : { localAddress: asked.from })
    })
    request.on("error", reject)
    request.on("response", (response) => {
      const chunks: Array<Buffer> = []
      response.on("data", (chunk: Buffer) => chunks.push(chunk))
      response.on("error", (cause) => reject(new Cut(String(cause))))
      response.on("close", () => reject(new Cut("closed")))
      response.on("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          text: Buffer.concat(chunks).toString(),
          millis: performance.now() - at
        }))
    })
    request.end(asked.body)
  })

const keyed = (name: string, takes = 0): Asked => ({
  headers: { "idempotency-key": `"${name}"`, "x-name": name, "x-takes": `${takes}` },
  body: "a body"
})

const get: Asked = { method: "GET" }

const ready = async ({ base }: Program) => (await ask(base, "/readyz", get)).status

const problem = (answer: Answer) => [
  answer.status,
  answer.headers["content-type"],
  (JSON.parse(answer.text) as { failure?: string }).failure,
  answer.headers["retry-after"]
]

const unavailable = [503, "application/problem+json", "dependency", "1"]

/** How often each was begun. */
const counted = (names: ReadonlyArray<string>) => {
  const counts = new Map<string, number>()
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1)
  return counts
}

const quantiles = (times: ReadonlyArray<number>) => {
  const sorted = times.toSorted((a, b) => a - b)
  const at = (share: number) => Math.round(10 * sorted[Math.floor(share * (sorted.length - 1))]!) / 10
  return { p50: at(0.5), p99: at(0.99), most: at(1) }
}

describeServer("HTTP under faults", servers, (all) => {
  const settings = (kind: Settings["kind"], more: Partial<Settings> = {}): Settings => ({
    kind,
    url: Redacted.value(all()[kind].url),
    patience: 30_000,
    lease: 60_000,
    limit: 1000,
    ...more
  })

  for (const kind of ["redis", "postgres"] as const) {
    it.live(`W4 W5 W6 W8 ${kind} stops and starts under load: who is strict is told 503, who waits is served, nothing runs twice`, () =>
      Effect.gen(function*() {
        const server = all()[kind]
        const patient = yield* start(settings(kind))
        const strict = yield* start(settings(kind, { patience: 0 }))
        let isOver = false
        const done = { patient: 0, strict: 0 }
        const refused: Array<Answer> = []
        const strange: Array<unknown> = []
        const held: Array<string> = []
        const client = async (who: "patient" | "strict", id: number) => {
          const { base } = who === "patient" ? patient : strict
          for (let n = 0; !isOver; n++) {
            const name = `${kind} ${who} ${id} ${n}`
            let answer = await ask(base, "/once", keyed(name, 5))
            while (answer.status === 503 && who === "strict") {
              refused.push(answer)
              await pause(20)
              answer = await ask(base, "/once", keyed(name, 5))
            }
            if (answer.status === 200) done[who]++
            // its answer could not be kept, or the word that it has the key was lost: nobody runs it before its lease ends
            else if (answer.status === 409 && who === "strict") held.push(name)
            else strange.push([name, problem(answer)])
          }
        }
        const clients = Promise.all(
          Array.from({ length: 16 }, (_, id) => client(id % 2 === 0 ? "patient" : "strict", id))
        )
        const more = (who: "patient" | "strict", count: number) => {
          const before = done[who]
          return until(() => done[who] >= before + count)
        }
        yield* more("strict", 50)
        expect([yield* Effect.promise(() => ready(strict)), yield* Effect.promise(() => ready(patient))])
          .toEqual([200, 200])

        yield* server.stop
        yield* until(async () => await ready(strict) === 503)
        // of what was in flight all has been answered by now
        yield* until(() => refused.length > 50)
        const before = strict.said("began").length
        const seen = refused.length
        yield* until(() => refused.length > seen + 50)
        expect(strict.said("began").length).toBe(before)
        const { closed, live, open, passed } = yield* Effect.promise(async () => ({
          closed: await ask(strict.base, "/closed", get),
          live: await ask(strict.base, "/livez", get),
          passed: await ask(strict.base, "/pass", get),
          open: await ask(strict.base, "/open", keyed(`${kind} open`))
        }))
        expect(problem(closed)).toEqual(unavailable)
        expect([live.status, passed.status, open.status]).toEqual([200, 200, 200])
        const uncounted = yield* Effect.promise(() => ask(strict.base, "/uncounted", get))
        expect(JSON.parse(uncounted.text)).toEqual({ count: 1 })

        yield* server.start
        yield* until(async () => await ready(strict) === 200)
        yield* until(async () => await ready(patient) === 200)
        yield* Effect.all([more("strict", 50), more("patient", 50)])
        const counts = yield* Effect.promise(() => ask(strict.base, "/closed", get))
        expect(counts.status).toBe(200)
        isOver = true
        yield* Effect.promise(() => clients)

        expect(strange).toEqual([])
        for (const answer of refused) expect(problem(answer)).toEqual(unavailable)
        const waited = counted(patient.said("began"))
        expect([...waited.values()].filter((count) => count !== 1)).toEqual([])
        expect(waited.size).toBe(done.patient)
        const runs = counted(strict.said("began").filter((name) => name.startsWith(`${kind} strict`)))
        expect([...runs.values()].filter((count) => count !== 1)).toEqual([])
        expect(held.length).toBeLessThanOrEqual(8)
        expect([...patient.said("uncaught"), ...strict.said("uncaught")]).toEqual([])
        yield* Effect.log(
          `${kind}: ${done.patient} waited or were served, ${done.strict} were served strictly, ${refused.length} answers of 503, ${held.length} keys held`
        )
      }))

    it.live(`W4 W5 ${kind}: who stands still for longer than its lease cannot overwrite the answer of the next`, () =>
      Effect.gen(function*() {
        const [first, second] = yield* Effect.all([
          start(settings(kind, { lease: 600 })),
          start(settings(kind, { lease: 600 }))
        ], { concurrency: "unbounded" })
        const names = Array.from({ length: 10 }, (_, i) => `${kind} still ${i}`)
        const early = names.map((name) => ask(first.base, "/wait", keyed(name, 1_000)))
        yield* until(() => first.said("began").length === names.length)
        first.child.kill("SIGSTOP")
        // half of them are done when the first wakes up, half are not
        const [soon, slow] = [0, 2_000].map((takes, half) =>
          Promise.all(
            names.filter((_, i) => i % 2 === half).map((name) => ask(second.base, "/wait", keyed(name, takes)))
          )
        )
        const done = yield* Effect.promise(() => soon!)
        yield* until(() => second.said("began").length === names.length)
        // its handlers and its signs of life are due together
        yield* Effect.sleep("700 millis")
        first.child.kill("SIGCONT")
        const late = yield* Effect.promise(() => Promise.all(early))
        const rest = yield* Effect.promise(() => slow!)
        const served = names.map((_, i) => (i % 2 === 0 ? done : rest)[Math.floor(i / 2)]!)
        expect(served.map(({ headers, status }) => [status, headers["idempotent-replayed"]]))
          .toEqual(names.map(() => [200, undefined]))
        // lost, or so long asleep that its own patience with the store was over
        const lost = ["409 urn:millrace:problem:idempotency-key-lost", "503 about:blank"]
        for (const { status, text } of late) expect(lost).toContain(`${status} ${JSON.parse(text).type}`)
        const again = yield* Effect.promise(() =>
          Promise.all(names.flatMap((name) => [first, second].map(({ base }) => ask(base, "/wait", keyed(name)))))
        )
        // whoever is asked, the answer is that of the second
        expect(again.map(({ text }) => text)).toEqual(served.flatMap(({ text }) => [text, text]))
        expect(again.every(({ headers }) => headers["idempotent-replayed"] === "true")).toBe(true)
        expect(served.every(({ text }) => text.startsWith(`{"by":${second.pid},`))).toBe(true)
      }))

    it.live(`W4 W5 W6 ${kind}: clocks of processes that jump by days change neither leases nor answers nor counts`, () =>
      Effect.gen(function*() {
        const [a, b] = yield* Effect.all([
          start(settings(kind, { lease: 5_000 })),
          start(settings(kind, { lease: 5_000 }))
        ], { concurrency: "unbounded" })
        const day = 86_400_000
        const shift = (one: Program, days: number) => ask(one.base, `/shift/${Math.round(days * day)}`)
        yield* Effect.promise(async () => {
          const name = `${kind} clock`
          const first = ask(a.base, "/once", keyed(name, 1_000))
          while (a.said("began").length === 0) await pause(5)
          await Promise.all([shift(a, 3), shift(b, 30)])
          const meanwhile = await ask(b.base, "/once", keyed(name))
          expect(meanwhile.status).toBe(409)
          expect(Number(meanwhile.headers["retry-after"])).toBeLessThanOrEqual(5)
          const answer = await first
          expect(answer.status).toBe(200)
          for (const days of [-30, 0, 2, 365]) {
            await Promise.all([shift(a, days), shift(b, -days)])
            const again = [await ask(a.base, "/once", keyed(name)), await ask(b.base, "/once", keyed(name))]
            expect(again.map(({ text }) => text)).toEqual([answer.text, answer.text])
          }
          const passed: Array<number> = []
          for (let i = 0; i < 30; i++) {
            await shift(a, (i % 5) * 2 - 4)
            passed.push((await ask(i % 2 === 0 ? a.base : b.base, "/ten", get)).status)
          }
          expect(passed).toEqual([...Array<number>(10).fill(200), ...Array<number>(20).fill(429)])
        })
        expect(a.said("began").filter((name) => name === `${kind} clock`).length).toBe(1)
        expect(b.said("began").filter((name) => name === `${kind} clock`)).toEqual([])
      }))
  }

  it.live("W4 W5 50 slow requests on 2 connections: they wait in turn or are told 503 in time, and no connection is lost", () =>
    Effect.gen(function*() {
      const key = IdempotencyKey.middleware({ caller: () => "all", running: "wait" })
      const slow = (request: Request) =>
        Effect.gen(function*() {
          const sql = yield* SqlClient.SqlClient
          yield* sql`INSERT INTO effects (id) VALUES (${request.headers["x-name"] ?? ""})`
          yield* sql`SELECT pg_sleep(0.1)`
          return { done: request.headers["x-name"] }
        }).pipe(Effect.orDie)
      const late = { errors: { TimeoutExceeded: { status: 503, retryAfter: "1 second" } } } as const
      const full = { errors: { BulkheadFull: { status: 503 } } } as const
      const routes = [
        Server.route("POST", "/turn", pipe(slow, key)),
        // what has its connection and takes too long
        Server.route("POST", "/late", pipe(slow, Timeout.middleware({ after: "50 millis" }), key), late),
        // and what would wait for one too long is not let in
        Server.route(
          "POST",
          "/full",
          pipe(slow, key, Bulkhead.middleware({ name: "pool", limit: 2, queue: 8 })),
          full
        )
      ]
      const client = PgClient.layer({ url: all().postgres.url, maxConnections: 2, applicationName: "narrow" })
      const store = IdempotencyPostgres.layerClient({ table: "narrow_keys", transaction: "handler" })
      const context = yield* Layer.build(
        Listener.layer(createServer, routes, { port: 0, host: "127.0.0.1" }).pipe(
          Layer.provideMerge(Layer.provideMerge(store, client)),
          Layer.provide(Bulkhead.layer),
          Layer.provide(Layer.succeed(References.MinimumLogLevel, "None"))
        )
      )
      const base = `http://127.0.0.1:${Context.get(context, Listener.Address).port}`
      const sql = Context.get(context, SqlClient.SqlClient)
      yield* sql`CREATE TABLE effects (id text)`
      const fifty = (path: string) =>
        Effect.promise(() => Promise.all(Array.from({ length: 50 }, (_, i) => ask(base, path, keyed(`${path} ${i}`)))))
      const effects = (path: string) =>
        Effect.map(
          sql<{ readonly id: string }>`SELECT id FROM effects WHERE id LIKE ${`${path} %`}`,
          (rows) => rows.map(({ id }) => id)
        )
      const statuses = (answers: ReadonlyArray<Answer>) => counted(answers.map(({ status }) => `${status}`))

      const turns = yield* fifty("/turn")
      expect(statuses(turns)).toEqual(new Map([["200", 50]]))
      expect(new Set(yield* effects("/turn")).size).toBe(50)
      expect((yield* effects("/turn")).length).toBe(50)

      const lates = yield* fifty("/late")
      expect(statuses(lates)).toEqual(new Map([["503", 50]]))
      expect(lates.map((answer) => problem(answer)[1])).toEqual(lates.map(() => "application/problem+json"))
      // what was interrupted has been rolled back
      expect(yield* effects("/late")).toEqual([])

      const fulls = yield* fifty("/full")
      const served = fulls.filter(({ status }) => status === 200)
      const refused = fulls.filter(({ status }) => status === 503)
      expect(served.length + refused.length).toBe(50)
      expect(served.length).toBeGreaterThanOrEqual(10)
      expect(refused.length).toBeGreaterThan(0)
      expect(refused.every(({ headers }) => headers["retry-after"] === "1")).toBe(true)
      expect((yield* effects("/full")).length).toBe(served.length)

      // nothing is left behind
      const left = yield* sql<{ readonly state: string }>`
        SELECT state FROM pg_stat_activity WHERE application_name = 'narrow' AND pid <> pg_backend_pid()`
      expect(left.length).toBeLessThanOrEqual(1)
      expect(left.filter(({ state }) => state !== "idle")).toEqual([])
      expect((yield* Effect.promise(() => ask(base, "/turn", keyed("after all")))).status).toBe(200)
      const most = (answers: ReadonlyArray<Answer>) => Math.round(Math.max(...answers.map(({ millis }) => millis)))
      yield* Effect.log(
        `longest, in ms: in turn ${most(turns)}, with a time limit ${most(lates)}, with a bulkhead ${most(fulls)}`
      )
    }))

  it.live("W4 W5 clients that go, in the middle of a body or of a handler, leave nothing behind", () =>
    Effect.gen(function*() {
      const one = yield* start(settings("redis", { lease: 2_000 }))
      const names = (what: string) => Array.from({ length: 20 }, (_, i) => `${what} ${i}`)
      /** Sends so much of a body of 100 bytes, waits, and goes. */
      const leave = (path: string, name: string, bytes: number, gone: () => boolean) =>
        Effect.promise(async () => {
          const socket = connect(one.port, "127.0.0.1")
          socket.on("error", () => {})
          socket.write(
            `POST ${path} HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\nidempotency-key: "${name}"\r\n`
              + `x-name: ${name}\r\nx-takes: 500\r\n\r\n${"b".repeat(bytes)}`
          )
          while (!gone()) await pause(5)
          socket.destroy()
        })
      const going = (path: string, what: string, bytes: number) => {
        const at = performance.now()
        return Effect.forEach(
          names(what),
          (name) =>
            leave(
              path,
              name,
              bytes,
              () => bytes === 100 ? one.said("began").includes(name) : performance.now() > at + 100
            ),
          {
            concurrency: "unbounded",
            discard: true
          }
        )
      }
      const again = (path: string, what: string) =>
        Effect.promise(() =>
          Promise.all(
            names(what).map((name) =>
              ask(one.base, path, { headers: { ...keyed(name).headers }, body: "b".repeat(100) })
            )
          )
        )
      const told = (answers: ReadonlyArray<Answer>) =>
        counted(answers.map(({ headers, status }) => `${status} ${headers["idempotent-replayed"] ?? "first"}`))

      // a body that does not end takes no key
      yield* going("/once", "body", 10)
      expect(told(yield* again("/once", "body"))).toEqual(new Map([["200 first", 20]]))
      // under a key the handler goes on, and whoever comes back finds its answer
      yield* going("/wait", "key", 100)
      expect(told(yield* again("/wait", "key"))).toEqual(new Map([["200 true", 20]]))
      // or it is interrupted, and the key is free at once
      yield* going("/leave", "leave", 100)
      yield* until(() => one.said("interrupted").length === 20)
      yield* until(() => one.said("began").length > 0)
      const left = yield* Effect.retry(
        Effect.flatMap(
          again("/leave", "leave"),
          (answers) =>
            answers.every(({ status }) => status === 200) ? Effect.succeed(answers) : Effect.fail("held" as const)
        ),
        { times: 20, schedule: Schedule.spaced("50 millis") }
      )
      expect(left.length).toBe(20)
      // and so is what has no key
      yield* going("/plain", "plain", 100)
      yield* until(() => one.said("interrupted").length === 40)
      expect(counted(one.said("interrupted").map((name) => name.split(" ")[0]!)))
        .toEqual(new Map([["leave", 20], ["plain", 20]]))
      const runs = counted(one.said("began").map((name) => name.split(" ")[0]!))
      expect(runs).toEqual(new Map([["body", 20], ["key", 20], ["leave", 40], ["plain", 20]]))
      expect(one.said("uncaught")).toEqual([])
      one.child.kill("SIGTERM")
      yield* one.ended
      expect(one.said("uncaught")).toEqual([])
    }))

  it.live("W5 W8 10 programs end by SIGTERM while 32 clients ask: no answer is cut, none that was begun is lost", () =>
    Effect.gen(function*() {
      let current = yield* start(settings("redis"))
      const begun: Array<string> = []
      const answered = new Set<string>()
      const cut: Array<string> = []
      const strange: Array<unknown> = []
      let refused = 0
      let isOver = false
      const client = async (id: number) => {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 })
        // it stays with the one that it knows for as long as that answers
        let { base } = current
        for (let n = 0; !isOver; n++) {
          for (let attempt = 0;; attempt++) {
            const name = `${id}.${n}.${attempt}`
            const headers = { "idempotency-key": `"sigterm ${id}.${n}"`, "x-name": name, "x-takes": `${(id + n) % 40}` }
            try {
              const answer = await ask(base, "/wait", { agent, headers, body: "c".repeat(1_000) })
              answered.add(name)
              if (answer.status !== 200 || (JSON.parse(answer.text) as { filler: string }).filler.length !== 2_000) {
                strange.push([name, answer.status])
              }
              break
            } catch (error) {
              if (error instanceof Cut) cut.push(name)
              else refused++
              await pause(10)
              base = current.base
            }
          }
        }
        agent.destroy()
      }
      const clients = Promise.all(Array.from({ length: 32 }, (_, id) => client(id)))
      for (let round = 0; round < 10; round++) {
        const old = current
        const next = yield* start(settings("redis"))
        yield* until(() => old.said("ended").length > 200)
        current = next
        old.child.kill("SIGTERM")
        const how = yield* old.ended
        expect(how === 0 || how === 130 || how === 143).toBe(true)
        expect([...old.said("interrupted"), ...old.said("uncaught")]).toEqual([])
        begun.push(...old.said("began"))
      }
      isOver = true
      yield* Effect.promise(() => clients)
      begun.push(...current.said("began"))
      expect(cut).toEqual([])
      expect(strange).toEqual([])
      expect(begun.filter((name) => !answered.has(name))).toEqual([])
      // a request that was sent again was not run before
      expect([...counted(begun.map((name) => name.slice(0, name.lastIndexOf(".")))).values()].filter((n) => n !== 1))
        .toEqual([])
      yield* Effect.log(`${answered.size} answered, 0 cut, ${refused} refused and sent to the next`)
    }))

  it.live("W6 a client that floods is refused, and another is not", () =>
    Effect.gen(function*() {
      const one = yield* start(settings("redis", { limit: 100 }))
      const quiet = async (count: number) => {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 })
        const answers: Array<Answer> = []
        for (let i = 0; i < count; i++) {
          answers.push(await ask(one.base, "/address", { ...get, agent, from: "127.0.0.3" }))
          await pause(20)
        }
        agent.destroy()
        return answers
      }
      yield* Effect.promise(() => quiet(50))
      const alone = yield* Effect.promise(() => quiet(150))
      let isOver = false
      const flood: Array<number> = []
      const flooding = Promise.all(Array.from({ length: 16 }, async () => {
        const agent = new Agent({ keepAlive: true, maxSockets: 1 })
        while (!isOver) flood.push((await ask(one.base, "/address", { ...get, agent, from: "127.0.0.2" })).status)
        agent.destroy()
      }))
      const at = performance.now()
      const beside = yield* Effect.promise(() => quiet(150))
      const seconds = (performance.now() - at) / 1000
      isOver = true
      yield* Effect.promise(() => flooding)
      expect([...alone, ...beside].filter(({ status }) => status !== 200)).toEqual([])
      const passed = flood.filter((status) => status === 200).length
      expect(flood.filter((status) => status !== 200 && status !== 429)).toEqual([])
      expect(passed).toBeLessThan(flood.length)
      // what a bucket holds, and what comes into it meanwhile
      expect(passed).toBeLessThanOrEqual(100 + Math.ceil((performance.now() - at) / 10))
      const times = (answers: ReadonlyArray<Answer>) => JSON.stringify(quantiles(answers.map(({ millis }) => millis)))
      yield* Effect.log(
        `alone ${times(alone)} ms, beside ${Math.round(flood.length / seconds)} requests/s, of which ${
          Math.round(passed / seconds)
        }/s pass, ${times(beside)} ms`
      )
    }))
})
