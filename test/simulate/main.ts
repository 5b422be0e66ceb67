// Runs histories of faults over the engine, or one of them again: `pnpm simulate [--seed N | --from N --seeds N] [--plant NAME]`.
import * as Core from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { Effect } from "effect"
import { parseArgs } from "node:util"
import { grow } from "./greenhouse.ts"
import { plants } from "./plants.ts"
import { events, rules } from "./rules.ts"
import type { Subject } from "./settings.ts"
import { command, Coverage, program, survey } from "./survey.ts"

const usage = `Usage: pnpm simulate [--seed N | [--from N] [--seeds N]] [--plant NAME]

Runs seeded histories of deliveries, failures, crashes, rebalances, outages, pauses and drains over the engine and the
memory broker, and checks the settlement rules in each. Exits with 1 when one does not hold.

  --seed N      runs one history and prints what happened in it, each line with its virtual time
  --seeds N     how many histories to run; an integer from 1. Default: 10,000
  --from N      the first seed; an integer from 0. Default: 0
  --plant NAME  runs them with a bug planted in the engine
  --list        the rules, the events, and the bugs that can be planted
  --help        this text
`

const refuse = (message: string): never => {
  console.error(`${message}\n\n${usage}`)
  process.exit(2)
}

const read = () => {
  try {
    return parseArgs({
      options: {
        seed: { type: "string" },
        seeds: { type: "string" },
        from: { type: "string" },
        plant: { type: "string" },
        list: { type: "boolean" },
        help: { type: "boolean", short: "h" }
      }
    }).values
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error))
  }
}

const values = read()

const integer = (option: "seed" | "seeds" | "from", least: number, otherwise: number): number => {
  const value = values[option]
  if (value === undefined) return otherwise
  const number = value.trim() === "" ? Number.NaN : Number(value)
  return Number.isInteger(number) && number >= least
    ? number
    : refuse(`--${option} must be an integer from ${least}, got ${value}`)
}

const list = (): void => {
  const table = (title: string, rows: ReadonlyArray<readonly [string, string]>) => {
    console.log(title)
    for (const [name, about] of rows) console.log(`  ${name.padEnd(28)}${about}`)
  }
  table("Rules, checked in each history:", Object.entries(rules))
  table("\nWhat happens in them:", Object.entries(events))
  table("\nBugs for --plant:", plants.map(({ about, name }) => [name, about]))
}

const subjectOf = (name: string): Promise<Subject> => {
  const plant = plants.find((one) => one.name === name)
  return plant === undefined
    ? refuse(`no bug is called ${name}; there are: ${plants.map((one) => one.name).join(", ")}`)
    : grow(plant)
}

/** One history, told line by line. */
const replay = (subject: Subject, seed: number): boolean => {
  const told = Simulation.run(seed, program(subject, new Coverage()), { record: true })
  for (const line of told.log) console.log(line)
  const size = `${told.steps.toLocaleString("en")} steps, ${
    Math.round(told.milliseconds).toLocaleString("en")
  } virtual ms`
  const faults = told.exit._tag === "Success" || told.faults.length > 0 ? told.faults : [String(told.exit.cause)]
  console.log(`\nseed ${seed} ${faults.length === 0 ? "holds" : "does not hold"}: ${size}`)
  for (const fault of faults) console.log(`  ${fault}`)
  return faults.length === 0
}

/** Many histories, a line for each thousand. */
const range = async (subject: Subject, from: number, seeds: number): Promise<boolean> => {
  const { plant } = values
  const coverage = new Coverage()
  const step = 1000
  for (let done = 0; done < seeds; done += step) {
    const part = { from: from + done, seeds: Math.min(step, seeds - done), plant }
    const result = await Effect.runPromise(Effect.result(survey(subject, part, coverage)))
    if (result._tag === "Failure") {
      const { faults, seed } = result.failure
      console.log(`seed ${seed} does not hold\n  ${faults.slice(0, 10).join("\n  ")}\nagain: ${command(seed, plant)}`)
      return false
    }
    console.log(`${(done + part.seeds).toLocaleString("en")} of ${seeds.toLocaleString("en")} hold`)
  }
  console.log(coverage.print())
  return true
}

if (values.help === true) console.log(usage)
else if (values.list === true) list()
else {
  if (values.seed !== undefined && (values.seeds !== undefined || values.from !== undefined)) {
    refuse("--seed runs one history; for more, give --from and --seeds instead")
  }
  const seed = integer("seed", 0, 0)
  const from = integer("from", 0, 0)
  const seeds = integer("seeds", 1, 10_000)
  const subject = values.plant === undefined ? Core : await subjectOf(values.plant)
  const holds = values.seed === undefined ? await range(subject, from, seeds) : replay(subject, seed)
  process.exitCode = holds ? 0 : 1
}
