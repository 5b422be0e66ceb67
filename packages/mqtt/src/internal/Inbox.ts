/**
 * One connection of a session: takes messages from mqtt.js before it acknowledges them, deals them to whoever has room, and
 * tells the server what is done.
 */
import { BrokerError, type Driver } from "@millrace/core"
import { type Effect, Exit, Latch } from "effect"
import type { IPublishPacket, MqttClient as Client } from "mqtt"
import { AckQueue, drop, InboundMessage, type SessionState } from "./AckQueue.ts"
import * as Connection from "./Connection.ts"
import type { ResolvedOptions } from "./Options.ts"

type Failed = BrokerError.BrokerError

/** What waits here for room before the socket is left to fill; at QoS 0 nothing else bounds it. */
const most = { messages: 2048, bytes: 8 * 1024 * 1024 }

/** Whoever of a group takes messages. */
export interface Member {
  readonly options: Driver.ConsumeOptions
  readonly latch: Latch.Latch
  isIdle: boolean
  stopped: boolean
}

/** Runs a task after what happens now. */
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
  /** What nobody has, in order. */
  private readonly pool: Array<InboundMessage> = []
  private from = 0
  private bytes = 0
  private isWaking = false
  private crowded: () => void = () => {}
  /** How many messages wait here; as many as were agreed, else the reader would stop for a server that keeps to it. */
  private readonly room: number
  private client: Client | undefined
  /** The one more than was agreed, which waits here, the last of all. */
  private surplus: InboundMessage | undefined
  /** Lets mqtt.js's reader go on; an error makes it do so without an acknowledgement. */
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
      // while its reader waits for room here, mqtt.js cannot see the answer to its ping, and the server wants the next in time
      client.sendPing()
      client.reschedulePing(true)
    }
    client.on("packetreceive", (packet) => {
      if (packet.cmd === "pubrel" && packet.messageId !== undefined) this.state.received.delete(packet.messageId)
    })
  }

  /** At QoS 2 mqtt.js would tell the server before anybody has the message. */
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

  /** Lets mqtt.js read on. A server may send more than was agreed, as Mosquitto 2.0 does with each acknowledgement it gets. */
  private goOn(): void {
    const { waiting } = this
    // the reader stops at one more than was agreed: behind the last that was, the answer to a ping may stand
    if (waiting === undefined || this.queue.unacknowledged > this.resolved.receiveMaximum) return
    this.waiting = undefined
    if (this.surplus !== undefined) {
      this.surplus = undefined
      this.wake()
    }
    waiting(Connection.held)
  }

  /**
   * Calls when more has come than there is room for. A server sends what it has for the session before it answers the
   * subscription, and mqtt.js reads one packet after the other: then the answer comes only when something is dealt.
   */
  whenCrowded(crowded: () => void): void {
    this.crowded = crowded
    if (this.waiting !== undefined) crowded()
  }

  // ---- to the members

  private get left(): number {
    return this.pool.length - this.from
  }

  /** How many may be dealt. */
  private get ready(): number {
    return this.surplus === undefined ? this.left : this.left - 1
  }

  /** Once for all that comes in one turn. */
  wake(): void {
    if (this.isWaking) return
    this.isWaking = true
    this.schedule(() => {
      this.isWaking = false
      if (this.ready === 0) return
      for (const { isIdle, latch } of this.members) if (isIdle) latch.openUnsafe()
    })
  }

  /** What a member gets now: its share of what nobody has, as others wait for messages too. */
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

  /** Completes when there may be something to deal. */
  more(member: Member): Effect.Effect<void> {
    member.isIdle = true
    member.latch.closeUnsafe()
    if (this.ready > 0) this.wake()
    return member.latch.await
  }

  /** What a member had and did not settle goes to the others, before what came later. */
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

  /** Messages of a member are done, or given back. */
  settle(member: Member, batch: ReadonlyArray<Driver.Settled>): Effect.Effect<void, Failed> {
    if (this.isOver) return Exit.fail(this.lost())
    const released: Array<InboundMessage> = []
    for (const { delivery, outcome } of batch) {
      const entry: unknown = delivery.native
      // told twice, or of another connection
      if (!(entry instanceof InboundMessage) || entry.queue !== this.queue || entry.holder !== member) continue
      if (outcome._tag === "Release") released.push(entry)
      else entry.done = true
    }
    this.giveBack(released)
    this.flush()
    return Exit.void
  }

  /** All of the messages below a position are done. */
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
    // mqtt.js writes whole packets in one turn, so these stand between them
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
