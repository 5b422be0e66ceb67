/**
 * A benchmark: variants that do the same work, each in a process of its own, and goals that are ratios of one run.
 */
import { spawn } from "node:child_process"
import { availableParallelism, cpus, loadavg } from "node:os"
import { join } from "node:path"

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

/** What the variants of a benchmark share, e.g. a server: started before the first, and closed after the last. */
export interface Shared {
  /** Environment variables of the variants' processes. */
  readonly environment: Readonly<Record<string, string>>
  readonly close: () => Promise<void>
}

export interface Bench {
  readonly name: string
  readonly about: string
  readonly rounds: number
  readonly share?: () => Promise<Shared>
  readonly variants: ReadonlyArray<Variant>
  readonly goals: ReadonlyArray<Goal>
}

/** A goal that is missed by more than this share fails the run. */
const margin = 0.25

/** Set for a trial: everything runs as it does when it is measured, with few messages. */
const trial = process.env["MILLRACE_BENCH"] === "trial"

/** So many messages; in a trial a hundredth of them. */
export const scaled = (count: number): number => trial ? Math.ceil(count / 100) : count

let kept: unknown

/**
 * Keeps the first engine of a process. V8 compiles code anew for a class whose instances are all gone; a program that runs has
 * some.
 */
export const keepFirst = (first: unknown): void => {
  kept ??= first
}

/** What it costs from here to the call of what it returns, for each of `count` messages. */
export const stopwatch = (): (count: number) => Measured => {
  globalThis.gc?.()
  const cpu = process.cpuUsage()
  const began = performance.now()
  return (count) => {
    const wall = performance.now() - began
    const used = process.cpuUsage(cpu)
    return { cpu: (used.user + used.system) / count, perSecond: count / wall * 1000 }
  }
}

/**
 * Measures `run(count)`: warms up, then takes the CPU time of a run of about a second.
 */
export const measure = async (
  run: (count: number) => unknown,
  options: { readonly least?: number; readonly most?: number } = {}
): Promise<Measured> => {
  const least = scaled(options.least ?? 2_000)
  const most = scaled(options.most ?? 2_000_000)
  await run(least)
  const before = performance.now()
  await run(least)
  const each = (performance.now() - before) / least
  const count = trial ? least : Math.max(least, Math.min(most, Math.round(1000 / each)))
  await run(Math.ceil(count / 2))
  const stop = stopwatch()
  await run(count)
  return stop(count)
}

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[(values.length - 1) >> 1]!

/** The program of one variant, of this checkout. */
const here = new URL("variant.ts", import.meta.url).pathname

const child = (
  bench: string,
  variant: string | undefined,
  environment: Readonly<Record<string, string>>,
  program: string = here
): Promise<Measured> =>
  new Promise((resolve, reject) => {
    const flags = ["--expose-gc", "--no-warnings", program, bench]
    const process_ = spawn(process.execPath, variant === undefined ? flags : [...flags, variant], {
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 300_000,
      env: { ...process.env, ...environment }
    })
    let out = ""
    let err = ""
    process_.stdout.on("data", (chunk) => out += chunk)
    process_.stderr.on("data", (chunk) => err += chunk)
    process_.on("exit", (code) => {
      const line = out.trim().split("\n").at(-1) ?? ""
      if (code === 0 && line.startsWith("{")) resolve(JSON.parse(line) as Measured)
      else reject(new Error(`${bench} / ${variant ?? "all variants"} ended with ${code}:\n${err || out}`))
    })
  })

const withShared = async <A>(bench: Bench, run: (environment: Shared["environment"]) => Promise<A>): Promise<A> => {
  const shared = await bench.share?.()
  try {
    return await run(shared?.environment ?? {})
  } finally {
    await shared?.close()
  }
}

/** Runs every variant once with few messages, in one process, and judges nothing: fails where one does not work. */
export const tryBench = (bench: Bench): Promise<void> =>
  withShared(bench, async (environment) => {
    await child(bench.name, undefined, environment)
    console.log(`${bench.name}: ${bench.variants.length} variants work`)
  })

const figure = (value: number): string =>
  value >= 1000 ? Math.round(value).toLocaleString("en-US") : value >= 10 ? value.toFixed(1) : value.toPrecision(3)

const spread = (values: ReadonlyArray<number>): string =>
  values.length === 1 ? "" : `${figure(Math.min(...values))} to ${figure(Math.max(...values))}`

/** The figures of each variant, round by round. */
type Rounds = ReadonlyMap<string, ReadonlyArray<Measured>>

const measureAll = async (bench: Bench, rounds: number, environment: Shared["environment"]): Promise<Rounds> => {
  const all = new Map<string, Array<Measured>>(bench.variants.map(({ name }) => [name, []]))
  for (let round = 0; round < rounds; round++) {
    // there and back again, so that none always follows the same one
    for (const { name } of round % 2 === 0 ? bench.variants : bench.variants.toReversed()) {
      if (process.stdout.isTTY) process.stdout.write(`\x1b[2K\r  round ${round + 1} of ${rounds}: ${name}`)
      all.get(name)!.push(await child(bench.name, name, environment))
    }
  }
  if (process.stdout.isTTY) process.stdout.write("\x1b[2K\r")
  return all
}

const table = (bench: Bench, all: Rounds): ReadonlyArray<ReadonlyArray<string>> => {
  const base = median(all.get(bench.variants.find(({ whose }) => whose === "millrace")!.name)!.map(({ cpu }) => cpu))
  const others = [...new Set([...all.values()].flatMap(([first]) => Object.keys(first!)))].filter((each) =>
    each !== "cpu"
  )
  return [
    ["variant", "CPU us/message", "from round to round", "ratio", ...others],
    ...bench.variants.map(({ name }) => {
      const runs = all.get(name)!
      const cpu = runs.map((run) => run.cpu)
      const own = others.map((other) =>
        runs[0]![other] === undefined ? "" : figure(median(runs.map((run) => run[other]!)))
      )
      return [name, figure(median(cpu)), spread(cpu), base === 0 ? "" : (median(cpu) / base).toFixed(2), ...own]
    })
  ]
}

/** Each round's own figure, as its variants ran side by side; the median of the rounds is what counts. */
const judge = (goal: Goal, all: Rounds, rounds: number) => {
  const figures = Array.from({ length: rounds }, (_, round) => goal.measured((name) => all.get(name)![round]!))
  const measured = median(figures)
  const reached = (target: number) => goal.better === "higher" ? measured >= target : measured <= target
  return {
    tolerated: reached(goal.target * (goal.better === "higher" ? 1 - margin : 1 + margin)),
    line: [
      goal.id,
      goal.text,
      `${goal.better === "higher" ? "at least" : "at most"} ${figure(goal.target)}`,
      `measured ${figure(measured)}`,
      rounds === 1 ? "" : `(${spread(figures)})`,
      reached(goal.target) ? "met" : "missed"
    ]
  }
}

const print = (rows: ReadonlyArray<ReadonlyArray<string>>, left: number): void => {
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((row) => row[i]!.length)))
  const cell = (text: string, i: number) => i < left ? text.padEnd(widths[i]!) : text.padStart(widths[i]!)
  for (const row of rows) console.log(row.map(cell).join("  ").trimEnd())
}

const load = (): string => loadavg()[0]!.toFixed(1)

const circumstances = (rounds: number, before: string): string => {
  const machine = `${cpus()[0]?.model ?? "unknown processor"}, ${availableParallelism()} cores, Node ${process.version}`
  return `${machine}; ${rounds} rounds, load average ${before} before and ${load()} after\n`
}

/** One row for each figure: in the other checkout, in this one, and the ratio of each round. */
const compared = (name: string, pairs: ReadonlyArray<readonly [there: Measured, here: Measured]>) =>
  Object.keys(pairs[0]![1]).filter((key) => pairs.some(([, here]) => here[key] !== 0)).map((key) => {
    const there = pairs.map(([first]) => first[key] ?? Number.NaN)
    const here = pairs.map(([, second]) => second[key]!)
    const ratios = here.map((value, i) => value / there[i]!)
    const range = ratios.length === 1 ? "" : `${Math.min(...ratios).toFixed(2)} to ${Math.max(...ratios).toFixed(2)}`
    const unit = key === "cpu" ? "CPU us/message" : key
    const [first, second] = [median(there), median(here)].map(figure)
    return [name, unit, first!, spread(there), second!, spread(here), median(ratios).toFixed(2), range]
  })

/**
 * Runs our own variants `rounds` times in another checkout and in this one, in turn, and prints the figures of both with the
 * ratio of each round. Judges no goals; fails where the other checkout lacks a variant.
 */
export const compareBench = (bench: Bench, rounds: number, checkout: string): Promise<void> =>
  withShared(bench, async (environment) => {
    console.log(`${bench.name}: ${bench.about}; ${checkout} beside this checkout`)
    const before = load()
    const there = join(checkout, "test/bench/variant.ts")
    const rows: Array<ReadonlyArray<string>> = []
    for (const { name } of bench.variants.filter(({ whose }) => whose === "millrace")) {
      const pairs: Array<readonly [Measured, Measured]> = []
      for (let round = 0; round < rounds; round++) {
        // there and back again, so that neither always follows the other
        const measured = new Map<string, Measured>()
        for (const program of round % 2 === 0 ? [there, here] : [here, there]) {
          measured.set(program, await child(bench.name, name, environment, program))
        }
        pairs.push([measured.get(there)!, measured.get(here)!])
      }
      rows.push(...compared(name, pairs))
    }
    console.log(circumstances(rounds, before))
    print([["variant", "figure", "there", "", "here", "", "ratio", "from round to round"], ...rows], 2)
  })

/**
 * Runs every variant `rounds` times in turn; prints medians and ratios, then one line for each goal. Answers whether all goals
 * are met within the margin.
 */
export const runBench = (bench: Bench, rounds: number): Promise<boolean> =>
  withShared(bench, async (environment) => {
    console.log(`${bench.name}: ${bench.about}`)
    const before = load()
    const all = await measureAll(bench, rounds, environment)
    console.log(circumstances(rounds, before))
    print(table(bench, all), 1)
    console.log()
    const judged = bench.goals.map((goal) => judge(goal, all, rounds))
    print(judged.map(({ line }) => line), 6)
    return judged.every(({ tolerated }) => tolerated)
  })
