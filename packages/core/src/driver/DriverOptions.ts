/**
 * Checks the options of a driver, with the same error texts in every driver.
 */
import { type Duration, Effect, Exit, Redacted } from "effect"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as BrokerError from "./BrokerError.ts"

class Bad {
  readonly message: string
  constructor(message: string) {
    this.message = message
  }
}

/** Refuses an option: `message` states the rule and the given value, and `checked` makes an error of it. */
export const bad = (message: string): never => {
  throw new Bad(message)
}

const check = OptionCheck.makeWith(bad)

/** Returns the milliseconds of a duration from `least` (default 1 ms) to 24 days, the longest wait of a timer. */
export const millis = <Otherwise extends number | undefined>(
  option: string,
  value: Duration.Input | undefined,
  otherwise: Otherwise,
  least = 1
): number | Otherwise =>
  value === undefined ? otherwise : check.millis(option, value, { least, most: OptionCheck.longestTimer })

/** Returns an integer from 1, and at most `most` if given. */
export const integer = <Otherwise extends number | undefined>(
  option: string,
  value: number | undefined,
  otherwise: Otherwise,
  most?: number
): number | Otherwise => value === undefined ? otherwise : check.count(option, value, { most })

/** Returns one of the allowed words, or `otherwise` if the option is absent. */
export const oneOf = <const Word extends string | number>(
  option: string,
  value: Word | undefined,
  words: ReadonlyArray<Word>,
  otherwise: Word
): Word => value === undefined ? otherwise : check.oneOf(option, value, words)

/** Decodes the percent-encoding of a part of a URL; `what` names the part and the option in the error. */
export const decoded = (what: string, value: string): string => {
  try {
    return decodeURIComponent(value)
  } catch {
    return bad(`the ${what} is not percent-encoded UTF-8`)
  }
}

/** Returns the text of an option that may be redacted. */
export const plain = (value: string | Redacted.Redacted): string =>
  typeof value === "string" ? value : Redacted.value(value)

/** Replaces secrets in a text, in the order of `secrets`. */
export const redacting = (secrets: ReadonlyArray<string>) => (text: string): string =>
  secrets.reduce((rest, secret) => rest.replaceAll(secret, "<redacted>"), text)

/** Runs checks of options; fails with a `BrokerError` of reason `Invalid` whose message names the module and the option. */
export const checked = <A>(system: string, module: string, check: () => A): Effect.Effect<A, BrokerError.BrokerError> =>
  Effect.suspend(() => {
    try {
      return Exit.succeed(check())
    } catch (error) {
      // a value of the wrong type, which only untyped programs can pass
      const isType = error instanceof TypeError
      if (!(error instanceof Bad) && !isType) throw error
      const what = isType ? `an option is not of its type (${error.message})` : error.message
      return Exit.fail(
        BrokerError.make({ system, operation: "connect", reason: "Invalid", message: `${module}: ${what}.` })
      )
    }
  })
