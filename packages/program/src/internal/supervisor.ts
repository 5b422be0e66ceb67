/**
 * Keeps one part running: starts it, restarts it by its policy, and stops it within its time limit.
 */
import { BrokerError, Failure } from "@millrace/core"
import { Cause, Clock, Effect, Exit, Fiber, Metric, Option, Random, Scope } from "effect"
import * as Errors from "./errors.ts"
import type { Settings } from "./options.ts"
import type { Begun, Part, Stage } from "./part.ts"

/**
 * The state of a part.
 *
 * - `off`: not chosen, not enabled, or its broker is switched off
 * - `starting`, `ready`
 * - `restarting`: it failed, and waits for its next start
 * - `done`: its effect has ended with success
 * - `failed`: it failed, and is not restarted any more
 * - `stopping`, `stopped`: the program stops
 */
export type State = "off" | "starting" | "ready" | "restarting" | "done" | "failed" | "stopping" | "stopped"

/** A part, as shown to readers. */
export interface PartState {
  readonly name: string
  readonly stage: Stage
  readonly state: State
  /** Unix time in milliseconds since which the part is in this state. */
  readonly since: number
  /** Restarts since the program started. */
  readonly restarts: number
  /** The last error; undefined before the first. */
  readonly lastError: unknown
}

/** The end of a part that is not restarted. */
export type End =
  | { readonly _tag: "Off" }
  | { readonly _tag: "Done" }
  | { readonly _tag: "Failed"; readonly error: unknown; readonly why: string }

const restarts = Metric.counter("millrace.part.restarts", {
  description: "Restarts of a program's parts.",
  incremental: true
})

/** One life of a part, from a start to its end. */
interface Life {
  readonly scope: Scope.Closeable
  readonly starting: Fiber.Fiber<Begun, unknown>
  closing: Fiber.Fiber<void> | undefined
}

const isDisabled = (error: unknown): boolean =>
  Failure.isInstance(error, BrokerError.BrokerError) && error.reason === "Disabled"

const textOf = (error: unknown): string => {
  const message = Failure.messageOf(error, 1000)
  return message === "" ? Failure.tagOf(error) : message
}

/** Supervises one part. */
export class Supervisor {
  readonly name: string
  readonly part: Part<never>
  readonly settings: Settings
  /** The part's own health while it is ready. */
  check: Begun["check"]
  state: State = "off"
  since = 0
  restarts = 0
  lastError: unknown = undefined
  /** Whether a start has been tried, with success or not. */
  #life: Life | undefined

  constructor(name: string, part: Part<never>) {
    this.name = name
    this.part = part
    this.settings = part.settings
  }

  get shown(): PartState {
    const { lastError, name, restarts, since, state } = this
    return { name, stage: this.part.stage, state, since, restarts, lastError }
  }

  #set(state: State): Effect.Effect<void> {
    return Effect.map(Clock.currentTimeMillis, (now) => {
      if (this.state === state) return
      this.state = state
      this.since = now
    })
  }

  /** Starts the part and runs it to its end; the part's own errors count as failures. */
  #live(ready: Effect.Effect<void>): Effect.Effect<unknown, unknown> {
    const { name, part, settings } = this
    return Effect.gen({ self: this }, function*() {
      const scope = Scope.makeUnsafe()
      // a start that ignores its interruption must not hold up the program
      const starting = yield* Effect.forkDetach(Effect.provideService(part.begin, Scope.Scope, scope))
      this.#life = { scope, starting, closing: undefined }
      const started = yield* Effect.timeoutOption(Fiber.await(starting), settings.ready)
      if (Option.isNone(started)) {
        return yield* new Errors.NotReady({ message: `${name} was not ready within ${settings.ready} ms` })
      }
      const { check, ended } = yield* started.value
      this.check = check
      yield* this.#set("ready")
      yield* ready
      const end = yield* ended
      if (settings.onEnd !== "restart") return end
      return yield* new Errors.Ended({ message: `${name} ended, and is to run on` })
    })
  }

  /** Closes the present life; tells whether it ended within the limit. */
  #close(limit: number): Effect.Effect<boolean> {
    return Effect.gen({ self: this }, function*() {
      const life = this.#life
      if (life === undefined) return true
      life.starting.interruptUnsafe()
      life.closing ??= yield* Effect.forkDetach(
        Effect.andThen(Fiber.await(life.starting), Scope.close(life.scope, Exit.void))
      )
      const { closing } = life
      if (closing.pollUnsafe() === undefined) yield* Effect.timeoutOption(Fiber.await(closing), limit)
      const exit = closing.pollUnsafe()
      if (exit === undefined) return false
      this.#life = undefined
      if (exit._tag === "Failure") yield* Effect.logWarning(`Part ${this.name} failed while it stopped`, exit.cause)
      return true
    })
  }

  /** Runs the part until it ends for good. `ready` is run each time that the part becomes ready. */
  run(ready: Effect.Effect<void>): Effect.Effect<End> {
    const { name, settings } = this
    const { base, cap, jitter, times, within } = settings.restart
    return Effect.gen({ self: this }, function*() {
      let failures: Array<number> = []
      yield* this.#set("starting")
      for (;;) {
        const exit = yield* Effect.exit(this.#live(ready))
        this.check = undefined
        if (exit._tag === "Success") {
          yield* this.#close(settings.stop)
          yield* this.#set("done")
          return { _tag: "Done" }
        }
        const error = Cause.squash(exit.cause)
        if (isDisabled(error)) {
          yield* this.#close(settings.stop)
          yield* this.#set("off")
          yield* Effect.logInfo(`Part ${name} is off: ${textOf(error)}`)
          return { _tag: "Off" }
        }
        this.lastError = error
        yield* this.#set("restarting")
        const isClosed = yield* this.#close(settings.stop)
        const now = Number(yield* Clock.monotonicTimeNanos) / 1e6
        failures = [...failures.filter((at) => now - at < within), now]
        const fail = (error: unknown, why: string): Effect.Effect<End> =>
          Effect.gen({ self: this }, function*() {
            this.lastError = error
            yield* this.#set("failed")
            yield* Effect.logError(`Part ${name} failed, ${why}`, exit.cause)
            return { _tag: "Failed", error, why }
          })
        if (!isClosed) {
          const message = `${name} did not stop within ${settings.stop} ms after it failed`
          return yield* fail(new Errors.NotStopped({ message }), "and cannot be restarted: it does not stop")
        }
        if (Errors.isLasting(error)) return yield* fail(error, "and a restart would not help")
        if (failures.length > times) {
          return yield* fail(error, times === 0 ? "and is never restarted" : `${times} restarts in ${within} ms`)
        }
        const random = yield* Random.next
        const delay = Math.min(cap, base * 2 ** (failures.length - 1)) * (1 + jitter * (2 * random - 1))
        this.restarts += 1
        yield* Metric.update(Metric.withAttributes(restarts, { part: name }), 1)
        yield* Effect.logError(`Part ${name} failed, and is restarted in ${Math.round(delay)} ms`, exit.cause)
        yield* Effect.sleep(delay)
      }
    })
  }

  /** Stops the part; tells whether it stopped within the limit. Its fiber of `run` must have been interrupted. */
  stop(limit: number): Effect.Effect<boolean> {
    return Effect.gen({ self: this }, function*() {
      const isRunning = this.#life !== undefined
      if (!isRunning) {
        if (this.state === "starting" || this.state === "restarting") yield* this.#set("stopped")
        return true
      }
      yield* this.#set("stopping")
      this.check = undefined
      const isStopped = yield* this.#close(Math.min(limit, this.settings.stop))
      if (isStopped) yield* this.#set("stopped")
      return isStopped
    })
  }
}
