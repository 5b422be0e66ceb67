/**
 * A session at the server. All subscriptions of a group in this process share it: the server sees one client, and this
 * process deals the messages to members with capacity. So stopping one subscription cannot strand messages in a session of
 * its own.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Semaphore } from "effect"
import { SessionState } from "./AckQueue.ts"
import * as Connection from "./Connection.ts"
import { Inbox, type Member, type Schedule } from "./Inbox.ts"
import * as Errors from "./Errors.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** A session: at most one connection at a time. */
export class Session {
  private readonly resolved: ResolvedOptions
  private readonly schedule: Schedule
  private readonly clientId: string
  private readonly filter: string
  private readonly one = Semaphore.makeUnsafe(1)
  private readonly state = new SessionState()
  private inbox: Inbox | undefined

  constructor(resolved: ResolvedOptions, schedule: Schedule, clientId: string, filter: string) {
    this.resolved = resolved
    this.schedule = schedule
    this.clientId = clientId
    this.filter = filter
  }

  /** Joins the session's connection; the first member opens it. */
  enter(member: Member): Effect.Effect<Inbox, Failed> {
    const entering = this.one.withPermit(Effect.suspend((): Effect.Effect<Inbox | undefined, Failed> => {
      const { inbox, resolved } = this
      if (inbox !== undefined && inbox.connection?.ended === undefined) {
        if (inbox.connection?.isReplaced === true) return Effect.undefined
        if (resolved.sharing === "exclusive" && inbox.members.size > 0) {
          const { channel, group } = member.options
          return Effect.fail(Errors.unsupported(
            "consume",
            `The group ${group} of ${channel} has its one consumer already: with consumer.sharing "exclusive" a group has no other.`
          ))
        }
        inbox.members.add(member)
        return Effect.succeed(inbox)
      }
      return Effect.map(this.open(member), (opened) => {
        opened.members.add(member)
        return this.inbox = opened
      })
    }))
    // the server would end the first of two connections of one session
    return Effect.flatMap(entering, (found) =>
      found === undefined
        ? Effect.andThen(this.inbox?.empty.await ?? Effect.void, Effect.suspend(() => this.enter(member)))
        : Effect.succeed(found))
  }

  private open(member: Member): Effect.Effect<Inbox, Failed> {
    const { resolved, filter } = this
    const { channel, from, group, pattern } = member.options
    const isDurable = resolved.qos > 0
    const place = { ...resolved.place, clientId: this.clientId, channel, group }
    const inbox = new Inbox(
      resolved,
      this.schedule,
      this.state,
      pattern === undefined ? () => true : (topic) => pattern.match(topic) !== undefined
    )
    const properties = {
      receiveMaximum: resolved.receiveMaximum,
      ...(isDurable ? { sessionExpiryInterval: resolved.sessionExpiry } : {})
    }
    const options = { clientId: this.clientId, clean: !isDurable, properties, customHandleAcks: inbox.handleAcks }
    const subscribe = (connection: Connection.Connection) =>
      Effect.interruptible(Effect.callback<void, Failed>((resume) => {
        if (!connection.connack.sessionPresent) this.state.forget()
        inbox.connection = connection
        connection.onEnd(() => inbox.queue.remember())
        const off = connection.onEnd((error) => resume(Effect.fail(error)))
        const { qos } = resolved
        let isDealing = false
        // the session exists and its messages arrive: deal them, since the answer follows behind them
        inbox.whenCrowded(() => {
          isDealing = true
          resume(Effect.void)
        })
        // retained messages go to a new session that reads from the earliest, and to no shared one
        connection.client.subscribe(
          filter,
          { qos, rap: true, rh: from === "earliest" ? 1 : 2 },
          (error, _granted, suback) => {
            // the connection has ended, and its own error says why
            if (error && suback === undefined && connection.client.stream.destroyed) return
            off()
            const code = suback?.granted.find((each) => Number(each) >= 128)
            const refused = code === undefined
              ? error
              : new Errors.Answered(Number(code), suback?.properties?.reasonString)
            if (!refused) return resume(Effect.void)
            const failure = Errors.fromUnknown(refused, "consume", place)
            resume(Effect.fail(failure))
            if (!isDealing) return
            // the members are already reading, so they get this error as the end of the connection
            connection.end(failure)
            connection.client.stream.destroy()
          }
        )
        return Effect.sync(off)
      })).pipe(
        Effect.timeoutOrElse({
          duration: resolved.connectTimeout,
          orElse: () =>
            Effect.fail(Errors.fromUnknown(
              new Error(`the subscription got no answer within ${resolved.connectTimeout} ms: the connection ended`),
              "consume",
              place
            ))
        }),
        Effect.onError(() => Connection.close(connection))
      )
    return Effect.flatMap(
      Effect.interruptible(Connection.open(resolved, options, "consume", (client) => inbox.prepare(client))),
      (connection) => Effect.as(subscribe(connection), inbox)
    )
  }

  /** Leaves the session; the last member disconnects, and the session stays at the server. */
  leave(inbox: Inbox, member: Member): Effect.Effect<void> {
    return this.one.withPermit(Effect.suspend(() => {
      inbox.leave(member)
      if (inbox.members.size > 0) return Effect.void
      const gone = Effect.sync(() => {
        if (this.inbox === inbox) this.inbox = undefined
        inbox.empty.openUnsafe()
      })
      return Effect.ensuring(inbox.connection === undefined ? Effect.void : Connection.close(inbox.connection), gone)
    }))
  }
}
