/**
 * Publishing: one channel on which RabbitMQ confirms each message, and a window of those that it has not yet.
 *
 * A message is confirmed when every queue that it was routed to has it, on disk. One that no queue takes comes back, and fails
 * its call with `NotFound`: nothing is lost in silence.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import type { Message } from "amqplib"
import { Clock, Context, Effect, Exit, type Scope } from "effect"
import { Call, Flight } from "./RabbitMqCall.ts"
import * as RabbitMqClient from "./RabbitMqClient.ts"
import * as RabbitMqError from "./RabbitMqError.ts"
import { buffer } from "./RabbitMqMessage.ts"
import { toProperties } from "./RabbitMqOutgoing.ts"
import { refuse, routingKeyName, said } from "./RabbitMqProperties.ts"
import * as RabbitMqTopology from "./RabbitMqTopology.ts"

type Batch = ReadonlyArray<Outgoing<Uint8Array>>
type Failed = BrokerError.BrokerError

/** Publishes batches. */
export interface Publisher {
  readonly publish: (batch: Batch) => Effect.Effect<void, Failed>
}

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

class Line {
  private readonly link: RabbitMqClient.Link
  private readonly clock: Clock.Clock
  private readonly waiting: Array<Call> = []
  private readonly active = new Set<Call>()
  private flight: Flight | undefined
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

  constructor(link: RabbitMqClient.Link, context: Context.Context<never>) {
    this.link = link
    this.clock = Context.get(context, Clock.Clock)
    link.onUnblocked = () => this.flow()
  }

  private get place() {
    return this.link.connection.place
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
          RabbitMqError.invalid("publish", "The broker's layer is closed: publish while its scope is open.")
        ))
        return
      }
      const call = new Call(batch, isDirect, resume, this.clock.currentTimeMillisUnsafe())
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
    return length <= this.maximum ? undefined : RabbitMqError.tooLong(this.place, channel, length, this.maximum)
  }

  private forget(call: Call): void {
    const at = this.waiting.indexOf(call)
    if (at >= 0) this.waiting.splice(at, 1)
  }

  /** Sends what the window has room for. */
  private flow(): void {
    if (this.waiting.length === 0) return this.rest()
    const { flight } = this
    if (flight === undefined) return this.begin()
    if (this.link.blocked !== undefined) return
    const seconds = Math.floor(this.clock.currentTimeMillisUnsafe() / 1000)
    while (this.waiting.length > 0) {
      const call = this.waiting[0]!
      this.active.add(call)
      const confirmed = (error: unknown) => this.confirmed(call, flight, error)
      while (call.sent < call.batch.length) {
        if (flight.messages >= mostMessages || flight.bytes >= mostBytes || flight.isProbing) return
        flight.isProbing = call.batch[call.sent]!.payload.length > this.taken
        if (flight.isProbing && flight.messages > 0) {
          // once what is on its way is answered
          flight.isProbing = false
          return
        }
        if (this.send(call, flight, call.batch[call.sent]!, seconds, confirmed)) continue
        if (this.flight !== flight) return this.begin()
        break
      }
      // a message that cannot be written ends its call once the others of it are answered
      this.waiting.shift()
      this.settle(call)
    }
  }

  private send(
    call: Call,
    flight: Flight,
    outgoing: Outgoing<Uint8Array>,
    seconds: number,
    confirmed: (error: unknown) => void
  ): boolean {
    const { connection } = this.link
    const isRouted = RabbitMqTopology.isRouted(connection, outgoing.channel)
    const { exchange, key } = this.targetOf(call, outgoing)
    try {
      const properties = toProperties(outgoing, seconds, { user: connection.username, isRouted })
      if (exchange === "" && RabbitMqTopology.isDirectReply(key)) properties.mandatory = false
      flight.opened.channel.publish(exchange, key, buffer(outgoing.payload), properties, confirmed)
    } catch (error) {
      flight.isProbing = false
      if (RabbitMqError.isEnded(error)) {
        // the message goes on another channel
        this.leave(flight)
        return false
      }
      const { fields } = outgoing
      call.failure ??= RabbitMqError.unwritable(outgoing.channel, [outgoing.channel, ...fields.map(([name]) => name)])
      return false
    }
    call.sent++
    call.round = this.round
    flight.messages++
    flight.bytes += outgoing.payload.length
    return true
  }

  private targetOf({ isDirect }: Call, outgoing: Outgoing<Uint8Array>): RabbitMqTopology.Target {
    const { connection } = this.link
    const { channel } = outgoing
    if (isDirect) return RabbitMqTopology.queueTarget(channel)
    const key = RabbitMqTopology.isRouted(connection, channel) ? said(outgoing, routingKeyName) : undefined
    return RabbitMqTopology.targetOf(connection, channel, key)
  }

  private confirmed(call: Call, flight: Flight, error: unknown): void {
    flight.messages--
    // by order of sending, so the sum comes out even
    const { length } = call.batch[call.answered++]!.payload
    flight.bytes -= length
    flight.isProbing = false
    call.round = this.round
    if (error === null || error === undefined) {
      if (length > this.taken) this.taken = length
    } else {
      call.failure ??= this.flight === flight && /nacked/.test(String(error))
        ? RabbitMqError.full(this.place, call.batch[0]!.channel)
        : this.ended(call, flight)
    }
    this.settle(call)
    if (flight.messages <= mostMessages / 2 && flight.bytes <= mostBytes / 2) this.flow()
  }

  /** What is published from now on goes on another channel. */
  private leave(flight: Flight): void {
    if (this.flight !== flight) return
    this.flight = undefined
    this.isShaken = true
  }

  private settle(call: Call): void {
    const isAnswered = call.answered === call.sent
    if (!isAnswered || (call.sent < call.batch.length && call.failure === undefined)) return
    this.active.delete(call)
    if (call.sent < call.batch.length) this.forget(call)
    call.end()
    this.rest()
  }

  /** What the end of a channel means for one of its calls. */
  private ended(call: Call, flight: Flight): Failed {
    // what is published by who hears of it goes on another
    this.leave(flight)
    const why = flight.opened.why()
    const error = RabbitMqError.fromUnknown(why, "publish", { ...this.place, channel: call.batch[0]!.channel })
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
    return RabbitMqError.make(
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
          call.failure = RabbitMqTopology.missing("publish", outgoing.channel)
          return
        }
      }
    }
  }

  private begin(): void {
    if (this.isOpening) return
    this.isOpening = true
    let flight: Flight | undefined
    this.link.channel(RabbitMqClient.confirming, () => {
      if (flight !== undefined && this.flight === flight) {
        // it ended by itself: the next one is not blamed for the one before
        this.patience = trialAnswer
        this.leave(flight)
      }
      // amqplib has told those that were sent; the others go on another channel
      this.flow()
    }).then((opened) => {
      this.isOpening = false
      opened.channel.on("return", (message) => this.returned(message))
      const isTried = this.isShaken
      this.isShaken = false
      flight = new Flight(opened, isTried ? this.clock.currentTimeMillisUnsafe() + trial : 0)
      this.flight = flight
      this.flow()
    }, (error) => {
      this.isOpening = false
      this.isShaken = true
      this.patience = trialAnswer
      const failure = RabbitMqError.fromUnknown(error, "publish", this.place)
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
      const { blocked, connection } = this.link
      const now = this.clock.currentTimeMillisUnsafe()
      const { flight } = this
      // no answer is owed while it is short of memory or disk
      if (blocked !== undefined) { for (const call of this.active) call.round = this.round }
      if (blocked === undefined && flight !== undefined && now < flight.trial) {
        const since = this.round - this.patience / interval
        for (const call of this.active) {
          if (call.answered === call.sent || call.round >= since) continue
          const what = `for ${this.patience} ms after it was reached again`
          this.patience *= 2
          return this.abandon(flight, what)
        }
      }
      const latest = now - connection.requestTimeout
      const isLate = (call: Call) => call.since < latest
      const late = [...this.active, ...this.waiting].filter(isLate)
      if (late.length === 0) return
      if (blocked === undefined) {
        const owes = late.some((call) => call.answered < call.sent)
        // who hears of it publishes on another
        if (owes && flight !== undefined) this.leave(flight)
        for (const call of late) {
          this.fail(call, RabbitMqError.unanswered(this.place, `within ${connection.requestTimeout} ms`))
        }
        // it may owe that answer for ever, and others after it
        if (owes && flight !== undefined) this.abandon(flight, "what was published before this")
        return this.rest()
      }
      const failure = RabbitMqError.alarmed("publish", this.place, blocked)
      for (const call of late) this.fail(call, failure)
      this.rest()
    })
  ))

  private fail(call: Call, failure: Failed): void {
    this.forget(call)
    this.active.delete(call)
    call.failure ??= failure
    call.end()
  }

  /** Leaves a channel that owes answers: all that were sent on it fail, whether or not RabbitMQ answers its end. */
  private abandon(flight: Flight, what: string): void {
    this.leave(flight)
    for (const call of this.active) {
      if (call.answered < call.sent) this.fail(call, RabbitMqError.unanswered(this.place, what))
    }
    void RabbitMqClient.close(flight.opened.channel)
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

const isReply = ({ native }: Outgoing<Uint8Array>): boolean => native?.isReply === true

/**
 * Publishes a batch. A reply goes to the channel that its caller named, or to the queue of that name: other clients name a queue,
 * which nothing has bound to an exchange.
 */
const replying = (line: Line, batch: Batch): Effect.Effect<void, Failed> => {
  const [reply] = batch
  if (batch.length !== 1 || reply === undefined || !isReply(reply)) return line.publish(batch)
  return Effect.catchIf(
    line.publish(batch),
    ({ reason }) => reason === "NotFound",
    () => line.publish(batch, true)
  )
}

/**
 * Makes a publisher that lives as long as the scope; closing it waits for what is on its way.
 *
 * @category constructors
 */
export const make = (
  link: RabbitMqClient.Link,
  declare: (channel: string) => Effect.Effect<void, Failed>
): Effect.Effect<Publisher, never, Scope.Scope> =>
  Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const line = new Line(link, context)
    yield* Effect.addFinalizer(() => Effect.ignore(Effect.timeoutOption(line.close, link.connection.requestTimeout)))
    yield* Effect.forkScoped(line.watch)
    if (link.connection.missingChannels === "refuse") return { publish: (batch) => replying(line, batch) }
    const known = new Set<string>()
    const known1000 = (channel: string) => {
      if (known.size >= 1000) known.clear()
      known.add(channel)
    }
    return {
      publish: (batch) => {
        const fresh = [...new Set(batch.filter((each) => !isReply(each)).map(({ channel }) => channel))].filter((
          channel
        ) => !known.has(channel) && !link.connection.channels.has(channel))
        if (fresh.length === 0) return replying(line, batch)
        return Effect.andThen(
          Effect.forEach(fresh, (channel) => Effect.map(declare(channel), () => known1000(channel)), { discard: true }),
          Effect.suspend(() => line.publish(batch))
        )
      }
    }
  })
