// One variant in a process of its own, or in a trial all of a benchmark: prints the figures as one line of JSON.
import { benches } from "./benches.ts"

const [benchName, variantName] = process.argv.slice(2)
const variants = benches.find(({ name }) => name === benchName)?.variants.filter(({ name }) =>
  variantName === undefined || name === variantName
)
if (variants === undefined || variants.length === 0) throw new Error(`no variant ${variantName} in ${benchName}`)
let measured = {}
for (const variant of variants) measured = await variant.run()
// peers keep timers and sockets open
process.stdout.write(`${JSON.stringify(measured)}\n`, () => process.exit(0))
