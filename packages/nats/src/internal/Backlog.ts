/** Received deliveries that wait for the engine. */
import type { Delivery } from "@millrace/core"

/** Deliveries in order of arrival. */
export class Backlog {
  private waiting: Array<Delivery> = []
  /** Bytes of the waiting bodies. */
  bytes = 0

  get length(): number {
    return this.waiting.length
  }

  get all(): ReadonlyArray<Delivery> {
    return this.waiting
  }

  push(delivery: Delivery): void {
    this.waiting.push(delivery)
    this.bytes += delivery.raw.length
  }

  /** Replaces the waiting deliveries. */
  reset(deliveries: Array<Delivery>): void {
    this.waiting = deliveries
    this.bytes = deliveries.reduce((sum, { raw }) => sum + raw.length, 0)
  }

  /** Removes and returns the first delivery, and as many behind it as fit into a batch. The backlog must not be empty. */
  take(messages: number, bytes: number): Array<Delivery> {
    const { waiting } = this
    let size = waiting[0]!.raw.length
    let count = 1
    while (count < waiting.length && count < messages && size + waiting[count]!.raw.length <= bytes) {
      size += waiting[count++]!.raw.length
    }
    this.bytes -= size
    if (count < waiting.length) return waiting.splice(0, count)
    this.waiting = []
    return waiting
  }
}
