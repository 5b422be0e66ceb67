// Lists the benchmarks, or runs one beside its peers: `pnpm bench [NAME … | all] [--rounds N]`.
import { parseArgs } from "node:util"
import { runBench } from "./Bench.ts"
import { benches } from "./benches.ts"

const usage = `Usage: pnpm bench [NAME … | all] [--rounds N]

Without a name, lists the benchmarks. With one, runs its variants in turn, each in a process of its own, and prints for
each the CPU time of a message and its ratio to ours; then one line for each goal. Exits with 1 when a goal is missed by
more than 25 %.
`

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: { rounds: { type: "string" }, help: { type: "boolean", short: "h" } }
})

const rounds = values.rounds === undefined ? undefined : Number(values.rounds)
if (rounds !== undefined && !(Number.isInteger(rounds) && rounds >= 1)) {
  console.error(`--rounds must be an integer from 1, got ${values.rounds}`)
  process.exit(2)
}
if (values.help === true) {
  console.log(usage)
} else if (positionals.length === 0) {
  const width = Math.max(...benches.map(({ name }) => name.length)) + 2
  for (const { about, goals, name } of benches) {
    console.log(`${name.padEnd(width)}${about}  [${[...new Set(goals.map(({ id }) => id))].join(", ")}]`)
  }
} else {
  const chosen = positionals.includes("all") ? benches : positionals.map((name) => {
    const found = benches.find((bench) => bench.name === name)
    if (found === undefined) {
      console.error(`no benchmark is called ${name}; there are: ${benches.map((bench) => bench.name).join(", ")}`)
      process.exit(2)
    }
    return found
  })
  let good = true
  for (const bench of chosen) {
    if (!await runBench(bench, rounds ?? bench.rounds)) good = false
    console.log()
  }
  process.exitCode = good ? 0 : 1
}
