/**
 * Reads one consumer: offers pulled messages to the engine, and settles them when the engine says so.
 *
 * The server's `ack_wait` runs from delivery on. So the claims of messages that wait here for the engine are extended like
 * those of messages in the engine, and messages left at the end are released at once.
 */
import { type BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import type { Msg, Subscription } from "@nats-io/transport-node"
import { Duration, Effect, Exit, Latch } from "effect"
import { Unsettled } from "./Unsettled.ts"
import { Numbers, reader, Token } from "./Codec.ts"
import { Pulls, type Reading } from "./Pulls.ts"
import * as Takeover from "./Takeover.ts"
import { Backlog } from "../Backlog.ts"
import { unsubscribe } from "../Connection.ts"
import * as Errors from "../Errors.ts"

type Failed = BrokerError.BrokerError

const encoder = new TextEncoder()
const done = encoder.encode("+ACK")
const again = encoder.encode("-NAK")
const working = encoder.encode("+WPI")

const later = (after: Duration.Duration): Uint8Array =>
  encoder.encode(`-NAK {"delay": ${Math.round(Duration.toMillis(after) * 1e6)}}`)

// heartbeats for which the server may fail to answer for the consumer, and milliseconds between two lookups
const [patience, pause] = [8, 250]

// the most channels of a pattern that are cached
const mostOrigins = 10_000

export class Reader {
  readonly lease: Driver.Lease
  private readonly backlog = new Backlog()
  private readonly of: Reading
  private readonly pulls: Pulls
  private readonly numbers = new Numbers()
  private readonly origins = new Map<string, Origin>()
  private readonly unsettled: Unsettled
  private readonly work = Latch.makeUnsafe(false)
  /** Open when the server reports that no consumer answers. */
  private readonly silence = Latch.makeUnsafe(false)
  private isSilent = false
  private isFlowing = false
  private isStopped = false
  /** The acknowledgement subjects of messages that arrived after the reader stopped. */
  private readonly late: Array<string> = []
  /** Where order matters: the last sequence taken in. */
  private last = 0
  /** Where order matters: messages settled as a retry or released, whose redelivery is expected out of order. */
  private readonly returning = new Set<number>()
  private ending: Promise<void> | undefined
  private subscription: Subscription | undefined

  constructor(of: Reading) {
    this.of = of
    const { options, source } = of
    this.pulls = new Pulls(of)
    this.unsettled = new Unsettled(options.ordered)
    this.lease = {
      ...(options.pattern === undefined ? {} : { channel: source.channel }),
      partition: 0,
      claim: of.claim,
      settle: (batch) => this.settle(batch),
      extend: (batch) => this.extend(batch)
    }
  }

  private get where() {
    return { channel: this.of.source.channel, group: this.of.options.group }
  }

  /** Subscribes to the inbox of the pulls. */
  readonly open: Effect.Effect<void, Failed> = Effect.suspend(() => {
    const { fail, connection } = this.of
    return Effect.asVoid(connection.attempt("consume", async (nc) => {
      this.subscription = nc.subscribe(this.pulls.inbox, {
        callback: (error, message) => {
          if (error === null) this.take(message)
          else fail(connection.failure(error, "consume", this.where))
        }
      })
    }, this.where))
  })

  // ---- received messages; this code must not throw, or the connection would end

  private take(message: Msg): void {
    const { pulls } = this
    pulls.signs++
    const { reply = "" } = message
    if (reply === "") return this.told(message)
    pulls.came()
    const { numbers } = this
    if (!numbers.read(reply)) return
    if (this.isStopped) {
      this.late.push(reply)
      return
    }
    const { options } = this.of
    const { pattern } = options
    const channel = pattern === undefined ? options.channel : message.subject
    if (pattern !== undefined && pattern.match(channel) === undefined) {
      pulls.write(reply, done)
      return this.pull()
    }
    if (
      options.ordered && numbers.sequence <= this.last && this.isFlowing && !this.returning.delete(numbers.sequence)
    ) return this.came(reply, numbers.sequence)
    this.last = Math.max(this.last, numbers.sequence)
    const body = message.data
    pulls.sized(body.length)
    const token = new Token(message, reply, numbers)
    const origin = this.originOf(channel)
    this.backlog.push(delivery(origin, reader, token, numbers.sequence, body, numbers.delivered))
    if (this.isFlowing) {
      this.work.openUnsafe()
      this.pull()
    }
  }

  private originOf(channel: string): Origin {
    const known = this.origins.get(channel)
    if (known !== undefined) return known
    const { group, handler } = this.of.options
    const origin: Origin = {
      system: "nats",
      channel,
      group,
      partition: 0,
      handler,
      holdLimit: this.of.claim,
      lasting: true
    }
    if (this.origins.size >= mostOrigins) this.origins.clear()
    this.origins.set(channel, origin)
    return origin
  }

  /**
   * Handles a redelivery: the reader still has the message, or has settled it. If neither is true, the message would come
   * after its successors, so the reader fails and starts again.
   */
  private came(reply: string, sequence: number): void {
    const token = this.tokens().find((each) => each.sequence === sequence)
    if (token === undefined) {
      // the message's claim ran out just before it was settled
      if (this.unsettled.hasSettled(sequence)) {
        this.pulls.write(reply, done)
        return this.pull()
      }
      return this.of.fail(
        Errors.make(
          "consume",
          "Lost",
          `Message ${sequence} of ${this.of.source.channel} came back after others: the reader begins anew, with all that is not settled.`
        )
      )
    }
    token.renew(reply, this.numbers)
    this.pull()
  }

  /** All unsettled messages, in order of arrival. */
  private tokens(): Array<Token> {
    const found = this.unsettled.tokens
    // a driver's own records
    for (const { native } of this.backlog.all) found.push(native)
    return found
  }

  private told(message: Msg): void {
    const said = this.pulls.told(message)
    if (said === undefined || this.isStopped) return
    if (said === "over") this.pull()
    else if (said === "silent") {
      this.isSilent = true
      this.silence.openUnsafe()
    } else this.of.fail(said)
  }

  private pull(): void {
    if (this.isFlowing && !this.isStopped) this.pulls.more(this.backlog.length)
  }

  /**
   * Looks the consumer up if the server has been silent for longer than a pull waits, or reports that no consumer answers,
   * and pulls again when the consumer is found. A cluster without a leader answers nothing for some seconds, and then has
   * lost the pulls.
   */
  watch(look: Effect.Effect<unknown, Failed>): Effect.Effect<never, Failed> {
    let seen = -1
    const { heartbeat } = this.of.settings
    return Effect.forever(Effect.andThen(
      Effect.timeoutOption(this.silence.await, heartbeat * 1.5),
      Effect.suspend(() => {
        const { pulls } = this
        const isSilent = this.isSilent
        const isQuiet = isSilent || pulls.signs === seen
        this.isSilent = false
        this.silence.closeUnsafe()
        seen = pulls.signs
        if (!isQuiet) this.of.sink.polled()
        if (!isQuiet || !this.isFlowing || this.isStopped || (pulls.wanted === 0 && !isSilent)) return Effect.void
        return Effect.map(this.found(look, heartbeat * patience), () => {
          pulls.forget()
          this.pull()
        })
      })
    ))
  }

  /** Completes when the consumer is found; fails when the server has not answered for it for `left` milliseconds. */
  private found(look: Effect.Effect<unknown, Failed>, left: number): Effect.Effect<unknown, Failed> {
    return Effect.catch(
      look,
      (error) =>
        error.reason === "Lost" && left > 0 && this.of.connection.ended === undefined
          ? Effect.andThen(Effect.sleep(pause), this.found(look, left - pause))
          : Effect.fail(error)
    )
  }

  /** Extends the claims of messages that wait for the engine. */
  readonly keep: Effect.Effect<never, Failed> = Effect.suspend(() =>
    Effect.forever(Effect.andThen(
      Effect.sleep(this.of.claim / 3),
      Effect.suspend(() => this.backlog.length === 0 || this.isStopped ? Effect.void : this.extend(this.backlog.all))
    ))
  )

  // ---- taking over

  /** Where order matters: collects all delivered, unsettled messages of the group, in order. */
  collect(info: Effect.Effect<Takeover.Pending, Failed>): Effect.Effect<void, Failed> {
    return Takeover.collect(this.successor, info)
  }

  /** Makes the server drop pulls of readers that have gone. */
  get sweep(): Effect.Effect<void, Failed> {
    return Takeover.sweep(this.successor)
  }

  private get successor(): Takeover.Successor {
    return { of: this.of, pulls: this.pulls, backlog: this.backlog, take: (message) => this.take(message) }
  }

  // ---- to the engine

  /** Offers received messages until the reader is stopped. */
  readonly offer: Effect.Effect<never, Failed> = Effect.suspend(() => {
    const { isMine, options, sink } = this.of
    this.isFlowing = true
    this.pull()
    return Effect.forever(Effect.suspend(() => {
      if (this.backlog.length === 0) {
        this.work.closeUnsafe()
        return this.work.await
      }
      const lost = isMine()
      if (lost !== undefined) return Effect.fail(lost)
      const batch = this.backlog.take(options.batch, options.bytes)
      this.unsettled.add(batch)
      sink.polled()
      const room = sink.offer(this.lease, batch)
      this.pull()
      return room
    }))
  })

  /** Stops taking new messages; those still in flight are released at the end. */
  stop(): void {
    if (this.isStopped) return
    this.isStopped = true
    const { subscription } = this
    if (subscription !== undefined) {
      this.ending = Effect.runPromise(unsubscribe(this.of.connection, subscription))
    }
  }

  // ---- settling

  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const { client, isMine, connection } = this.of
      const lost = isMine()
      if (lost !== undefined) return Exit.fail(lost)
      const acks: Array<string> = []
      for (const { delivery, outcome } of batch) {
        const token: Token = delivery.native
        if (outcome._tag === "Retry" || outcome._tag === "Release") {
          // released with all the others, in order
          if (this.isStopped && outcome._tag === "Release") continue
          const body = outcome._tag === "Release" || outcome.after === undefined ? again : later(outcome.after)
          const failed = connection.write("settle", token.reply, body)
          if (failed !== undefined) return Exit.fail(failed)
          if (this.of.options.ordered) this.returning.add(token.sequence)
        } else acks.push(this.numbers.acknowledging(token))
        this.unsettled.settled(token)
      }
      const failed = connection.writeAll("settle", acks)
      return failed === undefined ? connection.flush("settle").pipe(client.inTime("settle")) : Exit.fail(failed)
    })
  }

  private extend(batch: ReadonlyArray<Delivery>): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const { client, isMine, connection } = this.of
      const lost = isMine()
      if (lost !== undefined) return Exit.fail(lost)
      for (const { native } of batch) {
        const token: Token = native
        const failed = connection.write("settle", token.reply, working)
        if (failed !== undefined) return Exit.fail(failed)
      }
      return connection.flush("settle").pipe(client.inTime("settle"))
    })
  }

  /**
   * Releases unsettled messages. Returns the acknowledgement subjects of those it could not release because the connection
   * is gone.
   */
  readonly giveBack: Effect.Effect<ReadonlyArray<string>> = Effect.gen({ self: this }, function*() {
    this.stop()
    const { client, connection } = this.of
    if (this.ending !== undefined) yield* Effect.promise(() => this.ending!)
    // another reader has all messages by now, and a release would redeliver those that it is handling
    if (this.of.isMine() !== undefined) return []
    // this reader's pulls that still wait at the server would take messages of the next reader
    if (connection.ended === undefined) yield* Effect.ignore(this.sweep)
    const replies = this.tokens().map(({ reply }) => reply).concat(this.late)
    if (replies.some((reply) => connection.write("settle", reply, again) !== undefined)) return replies
    return yield* connection.flush("settle").pipe(
      client.inTime("settle"),
      Effect.as<ReadonlyArray<string>>([]),
      Effect.catch(() => Effect.succeed(replies))
    )
  })
}
