/**
 * Runs the messages of one subscription: as far as they go on the engine's own fiber, and in a fiber of their own once they
 * suspend. What has finished waits here for its durable effects, its dead letter or its next attempt.
 */
import { Cause, Clock, Context, Effect, Exit, type Fiber, Latch, Scheduler } from "effect"
import type { Consumer, LaneHealth } from "../broker/Broker.ts"
import type { BrokerError } from "../broker/BrokerError.ts"
import type { Capabilities, Lease, Sink } from "../broker/Driver.ts"
import type { Classified } from "../model/Failure.ts"
import type { Delivery, Outgoing } from "../model/Message.ts"
import * as Outcome from "../model/Outcome.ts"
import * as After from "../pipeline/After.ts"
import { isDone } from "../pipeline/Eager.ts"
import { type Detour, isNative } from "./Detour.ts"
import { Dues, isDue } from "./Dues.ts"
import { Durables, type Waiting } from "./Durables.ts"
import * as Farewell from "./Farewell.ts"
import { Fifo } from "./Fifo.ts"
import { type Kind, Letters } from "./Letters.ts"
import { Patience } from "./Patience.ts"
import { Slice } from "./Slice.ts"
import { type Batch, type Lane, Tenure, tenureOf } from "./Tenure.ts"

interface Running {
  readonly delivery: Delivery
  readonly since: number
}

/** What the worker needs of its broker. */
export interface Doors {
  readonly capabilities: Capabilities
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>
  /** A broker that refuses to be told: its source is started again. */
  readonly failed: (error: unknown) => void
}

/** How the engine delays retries, and which of its channels this is: 0 is the subscription's own. */
export interface Level {
  readonly detour: Detour
  readonly level: number
}

export class Worker<R> implements Farewell.Runs {
  readonly tenures = new Map<Lease, Tenure>()
  pending = 0
  pendingBytes = 0
  active = 0
  settled = 0
  draining = false
  paused = false

  private readonly consumer: Consumer<R>
  private readonly doors: Doors
  private readonly context: Context.Context<R>
  private readonly clock: Clock.Clock
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private waking = false
  private readonly limit: number
  /** The broker holds what waits for its next attempt: nothing here counts its failures, and no lane waits for it. */
  private readonly isDelayed: boolean
  /** How retries leave their lane where the broker does not delay; undefined where they wait in it. */
  private readonly way: Level | undefined
  /** Of a retry channel: what was taken in and has to wait. */
  private readonly dues = new Dues()
  private alarm: { readonly at: number; readonly timer: Fiber.Fiber<void> } | undefined
  private readonly intake = new Fifo<Batch>()
  private offset = 0
  private readonly ready = new Fifo<Lane>()
  private readonly loose = new Fifo<Delivery>()
  private readonly dirty: Array<Tenure> = []
  private readonly fibers = new Map<Fiber.Fiber<unknown, unknown>, Running>()
  private readonly timers = new Map<Fiber.Fiber<void>, Running>()
  private readonly keepers = new Map<Tenure, Fiber.Fiber<never, BrokerError>>()
  private readonly slice: Slice
  private readonly patience: Patience
  private readonly durables: Durables<R>
  private readonly letters: Letters<R>
  // whose handler is being called; a lease may end in the middle of that call
  private calling: Tenure | undefined
  private isAwaited = false
  // the loop waits for work; what wakes it now goes on in the slice that has begun
  private isIdle = false
  private isSameSlice = false
  private readonly work = Latch.makeUnsafe(false)
  private readonly room = Latch.makeUnsafe(true)

  constructor(
    consumer: Consumer<R>,
    doors: Doors,
    context: Context.Context<R>,
    random: () => number,
    way?: Level | undefined
  ) {
    this.consumer = consumer
    this.doors = doors
    this.context = context
    this.clock = Context.get(context, Clock.Clock)
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    this.isDelayed = isNative(doors.capabilities, consumer)
    this.way = way
    this.limit = consumer.lanes._tag === "partition" ? Number.POSITIVE_INFINITY : consumer.lanes.limit
    this.slice = new Slice(this.clock)
    this.patience = new Patience(consumer, this.isDelayed, random)
    this.durables = new Durables(context, (waiting, exit) => this.awaited(waiting, exit))
    this.letters = new Letters(context, {
      consumer,
      publish: doors.publish,
      backoff: (failures) => this.patience.backoff(failures)
    })
  }

  // ---- from the driver

  open(lease: Lease): void {
    const tenure = new Tenure(lease, this.consumer.hold.span)
    this.tenures.set(lease, tenure)
    const { claim, extend } = lease
    if (extend === undefined || claim === undefined) return
    // three times in the life of a claim, so that one lost call costs nothing
    const keep = Effect.flatMap(Effect.sleep(claim / 3), () => {
      const open = Array.from(tenure.open())
      return open.length === 0 ? Effect.void : extend(open)
    })
    const fiber = Effect.runForkWith(this.context)(Effect.forever(keep))
    this.keepers.set(tenure, fiber)
    fiber.addObserver((exit) => this.report(tenure, exit))
  }

  offer(lease: Lease, deliveries: ReadonlyArray<Delivery>): Effect.Effect<void> {
    const tenure = this.tenures.get(lease)
    if (tenure === undefined || tenure.stopped || deliveries.length === 0) return Exit.void
    const before = tenure.bytes
    this.intake.push(tenure.take(deliveries))
    this.pending += deliveries.length
    this.pendingBytes += tenure.bytes - before
    this.wakeNow()
    const slack = tenure.whenSlack
    const { bytes, messages } = this.consumer.inFlight
    if (!this.paused && this.pending < messages && this.pendingBytes < bytes) return slack
    this.room.closeUnsafe()
    return Effect.flatMapEager(slack, () => this.room.await)
  }

  clear(lease: Lease): Effect.Effect<void> {
    return this.tenures.get(lease)?.whenClear ?? Exit.void
  }

  close(lease: Lease, how: "revoke" | "lost"): Effect.Effect<void> {
    return Effect.suspend(() => {
      const tenure = this.tenures.get(lease)
      return tenure === undefined ? Effect.void : how === "lost" ? this.lose(tenure) : this.revoke(tenure)
    })
  }

  // ---- ends of a lease

  private forget(tenure: Tenure): void {
    // it may end in two ways at once: revoked, and then lost or drained before that was over
    if (!this.tenures.delete(tenure.lease)) return
    tenure.end()
    this.keepers.get(tenure)?.interruptUnsafe()
    this.keepers.delete(tenure)
    this.pending -= tenure.unsettled
    this.pendingBytes -= tenure.bytes
    this.cancel(tenure)
    if (this.dues.length > 0) this.dues.drop((delivery) => tenureOf(delivery) === tenure)
    this.patience.forget(tenure)
    this.makeRoom()
    this.wake()
  }

  lose(tenure: Tenure): Effect.Effect<void> {
    return Effect.suspend(() => {
      tenure.stopped = true
      tenure.lost = true
      this.interrupt(tenure)
      this.giveUp(tenure)
      this.forget(tenure)
      return Effect.void
    })
  }

  /** The connection has ended: all is lost, and what was interrupted gets time to end before the same messages come again. */
  loseAll(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const tenures = Array.from(this.tenures.values())
      const lost = Effect.forEach(tenures, (tenure) => this.lose(tenure), { discard: true })
      return Effect.andThen(lost, Effect.timeoutOption(this.quiet(tenures), Farewell.farewell)).pipe(Effect.asVoid)
    })
  }

  /** Nothing new; what runs may finish for a while; then it is interrupted, and the broker is told the last of it. */
  private revoke(tenure: Tenure): Effect.Effect<void> {
    return Effect.suspend(() => {
      tenure.stopped = true
      this.cancel(tenure)
      return Farewell.finish(this, [tenure], this.consumer.grace.revoke)
    }).pipe(Effect.andThen(Effect.sync(() => this.forget(tenure))))
  }

  /** Attempts that wait for their time are not made. */
  private cancel(tenure: Tenure): void {
    for (const [timer, { delivery }] of this.timers) if (tenureOf(delivery) === tenure) timer.interruptUnsafe()
  }

  interrupt(tenure: Tenure): void {
    for (const [fiber, { delivery }] of this.fibers) if (tenureOf(delivery) === tenure) fiber.interruptUnsafe()
  }

  giveUp(tenure: Tenure): void {
    this.letters.giveUp(tenure)
    this.durables.giveUp(tenure)
  }

  /** Completes when no handler, durable effect or dead letter of them is awaited; the call that asks for it counts, too. */
  quiet(tenures: ReadonlyArray<Tenure>): Effect.Effect<void> {
    const { calling } = this
    if (calling !== undefined && !this.isAwaited && tenures.includes(calling)) {
      this.isAwaited = true
      calling.began()
    }
    return Effect.forEach(tenures, (tenure) => tenure.whenQuiet, { concurrency: "unbounded", discard: true })
  }

  /** Starts nothing any more, waits for what runs, interrupts the rest, and tells the broker the last of it. */
  drain(limit: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.draining = true
      for (const timer of this.timers.keys()) timer.interruptUnsafe()
      this.alarm?.timer.interruptUnsafe()
      // and what runs on under a lease that was lost
      const running = Array.from(this.fibers.values(), ({ delivery }) => tenureOf(delivery))
      const tenures = Array.from(new Set([...this.tenures.values(), ...running]))
      for (const tenure of tenures) tenure.stopped = true
      this.room.openUnsafe()
      return Effect.andThen(
        Farewell.finish(this, tenures, limit),
        Effect.sync(() => {
          for (const tenure of tenures) this.forget(tenure)
        })
      )
    })
  }

  pause(): void {
    this.paused = true
    this.room.closeUnsafe()
    // a handler that pauses its own subscription is the last that starts: the slice is over
    this.slice.end()
    this.turnLeases()
  }

  resume(): void {
    this.paused = false
    this.makeRoom()
    this.wake()
    this.turnLeases()
  }

  /** As the intake is by the time it runs, not as it was when it was asked for. */
  private turnLeases(): void {
    const turns = Array.from(this.tenures.keys()).filter(({ pause, resume }) => pause ?? resume)
    if (turns.length === 0) return
    Effect.runForkWith(this.context)(
      Effect.forEach(turns, (lease) => (this.paused ? lease.pause : lease.resume) ?? Effect.void, { discard: true })
    )
  }

  oldest(): Running | undefined {
    // in order of insertion, so the first is the oldest
    for (const running of this.fibers.values()) return running
    return undefined
  }

  /** What keeps lanes busy, the oldest of each state first, and how much waits behind it. */
  busiest(most: number): ReadonlyArray<LaneHealth> {
    const shown: Array<LaneHealth> = []
    const show = (running: Running, state: LaneHealth["state"]) => {
      const { delivery, since } = running
      const id = this.laneId(delivery)
      const lane = id === undefined ? undefined : tenureOf(delivery).lanes.get(id)
      shown.push({
        channel: delivery.channel,
        partition: delivery.partition,
        position: delivery.position,
        key: delivery.key,
        attempt: delivery.attempt,
        state,
        since,
        behind: lane?.queue.length ?? 0
      })
    }
    for (const running of this.fibers.values()) {
      if (shown.length === most) return shown
      show(running, "running")
    }
    for (const waiting of this.timers.values()) {
      if (shown.length === most) return shown
      show(waiting, "waiting")
    }
    return shown
  }

  // ---- one message

  private laneId(delivery: Delivery): unknown {
    const { lanes } = this.consumer
    if (lanes._tag === "partition") return null
    if (lanes._tag === "unordered") return undefined
    return delivery.key ?? (lanes.keyless === "partition" ? null : undefined)
  }

  /** Runs a message as far as it goes; true when it is finished and its lane may go on. */
  private start(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    const { tenure } = batch
    if (tenure.stopped || this.draining) return false
    this.calling = tenure
    const isFinished = this.call(delivery, batch, lane)
    this.calling = undefined
    if (this.isAwaited) {
      this.isAwaited = false
      tenure.ended()
    }
    return isFinished
  }

  private call(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    let effect: Effect.Effect<unknown, unknown, R>
    try {
      effect = this.consumer.handle(delivery)
    } catch (defect) {
      effect = Exit.die(defect)
    }
    if (isDone(effect)) return this.complete(delivery, batch, effect, lane)
    const fiber = Effect.runForkWith(this.context)(effect)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.complete(delivery, batch, exit, lane)
    this.suspend(fiber, delivery, batch, lane)
    return false
  }

  private suspend(
    fiber: Fiber.Fiber<unknown, unknown>,
    delivery: Delivery,
    batch: Batch,
    lane: Lane | undefined
  ): void {
    const { tenure } = batch
    const own = this.laneFor(delivery, tenure, lane)
    this.active++
    tenure.began()
    this.fibers.set(fiber, { delivery, since: this.clock.currentTimeMillisUnsafe() })
    if (tenure.lost) fiber.interruptUnsafe()
    fiber.addObserver((exit) => {
      this.active--
      this.fibers.delete(fiber)
      if (this.complete(delivery, batch, exit, own)) this.proceed(own)
      this.touch(tenure)
      tenure.ended()
      this.wake()
    })
  }

  /** The lane that a message which is not finished keeps shut; undefined where it needs none, or its lane has gone on. */
  private laneFor(delivery: Delivery, tenure: Tenure, lane: Lane | "late" | undefined): Lane | undefined {
    if (lane === "late") return undefined
    if (lane !== undefined) return lane
    const id = this.laneId(delivery)
    if (id === undefined) return undefined
    const own: Lane = { tenure, id, again: undefined, queue: new Fifo() }
    tenure.lanes.set(id, own)
    return own
  }

  private proceed(lane: Lane | undefined): void {
    if (lane !== undefined) this.ready.push(lane)
  }

  private complete(
    delivery: Delivery,
    batch: Batch,
    exit: Exit.Exit<unknown, unknown>,
    lane: Lane | undefined
  ): boolean {
    const asked = this.settle(exit)
    const { hooks } = delivery
    if (exit._tag === "Failure" && asked._tag === "Retry") this.patience.note(delivery, Cause.squash(exit.cause))
    if (hooks === undefined) return this.apply(delivery, batch, asked, lane)
    delivery.hooks = undefined
    const outcome = this.foresee(delivery, batch.tenure, asked)
    const after = After.run(hooks, exit, outcome)
    if (isDone(after)) {
      return this.apply(delivery, batch, after._tag === "Success" ? outcome : this.settle(after), lane)
    }
    // an acknowledgement that waits to become durable keeps no lane shut: what fails to is handled again, late
    if (outcome._tag === "Ack" || outcome._tag === "Reject") {
      this.durables.add(after, delivery, outcome, "late")
      return true
    }
    this.durables.add(after, delivery, outcome, this.laneFor(delivery, batch.tenure, lane))
    return false
  }

  /** Hooks hear what the broker will be told: a retry that will not be made is a dead letter. */
  private foresee(delivery: Delivery, tenure: Tenure, outcome: Outcome.Outcome): Outcome.Outcome {
    if (outcome._tag !== "Retry") return outcome
    const now = this.clock.currentTimeMillisUnsafe()
    if (this.way === undefined) {
      const given = this.patience.foresee(delivery, tenure, outcome, now)
      return given === undefined ? outcome : Outcome.DeadLetter(given.error)
    }
    const { detour, level } = this.way
    return detour.next(delivery, level, outcome, now) === undefined ? this.noneLeft(delivery, detour) : outcome
  }

  private noneLeft(delivery: Delivery, { delays }: Detour): Outcome.DeadLetter {
    return Outcome.DeadLetter(this.patience.reason(delivery, `${delays.length + 1} attempts failed`))
  }

  /** What an exit means; entries of a subscription are code of its user, and may throw. */
  private settle(exit: Exit.Exit<unknown, unknown>): Outcome.Outcome {
    try {
      return this.consumer.settle(exit)
    } catch (defect) {
      return Outcome.DeadLetter(defect)
    }
  }

  /** What messages waited for has ended. */
  private awaited({ lane, of }: Waiting, exit: Exit.Exit<void, Classified>): void {
    const failure = exit._tag === "Failure" ? this.settle(exit) : undefined
    for (const { delivery, outcome } of of) {
      const batch = delivery.slot as Batch
      if (this.apply(delivery, batch, failure ?? outcome, lane) && lane !== "late") this.proceed(lane)
      this.touch(batch.tenure)
      batch.tenure.ended()
    }
    this.wake()
  }

  /** Does what the outcome says; true when the lane may go on. */
  private apply(delivery: Delivery, batch: Batch, outcome: Outcome.Outcome, lane: Lane | "late" | undefined): boolean {
    if (batch.tenure.lost) return false
    switch (outcome._tag) {
      case "Ack":
      case "Reject":
        this.done(delivery, batch, outcome)
        return true
      case "DeadLetter":
        return this.bury(delivery, batch, outcome, lane)
      case "Retry":
        return this.again(delivery, batch, outcome, lane)
      case "Release":
        // it goes back with its lease; until then its lane stays shut, or later messages of its key would overtake it
        if (this.draining || batch.tenure.stopped) {
          this.laneFor(delivery, batch.tenure, lane)
          batch.tenure.release(delivery, outcome)
          return false
        }
        return this.again(delivery, batch, Outcome.Retry(), lane)
    }
  }

  private done(delivery: Delivery, batch: Batch, outcome: Outcome.Outcome): void {
    const { tenure } = batch
    if (!tenure.settle(delivery, batch, outcome)) return
    this.patience.settled(delivery)
    this.settled++
    if (this.tenures.get(tenure.lease) !== tenure) return
    this.pending--
    this.pendingBytes -= delivery.payload.length
    this.makeRoom()
    this.touch(tenure)
  }

  private makeRoom(): void {
    const { bytes, messages } = this.consumer.inFlight
    if (!this.paused && this.pending <= messages / 2 && this.pendingBytes <= bytes / 2) this.room.openUnsafe()
  }

  private touch(tenure: Tenure): void {
    if (tenure.dirty) return
    tenure.dirty = true
    this.dirty.push(tenure)
  }

  private again(delivery: Delivery, batch: Batch, outcome: Outcome.Retry, lane: Lane | "late" | undefined): boolean {
    if (this.way !== undefined) return this.detour(this.way, delivery, batch, outcome, lane)
    const after = this.patience.ask(delivery, batch.tenure, outcome, this.clock.currentTimeMillisUnsafe())
    if (typeof after !== "number") return this.bury(delivery, batch, Outcome.DeadLetter(after.error), lane)
    if (!this.isDelayed) return this.hold(delivery, batch.tenure, after, lane)
    delivery.attempts++
    this.done(delivery, batch, Outcome.Retry({ after }))
    return true
  }

  /** Out of its lane, by a retry channel; a short time that it names itself it waits in it. */
  private detour(
    { detour, level }: Level,
    delivery: Delivery,
    batch: Batch,
    outcome: Outcome.Retry,
    lane: Lane | "late" | undefined
  ): boolean {
    const next = detour.next(delivery, level, outcome, this.clock.currentTimeMillisUnsafe())
    if (typeof next === "number") return this.hold(delivery, batch.tenure, next, lane)
    if (next !== undefined) return this.leave("delayed retry", delivery, batch, next, Outcome.Ack, lane)
    return this.bury(delivery, batch, this.noneLeft(delivery, detour), lane)
  }

  /** In its lane, which waits with it. */
  private hold(delivery: Delivery, tenure: Tenure, after: number, lane: Lane | "late" | undefined): boolean {
    delivery.attempts++
    const wait = this.laneFor(delivery, tenure, lane)
    if (tenure.stopped || this.draining) return false
    const timer = Effect.runForkWith(this.context)(Effect.sleep(after))
    this.timers.set(timer, { delivery, since: this.clock.currentTimeMillisUnsafe() })
    timer.addObserver((exit) => {
      this.timers.delete(timer)
      if (exit._tag === "Failure") return
      this.requeue(delivery, tenure, wait)
      this.wake()
    })
    return false
  }

  private requeue(delivery: Delivery, tenure: Tenure, lane: Lane | undefined): void {
    const id = this.laneId(delivery)
    if (id === undefined) {
      this.loose.push(delivery)
      return
    }
    const other = lane ?? tenure.lanes.get(id)
    if (other === undefined || other === lane) {
      const own = lane ?? this.laneFor(delivery, tenure, undefined)!
      own.again = delivery
      this.ready.push(own)
    } else other.queue.unshift(delivery)
  }

  private bury(
    delivery: Delivery,
    batch: Batch,
    outcome: Outcome.DeadLetter,
    lane: Lane | "late" | undefined
  ): boolean {
    // what a broker writes by itself names the channel it was read from, which must be the subscription's own
    const isOwn = this.way === undefined || this.way.level === 0
    if (this.doors.capabilities.deadLetter && isOwn) {
      this.done(delivery, batch, outcome)
      return true
    }
    const letter = this.consumer.deadLetter(delivery, outcome.error, this.clock.currentTimeMillisUnsafe())
    return this.leave("dead letter", delivery, batch, letter, isOwn ? outcome : Outcome.Ack, lane)
  }

  /** Until the broker has what it leaves behind, the message stays unsettled and its lane shut, and it does not run again. */
  private leave(
    kind: Kind,
    delivery: Delivery,
    batch: Batch,
    outgoing: Outgoing<Uint8Array>,
    outcome: Outcome.Outcome,
    lane: Lane | "late" | undefined
  ): boolean {
    const { tenure } = batch
    const letter = this.letters.write(kind, delivery, outgoing)
    if (letter === undefined) {
      this.done(delivery, batch, outcome)
      return true
    }
    const own = this.laneFor(delivery, tenure, lane)
    this.letters.insist(letter, (isWritten) => {
      if (isWritten) {
        this.done(delivery, batch, outcome)
        this.proceed(own)
      }
      this.touch(tenure)
      tenure.ended()
      this.wake()
    })
    return false
  }

  // ---- the loop

  /** Once for all that happens in one turn: opening a latch resumes its waiter on the spot. */
  private wake(): void {
    if (this.waking) return
    this.waking = true
    this.dispatcher.scheduleTask(() => {
      this.waking = false
      this.work.openUnsafe()
    }, 0)
  }

  /** On the spot while the slice lasts, so that what is quick is done before more is taken in; later else. */
  private wakeNow(): void {
    if (!this.isIdle || this.paused || !this.slice.isOpen()) return this.wake()
    this.isSameSlice = true
    this.work.openUnsafe()
  }

  /** Goes on with a lane until a message of it is not finished, nothing is left of it, or the slice is over. */
  private follow(lane: Lane): void {
    const { queue, tenure } = lane
    if (tenure.lanes.get(lane.id) !== lane) return
    if (lane.again !== undefined) {
      const delivery = lane.again
      lane.again = undefined
      if (!this.start(delivery, delivery.slot as Batch, lane)) return
    }
    while (queue.length > 0) {
      if (this.active >= this.limit || this.slice.isOver()) {
        this.ready.push(lane)
        return
      }
      const delivery = queue.shift()!
      if (!this.start(delivery, delivery.slot as Batch, lane)) return
    }
    tenure.lanes.delete(lane.id)
  }

  private tellAll(): void {
    while (this.dirty.length > 0) {
      const tenure = this.dirty.pop()!
      const told = tenure.tell()
      if (isDone(told) && told._tag === "Success") continue
      Effect.runForkWith(this.context)(told).addObserver((exit) => this.report(tenure, exit))
    }
  }

  /** A broker that cannot be told: the source starts anew, unless the lease is lost already. */
  private report(tenure: Tenure, exit: Exit.Exit<void, BrokerError>): void {
    if (exit._tag === "Success" || tenure.lost) return
    this.doors.failed(Cause.squash(exit.cause))
  }

  /** One turn: what may run, runs, until nothing may or the slice is over. */
  private turn(): Effect.Effect<void> {
    // before anything runs: a handler may make another one ready, or have messages offered, in the middle of its call
    this.work.closeUnsafe()
    this.isIdle = false
    if (!this.isSameSlice) this.slice.begin()
    this.isSameSlice = false
    const over = !this.paused && !this.draining &&
      (this.runLoose() || this.runReady() || this.runDues() || this.runIntake())
    this.tellAll()
    if (over) return Effect.yieldNow
    this.isIdle = true
    return this.work.await
  }

  private runLoose(): boolean {
    while (this.loose.length > 0 && this.active < this.limit) {
      const delivery = this.loose.shift()!
      this.start(delivery, delivery.slot as Batch, undefined)
      if (this.slice.isOver()) return true
    }
    return false
  }

  private runReady(): boolean {
    while (this.ready.length > 0 && this.active < this.limit) {
      this.follow(this.ready.shift()!)
      if (this.slice.isOver()) return true
    }
    return false
  }

  private runIntake(): boolean {
    for (
      let batch = this.intake.peek();
      batch !== undefined && this.active < this.limit;
      batch = this.intake.peek()
    ) {
      const { deliveries, tenure } = batch
      if (tenure.stopped) this.offset = deliveries.length
      while (this.offset < deliveries.length && this.active < this.limit) {
        const delivery = deliveries[this.offset++]!
        if (!this.waits(delivery)) this.enter(delivery, batch)
        if (this.slice.isOver()) return true
      }
      if (this.offset === deliveries.length) {
        this.offset = 0
        this.intake.shift()
      }
    }
    return false
  }

  /** Runs a message, or puts it into its lane where one is open. */
  private enter(delivery: Delivery, batch: Batch): void {
    const { lanes } = batch.tenure
    const lane = lanes.size === 0 ? undefined : lanes.get(this.laneId(delivery))
    if (lane === undefined) this.start(delivery, batch, undefined)
    else lane.queue.push(delivery)
  }

  /** Of a retry channel: keeps a message whose time has not come. */
  private waits(delivery: Delivery): boolean {
    const { way } = this
    if (way === undefined || way.level === 0) return false
    const due = way.detour.due(delivery, way.level)
    if (isDue(due, this.clock.currentTimeMillisUnsafe())) return false
    this.dues.push(delivery, due)
    this.wakeAt(this.dues.next)
    return true
  }

  private runDues(): boolean {
    if (this.dues.length === 0) return false
    while (this.active < this.limit) {
      const delivery = this.dues.shift(this.clock.currentTimeMillisUnsafe())
      if (delivery === undefined) {
        this.wakeAt(this.dues.next)
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
    const wait = Math.max(0, at - this.clock.currentTimeMillisUnsafe())
    const alarm = { at, timer: Effect.runForkWith(this.context)(Effect.sleep(wait)) }
    this.alarm = alarm
    alarm.timer.addObserver((exit) => {
      if (this.alarm === alarm) this.alarm = undefined
      if (exit._tag === "Success") this.wake()
    })
  }

  /** Runs until interrupted. */
  readonly loop: Effect.Effect<never> = Effect.whileLoop({
    while: () => true,
    body: () => Effect.suspend(() => this.turn()),
    step: () => {}
    // it never ends by itself
  }) as Effect.Effect<never>

  sink(signs: { readonly ready: () => void; readonly polled: () => void }): Sink {
    return {
      ready: signs.ready,
      polled: signs.polled,
      open: (lease) => this.open(lease),
      offer: (lease, batch) => this.offer(lease, batch),
      settled: (lease) => this.clear(lease),
      close: (lease, how) => this.close(lease, how)
    }
  }
}
