/** The limits that every decoder keeps, and the error of bytes or values that it refuses. */
import { OptionCheck } from "@millrace/core"

/** Limits of a decoder. */
export interface Limits {
  /** The largest body, in bytes; an integer from 1. Default: 16 MiB. */
  readonly maximumBytes?: number | undefined
  /** The deepest nesting; an integer from 1 to 1,000. Default: 100. */
  readonly maximumDepth?: number | undefined
  /** The most list items, map entries and nested values of one body; an integer from 1. Default: 1,000,000. */
  readonly maximumItems?: number | undefined
}

export interface ResolvedLimits {
  readonly bytes: number
  readonly depth: number
  readonly items: number
}

/** The defaults of the limits. */
export const defaults = { maximumBytes: 16 * 1024 * 1024, maximumDepth: 100, maximumItems: 1_000_000 }

export const resolve = (module: string, limits: Limits): ResolvedLimits => {
  const check = OptionCheck.make(module)
  return {
    bytes: check.count("maximumBytes", limits.maximumBytes ?? defaults.maximumBytes),
    depth: check.count("maximumDepth", limits.maximumDepth ?? defaults.maximumDepth, { most: 1_000 }),
    items: check.count("maximumItems", limits.maximumItems ?? defaults.maximumItems)
  }
}
