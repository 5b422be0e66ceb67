/**
 * One connection of a session: takes messages from mqtt.js before it acknowledges them, deals them to members with capacity,
 * and sends the acknowledgements.
 */
import { BrokerError, type Driver } from "@millrace/core"
import { type Effect, Exit, Latch } from "effect"
import type { IPublishPacket, MqttClient as Client } from "mqtt"
import { AckQueue, drop, InboundMessage, type SessionState } from "./AckQueue.ts"
import * as Connection from "./Connection.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/**
 * The limits of the pool of waiting messages, beyond which the socket is no longer read; at QoS 0 there is no other bound.
 */
const most = { messages: 2048, bytes: 8 * 1024 * 1024 }

/** A consumer of the group in this process. */
export interface Member {
  readonly options: Driver.ConsumeOptions
  readonly latch: Latch.Latch
  isIdle: boolean
  stopped: boolean
}

/** Runs a task after the current turn. */
export type Schedule = (task: () => void) => void

/** One connection of a session, from its beginning to its end. */
export class Inbox {
  readonly queue: AckQueue
  readonly members = new Set<Member>()
  /** Open when its last member has left. */
  readonly empty = Latch.makeUnsafe(false)
  /** Set as soon as the server has accepted the connection. */
  connection: Connection.Connection | undefined
  private readonly resolved: ResolvedOptions
  private readonly schedule: Schedule
  private readonly state: SessionState
  private readonly fits: (topic: string) => boolean
  /** Messages that no member holds, in order. */
  private readonly pool: Array<InboundMessage> = []
  private from = 0
  private bytes = 0
  private isWaking = false
  private crowded: () => void = () => {}
  /**
   * The most waiting messages; at least one above Receive Maximum, or the reader would stop for a server that respects it.
   */
  private readonly room: number
  private client: Client | undefined
  /** The packet beyond Receive Maximum; it is held back, last in the pool, until others are acknowledged. */
  private surplus: InboundMessage | undefined
  /** Makes mqtt.js's reader go on; an error makes it skip the acknowledgement. */
  private waiting: ((error: Error) => void) | undefined

  constructor(resolved: ResolvedOptions, schedule: Schedule, state: SessionState, fits: (topic: string) => boolean) {
    this.resolved = resolved
    this.schedule = schedule
    this.state = state
    this.fits = fits
    this.room = Math.max(most.messages, resolved.receiveMaximum + 1)
    this.queue = new AckQueue(state)
  }

  // ---- from the server

  /** Takes messages from mqtt.js before it acknowledges them. */
  prepare(client: Client): void {
    this.client = client
    client.handleMessage = (packet, done) => {
      this.take(packet, done)
    }
    const timedOut = client.onKeepaliveTimeout
    client.onKeepaliveTimeout = () => {
      if (this.waiting === undefined) return timedOut.call(client)
      // while its reader waits here, mqtt.js cannot see the answer to its ping, and the server expects the next ping in time
      client.sendPing()
      client.reschedulePing(true)
    }
    client.on("packetreceive", (packet) => {
      if (packet.cmd === "pubrel" && packet.messageId !== undefined) this.state.received.delete(packet.messageId)
    })
  }

  /** Holds back PUBREC: at QoS 2 mqtt.js would send it before any member has the message. */
  readonly handleAcks: NonNullable<Connection.ClientOptions["customHandleAcks"]> = (
    _topic,
    _body,
    packet: IPublishPacket,
    done
  ) => {
    if (packet.qos !== 2) done(0)
    else this.take(packet, done)
  }

  private take(packet: IPublishPacket, done: (error: Error) => void): void {
    const { queue } = this
    const entry = new InboundMessage(packet, queue, queue.position(packet))
    queue.add(entry)
    if (queue.isReceived(packet) || !this.fits(packet.topic)) {
      entry.done = true
      this.flush()
    } else {
      this.pool.push(entry)
      this.bytes += entry.bytes
      if (queue.unacknowledged > this.resolved.receiveMaximum) this.surplus = entry
      this.wake()
    }
    this.waiting = done
    if (this.left < this.room && this.bytes < most.bytes) this.goOn()
    if (this.waiting !== undefined) this.crowded()
  }

  /** Lets mqtt.js read on. A server may exceed Receive Maximum, as Mosquitto 2.0 does with each acknowledgement it gets. */
  private goOn(): void {
    const { waiting } = this
    // the reader stops one packet above Receive Maximum: the answer to a ping may follow the last permitted packet
    if (waiting === undefined || this.queue.unacknowledged > this.resolved.receiveMaximum) return
    this.waiting = undefined
    if (this.surplus !== undefined) {
      this.surplus = undefined
      this.wake()
    }
    waiting(Connection.held)
  }

  /**
   * Calls back when the pool is full. A server sends the session's messages before it answers the subscription, and mqtt.js
   * reads one packet after the other: then the answer arrives only after some messages are dealt.
   */
  whenCrowded(crowded: () => void): void {
    this.crowded = crowded
    if (this.waiting !== undefined) crowded()
  }

  // ---- to the members

  private get left(): number {
    return this.pool.length - this.from
  }

  /** The number of messages that may be dealt. */
  private get ready(): number {
    return this.surplus === undefined ? this.left : this.left - 1
  }

  /** Wakes idle members once for all messages that arrive in one turn. */
  wake(): void {
    if (this.isWaking) return
    this.isWaking = true
    this.schedule(() => {
      this.isWaking = false
      if (this.ready === 0) return
      for (const { isIdle, latch } of this.members) if (isIdle) latch.openUnsafe()
    })
  }

  /** Deals to a member its share of the waiting messages, as other idle members wait for messages too. */
  deal(member: Member): ReadonlyArray<InboundMessage> | undefined {
    member.isIdle = false
    const { ready } = this
    if (ready === 0 || member.stopped) return undefined
    let idle = 1
    for (const { isIdle } of this.members) if (isIdle) idle++
    const count = Math.min(member.options.batch, Math.ceil(ready / idle))
    const entries: Array<InboundMessage> = []
    let bytes = 0
    while (entries.length < count) {
      const entry = this.pool[this.from]!
      bytes += entry.bytes
      if (entries.length > 0 && bytes > member.options.bytes) break
      this.from++
      this.bytes -= entry.bytes
      entry.holder = member
      entries.push(entry)
    }
    this.from = drop(this.pool, this.from)
    if (this.left < this.room / 2 && this.bytes < most.bytes / 2) this.goOn()
    return entries
  }

  /** Completes when there may be messages to deal. */
  more(member: Member): Effect.Effect<void> {
    member.isIdle = true
    member.latch.closeUnsafe()
    if (this.ready > 0) this.wake()
    return member.latch.await
  }

  /** Returns unsettled messages of a member to the pool, before later ones. */
  private giveBack(entries: ReadonlyArray<InboundMessage>): void {
    if (entries.length === 0) return
    const rest = this.pool.slice(this.from)
    for (const entry of entries) {
      entry.holder = undefined
      this.bytes += entry.bytes
    }
    const all = rest.concat(entries).sort((a, b) => a.position - b.position)
    this.pool.splice(0, this.pool.length, ...all)
    this.from = 0
    this.wake()
  }

  // ---- from the members

  private lost(): Failed {
    return BrokerError.make({
      system: "mqtt",
      operation: "settle",
      reason: "Lost",
      message:
        `The connection to ${this.resolved.place.server} that the messages came by has ended: what was not acknowledged comes again.`,
      cause: this.connection?.ended
    })
  }

  /** Settles messages of a member: each is done or released. */
  settle(member: Member, batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    if (this.isOver) return Exit.fail(this.lost())
    const released: Array<InboundMessage> = []
    for (const { delivery, outcome } of batch) {
      const entry: unknown = delivery.native
      // settled before, or by another connection
      if (!(entry instanceof InboundMessage) || entry.queue !== this.queue || entry.holder !== member) continue
      if (outcome._tag === "Release") released.push(entry)
      else entry.done = true
    }
    this.giveBack(released)
    this.flush()
    return Exit.void
  }

  /** Marks all messages below a position as done. */
  commit(position: number): Effect.Effect<void, Failed> {
    if (this.isOver) return Exit.fail(this.lost())
    this.queue.reach(position)
    this.flush()
    return Exit.void
  }

  private get isOver(): boolean {
    return this.connection === undefined || this.connection.ended !== undefined
  }

  private flush(): void {
    const bytes = this.queue.acknowledge()
    if (bytes === undefined) return
    this.tell(bytes)
    if (this.left < this.room / 2 && this.bytes < most.bytes / 2) this.goOn()
  }

  private tell(bytes: Buffer | undefined): void {
    // mqtt.js writes whole packets in one turn, so these bytes go between its packets
    if (bytes !== undefined && this.client !== undefined && !this.client.stream.destroyed) {
      this.client.stream.write(bytes)
    }
  }

  leave(member: Member): void {
    this.members.delete(member)
    if (this.members.size > 0) this.giveBack(this.queue.heldBy(member))
    else this.tell(this.isOver ? undefined : this.queue.finish())
  }
}
