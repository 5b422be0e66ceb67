/**
 * Consumes from Pub/Sub on a separate connection, to which Redis pushes every message. Messages published while no client is
 * subscribed are lost, so nothing is settled.
 *
 * Backpressure: while the engine has no room, the socket is not read, and messages pile up in Redis; beyond its limit
 * (`client-output-buffer-limit pubsub`, 32 MiB by default) Redis closes the connection, and the buffered messages are lost.
 */
import { Address, type BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { Effect, Exit, Latch, type Scope } from "effect"
import type * as Client from "../client/Client.ts"
import * as Codec from "../client/Codec.ts"
import * as Errors from "../client/Errors.ts"
import { originOf } from "../client/Origin.ts"

type Failed = BrokerError.BrokerError

/** State that all parts of one driver share. */
export interface PubSub {
  readonly connection: Client.Client
  /** How long the server may be silent, in milliseconds. */
  readonly silence: number
  /** Groups that this driver has a subscription of; each may have one. */
  readonly groups: Set<string>
}

/** The most messages, and bytes, that may wait here for the engine before the socket is paused. */
const most = 4096
const mostBytes = 16 * 1024 * 1024
/** The most channels of a pattern whose origins are cached. */
const mostOrigins = 1024

/** Converts a pattern to a Redis glob; characters that Redis would read as wildcards are escaped. */
export const globOf = (pattern: Address.Pattern): string =>
  Address.render(pattern, { one: "*", rest: "*", literal: (text) => text.replace(/[*?[\]\\]/g, "\\$&") })

class Listener {
  private readonly options: Driver.ConsumeOptions
  private readonly sink: Driver.Sink
  private readonly connection: Client.Connection
  private readonly origins = new Map<string, Origin>()
  private readonly lease: Driver.Lease = { partition: 0 }
  private readonly some = Latch.makeUnsafe(false)
  private waiting: Array<Delivery> = []
  private bytes = 0
  private position = 0
  private readonly timeout: number
  private isPaused = false

  constructor(options: Driver.ConsumeOptions, sink: Driver.Sink, connection: Client.Connection, timeout: number) {
    this.timeout = timeout
    this.options = options
    this.sink = sink
    this.connection = connection
  }

  /** Completes when Redis has confirmed the subscription. */
  readonly subscribe: Effect.Effect<void, Failed> = Effect.suspend(() => {
    const { channel, pattern } = this.options
    const { client } = this.connection
    this.sink.open(this.lease)
    if (pattern === undefined) {
      const origin = this.originOf(channel)
      client.on("messageBuffer", (_channel: Buffer, value: Buffer) => this.take(origin, value))
      return Effect.asVoid(this.connection.attempt("consume", () => client.subscribe(channel), this.options))
    }
    client.on("pmessageBuffer", (_pattern: string, name: Buffer, value: Buffer) => {
      const found = name.toString()
      // a Redis star also matches separators
      if (pattern.match(found) !== undefined) this.take(this.originOf(found), value)
    })
    return Effect.asVoid(this.connection.attempt("consume", () => client.psubscribe(globOf(pattern)), this.options))
  })

  private originOf(channel: string): Origin {
    const known = this.origins.get(channel)
    if (known !== undefined) return known
    // evicted origins are made again
    if (this.origins.size >= mostOrigins) this.origins.clear()
    const origin = originOf(channel, this.options.group, this.options.handler)
    this.origins.set(channel, origin)
    return origin
  }

  private take(origin: Origin, value: Buffer): void {
    const envelope = Codec.open(value)
    this.waiting.push(
      delivery(origin, Codec.reader, envelope, ++this.position, Codec.bodyOf(envelope), 1)
    )
    this.bytes += value.length
    if (this.waiting.length >= most || this.bytes >= mostBytes) {
      this.isPaused = true
      this.connection.client.stream.pause()
    }
    this.some.openUnsafe()
  }

  /** Offers received messages to the engine until interrupted. */
  readonly give: Effect.Effect<never, Failed> = Effect.gen({ self: this }, function*() {
    const { batch, bytes } = this.options
    while (true) {
      yield* this.some.await
      this.some.closeUnsafe()
      const { waiting } = this
      this.waiting = []
      this.bytes = 0
      this.sink.polled()
      for (let from = 0, to = 0; from < waiting.length; from = to) {
        for (let sum = 0; to < waiting.length && to - from < batch && (to === from || sum < bytes); to++) {
          sum += waiting[to]!.payload.length
        }
        const room = this.sink.offer(
          this.lease,
          from === 0 && to === waiting.length ? waiting : waiting.slice(from, to)
        )
        if (!Exit.isExit(room)) yield* room
      }
      this.isPaused = false
      this.connection.client.stream.resume()
    }
  })

  /**
   * Sends `PING` regularly to detect a dead connection by its silence. Detects nothing while the socket is paused, or while the
   * reply waits behind messages.
   */
  get beat(): Effect.Effect<never, Failed> {
    const { connection, options, timeout } = this
    const ask = Effect.suspend(() => {
      const before = this.position
      const late = Effect.suspend(() =>
        this.isPaused || this.position > before
          ? Effect.void
          : Effect.fail(Errors.fromUnknown(new Error("timed out"), "consume", connection.place, options))
      )
      return connection.attempt("consume", () => connection.client.ping(), options).pipe(
        Effect.map(() => this.sink.polled()),
        Effect.timeoutOrElse({ duration: timeout, orElse: () => late })
      )
    })
    const once = Effect.suspend(() => this.isPaused ? Effect.void : ask)
    return Effect.forever(Effect.andThen(Effect.sleep(timeout / 3), once))
  }
}

/** Runs until interrupted; fails when the connection ends. */
export const consume = (
  pubSub: PubSub,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { channel, group } = options
    const seat = JSON.stringify([channel, group])
    if (pubSub.groups.has(seat)) {
      return yield* Effect.fail(Errors.unsupported(
        "consume",
        `Pub/Sub has no groups: a second subscription of ${group} to ${channel} would handle every message a second time. Give it a group of its own, or use RedisStreams.`
      ))
    }
    yield* Effect.acquireRelease(
      Effect.sync(() => pubSub.groups.add(seat)),
      () => Effect.sync(() => pubSub.groups.delete(seat))
    )
    const connection = yield* pubSub.connection.separate(channel, { isPaused: true })
    const listener = new Listener(options, sink, connection, pubSub.silence)
    // no other fiber watches this connection yet
    yield* Effect.timeoutOrElse(listener.subscribe, {
      duration: pubSub.silence,
      orElse: () => Effect.fail(Errors.fromUnknown(new Error("timed out"), "consume", connection.place, options))
    })
    sink.ready()
    return yield* Effect.raceAllFirst([listener.give, listener.beat, connection.ended("consume", { channel, group })])
  })
