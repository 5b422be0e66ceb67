/**
 * The deliveries of one channel that RabbitMQ waits to hear of: they are acknowledged as one up to a delivery, where none before
 * it is open.
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

  /** How many deliveries are open. */
  get size(): number {
    return this.open.size
  }

  add(tag: number): void {
    this.open.add(tag)
  }

  has(tag: number): boolean {
    return this.open.has(tag)
  }

  /** Acknowledges deliveries: one acknowledgement up to the first delivery that is open, and one for each beyond. */
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

  /** Returns a message whose handler has begun: of the ways to return it, RabbitMQ 4.3 counts only this one as a failed delivery. */
  reject(tag: number): void {
    if (this.open.delete(tag)) this.channel().reject(message(tag), true)
  }

  /** Returns a message that was not begun. */
  nack(tag: number): void {
    if (this.open.delete(tag)) this.channel().nack(message(tag), false, true)
  }
}

/** All that amqplib reads of a message to acknowledge it. */
const message = (deliveryTag: number): ConsumeMessage => ({ fields: { deliveryTag } }) as ConsumeMessage
