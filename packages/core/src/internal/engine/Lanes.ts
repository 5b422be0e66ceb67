/**
 * Lanes: messages of one lane run one at a time, in order. A lane is open only while a message of it is suspended or waits; what
 * arrives meanwhile queues behind it.
 */
import type { Consumer } from "../../broker/Broker.ts"
import type { Delivery } from "../../message/Message.ts"
import { Fifo } from "./Fifo.ts"
import { type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"

/** The lanes of a worker. */
export class Lanes {
  /** Lanes whose next message may run. */
  readonly ready = new Fifo<Lane>()
  /** Messages without a lane that run again. */
  readonly loose = new Fifo<Delivery>()
  private readonly kind: Consumer<never>["lanes"]

  constructor(kind: Consumer<never>["lanes"]) {
    this.kind = kind
  }

  /** The id of a message's lane: its key, null for the lane of its partition, undefined where it has none. */
  idOf(delivery: Delivery): unknown {
    const { kind } = this
    if (kind._tag === "partition") return null
    if (kind._tag === "unordered") return undefined
    try {
      return delivery.key ?? (kind.keyless === "partition" ? null : undefined)
    } catch {
      // a message whose key the driver cannot read keeps the order of its partition
      return null
    }
  }

  /** The open lane that a message must queue in. */
  behind(delivery: Delivery): Lane | undefined {
    const { lanes } = leaseOf(delivery)
    return lanes.size === 0 ? undefined : lanes.get(this.idOf(delivery))
  }

  /** The lane that an unfinished message keeps shut; undefined where it needs none, or its lane has gone on. */
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

  /** The message of a lane is finished: the next one may run. */
  proceed(lane: Lane | "late" | undefined): void {
    if (lane !== undefined && lane !== "late") this.ready.push(lane)
  }

  /** Runs a message again, before what waits behind it. `lane` is undefined where its lane has gone on. */
  again(delivery: Delivery, lane: Lane | undefined): void {
    const other = lane === undefined ? this.behind(delivery) : undefined
    if (other !== undefined) return other.queue.unshift(delivery)
    const own = this.hold(delivery, lane)
    if (own === undefined) return this.loose.push(delivery)
    own.again = delivery
    this.ready.push(own)
  }

  /** A lease has ended: nothing is kept of its messages. */
  forget(lease: LeaseState): void {
    this.ready.drop((lane) => lane.lease === lease)
    this.loose.drop((delivery) => leaseOf(delivery) === lease)
  }
}
