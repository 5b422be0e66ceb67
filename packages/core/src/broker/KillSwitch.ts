/** Stops the intake of subscriptions: automatically after a burst of failures, or manually. */
import { Clock, Context, Duration, Effect, type Exit, Layer } from "effect"
import * as Detached from "../message/Detached.ts"
import { retryAfterOf } from "../message/Failure.ts"
import type { Delivery } from "../message/Message.ts"
import * as OptionCheck from "../message/OptionCheck.ts"
import * as Outcome from "../message/Outcome.ts"
import * as Eager from "../pipeline/Eager.ts"
import type { Handler } from "../pipeline/Handler.ts"
import { Recent } from "../pipeline/Recent.ts"
import { Broker } from "./Broker.ts"
import type { Intake } from "./Intake.ts"

/** Options of `layer`. */
export interface Options {
  /** The name in health and logs. Default: `kill switch`. */
  readonly name?: string | undefined
  /** The names of the subscriptions that the switch counts and stops. Default: all that run on this broker. */
  readonly subscriptions?: ReadonlyArray<string> | undefined
  /** The share of the messages that must fail, above 0 to 1. Default: 0.5. */
  readonly rate?: number | undefined
  /** The least number of messages in the window; an integer from 1. Default: 100. */
  readonly minimum?: number | undefined
  /** The length of the window, from 1 ms. The window moves on by tenths of it. Default: 1 minute. */
  readonly window?: Duration.Input | undefined
  /** The time after which the intake resumes by itself; `never`: only manually. Default: 1 minute. */
  readonly restartAfter?: Duration.Input | "never" | undefined
}

/** The defaults of `layer`. */
export const defaults: {
  readonly name: string
  readonly rate: number
  readonly minimum: number
  readonly window: Duration.Duration
  readonly restartAfter: Duration.Duration
} = {
  name: "kill switch",
  rate: 0.5,
  minimum: 100,
  window: Duration.minutes(1),
  restartAfter: Duration.minutes(1)
}

/** The state of a kill switch. */
export interface Status {
  readonly engaged: boolean
  /** The reason, as text; undefined where the switch is not engaged. */
  readonly by: string | undefined
  /** Unix time in milliseconds at which it was engaged. */
  readonly since: number | undefined
  /** Unix time in milliseconds at which the switch releases by itself. */
  readonly until: number | undefined
}

/** A switch that stops intakes. */
export class KillSwitch extends Context.Service<KillSwitch, {
  /** Stops the intakes at once, for a time or until `release`; running handlers continue. */
  readonly engage: (by: string, options?: { readonly for?: Duration.Input | undefined }) => Effect.Effect<void>
  /** Resumes the intakes, whether the switch was engaged manually or by itself, and restarts the count. */
  readonly release: Effect.Effect<void>
  readonly status: Effect.Effect<Status>
}>()("@millrace/core/KillSwitch") {}

const check = OptionCheck.make("KillSwitch")

/**
 * Whether a message failed; undefined if the message does not count: interrupted, or its error names a time (`retryAfter`).
 */
const failed = (exit: Exit.Exit<unknown, unknown>): boolean | undefined => {
  if (exit._tag === "Success") {
    const answer = Outcome.isOutcome(exit.value) ? exit.value : undefined
    return answer?._tag === "DeadLetter" || (answer?._tag === "Retry" && answer.after === undefined)
  }
  const { reasons } = exit.cause
  if (reasons.some(({ _tag }) => _tag === "Interrupt")) return undefined
  const error = reasons.find(({ _tag }) => _tag === "Fail")
  return error?._tag === "Fail" && retryAfterOf(error.error) !== undefined ? undefined : true
}

interface Engaged {
  readonly by: string
  readonly since: number
  readonly until: number | undefined
}

/** Options, checked; times in milliseconds. */
interface Numbers {
  readonly name: string
  readonly rate: number
  readonly minimum: number
  readonly window: number
  readonly restartAfter: number | undefined
}

const numbersOf = (options: Options): Numbers => ({
  name: options.name ?? defaults.name,
  rate: check.fraction("rate", options.rate ?? defaults.rate, "above 0"),
  minimum: check.count("minimum", options.minimum ?? defaults.minimum),
  window: check.millis("window", options.window ?? defaults.window),
  restartAfter: options.restartAfter === "never"
    ? undefined
    : check.millis("restartAfter", options.restartAfter ?? defaults.restartAfter)
})

/** The state of one switch, and the intakes that it stops. */
class Switch {
  readonly intakes = new Set<Intake>()
  private readonly numbers: Numbers
  private readonly recent: Recent
  private readonly clock: Clock.Clock
  private readonly told: (line: string) => void
  private current: Engaged | undefined

  constructor(numbers: Numbers, clock: Clock.Clock, told: (line: string) => void) {
    this.numbers = numbers
    this.recent = new Recent(numbers.window)
    this.clock = clock
    this.told = told
  }

  get engaged(): Engaged | undefined {
    const { current } = this
    return current?.until !== undefined && current.until <= this.clock.currentTimeMillisUnsafe() ? undefined : current
  }

  engage(by: string, milliseconds: number | undefined): void {
    const since = this.clock.currentTimeMillisUnsafe()
    this.current = { by, since, until: milliseconds === undefined ? undefined : since + milliseconds }
    this.recent.clear()
    for (const intake of this.intakes) this.stop(intake)
    this.told(`The ${this.numbers.name} stops ${this.intakes.size} subscriptions: ${by}`)
  }

  release(): void {
    if (this.engaged !== undefined) this.told(`The ${this.numbers.name} is released`)
    this.current = undefined
    this.recent.clear()
    for (const intake of this.intakes) intake.resume(this)
  }

  add(intake: Intake): void {
    this.intakes.add(intake)
    this.stop(intake)
  }

  /** Counts the result of a handler. */
  count(exit: Exit.Exit<unknown, unknown>): void {
    const isFailed = failed(exit)
    if (isFailed === undefined) return
    const { minimum, rate, restartAfter } = this.numbers
    this.recent.count(isFailed, this.clock.currentTimeMillisUnsafe())
    // messages taken before the switch engaged still end, and must not engage it again
    if (!isFailed || !this.recent.exceeds(rate, minimum) || this.engaged !== undefined) return
    const { calls, failures } = this.recent.sums
    this.engage(`${failures} of ${calls} messages failed`, restartAfter)
  }

  private stop(intake: Intake): void {
    const { engaged } = this
    if (engaged === undefined) return
    const left = engaged.until === undefined ? undefined : engaged.until - this.clock.currentTimeMillisUnsafe()
    intake.pause(this, `${this.numbers.name}: ${engaged.by}`, left)
  }
}

/**
 * Puts a kill switch between subscriptions and their broker: when too many messages fail in a short time, the switch stops
 * the intake of all watched subscriptions, before a bug or an outage turns every message into a dead letter.
 *
 * A message fails when its handler fails with an error or a defect, or answers a dead letter or a retry without `after`. An
 * interruption does not count, nor does an error with `retryAfter`. All watched subscriptions count together.
 *
 * Stopped subscriptions take no message and start none of those taken; running handlers continue, groups are not left, and no
 * message is lost. `Health.pauses` names the switch, and the switch logs a warning. Publishing goes on.
 *
 * **Example** (manually, before a migration)
 *
 * ```ts
 * import { Effect, Layer } from "effect"
 * import { KillSwitch, MemoryBroker } from "@millrace/core"
 *
 * const program = Effect.gen(function*() {
 *   const kill = yield* KillSwitch.KillSwitch
 *   yield* kill.engage("migration")
 *   // no message is taken until
 *   yield* kill.release
 * })
 *
 * const broker = KillSwitch.layer({ rate: 0.2, minimum: 50 }).pipe(Layer.provide(MemoryBroker.layer()))
 * await Effect.runPromise(Effect.provide(program, broker))
 * ```
 *
 * @throws RangeError when an option is out of range
 * @category layers
 */
export const layer = (options: Options = {}): Layer.Layer<Broker | KillSwitch, never, Broker> => {
  const numbers = numbersOf(options)
  const chosen = options.subscriptions === undefined ? undefined : new Set(options.subscriptions)
  return Layer.effectContext(
    Effect.gen(function*() {
      const broker = yield* Broker
      const context = Detached.context(yield* Effect.context<never>())
      const one = new Switch(
        numbers,
        yield* Clock.Clock,
        (line) => void Effect.runForkWith(context)(Effect.logWarning(line))
      )
      const watched = <R>(handle: Handler<Delivery, unknown, unknown, R>): Handler<Delivery, unknown, unknown, R> => {
        const guarded = Eager.guard(handle)
        return (delivery) => Eager.around(delivery, guarded, (exit) => one.count(exit))
      }
      const consume: Broker["Service"]["consume"] = (consumer) => {
        if (chosen !== undefined && !chosen.has(consumer.name)) return broker.consume(consumer)
        return Effect.tap(
          broker.consume({ ...consumer, handle: watched(consumer.handle) }),
          ({ intake }) =>
            Effect.acquireRelease(
              Effect.sync(() => one.add(intake)),
              () => Effect.sync(() => one.intakes.delete(intake))
            )
        )
      }
      return Context.make(Broker, { ...broker, consume }).pipe(
        Context.add(KillSwitch, {
          engage: (by, { for: time } = {}) =>
            Effect.sync(() => one.engage(by, time === undefined ? undefined : check.millis("for", time))),
          release: Effect.sync(() => one.release()),
          status: Effect.sync(() => {
            const { engaged } = one
            return {
              engaged: engaged !== undefined,
              by: engaged?.by,
              since: engaged?.since,
              until: engaged?.until
            }
          })
        })
      )
    })
  )
}
