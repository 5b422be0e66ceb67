// Hostile clients beside a quiet one: `pnpm hostile [Listener|HttpRouter]`.
import { parseArgs } from "node:util"
import { type Held, type Name, names, type Quiet, type Report, run } from "./hostile.ts"

const usage = `Usage: pnpm hostile [${names.join("|")}]

Attacks a server by slow, half, forged, huge, cut and unread requests, beside a quiet client whose latency is measured alone and
beside. Exits with 1 when an answer of the quiet client was wrong, or the server holds more than before. Default: both, in turn.

  --minutes N      how long; a number above 0. Default: 10
  --connections N  how many hostile clients at once; an integer from 1. Default: 32
  --help           this text
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
        connections: { type: "string", default: "32" },
        help: { type: "boolean", short: "h" }
      }
    })
  } catch (error) {
    return refuse(error instanceof Error ? error.message : String(error))
  }
}

const quietOf = ({ asked, most, p50, p99 }: Quiet): string =>
  `${asked} asked, ${p50.toFixed(1)} ms (p50), ${p99.toFixed(1)} ms (p99), ${most.toFixed(0)} ms (most)`

const heldOf = ({ descriptors, fibers, heap, mostFibers }: Held): string =>
  `${descriptors} descriptors, ${(heap / 1024 / 1024).toFixed(1)} MiB, ${fibers} fibers (${mostFibers} at most)`

const isKept = ({ after, before, beside }: Report): boolean =>
  beside.wrong.length === 0 && after.descriptors <= before.descriptors && after.fibers <= before.fibers

const { positionals, values } = read()
if (values.help === true) {
  console.log(usage)
} else {
  const minutes = Number(values.minutes)
  const connections = Number(values.connections)
  if (!(minutes > 0)) refuse(`--minutes must be a number above 0, got ${values.minutes}`)
  if (!Number.isInteger(connections) || connections < 1) {
    refuse(`--connections must be an integer from 1, got ${values.connections}`)
  }
  const chosen = positionals.map((name): Name =>
    names.find((each) => each === name) ?? refuse(`There is no server ${name} here.`)
  )
  for (const name of chosen.length === 0 ? names : chosen) {
    const report = await run({ name, seconds: minutes * 60, connections })
    const attacked = Object.values(report.attacked).reduce((sum, n) => sum + n, 0)
    console.log(
      [
        `${name}: ${attacked} attacks in ${Object.keys(report.attacked).length} ways`,
        `alone:  ${quietOf(report.alone)}`,
        `beside: ${quietOf(report.beside)}`,
        `before: ${heldOf(report.before)}`,
        `after:  ${heldOf(report.after)}`,
        isKept(report) ? "every promise was kept" : `BROKEN: ${report.beside.wrong.slice(0, 5).join("; ")}`
      ].join("\n")
    )
    if (!isKept(report)) process.exitCode = 1
  }
}
