/**
 * The loop of a worker: chooses the next message to start, in time slices, so that other work of the event loop gets its turn.
 */
import { type Clock, Context, Effect, type Fiber, Latch, Scheduler } from "effect"
import type { Delivery } from "../../message/Message.ts"
import { DelayQueue, isDue } from "./DelayQueue.ts"
import { Fifo } from "./Fifo.ts"
import type { Lanes } from "./Lanes.ts"
import { type Batch, type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"
import type { RetryTier } from "./RetryChannels.ts"
import { TimeSlice } from "./TimeSlice.ts"

/** The dependencies of a dispatcher. */
export interface Options {
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  readonly lanes: Lanes
  /** The most suspended handlers at once. */
  readonly limit: number
  readonly tier: RetryTier | undefined
  /** Tells whether messages may start: the subscription is neither paused nor draining. */
  readonly mayStart: () => boolean
  /** Runs a message until it finishes or suspends; true if it is finished and its lane may continue. */
  readonly start: (delivery: Delivery, batch: Batch, lane: Lane | undefined) => boolean
  /** Called at the end of each turn. */
  readonly turned: () => void
}

/** Kinds of messages that may start: retries without a lane, messages of ready lanes, due delayed messages, and new ones. */
const kinds = 4

/** The messages that have not started yet, and the loop that starts them. */
export class Dispatcher {
  /** Number of suspended handlers. */
  active = 0
  private readonly options: Options
  private readonly scheduler: Scheduler.SchedulerDispatcher
  private readonly slice: TimeSlice
  private readonly intake = new Fifo<Batch>()
  /** For a retry channel: received messages that are not due yet. */
  private readonly delays = new DelayQueue()
  private alarm: { readonly at: number; readonly timer: Fiber.Fiber<void> } | undefined
  private readonly work = Latch.makeUnsafe(false)
  private waking = false
  /** The kind of message that starts first in the next slice. */
  private first = 0
  // the loop is waiting for work; an immediate wake-up continues the current slice
  private isIdle = false
  private isSameSlice = false

  constructor(options: Options) {
    this.options = options
    this.scheduler = Context.get(options.context, Scheduler.Scheduler).makeDispatcher()
    this.slice = new TimeSlice(options.clock)
  }

  /** Accepts a batch. */
  push(batch: Batch): void {
    this.intake.push(batch)
    this.wakeNow()
  }

  /** Drops the messages of an ended lease. */
  forget(lease: LeaseState): void {
    this.delays.drop((delivery) => leaseOf(delivery) === lease)
    this.intake.drop((batch) => batch.lease === lease)
    this.options.lanes.forget(lease)
  }

  /** Ends the slice: no more messages start in this turn. */
  endSlice(): void {
    this.slice.end()
  }

  end(): void {
    this.alarm?.timer.interruptUnsafe()
  }

  /** Wakes the loop, once for all events of one turn: opening a latch resumes its waiter immediately. */
  wake(): void {
    if (this.waking) return
    this.waking = true
    this.scheduler.scheduleTask(() => {
      this.waking = false
      this.work.openUnsafe()
    }, 0)
  }

  /** Wakes the loop immediately while the slice lasts, so that quick messages finish before more arrive; otherwise later. */
  private wakeNow(): void {
    if (!this.isIdle || !this.options.mayStart() || !this.slice.isOpen()) return this.wake()
    this.isSameSlice = true
    this.work.openUnsafe()
  }

  /** Runs until interrupted. */
  readonly loop: Effect.Effect<never> = Effect.whileLoop({
    while: () => true,
    body: () => Effect.suspend(() => this.turn()),
    step: () => {}
    // the loop never ends by itself
  }) as Effect.Effect<never>

  /** Runs one turn: messages start until none may start or the slice is over. */
  private turn(): Effect.Effect<void> {
    const { mayStart, turned } = this.options
    // close first: a handler may make another message ready, or cause an offer, in the middle of its call
    this.work.closeUnsafe()
    this.isIdle = false
    if (!this.isSameSlice) this.slice.begin()
    this.isSameSlice = false
    const isOver = mayStart() && this.runAll()
    turned()
    if (isOver) return Effect.yieldNow
    this.isIdle = true
    return this.work.await
  }

  /** Returns true if the slice is over: the next slice begins with the following kind of message, so that none starves. */
  private runAll(): boolean {
    const { first } = this
    for (let i = first; i < first + kinds; i++) {
      if (!this.runKind(i % kinds)) continue
      this.first = (i + 1) % kinds
      return true
    }
    this.first = 0
    return false
  }

  private runKind(kind: number): boolean {
    switch (kind) {
      case 0:
        return this.runLoose()
      case 1:
        return this.runReady()
      case 2:
        return this.runDelayed()
      default:
        return this.runIntake()
    }
  }

  private get isFull(): boolean {
    return this.active >= this.options.limit
  }

  private runLoose(): boolean {
    const { lanes: { loose }, start } = this.options
    while (loose.length > 0 && !this.isFull) {
      const delivery = loose.shift()!
      start(delivery, delivery.slot as Batch, undefined)
      if (this.slice.isOver()) return true
    }
    return false
  }

  private runReady(): boolean {
    const { ready } = this.options.lanes
    while (ready.length > 0 && !this.isFull) {
      this.follow(ready.shift()!)
      if (this.slice.isOver()) return true
    }
    return false
  }

  /** Continues a lane until one of its messages is unfinished, the lane is empty, or the slice is over. */
  private follow(lane: Lane): void {
    const { lanes, start } = this.options
    const { lease, queue } = lane
    if (lease.lanes.get(lane.id) !== lane) return
    if (lane.again !== undefined) {
      const delivery = lane.again
      lane.again = undefined
      if (!start(delivery, delivery.slot as Batch, lane)) return
    }
    while (queue.length > 0) {
      // a finished message leaves the number of suspended handlers unchanged
      if (this.slice.isOver()) {
        lanes.ready.push(lane)
        return
      }
      const delivery = queue.shift()!
      if (!start(delivery, delivery.slot as Batch, lane)) return
    }
    lease.lanes.delete(lane.id)
  }

  private runIntake(): boolean {
    for (let batch = this.intake.peek(); batch !== undefined && !this.isFull; batch = this.intake.peek()) {
      const { deliveries, lease } = batch
      while (!lease.stopped && batch.taken < deliveries.length && !this.isFull) {
        const delivery = deliveries[batch.taken++]!
        if (!this.waits(delivery)) this.enter(delivery, batch)
        if (this.slice.isOver()) return true
      }
      const isTaken = lease.stopped || batch.taken === deliveries.length
      // a lease that ended in the meantime has already removed its batches
      if (isTaken && this.intake.peek() === batch) this.intake.shift()
    }
    return false
  }

  /** Runs a message, or queues it in its lane if that is open. */
  private enter(delivery: Delivery, batch: Batch): void {
    const lane = this.options.lanes.behind(delivery)
    if (lane === undefined) this.options.start(delivery, batch, undefined)
    else lane.queue.push(delivery)
  }

  /** For a retry channel: keeps a message that is not due; true if the message was kept. */
  private waits(delivery: Delivery): boolean {
    const { clock, tier } = this.options
    if (tier === undefined || tier.tier === 0) return false
    const due = tier.channels.due(delivery, tier.tier)
    if (isDue(due, clock.currentTimeMillisUnsafe())) return false
    this.delays.push(delivery, due)
    this.wakeAt(this.delays.next)
    return true
  }

  private runDelayed(): boolean {
    if (this.delays.length === 0) return false
    while (!this.isFull) {
      const delivery = this.delays.shift(this.options.clock.currentTimeMillisUnsafe())
      if (delivery === undefined) {
        this.wakeAt(this.delays.next)
        return false
      }
      this.enter(delivery, delivery.slot as Batch)
      if (this.slice.isOver()) return true
    }
    return false
  }

  private wakeAt(at: number): void {
    if (at === Number.POSITIVE_INFINITY || (this.alarm !== undefined && this.alarm.at <= at)) return
    this.alarm?.timer.interruptUnsafe()
    const { clock, context } = this.options
    const wait = Math.max(0, at - clock.currentTimeMillisUnsafe())
    const alarm = { at, timer: Effect.runForkWith(context)(Effect.sleep(wait)) }
    this.alarm = alarm
    alarm.timer.addObserver((exit) => {
      if (this.alarm === alarm) this.alarm = undefined
      if (exit._tag === "Success") this.wake()
    })
  }
}
