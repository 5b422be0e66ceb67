/**
 * The books of one lease: what was taken in, what is settled, and what the broker has been told of it.
 */
import { Effect, Exit, Latch } from "effect"
import type { BrokerError } from "../broker/BrokerError.ts"
import type { Lease, Settled } from "../broker/Driver.ts"
import type { Delivery } from "../model/Message.ts"
import type { Outcome } from "../model/Outcome.ts"
import { isDone } from "../pipeline/Eager.ts"
import { Fifo } from "./Fifo.ts"

/**
 * What was offered at once. A delivery's `slot` is its batch and its `index` its place there.
 *
 * A class, for V8 may take the objects of a literal for long-lived ones, and then all messages of a batch that is done stay
 * until the next full collection.
 */
export class Batch {
  readonly tenure: Tenure
  readonly deliveries: ReadonlyArray<Delivery>
  /** 1 where the delivery is settled. */
  readonly flags: Uint8Array
  done = 0
  /** Everything before it is settled. */
  prefix = 0

  constructor(tenure: Tenure, deliveries: ReadonlyArray<Delivery>) {
    this.tenure = tenure
    this.deliveries = deliveries
    this.flags = new Uint8Array(deliveries.length)
  }
}

/** Messages that must not run at once: one at a time, in order. It exists only while one of them is suspended or waits. */
export interface Lane {
  readonly tenure: Tenure
  readonly id: unknown
  /** What runs again before the queue goes on. */
  again: Delivery | undefined
  readonly queue: Fifo<Delivery>
}

/** The book of one lease. */
export class Tenure {
  readonly lease: Lease
  readonly lanes = new Map<unknown, Lane>()
  /** Nothing of it may start any more. */
  stopped = false
  /** Nothing of it may be settled any more. */
  lost = false
  /** Handlers that are suspended, durable effects and dead letters that are awaited. */
  busy = 0
  unsettled = 0
  /** Messages settled so far. */
  settled = 0
  bytes = 0
  dirty = false
  private readonly batches = new Fifo<Batch>()
  // of those settled, the ones before the first that is not
  private passed = 0
  private position = -1
  private told = -1
  private outcomes: Array<Settled> = []
  private telling = false
  private readonly quiet = Latch.makeUnsafe(true)
  private readonly clear = Latch.makeUnsafe(true)
  private readonly slack = Latch.makeUnsafe(true)
  private readonly still = Latch.makeUnsafe(true)
  private readonly span: number

  /** `span`: the most messages settled beyond one that is not, where the broker settles by position. */
  constructor(lease: Lease, span: number) {
    this.lease = lease
    this.span = lease.commit === undefined ? Number.POSITIVE_INFINITY : span
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

  /** Marks a delivery as settled; false where it was already, or where the lease is lost. */
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

  /** Gives a delivery back to a broker that settles each message; others deliver again what no commit passed. */
  release(delivery: Delivery, outcome: Outcome): void {
    const batch = delivery.slot as Batch
    if (this.lease.settle === undefined || this.lost || batch.flags[delivery.index] === 1) return
    batch.flags[delivery.index] = 1
    this.outcomes.push({ delivery, outcome })
  }

  /** What is not settled, in order of position. */
  *open(): Generator<Delivery> {
    for (const { deliveries, flags } of this.batches) {
      for (let k = 0; k < deliveries.length; k++) if (flags[k] === 0) yield deliveries[k]!
    }
  }

  began(): void {
    this.busy++
    this.quiet.closeUnsafe()
  }

  ended(): void {
    if (--this.busy === 0) this.quiet.openUnsafe()
  }

  /** Where the broker settles by position: the one below which it has been told that all is done. */
  get committed(): number | undefined {
    return this.told < 0 ? undefined : this.told
  }

  /** Completes when no handler, durable effect or dead letter of it is awaited. */
  get whenQuiet(): Effect.Effect<void> {
    return this.quiet.await
  }

  /** Completes when all that was taken in is settled, or the lease has ended. */
  get whenClear(): Effect.Effect<void> {
    return this.clear.isOpen() ? Exit.void : this.clear.await
  }

  /** Completes when there are few enough messages settled whose commit an earlier one holds: all of them come again after a crash. */
  get whenSlack(): Effect.Effect<void> {
    if (this.span !== Number.POSITIVE_INFINITY) {
      this.advance()
      if (this.ahead >= this.span) this.slack.closeUnsafe()
    }
    return this.slack.isOpen() ? Exit.void : this.slack.await
  }

  private get ahead(): number {
    return this.settled - this.passed
  }

  /** Completes when no call to the broker is under way. */
  get whenStill(): Effect.Effect<void> {
    return this.still.isOpen() ? Exit.void : this.still.await
  }

  /** Nobody waits for it any more. */
  end(): void {
    this.stopped = true
    this.lost = true
    this.lanes.clear()
    this.clear.openUnsafe()
    this.slack.openUnsafe()
  }

  /** The lowest position all below which is settled. */
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
   * Tells the broker what is new: one call at a time, what gathers meanwhile goes with the next. Returns an Exit when there
   * is nothing to wait for.
   */
  tell(): Effect.Effect<void, BrokerError> {
    this.dirty = false
    if (this.telling || this.lost) return Exit.void
    const call = this.next()
    if (call === undefined) return Exit.void
    if (isDone(call)) return call._tag === "Success" ? this.tell() : call
    this.telling = true
    this.still.closeUnsafe()
    return Effect.flatMap(
      Effect.onExitPrimitive(call, () => {
        this.telling = false
        this.still.openUnsafe()
        return undefined
      }),
      () => this.tell()
    )
  }

  private next(): Effect.Effect<void, BrokerError> | undefined {
    this.advance()
    if (this.ahead <= this.span / 2 && !this.slack.isOpen()) this.slack.openUnsafe()
    if (this.lease.commit !== undefined) {
      const position = this.position
      if (position <= this.told) return undefined
      return Effect.mapEager(this.lease.commit(position), () => {
        this.told = position
      })
    }
    if (this.lease.settle !== undefined && this.outcomes.length > 0) {
      const batch = this.outcomes
      this.outcomes = []
      return Effect.mapErrorEager(this.lease.settle(batch), (error) => {
        // told again with the next call: brokers take the same outcome twice
        this.outcomes = batch.concat(this.outcomes)
        return error
      })
    }
    return undefined
  }
}

/** The lease that a delivery came by. */
export const tenureOf = (delivery: Delivery): Tenure => (delivery.slot as Batch).tenure
