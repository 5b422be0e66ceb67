/**
 * Consuming: a seat at the session of the group, batches dealt as there is room, and acknowledgements when the engine says so.
 */
import { type BrokerError, type Delivery, delivery, type Driver, type Origin } from "@millrace/core"
import { Effect, Exit, Latch, Scheduler, type Scope } from "effect"
import type { Entry } from "./MqttBook.ts"
import type { Desk, Member } from "./MqttDesk.ts"
import * as MqttMessage from "./MqttMessage.ts"
import type { Connection } from "./MqttOptions.ts"
import { Session } from "./MqttSession.ts"
import * as MqttTopics from "./MqttTopics.ts"

type Failed = BrokerError.BrokerError

/** Channels of one pattern whose origins are kept. */
const mostOrigins = 4096

/** The sessions of a driver. */
export interface Sessions {
  readonly of: (clientId: string, filter: string) => Session
}

/** Makes the sessions of a driver; what one knows of packets on their way outlives its connections. */
export const sessions = (connection: Connection): Effect.Effect<Sessions> =>
  Effect.map(Scheduler.Scheduler, (scheduler) => {
    const dispatcher = scheduler.makeDispatcher()
    const schedule = (task: () => void) => dispatcher.scheduleTask(task, 0)
    const all = new Map<string, Session>()
    return {
      of: (clientId, filter) => {
        let found = all.get(clientId)
        if (found === undefined) all.set(clientId, found = new Session(connection, schedule, clientId, filter))
        return found
      }
    }
  })

/** Packets as deliveries; each names its own channel. */
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
  return (entries: ReadonlyArray<Entry>): Array<Delivery> => {
    const deliveries = new Array<Delivery>(entries.length)
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!
      const { packet, position } = entry
      deliveries[i] = delivery(
        originOf(packet.topic),
        MqttMessage.reader,
        entry,
        position,
        MqttMessage.bodyOf(packet),
        1
      )
    }
    return deliveries
  }
}

const leaseOf = ({ qos, sharing }: Connection, desk: Desk, member: Member): Driver.Lease =>
  qos === 0
    ? { partition: 0 }
    : sharing === "exclusive"
    ? { partition: 0, commit: (position) => desk.commit(position) }
    : { partition: 0, settle: (batch) => desk.settle(member, batch) }

/** Runs until interrupted; fails when the connection has ended. The seat is given up with the scope. */
export const consume = (
  connection: Connection,
  { of }: Sessions,
  options: Driver.ConsumeOptions,
  sink: Driver.Sink
): Effect.Effect<void, Failed, Scope.Scope> =>
  Effect.gen(function*() {
    const filter = MqttTopics.filterOf(options, connection.sharing)
    if (typeof filter !== "string") return yield* Effect.fail(filter)
    const session = of(connection.clientIdOf([connection.sharing, options.group, options.channel]), filter)
    const member: Member = { options, latch: Latch.makeUnsafe(false), isIdle: false, stopped: false }
    const desk = yield* Effect.acquireRelease(session.enter(member), (desk) => session.leave(desk, member))
    const lease = leaseOf(connection, desk, member)
    const deliveries = delivering(options)
    sink.open(lease)
    sink.ready()
    const deal = Effect.suspend((): Effect.Effect<void> => {
      const entries = desk.deal(member)
      if (entries === undefined) return desk.more(member)
      sink.polled()
      return sink.offer(lease, deliveries(entries))
    })
    // the link of a desk that somebody sits at is there
    const lost = desk.link?.lost ?? Exit.void
    const reading = Effect.whileLoop({ while: () => true, body: () => deal, step: () => {} })
    return yield* Effect.raceFirst(reading, lost).pipe(
      Effect.ensuring(Effect.sync(() => {
        member.stopped = true
        member.isIdle = false
      }))
    )
  })
