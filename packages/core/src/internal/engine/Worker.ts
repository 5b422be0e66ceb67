/**
 * Runs the messages of one subscription: each on the engine's own fiber until it suspends, then on a fiber of its own. Then it
 * carries out the decision of `RetryPolicy`.
 *
 * Each rule of settlement has its class: `RetryPolicy` decides about a message; `Lanes` keeps order; `Dispatcher` is the loop
 * that starts messages; `Handlers` holds the fibers of started messages; `Room` is backpressure; `Claims` extends claims;
 * `PendingEffects` waits for durable effects; `DeadLetterWriter` publishes dead letters and delayed retries; `LeaseState` counts
 * settled messages and reports them to the broker; `endLeases` ends leases.
 *
 * | latch                  | closes when                                      | opens when                                   | resumes            |
 * | ---------------------- | ------------------------------------------------ | -------------------------------------------- | ------------------ |
 * | `Dispatcher.work`      | a turn of the loop begins                        | a message may start, or has ended            | the loop           |
 * | `LeaseState.room`      | the room of a lease is used up; on pause         | half of its room is free; on resume          | `Sink.offer`       |
 * | `LeaseState.slack`     | `span` messages are settled beyond an unsettled one | half of them are committed                | `Sink.offer`       |
 * | `LeaseState.clear`     | a batch is received                              | its last message is settled                  | `Sink.settled`     |
 * | `LeaseState.quiet`     | a handler suspends; effect or dead letter begins | the last of them has ended                   | drain and revoke   |
 * | `LeaseState.still`     | a commit or settle call begins                   | the broker has answered                      | drain and revoke   |
 *
 * `room`, `slack` and `clear` also open when their lease ends.
 */
import { Cause, Clock, Context, Effect, Exit, type Fiber, type Scope } from "effect"
import type { Consumer } from "../../broker/Broker.ts"
import type { BrokerError } from "../../driver/BrokerError.ts"
import type { Capabilities, Lease, Sink } from "../../driver/Driver.ts"
import type { Classified } from "../../message/Failure.ts"
import { tagOf } from "../../message/Failure.ts"
import type { Delivery, Hook, Outgoing } from "../../message/Message.ts"
import * as Outcome from "../../message/Outcome.ts"
import * as After from "../../pipeline/After.ts"
import { destinationOf } from "../../telemetry/Conventions.ts"
import * as Counters from "../../telemetry/Counters.ts"
import { effectOf, isDone } from "../../pipeline/Eager.ts"
import { DeadLetterWriter, type Leaving, type Written } from "./DeadLetterWriter.ts"
import { Dispatcher } from "./Dispatcher.ts"
import { log } from "./guard.ts"
import { Handlers, type Running } from "./Handlers.ts"
import { Lanes } from "./Lanes.ts"
import { type Batch, type Lane, leaseOf, LeaseState } from "./LeaseState.ts"
import { Leases } from "./Leases.ts"
import { closed, type MessageScope, MessageScopes } from "./MessageScopes.ts"
import { PendingEffects, type Waiting } from "./PendingEffects.ts"
import { ChannelRetries, type RetryTier } from "./RetryChannels.ts"
import * as Retrying from "./RetryPolicy.ts"
import { type InFlight, StallMonitor } from "./stalls.ts"

/** The worker's interface to its broker. */
export interface BrokerPort {
  readonly capabilities: Capabilities
  readonly publish: (batch: ReadonlyArray<Outgoing<Uint8Array>>) => Effect.Effect<void, BrokerError>
  /** Called when the source must restart: the broker refuses a commit, or internal code threw. */
  readonly failed: (error: unknown) => void
  /** Called after a failure that the engine itself retries. */
  readonly noted: (error: unknown) => void
}

const policyOf = (
  consumer: Retrying.Limits & Pick<Consumer<never>, "lanes">,
  capabilities: Capabilities,
  random: () => number,
  tier: RetryTier | undefined
): Retrying.RetryPolicy => {
  // a dead letter written by the broker names the channel it was read from, which must be the subscription's own
  const isLetterWritten = capabilities.deadLetter && (tier === undefined || tier.tier === 0)
  if (tier !== undefined) return new ChannelRetries(consumer, isLetterWritten, tier)
  return Retrying.brokerDelays(capabilities, consumer)
    ? new Retrying.BrokerDelayedRetries(consumer, isLetterWritten, random)
    : new Retrying.HeldRetries(consumer, isLetterWritten, random)
}

export class Worker<R> {
  readonly leases: Leases
  readonly stalls: StallMonitor
  settled = 0
  /** Number of commit and settle calls confirmed by the broker. */
  confirmations = 0
  deadLetters = 0
  dropped = 0
  draining = false
  paused = false

  private readonly consumer: Consumer<R>
  private readonly port: BrokerPort
  private readonly context: Context.Context<R>
  private readonly clock: Clock.Clock
  private readonly tier: RetryTier | undefined
  private readonly handlers: Handlers
  private readonly dispatcher: Dispatcher
  private readonly lanes: Lanes
  private readonly policy: Retrying.RetryPolicy
  private readonly effects: PendingEffects<R>
  private readonly writer: DeadLetterWriter<R>
  private readonly scopes: MessageScopes<R>

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
    this.tier = tier
    this.leases = new Leases({
      context,
      consumer,
      interrupt: (lease) => this.handlers.interrupt(lease),
      cancel: (lease) => this.handlers.cancel(lease),
      giveUp: (lease) => {
        this.writer.giveUp(lease)
        this.effects.giveUp(lease)
      },
      forget: (lease) => this.forget(lease),
      calls: () => this.stalls.watch(),
      failed: port.failed,
      noted: port.noted
    })
    this.lanes = new Lanes(consumer.lanes)
    this.handlers = new Handlers(this.clock)
    this.dispatcher = new Dispatcher({
      context,
      clock: this.clock,
      lanes: this.lanes,
      limit: consumer.lanes._tag === "partition" ? Number.POSITIVE_INFINITY : consumer.lanes.limit,
      tier,
      mayStart: () => !this.paused && !this.draining,
      start: (delivery, batch, lane) => this.start(delivery, batch, lane),
      turned: () => {
        this.leases.tellAll()
        this.leases.room.update()
      }
    })
    this.policy = policyOf(consumer, port.capabilities, random, tier)
    this.effects = new PendingEffects(context, this.clock, (waiting, exit) => this.durable(waiting, exit))
    this.writer = new DeadLetterWriter(context, {
      consumer,
      publish: port.publish,
      instructions: port.capabilities.instructions,
      backoff: (failures) => Retrying.backoff(consumer.backoff, failures, random),
      clock: this.clock,
      failed: port.noted
    })
    this.scopes = new MessageScopes(context)
    this.stalls = new StallMonitor(consumer, context, this.clock, {
      inFlight: () => this.inFlight(),
      leases: () => this.leases.all.values()
    })
  }

  // ---- calls from the driver

  private open(lease: Lease): void {
    const told = () => {
      this.confirmations++
    }
    this.leases.open(new LeaseState(lease, this.consumer.hold.span, this.clock, told))
  }

  private offer(lease: Lease, deliveries: ReadonlyArray<Delivery>): Effect.Effect<void> {
    const state = this.leases.all.get(lease)
    if (state === undefined || state.stopped || deliveries.length === 0) return Exit.void
    this.dispatcher.push(state.take(deliveries))
    // messages that run immediately may end their own lease
    if (state.stopped) return Exit.void
    const slack = state.whenSlack
    this.leases.room.check(state)
    return Effect.flatMapEager(slack, () => state.whenRoom)
  }

  sink(signs: { readonly ready: () => void; readonly polled: () => void }): Sink {
    return {
      ready: signs.ready,
      polled: signs.polled,
      open: (lease) => this.open(lease),
      offer: (lease, batch) => this.offer(lease, batch),
      settled: (lease) => this.leases.all.get(lease)?.whenClear ?? Exit.void,
      close: (lease, how) => this.leases.close(lease, how)
    }
  }

  private forget(lease: LeaseState): void {
    this.handlers.cancel(lease)
    this.dispatcher.forget(lease)
    this.policy.forget(lease)
  }

  // ---- calls from the source

  /** Starts no more messages, waits for running handlers, interrupts the rest, and settles the last outcomes. */
  drain(limit: number): Effect.Effect<void> {
    return Effect.suspend(() => {
      this.draining = true
      this.handlers.cancelAll()
      this.dispatcher.end()
      // handlers and hooks of a lost lease may still run
      const lost = [...this.handlers.leases(), ...this.effects.leases()]
      const leases = Array.from(new Set([...this.leases.all.values(), ...lost]))
      return Effect.andThen(this.leases.end(leases, limit), Effect.sync(() => this.stalls.end()))
    })
  }

  pause(): void {
    this.paused = true
    this.leases.room.shut()
    // a handler that pauses its own subscription is the last one started: the slice is over
    this.dispatcher.endSlice()
    this.leases.turn()
  }

  resume(): void {
    this.paused = false
    this.leases.room.open()
    this.dispatcher.wake()
    this.leases.turn()
  }

  get active(): number {
    return this.dispatcher.active
  }

  readonly loop: Effect.Effect<never> = Effect.suspend(() => {
    this.scopes.enter()
    return this.dispatcher.loop
  })

  oldest(): Running | undefined {
    return this.handlers.oldest()
  }

  /** Lists the messages that have started and are not settled. */
  *inFlight(): Generator<InFlight> {
    yield* this.handlers.inFlight(this.lanes, this.policy)
    yield* this.writer.inFlight()
    yield* this.effects.inFlight()
  }

  // ---- one message

  /** Runs a message until it finishes or suspends; true if it is finished and its lane may continue. */
  private start(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    const { lease } = batch
    if (lease.stopped || this.draining) return false
    this.leases.entered(lease)
    let isFinished = false
    try {
      isFinished = this.call(delivery, batch, lane)
    } catch (defect) {
      this.port.failed(defect)
    }
    this.leases.left(lease)
    return isFinished
  }

  private call(delivery: Delivery, batch: Batch, lane: Lane | undefined): boolean {
    const own = this.scopes.next
    const effect = this.handled(delivery)
    if (isDone(effect)) return this.finish(delivery, batch, effect, lane, own.scope)
    const fiber = Effect.runForkWith(own.context)(effect)
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) return this.finish(delivery, batch, exit, lane, own.scope)
    this.scopes.rotate()
    this.suspend(fiber, delivery, batch, lane, own)
    return false
  }

  private handled(delivery: Delivery): Effect.Effect<unknown, unknown, R> {
    try {
      return effectOf(this.consumer.handle(delivery))
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
    own: MessageScope<R>
  ): void {
    const { lease } = batch
    const held = this.lanes.hold(delivery, lane)
    this.dispatcher.active++
    lease.began()
    this.stalls.watch()
    this.handlers.running(fiber, delivery)
    fiber.addObserver((exit) => {
      // as `guarded`, without one more closure for each message
      try {
        this.handlers.ended(fiber)
        this.dispatcher.active--
        if (this.complete(delivery, batch, exit, held, own.scope)) this.lanes.proceed(held)
        this.scopes.free(own)
        lease.ended()
        this.dispatcher.wake()
      } catch (defect) {
        this.port.failed(defect)
      }
    })
  }

  /** Runs the observer of a fiber. A throw there would end the process; here it restarts the source. */
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
    const close = scope && closed(scope, exit)
    if (delivery.hooks === undefined && close === undefined) {
      if (verdict !== Retrying.acknowledged) return this.apply(delivery, batch, verdict, lane)
      this.done(delivery, batch, Outcome.Ack)
      return true
    }
    const hooks = delivery.hooks ?? []
    delivery.hooks = undefined
    const after = close === undefined
      ? After.run(hooks, exit, verdict.outcome)
      : this.closing(delivery, close, hooks, exit, verdict)
    if (isDone(after)) return this.apply(delivery, batch, this.revised(delivery, verdict, after), lane)
    // an acknowledgement waiting to be durable blocks no lane: if the effect fails, the message is handled again, out of order
    const isLate = verdict.outcome._tag === "Ack" || verdict.outcome._tag === "Reject"
    this.effects.add(after, delivery, verdict, isLate ? "late" : this.lanes.hold(delivery, lane))
    this.stalls.watch()
    return isLate
  }

  /**
   * Closes the scope of a message and then runs its hooks, even if its lease ends in the meantime. A failing finalizer decides
   * the outcome of the message, unless the message runs again, and the hooks receive that outcome.
   */
  private closing(
    delivery: Delivery,
    close: Effect.Effect<void>,
    hooks: ReadonlyArray<Hook>,
    exit: Exit.Exit<unknown, unknown>,
    verdict: Retrying.Verdict
  ): Effect.Effect<void, Classified> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(Effect.exit(close), (end) => {
        if (end._tag === "Failure") this.port.noted(Cause.squash(end.cause))
        if (end._tag === "Success" || verdict.outcome._tag === "Retry") {
          return restore(After.run(hooks, exit, verdict.outcome))
        }
        const after = After.run(hooks, end, this.decide(delivery, end).outcome)
        return Effect.andThen(Effect.exit(restore(after)), end)
      })
    )
  }

  /** Makes the one decision on an attempt. It calls user code of the subscription and readers of the driver, which may throw. */
  private decide(delivery: Delivery, exit: Exit.Exit<unknown, unknown>): Retrying.Verdict {
    try {
      const outcome: unknown = this.consumer.settle(exit)
      if (outcome === Outcome.Ack) return Retrying.acknowledged
      if (!Outcome.isOutcome(outcome)) throw noOutcome(outcome)
      const error = exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined
      const isReleased = outcome._tag === "Release" && !this.draining && !leaseOf(delivery).stopped
      const now = this.clock.currentTimeMillisUnsafe()
      // a released message returns with its lease; outside of a drain or a revoke it is retried
      return this.policy.decide(delivery, isReleased ? Outcome.Retry() : outcome, error, now)
    } catch (defect) {
      return { _tag: "GiveUp", outcome: Outcome.DeadLetter(defect) }
    }
  }

  /**
   * Revises a verdict: a failing hook settles the message by its own error, regardless of the chain's result. A message that
   * runs again keeps its verdict, with the wait named by its own error, and its hooks run again, too.
   */
  private revised(
    delivery: Delivery,
    verdict: Retrying.Verdict,
    after: Exit.Exit<void, Classified>
  ): Retrying.Verdict {
    const isKept = after._tag === "Success" || verdict.outcome._tag === "Retry"
    return isKept ? verdict : this.decide(delivery, after)
  }

  /** Applies the verdicts of messages whose awaited effect has ended. */
  private durable({ lane, messages }: Waiting, exit: Exit.Exit<void, Classified>): void {
    for (const { delivery, verdict } of messages) {
      this.guarded(() => {
        const batch = delivery.slot as Batch
        if (this.apply(delivery, batch, this.revised(delivery, verdict, exit), lane)) this.lanes.proceed(lane)
        batch.lease.ended()
      })
    }
    this.dispatcher.wake()
  }

  /** Carries out the verdict; true if the lane may continue. */
  private apply(
    delivery: Delivery,
    batch: Batch,
    verdict: Retrying.Verdict,
    lane: Lane | "late" | undefined
  ): boolean {
    if (batch.lease.lost) return false
    switch (verdict._tag) {
      case "Settle":
        this.tell(delivery, batch, verdict)
        return true
      case "Hold":
        this.countRetry(delivery, verdict.cost.error, verdict.outcome)
        this.policy.held(delivery, verdict)
        return this.hold(delivery, verdict.after, lane)
      case "Publish": {
        const { error, outgoing } = verdict
        this.countRetry(delivery, error, verdict.outcome)
        return this.leave({ kind: "delayed retry", delivery, compose: () => outgoing }, batch, Outcome.Ack, lane, error)
      }
      case "GiveUp":
        return this.deadLetter(delivery, batch, verdict.outcome, lane)
    }
  }

  private tell(delivery: Delivery, batch: Batch, { error, outcome }: Retrying.Settle): void {
    if (outcome._tag === "Release") {
      // the lease has stopped or drains: no later message of the key starts any more
      batch.lease.release(delivery, outcome)
      this.leases.touch(batch.lease)
      return
    }
    if (outcome._tag === "Retry") {
      this.countRetry(delivery, error, outcome)
      // a driver stores the count with a message that it delays
      delivery.attempts++
    }
    if (outcome._tag === "DeadLetter") this.reportDeadLetter(delivery, outcome.error)
    this.done(delivery, batch, outcome)
  }

  private done(delivery: Delivery, batch: Batch, outcome: Outcome.Outcome): void {
    const { lease } = batch
    if (!lease.settle(delivery, batch, outcome)) return
    this.policy.settled(delivery)
    this.settled++
    this.leases.touch(lease)
  }

  /** Keeps a message in its lane until its next attempt. */
  private hold(delivery: Delivery, after: number, lane: Lane | "late" | undefined): boolean {
    delivery.attempts++
    const own = this.lanes.hold(delivery, lane)
    if (leaseOf(delivery).stopped || this.draining) return false
    const timer = Effect.runForkWith(this.context)(Effect.sleep(after))
    this.stalls.watch()
    this.handlers.waiting(timer, delivery, own, () => {
      this.lanes.again(delivery, own)
      this.dispatcher.wake()
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

  /** Publishes a copy. Until the broker confirms it, the message is unsettled, blocks its lane, and does not run again. */
  private leave(
    leaving: Leaving,
    batch: Batch,
    outcome: Outcome.Outcome,
    lane: Lane | "late" | undefined,
    error: unknown
  ): boolean {
    const { delivery } = leaving
    const first = this.writer.publish(leaving)
    if (first === true) {
      this.left(leaving, batch, outcome, error)
      return true
    }
    const own = this.lanes.hold(delivery, lane)
    // a message whose lane has continued must not take the lane from messages that run now
    const kept = lane === "late" ? lane : own
    this.stalls.watch()
    this.writer.confirm(leaving, first, own, (exit) =>
      this.guarded(() => {
        if (exit._tag === "Success") this.confirmed(exit.value, leaving, batch, outcome, kept, error)
        batch.lease.ended()
        this.dispatcher.wake()
      }))
    return false
  }

  private confirmed(
    written: Written,
    leaving: Leaving,
    batch: Batch,
    outcome: Outcome.Outcome,
    lane: Lane | "late" | undefined,
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
      Counters.countDropped(this.context, destinationOf(delivery), tagOf(error))
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

  // ---- reports of failures to users, regardless of their middlewares

  private countRetry(delivery: Delivery, error: unknown, outcome: Outcome.Outcome): void {
    if (this.tier?.channels.isEarly(outcome) === true) return
    Counters.countRetry(this.context, destinationOf(delivery), error === undefined ? "Retry" : tagOf(error))
  }

  private reportDeadLetter(delivery: Delivery, error: unknown): void {
    this.deadLetters++
    Counters.countDeadLetter(this.context, destinationOf(delivery), tagOf(error))
    const text = `A message of ${delivery.channel} became a dead letter of ${this.consumer.name}`
    log(this.context, Effect.annotateLogs(Effect.logWarning(text), placeOf(delivery, error)))
  }
}

const noOutcome = (answer: unknown): TypeError =>
  new TypeError(`An entry of settle answered ${typeof answer} instead of an outcome`)

const placeOf = (delivery: Delivery, error: unknown) => ({
  channel: delivery.channel,
  partition: delivery.partition,
  position: delivery.position,
  attempt: delivery.attempt,
  error: tagOf(error)
})
