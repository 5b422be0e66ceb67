/**
 * Runs the messages of one subscription: as far as they go on the engine's own fiber, and in a fiber of their own once they
 * suspend. What has finished waits here for its durable effects, its dead letter or its next attempt.
 */
import { Cause, Clock, Context, Duration, Effect, Exit, type Fiber, Latch, Scheduler } from "effect"
import type { Consumer } from "../broker/Broker.ts"
import type { BrokerError } from "../broker/BrokerError.ts"
import type { Capabilities, Lease, Sink } from "../broker/Driver.ts"
import type { Classified } from "../model/Failure.ts"
import type { Delivery, Outgoing } from "../model/Message.ts"
import * as Outcome from "../model/Outcome.ts"
import * as After from "../pipeline/After.ts"
import { isDone } from "../pipeline/Eager.ts"
import { type Batch, type Lane, Tenure } from "./Tenure.ts"

/** Milliseconds of handlers after which other work of the event loop gets its turn. */
const slice = 5

/** Milliseconds for what was interrupted to end, and as many for the last call to the broker. */
const farewell = 1000

/** What a message that keeps failing has cost so far. */
interface Held {
  since: number
  settledBefore: number
  failures: number
  /** Since when it waits a time that it named itself, which costs nothing. */
  excused: { readonly at: number; readonly settled: number } | undefined
}

interface Running {
  readonly delivery: Delivery
  readonly since: number
}

/** Messages that wait for one durable effect. */
interface Waiting {
  readonly effect: Effect.Effect<void, Classified>
  readonly lane: Lane | "late" | undefined
  of: Array<{ readonly delivery: Delivery; readonly outcome: Outcome.Outcome }>
  fiber: Fiber.Fiber<void, Classified> | undefined
}

/** What the worker needs of its broker. */
export interface Doors {
  readonly capabilities: Capabilities
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>
  /** A broker that refuses to be told: its source is started again. */
  readonly failed: (error: unknown) => void
}

export class Worker<R> {
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
  private readonly random: () => number
  private readonly dispatcher: Scheduler.SchedulerDispatcher
  private waking = false
  private readonly limit: number
  /** The broker holds what waits for its next attempt: nothing here counts its failures, and no lane waits for it. */
  private readonly isDelayed: boolean
  private readonly intake: Array<Batch> = []
  private intakeHead = 0
  private offset = 0
  private began = 0
  // how many messages go between two looks at the clock
  private stride = 1
  private left = 1
  private readonly ready: Array<Lane> = []
  private readonly loose: Array<Delivery> = []
  private readonly dirty: Array<Tenure> = []
  private readonly fibers = new Map<Fiber.Fiber<unknown, unknown>, Running>()
  private readonly timers = new Map<Fiber.Fiber<void>, Delivery>()
  private readonly letters = new Set<Fiber.Fiber<void, BrokerError>>()
  private readonly waits = new Set<Waiting>()
  // those whose lanes went on, by what they wait for
  private readonly durable = new Map<Effect.Effect<void, Classified>, Waiting>()
  private readonly held = new Map<Delivery, Held>()
  private readonly keepers = new Map<Tenure, Fiber.Fiber<never, BrokerError>>()
  private readonly errors = new WeakMap<Delivery, unknown>()
  // whose handler is being called; a lease may end in the middle of that call
  private calling: Tenure | undefined
  private isAwaited = false
  private readonly work = Latch.makeUnsafe(false)
  private readonly room = Latch.makeUnsafe(true)

  constructor(consumer: Consumer<R>, doors: Doors, context: Context.Context<R>, random: () => number) {
    this.consumer = consumer
    this.doors = doors
    this.context = context
    this.clock = Context.get(context, Clock.Clock)
    this.random = random
    this.dispatcher = Context.get(context, Scheduler.Scheduler).makeDispatcher()
    const { attempts, delay } = doors.capabilities
    this.isDelayed = delay && attempts && consumer.lanes._tag === "unordered"
    this.limit = consumer.lanes._tag === "partition" ? Number.POSITIVE_INFINITY : consumer.lanes.limit
  }

  // ---- from the driver

  open(lease: Lease): void {
    const tenure = new Tenure(lease)
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
    this.wake()
    const { bytes, messages } = this.consumer.inFlight
    if (!this.paused && this.pending < messages && this.pendingBytes < bytes) return Exit.void
    this.room.closeUnsafe()
    return this.room.await
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
    for (const [timer, delivery] of this.timers) if (tenureOf(delivery) === tenure) timer.interruptUnsafe()
    for (const delivery of this.held.keys()) if (tenureOf(delivery) === tenure) this.held.delete(delivery)
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
      return Effect.andThen(lost, Effect.timeoutOption(this.quiet(tenures), farewell)).pipe(Effect.asVoid)
    })
  }

  /** Nothing new; what runs may finish for a while; then it is interrupted, and the broker is told the last of it. */
  private revoke(tenure: Tenure): Effect.Effect<void> {
    return Effect.suspend(() => {
      tenure.stopped = true
      for (const [timer, delivery] of this.timers) if (tenureOf(delivery) === tenure) timer.interruptUnsafe()
      return this.finish([tenure], this.consumer.grace.revoke)
    }).pipe(Effect.andThen(Effect.sync(() => this.forget(tenure))))
  }

  private interrupt(tenure: Tenure): void {
    for (const [fiber, { delivery }] of this.fibers) if (tenureOf(delivery) === tenure) fiber.interruptUnsafe()
  }

  /** Waits no longer for what should become durable, nor for dead letters. */
  private giveUp(tenure: Tenure): void {
    for (const letter of this.letters) if (letterOf.get(letter) === tenure) letter.interruptUnsafe()
    for (const waiting of this.waits) {
      // others may wait for the same effect
      const left = waiting.of.filter(({ delivery }) => tenureOf(delivery) !== tenure)
      for (let i = left.length; i < waiting.of.length; i++) tenure.ended()
      waiting.of = left
      if (left.length > 0) continue
      this.endWait(waiting)
      waiting.fiber?.interruptUnsafe()
    }
  }

  /** Completes when no handler, durable effect or dead letter of them is awaited; the call that asks for it counts, too. */
  private quiet(tenures: ReadonlyArray<Tenure>): Effect.Effect<void> {
    const { calling } = this
    if (calling !== undefined && !this.isAwaited && tenures.includes(calling)) {
      this.isAwaited = true
      calling.began()
    }
    return Effect.forEach(tenures, (tenure) => tenure.whenQuiet, { concurrency: "unbounded", discard: true })
  }

  private finish(tenures: ReadonlyArray<Tenure>, limit: number): Effect.Effect<void> {
    const all = this.quiet(tenures)
    return Effect.timeoutOption(all, limit).pipe(
      Effect.flatMap((ended) => {
        if (ended._tag === "Some") return Effect.void
        for (const tenure of tenures) this.interrupt(tenure)
        return Effect.map(Effect.timeoutOption(all, farewell), () => {
          for (const tenure of tenures) this.giveUp(tenure)
        })
      }),
      Effect.andThen(
        Effect.forEach(tenures, (tenure) => this.last(tenure), { concurrency: "unbounded", discard: true })
      )
    )
  }

  /** The last words to the broker: what is left is given back, and the running call and the final one are awaited. */
  private last(tenure: Tenure): Effect.Effect<void> {
    return Effect.suspend(() => {
      for (const delivery of tenure.open()) tenure.release(delivery, Outcome.Release)
      // the call that runs may be followed by one that is not ours
      const words = Effect.andThen(
        tenure.whenStill,
        Effect.suspend(() => Effect.andThen(tenure.tell(), tenure.whenStill))
      )
      return Effect.asVoid(Effect.timeoutOption(Effect.ignore(words), farewell))
    })
  }

  /** Starts nothing any more, waits for what runs, interrupts the rest, and tells the broker the last of it. */
  drain(limit: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.draining = true
      for (const timer of this.timers.keys()) timer.interruptUnsafe()
      // and what runs on under a lease that was lost
      const running = Array.from(this.fibers.values(), ({ delivery }) => tenureOf(delivery))
      const tenures = Array.from(new Set([...this.tenures.values(), ...running]))
      for (const tenure of tenures) tenure.stopped = true
      this.room.openUnsafe()
      return Effect.andThen(
        this.finish(tenures, limit),
        Effect.sync(() => {
          for (const tenure of tenures) this.forget(tenure)
        })
      )
    })
  }

  pause(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.paused = true
      this.room.closeUnsafe()
      // a handler that pauses its own subscription is the last that starts: the slice is over
      this.left = 1
      this.began = Number.NEGATIVE_INFINITY
      return each(this.tenures.keys(), (lease) => lease.pause)
    })
  }

  resume(): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.paused = false
      this.makeRoom()
      this.wake()
      return each(this.tenures.keys(), (lease) => lease.resume)
    })
  }

  oldest(): Running | undefined {
    // in order of insertion, so the first is the oldest
    for (const running of this.fibers.values()) return running
    return undefined
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
    const own: Lane = { tenure, id, again: undefined, queue: [], head: 0 }
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
    const outcome = this.settle(exit)
    const { hooks } = delivery
    if (exit._tag === "Failure" && outcome._tag === "Retry") this.errors.set(delivery, Cause.squash(exit.cause))
    if (hooks === undefined) return this.apply(delivery, batch, outcome, lane)
    delivery.hooks = undefined
    const after = After.run(hooks, exit, outcome)
    if (isDone(after)) {
      return this.apply(delivery, batch, after._tag === "Success" ? outcome : this.settle(after), lane)
    }
    // an acknowledgement that waits to become durable keeps no lane shut: what fails to is handled again, late
    if (outcome._tag === "Ack" || outcome._tag === "Reject") {
      this.await(after, delivery, batch, outcome, "late")
      return true
    }
    this.await(after, delivery, batch, outcome, this.laneFor(delivery, batch.tenure, lane))
    return false
  }

  /** What an exit means; entries of a subscription are code of its user, and may throw. */
  private settle(exit: Exit.Exit<unknown, unknown>): Outcome.Outcome {
    try {
      return this.consumer.settle(exit)
    } catch (defect) {
      return Outcome.DeadLetter(defect)
    }
  }

  /** Waits for a durable effect: once for all the messages that wait for the same one. */
  private await(
    effect: Effect.Effect<void, Classified>,
    delivery: Delivery,
    batch: Batch,
    outcome: Outcome.Outcome,
    lane: Lane | "late" | undefined
  ): void {
    batch.tenure.began()
    const shared = lane === "late" ? this.durable.get(effect) : undefined
    if (shared !== undefined) {
      shared.of.push({ delivery, outcome })
      return
    }
    const waiting: Waiting = { effect, lane, of: [{ delivery, outcome }], fiber: undefined }
    this.waits.add(waiting)
    if (lane === "late") this.durable.set(effect, waiting)
    waiting.fiber = Effect.runForkWith(this.context)(effect)
    waiting.fiber.addObserver((exit) => {
      this.endWait(waiting)
      const failure = exit._tag === "Failure" ? this.settle(exit) : undefined
      for (const one of waiting.of) {
        const own = one.delivery.slot as Batch
        if (this.apply(one.delivery, own, failure ?? one.outcome, lane) && lane !== "late") this.proceed(lane)
        this.touch(own.tenure)
        own.tenure.ended()
      }
      this.wake()
    })
  }

  private endWait(waiting: Waiting): void {
    this.waits.delete(waiting)
    if (this.durable.get(waiting.effect) === waiting) this.durable.delete(waiting.effect)
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
    if (this.held.size > 0) this.held.delete(delivery)
    this.settled++
    if (this.tenures.get(tenure.lease) !== tenure) return
    this.pending--
    this.pendingBytes -= delivery.payload.length
    this.makeRoom()
    if (!tenure.dirty) this.touch(tenure)
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
    const { tenure } = batch
    const now = this.clock.currentTimeMillisUnsafe()
    const own = outcome.after === undefined ? undefined : Duration.toMillis(outcome.after)
    let held = this.held.get(delivery)
    if (held?.excused !== undefined) {
      held.since += now - held.excused.at
      held.settledBefore += tenure.settled - held.excused.settled
      held.excused = undefined
    }
    if (own === undefined) {
      if (held === undefined) {
        this.held.set(delivery, held = { since: now, settledBefore: tenure.settled, failures: 0, excused: undefined })
      }
      // what comes back from a broker that delays is another delivery, and the broker has counted
      held.failures = this.isDelayed ? delivery.attempts : held.failures + 1
      const { age, attempts, span } = this.consumer.hold
      const spent = held.failures >= attempts
        ? `${held.failures} attempts failed`
        : now - held.since >= age
        ? `it failed for ${now - held.since} ms`
        : tenure.settled - held.settledBefore >= span
        ? `${tenure.settled - held.settledBefore} messages were settled ahead of it`
        : undefined
      if (spent !== undefined) {
        return this.bury(delivery, batch, Outcome.DeadLetter(this.lastError(delivery, spent)), lane)
      }
    } else if (held !== undefined) held.excused = { at: now, settled: tenure.settled }
    const after = own ?? this.backoff(held?.failures ?? 1)
    delivery.attempts++
    if (this.isDelayed) {
      this.done(delivery, batch, Outcome.Retry({ after }))
      return true
    }
    const wait = this.laneFor(delivery, tenure, lane)
    if (tenure.stopped || this.draining) return false
    const timer = Effect.runForkWith(this.context)(Effect.sleep(after))
    this.timers.set(timer, delivery)
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
    } else other.queue.splice(other.head, 0, delivery)
  }

  private lastError(delivery: Delivery, spent: string): unknown {
    return this.errors.get(delivery) ?? new Error(`Given up: ${spent}`)
  }

  private backoff(failures: number): number {
    const { base, cap, factor, jitter } = this.consumer.backoff
    const plain = Math.min(cap, base * factor ** (failures - 1))
    return plain * (1 + jitter * (2 * this.random() - 1))
  }

  /** Writes a dead letter; until the broker has it, the message stays unsettled and its lane shut, and it does not run again. */
  private bury(
    delivery: Delivery,
    batch: Batch,
    outcome: Outcome.DeadLetter,
    lane: Lane | "late" | undefined
  ): boolean {
    const { tenure } = batch
    if (this.doors.capabilities.deadLetter) {
      this.done(delivery, batch, outcome)
      return true
    }
    const letter = this.consumer.deadLetter(delivery, outcome.error, this.clock.currentTimeMillisUnsafe())
    const written = this.publish(letter)
    if (isDone(written) && written._tag === "Success") {
      this.done(delivery, batch, outcome)
      return true
    }
    const own = this.laneFor(delivery, tenure, lane)
    tenure.began()
    const fiber = Effect.runForkWith(this.context)(this.insist(letter, written))
    this.letters.add(fiber)
    letterOf.set(fiber, tenure)
    fiber.addObserver((exit) => {
      this.letters.delete(fiber)
      if (exit._tag === "Success") {
        this.done(delivery, batch, outcome)
        this.proceed(own)
      }
      this.touch(tenure)
      tenure.ended()
      this.wake()
    })
    return false
  }

  private publish(letter: Outgoing<Uint8Array>): Effect.Effect<void, BrokerError> {
    try {
      return this.doors.publish([letter])
    } catch (defect) {
      return Exit.die(defect)
    }
  }

  /** Writes until it is written, whatever went wrong; it ends otherwise only when it is interrupted. */
  private insist(
    letter: Outgoing<Uint8Array>,
    written: Effect.Effect<void, BrokerError>
  ): Effect.Effect<void, BrokerError> {
    const attempt = (effect: Effect.Effect<void, BrokerError>, n: number): Effect.Effect<void, BrokerError> =>
      Effect.catchCause(
        effect,
        (cause) =>
          Effect.logError(`The dead letter of ${this.consumer.name} could not be written; its message waits`, cause)
            .pipe(
              Effect.andThen(Effect.sleep(this.backoff(n))),
              Effect.andThen(Effect.suspend(() => attempt(this.publish(letter), n + 1)))
            )
      )
    return attempt(written, 1)
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

  /** Goes on with a lane until a message of it is not finished, nothing is left of it, or the slice is over. */
  private follow(lane: Lane): void {
    const { queue, tenure } = lane
    if (tenure.lanes.get(lane.id) !== lane) return
    if (lane.again !== undefined) {
      const delivery = lane.again
      lane.again = undefined
      if (!this.start(delivery, delivery.slot as Batch, lane)) return
    }
    while (lane.head < queue.length) {
      if (this.active >= this.limit || this.over()) {
        this.ready.push(lane)
        return
      }
      const delivery = queue[lane.head++]!
      if (lane.head > 256) {
        queue.splice(0, lane.head)
        lane.head = 0
      }
      if (!this.start(delivery, delivery.slot as Batch, lane)) return
    }
    tenure.lanes.delete(lane.id)
  }

  /** Whether the slice is over: looks at the clock seldom where messages are quick. */
  private over(): boolean {
    if (--this.left > 0) return false
    if (this.clock.currentTimeMillisUnsafe() - this.began >= slice) {
      this.left = 1
      return true
    }
    if (this.stride < 64) this.stride *= 2
    this.left = this.stride
    return false
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
    this.began = this.clock.currentTimeMillisUnsafe()
    this.stride = 1
    this.left = 1
    const over = !this.paused && !this.draining && (this.runLoose() || this.runReady() || this.runIntake())
    this.tellAll()
    return over ? Effect.yieldNow : this.work.await
  }

  private runLoose(): boolean {
    while (this.loose.length > 0 && this.active < this.limit) {
      const delivery = this.loose.pop()!
      this.start(delivery, delivery.slot as Batch, undefined)
      if (this.over()) return true
    }
    return false
  }

  private runReady(): boolean {
    while (this.ready.length > 0 && this.active < this.limit) {
      this.follow(this.ready.shift()!)
      if (this.over()) return true
    }
    return false
  }

  private runIntake(): boolean {
    while (this.intakeHead < this.intake.length && this.active < this.limit) {
      const batch = this.intake[this.intakeHead]!
      const { deliveries, tenure } = batch
      const { lanes } = tenure
      if (tenure.stopped) this.offset = deliveries.length
      while (this.offset < deliveries.length && this.active < this.limit) {
        const delivery = deliveries[this.offset++]!
        const lane = lanes.size === 0 ? undefined : lanes.get(this.laneId(delivery))
        if (lane === undefined) this.start(delivery, batch, undefined)
        else lane.queue.push(delivery)
        if (this.over()) return true
      }
      if (this.offset === deliveries.length) {
        this.offset = 0
        this.intakeHead++
      }
    }
    if (this.intakeHead > 32) {
      this.intake.splice(0, this.intakeHead)
      this.intakeHead = 0
    }
    return false
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

// which lease a dead letter is written for: interrupted with it
const letterOf = new WeakMap<Fiber.Fiber<void, BrokerError>, Tenure>()

const tenureOf = (delivery: Delivery): Tenure => (delivery.slot as Batch).tenure

const each = (leases: Iterable<Lease>, pick: (lease: Lease) => Effect.Effect<void> | undefined): Effect.Effect<void> =>
  Effect.forEach(Array.from(leases), (lease) => pick(lease) ?? Effect.void, { discard: true })
