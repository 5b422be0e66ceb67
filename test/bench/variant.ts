// One variant in a process of its own: prints its figures as one line of JSON.
import { benches } from "./benches.ts"

const [benchName, variantName] = process.argv.slice(2)
const variant = benches.find(({ name }) => name === benchName)?.variants.find(({ name }) => name === variantName)
if (variant === undefined) throw new Error(`no variant ${variantName} in ${benchName}`)
const measured = await variant.run()
// peers keep timers and sockets open
process.stdout.write(`${JSON.stringify(measured)}\n`, () => process.exit(0))
