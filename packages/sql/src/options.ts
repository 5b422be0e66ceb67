/**
 * The checks of options that the stores share.
 */
import { Duration } from "effect"

/** An integer from 1. */
export const counted = (module: string, option: string, value: number): number => {
  if (Number.isInteger(value) && value >= 1) return value
  throw new RangeError(`${module}: ${option} must be an integer from 1, got ${value}`)
}

/** A duration from `least` milliseconds to 24 days. */
export const lasting = (
  module: string,
  option: string,
  value: Duration.Input | undefined,
  otherwise: Duration.Duration,
  least: number
): Duration.Duration => {
  const found = Duration.fromInputUnsafe(value ?? otherwise)
  const millis = Duration.toMillis(found)
  if (millis >= least && millis <= 0x7fff_ffff) return found
  throw new RangeError(`${module}: ${option} must be a duration from ${least} ms to 24 days, got ${String(value)}`)
}
