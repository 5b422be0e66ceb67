/**
 * The loop of a worker: decides which message starts next, in slices of time, so that other work of the event loop gets its turn.
 */
import { type Clock, Context, Effect, type Fiber, Latch, Scheduler } from "effect"
import type { Delivery } from "../../message/Message.ts"
import { DelayQueue, isDue } from "./DelayQueue.ts"
import { Fifo } from "./Fifo.ts"
import type { Lanes } from "./Lanes.ts"
import { type Batch, type Lane, leaseOf, type LeaseState } from "./LeaseState.ts"
import type { RetryTier } from "./RetryChannels.ts"
import { TimeSlice } from "./TimeSlice.ts"

/** What a dispatcher needs of its worker. */
export interface Options {
  readonly context: Context.Context<never>
  readonly clock: Clock.Clock
  readonly lanes: Lanes
  /** The most handlers that may be suspended at once. */
  readonly limit: number
  readonly tier: RetryTier | undefined
  /** Whether messages may start: the subscription is neither paused nor draining. */
  readonly mayStart: () => boolean
  /** Runs a message as far as it goes; true when it is finished and its lane may go on. */
  readonly start: (delivery: Delivery, batch: Batch, lane: Lane | undefined) => boolean
  /** Called at the end of each turn. */
  readonly turned: () => void
}

/** Kinds of messages that may start: those that run again, of lanes that go on, whose time has come, and new ones. */
const kinds = 4

/** The messages that have not started yet, and the loop that starts them. */
export class Dispatcher {
  /** Suspended handlers. */
  active = 0
  private readonly options: Options
  private readonly scheduler: Scheduler.SchedulerDispatcher
  private readonly slice: TimeSlice
  private readonly intake = new Fifo<Batch>()
  /** Of a retry channel: messages taken in whose time has not come. */
  private readonly delays = new DelayQueue()
  private alarm: { readonly at: number; readonly timer: Fiber.Fiber<void> } | undefined
  private readonly work = Latch.makeUnsafe(false)
  private waking = false
  /** The kind of message with which the next slice begins. */
  private first = 0
  // the loop waits for work; what wakes it now goes on in the slice that has begun
  private isIdle = false
  private isSameSlice = false

  constructor(options: Options) {
    this.options = options
    this.scheduler = Context.get(options.context, Scheduler.Scheduler).makeDispatcher()
    this.slice = new TimeSlice(options.clock)
  }

  /** Takes a batch in. */
  push(batch: Batch): void {
    this.intake.push(batch)
    this.wakeNow()
  }

  /** A lease has ended: nothing is kept of its messages. */
  forget(lease: LeaseState): void {
    this.delays.drop((delivery) => leaseOf(delivery) === lease)
    this.intake.drop((batch) => batch.lease === lease)
    this.options.lanes.forget(lease)
  }

  /** Starts nothing more in this turn. */
  endSlice(): void {
    this.slice.end()
  }

  end(): void {
    this.alarm?.timer.interruptUnsafe()
  }

  /** Wakes the loop, once for all that happens in one turn: opening a latch resumes its waiter at once. */
  wake(): void {
    if (this.waking) return
    this.waking = true
    this.scheduler.scheduleTask(() => {
      this.waking = false
      this.work.openUnsafe()
    }, 0)
  }

  /** Wakes the loop at once while the slice lasts, so that quick messages are done before more are taken in; later else. */
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
    // it never ends by itself
  }) as Effect.Effect<never>

  /** One turn: messages run until none may or the slice is over. */
  private turn(): Effect.Effect<void> {
    const { mayStart, turned } = this.options
    // before anything runs: a handler may make another message ready, or have some offered, in the middle of its call
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

  /** True when the slice is over: the next one begins with the kind of message that comes after, so that none starves. */
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

  /** Goes on with a lane until a message of it is not finished, nothing is left of it, or the slice is over. */
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
      // a message that is finished has left as much room as there was
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
      // a lease that ended in the middle has taken its batches along
      if (isTaken && this.intake.peek() === batch) this.intake.shift()
    }
    return false
  }

  /** Runs a message, or queues it in its lane where one is open. */
  private enter(delivery: Delivery, batch: Batch): void {
    const lane = this.options.lanes.behind(delivery)
    if (lane === undefined) this.options.start(delivery, batch, undefined)
    else lane.queue.push(delivery)
  }

  /** Of a retry channel: keeps a message whose time has not come. */
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
