/**
 * Retries that RabbitMQ holds: a copy of the message waits in a queue whose messages die after that time, and goes back to the
 * group's queue then. The number of its next attempt is in its headers.
 */
import type { ConfirmChannel, ConsumeMessage } from "amqplib"
import * as Channels from "./Channels.ts"
import type { Connection } from "./Connection.ts"
import { waiting } from "./Copies.ts"
import * as Errors from "./Errors.ts"
import { frameSize } from "./FrameSize.ts"
import { waitQueueOf } from "./OwnHeaders.ts"

// The wait is kept to an eighth, so that few queues serve all waits.
const eighths = 8
// a timer of RabbitMQ holds no more
const longest = 2_000_000_000
const shortestUnused = 60_000

/**
 * The time of the queue that serves a wait: the wait, or up to an eighth more, in milliseconds, and at least 1: a copy that
 * RabbitMQ did not return from a wait is any publisher's.
 */
export const step = (after: number): number => {
  const wait = Math.max(1, Math.min(longest, Math.ceil(after)))
  if (wait <= eighths) return wait
  const unit = 2 ** Math.max(0, Math.floor(Math.log2(wait)) - 3)
  return Math.min(longest, Math.ceil(wait / unit) * unit)
}

/** A message, and how long it waits. */
export interface Waiting {
  readonly message: ConsumeMessage
  /** In milliseconds. */
  readonly after: number
  /** The number of its next attempt. */
  readonly attempt: number
  readonly channel: string
}

/** The waits of one queue. */
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
   * Writes copies; completes when RabbitMQ has confirmed all of them, with those that amqplib cannot write: other clients write
   * longer headers than it can.
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
    // what comes back is confirmed, too
    if (this.returns === returns) return unwritable
    this.declared.clear()
    throw Errors.make(
      "settle",
      "Lost",
      `A queue of waits of ${this.queue} was deleted: its messages come again.`
    )
  }

  /** A queue that nobody declares for a while is gone, and what waits in it, too: so it is declared again in time. */
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
            // else a message would be taken out before the other queue has it
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

  /** Leaves the channel, without waiting: RabbitMQ may owe an answer on it for ever. The next copies go on another. */
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
