/**
 * The recent failure rate.
 */

const parts = 10

/** Counts the calls and failures of the last `window` milliseconds, in ten buckets. */
export class Recent {
  private readonly width: number
  private readonly calls = new Uint32Array(parts)
  private readonly failures = new Uint32Array(parts)
  private part = 0

  /** `window` in milliseconds. */
  constructor(window: number) {
    this.width = window / parts
  }

  count(fails: boolean, now: number): void {
    this.turn(now)
    const at = this.part % parts
    this.calls[at]!++
    if (fails) this.failures[at]!++
  }

  /** The totals, as of the last counted call. */
  get sums(): { readonly calls: number; readonly failures: number } {
    let calls = 0
    let failures = 0
    for (let i = 0; i < parts; i++) {
      calls += this.calls[i]!
      failures += this.failures[i]!
    }
    return { calls, failures }
  }

  /** Tells whether at least `rate` of the calls failed, out of at least `minimum` calls. */
  exceeds(rate: number, minimum: number): boolean {
    const { calls, failures } = this.sums
    return calls >= minimum && failures >= rate * calls
  }

  clear(): void {
    this.calls.fill(0)
    this.failures.fill(0)
  }

  private turn(now: number): void {
    const part = Math.floor(now / this.width)
    if (part === this.part) return
    const gone = part - this.part
    if (gone >= parts || gone < 0) this.clear()
    else {
      for (let i = 1; i <= gone; i++) {
        this.calls[(this.part + i) % parts] = 0
        this.failures[(this.part + i) % parts] = 0
      }
    }
    this.part = part
  }
}
