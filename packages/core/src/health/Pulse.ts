/**
 * Whether the fibers of this process still run in time.
 */
import { type Clock, Duration, Effect } from "effect"
import * as Check from "./Check.ts"

/** Options of the event loop's check. */
export interface Options {
  /** How late a fiber may come to run, from 10 ms; three times in a row later, and the process is not alive. Default: 2 seconds. */
  readonly delay?: Duration.Input | undefined
}

/** What is taken where an option is not given. */
export const defaults: { readonly delay: Duration.Duration } = { delay: Duration.seconds(2) }

const every = 1000

const beats = 3

/** The delay in milliseconds; throws a RangeError when it is out of range. */
export const delayOf = (options: Options): number =>
  Check.checkOption.millis("eventLoop.delay", options.delay ?? defaults.delay, { least: 10 })

/** A fiber that wakes each second, and the check of how late it did. */
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
    // as late as three beats together: timers do not run at all
    check: Check.liveness("event loop", () => inRow < beats && now() - last < beats * (every + delay))
  }
}
