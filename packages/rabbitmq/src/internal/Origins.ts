/**
 * The channels of a queue's deliveries: a pattern has many.
 */
import type { Driver, Origin } from "@millrace/core"
import type { ConsumeMessage } from "amqplib"
import { channelBeforeWait } from "./OwnHeaders.ts"

// the most channels of a pattern whose origins are cached
const mostOrigins = 1000

/** Origins of deliveries: one object for each channel. */
export class Origins {
  private readonly options: Driver.ConsumeOptions
  private readonly queue: string
  private readonly holdLimit: number
  private readonly known = new Map<string, Origin>()
  private readonly only: Origin | undefined

  constructor(options: Driver.ConsumeOptions, queue: string, holdLimit: number) {
    this.options = options
    this.queue = queue
    this.holdLimit = holdLimit
    this.only = options.pattern === undefined ? this.make(options.channel) : undefined
  }

  /** Finds the origin of a message; undefined if its channel does not match the pattern. */
  of(message: ConsumeMessage): Origin | undefined {
    if (this.only !== undefined) return this.only
    const channel = channelBeforeWait(message, this.queue) ?? message.fields.routingKey
    const found = this.known.get(channel)
    if (found !== undefined) return found
    if (this.options.pattern?.match(channel) === undefined) return undefined
    if (this.known.size >= mostOrigins) this.known.clear()
    const origin = this.make(channel)
    this.known.set(channel, origin)
    return origin
  }

  private make(channel: string): Origin {
    const { group, handler } = this.options
    return { system: "rabbitmq", channel, group, partition: 0, handler, holdLimit: this.holdLimit }
  }
}
