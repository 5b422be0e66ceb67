/**
 * Consuming by core NATS: a subscription in a queue group. The server pushes, so messages beyond the engine's capacity wait
 * here, up to a bound; beyond it new messages are dropped, as the server itself would drop them, and a warning is logged.
 */
import { type BrokerError, delivery, type Driver, type Origin } from "@millrace/core"
import type { Msg } from "@nats-io/transport-node"
import { Deferred, Effect, Exit, Latch, Scope } from "effect"
import { Backlog } from "../Backlog.ts"
import { type Client, type Connection, unsubscribe } from "../Connection.ts"
import * as Errors from "../Errors.ts"
import { readerOf } from "../Codec.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError

/** The most messages and bytes that wait for the engine. */
export interface Bound {
  readonly messages: number
  readonly bytes: number
}

const reader = readerOf<Msg>((message) => message, () => undefined, (message) => message.reply)

// the most channels of a pattern that are cached
const mostOrigins = 10_000

class Listener {
  private readonly options: Driver.ConsumeOptions
  private readonly bound: Bound
  private readonly warn: (message: string) => void
  private readonly origins = new Map<string, Origin>()
  private readonly work = Latch.makeUnsafe(false)
  private readonly backlog = new Backlog()
  private position = 0
  private dropped = 0
  stopped = false

  constructor(options: Driver.ConsumeOptions, bound: Bound, warn: (message: string) => void) {
    this.options = options
    this.bound = bound
    this.warn = warn
  }

  private originOf(channel: string): Origin {
    const known = this.origins.get(channel)
    if (known !== undefined) return known
    const { group, handler } = this.options
    const origin: Origin = {
      system: "nats",
      channel,
      group,
      partition: 0,
      handler,
      holdLimit: Number.POSITIVE_INFINITY
    }
    if (this.origins.size >= mostOrigins) this.origins.clear()
    this.origins.set(channel, origin)
    return origin
  }

  /** Takes in a message. An exception here would end the connection; this code throws none. */
  take(message: Msg): void {
    if (this.stopped) return
    const { channel, pattern } = this.options
    const subject = pattern === undefined ? channel : message.subject
    if (pattern !== undefined && pattern.match(subject) === undefined) return
    const body = message.data
    // a message larger than the bound passes if it is alone
    const isFull = this.backlog.length >= this.bound.messages ||
      (this.backlog.length > 0 && this.backlog.bytes + body.length > this.bound.bytes)
    if (isFull) {
      if (this.dropped++ === 0) {
        this.warn(
          `${this.options.handler} is too slow for ${channel}: ${this.backlog.length} messages wait, and what comes is dropped`
        )
      }
      return
    }
    this.backlog.push(delivery(this.originOf(subject), reader, message, this.position++, body, 1))
    this.work.openUnsafe()
  }

  /** Offers received messages until interrupted. */
  offer(sink: Driver.Sink, lease: Driver.Lease): Effect.Effect<never> {
    const step = Effect.suspend(() => {
      if (this.backlog.length === 0) {
        this.work.closeUnsafe()
        if (this.dropped > 0) {
          this.warn(
            `${this.options.handler} has caught up with ${this.options.channel}; ${this.dropped} messages were dropped`
          )
          this.dropped = 0
        }
        return this.work.await
      }
      sink.polled()
      return sink.offer(lease, this.backlog.take(this.options.batch, this.options.bytes))
    })
    return Effect.forever(step)
  }
}

/**
 * Subscribes on a connection, for as long as the scope is open. `ended` succeeds when another connection takes over, and
 * fails when this connection ends.
 */
const subscribe = (
  client: Client,
  connection: Connection,
  { channel, group, pattern }: Driver.ConsumeOptions,
  listener: Listener,
  ended: Deferred.Deferred<void, Failed>
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const fail = (error: Failed) => void Deferred.doneUnsafe(ended, Exit.fail(error))
    const watch = () => [
      connection.retain(),
      connection.onEnd(fail),
      connection.onReplace(() => void Deferred.doneUnsafe(ended, Exit.void))
    ]
    yield* Effect.acquireRelease(Effect.sync(watch), (offs) => Effect.sync(() => offs.forEach((off) => off())))
    yield* Effect.acquireRelease(
      connection.attempt("consume", async (nc) =>
        nc.subscribe(pattern === undefined ? channel : Names.filterOf(pattern), {
          queue: Names.nameOf(group),
          callback: (error, message) =>
            error === null ? listener.take(message) : fail(connection.failure(error, "consume", { channel, group }))
        }), { channel, group }),
      (subscription) =>
        unsubscribe(connection, subscription)
    )
    // when the server answers, it has accepted or refused the subscription
    yield* Effect.raceFirst(connection.flush("consume").pipe(client.inTime("consume")), Deferred.await(ended))
    yield* Effect.yieldNow
    if (Deferred.isDoneUnsafe(ended)) {
      yield* Deferred.await(ended)
    }
  })

/** Consumes until interrupted; fails when the connection ends or the server forbids the subscription. */
export const consume = (
  client: Client,
  bound: Bound,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { channel, group, pattern } = options
    // an empty name means no queue group, and each member would get all messages
    if (group === "") {
      return yield* Effect.fail(Errors.invalid("consume", `The group of a subscription to ${channel} has no name.`))
    }
    const refused = pattern === undefined
      ? Names.refuse(channel)
      : Names.refuse(pattern.parts.map((part) => typeof part === "string" ? part : "x").join(""))
    if (refused !== undefined) return yield* Effect.fail(Errors.invalid("consume", refused))
    const run = Effect.runForkWith(yield* Effect.context<never>())
    const listener = new Listener(options, bound, (message) => void run(Effect.logWarning(message)))
    const lease: Driver.Lease = { partition: 0 }
    const scope = yield* Effect.scope
    const listen = Effect.gen(function*() {
      const connection = yield* client.connection("consume")
      const own = yield* Scope.fork(scope)
      const ended = Deferred.makeUnsafe<void, Failed>()
      yield* Scope.provide(subscribe(client, connection, options, listener, ended), own)
      return { own, ended }
    })
    const first = yield* listen
    sink.ready()
    sink.open(lease)
    const following = Effect.gen(function*() {
      let now = first
      while (true) {
        yield* Deferred.await(now.ended)
        // the subscription on the replaced connection continues until the next one is open
        const next = yield* listen
        yield* Scope.close(now.own, Exit.void)
        now = next
      }
    })
    return yield* Effect.raceFirst(listener.offer(sink, lease), following).pipe(
      Effect.onExit(() =>
        Effect.sync(() => {
          listener.stopped = true
        })
      )
    )
  })
