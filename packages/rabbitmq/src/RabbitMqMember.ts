/**
 * One consumer of a queue: one channel is one lease, deliveries go to the engine in batches of what has come together, and
 * acknowledgements go back as one for all up to a message, where none before it is open.
 */
import { type BrokerError, type Delivery, delivery, type Driver } from "@millrace/core"
import type { Channel, ConsumeMessage } from "amqplib"
import { Clock, Context, Duration, Effect, Exit, type Fiber, Scheduler } from "effect"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import { attemptOf, countersOf, isCounted, MessageReader } from "./RabbitMqMessage.ts"
import { Origins } from "./RabbitMqOrigins.ts"
import * as RabbitMqQueueType from "./RabbitMqQueueType.ts"
import type { Source } from "./RabbitMqTopology.ts"
import { type Waiting, Waits } from "./RabbitMqWait.ts"

type Failed = BrokerError.BrokerError

// So many are acknowledged at once, or what has gathered for so long (milliseconds): each acknowledgement is a system call,
// and costs more than all else that is done for a message.
const together = 64
const gathering = 4
// What is handed to one consumer is kept from all others, also where many may be in flight.
const mostAhead = 1024

const gather = Effect.sleep(gathering)

/** One consumer of a queue. */
export class Member {
  readonly lease: Driver.Lease
  private readonly link: RabbitMqClient.Link
  private readonly source: Source
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly origins: Origins
  private readonly reader: MessageReader
  private readonly waits: Waits
  private readonly prefetch: number
  /** Acknowledgements that are not worth waiting for more; RabbitMQ hands out no others while they are held back. */
  private readonly enough: number
  /** Tags that RabbitMQ waits to hear of, in order. */
  private readonly open = new Set<number>()
  private buffer: Array<ConsumeMessage> = []
  private head = 0
  private isPumping = false
  private stopped = false
  private tag: string | undefined
  private opened: RabbitMqClient.Opened<Channel> | undefined
  private failure: Failed | undefined
  private end: (error: Failed) => void = (error) => {
    this.failure = error
  }
  private room: Fiber.Fiber<void> | undefined
  /** Waits of messages that cannot be copied. */
  private readonly kept = new Set<Fiber.Fiber<void>>()
  /** The next attempts of those messages, by their tags. */
  private readonly attempts = new Map<number, number>()
  /** Undefined for a queue of another program, until a message makes it matter. */
  private queueType: RabbitMqQueueType.QueueType | undefined
  private counters: ReadonlyArray<string>
  private mustAsk = false

  constructor(
    link: RabbitMqClient.Link,
    publishing: RabbitMqClient.Link,
    source: Source,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    context: Context.Context<never>
  ) {
    this.link = link
    this.source = source
    this.options = options
    this.sink = sink
    this.fork = Effect.runForkWith(context)
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    const clock = Context.get(context, Clock.Clock)
    this.origins = new Origins(options, source.queue, link.connection.consumerTimeout)
    this.reader = new MessageReader({ exchange: link.connection.exchange, queue: source.queue })
    this.queueType = source.binding === undefined
      ? undefined
      : source.isTemporary
      ? "classic"
      : link.connection.queueType
    this.counters = countersOf(this.queueType ?? "unknown", link.version)
    this.waits = new Waits(publishing, source.queue, () => clock.currentTimeMillisUnsafe())
    this.prefetch = link.connection.prefetch ?? Math.min(mostAhead, options.messages)
    this.enough = Math.max(1, Math.min(together, this.prefetch >> 3))
    this.lease = { partition: 0, settle: (batch) => this.settle(batch) }
  }

  /** Messages that this consumer has and has not settled. */
  get held(): number {
    return this.open.size
  }

  private get where() {
    return { channel: this.options.channel, queue: this.source.queue }
  }

  private failed(error: unknown, operation: Failed["operation"] = "consume"): Failed {
    return RabbitMqError.fromUnknown(error, operation, { ...this.link.connection.place, ...this.where })
  }

  /** Opens the channel. */
  readonly connect = async (): Promise<void> => {
    const opened = await this.link.channel(RabbitMqClient.plain, () => {
      this.end(this.failed(this.opened?.why() ?? new Error("Channel closed")))
    })
    // nobody waits for it any more
    if (this.stopped) return RabbitMqClient.close(opened.channel)
    this.opened = opened
  }

  /** Begins to consume. */
  readonly start = async (): Promise<void> => {
    const { channel } = this.opened!
    await channel.prefetch(this.prefetch)
    this.sink.open(this.lease)
    const { consumerPriority } = this.link.connection
    const { consumerTag } = await channel.consume(
      this.source.queue,
      (message) => this.receive(message),
      consumerPriority === undefined ? {} : { priority: consumerPriority }
    )
    this.tag = consumerTag
    // it was told to stop in between
    if (this.stopped) this.leave()
  }

  /** Runs until it is told to stop, or its channel ends. */
  readonly read: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    this.end = (error) => resume(Effect.fail(error))
    if (this.failure !== undefined) this.end(this.failure)
    return Effect.sync(() => this.stop())
  })

  private receive(message: ConsumeMessage | null): void {
    if (message === null) {
      return this.end(RabbitMqError.make(
        "consume",
        "Lost",
        `RabbitMQ ended the consumer of the queue ${this.source.queue}: it was deleted, or its node is gone.`
      ))
    }
    if (this.stopped) return this.giveBack(message)
    this.open.add(message.fields.deliveryTag)
    this.offer(message)
  }

  private offer(message: ConsumeMessage): void {
    if (this.stopped) return
    this.buffer.push(message)
    if (this.isPumping) return
    this.isPumping = true
    // what comes in the same turn goes together
    this.dispatcher.scheduleTask(this.pump, 0)
  }

  /** Offers what is there, until there is no room. */
  private readonly pump = (): void => {
    this.room = undefined
    this.sink.polled()
    while (!this.stopped && this.head < this.buffer.length) {
      let batch: Array<Delivery> | undefined
      try {
        batch = this.next()
      } catch (error) {
        return this.end(this.failed(error))
      }
      if (batch.length === 0) {
        if (this.mustAsk) return this.ask()
        continue
      }
      const room = this.sink.offer(this.lease, batch)
      if (Exit.isExit(room)) continue
      const fiber = this.fork(room)
      this.room = fiber
      fiber.addObserver(() => {
        if (!this.stopped) this.pump()
      })
      return
    }
    if (this.head === this.buffer.length) {
      this.buffer = []
      this.head = 0
    }
    this.isPumping = false
  }

  /** The next batch, no longer than asked for. */
  private next(): Array<Delivery> {
    const { batch: most, bytes: mostBytes } = this.options
    const { buffer } = this
    const batch: Array<Delivery> = []
    const others: Array<number> = []
    let bytes = 0
    while (this.head < buffer.length && batch.length < most) {
      const message = buffer[this.head]!
      bytes += message.content.length
      if (batch.length > 0 && bytes > mostBytes) break
      if (this.queueType === undefined && this.isTelling(message)) {
        this.mustAsk = true
        break
      }
      this.head++
      const { deliveryTag } = message.fields
      const origin = this.origins.of(message)
      if (origin === undefined) others.push(deliveryTag)
      else batch.push(delivery(origin, this.reader, message, deliveryTag, message.content, this.attemptOf(message)))
    }
    // the words of an exchange are wider than the pattern
    if (others.length > 0) this.acknowledge(others)
    if (this.head > 4096) {
      this.buffer = buffer.slice(this.head)
      this.head = 0
    }
    return batch
  }

  private attemptOf(message: ConsumeMessage): number {
    const kept = this.attempts.size === 0 ? undefined : this.attempts.get(message.fields.deliveryTag)
    return kept ?? attemptOf(message, this.source.queue, this.counters)
  }

  /** Whether a header of RabbitMQ decides about a message, and only the type of the queue tells whether RabbitMQ wrote it. */
  private isTelling(message: ConsumeMessage): boolean {
    return message.properties.headers?.["x-stream-offset"] !== undefined || isCounted(message, this.counters)
  }

  /** Asks once for the type of a queue of another program, and goes on. */
  private ask(): void {
    const { queue } = this.source
    const asked = RabbitMqClient.ask(
      this.link.connection,
      "consume",
      () => RabbitMqQueueType.ask(this.link, queue),
      this.where
    )
    this.room = this.fork(Effect.matchEffect(asked, {
      onFailure: (error) => Effect.sync(() => this.end(error)),
      onSuccess: (type) =>
        Effect.andThen(
          type === "unknown"
            ? Effect.logWarning(
              `The user may not declare ${queue}, so its type is not known: if it is a stream, it keeps no place of the group ${this.options.group}.`
            )
            : Effect.void,
          Effect.sync(() => this.learn(type))
        )
    }))
    this.room.addObserver(() => {
      if (!this.stopped && this.failure === undefined && this.queueType !== undefined) this.pump()
    })
  }

  private learn(type: RabbitMqQueueType.QueueType): void {
    this.mustAsk = false
    if (type === "stream") {
      return this.end(RabbitMqError.make(
        "consume",
        "Unsupported",
        `${this.source.queue} is a stream, which keeps no group's place: bind a queue to its exchange, or browse it.`
      ))
    }
    this.queueType = type
    this.counters = countersOf(type, this.link.version)
  }

  /** One acknowledgement up to the first message that is open, and one for each beyond. */
  private acknowledge(tags: ReadonlyArray<number>): void {
    const { open } = this
    const { channel } = this.opened!
    for (const tag of tags) open.delete(tag)
    if (this.attempts.size > 0) { for (const tag of tags) this.attempts.delete(tag) }
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

  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    const done: Array<number> = []
    const released: Array<number> = []
    let waiting: Array<Waiting> | undefined
    for (let i = 0; i < batch.length; i++) {
      const { delivery: each, outcome } = batch[i]!
      // told a second time, or taken back by a channel that has ended
      if (!this.open.has(each.at)) continue
      if (outcome._tag === "Release") released.push(each.at)
      else {
        done.push(each.at)
        if (outcome._tag !== "Retry") continue
        ;(waiting ??= []).push({
          // every delivery of this lease was made of one, in `next`
          message: each.native as ConsumeMessage,
          after: outcome.after === undefined ? 0 : Duration.toMillis(outcome.after),
          attempt: each.attempts,
          channel: each.channel
        })
      }
    }
    if (waiting === undefined) {
      return done.length >= this.enough || released.length > 0
        ? this.tell(done, released)
        : Effect.flatMap(gather, () => this.tell(done, released))
    }
    const copies = waiting
    return Effect.flatMap(
      Effect.tapError(
        RabbitMqClient.ask(this.link.connection, "settle", () => this.waits.put(copies), this.where),
        () => Effect.sync(() => this.waits.renew())
      ),
      (unwritable) => {
        if (unwritable.length === 0) return this.tell(done, released)
        const tags = new Set(unwritable.map((each) => this.keep(each)))
        return this.tell(done.filter((tag) => !tags.has(tag)), released)
      }
    )
  }

  /** Offers a message that cannot be copied again after its wait, and answers its tag, which stays open. */
  private keep({ after, attempt, message }: Waiting): number {
    const { deliveryTag } = message.fields
    this.attempts.set(deliveryTag, attempt)
    // RabbitMQ ends the channel when it hears nothing of a message for the whole of that time
    const wait = Math.min(after, this.link.connection.consumerTimeout / 2)
    const fiber = this.fork(Effect.andThen(Effect.sleep(wait), Effect.sync(() => this.offer(message))))
    this.kept.add(fiber)
    fiber.addObserver(() => void this.kept.delete(fiber))
    return deliveryTag
  }

  private tell(done: ReadonlyArray<number>, released: ReadonlyArray<number>): Effect.Effect<void, Failed> {
    try {
      if (done.length > 0) this.acknowledge(done)
      // in order, they go back with the channel, all at once
      if (!this.options.ordered) { for (const tag of released) this.reject(tag) }
      return Exit.void
    } catch (error) {
      return Exit.fail(this.failed(error, "settle"))
    }
  }

  /** Returns a message whose handler has begun: of the ways to return it, RabbitMQ 4.3 counts only this one as a failed delivery. */
  private reject(tag: number): void {
    if (this.open.delete(tag)) this.opened!.channel.reject(message(tag), true)
  }

  /** Returns a message that was not begun. */
  private nack(tag: number): void {
    if (this.open.delete(tag)) this.opened!.channel.nack(message(tag), false, true)
  }

  private giveBack({ fields }: ConsumeMessage): void {
    if (this.options.ordered) return
    this.open.add(fields.deliveryTag)
    this.nack(fields.deliveryTag)
  }

  /** Takes nothing new; what is open can still be settled. */
  private stop(): void {
    this.stopped = true
    this.room?.interruptUnsafe()
    if (this.tag !== undefined) this.leave()
  }

  /** Where order does not matter, what was not begun is given to others at once. */
  private leave(): void {
    if (this.options.ordered) return
    const { channel } = this.opened!
    channel.cancel(this.tag!).catch(() => {})
    try {
      for (const each of this.buffer.slice(this.head)) this.nack(each.fields.deliveryTag)
    } catch {
      // the channel has ended, and all went back
    }
  }

  /** Ends the lease: what is open goes back to the queue. */
  readonly close = async (): Promise<void> => {
    this.stopped = true
    for (const fiber of this.kept) fiber.interruptUnsafe()
    const { opened } = this
    this.opened = undefined
    this.end = () => {}
    await Promise.all([opened === undefined ? undefined : RabbitMqClient.close(opened.channel), this.waits.close()])
  }
}

/** All that amqplib reads of a message to acknowledge it. */
const message = (deliveryTag: number): ConsumeMessage => ({ fields: { deliveryTag } }) as ConsumeMessage
