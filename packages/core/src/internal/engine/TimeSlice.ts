/**
 * Limits how long handlers run before other work of the event loop gets its turn.
 */
import type { Clock } from "effect"

/** Length of a slice in milliseconds. */
const length = 4

/** The most messages between two readings of the clock. */
const longest = 64

/** Consecutive time slices. Reads the clock seldom while messages are quick, and after each slow message. */
export class TimeSlice {
  private readonly clock: Clock.Clock
  // a slice that has not begun is over
  private began = Number.NEGATIVE_INFINITY
  private looked = Number.NEGATIVE_INFINITY
  // the number of messages between two readings
  private stride = 1
  private left = 1

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  begin(): void {
    this.began = this.looked = this.clock.currentTimeMillisUnsafe()
    this.stride = this.left = 1
  }

  /** Tells whether the slice still lasts; called seldom. */
  isOpen(): boolean {
    return this.clock.currentTimeMillisUnsafe() - this.began < length
  }

  /** Makes the next reading report the end of the slice. */
  end(): void {
    this.began = Number.NEGATIVE_INFINITY
    this.left = 1
  }

  /** Tells whether the slice is over; called once after each message. */
  isOver(): boolean {
    return --this.left <= 0 && this.look()
  }

  private look(): boolean {
    const now = this.clock.currentTimeMillisUnsafe()
    if (now - this.began >= length) return true
    this.stride = now === this.looked ? Math.min(longest, this.stride * 2) : 1
    this.left = this.stride
    this.looked = now
    return false
  }
}
