/**
 * Reading one consumer: pulls that overlap, so that messages flow while others are handled, and settling them.
 *
 * The server counts a message as the reader's from its delivery on. So what waits here for the engine has its claim renewed as
 * what the engine has, and what is left at the end is given back at once.
 *
 * Pull requests: https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-13.md
 */
import { type BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { createInbox, type Msg, type Subscription } from "@nats-io/transport-node"
import { Duration, Effect, Exit, Latch } from "effect"
import { Numbers, Part, reader, Token } from "./JetStreamMessage.ts"
import type { Settings } from "./JetStreamOptions.ts"
import type { Source } from "./JetStreamStreams.ts"
import { Backlog } from "./NatsBacklog.ts"
import { type Client, type Session, unsubscribe } from "./NatsClient.ts"
import * as NatsError from "./NatsError.ts"

type Failed = BrokerError.BrokerError

const encoder = new TextEncoder()
const done = encoder.encode("+ACK")
const again = encoder.encode("-NAK")
const working = encoder.encode("+WPI")

const later = (after: Duration.Duration): Uint8Array =>
  encoder.encode(`-NAK {"delay": ${Math.round(Duration.toMillis(after) * 1e6)}}`)

// how long a pull waits for messages
const expires = 30_000
// channels of a pattern that are remembered at once
const mostOrigins = 10_000

/** What a reader reads, and for whom. */
export interface Reading {
  readonly client: Client
  readonly settings: Settings
  readonly session: Session
  readonly source: Source
  readonly durable: string
  readonly options: Driver.ConsumeOptions
  readonly sink: Driver.Sink
  /** Ends this life of the subscription. */
  readonly fail: (error: Failed) => void
  /** Whether the right to read is still its own; always, where consumers share. */
  readonly isMine: () => Failed | undefined
}

export class Reader {
  readonly lease: Driver.Lease
  readonly backlog = new Backlog()
  private readonly of: Reading
  private readonly next: string
  private readonly inbox: string
  private readonly numbers = new Numbers()
  private readonly origins = new Map<string, Origin>()
  private readonly held = new Set<Part>()
  /** The sequences of the last parts of which all is settled, where order matters. */
  private readonly past: Array<ReadonlyArray<number>> = []
  private pastCount = 0
  private readonly work = Latch.makeUnsafe(false)
  private readonly answered = Latch.makeUnsafe(false)
  /** Messages that pulls may still bring. */
  private wanted = 0
  private isFlowing = false
  private isStopped = false
  private signs = 0
  /** Bytes that the next messages may have, each: what the last ones had. */
  private size: number
  /** What came after it was stopped. */
  private readonly late: Array<string> = []
  /** Where order matters: the last sequence taken in. */
  private last = 0
  private ending: Promise<void> | undefined
  private subscription: Subscription | undefined

  constructor(of: Reading) {
    this.of = of
    const { durable, options, session, settings, source } = of
    const prefix = settings.domain === undefined ? "$JS.API" : `$JS.${settings.domain}.API`
    this.next = `${prefix}.CONSUMER.MSG.NEXT.${source.stream}.${durable}`
    this.inbox = createInbox(of.client.connection.inboxPrefix)
    this.size = session.nc.info?.max_payload ?? 1024 * 1024
    this.lease = {
      ...(options.pattern === undefined ? {} : { channel: source.channel }),
      partition: 0,
      claim: settings.claim,
      settle: (batch) => this.settle(batch),
      extend: (batch) => this.extend(batch)
    }
  }

  private get where() {
    return { channel: this.of.source.channel, group: this.of.options.group }
  }

  /** Listens for what pulls bring. */
  readonly open: Effect.Effect<void, Failed> = Effect.suspend(() => {
    const { fail, session } = this.of
    return Effect.asVoid(session.attempt("consume", async (nc) => {
      this.subscription = nc.subscribe(this.inbox, {
        callback: (error, message) => {
          if (error === null) this.take(message)
          else fail(session.failure(error, "consume", this.where))
        }
      })
    }, this.where))
  })

  // ---- what comes; nothing here may throw, or the connection would end

  private take(message: Msg): void {
    this.signs++
    const { reply = "" } = message
    if (reply === "") return this.told(message)
    if (this.wanted > 0 && --this.wanted === 0) this.answered.openUnsafe()
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
      this.write(reply, done)
      return this.pull()
    }
    if (options.ordered && numbers.sequence <= this.last && this.isFlowing) return this.came(reply, numbers.sequence)
    this.last = Math.max(this.last, numbers.sequence)
    const body = message.data
    const { size } = this
    this.size = body.length >= size ? body.length : size - Math.ceil(size / 16)
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
      holdLimit: this.of.settings.claim
    }
    if (this.origins.size >= mostOrigins) this.origins.clear()
    this.origins.set(channel, origin)
    return origin
  }

  /** A message that this reader was given before: it has it still, or has settled it. One of which neither is true would come after what follows it. */
  private came(reply: string, sequence: number): void {
    const token = this.tokens().find((each) => each.sequence === sequence)
    if (token === undefined) {
      // its claim ran out just before it was settled
      if (this.hasSettled(sequence)) {
        this.write(reply, done)
        return this.pull()
      }
      return this.of.fail(
        NatsError.make(
          "consume",
          "Lost",
          `Message ${sequence} of ${this.of.source.channel} came back after others: the reader begins anew, with all that is not settled.`
        )
      )
    }
    token.renew(reply, this.numbers)
    this.pull()
  }

  /** Whether it was settled here, not too long ago. */
  private hasSettled(sequence: number): boolean {
    for (const { tokens } of this.held) if (tokens.some((token) => token.sequence === sequence)) return true
    return this.past.some((sequences) => sequences.includes(sequence))
  }

  /** All that is not settled, in the order in which it came. */
  private tokens(): Array<Token> {
    const found: Array<Token> = []
    for (const { tokens } of this.held) for (const token of tokens) if (!token.isSettled) found.push(token)
    // a driver's own records
    for (const { native } of this.backlog.all) found.push(native)
    return found
  }

  /** What the server says of a pull. */
  private told(message: Msg): void {
    const { headers } = message
    const code = headers?.code ?? 0
    const text = headers?.description.toLowerCase() ?? ""
    if (code === 100) return
    const left = Number(headers?.get("Nats-Pending-Messages") ?? "")
    const isOver = code === 404 || code === 408 || code === 409
    if (isOver) {
      this.wanted = Number.isInteger(left) && left > 0 ? Math.max(0, this.wanted - left) : 0
      if (this.wanted === 0) this.answered.openUnsafe()
    }
    if (this.isStopped) return
    const { fail, source, options } = this.of
    if (code === 503) {
      return fail(
        NatsError.make(
          "consume",
          "Lost",
          `The consumer of group ${options.group} on ${source.channel} does not answer.`
        )
      )
    }
    if (code === 409 && /deleted/.test(text)) {
      return fail(
        NatsError.make(
          "consume",
          "NotFound",
          `The consumer of group ${options.group} on ${source.channel} was deleted under it, and with it its place.`,
          "transient"
        )
      )
    }
    if (
      code === 400 || (code === 409 && /exceeded max(requestbatch|requestexpires|requestmaxbytes|waiting)/.test(text))
    ) {
      return fail(
        NatsError.make(
          "consume",
          "Conflict",
          `The consumer of group ${options.group} on ${source.channel} does not take this reader's pulls (${text}): raise its limits.`
        )
      )
    }
    this.pull()
  }

  // ---- pulling

  /** So many messages that what they have fits into the bytes the engine takes. */
  private get most(): number {
    const { batch, bytes } = this.of.options
    return Math.max(1, Math.min(batch, Math.floor(bytes / Math.max(1, this.size))))
  }

  /** Asks for more when half of what was asked for has come and was taken. */
  private pull(): void {
    const had = this.wanted + this.backlog.length
    if (had > this.of.options.batch >> 1 || !this.isFlowing || this.isStopped) return
    const { most } = this
    if (had <= most >> 1) this.ask(most, expires, this.of.settings.heartbeat)
  }

  private ask(batch: number, wait: number, heartbeat: number | undefined): void {
    this.wanted += batch
    this.answered.closeUnsafe()
    this.write(
      this.next,
      encoder.encode(JSON.stringify({
        batch,
        expires: wait * 1e6,
        ...(heartbeat === undefined || heartbeat * 2 >= wait ? {} : { idle_heartbeat: heartbeat * 1e6 })
      })),
      this.inbox
    )
  }

  private write(subject: string, body: Uint8Array, reply?: string): void {
    const failed = this.of.session.write("consume", subject, body, reply === undefined ? undefined : { reply })
    if (failed !== undefined) this.of.fail(failed)
  }

  /** Looks again where the server has said nothing for two of its heartbeats: it may have forgotten the pulls, or the consumer. */
  watch(look: Effect.Effect<unknown, Failed>): Effect.Effect<never, Failed> {
    let seen = -1
    const { heartbeat } = this.of.settings
    return Effect.forever(Effect.andThen(
      Effect.sleep(heartbeat * 2.5),
      Effect.suspend(() => {
        const isQuiet = this.signs === seen
        seen = this.signs
        if (!isQuiet) this.of.sink.polled()
        if (!isQuiet || !this.isFlowing || this.isStopped || this.wanted === 0) return Effect.void
        return Effect.map(look, () => {
          this.wanted = 0
          this.pull()
        })
      })
    ))
  }

  /** Keeps the claims of what waits for the engine. */
  readonly keep: Effect.Effect<never, Failed> = Effect.suspend(() =>
    Effect.forever(Effect.andThen(
      Effect.sleep(this.of.settings.claim / 3),
      Effect.suspend(() => this.backlog.length === 0 || this.isStopped ? Effect.void : this.extend(this.backlog.all))
    ))
  )

  // ---- taking over

  /**
   * Where order matters: takes in all that the group was given and has not settled, and puts it in order.
   *
   * The server would give it again when its claims have run out. Whoever had it is gone, so it is given back in his name, by
   * the subjects that he would have used, and comes at once; where a server takes no notice, it comes when the claims are out.
   */
  collect(info: Effect.Effect<Pending, Failed>): Effect.Effect<void, Failed> {
    return Effect.gen({ self: this }, function*() {
      let pending = yield* info
      if (pending.count > 0) {
        yield* this.sweep
        pending = yield* info
        this.release(pending)
      }
      // what came since the server counted says nothing of what it counted
      const missing = () => {
        this.inOrder()
        return pending.count - this.backlog.all.filter(({ position }) => position <= pending.last).length
      }
      for (let left = missing(); left > 0; left = missing()) {
        this.ask(Math.min(left, this.of.options.batch), 1000, undefined)
        // a second for the pull, and one for a server that says nothing at its end
        for (let quiet = 0; quiet < 20 && this.wanted > 0;) {
          const { signs } = this
          yield* Effect.timeoutOption(this.answered.await, 100)
          if (signs !== this.signs) quiet = 0
          // pulls of a reader that is frozen wait still, and take their part: given back again until they have had enough
          else if (++quiet % 2 === 0 && missing() > 0) this.release(pending)
        }
        this.wanted = 0
        pending = yield* info
      }
    })
  }

  /**
   * Makes the server forget pulls that nobody listens to any more: one that listens, and is answered when they are gone.
   *
   * Server 2.9.10 takes a message that was given back for one of them, finds nobody, and loses sight of it until its claim
   * runs out.
   */
  readonly sweep: Effect.Effect<void, Failed> = Effect.suspend(() => {
    const { client, session } = this.of
    const answered = Latch.makeUnsafe(false)
    const inbox = createInbox(client.connection.inboxPrefix)
    return Effect.acquireUseRelease(
      session.attempt("consume", async (nc) =>
        nc.subscribe(inbox, {
          callback: (error, message) => {
            if (error === null && message.reply !== undefined && message.reply !== "") this.take(message)
            answered.openUnsafe()
          }
        }), this.where),
      () => {
        const failed = session.write("consume", this.next, encoder.encode(JSON.stringify({ batch: 1, expires: 5e6 })), {
          reply: inbox
        })
        if (failed !== undefined) return Effect.fail(failed)
        const off = session.onEnd(() => answered.openUnsafe())
        return Effect.asVoid(Effect.timeoutOption(answered.await, 1000)).pipe(Effect.ensuring(Effect.sync(off)))
      },
      (subscription) => unsubscribe(session, subscription)
    )
  })

  private inOrder(): void {
    const found = new Map<number, Delivery>()
    for (const each of this.backlog.all) found.set(each.position, each)
    this.backlog.reset(Array.from(found.values()).sort((a, b) => a.position - b.position))
  }

  private release({ from, last, sequence }: Pending): void {
    // it could be millions, of which a few are not settled: then time does it
    if (last - from > mostReleased) return
    const { durable, source } = this.of
    const here = new Set(this.backlog.all.map(({ position }) => position))
    for (let each = from + 1; each <= last; each++) {
      if (here.has(each)) continue
      this.write(`$JS.ACK.${source.stream}.${durable}.1.${each}.${sequence}.0.0`, again)
    }
  }

  // ---- to the engine

  /** Offers what comes until it is stopped. */
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
      const part = new Part(batch.map(({ native }): Token => native))
      for (const token of part.tokens) token.part = part
      this.held.add(part)
      sink.polled()
      const room = sink.offer(this.lease, batch)
      this.pull()
      return room
    }))
  })

  /** Takes nothing new; what is still on its way is given back in the end. */
  stop(): void {
    if (this.isStopped) return
    this.isStopped = true
    const { subscription } = this
    if (subscription !== undefined) {
      this.ending = Effect.runPromise(unsubscribe(this.of.session, subscription))
    }
  }

  // ---- settling

  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const { client, isMine, session } = this.of
      const lost = isMine()
      if (lost !== undefined) return Exit.fail(lost)
      const acks: Array<string> = []
      for (const { delivery, outcome } of batch) {
        const token: Token = delivery.native
        if (outcome._tag === "Retry" || outcome._tag === "Release") {
          // given back with all the rest, in order
          if (this.isStopped && outcome._tag === "Release") continue
          const body = outcome._tag === "Release" || outcome.after === undefined ? again : later(outcome.after)
          const failed = session.write("settle", token.reply, body)
          if (failed !== undefined) return Exit.fail(failed)
        } else acks.push(this.numbers.acknowledging(token))
        this.settled(token)
      }
      const failed = session.writeAll("settle", acks)
      return failed === undefined ? session.flush("settle").pipe(client.inTime("settle")) : Exit.fail(failed)
    })
  }

  private settled(token: Token): void {
    const { part } = token
    if (token.isSettled || part === undefined) return
    token.isSettled = true
    if (--part.left > 0) return
    this.held.delete(part)
    if (!this.of.options.ordered) return
    this.past.push(part.tokens.map(({ sequence }) => sequence))
    this.pastCount += part.tokens.length
    while (this.pastCount > mostPast) this.pastCount -= this.past.shift()!.length
  }

  private extend(batch: ReadonlyArray<Delivery>): Effect.Effect<void, Failed> {
    return Effect.suspend(() => {
      const { client, isMine, session } = this.of
      const lost = isMine()
      if (lost !== undefined) return Exit.fail(lost)
      for (const { native } of batch) {
        const token: Token = native
        const failed = session.write("settle", token.reply, working)
        if (failed !== undefined) return Exit.fail(failed)
      }
      return session.flush("settle").pipe(client.inTime("settle"))
    })
  }

  /** Gives back what is not settled. Answers what it could not, because the connection is gone. */
  readonly giveBack: Effect.Effect<ReadonlyArray<string>> = Effect.gen({ self: this }, function*() {
    this.stop()
    const { client, session } = this.of
    if (this.ending !== undefined) yield* Effect.promise(() => this.ending!)
    // another has it all by now, and would get again what it is handling
    if (this.of.isMine() !== undefined) return []
    const isOpen = (this.held.size > 0 || this.backlog.length > 0 || this.late.length > 0) &&
      session.ended === undefined
    if (isOpen) yield* Effect.ignore(this.sweep)
    const replies = this.tokens().map(({ reply }) => reply).concat(this.late)
    if (replies.some((reply) => session.write("settle", reply, again) !== undefined)) return replies
    return yield* session.flush("settle").pipe(
      client.inTime("settle"),
      Effect.as<ReadonlyArray<string>>([]),
      Effect.catch(() => Effect.succeed(replies))
    )
  })
}

const mostReleased = 50_000
const mostPast = 4096

/** What a consumer has delivered and not heard of. */
export interface Pending {
  readonly count: number
  /** All up to this sequence of the stream is settled. */
  readonly from: number
  /** The last sequence of the stream that was delivered. */
  readonly last: number
  /** The number of the last delivery. */
  readonly sequence: number
}
