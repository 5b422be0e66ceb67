import { assert } from "@effect/vitest"
import { Idempotency } from "@millrace/core"
import { Effect } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"

/** What a process that races is told. */
export interface Racer {
  readonly kind: "SQLite" | "PostgreSQL" | "Redis"
  /** The file or the address. */
  readonly place: string
  /** The table or the prefix. */
  readonly name: string
  readonly keys: number
  /** Milliseconds. */
  readonly lease: number
  /** How likely it dies between two calls of the store. */
  readonly dies: number
  /** So many keys all want at first, and who has one is often late: fewer than a process asks for at once. */
  readonly contested: number
}

/** So many keys: fewer than in the full race, which `MILLRACE_RACE_KEYS=100000` runs. */
export const keys = Number(process.env["MILLRACE_RACE_KEYS"] ?? 10_000)

const processes = 4
const mostKills = 10
const script = fileURLToPath(new URL("./IdempotencyRacer.ts", import.meta.url))

interface Told {
  readonly claimed: Array<number>
  readonly kept: Array<number>
  readonly refused: Array<number>
}

/**
 * Lets processes race for keys until each has seen all of them completed. One that dies is followed by another one; beside their
 * own deaths between two calls they are killed at any moment.
 */
const raced = (racer: Racer, folder: string) =>
  Effect.callback<{ told: ReadonlyArray<Told>; deaths: number; unavailable: number }>((resume) => {
    const told = Array.from({ length: racer.keys }, (): Told => ({ claimed: [], kept: [], refused: [] }))
    const running = new Map<ChildProcess, string>()
    let [started, deaths, unavailable, finished] = [0, 0, 0, 0]

    const read = (log: string) => {
      // the last line may be cut
      for (const line of readFileSync(log, "utf8").split("\n").slice(0, -1)) {
        const [what, key, token] = line.split(" ")
        if (what === "claimed" || what === "kept" || what === "refused") told[Number(key)]![what].push(Number(token))
        else unavailable++
      }
    }

    const start = () => {
      const log = join(folder, `log-${started++}`)
      writeFileSync(log, "")
      const child = spawn(process.execPath, ["--no-warnings", script, JSON.stringify(racer), log], {
        stdio: ["ignore", "ignore", "inherit"]
      })
      running.set(child, log)
      child.on("close", (code, signal) => {
        running.delete(child)
        read(log)
        if (signal === "SIGKILL") {
          deaths++
          return start()
        }
        if (code !== 0) resume(Effect.die(new Error(`a process that raced ended with ${code}`)))
        else if (++finished === processes) {
          clearInterval(killer)
          resume(Effect.succeed({ told, deaths, unavailable }))
        }
      })
    }

    for (let i = 0; i < processes; i++) start()
    // a process that has begun has a group on its way as often as not; who starts again goes through all keys, so there is an end
    let kills = 0
    const killer = setInterval(() => {
      const busy = [...running].filter(([, log]) => statSync(log).size > 0)
      if (kills < mostKills && busy[Math.floor(Math.random() * busy.length)]?.[0].kill("SIGKILL") === true) kills++
    }, 1000)
    return Effect.sync(() => {
      clearInterval(killer)
      for (const child of running.keys()) child.removeAllListeners("close").kill("SIGKILL")
    })
  })

const text = new TextDecoder()

/** Races for keys of a store, and checks what all were told against what the store says in the end. */
export const check = (racer: Racer) =>
  Effect.gen(function*() {
    const began = performance.now()
    const folder = yield* Effect.acquireRelease(
      Effect.sync(() => mkdtempSync(join(tmpdir(), "millrace-race-"))),
      (folder) => Effect.sync(() => rmSync(folder, { recursive: true }))
    )
    const { deaths, told, unavailable } = yield* raced(racer, folder)
    const seconds = (performance.now() - began) / 1000
    const store = yield* Idempotency.Store
    const wrong: Array<string> = []
    yield* Effect.forEach(told, ({ claimed, kept, refused }, key) =>
      Effect.map(store.claim({ key: `key-${key}`, fingerprint: "f", lease: racer.lease }), (claim) => {
        if (claim._tag !== "Completed") {
          return wrong.push(`${key} is ${claim._tag} in the end`)
        }
        const token = Number(text.decode(claim.result))
        if (new Set(claimed).size !== claimed.length) {
          wrong.push(`${key}: a token was given twice of ${claimed}`)
        }
        // who died before it could say so may have kept it
        if (
          kept.length > 1 || kept.some((each) =>
            each !== token
          )
        ) {
          wrong.push(`${key}: ${kept} were told that they are kept, and it is ${token}`)
        }
        if (refused.includes(token)) wrong.push(`${key}: ${token} was refused, and is kept`)
        // whoever claims later has found the earlier claim ended, so the last one wins
        if (Math.max(...claimed) !== token) wrong.push(`${key}: ${token} is kept, of the claims ${claimed}`)
        return 0
      }), { concurrency: 256, discard: true })
    const sum = (of: keyof Told) =>
      told.reduce((count, each) => count + each[of].length, 0)
    console.log(
      `${racer.kind}: ${racer.keys} keys, ${deaths} deaths, ${sum("claimed")} claims, ${
        sum("kept")
      } told that they are kept, `
        + `${sum("refused")} too late, ${unavailable} unavailable, ${seconds.toFixed(1)} s`
    )
    assert.deepStrictEqual(wrong, [])
    // it was a race, and there were deaths and late ones in it
    assert.isAbove(deaths, 3)
    assert.isAbove(sum("refused"), 0)
    assert.isAbove(sum("claimed"), racer.keys)
  }).pipe(Effect.scoped)

/** A race of the usual kind. */
export const racer = (kind: Racer["kind"], place: string, name: string): Racer => ({
  kind,
  place,
  name,
  keys,
  lease: 500,
  dies: 5 / keys,
  contested: 48
})

/** How long a race may take: what is blocked for ever would take longer. */
export const timeLimit = 120_000 + keys * 10
