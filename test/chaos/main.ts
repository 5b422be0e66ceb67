// Processes and servers killed at random under load, on one broker, and every message reconciled: `pnpm chaos BROKER`.
import { Console, Effect, Logger } from "effect"
import { parseArgs } from "node:util"
import { type Report, run } from "./chaos.ts"
import { subjects } from "./subjects.ts"

const usage = `Usage: pnpm chaos ${Object.keys(subjects).join("|")} [--messages N] [--keys N] [--rate N] [--seed TEXT]

Starts an own copy of the broker and three consumers, kills, stops, freezes and adds consumers at random while messages
flow, takes the server down twice, and reconciles what was produced, handled and settled. Exits with 1 when a promise is broken.

  --messages N  how many to publish; an integer from 1. Default: 500,000
  --keys N      how many keys they have; an integer from 1. Default: 1,000
  --rate N      how many to publish in a second at most. Default: 2,500
  --seed TEXT   the same draws again
  --help        this text
`

const refuse = (message: string): never => {
  console.error(`${message}\n\n${usage}`)
  process.exit(2)
}

const read = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        messages: { type: "string", default: "500000" },
        keys: { type: "string", default: "1000" },
        rate: { type: "string", default: "2500" },
        seed: { type: "string", default: String(Date.now() % 1_000_000) },
        help: { type: "boolean", short: "h" }
      }
    })
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error))
  }
}

const { positionals, values } = read()

const integer = (option: "messages" | "keys" | "rate"): number => {
  const number = Number(values[option])
  return Number.isInteger(number) && number >= 1
    ? number
    : refuse(`--${option} must be an integer from 1, got ${values[option]}`)
}

const shown = (report: Report): string =>
  [
    `${report.title}: ${report.produced} produced in ${
      report.seconds.toFixed(0)
    } s, ${report.confirmed} confirmed, ${report.unsure} without an answer`,
    `${report.handled} handled, ${report.lost} of the confirmed not, ${report.repeated} again (at most ${report.bound} were in flight at the faults)`,
    `${report.killed} killed, ${report.stopped} stopped, ${report.frozen} frozen, ${report.added} added, the server restarted ${report.restarts} times`,
    report.broken.length === 0 ? "every promise was kept" : `BROKEN:\n${report.broken.slice(0, 20).join("\n")}`
  ].join("\n")

if (values.help === true) {
  console.log(usage)
} else {
  const [subject] = positionals
  if (subject === undefined || !(subject in subjects) || positionals.length > 1) {
    refuse(subject === undefined ? "Which broker?" : `There is no broker ${positionals.join(" ")} here.`)
  } else {
    const began = performance.now()
    const report = await Effect.runPromise(
      run({
        subject,
        messages: integer("messages"),
        keys: integer("keys"),
        rate: integer("rate"),
        seed: values.seed,
        say: (text) => Console.log(`${((performance.now() - began) / 1000).toFixed(0).padStart(4)} s  ${text}`)
      }).pipe(Effect.provide(Logger.layer([])))
    )
    console.log(shown(report))
    process.exitCode = report.broken.length === 0 ? 0 : 1
  }
}
