/**
 * The unacknowledged messages of one connection, in the order of their delivery, and the acknowledgements that may be sent.
 *
 * MQTT requires acknowledgements in the order of the messages (MQTT-4.6.0-2, MQTT-4.6.0-3), so the acknowledgement of a
 * settled message waits for all messages before it. The last acknowledgements of a connection also pass over unsettled
 * messages.
 */
import type { IPublishPacket } from "mqtt"
import type { Carrier } from "./Codec.ts"
import * as Codec from "./Codec.ts"

/** A received message and its state. The holder is the member that may settle it. */
export class InboundMessage implements Carrier {
  readonly packet: IPublishPacket
  readonly queue: AckQueue
  /** Grows by one for each message of a session; a redelivered message keeps its position. */
  readonly position: number
  holder: object | undefined = undefined
  done = false

  constructor(packet: IPublishPacket, queue: AckQueue, position: number) {
    this.packet = packet
    this.queue = queue
    this.position = position
  }

  get bytes(): number {
    return Codec.bodyOf(this.packet).length
  }
}

// the first byte of PUBACK and PUBREC; without a reason code they are successes, and two bytes long
const puback = 0x40
const pubrec = 0x50

/**
 * Drops the first `count` entries of a list, in pieces large enough to be worth the copy; returns how many of them are still
 * in the list.
 */
export const drop = (list: Array<unknown>, count: number): number => {
  if (count < list.length && (count < 512 || count * 2 < list.length)) return count
  list.splice(0, count)
  return 0
}

/** The state of a session in this process; it outlives connections. */
export class SessionState {
  /** The position of the next message. */
  next = 0
  /** Ids of QoS 2 packets that this client has confirmed and the server has not released: sent again, they are duplicates. */
  readonly received = new Set<number>()
  /** Ids of unacknowledged packets, and their positions: the server redelivers them with the same ids. */
  readonly positions = new Map<number, number>()

  forget(): void {
    this.received.clear()
    this.positions.clear()
  }
}

/** The delivered messages that the server has no acknowledgement for. */
export class AckQueue {
  private readonly entries: Array<InboundMessage> = []
  private head = 0
  private last = -1
  private readonly state: SessionState

  constructor(state: SessionState) {
    this.state = state
  }

  /** The position of an arriving message. */
  position({ dup, messageId }: IPublishPacket): number {
    const { state } = this
    const before = dup && messageId !== undefined ? state.positions.get(messageId) : undefined
    // a server that has lost its last seconds may reuse an id
    return this.last = before !== undefined && before > this.last ? before : state.next++
  }

  /** Stores the positions of unacknowledged messages when the connection ends, since they will be redelivered. */
  remember(): void {
    const { positions } = this.state
    positions.clear()
    for (let i = this.head; i < this.entries.length; i++) {
      const { packet, position } = this.entries[i]!
      if (packet.messageId !== undefined) positions.set(packet.messageId, position)
    }
  }

  /** Whether the packet is a QoS 2 duplicate that this client has already confirmed. */
  isReceived({ messageId, qos }: IPublishPacket): boolean {
    return qos === 2 && messageId !== undefined && this.state.received.has(messageId)
  }

  /** Adds a message; at QoS 0 there is nothing to acknowledge. */
  add(entry: InboundMessage): void {
    if (entry.packet.qos > 0) this.entries.push(entry)
    else entry.done = true
  }

  get unacknowledged(): number {
    return this.entries.length - this.head
  }

  /** The unsettled messages of a holder, in order. */
  heldBy(holder: object): ReadonlyArray<InboundMessage> {
    return this.entries.slice(this.head).filter((entry) => entry.holder === holder && !entry.done)
  }

  /** Marks all messages below a position as done. */
  reach(position: number): void {
    for (let i = this.head; i < this.entries.length && this.entries[i]!.position < position; i++) {
      this.entries[i]!.done = true
    }
  }

  /** The acknowledgements that may be sent now, or undefined if there are none. */
  acknowledge(): Buffer | undefined {
    const { entries, head } = this
    let next = head
    while (next < entries.length && entries[next]!.done) next++
    if (next === head) return undefined
    const bytes = Buffer.allocUnsafe(4 * (next - head))
    for (let i = head; i < next; i++) this.write(bytes, 4 * (i - head), entries[i]!)
    this.head = drop(entries, next)
    return bytes
  }

  /** The last acknowledgements: of all messages that are done, even behind unsettled ones. */
  finish(): Buffer | undefined {
    const left = this.entries.slice(this.head)
    const done = left.filter((entry) => entry.done)
    this.entries.length = 0
    this.entries.push(...left.filter((entry) => !entry.done))
    this.head = 0
    if (done.length === 0) return undefined
    const bytes = Buffer.allocUnsafe(4 * done.length)
    for (let i = 0; i < done.length; i++) this.write(bytes, 4 * i, done[i]!)
    return bytes
  }

  private write(bytes: Buffer, at: number, { packet }: InboundMessage): void {
    // a packet above QoS 0 has an id
    const id = packet.messageId!
    if (packet.qos === 2) this.state.received.add(id)
    bytes[at] = packet.qos === 2 ? pubrec : puback
    bytes[at + 1] = 2
    bytes.writeUInt16BE(id, at + 2)
  }
}
