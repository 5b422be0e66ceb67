/**
 * State of one lease: its received messages, the settled ones among them, and the commit or settle calls to the broker.
 */
import { type Clock, Effect, Exit, Latch } from "effect"
import type { BrokerError } from "../../driver/BrokerError.ts"
import type { Lease, Range, Settled } from "../../driver/Driver.ts"
import type { Delivery } from "../../message/Message.ts"
import type { Outcome } from "../../message/Outcome.ts"
import { readable } from "../../message/readable.ts"
import { isDone } from "../../pipeline/Eager.ts"
import { Fifo } from "./Fifo.ts"
import { called } from "./guard.ts"

// the most messages that one commit examines: settled messages beyond are redelivered after a crash
const mostBeyond = 65_536

/**
 * The messages of one `offer`. A delivery's `slot` is its batch and its `index` its place there.
 *
 * A class, because V8 may treat the objects of a literal as long-lived, and would then keep all messages of a finished batch
 * until the next full garbage collection.
 */
export class Batch {
  readonly lease: LeaseState
  readonly deliveries: ReadonlyArray<Delivery>
  /** 1 if the delivery is settled or released. */
  readonly flags: Uint8Array
  /** Number of messages that have left the intake. */
  taken = 0
  done = 0
  /** Number of messages at the start that are all settled. */
  prefix = 0

  constructor(lease: LeaseState, deliveries: ReadonlyArray<Delivery>) {
    this.lease = lease
    this.deliveries = deliveries
    this.flags = new Uint8Array(deliveries.length)
  }
}

/** Messages that run one at a time, in order. A lane exists only while one of them is suspended or waits. */
export interface Lane {
  readonly lease: LeaseState
  readonly id: unknown
  /** The message that runs again before the queue continues. */
  again: Delivery | undefined
  readonly queue: Fifo<Delivery>
}

/** The state of one lease. */
export class LeaseState {
  readonly lease: Lease
  readonly lanes = new Map<unknown, Lane>()
  /** No message of the lease may start any more. */
  stopped = false
  /** No message of the lease may be settled any more. */
  lost = false
  /** Number of suspended handlers, durable effects and dead letters in progress. */
  busy = 0
  unsettled = 0
  /** Number of messages settled so far. */
  settled = 0
  bytes = 0
  /** The engine has paused the driver. */
  paused = false
  /** A pause or resume of the driver is in progress. */
  turning = false
  /** The worker will report this lease to the broker at the end of the turn. */
  dirty = false
  /** Unix time in milliseconds since which a call waits for the broker's answer. */
  settlingSince: number | undefined
  private readonly batches = new Fifo<Batch>()
  // number of settled messages before the first unsettled one
  private passed = 0
  private position = -1
  private confirmed = -1
  /** Number of messages settled when the last commit began. */
  private reported = 0
  private outcomes: Array<Settled> = []
  private telling = false
  private readonly quiet = Latch.makeUnsafe(true)
  private readonly clear = Latch.makeUnsafe(true)
  private readonly slack = Latch.makeUnsafe(true)
  private readonly still = Latch.makeUnsafe(true)
  private readonly room = Latch.makeUnsafe(true)
  private readonly span: number
  private readonly clock: Clock.Clock
  private readonly told: () => void

  /**
   * `span`: the most messages settled beyond an unsettled one, for brokers that settle by position. `told` is called when the
   * broker has confirmed a commit or settle call.
   */
  constructor(lease: Lease, span: number, clock: Clock.Clock, told: () => void) {
    this.told = told
    this.lease = lease
    this.span = lease.commit === undefined ? Number.POSITIVE_INFINITY : span
    this.clock = clock
  }

  take(deliveries: ReadonlyArray<Delivery>): Batch {
    const batch = new Batch(this, deliveries)
    for (let i = 0; i < deliveries.length; i++) {
      const delivery = deliveries[i]!
      delivery.slot = batch
      delivery.index = i
      this.bytes += delivery.payload.length
    }
    this.unsettled += deliveries.length
    this.clear.closeUnsafe()
    this.batches.push(batch)
    return batch
  }

  /** Marks a delivery as settled; false if it was settled before, or if the lease is lost. */
  settle(delivery: Delivery, batch: Batch, outcome: Outcome): boolean {
    if (this.lost || batch.flags[delivery.index] === 1) return false
    batch.flags[delivery.index] = 1
    batch.done++
    this.unsettled--
    this.settled++
    this.bytes -= delivery.payload.length
    if (this.lease.settle !== undefined) this.outcomes.push({ delivery, outcome })
    if (this.unsettled === 0) this.clear.openUnsafe()
    return true
  }

  /** Releases a delivery to a broker that settles each message; other brokers redeliver all messages beyond the last commit. */
  release(delivery: Delivery, outcome: Outcome): void {
    const batch = delivery.slot as Batch
    if (this.lease.settle === undefined || batch.flags[delivery.index] === 1) return
    batch.flags[delivery.index] = 1
    this.outcomes.push({ delivery, outcome })
  }

  /** Lists the unsettled messages, in order of position. */
  *open(): Generator<Delivery> {
    for (const { deliveries, flags } of this.batches) {
      for (let k = 0; k < deliveries.length; k++) if (flags[k] === 0) yield deliveries[k]!
    }
  }

  /** The first unsettled message's publish time in Unix milliseconds; undefined if there is none, or the driver cannot tell. */
  get oldestPublished(): number | undefined {
    for (const delivery of this.open()) return readable(() => delivery.timestamp, undefined)
    return undefined
  }

  began(): void {
    this.busy++
    this.quiet.closeUnsafe()
  }

  ended(): void {
    if (--this.busy === 0) this.quiet.openUnsafe()
  }

  /** For brokers that settle by position: the confirmed position; all messages below it are done. */
  get committed(): number | undefined {
    return this.confirmed < 0 ? undefined : this.confirmed
  }

  /** Completes when no handler, durable effect or dead letter of the lease is in progress. */
  get whenQuiet(): Effect.Effect<void> {
    return this.quiet.await
  }

  /** Completes when all received messages are settled, or the lease has ended. */
  get whenClear(): Effect.Effect<void> {
    return this.clear.isOpen() ? Exit.void : this.clear.await
  }

  /** Completes while fewer than `span` messages are settled beyond an unsettled one, else at half: a crash redelivers them. */
  get whenSlack(): Effect.Effect<void> {
    this.advance()
    if (this.ahead >= this.span) this.slack.closeUnsafe()
    return this.slack.isOpen() ? Exit.void : this.slack.await
  }

  private get ahead(): number {
    return this.settled - this.passed
  }

  /** Completes when the intake of this lease is open. */
  get whenRoom(): Effect.Effect<void> {
    return this.room.isOpen() ? Exit.void : this.room.await
  }

  closeRoom(): void {
    this.room.closeUnsafe()
  }

  openRoom(): void {
    this.room.openUnsafe()
  }

  /** Completes when no call to the broker is in progress. */
  get whenStill(): Effect.Effect<void> {
    return this.still.isOpen() ? Exit.void : this.still.await
  }

  /** Ends the lease, and resumes a driver that waits for it. */
  end(): void {
    this.stopped = true
    this.lost = true
    this.lanes.clear()
    this.clear.openUnsafe()
    this.slack.openUnsafe()
    this.room.openUnsafe()
  }

  /** Advances to the lowest position below which all messages are settled. */
  private advance(): void {
    for (let batch = this.batches.peek(); batch !== undefined; batch = this.batches.peek()) {
      const { deliveries, flags, prefix } = batch
      if (batch.done < deliveries.length) {
        while (flags[batch.prefix] === 1) this.position = deliveries[batch.prefix++]!.at + 1
        this.passed += batch.prefix - prefix
        return
      }
      this.position = deliveries[deliveries.length - 1]!.at + 1
      this.passed += deliveries.length - prefix
      this.batches.shift()
    }
  }

  /**
   * Reports newly settled messages to the broker: one call at a time; messages settled in the meantime join the next call.
   * Returns an Exit if there is nothing to wait for.
   */
  tell(): Effect.Effect<void, BrokerError> {
    this.dirty = false
    if (this.telling || this.lost) return Exit.void
    this.telling = true
    const call = this.next()
    if (call === undefined || isDone(call)) {
      this.telling = false
      this.openSlack()
      return call?._tag === "Success" ? this.tell() : call ?? Exit.void
    }
    this.settlingSince = this.clock.currentTimeMillisUnsafe()
    this.still.closeUnsafe()
    this.openSlack()
    return Effect.flatMap(
      Effect.onExitPrimitive(call, () => {
        this.telling = false
        this.settlingSince = undefined
        this.still.openUnsafe()
        return undefined
      }),
      () => this.tell()
    )
  }

  /** Opens `slack`, only after a call has begun: the driver resumes immediately and may offer, settle and report meanwhile. */
  private openSlack(): void {
    if (this.ahead <= this.span / 2) this.slack.openUnsafe()
  }

  /** The position to commit; for leases that keep ranges, this may be the position of a first, unsettled message. */
  private get reached(): number {
    if (this.position >= 0 || this.lease.keepsBeyond !== true) return this.position
    return this.settled === 0 ? -1 : this.batches.peek()?.deliveries[0]?.at ?? -1
  }

  /** Lists the settled ranges beyond the first unsettled message. */
  private readonly beyond = (): ReadonlyArray<Range> => {
    const ranges: Array<Range> = []
    let from = -1
    let next = -1
    let left = mostBeyond
    for (const { deliveries, flags, prefix } of this.batches) {
      for (let k = prefix; k < deliveries.length; k++) {
        const { at } = deliveries[k]!
        if (flags[k] === 1) {
          if (from < 0) from = at
        } else if (from >= 0) {
          ranges.push({ from, to: next })
          from = -1
        }
        next = at + 1
        if (--left === 0) break
      }
      if (left === 0) break
    }
    if (from >= 0) ranges.push({ from, to: next })
    return ranges
  }

  private next(): Effect.Effect<void, BrokerError> | undefined {
    this.advance()
    const { commit, settle } = this.lease
    if (commit !== undefined) {
      const position = this.reached
      if (position < 0 || position < this.confirmed) return undefined
      if (position === this.confirmed && (this.lease.keepsBeyond !== true || this.reported === this.settled)) {
        return undefined
      }
      this.reported = this.settled
      return Effect.mapEager(called(() => commit(position, this.beyond)), () => {
        this.confirmed = position
        this.told()
      })
    }
    if (settle !== undefined && this.outcomes.length > 0) {
      const batch = this.outcomes
      this.outcomes = []
      const call = Effect.mapErrorEager(called(() => settle(batch)), (error) => {
        // repeated with the next call: brokers accept the same outcome twice
        this.outcomes = batch.concat(this.outcomes)
        return error
      })
      return Effect.mapEager(call, this.told)
    }
    return undefined
  }
}

/** Returns the lease of a delivery. */
export const leaseOf = (delivery: Delivery): LeaseState => (delivery.slot as Batch).lease
