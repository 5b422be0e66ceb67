/** The options that all stores have. */
import { OptionCheck } from "@millrace/core"
import type { Duration } from "effect"

/** Checks the name of a store. */
export const nameOf = (module: string, name: string): string => {
  if (name.length < 1 || name.length > 100) {
    throw new RangeError(`${module}: name must be 1 to 100 characters, got ${name.length}`)
  }
  return name
}

const hour = 3_600_000

/** Checks a retention; milliseconds, `Infinity` for ever. */
export const retentionOf = (module: string, retention: Duration.Input): number =>
  OptionCheck.make(module).millis("retention", retention, { least: hour, infinite: true })
