/**
 * The waits between attempts in place.
 */
import { Cause, Duration, Effect, Random, Schedule } from "effect"
import * as OptionCheck from "../../message/OptionCheck.ts"

/** Options of `exponential`. */
export interface Exponential {
  /** How many retries follow the first attempt; an integer from 1. Default 3. */
  readonly times?: number | undefined
  /** The first wait, before `jitter`. Default 1 second. */
  readonly base?: Duration.Input | undefined
  /** The factor between one wait and the next, from 1. Default 2. */
  readonly factor?: number | undefined
  /** The longest wait, before `jitter`. Default 30 seconds. */
  readonly cap?: Duration.Input | undefined
  /** The random deviation of a wait, as a fraction of it from 0 to 1. Default 0.2: between 80 % and 120 %. */
  readonly jitter?: number | undefined
}

/** Checks the options of `Retry`. */
export const check = OptionCheck.make("Retry")

/**
 * Makes exponential backoff: waits of `base * factor ** n`, at most `cap`, ± `jitter` of it, `times` times.
 *
 * @throws RangeError when an option is out of range
 * @category schedules
 */
export const exponential = (options: Exponential = {}): Schedule.Schedule<number> => {
  const times = check.count("times", options.times ?? 3)
  const base = check.millis("base", options.base ?? "1 second", { least: 0 })
  const factor = check.number("factor", options.factor ?? 2, { least: 1 })
  const cap = check.millis("cap", options.cap ?? "30 seconds", { least: 0 })
  const jitter = check.fraction("jitter", options.jitter ?? 0.2)
  return Schedule.fromStepWithMetadata(Effect.succeed(({ attempt }: Schedule.InputMetadata<unknown>) => {
    if (attempt > times) return Cause.done(times)
    const wait = Math.min(cap, base * factor ** (attempt - 1))
    return Effect.map(Random.next, (random): [number, Duration.Duration] => [
      attempt,
      Duration.millis(wait * (1 + jitter * (2 * random - 1)))
    ])
  }))
}
