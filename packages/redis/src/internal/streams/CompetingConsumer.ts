/**
 * Consumes without order: the consumers of a group share its messages, and take over those of dead consumers.
 *
 * New messages come by a blocked read on a separate connection. Beside it a sweep looks for other messages to handle: delayed
 * messages that are due, released messages, and messages whose claim has ended without an extension.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Duration, Effect, Exit, Latch, type Scope } from "effect"
import type * as Client from "../client/Client.ts"
import * as Errors from "../client/Errors.ts"
import * as Keys from "../client/Keys.ts"
import { type Again, idOf, Maker } from "./Deliveries.ts"
import type { Entry } from "./Codec.ts"
import * as Scripts from "./Scripts.ts"
import type { Streams } from "./Streams.ts"
import { originOf } from "../client/Origin.ts"

type Failed = BrokerError.BrokerError

/** The prefix of this driver's consumer names. */
const prefix = "millrace:"
/** The consumer name that holds released messages; no process reads under it. */
const released = "millrace:released"

class Member {
  readonly lease: Driver.Lease
  private readonly streams: Streams
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly reading: Client.Connection
  private readonly name: string
  private readonly keys: ReadonlyArray<string>
  private readonly maker: Maker
  /** Opens when a sweep may find messages before its time. */
  private readonly soon = Latch.makeUnsafe(false)
  private next = 0
  private isFull = false
  /** When to look next for messages whose claim has ended, in milliseconds of the monotonic clock. */
  private nextLook = Number.NEGATIVE_INFINITY

  constructor(
    streams: Streams,
    options: Driver.ConsumeOptions,
    sink: Driver.Sink,
    reading: Client.Connection,
    name: string
  ) {
    this.streams = streams
    this.options = options
    this.sink = sink
    this.reading = reading
    this.name = name
    const { channel, group, handler } = options
    this.keys = [channel, Keys.beside(channel, group, "delayed")]
    this.maker = new Maker(originOf(channel, group, handler), options.batch, options.bytes)
    this.lease = {
      partition: 0,
      claim: streams.times.claim,
      settle: (batch) => this.settle(batch),
      extend: (batch) => this.run("settle", Scripts.extend, [group, name, ...batch.map(idOf)])
    }
  }

  private get where() {
    return { channel: this.options.channel, group: this.options.group }
  }

  private run(
    operation: Failed["operation"],
    script: Client.Script,
    args: ReadonlyArray<Client.Argument>
  ): Effect.Effect<void, Failed> {
    return Effect.asVoid(this.streams.connection.perform(operation, script, this.keys, args, this.where))
  }

  /** Settles a batch. Done messages are acknowledged in one command, even if another consumer has taken them over. */
  private settle(batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    const { channel, group } = this.options
    const done: Array<Client.Argument> = [channel, group]
    const later: Array<Client.Argument> = [group, this.name]
    const back: Array<Client.Argument> = [group, this.name, released]
    for (const { delivery, outcome } of batch) {
      const id = idOf(delivery)
      if (outcome._tag === "Retry") {
        const after = outcome.after === undefined ? 0 : Duration.toMillis(outcome.after)
        later.push(id, Math.max(0, Math.round(after)), delivery.attempt)
        this.next = Math.min(this.next, after)
      } else if (outcome._tag === "Release") back.push(id)
      else done.push(id)
    }
    const { connection } = this.streams
    const acknowledged = done.length === 2
      ? Effect.void
      : connection.attempt("settle", () => connection.send(channel, "XACK", done), this.where)
    if (later.length === 2 && back.length === 3) return Effect.asVoid(acknowledged)
    return Effect.gen({ self: this }, function*() {
      yield* acknowledged
      if (later.length > 2) {
        for (const some of Scripts.inPieces(later.slice(2), 3 * 1000)) {
          yield* this.run("settle", Scripts.delay, [group, this.name, ...some])
        }
        this.soon.openUnsafe()
      }
      if (back.length > 3) yield* this.run("settle", Scripts.release, back)
    })
  }

  /** Reads new messages until interrupted. */
  readonly read: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    const id = yield* Effect.orElseSucceed(
      this.reading.attempt("consume", () => this.reading.send("CLIENT", ["ID"])),
      () => undefined
    )
    while (true) {
      const entries = yield* this.block(typeof id === "number" ? id : undefined)
      this.sink.polled()
      if (entries.length === 0) continue
      const room = this.sink.offer(this.lease, this.maker.fresh(entries))
      if (Exit.isExit(room)) continue
      this.isFull = true
      yield* room
      this.isFull = false
    }
  })

  /** Runs one blocked read. On interruption, unblocks Redis and releases messages that arrived anyway. */
  private block(id: number | undefined): Effect.Effect<ReadonlyArray<Entry>, Failed> {
    const { channel, group } = this.options
    return Effect.callback((resume) => {
      const reply = this.reading.send("XREADGROUP", [
        "GROUP",
        group,
        this.name,
        "COUNT",
        this.maker.count,
        "BLOCK",
        this.streams.times.maximumWait,
        "STREAMS",
        channel,
        ">"
      ]).then((found) => {
        // the read names one stream, so the reply has one
        const [[, entries]] = found as [[Buffer, ReadonlyArray<Entry>]] | null ?? [[undefined, []]]
        return entries
      })
      reply.then(
        (entries) => resume(Exit.succeed(entries)),
        (error: unknown) => resume(Exit.fail(Errors.fromUnknown(error, "consume", this.reading.place, this.where)))
      )
      if (id === undefined) return
      // messages that are not released here are released when the consumer leaves the group
      return Effect.tryPromise(async () => {
        // on another server the same number is another client's
        await this.streams.connection.beside(channel, this.reading)?.send("CLIENT", ["UNBLOCK", id])
        const entries = await reply
        if (entries.length === 0) return
        await this.streams.connection.run(Scripts.release, this.keys, [
          group,
          this.name,
          released,
          ...entries.map(([each]) => each)
        ])
      }).pipe(Effect.timeoutOption("1 second"), Effect.ignore)
    })
  }

  /** Sweeps until interrupted. */
  readonly sweep: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    while (true) {
      const more = this.isFull ? false : yield* this.sweepOnce()
      if (more) continue
      yield* Effect.timeoutOption(this.soon.await, Math.max(1, this.isFull ? this.streams.times.sweep : this.next))
      this.soon.closeUnsafe()
    }
  })

  /** Sweeps once; answers whether the next sweep may find more at once. */
  private sweepOnce(): Effect.Effect<boolean, Failed> {
    const { group } = this.options
    const { connection, times } = this.streams
    return Effect.gen({ self: this }, function*() {
      // the wall clock may be set back, which would delay the takeover from dead consumers
      const now = yield* Effect.clockWith((clock) => Effect.sync(() => Number(clock.monotonicTimeNanosUnsafe()) / 1e6))
      const look = now >= this.nextLook
      if (look) this.nextLook = now + times.claim / 2
      const count = Math.min(this.maker.count, 256)
      this.next = times.sweep
      const args = [group, this.name, released, count, look ? times.claim : 0, prefix]
      const reply = yield* connection.perform("consume", Scripts.sweep, this.keys, args, this.where)
      // the shape of the script's reply
      const [entries, next, gone] = reply as [ReadonlyArray<Again>, number, number]
      if (next >= 0) this.next = Math.min(this.next, next)
      if (gone > 0) yield* this.streams.trimmed(this.options, gone)
      if (entries.length === 0) return false
      // a read may wait for room at the same time: at most one batch more than the engine asked for
      yield* this.sink.offer(this.lease, this.maker.again(entries))
      if (entries.length < count) return false
      // dead consumers may have had more messages than fit into one reply
      if (look) this.nextLook = now
      return true
    })
  }

  /** Releases the remaining messages and leaves the group; if that fails, other consumers take over when the claim ends. */
  get leave(): Effect.Effect<void> {
    return Effect.ignore(this.run("settle", Scripts.leave, [this.options.group, this.name, released]))
  }
}

/** Runs until interrupted; fails when a connection ends. */
export const consume = (
  streams: Streams,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { connection } = streams
    const where = { channel: options.channel, group: options.group }
    yield* streams.begin(options)
    const name = `${prefix}${options.handler}:${yield* streams.token}`
    const member = yield* Effect.acquireRelease(
      Effect.map(
        connection.separate(options.channel),
        (reading) => [reading, new Member(streams, options, sink, reading, name)] as const
      ),
      ([, member]) => member.leave
    )
    sink.open(member[1].lease)
    sink.ready()
    return yield* Effect.raceAllFirst([
      member[1].read,
      member[1].sweep,
      member[0].ended("consume", where),
      connection.ended(options.channel, "consume", where)
    ])
  })
