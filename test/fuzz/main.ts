// Changed bodies for every decoder: `pnpm fuzz [DECODER]`.
import { parseArgs } from "node:util"
import { decoders } from "./decoders.ts"
import { fuzz } from "./fuzz.ts"

const names = Object.keys(decoders)

const usage = `Usage: pnpm fuzz [${names.join("|")}]

Feeds decoders with changed, cut and random bodies. Each must answer or fail with an error of its own, within 100 ms, and its value may
be 16 times as large as the body. Prints the body that breaks this, and exits with 1. Default: all decoders, in turn.

  --minutes N  how long altogether; a number above 0. Default: 10
  --seed N     where the changes begin; an integer. Default: 1
  --help       this text
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
        minutes: { type: "string", default: "10" },
        seed: { type: "string", default: "1" },
        help: { type: "boolean", short: "h" }
      }
    })
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error))
  }
}

const { positionals, values } = read()
if (values.help === true) {
  console.log(usage)
} else {
  const minutes = Number(values.minutes)
  const seed = Number(values.seed)
  if (!(minutes > 0)) refuse(`--minutes must be a number above 0, got ${values.minutes}`)
  if (!Number.isInteger(seed)) refuse(`--seed must be an integer, got ${values.seed}`)
  for (const name of positionals) if (!names.includes(name)) refuse(`There is no decoder ${name} here.`)
  const chosen = positionals.length === 0 ? names : positionals
  for (const name of chosen) {
    const { decode, error, samples } = decoders[name]!
    try {
      const count = fuzz(decode, samples, error, { seed, span: minutes * 60_000 / chosen.length })
      console.log(`${name}: ${count} bodies`)
    } catch (broken) {
      console.error(`${name}: BROKEN: ${broken instanceof Error ? broken.message : String(broken)}`)
      process.exitCode = 1
    }
  }
}
