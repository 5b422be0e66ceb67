/**
 * Runs the messages of one subscription: each as far as it goes on the engine's own fiber, and in a fiber of its own once it
 * suspends. Then it does what `RetryPolicy` has decided.
 *
 * Where each rule of settlement lives: `RetryPolicy` decides what becomes of a message; `Lanes` keeps order; `Room` is
 * backpressure; `Claims` extends claims; `PendingEffects` waits for durable effects; `DeadLetterWriter` publishes dead letters and
 * delayed retries; `LeaseState` counts what is settled and tells the broker; `endLeases` ends leases; this file is the loop.
 *
 * | latch                  | closes when                                      | opens when                                   | resumes            |
 * | ---------------------- | ------------------------------------------------ | -------------------------------------------- | ------------------ |
 * | `Worker.work`          | a turn of the loop begins                        | a message may start, or has ended            | the loop           |
 * | `LeaseState.room`      | a lease has used up its room; on pause           | half of its room is free; on resume          | `Sink.offer`       |
 * | `LeaseState.slack`     | `span` messages are settled beyond an unsettled one | half of them are committed                | `Sink.offer`       |
 * | `LeaseState.clear`     | a batch is taken in                              | its last message is settled                  | `Sink.settled`     |
 * | `LeaseState.quiet`     | a handler suspends, an effect or a letter begins | the last of them has ended                   | drain and revoke   |
 * | `LeaseState.still`     | a commit or settle call begins                   | the broker has answered                      | drain and revoke   |
 *
 * All of them open when their lease ends.
 */
import { Cause, Clock, Context, Effect, Exit, type Fiber, Latch, Scheduler, type Scope } from "effect"
import type { Consumer } from "../broker/Broker.ts"
import type { BrokerError } from "../broker/BrokerError.ts"
import type { Capabilities, Lease, Sink } from "../broker/Driver.ts"
import type { Classified } from "../model/Failure.ts"
import { tagOf } from "../model/Failure.ts"
import type { Delivery, Outgoing } from "../model/Message.ts"
import * as Outcome from "../model/Outcome.ts"
import * as After from "../pipeline/After.ts"
import * as Counters from "../pipeline/Counters.ts"
import { isDone } from "../pipeline/Eager.ts"
import { Claims } from "./Claims.ts"
import { DeadLetterWriter, type Leaving, type Written } from "./DeadLetterWriter.ts"
import { DelayQueue, isDue } from "./DelayQueue.ts"
import { endLeases, farewell, type InProgress } from "./endLeases.ts"
import { Fifo } from "./Fifo.ts"
import { called, fork, log } from "./guard.ts"
import { Lanes } from "./Lanes.ts"
import { type Batch, type Lane, leaseOf, LeaseState } from "./LeaseState.ts"
import { closed, MessageScopes } from "./MessageScopes.ts"
import { PendingEffects, type Waiting } from "./PendingEffects.ts"
import { ChannelRetries, type RetryTier } from "./RetryChannels.ts"
import * as Retrying from "./RetryPolicy.ts"
import { Room } from "./Room.ts"
import { type InFlight, StallMonitor } from "./stalls.ts"
import { TimeSlice } from "./TimeSlice.ts"

interface Running {
  readonly delivery: Delivery
  readonly since: number
}

/** What the worker needs of its broker. */
export interface BrokerPort {
  readonly capabilities: Capabilities
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>
  /** The source must start again: the broker refuses a commit, or something threw where nothing should. */
  readonly failed: (error: unknown) => void
  /** Something failed that the engine tries again by itself. */
  readonly noted: (error: unknown) => void
}

const policyOf = (
  consumer: Retrying.Limits & Pick<Consumer<never>, "lanes">,
  capabilities: Capabilities,
  random: () => number,
  tier: RetryTier | undefined
): Retrying.RetryPolicy => {
  // what a broker writes by itself names the channel it was read from, which must be the subscription's own
  const isLetterWritten = capabilities.deadLetter && (tier === undefined || tier.tier === 0)
  if (tier !== undefined) return new ChannelRetries(consumer, isLetterWritten, tier)
  return Retrying.brokerDelays(capabilities, consumer)
    ? new Retrying.BrokerDelayedRetries(consumer, isLetterWritten, random)
    : new Retrying.HeldRetries(consumer, isLetterWritten, random)
}

export class Worker<R> implements InProgress {
  readonly leases = new Map<Lease, LeaseState>()
  readonly room: Room
  readonly stalls: StallMonitor
  active = 0
  settled = 0
  /** Commit and settle calls that the broker has confirmed. */
  confirmations = 0
  deadLetters = 0
  dropped = 0
  draining = false
  paused = false

  private readonly consumer: Consumer<R>
  private readonly port: BrokerPort
  private readonly context: Context.Context<R>
  private readonly clock: Clock.Clock
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private waking = false
  private readonly limit: number
  private readonly tier: RetryTier | undefined
  /** Of a retry channel: messages taken in whose time has not come. */
  private readonly delays = new DelayQueue()
  private alarm: { readonly at: number; readonly timer: Fiber.Fiber<void> } | undefined
  private readonly intake = new Fifo<Batch>()
  private readonly dirty: Array<LeaseState> = []
  private readonly fibers = new Map<Fiber.Fiber<unknown, unknown>, Running>()
  private readonly timers = new Map<Fiber.Fiber<void>, Running & { readonly lane: Lane | undefined }>()
  private readonly slice: TimeSlice
  private readonly lanes: Lanes
  private readonly claims: Claims
  private readonly policy: Retrying.RetryPolicy
  private readonly effects: PendingEffects<R>
  private readonly writer: DeadLetterWriter<R>
  private readonly scopes: MessageScopes<R>
  // the lease whose handler is being called; it may end in the middle of that call
  private calling: LeaseState | undefined
  private isAwaited = false
  // the loop waits for work; what wakes it now goes on in the slice that has begun
  private isIdle = false
  private isSameSlice = false
  private readonly work = Latch.makeUnsafe(false)

  constructor(
    consumer: Consumer<R>,
    port: BrokerPort,
    context: Context.Context<R>,
    random: () => number,
    tier?: RetryTier | undefined
  ) {
    this.consumer = consumer
    this.port = port
    this.context = context
    this.clock = Context.get(context, Clock.Clock)
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    this.tier = tier
    this.limit = consumer.lanes._tag === "partition" ? Number.POSITIVE_INFINITY : consumer.lanes.limit
    this.room = new Room(consumer.inFlight, this.leases)
    this.slice = new TimeSlice(this.clock)
    this.lanes = new Lanes(consumer.lanes)
    this.claims = new Claims(context, (lease, cause) => this.report(lease, cause))
    this.policy = policyOf(consumer, port.capabilities, random, tier)
    this.effects = new PendingEffects(context, this.clock, (waiting, exit) => this.durable(waiting, exit))
    this.writer = new DeadLetterWriter(context, {
      consumer,
      publish: port.publish,
      backoff: (failures) => Retrying.backoff(consumer.backoff, failures, random),
      clock: this.clock,
      failed: port.noted
    })
    this.scopes = new MessageScopes(context)
    this.stalls = new StallMonitor(consumer, context, this.clock, {
      inFlight: () => this.inFlight(),
      leases: () => this.leases.values()
    })
  }

  // ---- from the driver

  open(lease: Lease): void {
    const state = new LeaseState(lease, this.consumer.hold.span, this.clock, () => {
      this.confirmations++
    })
    this.leases.set(lease, state)
    this.claims.keep(state)
  }

  offer(lease: Lease, deliveries: ReadonlyArray<Delivery>): Effect.Effect<void> {
    const state = this.leases.get(lease)
    if (state === undefined || state.stopped || deliveries.length === 0) return Exit.void
    this.intake.push(state.take(deliveries))
    this.wakeNow()
    const slack = state.whenSlack
    this.room.check(state)
    return Effect.flatMapEager(slack, () => state.whenRoom)
  }

  clear(lease: Lease): Effect.Effect<void> {
    return this.leases.get(lease)?.whenClear ?? Exit.void
  }

  close(lease: Lease, how: "revoke" | "lost"): Effect.Effect<void> {
    return Effect.suspend(() => {
      const state = this.leases.get(lease)
      return state === undefined ? Effect.void : how === "lost" ? this.lose(state) : this.revoke(state)
    })
  }

  // ---- ends of a lease

  private forget(lease: LeaseState): void {
    // it may end in two ways at once: revoked, and then lost or drained before that was over
    if (!this.leases.delete(lease.lease)) return
    lease.end()
    this.claims.end(lease)
    this.cancel(lease)
    if (this.delays.length > 0) this.delays.drop((delivery) => leaseOf(delivery) === lease)
    this.intake.drop((batch) => batch.lease === lease)
    this.lanes.forget(lease)
    this.policy.forget(lease)
    this.room.end(lease)
    this.room.update()
    this.wake()
  }

  lose(lease: LeaseState): Effect.Effect<void> {
    return Effect.suspend(() => {
      lease.stopped = true
      lease.lost = true
      this.interrupt(lease)
      this.giveUp(lease)
      this.forget(lease)
      return Effect.void
    })
  }

  /** The connection has ended: all leases are lost, and interrupted handlers get time to end before redelivery. */
  loseAll(): Effect.Effect<void> {
    return Effect.suspend(() => {
      const leases = Array.from(this.leases.values())
      const lost = Effect.forEach(leases, (lease) => this.lose(lease), { discard: true })
      return Effect.andThen(lost, Effect.timeoutOption(this.quiet(leases), farewell)).pipe(Effect.asVoid)
    })
  }

  /** Starts nothing more; running handlers may finish for a while, then they are interrupted; the broker is told the last outcomes. */
  private revoke(lease: LeaseState): Effect.Effect<void> {
    return Effect.suspend(() => {
      lease.stopped = true
      this.cancel(lease)
      return endLeases(this, [lease], this.consumer.grace.revoke)
    }).pipe(Effect.andThen(Effect.sync(() => this.forget(lease))))
  }

  /** Messages that wait for their next attempt wait no longer. */
  private cancel(lease: LeaseState): void {
    for (const [timer, { delivery }] of this.timers) if (leaseOf(delivery) === lease) timer.interruptUnsafe()
  }

  interrupt(lease: LeaseState): void {
    for (const [fiber, { delivery }] of this.fibers) if (leaseOf(delivery) === lease) fiber.interruptUnsafe()
  }

  giveUp(lease: LeaseState): void {
    this.writer.giveUp(lease)
    this.effects.giveUp(lease)
  }

  /** Completes when no handler, durable effect or dead letter is in progress; the call that asks for it counts, too. */
  quiet(leases: ReadonlyArray<LeaseState>): Effect.Effect<void> {
    const { calling } = this
    if (calling !== undefined && !this.isAwaited && leases.includes(calling)) {
      this.isAwaited = true
      calling.began()
    }
    return Effect.forEach(leases, (lease) => lease.whenQuiet, { concurrency: "unbounded", discard: true })
  }

  /** Starts nothing more, waits for running handlers, interrupts the rest, and tells the broker the last outcomes. */
  drain(limit: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.draining = true
      for (const timer of this.timers.keys()) timer.interruptUnsafe()
      this.alarm?.timer.interruptUnsafe()
      // handlers of a lease that was lost may still run
      const running = Array.from(this.fibers.values(), ({ delivery }) => leaseOf(delivery))
      const leases = Array.from(new Set([...this.leases.values(), ...running]))
      for (const lease of leases) {
        lease.stopped = true
        lease.openRoom()
      }
      return Effect.andThen(
        endLeases(this, leases, limit),
        Effect.sync(() => {
          for (const lease of leases) this.forget(lease)
          this.stalls.end()
        })
      )
    })
  }

  pause(): void {
    this.paused = true
    this.room.shut()
    // a handler that pauses its own subscription is the last that starts: the slice is over
    this.slice.end()
    this.turnLeases()
  }

  resume(): void {
    this.paused = false
    this.room.open()
    this.wake()
    this.turnLeases()
  }

  /** Pauses or resumes the driver, by the state at the time when it runs. */
  private turnLeases(): void {
    const turns = Array.from(this.leases.keys()).filter(({ pause, resume }) => pause ?? resume)
    if (turns.length === 0) return
    const turn = Effect.forEach(
      turns,
      (lease) => called(() => (this.paused ? lease.pause : lease.resume) ?? Effect.void),
      { discard: true }
    )
    fork(this.context, turn, (exit) => {
      if (exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) this.port.noted(Cause.squash(exit.cause))
    })
  }

  oldest(): Running | undefined {
    // in order of insertion, so the first is the oldest
    for (const running of this.fibers.values()) return running
    return undefined
  }

  /** Messages that have started and are not settled. */
  *inFlight(): Generator<InFlight> {
    for (const { delivery, since } of this.fibers.values()) {
      const behind = this.lanes.behind(delivery)?.queue.length ?? 0
      yield { delivery, since, state: "running", behind, error: undefined }
    }
    for (const { delivery, lane, since } of this.timers.values()) {
      const cost = this.policy.costOf(delivery)
      yield {
        delivery,
        since: cost?.since ?? since,
        state: "retry",
        behind: lane?.queue.length ?? 0,
        error: cost?.error
      }
    }
    yield* this.writer.inFlight()
    yield* this.effects.inFlight()
  }

  // ---- one message

  /** Runs a message as far as it goes; true when it is finished and its lane may go on. */
  private start(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    const { lease } = batch
    if (lease.stopped || this.draining) return false
    this.calling = lease
    let isFinished = false
    this.guarded(() => {
      isFinished = this.call(delivery, batch, lane)
    })
    this.calling = undefined
    if (this.isAwaited) {
      this.isAwaited = false
      lease.ended()
    }
    return isFinished
  }

  private call(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    const { scopes } = this
    const { scope } = scopes
    scopes.enter()
    const effect = this.handled(delivery)
    if (isDone(effect)) return this.finish(delivery, batch, effect, lane, scope)
    const fiber = Effect.runForkWith(scopes.context)(effect)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.finish(delivery, batch, exit, lane, scope)
    scopes.rotate()
    this.suspend(fiber, delivery, batch, lane, scope)
    return false
  }

  private handled(delivery: Delivery): Effect.Effect<unknown, unknown, R> {
    try {
      const effect: unknown = this.consumer.handle(delivery)
      if (Effect.isEffect(effect)) return effect as Effect.Effect<unknown, unknown, R>
      return Exit.die(new TypeError(`The handler returned ${typeof effect} instead of an Effect`))
    } catch (defect) {
      return Exit.die(defect)
    }
  }

  private finish(
    delivery: Delivery,
    batch: Batch,
    exit: Exit.Exit<unknown, unknown>,
    lane: Lane | undefined,
    scope: Scope.Closeable
  ): boolean {
    if (scope.state._tag === "Empty") return this.complete(delivery, batch, exit, lane, undefined)
    this.scopes.rotate()
    return this.complete(delivery, batch, exit, lane, scope)
  }

  private suspend(
    fiber: Fiber.Fiber<unknown, unknown>,
    delivery: Delivery,
    batch: Batch,
    lane: Lane | undefined,
    scope: Scope.Closeable
  ): void {
    const { lease } = batch
    const own = this.lanes.hold(delivery, lane)
    this.active++
    lease.began()
    this.fibers.set(fiber, { delivery, since: this.clock.currentTimeMillisUnsafe() })
    this.stalls.watch()
    if (lease.lost) fiber.interruptUnsafe()
    fiber.addObserver((exit) =>
      this.guarded(() => {
        this.active--
        this.fibers.delete(fiber)
        if (this.complete(delivery, batch, exit, own, scope)) this.lanes.proceed(own)
        this.touch(lease)
        lease.ended()
        this.wake()
      })
    )
  }

  /** Where nothing should throw, and the fiber's observer has nobody to tell: the source starts again. */
  private guarded(run: () => void): void {
    try {
      run()
    } catch (defect) {
      this.port.failed(defect)
    }
  }

  private complete(
    delivery: Delivery,
    batch: Batch,
    exit: Exit.Exit<unknown, unknown>,
    lane: Lane | undefined,
    scope: Scope.Closeable | undefined
  ): boolean {
    const verdict = this.decide(delivery, exit)
    const { hooks } = delivery
    const close = scope && closed(scope, exit)
    if (hooks === undefined && close === undefined) return this.apply(delivery, batch, verdict, lane)
    delivery.hooks = undefined
    const after = hooks === undefined
      ? close!
      : close === undefined
      ? After.run(hooks, exit, verdict.outcome)
      : Effect.andThen(close, Effect.suspend(() => After.run(hooks, exit, verdict.outcome)))
    if (isDone(after)) return this.apply(delivery, batch, this.revised(delivery, verdict, after), lane)
    // an acknowledgement that waits to become durable keeps no lane shut: a message whose effect fails is handled again, late
    const isLate = verdict.outcome._tag === "Ack" || verdict.outcome._tag === "Reject"
    this.effects.add(after, delivery, verdict, isLate ? "late" : this.lanes.hold(delivery, lane))
    this.stalls.watch()
    return isLate
  }

  /** The one decision on an attempt. Entries of a subscription and a driver's readers are called here, and may throw. */
  private decide(delivery: Delivery, exit: Exit.Exit<unknown, unknown>): Retrying.Verdict {
    try {
      const outcome = this.settle(exit)
      if (outcome._tag === "Ack") return Retrying.acknowledged
      const error = exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined
      const isReleased = outcome._tag === "Release" && !this.draining && !leaseOf(delivery).stopped
      const now = this.clock.currentTimeMillisUnsafe()
      // a released message goes back with its lease; outside of a drain or a revoke that is a retry
      return this.policy.decide(delivery, isReleased ? Outcome.Retry() : outcome, error, now)
    } catch (defect) {
      return { _tag: "GiveUp", outcome: Outcome.DeadLetter(defect) }
    }
  }

  /** The outcome of an exit. */
  private settle(exit: Exit.Exit<unknown, unknown>): Outcome.Outcome {
    const outcome: unknown = this.consumer.settle(exit)
    if (Outcome.isOutcome(outcome)) return outcome
    return Outcome.DeadLetter(new TypeError(`An entry of settle answered ${typeof outcome} instead of an outcome`))
  }

  /** A hook that fails settles the message by its error, whatever its chain came to. */
  private revised(
    delivery: Delivery,
    verdict: Retrying.Verdict,
    after: Exit.Exit<void, Classified>
  ): Retrying.Verdict {
    return after._tag === "Success" ? verdict : this.decide(delivery, after)
  }

  /** The effect that messages waited for has ended. */
  private durable({ lane, messages }: Waiting, exit: Exit.Exit<void, Classified>): void {
    for (const { delivery, verdict } of messages) {
      this.guarded(() => {
        const batch = delivery.slot as Batch
        if (this.apply(delivery, batch, this.revised(delivery, verdict, exit), lane)) this.lanes.proceed(lane)
        this.touch(batch.lease)
        batch.lease.ended()
      })
    }
    this.wake()
  }

  /** Does what the verdict says; true when the lane may go on. */
  private apply(
    delivery: Delivery,
    batch: Batch,
    verdict: Retrying.Verdict,
    lane: Lane | "late" | undefined
  ): boolean {
    if (batch.lease.lost) return false
    switch (verdict._tag) {
      case "Settle":
        return this.tell(delivery, batch, verdict, lane)
      case "Hold":
        this.countRetry(delivery, verdict.cost.error)
        this.policy.held(delivery, verdict)
        return this.hold(delivery, verdict.after, lane)
      case "Publish": {
        const { error, outgoing } = verdict
        this.countRetry(delivery, error)
        return this.leave({ kind: "delayed retry", delivery, compose: () => outgoing }, batch, Outcome.Ack, lane, error)
      }
      case "GiveUp":
        return this.deadLetter(delivery, batch, verdict.outcome, lane)
    }
  }

  private tell(
    delivery: Delivery,
    batch: Batch,
    { error, outcome }: Retrying.Settle,
    lane: Lane | "late" | undefined
  ): boolean {
    if (outcome._tag === "Release") {
      // its lane stays shut until its lease ends, or later messages of its key would overtake it
      this.lanes.hold(delivery, lane)
      batch.lease.release(delivery, outcome)
      return false
    }
    if (outcome._tag === "Retry") {
      this.countRetry(delivery, error)
      delivery.attempts++
    }
    if (outcome._tag === "DeadLetter") this.reportDeadLetter(delivery, outcome.error)
    this.done(delivery, batch, outcome)
    return true
  }

  private done(delivery: Delivery, batch: Batch, outcome: Outcome.Outcome): void {
    const { lease } = batch
    if (!lease.settle(delivery, batch, outcome)) return
    this.policy.settled(delivery)
    this.settled++
    if (this.leases.get(lease.lease) === lease) this.touch(lease)
  }

  private touch(lease: LeaseState): void {
    if (lease.dirty) return
    lease.dirty = true
    this.dirty.push(lease)
  }

  /** Keeps a message in its lane until its next attempt. */
  private hold(delivery: Delivery, after: number, lane: Lane | "late" | undefined): boolean {
    delivery.attempts++
    const own = this.lanes.hold(delivery, lane)
    if (leaseOf(delivery).stopped || this.draining) return false
    const timer = Effect.runForkWith(this.context)(Effect.sleep(after))
    this.timers.set(timer, { delivery, lane: own, since: this.clock.currentTimeMillisUnsafe() })
    this.stalls.watch()
    timer.addObserver((exit) => {
      this.timers.delete(timer)
      if (exit._tag === "Failure") return
      this.lanes.again(delivery, own)
      this.wake()
    })
    return false
  }

  private deadLetter(
    delivery: Delivery,
    batch: Batch,
    outcome: Outcome.DeadLetter,
    lane: Lane | "late" | undefined
  ): boolean {
    const at = this.clock.currentTimeMillisUnsafe()
    // the broker of a retry channel must not write a dead letter of its own
    const told = this.tier === undefined || this.tier.tier === 0 ? outcome : Outcome.Ack
    const compose: Leaving["compose"] = (form) => this.consumer.deadLetter(delivery, outcome.error, at, form)
    return this.leave({ kind: "dead letter", delivery, compose }, batch, told, lane, outcome.error)
  }

  /** Until the broker has confirmed what a message leaves behind, the message is unsettled, its lane is shut, and it does not run again. */
  private leave(
    leaving: Leaving,
    batch: Batch,
    outcome: Outcome.Outcome,
    lane: Lane | "late" | undefined,
    error: unknown
  ): boolean {
    const { delivery } = leaving
    const { lease } = batch
    const first = this.writer.publish(leaving)
    if (first === true) {
      this.left(leaving, batch, outcome, error)
      return true
    }
    const own = this.lanes.hold(delivery, lane)
    this.stalls.watch()
    this.writer.confirm(leaving, first, own, (exit) =>
      this.guarded(() => {
        if (exit._tag === "Success") this.confirmed(exit.value, leaving, batch, outcome, own, error)
        this.touch(lease)
        lease.ended()
        this.wake()
      }))
    return false
  }

  private confirmed(
    written: Written,
    leaving: Leaving,
    batch: Batch,
    outcome: Outcome.Outcome,
    lane: Lane | undefined,
    error: unknown
  ): void {
    const { delivery } = leaving
    if (written === "refused") {
      const refused = Outcome.DeadLetter(error ?? new Error("Given up: the broker refuses its delayed retry"))
      if (this.deadLetter(delivery, batch, refused, lane)) this.lanes.proceed(lane)
      return
    }
    if (written === "written") this.left(leaving, batch, outcome, error)
    else {
      this.dropped++
      Counters.countDropped(this.context, delivery.channel, tagOf(error))
      this.done(delivery, batch, Outcome.Reject(error))
      const text = `The broker refuses the dead letter of ${this.consumer.name} in every form; its message is dropped`
      log(this.context, Effect.annotateLogs(Effect.logError(text), placeOf(delivery, error)))
    }
    this.lanes.proceed(lane)
  }

  private left(leaving: Leaving, batch: Batch, outcome: Outcome.Outcome, error: unknown): void {
    this.done(leaving.delivery, batch, outcome)
    if (leaving.kind === "dead letter") this.reportDeadLetter(leaving.delivery, error)
  }

  // ---- what users see of failures, whichever middlewares they have

  private countRetry(delivery: Delivery, error: unknown): void {
    // a retry channel passes on messages whose time has not come: none of their attempts failed
    if (error === undefined && this.tier !== undefined && this.tier.tier > 0) return
    Counters.countRetry(this.context, delivery.channel, error === undefined ? "Retry" : tagOf(error))
  }

  private reportDeadLetter(delivery: Delivery, error: unknown): void {
    this.deadLetters++
    Counters.countDeadLetter(this.context, delivery.channel, tagOf(error))
    const text = `A message of ${delivery.channel} became a dead letter of ${this.consumer.name}`
    log(this.context, Effect.annotateLogs(Effect.logWarning(text), placeOf(delivery, error)))
  }

  // ---- the loop

  /** Once for all that happens in one turn: opening a latch resumes its waiter at once. */
  private wake(): void {
    if (this.waking) return
    this.waking = true
    this.dispatcher.scheduleTask(() => {
      this.waking = false
      this.work.openUnsafe()
    }, 0)
  }

  /** At once while the slice lasts, so that quick messages are done before more are taken in; later else. */
  private wakeNow(): void {
    if (!this.isIdle || this.paused || !this.slice.isOpen()) return this.wake()
    this.isSameSlice = true
    this.work.openUnsafe()
  }

  /** Goes on with a lane until a message of it is not finished, nothing is left of it, or the slice is over. */
  private follow(lane: Lane): void {
    const { lease, queue } = lane
    if (lease.lanes.get(lane.id) !== lane) return
    if (lane.again !== undefined) {
      const delivery = lane.again
      lane.again = undefined
      if (!this.start(delivery, delivery.slot as Batch, lane)) return
    }
    while (queue.length > 0) {
      if (this.active >= this.limit || this.slice.isOver()) {
        this.lanes.ready.push(lane)
        return
      }
      const delivery = queue.shift()!
      if (!this.start(delivery, delivery.slot as Batch, lane)) return
    }
    lease.lanes.delete(lane.id)
  }

  private tellAll(): void {
    while (this.dirty.length > 0) {
      const lease = this.dirty.pop()!
      const told = lease.tell()
      if (isDone(told) && told._tag === "Success") continue
      fork(this.context, told, (exit) => {
        if (exit._tag === "Failure") this.report(lease, exit.cause)
      })
      if (lease.settlingSince !== undefined) this.stalls.watch()
    }
  }

  /** The broker cannot be told: the source starts again, unless the lease is lost already. */
  private report(lease: LeaseState, cause: Cause.Cause<unknown>): void {
    if (!lease.lost) this.port.failed(Cause.squash(cause))
  }

  /** One turn: messages run until none may or the slice is over. */
  private turn(): Effect.Effect<void> {
    // before anything runs: a handler may make another message ready, or have some offered, in the middle of its call
    this.work.closeUnsafe()
    this.isIdle = false
    if (!this.isSameSlice) this.slice.begin()
    this.isSameSlice = false
    const isOver = !this.paused && !this.draining &&
      (this.runLoose() || this.runReady() || this.runDelayed() || this.runIntake())
    this.tellAll()
    this.room.update()
    if (isOver) return Effect.yieldNow
    this.isIdle = true
    return this.work.await
  }

  private runLoose(): boolean {
    const { loose } = this.lanes
    while (loose.length > 0 && this.active < this.limit) {
      const delivery = loose.shift()!
      this.start(delivery, delivery.slot as Batch, undefined)
      if (this.slice.isOver()) return true
    }
    return false
  }

  private runReady(): boolean {
    const { ready } = this.lanes
    while (ready.length > 0 && this.active < this.limit) {
      this.follow(ready.shift()!)
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
      const { deliveries, lease } = batch
      while (!lease.stopped && batch.taken < deliveries.length && this.active < this.limit) {
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
    const lane = this.lanes.behind(delivery)
    if (lane === undefined) this.start(delivery, batch, undefined)
    else lane.queue.push(delivery)
  }

  /** Of a retry channel: keeps a message whose time has not come. */
  private waits(delivery: Delivery): boolean {
    const { tier } = this
    if (tier === undefined || tier.tier === 0) return false
    const due = tier.channels.due(delivery, tier.tier)
    if (isDue(due, this.clock.currentTimeMillisUnsafe())) return false
    this.delays.push(delivery, due)
    this.wakeAt(this.delays.next)
    return true
  }

  private runDelayed(): boolean {
    if (this.delays.length === 0) return false
    while (this.active < this.limit) {
      const delivery = this.delays.shift(this.clock.currentTimeMillisUnsafe())
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

const placeOf = (delivery: Delivery, error: unknown) => ({
  channel: delivery.channel,
  partition: delivery.partition,
  position: delivery.position,
  attempt: delivery.attempt,
  error: tagOf(error)
})
