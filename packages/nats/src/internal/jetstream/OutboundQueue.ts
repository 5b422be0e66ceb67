/**
 * Messages in flight to streams over one connection: written one after another and confirmed one by one, with a bounded
 * number in flight.
 */
import type { BrokerError, Outgoing } from "@millrace/core"
import { JetStreamApiError } from "@nats-io/jetstream"
import { createInbox, headers, type Msg } from "@nats-io/transport-node"
import { Effect, Exit } from "effect"
import type { ResolvedOptions } from "./Options.ts"
import type { Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"
import * as NatsCodec from "../Codec.ts"

type Failed = BrokerError.BrokerError
type Batch = ReadonlyArray<Outgoing<Uint8Array>>

// unconfirmed bytes at which writing pauses
const mostBytes = 16 * 1024 * 1024

/** One call of `publish`. */
class PublishCall {
  readonly batch: Batch
  readonly resume: (exit: Exit.Exit<void, Failed>) => void
  /** The index of the next message to write. */
  next = 0
  confirmed = 0
  failed: Failed | undefined

  constructor(batch: Batch, resume: (exit: Exit.Exit<void, Failed>) => void) {
    this.batch = batch
    this.resume = resume
  }
}

/** A message that waits for its confirmation. */
class InFlight {
  readonly entry: PublishCall
  readonly outgoing: Outgoing<Uint8Array>
  readonly since: number

  constructor(entry: PublishCall, outgoing: Outgoing<Uint8Array>, since: number) {
    this.entry = entry
    this.outgoing = outgoing
    this.since = since
  }
}

/** The error if the server has no responders for the subject: no stream holds it, or its stream has no leader now. */
const unheard = (channel: string): Failed =>
  Errors.make(
    "publish",
    "NotFound",
    `No stream of JetStream holds ${channel}: declare it, or set missingStreams to "create".`
  )

const decoder = new TextDecoder()
// the second character of `{"error":…` and of `{"stream":…`
const [errorMark, streamMark] = [101, 115]

/** The unconfirmed messages of one connection. */
export class OutboundQueue {
  private readonly connection: Connection
  private readonly settings: ResolvedOptions
  private readonly inbox: string
  private readonly queue: Array<PublishCall> = []
  private readonly waiting = new Map<number, InFlight>()
  private bytes = 0
  private count = 0
  private tick = 0
  /** Keeps the connection open while messages wait for their confirmation. */
  private release: (() => void) | undefined
  private readonly idlers = new Set<() => void>()

  constructor(connection: Connection, settings: ResolvedOptions, prefix: string) {
    this.connection = connection
    this.settings = settings
    this.inbox = `${createInbox(prefix)}.`
    connection.onEnd(() => this.end(Errors.lost("publish", connection.place)))
    connection.onViolation((error) => {
      // without permission for the inbox, no confirmation would arrive
      if (error.operation !== "publish") {
        if (error.subject === `${this.inbox}*`) this.end(connection.failure(error, "publish"))
        return
      }
      for (const [id, { outgoing }] of this.waiting) {
        if (outgoing.channel === error.subject) {
          this.settle(id, connection.failure(error, "publish", { channel: outgoing.channel }))
        }
      }
    })
    connection.nc.subscribe(`${this.inbox}*`, {
      callback: (error, message) => {
        if (error === null) this.answer(message)
      }
    })
  }

  publish(batch: Batch): Effect.Effect<void, Failed> {
    return Effect.callback<void, Failed>((resume) => {
      if (this.connection.ended !== undefined) {
        resume(Exit.fail(Errors.lost("publish", this.connection.place)))
        return
      }
      const entry = new PublishCall(batch, resume)
      this.release ??= this.connection.retain()
      this.queue.push(entry)
      this.write()
      // messages in flight cannot be recalled
      return Effect.sync(() => {
        const at = this.queue.indexOf(entry)
        if (at >= 0) this.queue.splice(at, 1)
        this.rest()
      })
    })
  }

  get isIdle(): boolean {
    return this.release === undefined
  }

  /** Completes when no message waits. */
  readonly idle: Effect.Effect<void> = Effect.callback<void>((resume) => {
    const done = () => resume(Exit.void)
    if (this.release === undefined) return done()
    this.idlers.add(done)
    return Effect.sync(() => void this.idlers.delete(done))
  })

  private rest(): void {
    if (this.waiting.size > 0 || this.queue.length > 0) return
    const { release } = this
    this.release = undefined
    release?.()
    for (const each of this.idlers) each()
    this.idlers.clear()
  }

  /** Writes messages while the limits for unconfirmed messages allow. */
  private write(): void {
    for (let entry = this.queue[0]; entry !== undefined; entry = this.queue[0]) {
      while (entry.next < entry.batch.length && entry.failed === undefined) {
        if (this.waiting.size >= this.settings.window || this.bytes >= mostBytes) return
        entry.failed = this.writeOne(entry, entry.batch[entry.next]!)
        entry.next++
      }
      this.queue.shift()
      if (entry.failed !== undefined) entry.resume(Exit.fail(entry.failed))
    }
    if (this.waiting.size === 0) this.rest()
  }

  private writeOne(entry: PublishCall, outgoing: Outgoing<Uint8Array>): Failed | undefined {
    const most = this.connection.nc.info?.max_payload
    const refused = NatsCodec.refuse(outgoing, most)
    if (refused !== undefined) return refused
    const made = NatsCodec.toHeaders(outgoing)
    if (made !== undefined && "_tag" in made) return made
    let fields = made
    // a dead letter or a replay with the original's id would be dropped as its duplicate
    const id = outgoing.native?.isCopy === true ? undefined : this.settings.messageId?.(outgoing)
    if (id !== undefined) (fields ??= headers()).set("Nats-Msg-Id", id)
    const number = this.count++
    const reply = this.inbox + number
    const failed = this.connection.write(
      "publish",
      outgoing.channel,
      outgoing.payload,
      fields === undefined ? { reply } : { reply, headers: fields }
    )
    if (failed !== undefined) {
      // the client checks the total length of body and headers, the only limit not checked before
      return failed.reason === "Invalid" && most !== undefined
        ? NatsCodec.tooLarge(outgoing, fields, most)
        : failed
    }
    this.waiting.set(number, new InFlight(entry, outgoing, this.tick))
    this.bytes += outgoing.payload.length
    return undefined
  }

  private answer(message: Msg): void {
    const id = Number(message.subject.slice(this.inbox.length))
    const waiting = this.waiting.get(id)
    if (waiting === undefined) return
    this.settle(id, this.failureOf(message, waiting.outgoing.channel))
    this.write()
  }

  private failureOf(message: Msg, channel: string): Failed | undefined {
    const body = message.data
    if (body[2] === streamMark) return undefined
    const failed = (error: unknown) => this.connection.failure(error, "publish", { channel })
    if (body.length === 0) {
      return message.headers?.code === 503
        ? unheard(channel)
        : failed(new Error("an empty confirmation"))
    }
    if (body[2] !== errorMark && !decoder.decode(body).includes("\"error\"")) return undefined
    try {
      // JetStream's own answer
      const { error } = JSON.parse(decoder.decode(body)) as {
        readonly error: ConstructorParameters<typeof JetStreamApiError>[0]
      }
      return failed(new JetStreamApiError(error))
    } catch (error) {
      return failed(error)
    }
  }

  private settle(id: number, failed: Failed | undefined): void {
    const waiting = this.waiting.get(id)
    if (waiting === undefined) return
    this.waiting.delete(id)
    this.bytes -= waiting.outgoing.payload.length
    const { entry } = waiting
    entry.confirmed++
    if (failed !== undefined && entry.failed === undefined) {
      entry.failed = failed
      entry.resume(Exit.fail(failed))
    } else if (entry.failed === undefined && entry.confirmed === entry.batch.length) entry.resume(Exit.void)
    if (this.waiting.size === 0) this.rest()
  }

  /**
   * Counts one tick, a quarter of `requestTimeout`; fails messages older than four ticks with the error that `late` makes.
   */
  beat(late: (channel: string) => Failed): void {
    this.tick++
    for (const [id, { outgoing, since }] of this.waiting) {
      // the map iterates in order of writing
      if (this.tick - since <= 4) break
      this.settle(id, late(outgoing.channel))
    }
    this.write()
  }

  private end(error: Failed): void {
    for (const id of Array.from(this.waiting.keys())) this.settle(id, error)
    for (const entry of this.queue.splice(0)) {
      if (entry.failed === undefined) entry.resume(Exit.fail(error))
    }
    this.rest()
  }
}
