/**
 * The circuits of a process, and their statistics and transitions.
 */
import { Clock, Context, Effect, Layer, Metric, PubSub, Stream } from "effect"
import * as Detached from "../../message/Detached.ts"
import * as OptionCheck from "../../message/OptionCheck.ts"
import { Circuit, type Policy, type State } from "./circuit.ts"

/** The state of a circuit. */
export interface CircuitStatistics {
  readonly name: string
  readonly state: State
  /** Unix time in milliseconds of its last change. */
  readonly since: number
  /** Unix time in milliseconds of the next probe while the circuit is open; Infinity if it was opened manually. */
  readonly until: number | undefined
  /** How many calls the circuit has refused. */
  readonly refused: number
}

/** A change of a circuit. */
export interface Transition {
  readonly name: string
  readonly from: State
  readonly to: State
  /** Unix time in milliseconds. */
  readonly at: number
}

/** The circuits of this process. */
export class CircuitBreakerCircuits extends Context.Service<CircuitBreakerCircuits, {
  /** The circuit of a name; the first caller decides its policy. */
  readonly of: (name: string, policy: Policy) => Circuit
  /** Unix time in milliseconds. */
  readonly now: () => number
  /** All circuits, in the order of their first call. */
  readonly snapshot: Effect.Effect<ReadonlyArray<CircuitStatistics>>
  /** Opens a circuit until `close` is called; false if no call has used it yet. */
  readonly open: (name: string) => Effect.Effect<boolean>
  /** Closes a circuit; false if no call has used it yet. */
  readonly close: (name: string) => Effect.Effect<boolean>
  /** The changes from now on; a slow reader loses the oldest beyond 256. */
  readonly transitions: Stream.Stream<Transition>
}>()("@millrace/core/CircuitBreaker/Circuits") {}

/** Limits the number of circuits. */
export interface CircuitsOptions {
  /**
   * The most circuits; an integer from 1. Beyond it, a new circuit evicts one that is closed and has counted no failure;
   * if the 16 oldest are all in use, it evicts the oldest. Default: 10,000.
   */
  readonly capacity?: number | undefined
}

const looks = 16

const transitionsTotal = Metric.counter("millrace.circuit.transitions", {
  description: "Changes of circuits, by circuit and new state.",
  incremental: true
})

/**
 * Keeps circuits in the memory of this process; each process detects failures by itself.
 *
 * Each change is logged (a warning when a circuit opens), counted as `millrace.circuit.transitions` by `circuit` and `state`,
 * and shown in the health of the subscriptions that it pauses.
 *
 * @throws RangeError when `capacity` is out of range
 * @category layers
 */
export const layer = (options: CircuitsOptions = {}): Layer.Layer<CircuitBreakerCircuits> => {
  const capacity = OptionCheck.make("CircuitBreaker").count("capacity", options.capacity ?? 10_000)
  return Layer.effect(
    CircuitBreakerCircuits,
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const context = Detached.context(yield* Effect.context<never>())
      const news = yield* PubSub.sliding<Transition>(256)
      const circuits = new Map<string, Circuit>()
      const now = () => clock.currentTimeMillisUnsafe()
      const changed = (circuit: Circuit, from: State) => {
        const { name, since: at, state: to } = circuit
        const log = to === "open" ? Effect.logWarning : Effect.logInfo
        const told = Metric.update(Metric.withAttributes(transitionsTotal, { circuit: name, state: to }), 1).pipe(
          Effect.andThen(PubSub.publish(news, { name, from, to, at })),
          Effect.andThen(log(`Circuit ${name} is ${to}`))
        )
        Effect.runForkWith(context)(told)
      }
      const forget = () => {
        let chosen: Circuit | undefined
        let i = 0
        for (const circuit of circuits.values()) {
          chosen ??= circuit
          if (circuit.isIdle) chosen = circuit
          if (circuit.isIdle || ++i === looks) break
        }
        if (chosen === undefined) return
        chosen.isForgotten = true
        circuits.delete(chosen.name)
      }
      return CircuitBreakerCircuits.of({
        now,
        of: (name, policy) => {
          const known = circuits.get(name)
          if (known !== undefined) return known
          if (circuits.size >= capacity) forget()
          const made = new Circuit(name, policy, now(), changed)
          circuits.set(name, made)
          return made
        },
        snapshot: Effect.sync(() =>
          Array.from(circuits.values(), ({ name, refused, since, state, until }) => ({
            name,
            state,
            since,
            until: state === "open" ? until : undefined,
            refused
          }))
        ),
        open: (name) =>
          Effect.sync(() => {
            circuits.get(name)?.hold(now())
            return circuits.has(name)
          }),
        close: (name) =>
          Effect.sync(() => {
            circuits.get(name)?.close(now())
            return circuits.has(name)
          }),
        transitions: Stream.fromPubSub(news)
      })
    })
  )
}
