/**
 * Limits how long handlers run before other work of the event loop gets its turn.
 */
import type { Clock } from "effect"

/** Milliseconds of one slice. */
const length = 4

/** The most messages between two looks at the clock. */
const longest = 64

/** One time slice after another. Reads the clock seldom while messages are quick, and after each slow message. */
export class TimeSlice {
  private readonly clock: Clock.Clock
  // before it begins, a slice is over
  private began = Number.NEGATIVE_INFINITY
  private looked = Number.NEGATIVE_INFINITY
  // how many messages go between two looks
  private stride = 1
  private left = 1

  constructor(clock: Clock.Clock) {
    this.clock = clock
  }

  begin(): void {
    this.began = this.looked = this.clock.currentTimeMillisUnsafe()
    this.stride = this.left = 1
  }

  /** Whether it lasts still; asked seldom. */
  isOpen(): boolean {
    return this.clock.currentTimeMillisUnsafe() - this.began < length
  }

  /** The next look says that it is over. */
  end(): void {
    this.began = Number.NEGATIVE_INFINITY
    this.left = 1
  }

  /** Whether it is over; asked once after each message. */
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
