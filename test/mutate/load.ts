/**
 * Makes every import of this process that leads to the core lead to a copy of it, and every import of vitest to
 * `vitest.ts`.
 */
import { registerHooks } from "node:module"
import { join } from "node:path"
import { pathToFileURL } from "node:url"

const core = pathToFileURL(join(import.meta.dirname, "../../packages/core/src/")).href
const collector = new URL("./vitest.ts", import.meta.url).href

/** `copy`: a folder that holds what `packages/core/src` holds. */
export const redirect = (copy: string): void => {
  const other = pathToFileURL(`${copy}/`).href
  registerHooks({
    resolve: (specifier, context, next) => {
      if (specifier === "vitest" && context.parentURL !== collector) return { url: collector, shortCircuit: true }
      const found = next(specifier, context)
      return found.url.startsWith(core) ? { ...found, url: other + found.url.slice(core.length) } : found
    }
  })
}
