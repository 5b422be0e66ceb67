/**
 * Stops calling what keeps failing, for a while: a circuit breaker that pauses the intake instead of failing every message.
 */
import { Data, Duration, Effect, Exit } from "effect"
import { Intake } from "../broker/Intake.ts"
import { classes as allClasses, classOf, type FailureClass, isInstance } from "../message/Failure.ts"
import type { Envelope } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Around, Fixed, FullConfig } from "../pipeline/Handler.ts"
import * as Middleware from "../pipeline/Middleware.ts"
import type { Circuit, Policy, Trip, Verdict } from "./circuitBreaker/circuit.ts"
import { CircuitBreakerCircuits } from "./circuitBreaker/circuits.ts"

export type { Policy, State, Trip } from "./circuitBreaker/circuit.ts"
export {
  CircuitBreakerCircuits as Circuits,
  type CircuitsOptions,
  type CircuitStatistics,
  layer,
  type Transition
} from "./circuitBreaker/circuits.ts"

/** Options that each form of `middleware` has. */
export interface Common {
  /** What is protected: `payments`. Without "/". Breakers of one name share their circuits, whatever they stand around. */
  readonly name: string
  /** When a circuit opens. Default: `consecutive(5)`. */
  readonly trip?: Trip | undefined
  /** How long a circuit stays open before it is probed, from 1 ms. Default: 30 seconds. */
  readonly openFor?: Duration.Input | undefined
  /** Each time that a probe fails the time doubles, up to this. Default: `openFor`, it stays the same. */
  readonly maximumOpenFor?: Duration.Input | undefined
  /** How many calls probe a half-open circuit, and must all succeed before it closes; an integer from 1. Default: 1. */
  readonly probes?: number | undefined
  /** Which classes of errors count as failures. Default: `dependency`, `timeout`, `transient`. */
  readonly failures?: ReadonlyArray<FailureClass> | undefined
  /**
   * What an open circuit does to a consumer. `pause`: it pauses the intake of the subscription. `refuse`: it leaves the intake
   * alone, since other circuits may be closed. Default: `pause` without `by` or by channel, `refuse` by a function.
   */
  readonly whileOpen?: "pause" | "refuse" | undefined
}

const check = OptionCheck.make("CircuitBreaker")

/** Options of `middleware`. */
export interface Options extends Common {
  /** A circuit for each channel. Default: one circuit for all. */
  readonly by?: "channel" | undefined
}

/** Options of `middleware` with circuits of one's own: a host, a tenant. */
export interface KeyedOptions<in M> extends Common {
  /** Messages for which it answers the same share a circuit. */
  readonly by: (message: M) => string
}

/**
 * Opens after so many failures in a row.
 *
 * @throws RangeError when `failures` is not an integer from 1
 */
export const consecutive = (failures: number): Trip => ({
  _tag: "consecutive",
  failures: check.count("consecutive", failures)
})

/**
 * Opens when at least `rate` (above 0 to 1) of the calls of the last `window` have failed, and there were at least `minimum`.
 * Default: half of at least 20 calls in 30 seconds. The window moves on by tenths of it.
 *
 * @throws RangeError when an option is out of range
 */
export const rate = (options: {
  readonly rate?: number | undefined
  readonly minimum?: number | undefined
  readonly window?: Duration.Input | undefined
} = {}): Trip => ({
  _tag: "rate",
  rate: check.fraction("rate", options.rate ?? 0.5, "above 0"),
  minimum: check.count("minimum", options.minimum ?? 20),
  window: check.millis("window", options.window ?? "30 seconds")
})

/** What `middleware` does where an option is not given; `maximumOpenFor` is then `openFor`. */
export const defaults: {
  readonly trip: Trip
  readonly openFor: Duration.Duration
  readonly probes: number
  readonly failures: ReadonlyArray<FailureClass>
} = {
  trip: consecutive(5),
  openFor: Duration.seconds(30),
  probes: 1,
  failures: ["dependency", "timeout", "transient"]
}

/** What is behind the circuit was not called; class `dependency`, so the message goes back to its source for `retryAfter`. */
export class CircuitOpen extends Data.TaggedError("CircuitOpen")<{
  readonly circuit: string
  /** Until the circuit may be probed. */
  readonly retryAfter: Duration.Duration
}> {
  readonly failure = "dependency" as const
  override get message(): string {
    return `Circuit ${this.circuit} is open: come back in ${Duration.format(this.retryAfter)}`
  }
}

type Needs = { requires: CircuitBreakerCircuits; fails: CircuitOpen }

/** The forms of `middleware`. */
export interface Build {
  (options: Options): Around<Envelope, FullConfig<Needs>>
  <M extends Envelope>(options: KeyedOptions<M>): Fixed<M, FullConfig<Needs>>
}

const verdictOf = (failures: ReadonlySet<FailureClass | undefined>) => (exit: Exit.Exit<unknown, unknown>): Verdict => {
  if (exit._tag === "Success") return "answers"
  for (const reason of exit.cause.reasons) {
    if (reason._tag !== "Fail") continue
    // what another circuit has refused was not called either
    if (isInstance(reason.error, CircuitOpen)) return undefined
    return failures.has(classOf(reason.error)) ? "fails" : "answers"
  }
  return undefined
}

/**
 * Opens a circuit when what is inside keeps failing, and then fails at once without calling it, until a probe succeeds.
 *
 * Types: any message in, the same message on; `Circuits` enters R, `CircuitOpen` enters E.
 *
 * A circuit is closed until `trip` says that too much has failed; open for `openFor`; then half-open: `probes` calls pass, and
 * close it when all succeed or open it again when one fails. Only errors of the classes of `failures` count as failures; any
 * other error and any answer says that what is inside is there; an interruption and a defect say nothing.
 *
 * Around a consumer, an open circuit pauses the intake of its subscription, so that messages wait where they are; the
 * few that are under way already fail with `CircuitOpen` and are held for its `retryAfter`. Nothing is delivered again and again,
 * and no retry is spent. Around a publisher or a client it fails fast.
 *
 * Errors: `CircuitOpen` (class `dependency`, with `retryAfter`) goes back to the source for as long as the circuit stays open.
 * Stands inside `Retry`, which then does not insist, and outside `Timeout`, whose errors count.
 *
 * Source: the circuit breaker of Nygard, Release It!; states and probes as in Polly and resilience4j.
 *
 * **Example** (half of the calls fail)
 *
 * ```ts
 * import { Effect, pipe } from "effect"
 * import { CircuitBreaker, type Message } from "@millrace/core"
 *
 * const handler = pipe(
 *   (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
 *   CircuitBreaker.middleware({
 *     name: "payments",
 *     trip: CircuitBreaker.rate({ rate: 0.5, minimum: 10, window: "10 seconds" }),
 *     openFor: "15 seconds"
 *   })
 * )
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category constructors
 */
export const middleware: Build = ((options: Options | KeyedOptions<Envelope>) => {
  const { by, name } = options
  if (name === "") throw new RangeError("CircuitBreaker: name must say what is protected, got an empty text")
  // it divides the name from the key of a circuit, so that no key makes the name of another breaker's circuit
  if (name.includes("/")) throw new RangeError(`CircuitBreaker: name must not contain "/", got ${name}`)
  const openFor = check.millis("openFor", options.openFor ?? defaults.openFor)
  const maximumOpenFor = check.millis("maximumOpenFor", options.maximumOpenFor ?? openFor)
  if (maximumOpenFor < openFor) {
    throw new RangeError(`CircuitBreaker: maximumOpenFor must be at least openFor, got ${maximumOpenFor} ms`)
  }
  const failures = options.failures ?? defaults.failures
  for (const each of failures) check.oneOf("each of failures", each, allClasses)
  if (typeof by !== "function" && by !== undefined) check.oneOf("by", by, ["channel"])
  const policy: Policy = {
    trip: options.trip ?? defaults.trip,
    openFor,
    maximumOpenFor,
    probes: check.count("probes", options.probes ?? defaults.probes)
  }
  const verdict = verdictOf(new Set(failures))
  const whileOpen = options.whileOpen ?? (typeof by === "function" ? "refuse" : "pause")
  const pauses = check.oneOf("whileOpen", whileOpen, ["pause", "refuse"]) === "pause"
  const nameOf = by === "channel"
    ? (message: Envelope) => `${name}/${message.channel}`
    : by === undefined
    ? undefined
    : (message: Envelope) => `${name}/${by(message)}`
  return Middleware.make()({
    name: "CircuitBreaker",
    stage: "consume",
    inBatch: "once",
    shows: {
      name,
      by: typeof by === "function" ? by.name || "a function" : by,
      opens: policy.trip._tag === "consecutive"
        ? `after ${policy.trip.failures} failures`
        : `at ${policy.trip.rate * 100} % of ${policy.trip.minimum}`,
      openFor: Duration.format(Duration.millis(openFor)),
      whileOpen
    }
  }, (next) => {
    // the circuit of a breaker that has only one, as long as it is asked for in the same circuits
    let seen: CircuitBreakerCircuits["Service"] | undefined
    let only: Circuit | undefined
    const find = (circuits: CircuitBreakerCircuits["Service"], message: Envelope): Circuit => {
      if (nameOf !== undefined) return circuits.of(nameOf(message), policy)
      if (seen === circuits && only !== undefined && !only.isForgotten) return only
      seen = circuits
      return only = circuits.of(name, policy)
    }
    const intakeOf = (message: Envelope) => pauses && message.kind === "consumer" ? intake() : undefined
    const pass = (
      circuits: CircuitBreakerCircuits["Service"],
      message: Envelope
    ): Middleware.Returns<CircuitOpen> => {
      const circuit = find(circuits, message)
      if (circuit.state !== "closed") {
        const wait = circuit.admit(circuits.now(), intakeOf(message))
        if (wait > 0) {
          const retryAfter = Duration.millis(Math.ceil(wait === Infinity ? openFor : wait))
          return Exit.fail(new CircuitOpen({ circuit: circuit.name, retryAfter }))
        }
      }
      const { era } = circuit
      return Eager.around(message, next, (exit) => {
        const found = verdict(exit)
        circuit.record(era, found, circuits.now, found === "fails" ? intakeOf(message) : undefined)
      })
    }
    return (message): Middleware.Returns<CircuitOpen, CircuitBreakerCircuits> => {
      const circuits = Eager.service(CircuitBreakerCircuits)
      return Eager.isDone(circuits) && circuits._tag === "Success"
        ? pass(circuits.value, message)
        : Effect.flatMap(circuits, (found) => pass(found, message))
    }
  })
}) as Build

/** The intake of the subscription that the calling fiber handles a message of. */
const intake = (): Intake | undefined => {
  const found = Eager.service(Intake)
  return Eager.isDone(found) && found._tag === "Success" ? found.value : undefined
}
