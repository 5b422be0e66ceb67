/**
 * Checks of options, with the same wording everywhere: the module, the option, the allowed range, and the given value.
 */
import { Duration } from "effect"

/** The inclusive bounds of a number. */
export interface Range {
  readonly least?: number | undefined
  readonly most?: number | undefined
}

/** The range of a duration in milliseconds. */
export interface DurationRange extends Range {
  /** Accepts `Duration.infinity` too, as "never". Default: false. */
  readonly infinite?: boolean | undefined
}

/**
 * The checks of one module. Each returns a valid value and throws on an invalid one. Values of another type, which untyped code
 * may pass, are refused by the same sentence; so is `undefined`: the caller applies its default first.
 */
export interface Checks {
  /** Checks an integer. Default range: from 1. */
  readonly count: (option: string, value: number, range?: Range) => number
  /** Checks a finite number that may have a fraction. Default range: from 0. */
  readonly number: (option: string, value: number, range?: Range) => number
  /** Checks a share from 0 to 1; `"above 0"` refuses 0. */
  readonly fraction: (option: string, value: number, from?: "from 0" | "above 0") => number
  /** Turns a duration into whole milliseconds, rounded. Default range: every finite duration from 1 ms. */
  readonly millis: (option: string, value: Duration.Input, range?: DurationRange) => number
  /** Turns a duration into seconds, for protocols that count in them: fractions are refused. Default range: from 1. */
  readonly seconds: (option: string, value: Duration.Input, range?: Range) => number
  /** Checks a choice among words. */
  readonly oneOf: <const Word extends string | number | boolean>(
    option: string,
    value: Word,
    words: ReadonlyArray<Word>
  ) => Word
}

const units: ReadonlyArray<keyof Duration.DurationObject> = [
  "weeks",
  "days",
  "hours",
  "minutes",
  "seconds",
  "milliseconds",
  "microseconds",
  "nanoseconds"
]

/** Tells whether a value is no duration although Effect reads it as 0: NaN, and an object without a unit. */
const isVague = (value: Duration.Input): boolean => {
  if (typeof value === "number") return Number.isNaN(value)
  if (typeof value !== "object" || value === null || Duration.isDuration(value)) return false
  const given = Array.isArray(value)
    ? value
    : units.map((unit) => Reflect.get(value, unit)).filter((part) => part !== undefined)
  return given.length === 0 || given.some((part) => typeof part !== "number" || Number.isNaN(part))
}

/** Returns the milliseconds of a duration, with their fraction; NaN if the value is not a duration. */
export const millisOf = (value: Duration.Input): number => {
  if (isVague(value)) return Number.NaN
  try {
    return Duration.toMillis(Duration.fromInputUnsafe(value))
  } catch {
    return Number.NaN
  }
}

const shown = (value: unknown): string => {
  if (value === "") return "an empty text"
  try {
    const text = typeof value === "object" && value !== null && !Duration.isDuration(value)
      ? JSON.stringify(value)
      : String(value)
    return text.length > 100 ? `${text.slice(0, 100)}…` : text
  } catch {
    return `a value of type ${typeof value}`
  }
}

/** The longest time that a timer of Node.js and most clients supports: 24 days, in milliseconds. */
export const longestTimer = 2_147_483_647

const day = 86_400_000

const span = (millis: number): string =>
  millis === 0 ? "0" : millis < 10 * day ? `${millis} ms` : `${Math.floor(millis / day)} days`

const listed = (words: ReadonlyArray<string | number | boolean>): string => {
  const quoted = words.map((word) => JSON.stringify(word))
  return quoted.length < 3 ? quoted.join(" or ") : `${quoted.slice(0, -1).join(", ")} or ${quoted.at(-1)}`
}

const reach = (least: number, most: number | undefined): string =>
  `from ${least}${most === undefined ? "" : ` to ${most}`}`

/** Makes checks that fail with an error of the caller: `refuse` gets the sentence without the module and throws. */
export const makeWith = (refuse: (sentence: string) => never): Checks => {
  const wrong = (option: string, must: string, value: unknown): never =>
    refuse(`${option} must be ${must}, got ${shown(value)}`)

  return {
    count: (option, value, { least = 1, most } = {}) =>
      Number.isSafeInteger(value) && value >= least && value <= (most ?? value)
        ? value
        : wrong(option, `an integer ${reach(least, most)}`, value),

    number: (option, value, { least = 0, most } = {}) =>
      Number.isFinite(value) && value >= least && value <= (most ?? value)
        ? value
        : wrong(option, `a number ${reach(least, most)}`, value),

    fraction: (option, value, from = "from 0") =>
      typeof value === "number" && value <= 1 && (from === "from 0" ? value >= 0 : value > 0)
        ? value
        : wrong(option, `${from} to 1`, value),

    millis: (option, value, { infinite = false, least = 1, most } = {}) => {
      const found = millisOf(value)
      if (found === Number.POSITIVE_INFINITY && infinite) return found
      if (Number.isFinite(found) && found >= least && found <= (most ?? Number.MAX_SAFE_INTEGER)) {
        return Math.round(found)
      }
      const finite = most === undefined && !infinite ? "a finite duration" : "a duration"
      const range = `from ${span(least)}${most === undefined ? "" : ` to ${span(most)}`}`
      return wrong(option, `${finite} ${range}${infinite ? " or Infinity" : ""}`, value)
    },

    seconds: (option, value, { least = 1, most } = {}) => {
      const found = millisOf(value) / 1000
      return Number.isSafeInteger(found) && found >= least && found <= (most ?? found)
        ? found
        : wrong(option, `a duration of whole seconds ${reach(least, most)}`, value)
    },

    oneOf: (option, value, words) => words.includes(value) ? value : wrong(option, listed(words), value)
  }
}

/**
 * Makes the checks of a module: they throw a `RangeError` that names the module and the option.
 *
 * @example
 * ```ts
 * import { OptionCheck } from "@millrace/core"
 *
 * const check = OptionCheck.make("Poller")
 * console.log(check.millis("every", "5 seconds")) // => 5000
 * try {
 *   check.count("batch", Number.NaN)
 * } catch (error) {
 *   console.log(String(error)) // => RangeError: Poller: batch must be an integer from 1, got NaN
 * }
 * ```
 */
export const make = (module: string): Checks =>
  makeWith((sentence) => {
    throw new RangeError(`${module}: ${sentence}`)
  })
