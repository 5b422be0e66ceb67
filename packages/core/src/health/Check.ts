/**
 * What a health check is: a value with a name, a kind, and an effect that asks.
 */
import { Duration, type Effect } from "effect"
import * as OptionCheck from "../message/OptionCheck.ts"

/**
 * Which question a check answers.
 *
 * - `liveness`: shall this process be ended and started again? Nothing outside of it has a say
 * - `readiness`: shall it be sent work?
 * - `startup`: has it begun? Once a check of this kind has succeeded it is not asked again
 */
export type Kind = "liveness" | "readiness" | "startup"

/** What a check found; at most `maximumDetails` entries are kept, of at most `maximumText` characters. */
export interface Details {
  readonly [name: string]: string | number | boolean | null
}

/** Most details of a check. */
export const maximumDetails = 32

/** Most characters of a text that a report holds. */
export const maximumText = 256

const DegradedId = "~millrace/core/Health/Degraded"

/** The answer of a check that works, and not as it should. */
export interface Degraded {
  readonly [DegradedId]: true
  readonly why: string
  readonly details: Details | undefined
}

/**
 * What a check succeeds with when what it asked works, and not as it should. `why` is shown to whoever sees details: a
 * sentence without secrets.
 *
 * @category constructors
 */
export const degraded = (why: string, details?: Details): Degraded => ({ [DegradedId]: true, why, details })

/** Whether a check answered `degraded`. */
export const isDegraded = (answer: unknown): answer is Degraded =>
  typeof answer === "object" && answer !== null && DegradedId in answer

/** What a check may succeed with: nothing, details, or `degraded`. */
export type Answer = Degraded | Details | void

/** Options that every check of something outside has. */
export interface Common<in E> {
  /** Letters, digits, blanks and `._/@-`, at most 64; each check of a registry has another. */
  readonly name?: string | undefined
  /** Whether it is asked for as long as the program runs, or until it has succeeded once. Default: `readiness`. */
  readonly kind?: "readiness" | "startup" | undefined
  /** How long it may take, from 1 ms; what takes longer is down. Default: 1 second. */
  readonly timeLimit?: Duration.Input | undefined
  /** What all is while this is down: `down`, or `degraded` where the program can do without. Default: `down`. */
  readonly whenDown?: "degraded" | "down" | undefined
  /** How often in a row it must fail before it is down, once it has been up; an integer from 1. Default: 1. */
  readonly downAfter?: number | undefined
  /** How long an answer is good for. Default: that of the registry. */
  readonly cache?: Duration.Input | undefined
  /** Asks by itself, so long after each answer, from 10 ms; who asks for a report then gets what is known. Default: never. */
  readonly refresh?: Duration.Input | undefined
  /** A sentence of an error that may be shown. Default: none; without it nothing of an error but its class and tag is. */
  readonly explain?: ((error: E) => string | undefined) | undefined
}

/** Options of `check`. */
export interface Options<in out E, out R> extends Common<E> {
  readonly name: string
  /** Asks. Run on a fiber of its own, which is interrupted when its time is over. */
  readonly check: Effect.Effect<Answer, E, R>
}

/** A check of something that the program depends on: never part of liveness. */
export interface Check<out R> {
  readonly _tag: "Check"
  readonly name: string
  readonly kind: "readiness" | "startup"
  readonly ask: Effect.Effect<Answer, unknown, R>
  /** Milliseconds. */
  readonly timeLimit: number
  readonly whenDown: "degraded" | "down"
  readonly downAfter: number
  /** Milliseconds; undefined for those of the registry. */
  readonly cache: number | undefined
  /** Milliseconds. */
  readonly refresh: number | undefined
  readonly explain: (error: unknown) => string | undefined
}

/** A check of this process, which can ask nobody else. */
export interface Liveness {
  readonly _tag: "Liveness"
  readonly name: string
  readonly kind: "liveness"
  readonly isAlive: () => boolean
}

/** Whatever a registry takes: a `Check` or a `Liveness`, without what would be inferred from it. */
export interface Any {
  readonly _tag: "Check" | "Liveness"
  readonly name: string
  readonly kind: Kind
}

/** The services that a check asks. */
export type Needs<C> = C extends Check<infer R> ? R : never

/** Refuses a name that would not do as a label or as a name in a document. */
export const checkName = (name: string): string => {
  // a colon divides names in health+json
  if (/^[\p{L}\p{N} ._/@-]{1,64}$/u.test(name)) return name
  throw new RangeError(
    `Health: name must be 1 to 64 letters, digits, blanks and ._/@-, got ${JSON.stringify(name.slice(0, 80))}`
  )
}

/** The checks of the options of `Health`. */
export const checkOption = OptionCheck.make("Health")

/** What `check` does where an option is not given. */
export const defaults: {
  readonly kind: "readiness"
  readonly timeLimit: Duration.Duration
  readonly whenDown: "down"
  readonly downAfter: number
} = { kind: "readiness", timeLimit: Duration.seconds(1), whenDown: "down", downAfter: 1 }

/**
 * A check of something that the program depends on: a database, a broker, another service. It succeeds with nothing, with
 * details or with `degraded`, or it fails; a defect is a failure, too.
 *
 * It is part of readiness, or of startup. It cannot be part of liveness: when a database is down, a new process finds it down as
 * well.
 *
 * **Example** (a service that the program can do without)
 *
 * ```ts
 * import { Data, Effect } from "effect"
 * import { Health } from "@millrace/core"
 *
 * class NoPrices extends Data.TaggedError("NoPrices")<{ readonly failure: "dependency" }> {}
 * const ask: Effect.Effect<number, NoPrices> = Effect.succeed(120)
 *
 * const prices = Health.check({
 *   name: "prices",
 *   check: Effect.map(ask, (known) => known === 0 ? Health.degraded("no prices yet") : { known }),
 *   whenDown: "degraded",
 *   explain: () => "the price service does not answer"
 * })
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const check = <E, R>(options: Options<E, R>): Check<R> => {
  const { explain } = options
  // a kind of untyped code that is none of these would restart programs
  const kind = checkOption.oneOf("kind", options.kind ?? defaults.kind, ["readiness", "startup"])
  return {
    _tag: "Check",
    name: checkName(options.name),
    kind,
    ask: options.check,
    timeLimit: checkOption.millis("timeLimit", options.timeLimit ?? defaults.timeLimit),
    whenDown: checkOption.oneOf("whenDown", options.whenDown ?? defaults.whenDown, ["degraded", "down"]),
    downAfter: checkOption.count("downAfter", options.downAfter ?? defaults.downAfter),
    cache: options.cache === undefined ? undefined : checkOption.millis("cache", options.cache, { least: 0 }),
    refresh: options.refresh === undefined ? undefined : checkOption.millis("refresh", options.refresh, { least: 10 }),
    // it is handed the errors of the effect beside it only
    explain: explain === undefined ? () => undefined : (error) => explain(error as E)
  }
}

/**
 * A check of this process: a function that answers at once, from what it knows. It can wait for nobody, so what is outside
 * cannot end the process.
 *
 * **Example** (a program that leaks is started again)
 *
 * ```ts
 * import { Health } from "@millrace/core"
 *
 * const memory = Health.liveness("memory", () => process.memoryUsage().rss < 2 ** 31)
 * ```
 *
 * @throws RangeError when the name is out of range
 * @category constructors
 */
export const liveness = (name: string, isAlive: () => boolean): Liveness => ({
  _tag: "Liveness",
  name: checkName(name),
  kind: "liveness",
  isAlive
})
