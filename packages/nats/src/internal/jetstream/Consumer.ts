/**
 * Consuming: a reader for the stream of a channel, or for each stream that has channels of a pattern.
 *
 * Where order does not matter, the readers of a group share its consumer. Where it does, one reader holds a lock, which only
 * it can renew, and begins with the messages that the reader before it has not settled.
 */
import type { BrokerError, Driver } from "@millrace/core"
import { Clock, Deferred, Effect, Exit, Latch, Scope } from "effect"
import * as Durable from "./Durable.ts"
import { type Left, Lock } from "./Lock.ts"
import type { ResolvedOptions } from "./Options.ts"
import { Reader } from "./Reader.ts"
import * as Topology from "./Topology.ts"
import type { Pending } from "./Takeover.ts"
import type { Client, Connection } from "../Connection.ts"
import * as Errors from "../Errors.ts"
import * as Names from "../Names.ts"

type Failed = BrokerError.BrokerError

/** The state that a driver keeps across connections of a subscription. */
export interface Memory {
  readonly locks: Left
  /** Streams of temporary channels that this process has made. */
  readonly streams: Set<string>
  /**
   * The acknowledgement subjects of messages that could not be released because the connection ended, by consumer, with the
   * time of that.
   */
  readonly replies: Map<string, { readonly at: number; readonly replies: ReadonlyArray<string> }>
}

const encoder = new TextEncoder()
const again = encoder.encode("-NAK")

interface Life {
  readonly client: Client
  readonly settings: ResolvedOptions
  readonly memory: Memory
  readonly connection: Connection
  readonly options: Driver.ConsumeOptions
  readonly sink: Driver.Sink
  readonly clock: Clock.Clock
  readonly fail: (error: Failed) => void
  /** Called to stop taking new messages. */
  readonly stops: Set<() => void>
  /** The open leases. */
  readonly leases: Set<Driver.Lease>
  /** Whether another connection takes over: temporary consumers and streams stay for it. */
  isReplaced: boolean
}

/**
 * Releases unsettled messages of this process's earlier connection, so that they are redelivered at once and not after
 * `ack_wait`.
 */
const remember = ({ clock, memory, connection }: Life, key: string, claim: number): void => {
  const left = memory.replies.get(key)
  if (left === undefined) return
  memory.replies.delete(key)
  if (clock.currentTimeMillisUnsafe() - left.at >= claim) return
  for (const reply of left.replies) connection.write("consume", reply, again)
}

/** Removes a temporary group's consumer, or the whole stream if this process has made it. */
const leave = ({ client, memory, connection, settings }: Life, durable: Durable.Durable): Effect.Effect<void> =>
  Effect.suspend(() => {
    if (connection.ended !== undefined) return Effect.void
    const isOurs = memory.streams.delete(durable.stream)
    return Effect.ignore(
      isOurs
        ? Topology.remove(client, settings, connection, durable.stream)
        : Durable.remove(client, settings, connection, durable)
    )
  })

/** Reads one stream for as long as the scope is open. */
const read = (
  life: Life,
  source: Topology.Source,
  from: "earliest" | "latest",
  durable: string
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { client, clock, fail, memory, options, connection, settings, sink } = life
    const { channel, group, ordered, temporary = false } = options
    const of: Durable.Durable = { stream: source.stream, name: durable }
    // runs last, when no reader is left; after a failure the engine restarts the subscription
    if (temporary) {
      yield* Effect.addFinalizer((exit) => exit._tag === "Success" && !life.isReplaced ? leave(life, of) : Effect.void)
    }
    const wanted = { source, from, group, channel, temporary }
    const { config } = yield* Durable.ensure(client, settings, connection, of, wanted)
    const claim = Durable.claimOf(config)
    const place = `${source.stream} ${durable}`
    const lock = ordered
      ? new Lock({
        client,
        settings,
        connection,
        key: `${Names.keyOf(source.stream)}/${Names.keyOf(durable)}`,
        group,
        replicas: source.replicas,
        left: memory.locks,
        clock
      })
      : undefined
    // released last, when all unsettled messages are released
    if (lock !== undefined) yield* Effect.addFinalizer(() => lock.release)
    const reader = new Reader({
      client,
      settings,
      connection,
      source,
      durable,
      claim,
      options,
      sink,
      fail,
      isMine: () => lock === undefined || lock.isMine ? undefined : lock.lost
    })
    yield* Effect.acquireRelease(reader.open, () =>
      Effect.map(reader.giveBack, (replies) => {
        if (replies.length > 0) memory.replies.set(place, { at: clock.currentTimeMillisUnsafe(), replies })
      }))
    if (ordered) memory.replies.delete(place)
    else if (memory.replies.has(place)) {
      yield* reader.sweep
      remember(life, place, claim)
    }

    const look = Effect.flatMap(
      Durable.find(client, settings, connection, of),
      (info) =>
        info === undefined
          ? Effect.fail(
            Errors.make(
              "consume",
              "NotFound",
              `The consumer of group ${group} on ${channel} was deleted under it, and with it its place.`,
              "transient"
            )
          )
          : Effect.succeed(info)
    )
    const pending: Effect.Effect<Pending, Failed> = Effect.map(look, ({ ack_floor, delivered, num_ack_pending }) => ({
      count: num_ack_pending,
      from: ack_floor.stream_seq,
      last: delivered.stream_seq,
      sequence: delivered.consumer_seq
    }))
    const orFail = <A, R>(effect: Effect.Effect<A, Failed, R>) =>
      Effect.catch(effect, (error) => Effect.sync(() => fail(error)))
    const begin = lock === undefined ? Effect.void : Effect.gen(function*() {
      yield* lock.acquire
      // continues while the engine drains, until the scope closes
      yield* Effect.forkScoped(Effect.catch(lock.keep, (error) =>
        Effect.andThen(
          sink.close(reader.lease, "lost"),
          Effect.sync(() => fail(error))
        )))
      yield* reader.collect(pending)
    })
    const flow = yield* Effect.forkScoped(orFail(Effect.gen(function*() {
      yield* begin
      sink.open(reader.lease)
      life.leases.add(reader.lease)
      return yield* reader.offer
    })))
    const watch = yield* Effect.forkScoped(orFail(reader.watch(look)))
    const keep = yield* Effect.forkScoped(orFail(reader.keep))
    const stop = () => {
      for (const fiber of [flow, watch, keep]) fiber.interruptUnsafe()
      reader.stop()
    }
    life.stops.add(stop)
    yield* Effect.addFinalizer(() => Effect.sync(() => void life.stops.delete(stop)))
  })

/** Reads the streams that match a pattern, including those created later. */
const readAll = (life: Life, filter: string): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { client, options, connection, settings } = life
    const { from, group } = options
    const durable = Names.durableOf(group, filter)
    const scope = yield* Effect.scope
    const open = new Map<string, Scope.Closeable>()
    const news = Latch.makeUnsafe(true)
    yield* Effect.acquireRelease(
      connection.attempt("consume", async (nc) =>
        // a user without permission for these advisories finds new streams by polling
        nc.subscribe("$JS.EVENT.ADVISORY.STREAM.CREATED.>", { callback: () => void news.openUnsafe() })),
      (subscription) => Effect.sync(() => subscription.unsubscribe())
    )
    const keyOf = ({ created, stream }: Topology.Source) => `${stream} ${created}`
    const look = (first: boolean) =>
      Effect.gen(function*() {
        news.closeUnsafe()
        const sources = yield* Topology.sourcesOf(client, settings, connection, "consume", filter)
        const fresh = sources.filter((source) => !open.has(keyOf(source)))
        // a stream created while a known group was away is new to it, and read from the beginning
        const known = first && from === "latest"
          ? yield* Effect.forEach(
            fresh,
            ({ stream }) => Durable.find(client, settings, connection, { stream, name: durable })
          )
          : []
        const begins = first && known.every((info) => info === undefined)
          ? from
          : "earliest"
        for (const source of fresh) {
          const own = yield* Scope.fork(scope)
          open.set(keyOf(source), own)
          yield* Scope.provide(read(life, source, begins, durable), own)
        }
      })
    yield* look(true)
    const discover = Effect.forever(Effect.gen(function*() {
      yield* Effect.timeoutOption(news.await, settings.discovery)
      yield* look(false)
    }))
    const fiber = yield* Effect.forkScoped(Effect.catch(discover, (error) => Effect.sync(() => life.fail(error))))
    life.stops.add(() => fiber.interruptUnsafe())
  })

/**
 * Consumes on one connection. Completes when another connection takes over, after running handlers have finished and all
 * other messages are released. Fails when the connection, the stream or the consumer is gone.
 */
const live = (
  client: Client,
  settings: ResolvedOptions,
  memory: Memory,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink,
  ready: () => void
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { channel, group, pattern } = options
    const connection = yield* client.connection("consume")
    const scope = yield* Scope.fork(yield* Effect.scope)
    const clock = yield* Clock.Clock
    const ended = Deferred.makeUnsafe<void, Failed>()
    const fail = (error: Failed) => void Deferred.doneUnsafe(ended, Exit.fail(error))
    const life: Life = {
      client,
      settings,
      memory,
      connection,
      options,
      sink,
      clock,
      fail,
      stops: new Set(),
      leases: new Set(),
      isReplaced: false
    }
    const watch = () => [
      connection.retain(),
      connection.onEnd(fail),
      connection.onReplace(() => void Deferred.doneUnsafe(ended, Exit.void)),
      connection.onViolation((error) => {
        // without these permissions, pulls and settlements would wait for ever
        if (/^\$JS\.(ACK|[^.]*\.?API\.CONSUMER\.MSG\.NEXT)\./.test(error.subject)) {
          fail(connection.failure(error, "consume", { channel: error.subject, group }))
        }
      })
    ]
    const begin = Effect.andThen(
      Effect.acquireRelease(Effect.sync(watch), (offs) => Effect.sync(() => offs.forEach((off) => off()))),
      pattern === undefined
        ? Effect.flatMap(
          Topology.sourceFor(client, settings, connection, "consume", channel),
          (source) => read(life, source, options.from, Names.durableOf(group, source.filter))
        )
        : readAll(life, Names.filterOf(pattern))
    )
    yield* Scope.provide(begin, scope).pipe(
      Effect.andThen(Effect.suspend(() => {
        ready()
        return Deferred.await(ended)
      })),
      Effect.onExit(() =>
        Effect.sync(() => {
          for (const stop of life.stops) stop()
        })
      )
    )
    life.isReplaced = true
    // the connection may end meanwhile
    const handOver = Effect.forEach(life.leases, (lease) => sink.close(lease, "revoke"), {
      concurrency: "unbounded",
      discard: true
    })
    yield* Effect.raceFirst(handOver, connection.lost)
    yield* Scope.close(scope, Exit.void)
  })

/** Consumes until interrupted; fails when the connection, the stream or the consumer is gone. */
export const consume = (
  client: Client,
  settings: ResolvedOptions,
  memory: Memory,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const { channel, group, pattern } = options
    if (group === "") {
      return yield* Effect.fail(Errors.invalid("consume", `The group of a subscription to ${channel} has no name.`))
    }
    const refused = Names.refuse(
      pattern === undefined ? channel : pattern.parts.map((part) => typeof part === "string" ? part : "x").join("")
    )
    if (refused !== undefined) return yield* Effect.fail(Errors.invalid("consume", refused))
    let isReady = false
    const ready = () => {
      if (!isReady) sink.ready()
      isReady = true
    }
    // one round for each connection
    while (true) yield* live(client, settings, memory, options, sink, ready)
  })
