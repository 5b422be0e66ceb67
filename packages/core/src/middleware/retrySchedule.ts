/**
 * The waits between attempts in place.
 */
import { Cause, Duration, Effect, Random, Schedule } from "effect"

/** Options of `exponential`. */
export interface Exponential {
  /** How many retries follow the first attempt; an integer from 1. Default 3. */
  readonly times?: number | undefined
  /** The first wait. Default 1 second. */
  readonly base?: Duration.Input | undefined
  /** What each wait is multiplied by for the next one, from 1. Default 2. */
  readonly factor?: number | undefined
  /** The longest wait. Default 30 seconds. */
  readonly cap?: Duration.Input | undefined
  /** How far a wait may stray, as a part of it from 0 to 1. Default 0.2: between 80 % and 120 %. */
  readonly jitter?: number | undefined
}

/** Refuses the value of an option. */
export const refuse = (option: string, must: string, got: unknown): never => {
  throw new RangeError(`Retry: ${option} must be ${must}, got ${String(got)}`)
}

/** A count from 1, or a `RangeError` that names the option. */
export const counted = (option: string, value: number): number =>
  Number.isInteger(value) && value >= 1 ? value : refuse(option, "an integer from 1", value)

/** A duration from 0 in milliseconds, or a `RangeError` that names the option. */
export const millis = (option: string, value: Duration.Input): number => {
  const found = Duration.toMillis(Duration.fromInputUnsafe(value))
  return found >= 0 ? found : refuse(option, "a duration from 0", value)
}

/**
 * Waits that grow: `base * factor ** n`, at most `cap`, ± `jitter` of it, `times` times.
 *
 * @throws RangeError when an option is out of range
 * @category schedules
 */
export const exponential = (options: Exponential = {}): Schedule.Schedule<number> => {
  const times = counted("times", options.times ?? 3)
  const base = millis("base", options.base ?? "1 second")
  const factor = options.factor ?? 2
  const cap = millis("cap", options.cap ?? "30 seconds")
  const jitter = options.jitter ?? 0.2
  if (!(factor >= 1)) refuse("factor", "from 1", factor)
  if (!(jitter >= 0 && jitter <= 1)) refuse("jitter", "from 0 to 1", jitter)
  return Schedule.fromStepWithMetadata(Effect.succeed(({ attempt }: Schedule.InputMetadata<unknown>) => {
    if (attempt > times) return Cause.done(times)
    const wait = Math.min(cap, base * factor ** (attempt - 1))
    return Effect.map(Random.next, (random): [number, Duration.Duration] => [
      attempt,
      Duration.millis(wait * (1 + jitter * (2 * random - 1)))
    ])
  }))
}
