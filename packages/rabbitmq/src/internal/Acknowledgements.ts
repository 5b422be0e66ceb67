/**
 * The unacknowledged deliveries of one channel: one acknowledgement covers all up to a delivery if none before it is open.
 */
import type { Channel, ConsumeMessage } from "amqplib"

/** Open deliveries of one channel. */
export class Acknowledgements {
  private readonly channel: () => Channel
  /** Tags in order of delivery. */
  private readonly open = new Set<number>()

  constructor(channel: () => Channel) {
    this.channel = channel
  }

  /** The number of open deliveries. */
  get size(): number {
    return this.open.size
  }

  add(tag: number): void {
    this.open.add(tag)
  }

  has(tag: number): boolean {
    return this.open.has(tag)
  }

  /** Acknowledges deliveries: one acknowledgement for all before the first open delivery, and one for each beyond it. */
  acknowledge(tags: ReadonlyArray<number>): void {
    const { open } = this
    const channel = this.channel()
    for (const tag of tags) open.delete(tag)
    let first = Number.POSITIVE_INFINITY
    for (const tag of open) {
      first = tag
      break
    }
    let last = 0
    for (const tag of tags) {
      if (tag > first) channel.ack(message(tag))
      else if (tag > last) last = tag
    }
    if (last > 0) channel.ack(message(last), true)
  }

  /** Returns a message whose handler has begun: RabbitMQ 4.3 counts a failed delivery only for this way of returning. */
  reject(tag: number): void {
    if (this.open.delete(tag)) this.channel().reject(message(tag), true)
  }

  /** Returns a message whose handler has not begun. */
  nack(tag: number): void {
    if (this.open.delete(tag)) this.channel().nack(message(tag), false, true)
  }
}

/** Makes the part of a message that amqplib reads to acknowledge it. */
const message = (deliveryTag: number): ConsumeMessage => ({ fields: { deliveryTag } }) as ConsumeMessage
