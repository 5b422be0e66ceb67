/**
 * Delays retries in RabbitMQ: a copy of the message waits in a queue with that time to live, and then returns to the group's
 * queue. Its headers hold the number of the next attempt.
 */
import type { ConfirmChannel, ConsumeMessage } from "amqplib"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import { waiting } from "./Copies.ts"
import * as Errors from "./Errors.ts"
import { frameSize } from "./FrameSize.ts"
import { waitQueueOf } from "./OwnHeaders.ts"

// waits are rounded up by at most an eighth, so few queues serve all waits
const eighths = 8
// the limit of RabbitMQ's timers, in milliseconds
const longest = 2_000_000_000
const shortestUnused = 60_000

/**
 * Rounds a wait up to the time of its queue in milliseconds: by at most an eighth, and to at least 1. Even an immediate retry
 * passes through a wait queue, because any publisher could have sent a copy that RabbitMQ did not return from one.
 */
export const step = (after: number): number => {
  const wait = Math.max(1, Math.min(longest, Math.ceil(after)))
  if (wait <= eighths) return wait
  const unit = 2 ** Math.max(0, Math.floor(Math.log2(wait)) - 3)
  return Math.min(longest, Math.ceil(wait / unit) * unit)
}

/** A message and its wait. */
export interface Waiting {
  readonly message: ConsumeMessage
  /** In milliseconds. */
  readonly after: number
  /** The number of the message's next attempt. */
  readonly attempt: number
  readonly channel: string
}

/** The wait queues of one queue. */
export class DelayQueues {
  private readonly connection: Connection
  private readonly queue: string
  private readonly now: () => number
  private readonly declared = new Map<number, number>()
  private opened: Promise<ConfirmChannel> | undefined
  private returns = 0

  constructor(connection: Connection, queue: string, now: () => number) {
    this.connection = connection
    this.queue = queue
    this.now = now
  }

  /**
   * Publishes copies. Completes when RabbitMQ has confirmed them, and returns the messages that amqplib cannot write: other
   * clients write longer headers than amqplib can.
   */
  async put(batch: ReadonlyArray<Waiting>): Promise<ReadonlyArray<Waiting>> {
    const steps = new Set(batch.map(({ after }) => step(after)))
    for (const wait of steps) await this.declare(wait)
    const channel = await this.channel()
    const { returns } = this
    const unwritable: Array<Waiting> = []
    const place = { queue: this.queue, exchange: this.connection.resolved.exchange }
    await Promise.all(batch.map((each) =>
      new Promise<void>((resolve, reject) => {
        const { after, attempt, channel: name, message } = each
        try {
          const properties = waiting(message, place, attempt, name)
          if (frameSize(properties) > this.connection.maximumFrame) {
            unwritable.push(each)
            return resolve()
          }
          channel.sendToQueue(
            waitQueueOf(this.queue, step(after)),
            message.content,
            properties,
            (error) => error === null || error === undefined ? resolve() : reject(error)
          )
        } catch (error) {
          if (Errors.isEnded(error)) return reject(error)
          unwritable.push(each)
          resolve()
        }
      })
    ))
    // RabbitMQ also confirms returned messages
    if (this.returns === returns) return unwritable
    this.declared.clear()
    throw Errors.make(
      "settle",
      "Lost",
      `A queue of waits of ${this.queue} was deleted: its messages come again.`
    )
  }

  /** Declares a wait queue again in time, because RabbitMQ deletes an unused queue, with its waiting messages. */
  private async declare(wait: number): Promise<void> {
    const before = this.declared.get(wait)
    if (before !== undefined && this.now() - before < shortestUnused / 2) return
    await Channels.using(
      this.connection,
      Channels.plain,
      (channel) =>
        channel.assertQueue(waitQueueOf(this.queue, wait), {
          arguments: {
            "x-queue-type": "quorum",
            "x-message-ttl": wait,
            "x-expires": 2 * wait + shortestUnused,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": this.queue,
            // otherwise RabbitMQ would remove a message before the other queue has it
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish"
          }
        })
    )
    this.declared.set(wait, this.now())
  }

  private channel(): Promise<ConfirmChannel> {
    if (this.opened !== undefined) return this.opened
    const forget = () => {
      if (this.opened === opened) this.opened = undefined
    }
    const opened: Promise<ConfirmChannel> = this.connection.channel(Channels.confirming, forget).then(({ channel }) => {
      channel.on("return", () => this.returns++)
      return channel
    }, (error) => {
      forget()
      throw error
    })
    return this.opened = opened
  }

  /** Leaves the channel without waiting, because RabbitMQ may never answer on it. The next copies use another channel. */
  renew(): void {
    const { opened } = this
    this.opened = undefined
    void opened?.then(Channels.close, () => {})
  }

  async close(): Promise<void> {
    const channel = await this.opened?.catch(() => undefined)
    if (channel !== undefined) await Channels.close(channel)
  }
}
