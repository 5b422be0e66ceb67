/**
 * Detects that the fibers of this process no longer run on time.
 */
import { type Clock, Duration, Effect } from "effect"
import * as Check from "./Check.ts"

/** Options of the event loop check. */
export interface Options {
  /** The most delay of a fiber, from 10 ms; after three larger delays in a row, the process is not alive. Default: 2 seconds. */
  readonly delay?: Duration.Input | undefined
}

/** The defaults of the options. */
export const defaults: { readonly delay: Duration.Duration } = { delay: Duration.seconds(2) }

const every = 1000

const beats = 3

/** Returns the delay in milliseconds; throws a RangeError if it is out of range. */
export const delayOf = (options: Options): number =>
  Check.checkOption.millis("eventLoop.delay", options.delay ?? defaults.delay, { least: 10 })

/** Makes a fiber that wakes each second, and the check of its delay. */
export const make = (clock: Clock.Clock, options: Options) => {
  const delay = delayOf(options)
  const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
  let last = now()
  let inRow = 0
  const beat = Effect.sync(() => {
    const at = now()
    inRow = at - last - every > delay ? inRow + 1 : 0
    last = at
  })
  return {
    run: Effect.forever(Effect.delay(beat, every)),
    // a delay of three whole beats means that timers do not run at all
    check: Check.liveness("event loop", () => inRow < beats && now() - last < beats * (every + delay))
  }
}
