/**
 * Messages of a retry channel whose time has not come, the earliest first.
 */
import type { Delivery } from "../model/Message.ts"

/** Milliseconds by which a time may be missed: sums of fractions are not exact. */
const epsilon = 0.01

/** Whether a time has come. */
export const isDue = (due: number, now: number): boolean => due - now < epsilon

/** Free places at the front beyond which the arrays are compacted. */
const slack = 32

/** Sorted by time. A message most often comes in as the last: messages of one channel wait equally long. */
export class DelayQueue {
  private readonly times: Array<number> = []
  private readonly deliveries: Array<Delivery | undefined> = []
  private head = 0

  get length(): number {
    return this.times.length - this.head
  }

  /** When the first is due; Infinity where there is none. */
  get next(): number {
    return this.times[this.head] ?? Number.POSITIVE_INFINITY
  }

  push(delivery: Delivery, due: number): void {
    let at = this.times.length
    while (at > this.head && this.times[at - 1]! > due) at--
    this.times.splice(at, 0, due)
    this.deliveries.splice(at, 0, delivery)
  }

  /** The first, if its time has come. */
  shift(now: number): Delivery | undefined {
    const { head } = this
    if (head === this.times.length || !isDue(this.times[head]!, now)) return undefined
    const delivery = this.deliveries[head]
    this.deliveries[head] = undefined
    this.head++
    if (this.head > slack && this.head * 2 > this.times.length) this.compact()
    return delivery
  }

  /** Drops the messages for which `isGone` holds. */
  drop(isGone: (delivery: Delivery) => boolean): void {
    this.compact()
    let kept = 0
    for (let i = 0; i < this.times.length; i++) {
      const delivery = this.deliveries[i]!
      if (isGone(delivery)) continue
      this.times[kept] = this.times[i]!
      this.deliveries[kept++] = delivery
    }
    this.times.length = kept
    this.deliveries.length = kept
  }

  private compact(): void {
    this.times.splice(0, this.head)
    this.deliveries.splice(0, this.head)
    this.head = 0
  }
}
