/**
 * One source of messages: connects, restarts after a failure with a doubling wait, and drains.
 */
import { Cause, Clock, Context, Deferred, Effect, Exit, Fiber, Option, Scope } from "effect"
import { type Consumer, type Health, shownLanes } from "../../broker/Broker.ts"
import { type BrokerError, make as failure } from "../../driver/BrokerError.ts"
import type { Driver } from "../../driver/Driver.ts"
import { called, isFault, logged } from "./guard.ts"
import type { RetryTier } from "./RetryChannels.ts"
import { keyOf, laneHealth } from "./stalls.ts"
import { Worker } from "./Worker.ts"

/** The largest batch requested from a driver, in messages. */
const longest = 512

/** A driver's time to stop reading, unless the drain allows more, and its time to close; each in milliseconds. */
const closing = 5000

export class Source<R> {
  state: Health["state"] = "starting"
  lastPoll: number | undefined
  restarts = 0
  lastError: unknown
  private fiber: Fiber.Fiber<void, BrokerError> | undefined
  private readonly driver: Driver
  private readonly consumer: Consumer<R>
  private readonly clock: Clock.Clock
  private readonly started = Deferred.makeUnsafe<void, BrokerError>()
  // when the current connection became ready, and how much was done by then
  private ready: { readonly at: number; readonly done: number } | undefined
  readonly worker: Worker<R>

  constructor(
    driver: Driver,
    consumer: Consumer<R>,
    context: Context.Context<R>,
    random: () => number,
    tier?: RetryTier | undefined
  ) {
    this.driver = driver
    this.consumer = consumer
    this.clock = Context.get(context, Clock.Clock)
    this.worker = new Worker(
      consumer,
      {
        capabilities: driver.capabilities,
        publish: driver.publish,
        // a restart of the source causes redelivery of the unsettled messages
        failed: (error) => {
          this.lastError = error
          this.fiber?.interruptUnsafe()
        },
        noted: (error) => {
          this.lastError = error
        }
      },
      context,
      random,
      tier
    )
  }

  /** Completes when the source is ready; fails with the error that kept it from starting. */
  get whenStarted(): Effect.Effect<void, BrokerError> {
    return Deferred.await(this.started)
  }

  /**
   * Starts the fibers of the source. The returned effect drains the source; the caller must set the worker's `draining` before,
   * so that no message starts in the meantime. Both fibers are guarded: a defect that ends one is stored in `lastError`, and
   * the fiber restarts.
   */
  start(context: Context.Context<R>): Effect.Effect<void> {
    const lives = this.keep(this.run(), context)
    const loop = this.keep(this.worker.loop, context)
    return Effect.suspend(() => {
      // here, because a run interrupted before its first step runs no finalizer
      Deferred.doneUnsafe(this.started, Exit.fail(this.neverReady()))
      return Effect.asVoid(Effect.andThen(Fiber.interrupt(lives), Fiber.interrupt(loop)))
    })
  }

  /** Runs an effect in a fiber, and restarts it after a defect. */
  private keep(effect: Effect.Effect<void, never, R>, context: Context.Context<R>): Fiber.Fiber<void> {
    const again = (exit: Exit.Exit<void>): Effect.Effect<void, never, R> => {
      if (!isFault(exit)) return Effect.void
      const defect = Cause.squash(exit.cause)
      this.lastError = defect
      this.fiber?.interruptUnsafe()
      const line = logged(Effect.logError(`The engine of ${this.consumer.name} failed; it starts again`, exit.cause))
      return Effect.andThen(line, Effect.sleep(Math.max(1, this.consumer.restart.base))).pipe(Effect.andThen(forever))
    }
    const forever: Effect.Effect<void, never, R> = Effect.flatMap(Effect.exit(effect), again)
    return Effect.runForkWith(context)(forever)
  }

  /** Runs the source once, from connection to end; leases still open at the end are lost. */
  private life(): Effect.Effect<Exit.Exit<void, BrokerError>> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen({ self: this }, function*() {
        const scope = yield* Scope.make()
        this.ready = undefined
        const sink = this.worker.sink({
          ready: () => {
            this.lastPoll = this.clock.currentTimeMillisUnsafe()
            this.ready ??= { at: this.lastPoll, done: this.done }
            if (this.state !== "draining") this.state = this.worker.paused ? "paused" : "running"
            Deferred.doneUnsafe(this.started, Exit.void)
          },
          polled: () => {
            this.lastPoll = this.clock.currentTimeMillisUnsafe()
          }
        })
        const { channel, from, group, inFlight, lanes, name, pattern } = this.consumer
        const options = {
          channel,
          pattern,
          group,
          handler: name,
          from,
          ordered: lanes._tag !== "unordered",
          temporary: this.consumer.temporary === true,
          lanes: lanes._tag,
          messages: inFlight.messages,
          // a longer batch would be received as a whole, beyond the limit in flight
          batch: Math.min(longest, inFlight.messages),
          bytes: inFlight.bytes
        }
        // on its own fiber, which a refused commit interrupts: a driver may offer in the middle of this call
        const consume = Effect.suspend(() => called(() => this.driver.consume(options, sink)))
        // detached, not a child: a fiber ends only after its children, and a driver may never end
        const fiber = yield* Effect.forkDetach(restore(Scope.provide(consume, scope)))
        this.fiber = fiber
        const exit = yield* restore(Fiber.await(fiber)).pipe(
          Effect.onInterrupt(() => this.stop(fiber, scope))
        )
        yield* this.worker.leases.loseAll()
        yield* this.close(scope, exit)
        return exit
      })
    )
  }

  /** Stops the intake, waits for running handlers, settles the last outcomes, and only then leaves the group. */
  private stop(fiber: Fiber.Fiber<void, BrokerError>, scope: Scope.Closeable): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      this.state = "draining"
      const { drain } = this.consumer.grace
      yield* this.within(Math.max(closing, drain), "stop", Fiber.interrupt(fiber))
      yield* this.worker.drain(drain)
      yield* this.close(scope, Exit.void)
      this.state = "stopped"
    })
  }

  /** Closes the driver; a finalizer that throws, or never ends, must not stop the source. */
  private close(scope: Scope.Closeable, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> {
    return this.within(
      closing,
      "close",
      Effect.matchCause(Scope.close(scope, exit), {
        onSuccess: () => {},
        onFailure: (cause) => {
          this.lastError = Cause.squash(cause)
        }
      })
    )
  }

  /** Waits at most `limit` milliseconds for the driver; a slower driver is left running, and a Warn line reports it. */
  private within(limit: number, step: "stop" | "close", effect: Effect.Effect<void>): Effect.Effect<void> {
    return Effect.forkDetach(effect, { startImmediately: true }).pipe(
      Effect.flatMap((fiber) => Effect.timeoutOption(Fiber.await(fiber), limit)),
      Effect.flatMap((ended) => {
        if (Option.isSome(ended)) return Effect.void
        const text = `The ${this.driver.system} driver of ${this.consumer.name} did not ${step} within ${limit} ms`
        return logged(Effect.logWarning(`${text}; the source goes on without it`))
      })
    )
  }

  /** Restarts the source until interrupted. If the first start fails, the caller gets the error. */
  private run(): Effect.Effect<void> {
    const { base, cap } = this.consumer.restart
    const once = (wait: number): Effect.Effect<void> =>
      Effect.flatMap(this.life(), (exit) => {
        const isStarted = Deferred.isDoneUnsafe(this.started)
        if (isFault(exit)) {
          this.lastError = Cause.squash(exit.cause)
          if (!isStarted) return Effect.asVoid(Deferred.done(this.started, exit))
        }
        this.state = "restarting"
        this.restarts++
        const next = this.hasProven() ? base : wait
        const text = `The source of ${this.consumer.name} ended; it starts again in ${next} ms`
        return logged(Effect.logWarning(text, this.lastError ?? "connection closed")).pipe(
          Effect.andThen(Effect.sleep(next)),
          Effect.andThen(Effect.suspend(() => once(Math.min(cap, Math.max(1, next) * 2))))
        )
      })
    return Effect.onInterrupt(once(base), () =>
      Effect.suspend(() => {
        if (this.state === "stopped") return Effect.void
        // between two runs all running handlers were interrupted; they and their hooks may take time to end
        this.state = "draining"
        return Effect.andThen(
          this.worker.drain(this.consumer.grace.drain),
          Effect.sync(() => {
            this.state = "stopped"
          })
        )
      }))
  }

  private neverReady(): BrokerError {
    const message = `Subscription ${this.consumer.name} was drained before its source was ready.`
    return failure({ system: this.driver.system, operation: "consume", reason: "Lost", message })
  }

  /** A measure of progress: settlements confirmed by the broker; handled messages if the broker confirms none. */
  private get done(): number {
    return this.driver.capabilities.settlement === "none" ? this.worker.settled : this.worker.confirmations
  }

  /** Tells whether the source has proven to work: the last run made progress, or lasted for the longest restart wait. */
  private hasProven(): boolean {
    const { ready } = this
    if (ready === undefined) return false
    return this.done > ready.done ||
      this.clock.currentTimeMillisUnsafe() - ready.at >= this.consumer.restart.cap
  }

  /** Starts or stops the intake, synchronously. */
  turn(isOpen: boolean): void {
    if (isOpen && this.state === "paused") this.state = "running"
    if (!isOpen && this.state === "running") this.state = "paused"
    if (isOpen) this.worker.resume()
    else this.worker.pause()
  }

  health(): Omit<Health, "pauses" | "retries"> {
    const { worker } = this
    const oldest = worker.oldest()
    const leases = Array.from(worker.leases.all.values())
    return {
      name: this.consumer.name,
      system: this.driver.system,
      channel: this.consumer.channel,
      group: this.consumer.group,
      state: this.state,
      lastPoll: this.lastPoll,
      partitions: leases.map(({ lease }) => lease.partition).sort((a, b) => a - b),
      leases: leases.map((state) => ({
        channel: state.lease.channel ?? this.consumer.channel,
        partition: state.lease.partition,
        pending: state.unsettled,
        position: state.committed,
        settlingSince: state.settlingSince,
        oldestPublished: state.oldestPublished
      })),
      lanes: first(worker.inFlight(), shownLanes).map(laneHealth),
      stuck: worker.stalls.stuck().length,
      deadLetters: worker.deadLetters,
      dropped: worker.dropped,
      pending: worker.leases.room.pending,
      pendingBytes: worker.leases.room.pendingBytes,
      running: worker.active,
      settled: worker.settled,
      restarts: this.restarts,
      lastError: this.lastError,
      oldest: oldest && {
        key: keyOf(oldest.delivery),
        partition: oldest.delivery.partition,
        position: oldest.delivery.position,
        since: oldest.since
      }
    }
  }
}

const first = <A>(items: Iterable<A>, most: number): ReadonlyArray<A> => {
  const found: Array<A> = []
  for (const item of items) {
    if (found.length === most) return found
    found.push(item)
  }
  return found
}
