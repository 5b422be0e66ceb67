/**
 * A benchmark: variants that do the same work, each in a process of its own, and goals that are ratios of one run.
 */
import { spawn } from "node:child_process"
import { availableParallelism, cpus } from "node:os"

/** The figures of one run of a variant. `cpu` is CPU time of the whole process, all threads, in microseconds for each message. */
export interface Measured {
  readonly cpu: number
  readonly [figure: string]: number
}

export interface Variant {
  readonly name: string
  /** Whose code it is: ours, a peer's, or the bound that nobody passes. */
  readonly whose: "millrace" | "peer" | "limit"
  readonly run: () => Promise<Measured>
}

export interface Goal {
  readonly id: string
  readonly text: string
  readonly target: number
  readonly better: "higher" | "lower"
  readonly measured: (of: (variant: string) => Measured) => number
}

export interface Bench {
  readonly name: string
  readonly about: string
  readonly rounds: number
  readonly variants: ReadonlyArray<Variant>
  readonly goals: ReadonlyArray<Goal>
}

/** A goal that is missed by more than this share fails the run. */
const margin = 0.25

/**
 * Measures `run(count)`: warms up, then takes the CPU time of a run of about a second.
 */
export const measure = async (
  run: (count: number) => unknown,
  options: { readonly least?: number; readonly most?: number } = {}
): Promise<Measured> => {
  const { least = 2_000, most = 2_000_000 } = options
  await run(least)
  const before = performance.now()
  await run(least)
  const each = (performance.now() - before) / least
  const count = Math.max(least, Math.min(most, Math.round(1000 / each)))
  await run(Math.ceil(count / 2))
  globalThis.gc?.()
  const cpu = process.cpuUsage()
  const began = performance.now()
  await run(count)
  const wall = performance.now() - began
  const used = process.cpuUsage(cpu)
  return { cpu: (used.user + used.system) / count, perSecond: count / wall * 1000 }
}

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[(values.length - 1) >> 1]!

const child = (bench: string, variant: string): Promise<Measured> =>
  new Promise((resolve, reject) => {
    const flags = ["--expose-gc", "--no-warnings", new URL("variant.ts", import.meta.url).pathname, bench, variant]
    const process_ = spawn(process.execPath, flags, { stdio: ["ignore", "pipe", "pipe"] })
    let out = ""
    let err = ""
    process_.stdout.on("data", (chunk) => out += chunk)
    process_.stderr.on("data", (chunk) => err += chunk)
    process_.on("exit", (code) => {
      const line = out.trim().split("\n").at(-1) ?? ""
      if (code === 0 && line.startsWith("{")) resolve(JSON.parse(line) as Measured)
      else reject(new Error(`${bench} / ${variant} ended with ${code}:\n${err || out}`))
    })
  })

const figure = (value: number): string =>
  value >= 1000 ? Math.round(value).toLocaleString("en-US") : value >= 10 ? value.toFixed(1) : value.toPrecision(3)

/** Runs every variant `rounds` times in turn, prints medians and ratios, then one line for each goal; whether all are met. */
export const runBench = async (bench: Bench, rounds: number): Promise<boolean> => {
  console.log(`${bench.name}: ${bench.about}`)
  console.log(
    `${
      cpus()[0]?.model ?? "unknown processor"
    }, ${availableParallelism()} cores, Node ${process.version}, ${rounds} rounds\n`
  )
  const all = new Map<string, Array<Measured>>(bench.variants.map(({ name }) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    for (const { name } of bench.variants) {
      if (process.stdout.isTTY) process.stdout.write(`\x1b[2K\r  round ${round + 1} of ${rounds}: ${name}`)
      all.get(name)!.push(await child(bench.name, name))
    }
  }
  if (process.stdout.isTTY) process.stdout.write("\x1b[2K\r")
  const medians = new Map<string, Measured>()
  for (const [name, runs] of all) {
    const names = Object.keys(runs[0]!)
    medians.set(
      name,
      Object.fromEntries(names.map((each) => [each, median(runs.map((run) => run[each]!))])) as unknown as Measured
    )
  }
  const base = medians.get(bench.variants.find(({ whose }) => whose === "millrace")!.name)!
  const others = Object.keys(base).filter((name) => name !== "cpu")
  const width = Math.max(...bench.variants.map(({ name }) => name.length)) + 2
  console.log(
    [
      "variant".padEnd(width),
      "CPU us/message".padStart(15),
      "ratio".padStart(8),
      ...others.map((name) => name.padStart(14))
    ].join("")
  )
  for (const { name } of bench.variants) {
    const own = medians.get(name)!
    console.log(
      [
        name.padEnd(width),
        figure(own.cpu).padStart(15),
        (own.cpu / base.cpu).toFixed(2).padStart(8),
        ...others.map((other) => (own[other] === undefined ? "" : figure(own[other])).padStart(14))
      ].join("")
    )
  }
  console.log()
  let good = true
  for (const goal of bench.goals) {
    const measured = goal.measured((name) => medians.get(name)!)
    const met = goal.better === "higher" ? measured >= goal.target : measured <= goal.target
    const tolerated = goal.better === "higher"
      ? measured >= goal.target * (1 - margin)
      : measured <= goal.target * (1 + margin)
    if (!tolerated) good = false
    const sign = goal.better === "higher" ? "at least" : "at most"
    console.log(
      `${goal.id}  ${goal.text}: ${sign} ${figure(goal.target)}, measured ${figure(measured)}, ${
        met ? "met" : "missed"
      }`
    )
  }
  return good
}
