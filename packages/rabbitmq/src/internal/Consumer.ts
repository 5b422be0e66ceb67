/**
 * One consumer of a queue: one channel is one lease, and deliveries that arrive together go to the engine as a batch.
 */
import { type BrokerError, type Delivery, delivery, type Driver } from "@millrace/core"
import type { Channel, ConsumeMessage } from "amqplib"
import { Clock, Context, Effect, Exit, type Fiber, Scheduler } from "effect"
import { Acknowledgements } from "./Acknowledgements.ts"
import * as Channels from "./Channels.ts"
import { MessageReader } from "./Codec.ts"
import type { Connection, Opened } from "./Connection.ts"
import { DelayQueues } from "./DelayQueues.ts"
import * as Errors from "./Errors.ts"
import { Origins } from "./Origins.ts"
import { attemptOf, countersOf, isCounted } from "./OwnHeaders.ts"
import * as QueueType from "./QueueType.ts"
import * as Requests from "./Requests.ts"
import { Settlement } from "./Settlement.ts"
import type { Source } from "./Topology.ts"

type Failed = BrokerError.BrokerError

// the largest default prefetch: messages delivered to one consumer are withheld from all others
const mostAhead = 1024

/** One consumer of a queue. */
export class Consumer {
  readonly lease: Driver.Lease
  private readonly connection: Connection
  private readonly source: Source
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly fork: <A, E>(effect: Effect.Effect<A, E>) => Fiber.Fiber<A, E>
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private readonly origins: Origins
  private readonly reader: MessageReader
  private readonly acknowledgements = new Acknowledgements(() => this.opened!.channel)
  private readonly delays: DelayQueues
  private readonly settlement: Settlement
  private readonly prefetch: number
  private buffer: Array<ConsumeMessage> = []
  private head = 0
  private isPumping = false
  private stopped = false
  private tag: string | undefined
  private opened: Opened<Channel> | undefined
  private failure: Failed | undefined
  private end: (error: Failed) => void = (error) => {
    this.failure = error
  }
  private room: Fiber.Fiber<void> | undefined
  /** The queue's type; undefined for a queue of another program until a message requires it. */
  private queueType: QueueType.QueueType | undefined
  private counters: ReadonlyArray<string>
  private mustAsk = false
  private mayBeStream = true

  constructor(
    connection: Connection,
    publishing: Connection,
    source: Source,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    context: Context.Context<never>
  ) {
    this.connection = connection
    this.source = source
    this.options = options
    this.sink = sink
    this.fork = Effect.runForkWith(context)
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    const clock = Context.get(context, Clock.Clock)
    this.origins = new Origins(options, source.queue, connection.resolved.consumerTimeout)
    this.reader = new MessageReader({ exchange: connection.resolved.exchange, queue: source.queue })
    this.queueType = source.binding === undefined
      ? undefined
      : source.isTemporary
      ? "classic"
      : connection.resolved.queueType
    this.counters = countersOf(this.queueType ?? "unknown", connection.version)
    this.delays = new DelayQueues(publishing, source.queue, () => clock.currentTimeMillisUnsafe())
    this.prefetch = connection.resolved.prefetch ?? Math.min(mostAhead, options.messages)
    this.settlement = new Settlement({
      resolved: connection.resolved,
      where: this.where,
      acknowledgements: this.acknowledgements,
      delays: this.delays,
      prefetch: this.prefetch,
      ordered: options.ordered,
      fork: this.fork,
      offer: (message) => this.offer(message)
    })
    this.lease = { partition: 0, settle: (batch) => this.settlement.settle(batch) }
  }

  /** The number of messages that this consumer holds unsettled. */
  get held(): number {
    return this.acknowledgements.size
  }

  private get where() {
    return { channel: this.options.channel, queue: this.source.queue }
  }

  private failed(error: unknown): Failed {
    return Errors.fromUnknown(error, "consume", { ...this.connection.resolved.place, ...this.where })
  }

  /** Opens the channel. */
  readonly connect = async (): Promise<void> => {
    const opened = await this.connection.channel(Channels.plain, () => {
      this.end(this.failed(this.opened?.why() ?? new Error("Channel closed")))
    })
    // the consumer was stopped meanwhile
    if (this.stopped) return Channels.close(opened.channel)
    this.opened = opened
  }

  /** Starts to consume. */
  readonly start = async (): Promise<void> => {
    const { channel } = this.opened!
    await channel.prefetch(this.prefetch)
    this.sink.open(this.lease)
    const { consumerPriority } = this.connection.resolved
    const { consumerTag } = await channel.consume(
      this.source.queue,
      (message) => this.receive(message),
      consumerPriority === undefined ? {} : { priority: consumerPriority }
    )
    this.tag = consumerTag
    // the consumer was stopped meanwhile
    if (this.stopped) this.leave()
  }

  /** Runs until interrupted, or until its channel ends. */
  readonly read: Effect.Effect<never, Failed> = Effect.callback<never, Failed>((resume) => {
    this.end = (error) => resume(Effect.fail(error))
    if (this.failure !== undefined) this.end(this.failure)
    return Effect.sync(() => this.stop())
  })

  private receive(message: ConsumeMessage | null): void {
    if (message === null) {
      return this.end(Errors.make(
        "consume",
        "Lost",
        `RabbitMQ ended the consumer of the queue ${this.source.queue}: it was deleted, or its node is gone.`
      ))
    }
    if (this.stopped) return this.giveBack(message)
    this.acknowledgements.add(message.fields.deliveryTag)
    this.offer(message)
  }

  private offer(message: ConsumeMessage): void {
    if (this.stopped) return
    this.buffer.push(message)
    if (this.isPumping) return
    this.isPumping = true
    // messages that arrive in the same turn form one batch
    this.dispatcher.scheduleTask(this.pump, 0)
  }

  /** Offers buffered messages while the engine has room. */
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

  /** Takes the next batch, within the subscription's limits. */
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
    // acknowledges messages that match the binding but not the pattern
    if (others.length > 0) this.settlement.acknowledge(others)
    if (this.head > 4096) {
      this.buffer = buffer.slice(this.head)
      this.head = 0
    }
    return batch
  }

  private attemptOf(message: ConsumeMessage): number {
    return this.settlement.attemptOf(message.fields.deliveryTag) ?? attemptOf(message, this.source.queue, this.counters)
  }

  /** Whether the meaning of a message's header depends on the queue's type, which tells whether RabbitMQ wrote the header. */
  private isTelling(message: ConsumeMessage): boolean {
    if (this.mayBeStream) {
      if (message.properties.headers?.["x-stream-offset"] !== undefined) return true
      // a stream writes this header into every message
      this.mayBeStream = false
    }
    return isCounted(message, this.counters)
  }

  /** Fetches the type of another program's queue once, and goes on. */
  private ask(): void {
    const { queue } = this.source
    const asked = Requests.ask(
      this.connection.resolved,
      "consume",
      () => QueueType.ask(this.connection, queue),
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

  private learn(type: QueueType.QueueType): void {
    this.mustAsk = false
    if (type === "stream") {
      return this.end(Errors.make(
        "consume",
        "Unsupported",
        `${this.source.queue} is a stream, which keeps no group's place: bind a queue to its exchange, or browse it.`
      ))
    }
    this.queueType = type
    this.counters = countersOf(type, this.connection.version)
  }

  private giveBack({ fields }: ConsumeMessage): void {
    if (this.options.ordered) return
    this.acknowledgements.add(fields.deliveryTag)
    this.acknowledgements.nack(fields.deliveryTag)
  }

  /** Takes no new messages; open deliveries can still be settled. */
  private stop(): void {
    this.stopped = true
    this.room?.interruptUnsafe()
    if (this.tag !== undefined) this.leave()
  }

  /**
   * Cancels the consumer and returns messages that have not begun, if order does not matter, so other consumers get them at
   * once.
   */
  private leave(): void {
    if (this.options.ordered) return
    const { channel } = this.opened!
    channel.cancel(this.tag!).catch(() => {})
    try {
      for (const each of this.buffer.slice(this.head)) this.acknowledgements.nack(each.fields.deliveryTag)
    } catch {
      // the channel has ended, which has returned all messages
    }
  }

  /** Ends the lease: closing the channel returns open deliveries to the queue. */
  readonly close = async (): Promise<void> => {
    this.stopped = true
    this.settlement.close()
    const { opened } = this
    this.opened = undefined
    this.end = () => {}
    await Promise.all([opened === undefined ? undefined : Channels.close(opened.channel), this.delays.close()])
  }
}
