/**
 * A circuit breaker: stops calling a dependency that keeps failing, and pauses the intake instead of failing every
 * message.
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
  /**
   * The name of the protected dependency: `payments`. Without "/". Breakers of one name share their circuits, wherever
   * they are used.
   */
  readonly name: string
  /** When a circuit opens. Default: `consecutive(5)`. */
  readonly trip?: Trip | undefined
  /** How long a circuit stays open before it is probed, from 1 ms. Default: 30 seconds. */
  readonly openFor?: Duration.Input | undefined
  /** The longest open time: it doubles with each failed probe, up to this. Default: `openFor`, so it stays the same. */
  readonly maximumOpenFor?: Duration.Input | undefined
  /** How many calls probe a half-open circuit, and must all succeed before it closes; an integer from 1. Default: 1. */
  readonly probes?: number | undefined
  /** The classes of errors that count as failures. Default: `dependency`, `timeout`, `transient`. */
  readonly failures?: ReadonlyArray<FailureClass> | undefined
  /**
   * The effect of an open circuit on a consumer. `pause`: the circuit pauses the intake of the subscription. `refuse`:
   * the intake goes on, since other circuits may be closed. Default: `pause` without `by` or by channel, `refuse` by a
   * function.
   */
  readonly whileOpen?: "pause" | "refuse" | undefined
}

const check = OptionCheck.make("CircuitBreaker")

/** Options of `middleware`. */
export interface Options extends Common {
  /** A circuit for each channel. Default: one circuit for all. */
  readonly by?: "channel" | undefined
}

/** Options of `middleware` with custom circuits: of a host, a tenant. */
export interface KeyedOptions<in M> extends Common {
  /** Messages with the same result share a circuit. */
  readonly by: (message: M) => string
}

/**
 * Opens after this many failures in a row.
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

/** The defaults of `middleware`; `maximumOpenFor` defaults to `openFor`. */
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

/** The circuit refused the call; class `dependency`, so the message returns to its source for `retryAfter`. */
export class CircuitOpen extends Data.TaggedError("CircuitOpen")<{
  readonly circuit: string
  /** The time until the circuit may be probed. */
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
    // another circuit refused the call, so the dependency was not called
    if (isInstance(reason.error, CircuitOpen)) return undefined
    return failures.has(classOf(reason.error)) ? "fails" : "answers"
  }
  return undefined
}

/**
 * Opens a circuit when the inner chain keeps failing, and then fails at once without calling it, until a probe succeeds.
 *
 * Types: any message in, the same message on; `Circuits` enters R, `CircuitOpen` enters E.
 *
 * A circuit is closed until `trip` is reached; open for `openFor`; then half-open: `probes` calls pass, and close it when
 * all succeed or open it again when one fails. Only errors of the classes of `failures` count as failures; any other
 * error and any answer count as a success; an interruption and a defect do not count.
 *
 * Around a consumer, an open circuit pauses the intake of its subscription, so that messages wait unstarted; the few
 * that are in flight fail with `CircuitOpen` and are held for its `retryAfter`. Messages are not redelivered in a loop,
 * and no retry is spent. Around a publisher or a client it fails fast.
 *
 * Errors: `CircuitOpen` (class `dependency`, with `retryAfter`) returns the message to its source while the circuit stays
 * open. Place it inside `Retry`, which then waits for `retryAfter` or gives up, and outside `Timeout`, whose errors count.
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
  // "/" separates the name from the key of a circuit, so that no key makes the name of another breaker's circuit
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
    // caches the circuit of a breaker that has only one, for the same `Circuits` service
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

/** The intake of the subscription whose message the calling fiber handles. */
const intake = (): Intake | undefined => {
  const found = Eager.service(Intake)
  return Eager.isDone(found) && found._tag === "Success" ? found.value : undefined
}
