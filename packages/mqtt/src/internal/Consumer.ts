/** Consuming: joins the session of the group, deals batches as capacity allows, and acknowledges when the engine says so. */
import { type BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { Effect, Exit, Latch, Scheduler, Scope } from "effect"
import type { InboundMessage } from "./AckQueue.ts"
import type { Inbox, Member } from "./Inbox.ts"
import * as Codec from "./Codec.ts"
import type { ResolvedOptions } from "./Options.ts"
import { Session } from "./Session.ts"
import * as Topology from "./Topology.ts"

type Failed = BrokerError.BrokerError

/** The most channels of one pattern whose origins are cached. */
const mostOrigins = 4096

/** The sessions of a driver. */
export interface Sessions {
  readonly of: (clientId: string, filter: string) => Session
}

/** Makes the sessions of a driver; a session's record of packets in flight outlives its connections. */
export const sessions = (resolved: ResolvedOptions): Effect.Effect<Sessions> =>
  Effect.map(Scheduler.Scheduler, (scheduler) => {
    const dispatcher = scheduler.makeDispatcher()
    const schedule = (task: () => void) => dispatcher.scheduleTask(task, 0)
    const all = new Map<string, Session>()
    return {
      of: (clientId, filter) => {
        let found = all.get(clientId)
        if (found === undefined) all.set(clientId, found = new Session(resolved, schedule, clientId, filter))
        return found
      }
    }
  })

/** Converts packets to deliveries; each delivery names its own channel. */
const delivering = ({ channel, group, handler, pattern }: Driver.ConsumeOptions) => {
  const make = (name: string): Origin => ({
    system: "mqtt",
    channel: name,
    group,
    partition: 0,
    handler,
    holdLimit: Number.POSITIVE_INFINITY
  })
  const own = make(channel)
  const origins = new Map<string, Origin>()
  const originOf = (topic: string): Origin => {
    if (pattern === undefined) return own
    let origin = origins.get(topic)
    if (origin === undefined) {
      if (origins.size >= mostOrigins) origins.clear()
      origins.set(topic, origin = make(topic))
    }
    return origin
  }
  return (entries: ReadonlyArray<InboundMessage>): Array<Delivery> => {
    const deliveries = new Array<Delivery>(entries.length)
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!
      const { packet, position } = entry
      deliveries[i] = delivery(
        originOf(packet.topic),
        Codec.reader,
        entry,
        position,
        Codec.bodyOf(packet),
        1
      )
    }
    return deliveries
  }
}

const leaseOf = ({ qos, sharing }: ResolvedOptions, inbox: Inbox, member: Member): Driver.Lease =>
  qos === 0
    ? { partition: 0 }
    : sharing === "exclusive"
    ? { partition: 0, commit: (position) => inbox.commit(position) }
    : { partition: 0, settle: (batch) => inbox.settle(member, batch) }

/** Consumes until interrupted; fails when the connection has ended. The member leaves the session with the scope. */
export const consume = (
  resolved: ResolvedOptions,
  { of }: Sessions,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const filter = Topology.filterOf(options, resolved.sharing)
    if (typeof filter !== "string") return yield* Effect.fail(filter)
    const session = of(resolved.clientIdOf([resolved.sharing, options.group, options.channel]), filter)
    const deliveries = delivering(options)
    let isReady = false
    const ready = () => {
      if (!isReady) sink.ready()
      isReady = true
    }
    // one round for each connection
    while (true) yield* live(resolved, session, options, sink, deliveries, ready)
  })

/**
 * Consumes on one connection. Completes when the connection is replaced: running handlers finish first, and the session
 * keeps the other messages.
 */
const live = (
  resolved: ResolvedOptions,
  session: Session,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink,
  deliveries: (entries: ReadonlyArray<InboundMessage>) => Array<Delivery>,
  ready: () => void
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const member: Member = { options, latch: Latch.makeUnsafe(false), isIdle: false, stopped: false }
    const scope = yield* Scope.fork(yield* Effect.scope)
    const inbox = yield* Effect.acquireRelease(session.enter(member), (inbox) => session.leave(inbox, member)).pipe(
      Scope.provide(scope)
    )
    const lease = leaseOf(resolved, inbox, member)
    sink.open(lease)
    ready()
    const deal = Effect.suspend((): Effect.Effect<void> => {
      const entries = inbox.deal(member)
      if (entries === undefined) return inbox.more(member)
      sink.polled()
      return sink.offer(lease, deliveries(entries))
    })
    // an inbox with a member has its connection
    const lost = inbox.connection?.lost ?? Exit.void
    const replaced = inbox.connection?.replaced ?? Effect.never
    const reading = Effect.whileLoop({ while: () => true, body: () => deal, step: () => {} })
    yield* Effect.raceFirst(Effect.raceFirst(reading, lost), replaced).pipe(
      Effect.ensuring(Effect.sync(() => {
        member.stopped = true
        member.isIdle = false
      }))
    )
    // the connection may end meanwhile
    yield* Effect.raceFirst(sink.close(lease, "revoke"), lost)
    yield* Scope.close(scope, Exit.void)
  })
