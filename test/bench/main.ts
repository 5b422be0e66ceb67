// Lists the benchmarks, or runs one beside its peers, or beside another checkout: `pnpm bench [NAME … | all]`.
import { existsSync } from "node:fs"
import { join, resolve } from "node:path"
import { parseArgs } from "node:util"

const usage = `Usage: pnpm bench [NAME … | all] [--rounds N] [--against FOLDER] [--trial]

Without a name, lists the benchmarks. With one, runs its variants in turn, each in a process of its own, and prints for
each the CPU time of a message and its ratio to ours; then one line for each goal. Exits with 1 when a goal is missed by
more than 25 %.

  --rounds N        how often each variant runs; an integer from 1. Medians are printed
  --against FOLDER  runs our variants in the checkout FOLDER and in this one in turn, and prints both with their ratios:
                    what a change has cost. FOLDER has its dependencies installed, e.g. a git worktree of the base
  --trial           runs every variant once with few messages and judges nothing: shows that they work
  --help            this text
`

const refuse = (message: string): never => {
  console.error(message)
  process.exit(2)
}

const read = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        rounds: { type: "string" },
        against: { type: "string" },
        trial: { type: "boolean" },
        help: { type: "boolean", short: "h" }
      }
    })
  } catch (error) {
    return refuse(`${error instanceof Error ? error.message : String(error)}\n\n${usage}`)
  }
}

const { positionals, values } = read()
// read when the benchmarks are loaded, here and in the processes of their variants
if (values.trial === true) process.env["MILLRACE_BENCH"] = "trial"
const [{ compareBench, runBench, tryBench }, { benches }] = await Promise.all([
  import("./Bench.ts"),
  import("./benches.ts")
])

const rounds = values.rounds === undefined ? undefined : Number(values.rounds)
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds >= 1)) {
  refuse(`--rounds must be an integer from 1, got ${values.rounds}`)
}
const against = values.against === undefined ? undefined : resolve(values.against)
if (against !== undefined && !existsSync(join(against, "test/bench/variant.ts"))) {
  refuse(`--against must be a checkout of Millrace, got ${values.against}: it has no test/bench/variant.ts`)
}
if (values.help === true) {
  console.log(usage)
} else if (positionals.length === 0) {
  const width = Math.max(...benches.map(({ name }) => name.length)) + 2
  for (const { about, goals, name } of benches) {
    console.log(`${name.padEnd(width)}${about}  [${[...new Set(goals.map(({ id }) => id))].join(", ")}]`)
  }
} else {
  const chosen = positionals.includes("all") ?
    benches :
    positionals.map((name) =>
      benches.find((bench) => bench.name === name) ??
        refuse(`no benchmark is called ${name}; there are: ${benches.map((bench) => bench.name).join(", ")}`)
    )
  let good = true
  for (const bench of chosen) {
    try {
      if (against !== undefined) await compareBench(bench, rounds ?? bench.rounds, against)
      else if (values.trial === true) await tryBench(bench)
      else if (!await runBench(bench, rounds ?? bench.rounds)) good = false
    } catch (error) {
      console.error(error instanceof Error ? error.message : error)
      good = false
    }
    if (values.trial !== true) console.log()
  }
  process.exitCode = good ? 0 : 1
}
