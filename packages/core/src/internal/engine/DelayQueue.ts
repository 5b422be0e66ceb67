/**
 * Messages of a retry channel whose time has not come, the earliest first.
 */
import type { Delivery } from "../../message/Message.ts"
import { Fifo } from "./Fifo.ts"

/** Milliseconds by which a time may be missed: sums of fractions are not exact. */
const epsilon = 0.01

/** Whether a time has come. */
export const isDue = (due: number, now: number): boolean => due - now < epsilon

/** Sorted by time. A message most often comes in as the last: messages of one channel wait equally long. */
export class DelayQueue {
  private readonly waiting = new Fifo<{ readonly delivery: Delivery; readonly due: number }>()

  get length(): number {
    return this.waiting.length
  }

  /** When the first is due; Infinity where there is none. */
  get next(): number {
    return this.waiting.peek()?.due ?? Number.POSITIVE_INFINITY
  }

  push(delivery: Delivery, due: number): void {
    this.waiting.insert({ delivery, due }, (other) => other.due > due)
  }

  /** The first, if its time has come. */
  shift(now: number): Delivery | undefined {
    return isDue(this.next, now) ? this.waiting.shift()!.delivery : undefined
  }

  /** Drops the messages for which `isGone` holds. */
  drop(isGone: (delivery: Delivery) => boolean): void {
    this.waiting.drop(({ delivery }) => isGone(delivery))
  }
}
