/**
 * The motor, one for every broker: turns a `Driver` into a `Broker`.
 */
import { Cause, Clock, Context, Deferred, Effect, Exit, Fiber, Layer, Random, Scope } from "effect"
import { Broker, type Consumer, Draining, type Health, type Running } from "../broker/Broker.ts"
import { type BrokerError, make as failure } from "../broker/BrokerError.ts"
import type { Driver } from "../broker/Driver.ts"
import { Worker } from "./Worker.ts"

/** The most messages that a driver is asked for at once. */
const longest = 512

/** Refuses what the broker cannot do, with a sentence that names the broker, the feature and the alternative. */
const refuse = (driver: Driver, consumer: Consumer<never>): BrokerError | undefined => {
  const unsupported = (message: string) =>
    failure({ system: driver.system, operation: "consume", reason: "Unsupported", message })
  const { capabilities } = driver
  if (consumer.lanes._tag === "partition" && capabilities.ordering === "none") {
    return unsupported(
      `${driver.system} keeps no order, so subscription ${consumer.name} cannot run by Lanes.partition: use Lanes.unordered.`
    )
  }
  return undefined
}

class Source<R> {
  state: Health["state"] = "starting"
  lastPoll: number | undefined
  restarts = 0
  lastError: unknown
  private fiber: Fiber.Fiber<void, BrokerError> | undefined
  private readonly driver: Driver
  private readonly consumer: Consumer<R>
  private readonly clock: Clock.Clock
  readonly worker: Worker<R>

  constructor(driver: Driver, consumer: Consumer<R>, context: Context.Context<R>, random: () => number) {
    this.driver = driver
    this.consumer = consumer
    this.clock = Context.get(context, Clock.Clock)
    this.worker = new Worker(
      consumer,
      {
        capabilities: driver.capabilities,
        publish: driver.publish,
        // what cannot be settled is delivered again: the source starts anew
        failed: (error) => {
          this.lastError = error
          this.fiber?.interruptUnsafe()
        }
      },
      context,
      random
    )
  }

  /** One life of the source: from its connection to its end; what was leased and not given back is lost then. */
  private life(ready: () => void): Effect.Effect<Exit.Exit<void, BrokerError>> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.gen({ self: this }, function*() {
        const scope = yield* Scope.make()
        const sink = this.worker.sink({
          ready: () => {
            this.lastPoll = this.clock.currentTimeMillisUnsafe()
            if (this.state !== "draining") this.state = this.worker.paused ? "paused" : "running"
            ready()
          },
          polled: () => {
            this.lastPoll = this.clock.currentTimeMillisUnsafe()
          }
        })
        const { channel, from, group, inFlight, name } = this.consumer
        // a longer batch would be taken in whole, beyond what may be in flight
        const batch = Math.min(longest, inFlight.messages)
        this.fiber = yield* Effect.forkChild(restore(
          Scope.provide(this.driver.consume({ channel, group, handler: name, from, batch }, sink), scope)
        ))
        const exit = yield* restore(Fiber.await(this.fiber)).pipe(
          Effect.onInterrupt(() => this.stop(scope))
        )
        yield* this.worker.loseAll()
        yield* Scope.close(scope, exit)
        return exit
      })
    )
  }

  /** Intake first, then what runs, then the last words to the broker, and only then the group is left. */
  private stop(scope: Scope.Closeable): Effect.Effect<void> {
    return Effect.gen({ self: this }, function*() {
      this.state = "draining"
      this.worker.draining = true
      if (this.fiber !== undefined) yield* Fiber.interrupt(this.fiber)
      yield* this.worker.drain(this.consumer.grace.drain)
      yield* Scope.close(scope, Exit.void)
      this.state = "stopped"
    })
  }

  /** Lives again and again until interrupted; the first life's failure to start is the caller's. */
  run(started: Deferred.Deferred<void, BrokerError>): Effect.Effect<void> {
    let wasReady = false
    const { base, cap } = this.consumer.restart
    const once = (wait: number): Effect.Effect<void> =>
      Effect.flatMap(
        this.life(() => {
          wasReady = true
          wait = base
          Deferred.doneUnsafe(started, Exit.void)
        }),
        (exit) => {
          const error = exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined
          if (exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) this.lastError = error
          if (!wasReady && exit._tag === "Failure" && !Cause.hasInterruptsOnly(exit.cause)) {
            return Deferred.done(started, exit)
          }
          this.state = "restarting"
          this.restarts++
          return Effect.logWarning(
            `The source of ${this.consumer.name} ended; it starts again in ${wait} ms`,
            this.lastError ?? "connection closed"
          ).pipe(
            Effect.andThen(Effect.sleep(wait)),
            Effect.andThen(Effect.suspend(() => once(Math.min(cap, Math.max(1, wait) * 2))))
          )
        }
      )
    return Effect.onInterrupt(once(base), () =>
      Effect.suspend(() => {
        if (this.state === "stopped") return Effect.void
        // between two lives all that runs was interrupted before, and may take its time to end
        this.state = "draining"
        return Effect.andThen(
          this.worker.drain(0),
          Effect.sync(() => {
            this.state = "stopped"
          })
        )
      }))
  }

  health(): Health {
    const { worker } = this
    const oldest = worker.oldest()
    return {
      name: this.consumer.name,
      channel: this.consumer.channel,
      group: this.consumer.group,
      state: this.state,
      lastPoll: this.lastPoll,
      partitions: Array.from(worker.tenures.keys(), (lease) => lease.partition).sort((a, b) => a - b),
      pending: worker.pending,
      pendingBytes: worker.pendingBytes,
      running: worker.active,
      settled: worker.settled,
      restarts: this.restarts,
      lastError: this.lastError,
      oldest: oldest && {
        key: oldest.delivery.key,
        partition: oldest.delivery.partition,
        position: oldest.delivery.position,
        since: oldest.since
      }
    }
  }
}

const consume = <R>(
  driver: Driver,
  consumer: Consumer<R>
): Effect.Effect<Running, BrokerError, R | Scope.Scope> =>
  Effect.gen(function*() {
    const refused = refuse(driver, consumer as Consumer<never>)
    if (refused !== undefined) return yield* Effect.fail(refused)
    const random = yield* Random.Random
    const own = yield* Effect.context<R>()
    // the worker exists only after its context, so the answer goes through a cell
    const cell: { source: Source<R> | undefined } = { source: undefined }
    const context = Context.add(own, Draining, { isDraining: () => cell.source?.worker.draining ?? false })
    const source = new Source(driver, consumer, context, () => random.nextDoubleUnsafe())
    cell.source = source
    const started = yield* Deferred.make<void, BrokerError>()
    const stopped = yield* Deferred.make<void>()
    const scope = yield* Effect.scope
    const lives = yield* Effect.forkDetach(Effect.provideContext(source.run(started), context))
    const loop = yield* Effect.forkDetach(Effect.provideContext(source.worker.loop, context))
    const drain = Effect.suspend(() => {
      // at once, so that nothing starts while the source hears of it
      source.worker.draining = true
      return Effect.andThen(Fiber.interrupt(lives), Fiber.interrupt(loop)).pipe(
        Effect.andThen(Deferred.done(stopped, Exit.void)),
        Effect.asVoid
      )
    })
    yield* Scope.addFinalizer(scope, drain)
    yield* Deferred.await(started)
    return {
      pause: Effect.andThen(
        source.worker.pause(),
        Effect.sync(() => {
          if (source.state === "running") source.state = "paused"
        })
      ),
      resume: Effect.andThen(
        source.worker.resume(),
        Effect.sync(() => {
          if (source.state === "paused") source.state = "running"
        })
      ),
      drain,
      health: Effect.sync(() => source.health())
    }
  })

/**
 * Makes a broker of a driver.
 *
 * @category constructors
 */
export const make = (driver: Driver): Broker["Service"] =>
  Broker.of({
    system: driver.system,
    capabilities: driver.capabilities,
    publish: (message) => driver.publish([message]),
    publishAll: (messages) => messages.length === 0 ? Exit.void : driver.publish(messages),
    consume: (consumer) => consume(driver, consumer),
    declare: driver.declare,
    browse: driver.browse
  })

/**
 * A broker as a layer, of a driver that may have to be opened first.
 *
 * @category layers
 */
export const layer = <E, R>(
  driver: Effect.Effect<Driver, E, R>
): Layer.Layer<Broker, E, Exclude<R, Scope.Scope>> => Layer.effect(Broker, Effect.map(driver, make))
