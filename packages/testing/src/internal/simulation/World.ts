/** The interface of a world to the program that runs in it. */
import type { Effect, Exit, Fiber } from "effect"

/** A process of the world that can die on its own: its fibers and timers stop where they are, no finalizer runs. */
export interface Process {
  readonly name: string
  readonly alive: boolean
  /** Starts an effect in this process. Provide its services before. */
  readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  /** Runs an effect in this process and waits for it; waits for ever if the process is killed meanwhile. */
  readonly run: <A, E>(effect: Effect.Effect<A, E>) => Effect.Effect<A, E>
  readonly kill: () => void
  /** Counts the fibers of this process that have not ended, and its timers that have not fired. */
  readonly held: () => Held
}

/** The fibers and timers of a process. */
export interface Held {
  /** Fibers that have begun and not ended. */
  readonly fibers: number
  /** Sleeping timers. */
  readonly timers: number
}

/** The world of a program. The seed decides all of it. */
export interface World {
  readonly seed: number
  /** A number from 0 to below 1. */
  readonly next: () => number
  /** An integer from `low` to `high`, both included. */
  readonly integer: (low: number, high: number) => number
  /** True with the probability `rate`, from 0 to 1. */
  readonly chance: (rate: number) => boolean
  readonly pick: <A>(list: ReadonlyArray<A>) => A
  /** Milliseconds since the world began. */
  readonly now: () => number
  /** Lets time pass while the caller computes: no other fiber runs meanwhile. */
  readonly spend: (milliseconds: number) => void
  /** Adds a line to the log; a function is called only if the log is recorded. */
  readonly log: (line: string | (() => string)) => void
  /** Makes the history fail with `otherwise`, unless `holds`. The history goes on. */
  readonly expect: (holds: boolean, otherwise: string | (() => string)) => void
  readonly process: (name: string) => Process
}

/** Options of a run. */
export interface Options {
  /** Steps of the scheduler and operations of fibers, in all, after which a history is a livelock. Default: 20 million. */
  readonly steps?: number | undefined
  /** Whether the log is kept. Default: false. */
  readonly record?: boolean | undefined
}

/** The result of a history. */
export interface History<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly faults: ReadonlyArray<string>
  readonly log: ReadonlyArray<string>
  readonly steps: number
  /** Virtual milliseconds from its beginning to its end. */
  readonly milliseconds: number
}
