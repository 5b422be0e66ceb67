/**
 * The circuits of a process, and how others learn of them.
 */
import { Clock, Context, Effect, Layer, Metric, PubSub, Stream } from "effect"
import * as Detached from "../../message/Detached.ts"
import * as OptionCheck from "../../message/OptionCheck.ts"
import { Circuit, type Policy, type State } from "./circuit.ts"

/** How a circuit is. */
export interface CircuitStatistics {
  readonly name: string
  readonly state: State
  /** Unix time in milliseconds of its last change. */
  readonly since: number
  /** While it is open: Unix time in milliseconds at which it may be probed; Infinity where it was opened by hand. */
  readonly until: number | undefined
  /** How many calls it has refused. */
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
  /** The circuit of a name; the first that asks for it decides its policy. */
  readonly of: (name: string, policy: Policy) => Circuit
  /** Unix time in milliseconds. */
  readonly now: () => number
  /** All circuits that were asked for, in that order. */
  readonly snapshot: Effect.Effect<ReadonlyArray<CircuitStatistics>>
  /** Opens a circuit until it is closed by hand; false where no call has met it yet. */
  readonly open: (name: string) => Effect.Effect<boolean>
  /** Closes a circuit; false where no call has met it yet. */
  readonly close: (name: string) => Effect.Effect<boolean>
  /** What changes from now on; of a reader that is slow the oldest are dropped, beyond 256. */
  readonly transitions: Stream.Stream<Transition>
}>()("@millrace/core/CircuitBreaker/Circuits") {}

/** How much is kept. */
export interface CircuitsOptions {
  /**
   * The most circuits; an integer from 1. Beyond, one that is closed and has counted no failure is forgotten for a new one,
   * and where 16 looked at are all in use, the oldest. Default: 10,000.
   */
  readonly capacity?: number | undefined
}

const looks = 16

const transitionsTotal = Metric.counter("millrace.circuit.transitions", {
  description: "Changes of circuits, by circuit and new state.",
  incremental: true
})

/**
 * Circuits in the memory of this process; each process finds out for itself.
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
