/**
 * A session at the server, which all subscriptions of a group in this process share: the server knows one reader, and here
 * its messages are dealt to whoever has room. So nobody who stops leaves messages behind under a name that never comes back.
 */
import type { BrokerError } from "@millrace/core"
import { Effect, Semaphore } from "effect"
import { Memory } from "./MqttBook.ts"
import * as MqttClient from "./MqttClient.ts"
import { Desk, type Member, type Schedule } from "./MqttDesk.ts"
import * as MqttError from "./MqttError.ts"
import type { Connection } from "./MqttOptions.ts"

type Failed = BrokerError.BrokerError

/** A session: at most one connection at a time. */
export class Session {
  private readonly connection: Connection
  private readonly schedule: Schedule
  private readonly clientId: string
  private readonly filter: string
  private readonly one = Semaphore.makeUnsafe(1)
  private readonly memory = new Memory()
  private desk: Desk | undefined

  constructor(connection: Connection, schedule: Schedule, clientId: string, filter: string) {
    this.connection = connection
    this.schedule = schedule
    this.clientId = clientId
    this.filter = filter
  }

  /** Takes a seat at the connection, which the first one opens. */
  enter(member: Member): Effect.Effect<Desk, Failed> {
    return this.one.withPermit(Effect.suspend(() => {
      const { connection, desk } = this
      if (desk !== undefined && desk.link?.ended === undefined) {
        if (connection.sharing === "exclusive" && desk.members.size > 0) {
          const { channel, group } = member.options
          return Effect.fail(MqttError.unsupported(
            "consume",
            `The group ${group} of ${channel} has its one consumer already: with consumer.sharing "exclusive" a group has no other.`
          ))
        }
        desk.members.add(member)
        return Effect.succeed(desk)
      }
      return Effect.map(this.open(member), (opened) => {
        opened.members.add(member)
        return this.desk = opened
      })
    }))
  }

  private open(member: Member): Effect.Effect<Desk, Failed> {
    const { connection, filter } = this
    const { channel, from, group, pattern } = member.options
    const isDurable = connection.qos > 0
    const place = { ...connection.place, clientId: this.clientId, channel, group }
    const desk = new Desk(
      connection,
      this.schedule,
      this.memory,
      pattern === undefined ? () => true : (topic) => pattern.match(topic) !== undefined
    )
    const properties = {
      receiveMaximum: connection.receiveMaximum,
      ...(isDurable ? { sessionExpiryInterval: connection.sessionExpiry } : {})
    }
    const options = { clientId: this.clientId, clean: !isDurable, properties, customHandleAcks: desk.handleAcks }
    const subscribe = (link: MqttClient.Link) =>
      Effect.interruptible(Effect.callback<void, Failed>((resume) => {
        if (!link.connack.sessionPresent) this.memory.forget()
        desk.link = link
        link.onEnd(() => desk.book.remember())
        const off = link.onEnd((error) => resume(Effect.fail(error)))
        const { qos } = connection
        let isDealing = false
        // the session is there and its messages come: they are dealt, and the answer follows behind them
        desk.whenCrowded(() => {
          isDealing = true
          resume(Effect.void)
        })
        // what is retained comes to a new session that wants all there is, and to no shared one
        link.client.subscribe(
          filter,
          { qos, rap: true, rh: from === "earliest" ? 1 : 2 },
          (error, _granted, suback) => {
            // the connection has ended, and its end knows why
            if (error && suback === undefined && link.client.stream.destroyed) return
            off()
            const code = suback?.granted.find((each) => Number(each) >= 128)
            const refused = code === undefined
              ? error
              : new MqttError.Answered(Number(code), suback?.properties?.reasonString)
            if (!refused) return resume(Effect.void)
            const failure = MqttError.fromUnknown(refused, "consume", place)
            resume(Effect.fail(failure))
            if (!isDealing) return
            // whoever reads already hears of it as of any other end
            link.end(failure)
            link.client.stream.destroy()
          }
        )
        return Effect.sync(off)
      })).pipe(
        Effect.timeoutOrElse({
          duration: connection.connectTimeout,
          orElse: () =>
            Effect.fail(MqttError.fromUnknown(
              new Error(`the subscription got no answer within ${connection.connectTimeout} ms: the connection ended`),
              "consume",
              place
            ))
        }),
        Effect.onError(() => MqttClient.close(link))
      )
    return Effect.flatMap(
      Effect.interruptible(MqttClient.open(connection, options, "consume", (client) => desk.prepare(client))),
      (link) => Effect.as(subscribe(link), desk)
    )
  }

  /** Gives a seat up; the last one says goodbye, and the session stays at the server. */
  leave(desk: Desk, member: Member): Effect.Effect<void> {
    return this.one.withPermit(Effect.suspend(() => {
      desk.leave(member)
      if (desk.members.size > 0) return Effect.void
      if (this.desk === desk) this.desk = undefined
      return desk.link === undefined ? Effect.void : MqttClient.close(desk.link)
    }))
  }
}
