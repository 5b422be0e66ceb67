/**
 * Lanes: messages of one lane run one at a time, in order. A lane is open only while one of its messages is suspended or waits;
 * later messages of the lane queue behind it.
 */
import type { Consumer } from "../../broker/Broker.ts"
import type { Delivery } from "../../message/Message.ts"
import { Fifo } from "./Fifo.ts"
import { type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"

/** The lanes of a worker. */
export class Lanes {
  /** Lanes whose next message may run. */
  readonly ready = new Fifo<Lane>()
  /** Retried messages without a lane. */
  readonly loose = new Fifo<Delivery>()
  private readonly kind: Consumer<never>["lanes"]

  constructor(kind: Consumer<never>["lanes"]) {
    this.kind = kind
  }

  /** Returns the id of a message's lane: its key, null for the lane of its partition, undefined if it has no lane. */
  idOf(delivery: Delivery): unknown {
    const { kind } = this
    if (kind._tag === "partition") return null
    if (kind._tag === "unordered") return undefined
    try {
      return delivery.key ?? (kind.keyless === "partition" ? null : undefined)
    } catch {
      // a message with an unreadable key keeps the order of its partition
      return null
    }
  }

  /** Returns the open lane in which a message must queue. */
  behind(delivery: Delivery): Lane | undefined {
    const { lanes } = leaseOf(delivery)
    return lanes.size === 0 ? undefined : lanes.get(this.idOf(delivery))
  }

  /** Returns or opens the lane that an unfinished message blocks; undefined if it needs none, or its lane has continued. */
  hold(delivery: Delivery, lane: Lane | "late" | undefined): Lane | undefined {
    if (lane === "late") return undefined
    if (lane !== undefined) return lane
    const id = this.idOf(delivery)
    if (id === undefined) return undefined
    const lease = leaseOf(delivery)
    const own: Lane = { lease, id, again: undefined, queue: new Fifo() }
    lease.lanes.set(id, own)
    return own
  }

  /** Lets the next message of a lane run, because the current one is finished. */
  proceed(lane: Lane | "late" | undefined): void {
    if (lane !== undefined && lane !== "late") this.ready.push(lane)
  }

  /** Runs a message again, before the messages queued behind it. `lane` is undefined if its lane has continued. */
  again(delivery: Delivery, lane: Lane | undefined): void {
    const other = lane === undefined ? this.behind(delivery) : undefined
    if (other !== undefined) return other.queue.unshift(delivery)
    const own = this.hold(delivery, lane)
    if (own === undefined) return this.loose.push(delivery)
    own.again = delivery
    this.ready.push(own)
  }

  /** Drops the messages of an ended lease. */
  forget(lease: LeaseState): void {
    this.ready.drop((lane) => lane.lease === lease)
    this.loose.drop((delivery) => leaseOf(delivery) === lease)
  }
}
