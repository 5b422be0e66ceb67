import { execFile } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { promisify } from "node:util"
import { bundleCore } from "../build/core.ts"
import type { Bench, Measured } from "./Bench.ts"

/** CPU time of a process that imports one module and ends. */
const starting = (specifier: () => string) => async (): Promise<Measured> => {
  const program = `${specifier() === "" ? "" : `await import(${JSON.stringify(specifier())});`}
    const { system, user } = process.cpuUsage(); console.log(system + user)`
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", program], {
    cwd: import.meta.dirname
  })
  return { cpu: Number(stdout) }
}

const packed = (): string => pathToFileURL(join(process.env["MILLRACE_PACKED_CORE"] ?? "", "index.js")).href

/** CPU time until the packed `@millrace/core` has been imported, beside `effect`, which it imports too. */
export const startup: Bench = {
  name: "startup",
  about: "a process that imports @millrace/core in its packed form, beside one that imports effect",
  rounds: 9,
  share: async () => {
    // inside this package, so that `effect` is found
    const folder = mkdtempSync(join(import.meta.dirname, "node_modules", ".core-"))
    await bundleCore(folder)
    return {
      environment: { MILLRACE_PACKED_CORE: folder },
      close: async () => rmSync(folder, { recursive: true, force: true })
    }
  },
  variants: [
    { name: "millrace", whose: "millrace", run: starting(packed) },
    { name: "effect", whose: "peer", run: starting(() => "effect") },
    { name: "nothing", whose: "limit", run: starting(() => "") }
  ],
  goals: [
    {
      id: "startup",
      text: "import of @millrace/core, times the import of effect",
      target: 1.3,
      better: "lower",
      measured: (of) => (of("millrace").cpu - of("nothing").cpu) / (of("effect").cpu - of("nothing").cpu)
    }
  ]
}
