/**
 * The outbound queue of a publisher: one channel with publisher confirms, and a window of unconfirmed messages.
 *
 * RabbitMQ confirms a message when every queue that it was routed to has it on disk. RabbitMQ returns a message that is
 * routed to no queue, and its call fails with `NotFound`: no message is lost silently.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import type { Message } from "amqplib"
import { Clock, Context, Effect, Exit } from "effect"
import * as Channels from "./Channels.ts"
import { buffer, toProperties } from "./Codec.ts"
import type { Connection } from "./Connection.ts"
import * as Errors from "./Errors.ts"
import { frameSize } from "./FrameSize.ts"
import { InFlight } from "./InFlight.ts"
import { refuse, routingKeyName, said } from "./Properties.ts"
import { PublishCall } from "./PublishCall.ts"
import * as Topology from "./Topology.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

// the most messages and bytes in flight; further calls wait here
const mostMessages = 2048
const mostBytes = 8 * 1024 * 1024
// longer messages are sent alone until RabbitMQ has accepted one of that length: a message that is too long closes the
// channel for all
const surelyTaken = 128 * 1024
// how often unanswered calls are checked, in milliseconds
const interval = 1000
// After an outage RabbitMQ accepts messages for queues without a leader, and never answers some of them (seen with 3.10). So
// a channel that replaces another is on trial for its first minute: the publisher leaves it once it has owed an answer for
// `trialAnswer`, and doubles that time for the next one, so a slow broker is not left again and again.
const trial = 60_000
const trialAnswer = 5000

/** The calls that wait to be sent, and those that wait for confirmation. */
export class OutboundQueue {
  private readonly connection: Connection
  private readonly clock: Clock.Clock
  private readonly waiting: Array<PublishCall> = []
  private readonly active = new Set<PublishCall>()
  private inFlight: InFlight | undefined
  private isOpening = false
  /** Whether the previous channel ended. */
  private isShaken = false
  /** The time within which a channel on trial must answer. */
  private patience = trialAnswer
  private round = 0
  /** The longest message that RabbitMQ accepts, once it has refused one. */
  private maximum = Number.POSITIVE_INFINITY
  /** The longest length that RabbitMQ is known to accept. */
  private taken = surelyTaken
  private closed = false
  private onIdle: () => void = () => {}

  constructor(connection: Connection, context: Context.Context<never>) {
    this.connection = connection
    this.clock = Context.get(context, Clock.Clock)
    connection.onUnblocked = () => this.flow()
  }

  private get place() {
    return this.connection.resolved.place
  }

  /** Publishes a batch; with `isDirect`, to the queues of the channels' names. */
  publish(batch: Batch, isDirect = false): Effect.Effect<void, Failed> {
    if (batch.length === 0) return Exit.void
    for (const outgoing of batch) {
      const refused = refuse(outgoing) ?? this.tooLong(outgoing)
      if (refused !== undefined) return Exit.fail(refused)
    }
    return Effect.callback<void, Failed>((resume) => {
      if (this.closed) {
        resume(Exit.fail(
          Errors.invalid("publish", "The broker's layer is closed: publish while its scope is open.")
        ))
        return
      }
      const call = new PublishCall(batch, isDirect, resume, this.clock.currentTimeMillisUnsafe())
      this.waiting.push(call)
      this.flow()
      // messages in flight cannot be cancelled
      return Effect.sync(() => {
        if (call.sent > 0) return
        this.forget(call)
        this.active.delete(call)
        this.rest()
      })
    })
  }

  private tooLong({ channel, payload }: Outgoing<Uint8Array>): Failed | undefined {
    const { length } = payload
    return length <= this.maximum ? undefined : Errors.tooLong(this.place, channel, length, this.maximum)
  }

  private forget(call: PublishCall): void {
    const at = this.waiting.indexOf(call)
    if (at >= 0) this.waiting.splice(at, 1)
  }

  /** Sends waiting messages while the window has room. */
  private flow(): void {
    if (this.waiting.length === 0) return this.rest()
    const { inFlight } = this
    if (inFlight === undefined) return this.begin()
    if (this.connection.blocked !== undefined) return
    const seconds = Math.floor(this.clock.currentTimeMillisUnsafe() / 1000)
    while (this.waiting.length > 0) {
      const call = this.waiting[0]!
      this.active.add(call)
      const confirmed = (error: unknown) => this.confirmed(call, inFlight, error)
      while (call.sent < call.batch.length) {
        if (inFlight.messages >= mostMessages || inFlight.bytes >= mostBytes || inFlight.isProbing) return
        inFlight.isProbing = call.batch[call.sent]!.payload.length > this.taken
        if (inFlight.isProbing && inFlight.messages > 0) {
          // first wait for the answers to messages in flight
          inFlight.isProbing = false
          return
        }
        if (this.send(call, inFlight, call.batch[call.sent]!, seconds, confirmed)) continue
        if (this.inFlight !== inFlight) return this.begin()
        break
      }
      // a message that cannot be written ends its call once the call's other messages are answered
      this.waiting.shift()
      this.settle(call)
    }
  }

  private send(
    call: PublishCall,
    inFlight: InFlight,
    outgoing: Outgoing<Uint8Array>,
    seconds: number,
    confirmed: (error: unknown) => void
  ): boolean {
    const { resolved } = this.connection
    const isRouted = Topology.isRouted(resolved, outgoing.channel)
    const { exchange, key } = this.targetOf(call, outgoing)
    try {
      const properties = toProperties(outgoing, seconds, { user: this.connection.user, isRouted })
      if (exchange === "" && Topology.isDirectReply(key)) properties.mandatory = false
      const { maximumFrame } = this.connection
      if (maximumFrame !== Number.POSITIVE_INFINITY && frameSize(properties) > maximumFrame) {
        inFlight.isProbing = false
        call.failure ??= Errors.tooWide(this.place, outgoing.channel, frameSize(properties), maximumFrame)
        return false
      }
      inFlight.opened.channel.publish(exchange, key, buffer(outgoing.payload), properties, confirmed)
    } catch (error) {
      inFlight.isProbing = false
      if (Errors.isEnded(error)) {
        // the message is sent on another channel
        this.leave(inFlight)
        return false
      }
      const { fields } = outgoing
      call.failure ??= Errors.unwritable(outgoing.channel, [outgoing.channel, ...fields.map(([name]) => name)])
      return false
    }
    call.sent++
    call.round = this.round
    inFlight.messages++
    inFlight.bytes += outgoing.payload.length
    return true
  }

  private targetOf({ isDirect }: PublishCall, outgoing: Outgoing<Uint8Array>): Topology.Target {
    const { resolved } = this.connection
    const { channel } = outgoing
    if (isDirect) return Topology.queueTarget(channel)
    const key = Topology.isRouted(resolved, channel) ? said(outgoing, routingKeyName) : undefined
    return Topology.targetOf(resolved, channel, key)
  }

  private confirmed(call: PublishCall, inFlight: InFlight, error: unknown): void {
    inFlight.messages--
    // counts in order of sending, so the sum comes out even
    const { length } = call.batch[call.answered++]!.payload
    inFlight.bytes -= length
    inFlight.isProbing = false
    call.round = this.round
    if (error === null || error === undefined) {
      if (length > this.taken) this.taken = length
    } else {
      call.failure ??= this.inFlight === inFlight && /nacked/.test(String(error))
        ? Errors.full(this.place, call.batch[0]!.channel)
        : this.ended(call, inFlight)
    }
    this.settle(call)
    if (inFlight.messages <= mostMessages / 2 && inFlight.bytes <= mostBytes / 2) this.flow()
  }

  /** Leaves a channel: later messages use another one. */
  private leave(inFlight: InFlight): void {
    if (this.inFlight !== inFlight) return
    this.inFlight = undefined
    this.isShaken = true
  }

  private settle(call: PublishCall): void {
    const isAnswered = call.answered === call.sent
    if (!isAnswered || (call.sent < call.batch.length && call.failure === undefined)) return
    this.active.delete(call)
    if (call.sent < call.batch.length) this.forget(call)
    call.end()
    this.rest()
  }

  /** Makes the error of one call when its channel has ended. */
  private ended(call: PublishCall, inFlight: InFlight): Failed {
    // publishes made in response to this error must use a new channel
    this.leave(inFlight)
    const why = inFlight.opened.why()
    const error = Errors.fromUnknown(why, "publish", { ...this.place, channel: call.batch[0]!.channel })
    if (error.retriable) return error
    if (error.reason === "TooLarge") {
      const [, size, most] = /size (\d+)\D+(\d+)/.exec(String(why)) ?? []
      if (most !== undefined) this.maximum = Number(most)
      if (size === undefined || call.batch.some(({ payload }) => payload.length >= Number(size))) return error
    } else if (error.reason === "NotFound") {
      // the exchange of a route is missing; RabbitMQ's error names it
      const { exchange } = this.targetOf(call, call.batch[0]!)
      if (String(why).includes(`'${exchange}'`)) return error
    } else return error
    return Errors.make(
      "publish",
      "Lost",
      `RabbitMQ at ${this.place.nodes} ended the channel because of another message: ${error.message}`
    )
  }

  /** Handles a message that RabbitMQ returns because no queue takes it; RabbitMQ confirms the message afterwards. */
  private returned({ content, fields }: Message): void {
    for (const call of this.active) {
      if (call.failure !== undefined) continue
      for (const outgoing of call.batch) {
        const { exchange, key } = this.targetOf(call, outgoing)
        if (key === fields.routingKey && exchange === fields.exchange && content.equals(outgoing.payload)) {
          call.failure = Topology.missing("publish", outgoing.channel)
          return
        }
      }
    }
  }

  private begin(): void {
    if (this.isOpening) return
    this.isOpening = true
    let inFlight: InFlight | undefined
    this.connection.channel(Channels.confirming, () => {
      if (inFlight !== undefined && this.inFlight === inFlight) {
        // the channel ended by itself: reset the trial time
        this.patience = trialAnswer
        this.leave(inFlight)
      }
      // amqplib has failed the sent messages; the others use another channel
      this.flow()
    }).then((opened) => {
      this.isOpening = false
      opened.channel.on("return", (message) => this.returned(message))
      const isTried = this.isShaken
      this.isShaken = false
      inFlight = new InFlight(opened, isTried ? this.clock.currentTimeMillisUnsafe() + trial : 0)
      this.inFlight = inFlight
      this.flow()
    }, (error) => {
      this.isOpening = false
      this.isShaken = true
      this.patience = trialAnswer
      const failure = Errors.fromUnknown(error, "publish", this.place)
      for (const call of this.waiting.splice(0)) {
        call.failure ??= failure
        if (call.answered === call.sent) {
          this.active.delete(call)
          call.end()
        }
      }
      this.rest()
    })
  }

  /** Fails calls that are unanswered for too long, and leaves their channel. */
  readonly watch: Effect.Effect<never> = Effect.forever(Effect.andThen(
    Effect.sleep(interval),
    Effect.sync(() => {
      this.round++
      const { blocked, resolved } = this.connection
      const now = this.clock.currentTimeMillisUnsafe()
      const { inFlight } = this
      // RabbitMQ owes no answer while it is short of memory or disk
      if (blocked !== undefined) { for (const call of this.active) call.round = this.round }
      if (blocked === undefined && inFlight !== undefined && now < inFlight.trial) {
        const since = this.round - this.patience / interval
        for (const call of this.active) {
          if (call.answered === call.sent || call.round >= since) continue
          const what = `for ${this.patience} ms after it was reached again`
          this.patience *= 2
          return this.abandon(inFlight, what)
        }
      }
      const latest = now - resolved.requestTimeout
      const isLate = (call: PublishCall) => call.since < latest
      const late = [...this.active, ...this.waiting].filter(isLate)
      if (late.length === 0) return
      if (blocked === undefined) {
        const owes = late.some((call) => call.answered < call.sent)
        // publishes made in response to this error use another channel
        if (owes && inFlight !== undefined) this.leave(inFlight)
        for (const call of late) {
          this.fail(call, Errors.unanswered(this.place, `within ${resolved.requestTimeout} ms`))
        }
        // RabbitMQ may never send that answer, or later ones
        if (owes && inFlight !== undefined) this.abandon(inFlight, "what was published before this")
        return this.rest()
      }
      const failure = Errors.alarmed("publish", this.place, blocked)
      for (const call of late) this.fail(call, failure)
      this.rest()
    })
  ))

  private fail(call: PublishCall, failure: Failed): void {
    this.forget(call)
    this.active.delete(call)
    call.failure ??= failure
    call.end()
  }

  /**
   * Leaves a channel with overdue answers: all calls with unanswered messages fail, whether or not RabbitMQ confirms the
   * close.
   */
  private abandon(inFlight: InFlight, what: string): void {
    this.leave(inFlight)
    for (const call of this.active) {
      if (call.answered < call.sent) this.fail(call, Errors.unanswered(this.place, what))
    }
    void Channels.close(inFlight.opened.channel)
    this.flow()
  }

  private rest(): void {
    if (this.active.size === 0 && this.waiting.length === 0) this.onIdle()
  }

  /** Refuses new calls, and waits for the pending ones. */
  get close(): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      this.closed = true
      this.onIdle = () => resume(Effect.void)
      this.rest()
    })
  }
}
