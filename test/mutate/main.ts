// Changes the core in small ways and looks whether a test notices: `pnpm mutate [PATH …]`.
import { availableParallelism } from "node:os"
import { relative, resolve } from "node:path"
import { parseArgs } from "node:util"
import { read, source, sources } from "./copies.ts"
import { switched } from "./operators.ts"
import { planted } from "./planted.ts"
import { print, reasonOf, reportOf, stale, told } from "./report.ts"
import { run } from "./Run.ts"

const usage = `Usage: pnpm mutate [PATH …] [--planted] [--only TEXT] [--tests TEXT …] [--minutes N] [--jobs N] [--json]

Makes small changes (mutants) in copies of packages/core/src, one at a time, and runs the unit tests and the simulation
against each until one fails. A mutant that no test kills shows what the tests do not check.

  PATH          files or folders of packages/core/src. Default: internal/engine and memory
  --planted     only the mutants written by hand in test/mutate/planted.ts
  --only TEXT   only mutants whose line in the list contains TEXT, such as Fifo.ts:12 or "planted memory-trim"
  --tests TEXT  only test files whose path contains TEXT; may be given more than once
  --minutes N   begins no mutant after N minutes. The order is a shuffle, so that the score is an estimate of the whole
  --seed N      the order of the shuffle; an integer from 0. Default: 0
  --jobs N      how many processes. Default: the number of processors
  --fresh       takes no verdict from an earlier run
  --list        prints the mutants and runs nothing
  --json        prints the result as JSON
  --least N     the score in percent that each folder must have. Default: 90
  --help        this text

Exits with 1 when a folder has less than the least score, a planted mutant survives, or an entry of
test/mutate/equivalent.ts fits no mutant any more.
`

const refuse = (message: string): never => {
  console.error(`${message}\n\n${usage}`)
  process.exit(2)
}

const parse = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        planted: { type: "boolean" },
        only: { type: "string" },
        tests: { type: "string", multiple: true },
        minutes: { type: "string" },
        seed: { type: "string" },
        jobs: { type: "string" },
        least: { type: "string" },
        fresh: { type: "boolean" },
        list: { type: "boolean" },
        json: { type: "boolean" },
        help: { type: "boolean", short: "h" }
      }
    })
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error))
  }
}

const { positionals, values } = parse()

const number = (option: "minutes" | "seed" | "jobs" | "least", least: number, otherwise: number): number => {
  const value = values[option]
  if (value === undefined) return otherwise
  const found = value.trim() === "" ? Number.NaN : Number(value)
  const isWhole = option === "minutes" || option === "least" || Number.isInteger(found)
  return isWhole && found >= least ? found : refuse(`--${option} must be a number from ${least}, got ${value}`)
}

/** Files of the core that the paths name: from the working directory, or inside the core. */
const filesOf = (paths: ReadonlyArray<string>): ReadonlyArray<string> => {
  const all = sources("**/*.ts")
  const found = paths.flatMap((path) => {
    const names = [relative(source, resolve(path)), path.replace(/\/$/, "")]
    const files = all.filter((file) => names.some((name) => file === name || file.startsWith(`${name}/`)))
    return files.length > 0 ? files : refuse(`${path} names no file of packages/core/src`)
  })
  return [...new Set(found)]
}

/** One line that is written over on a terminal, and now and then a line elsewhere. */
const progress = () => {
  let last = 0
  return (text: string): void => {
    if (process.stderr.isTTY) return void process.stderr.write(`\r\u001B[K${text}`)
    if (Date.now() - last < 15_000) return
    last = Date.now()
    console.error(text)
  }
}

const main = async (): Promise<number> => {
  if (values.help === true) {
    console.log(usage)
    return 0
  }
  const files = values.planted === true
    ? []
    : filesOf(positionals.length > 0 ? positionals : ["internal/engine", "memory"])
  const least = number("least", 0, 90)
  const { only } = values
  const all = files.flatMap((file) => switched(file, read(file), 0).mutants)
  const old = stale(all, files)
  if (old.length > 0) {
    console.error(`test/mutate/equivalent.ts has entries that fit no mutant; mend or remove them:\n${old.join("\n")}`)
    return 1
  }
  if (values.list === true) {
    for (const mutant of all) if (only === undefined || told(mutant).includes(only)) console.log(told(mutant))
    return 0
  }
  const outcome = await run({
    files,
    plants: values.planted === true
      ? planted
      : planted.filter(({ edits }) => edits.every(({ file }) => files.includes(file))),
    tests: values.tests ?? [],
    jobs: number("jobs", 1, availableParallelism()),
    budget: number("minutes", 0, Number.POSITIVE_INFINITY) * 60_000,
    seed: number("seed", 0, 0),
    wanted: (mutant) => only === undefined || told(mutant).includes(only),
    isEquivalent: (mutant) => reasonOf(mutant) !== undefined,
    isCached: values.fresh !== true,
    onProgress: progress()
  })
  const report = reportOf(outcome)
  if (process.stderr.isTTY) process.stderr.write("\n")
  console.log(values.json === true ? JSON.stringify(report, undefined, 2) : print(report))
  return report.planted.survived > 0 || report.folders.some(({ score }) => score < least) ? 1 : 0
}

process.exitCode = await main()
