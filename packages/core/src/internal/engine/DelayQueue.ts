/**
 * Messages of a retry channel that are not due yet, the earliest first.
 */
import type { Delivery } from "../../message/Message.ts"
import { Fifo } from "./Fifo.ts"

/** Tolerance of due times in milliseconds: sums of fractions are not exact. */
const epsilon = 0.01

/** Tells whether a time has come. */
export const isDue = (due: number, now: number): boolean => due - now < epsilon

/** A queue sorted by time. Insertions are usually at the end, because all messages of a retry channel have the same delay. */
export class DelayQueue {
  private readonly waiting = new Fifo<{ readonly delivery: Delivery; readonly due: number }>()

  get length(): number {
    return this.waiting.length
  }

  /** The due time of the first message; Infinity if the queue is empty. */
  get next(): number {
    return this.waiting.peek()?.due ?? Number.POSITIVE_INFINITY
  }

  push(delivery: Delivery, due: number): void {
    this.waiting.insert({ delivery, due }, (other) => other.due > due)
  }

  /** Removes and returns the first message, if it is due. */
  shift(now: number): Delivery | undefined {
    return isDue(this.next, now) ? this.waiting.shift()!.delivery : undefined
  }

  /** Drops the messages for which `isGone` is true. */
  drop(isGone: (delivery: Delivery) => boolean): void {
    this.waiting.drop(({ delivery }) => isGone(delivery))
  }
}
