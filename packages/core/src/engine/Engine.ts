/**
 * The motor, one for every broker: turns a `Driver` into a `Broker`.
 */
import { Cause, Clock, Context, Deferred, Effect, Exit, Fiber, Layer, Random, Scope } from "effect"
import { Broker, type Consumer, Draining, type Health, type Running, shownLanes } from "../broker/Broker.ts"
import { type BrokerError, make as failure } from "../broker/BrokerError.ts"
import type { Driver } from "../broker/Driver.ts"
import { Intake } from "../broker/Intake.ts"
import { Detour, isNative } from "./Detour.ts"
import { Gate } from "./Gate.ts"
import { type Level, Worker } from "./Worker.ts"

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
  if (consumer.pattern !== undefined && !capabilities.patterns) {
    return unsupported(
      `${driver.system} reads no patterns, so subscription ${consumer.name} cannot read ${consumer.channel}: subscribe to each channel by its name.`
    )
  }
  if (consumer.retries._tag === "delayed" && capabilities.settlement === "none") {
    return unsupported(
      `${driver.system} acknowledges nothing, so subscription ${consumer.name} cannot delay its retries: use Retries.held.`
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

  constructor(
    driver: Driver,
    consumer: Consumer<R>,
    context: Context.Context<R>,
    random: () => number,
    way?: Level | undefined
  ) {
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
      random,
      way
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
        const { channel, from, group, inFlight, lanes, name, pattern } = this.consumer
        const options = {
          channel,
          pattern,
          group,
          handler: name,
          from,
          ordered: lanes._tag !== "unordered",
          messages: inFlight.messages,
          // a longer batch would be taken in whole, beyond what may be in flight
          batch: Math.min(longest, inFlight.messages),
          bytes: inFlight.bytes
        }
        this.fiber = yield* Effect.forkChild(restore(Scope.provide(this.driver.consume(options, sink), scope)))
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

  /** Stops and starts the intake, at once. */
  turn(isOpen: boolean): void {
    if (isOpen && this.state === "paused") this.state = "running"
    if (!isOpen && this.state === "running") this.state = "paused"
    if (isOpen) this.worker.resume()
    else this.worker.pause()
  }

  health(): Omit<Health, "pauses" | "retries"> {
    const { worker } = this
    const oldest = worker.oldest()
    return {
      name: this.consumer.name,
      channel: this.consumer.channel,
      group: this.consumer.group,
      state: this.state,
      lastPoll: this.lastPoll,
      partitions: Array.from(worker.tenures.keys(), (lease) => lease.partition).sort((a, b) => a - b),
      leases: Array.from(worker.tenures.values(), ({ committed, lease, unsettled }) => ({
        channel: lease.channel ?? this.consumer.channel,
        partition: lease.partition,
        pending: unsettled,
        position: committed
      })),
      lanes: worker.busiest(shownLanes),
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
    const sources: Array<Source<R>> = []
    const gate = new Gate(own, (isOpen) => {
      for (const source of sources) source.turn(isOpen)
    })
    const context = Context.add(own, Intake, gate).pipe(
      Context.add(Draining, { isDraining: () => sources.some(({ worker }) => worker.draining) })
    )
    const add = (read: Consumer<R>, way?: Level) => {
      const source = new Source(driver, read, context, () => random.nextDoubleUnsafe(), way)
      sources.push(source)
      return source
    }
    const detour = consumer.retries._tag === "held" || isNative(driver.capabilities, consumer)
      ? undefined
      : new Detour(consumer, consumer.retries, Context.get(own, Clock.Clock))
    const source = add(consumer, detour && { detour, level: 0 })
    const waits = detour === undefined ? [] : detour.channels.map((channel, i) => {
      const level = i + 1
      return { channel, delay: detour.delays[i]!, source: add(detour.consumer(consumer, level), { detour, level }) }
    })
    yield* Effect.forEach(waits, ({ channel }) => driver.declare({ channel }), { discard: true })
    // those who read what a message leaves behind begin before any does
    const runs = yield* Effect.forEach(sources.toReversed(), (each) => start(each, context))
    yield* Effect.forEach(runs, ({ started }) => Deferred.await(started), { discard: true })
    const drain = Effect.suspend(() => {
      gate.end()
      for (const { worker } of sources) worker.draining = true
      return Effect.forEach(runs, (each) => each.drain, { concurrency: "unbounded", discard: true })
    })
    return {
      pause: Effect.sync(() => gate.pause(gate, "Running.pause")),
      resume: Effect.sync(() => gate.resume(gate)),
      intake: gate,
      drain,
      health: Effect.sync(() => ({
        ...source.health(),
        pauses: gate.pauses(),
        retries: waits.map(({ channel, delay, source: { lastError, state, worker: { pending } } }) => ({
          channel,
          delay,
          state,
          pending,
          lastError
        }))
      })),
      lag: driver.lag(consumer.channel, consumer.group)
    }
  })

/** Starts a source; it drains when the scope closes. */
const start = <R>(
  source: Source<R>,
  context: Context.Context<R>
): Effect.Effect<
  { readonly started: Deferred.Deferred<void, BrokerError>; readonly drain: Effect.Effect<void> },
  never,
  Scope.Scope
> =>
  Effect.gen(function*() {
    const started = yield* Deferred.make<void, BrokerError>()
    const lives = yield* Effect.forkDetach(Effect.provideContext(source.run(started), context))
    const loop = yield* Effect.forkDetach(Effect.provideContext(source.worker.loop, context))
    const drain = Effect.suspend(() => {
      // at once, so that nothing starts while the source hears of it
      source.worker.draining = true
      return Effect.asVoid(Effect.andThen(Fiber.interrupt(lives), Fiber.interrupt(loop)))
    })
    yield* Effect.addFinalizer(() => drain)
    return { started, drain }
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
    browse: driver.browse,
    check: driver.check,
    lag: driver.lag
  })

/**
 * A broker as a layer, of a driver that may have to be opened first.
 *
 * @category layers
 */
export const layer = <E, R>(
  driver: Effect.Effect<Driver, E, R>
): Layer.Layer<Broker, E, Exclude<R, Scope.Scope>> => Layer.effect(Broker, Effect.map(driver, make))
