/**
 * The outbound queue of a publisher: one channel on which RabbitMQ confirms each message, and a window of those that it has not yet.
 *
 * A message is confirmed when every queue that it was routed to has it, on disk. One that no queue takes comes back, and fails
 * its call with `NotFound`: nothing is lost in silence.
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

// messages and bytes on their way; what is beyond waits here
const mostMessages = 2048
const mostBytes = 8 * 1024 * 1024
// longer ones are sent alone until RabbitMQ has taken one as long: a message that is too long ends the channel for all
const surelyTaken = 128 * 1024
// how often calls without an answer are looked for
const interval = 1000
// After an outage RabbitMQ takes messages for queues that have no leader yet, and leaves some of them without an answer for
// ever (seen with 3.10). So for its first minute a channel that replaces another is left when it owes an answer for so long,
// and the next one is given twice the time: who is only slow is not left again and again.
const trial = 60_000
const trialAnswer = 5000

/** What waits to be sent, and what waits to be confirmed. */
export class OutboundQueue {
  private readonly connection: Connection
  private readonly clock: Clock.Clock
  private readonly waiting: Array<PublishCall> = []
  private readonly active = new Set<PublishCall>()
  private inFlight: InFlight | undefined
  private isOpening = false
  /** Whether the channel before this one ended. */
  private isShaken = false
  /** How long a channel on trial may owe an answer. */
  private patience = trialAnswer
  private round = 0
  /** The longest message that RabbitMQ takes, once it has refused one. */
  private maximum = Number.POSITIVE_INFINITY
  /** The longest that it surely takes. */
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

  /** `isDirect`: to the queues of the channels' names. */
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
      // messages on their way cannot be called back
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

  /** Sends what the window has room for. */
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
          // once what is on its way is answered
          inFlight.isProbing = false
          return
        }
        if (this.send(call, inFlight, call.batch[call.sent]!, seconds, confirmed)) continue
        if (this.inFlight !== inFlight) return this.begin()
        break
      }
      // a message that cannot be written ends its call once the others of it are answered
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
        // the message goes on another channel
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
    // by order of sending, so the sum comes out even
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

  /** What is published from now on goes on another channel. */
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

  /** What the end of a channel means for one of its calls. */
  private ended(call: PublishCall, inFlight: InFlight): Failed {
    // what is published by who hears of it goes on another
    this.leave(inFlight)
    const why = inFlight.opened.why()
    const error = Errors.fromUnknown(why, "publish", { ...this.place, channel: call.batch[0]!.channel })
    if (error.retriable) return error
    if (error.reason === "TooLarge") {
      const [, size, most] = /size (\d+)\D+(\d+)/.exec(String(why)) ?? []
      if (most !== undefined) this.maximum = Number(most)
      if (size === undefined || call.batch.some(({ payload }) => payload.length >= Number(size))) return error
    } else if (error.reason === "NotFound") {
      // an exchange of a route; which one, RabbitMQ says by its name
      const { exchange } = this.targetOf(call, call.batch[0]!)
      if (String(why).includes(`'${exchange}'`)) return error
    } else return error
    return Errors.make(
      "publish",
      "Lost",
      `RabbitMQ at ${this.place.nodes} ended the channel because of another message: ${error.message}`
    )
  }

  /** RabbitMQ gives a message back that no queue takes, and confirms it then. */
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
        // it ended by itself: the next one is not blamed for the one before
        this.patience = trialAnswer
        this.leave(inFlight)
      }
      // amqplib has told those that were sent; the others go on another channel
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

  /** Calls without an answer for too long fail, and their channel goes with them. */
  readonly watch: Effect.Effect<never> = Effect.forever(Effect.andThen(
    Effect.sleep(interval),
    Effect.sync(() => {
      this.round++
      const { blocked, resolved } = this.connection
      const now = this.clock.currentTimeMillisUnsafe()
      const { inFlight } = this
      // no answer is owed while it is short of memory or disk
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
        // who hears of it publishes on another
        if (owes && inFlight !== undefined) this.leave(inFlight)
        for (const call of late) {
          this.fail(call, Errors.unanswered(this.place, `within ${resolved.requestTimeout} ms`))
        }
        // it may owe that answer for ever, and others after it
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

  /** Leaves a channel that owes answers: all that were sent on it fail, whether or not RabbitMQ answers its end. */
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

  /** Waits for what is on its way. */
  get close(): Effect.Effect<void> {
    return Effect.callback<void>((resume) => {
      this.closed = true
      this.onIdle = () => resume(Effect.void)
      this.rest()
    })
  }
}
