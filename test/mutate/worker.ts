/**
 * A process that runs tests against mutants. Arguments: the copy of the core, and how many switches it has.
 */
import * as fc from "fast-check"
import { join } from "node:path"
import { performance } from "node:perf_hooks"
import { pathToFileURL } from "node:url"
import { redirect } from "./load.ts"
import type { Reply, Request, Survey, Test, Verdict } from "./protocol.ts"
import type { Collected } from "./vitest.ts"

const [copy = "", switches = "0"] = process.argv.slice(2)

/** Thrown out of a loop that does not end. */
class Endless extends Error {}

let active = -1
let hits = new Uint8Array(Number(switches))
let ticks = 0
let deadline = Number.POSITIVE_INFINITY

/** Whether a mutant is on. Most loops that do not end pass a switch, and are ended here. */
const isOn = (id: number): boolean => {
  hits[id] = 1
  if ((++ticks & 0xffff) === 0 && performance.now() > deadline) throw new Endless("does not end")
  return id === active
}

Object.assign(globalThis, { __m: isOn })
redirect(copy)
// The same examples in each run, and a failure is enough: a smaller one is of no use.
fc.configureGlobal({ seed: 7, endOnFailure: true })
// What a mutant leaves behind may fail at any time; the test of another mutant must not pay for it.
process.on("unhandledRejection", () => {})
process.on("uncaughtException", () => {})

const send = (reply: Reply): void => void process.send!(reply)
const { collect } = await import("./vitest.ts")

const files = new Map<string, ReadonlyMap<string, Collected>>()
const met = new Map<string, Uint8Array>()

const load = async (file: string): Promise<ReadonlyMap<string, Collected>> => {
  const known = files.get(file)
  if (known !== undefined) return known
  hits = new Uint8Array(hits.length)
  const tests = await collect(() => import(pathToFileURL(join(import.meta.dirname, "..", file)).href))
  met.set(file, hits)
  hits = new Uint8Array(hits.length)
  const byName = new Map(tests.map((test) => [test.name, test]))
  files.set(file, byName)
  return byName
}

interface Ran {
  readonly time: number
  readonly idle: number
  readonly error: string | undefined
  readonly hung: boolean
}

const tick = 50

/**
 * Runs a test. It hangs when the process has waited for longer than the test ever made it wait: a test in virtual time
 * does not wait at all. Time alone would not do, since the machine may be busy.
 */
const run = (test: Collected, idleLimit: number, limit: number): Promise<Ran> => {
  const start = performance.now()
  deadline = start + limit
  let last = performance.eventLoopUtilization()
  let idle = 0
  return new Promise((resolve) => {
    const end = (error: string | undefined, hung: boolean): void => {
      clearInterval(watch)
      idle += performance.eventLoopUtilization(last).idle
      deadline = Number.POSITIVE_INFINITY
      resolve({ time: performance.now() - start, idle, error, hung })
    }
    const watch = setInterval(() => {
      idle += performance.eventLoopUtilization(last).idle
      last = performance.eventLoopUtilization()
      if (idle > idleLimit || performance.now() - start > limit) end(undefined, true)
    }, tick)
    Promise.resolve().then(() => test.run()).then(
      () => end(undefined, false),
      (error: unknown) =>
        end(String(error instanceof Error ? error.message : error).slice(0, 200), error instanceof Endless)
    )
  })
}

const isMet = (flags: Uint8Array): ReadonlyArray<number> => Array.from(flags.keys()).filter((id) => flags[id] === 1)

const survey = async (file: string): Promise<Survey> => {
  const refused: Array<string> = []
  const tests: Array<Test> = []
  const loaded = await load(file).catch((error: unknown) => {
    refused.push(`${file}: ${String(error)}`)
    return new Map<string, Collected>()
  })
  for (const [name, test] of loaded) {
    const first = await run(test, 30_000, 60_000)
    hits = new Uint8Array(hits.length)
    const { error, hung, idle, time } = first.error !== undefined || first.hung
      ? first
      : await run(test, 30_000, 60_000)
    if (error === undefined && !hung) tests.push({ file, name, time, idle, hits: isMet(hits) })
    else refused.push(`${file} ${name}: ${error ?? "hangs"}`)
  }
  return { file, tests, static: isMet(met.get(file) ?? hits), refused }
}

const kill = async (request: Extract<Request, { _tag: "run" }>): Promise<void> => {
  const { isFresh, mutant = -1, tests } = request
  const verdict = (verdict: Verdict, spoiled: boolean, ran: number): void =>
    send({ _tag: "verdict", verdict, spoiled: spoiled || isFresh, ran })
  let ran = 0
  for (const { file, idle, name, time } of tests) {
    const limit = 5_000 + 10 * time
    const by = `${file} ${name}`
    send({ _tag: "began", test: by, limit })
    if (isFresh) active = mutant
    let test: Collected | undefined
    let why = ""
    try {
      test = (await load(file)).get(name)
    } catch (error) {
      why = String(error)
    }
    if (test === undefined) return verdict({ _tag: "killed", by, why: `does not load: ${why}` }, true, ran)
    active = mutant
    const idleLimit = 400 + 2 * idle
    const { error, hung } = await run(test, idleLimit, limit)
    if (!isFresh) active = -1
    ran++
    if (error === undefined && !hung) continue
    // What earlier mutants left behind may fail a test as well: without the mutant it must pass.
    const control = isFresh ? undefined : await run(test, idleLimit, limit)
    const spoiled = control !== undefined && (control.error !== undefined || control.hung)
    return verdict(hung ? { _tag: "timed out", by } : { _tag: "killed", by, why: error ?? "" }, spoiled, ran)
  }
  verdict({ _tag: "survived" }, false, ran)
}

process.on("message", (request: Request) => {
  if (request._tag === "survey") {
    void survey(request.file).then((found) => send({ _tag: "surveyed", survey: found }))
  } else void kill(request)
})
