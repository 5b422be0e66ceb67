/**
 * Health checks: values with a name, a kind, and an effect that probes.
 */
import { Duration, type Effect } from "effect"
import * as OptionCheck from "../message/OptionCheck.ts"

/**
 * The question that a check answers.
 *
 * - `liveness`: must this process be restarted? Nothing outside the process may influence the answer
 * - `readiness`: may this process get work?
 * - `startup`: has the process started? Once a check of this kind has succeeded it is not run again
 */
export type Kind = "liveness" | "readiness" | "startup"

/** Details found by a check; at most `maximumDetails` entries are kept, of at most `maximumText` characters. */
export interface Details {
  readonly [name: string]: string | number | boolean | null
}

/** Most details of a check. */
export const maximumDetails = 32

/** Most characters of a text in a report. */
export const maximumText = 256

const DegradedId = "~millrace/core/Health/Degraded"

/** The answer of a check whose target works with restrictions. */
export interface Degraded {
  readonly [DegradedId]: true
  readonly why: string
  readonly details: Details | undefined
}

/**
 * Makes the answer of a check whose target works with restrictions. Every reader of details sees `why`: a sentence without
 * secrets.
 *
 * @category constructors
 */
export const degraded = (why: string, details?: Details): Degraded => ({ [DegradedId]: true, why, details })

/** Tells whether a check answered `degraded`. */
export const isDegraded = (answer: unknown): answer is Degraded =>
  typeof answer === "object" && answer !== null && DegradedId in answer

/** The success values of a check: nothing, details, or `degraded`. */
export type Answer = Degraded | Details | void

/** Options common to all checks of dependencies. */
export interface Common<in E> {
  /** Letters, digits, blanks and `._/@-`, at most 64; unique in a registry. */
  readonly name?: string | undefined
  /** Whether the check runs as long as the program runs, or until it has succeeded once. Default: `readiness`. */
  readonly kind?: "readiness" | "startup" | undefined
  /** The time limit of a run, from 1 ms; a slower check is down. Default: 1 second. */
  readonly timeLimit?: Duration.Input | undefined
  /** The overall status while this check is down: `down`, or `degraded` for optional dependencies. Default: `down`. */
  readonly whenDown?: "degraded" | "down" | undefined
  /** The number of failures in a row before an up check is down; an integer from 1. Default: 1. */
  readonly downAfter?: number | undefined
  /** How long an answer is valid. Default: that of the registry. */
  readonly cache?: Duration.Input | undefined
  /** The pause between background runs, from 10 ms; reports then use the last answer. Default: no background runs. */
  readonly refresh?: Duration.Input | undefined
  /** Makes the public sentence of an error. Default: none, so that only the class and tag of the error are shown. */
  readonly explain?: ((error: E) => string | undefined) | undefined
}

/** Options of `check`. */
export interface Options<in out E, out R> extends Common<E> {
  readonly name: string
  /** Probes the dependency. Runs on a fiber of its own, which the registry interrupts at the time limit. */
  readonly check: Effect.Effect<Answer, E, R>
}

/** A check of a dependency: never part of liveness. */
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

/** A check of this process alone, which cannot call dependencies. */
export interface Liveness {
  readonly _tag: "Liveness"
  readonly name: string
  readonly kind: "liveness"
  readonly isAlive: () => boolean
}

/** A check accepted by a registry: a `Check` or a `Liveness`, without the inferred types. */
export interface Any {
  readonly _tag: "Check" | "Liveness"
  readonly name: string
  readonly kind: Kind
}

/** The services that a check needs. */
export type Needs<C> = C extends Check<infer R> ? R : never

/** Refuses a name that is unsuitable as a label or in a document. */
export const checkName = (name: string): string => {
  // a colon separates names in health+json
  if (/^[\p{L}\p{N} ._/@-]{1,64}$/u.test(name)) return name
  throw new RangeError(
    `Health: name must be 1 to 64 letters, digits, blanks and ._/@-, got ${JSON.stringify(name.slice(0, 80))}`
  )
}

/** The option checks of `Health`. */
export const checkOption = OptionCheck.make("Health")

/** The defaults of `check`. */
export const defaults: {
  readonly kind: "readiness"
  readonly timeLimit: Duration.Duration
  readonly whenDown: "down"
  readonly downAfter: number
} = { kind: "readiness", timeLimit: Duration.seconds(1), whenDown: "down", downAfter: 1 }

/**
 * Makes a check of a dependency: a database, a broker, another service. It succeeds with nothing, with details or with
 * `degraded`, or it fails; a defect is a failure, too.
 *
 * The check is part of readiness, or of startup. It cannot be part of liveness: when a database is down, a restarted process
 * finds it down as well.
 *
 * **Example** (an optional service)
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
  // another kind, passed by untyped code, could restart programs
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
    // explain only gets errors of the effect above
    explain: explain === undefined ? () => undefined : (error) => explain(error as E)
  }
}

/**
 * Makes a check of this process: a synchronous function of local state. It cannot wait for dependencies, so no dependency can
 * end the process.
 *
 * **Example** (a program that leaks is restarted)
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
