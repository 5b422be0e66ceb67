/**
 * Millrace in programs that know nothing of Effect.
 *
 *   npx -y pnpm@12 exec node examples/07-plain/main.ts express
 *   npx -y pnpm@12 exec node examples/07-plain/main.ts nest
 */
import { argv } from "node:process"

const [, , name = "express"] = argv
if (name === "express") await import("./express.ts")
else if (name === "nest") await import("./nest.ts")
else throw new RangeError(`The framework must be express or nest, got ${name}`)
