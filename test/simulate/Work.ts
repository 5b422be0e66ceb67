/**
 * The subscription of a history: how its handler behaves, and what must last beside it.
 */
import type * as Core from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Deferred, Effect, Exit, Latch, Logger, type Scope, Tracer } from "effect"
import { doomed, ending, type Mishap, Mute, type Trouble, trouble, Unreadable } from "./endings.ts"
import { watching } from "./Letters.ts"
import * as Observers from "./Observers.ts"
import type { Consumer, Run, Waits } from "./records.ts"
import type { Book } from "./Book.ts"
import { channel, type Settings, type Subject } from "./settings.ts"

/** What the store of `gather` writes. */
interface Item {
  readonly run: Run
  readonly waits: Waits
}

/** What a handler may do to the consumers around it. */
export interface Site {
  readonly book: Book
  /** Whether things go wrong. */
  readonly stormy: boolean
  /** Completes when nothing goes wrong any more. */
  readonly calm: Deferred.Deferred<void>
  readonly alive: ReadonlyArray<Consumer>
  readonly start: () => void
  readonly drain: (consumer: Consumer) => void
  readonly pause: (consumer: Consumer, pause: boolean) => void
}

/** What consumers do. */
export class Work {
  private readonly world: Simulation.World
  private readonly subject: Subject
  private readonly settings: Settings
  private readonly stage: Site
  // opened by a handler that starts next, in the middle of its call
  private readonly gate = Latch.makeUnsafe(false)

  constructor(world: Simulation.World, subject: Subject, settings: Settings, stage: Site) {
    this.world = world
    this.subject = subject
    this.settings = settings
    this.stage = stage
  }

  /** Starts the subscription of one consumer. */
  subscribe(
    consumer: Consumer
  ): Effect.Effect<Core.Broker.Running, Core.BrokerError.BrokerError, Core.Broker.Broker | Scope.Scope> {
    return Effect.gen({ self: this }, function*() {
      const { subject } = this
      const gather = yield* subject.Gather.make({ write: (items: ReadonlyArray<Item>) => this.write(items) })
      const { observers, tracers } = this.settings.has
      const plain = (delivery: Core.Delivery) => this.handle(consumer, delivery, gather)
      const handle = tracers ? subject.Trace.middleware()(plain) : plain
      if (!observers) return yield* this.run(consumer, handle)
      const watched = subject.Stack.start().use(subject.Audit.middleware()).use(subject.Metrics.middleware()).handle(
        (message: Core.Message<Uint8Array>) => handle(message.delivery)
      )
      return yield* Effect.provide(
        this.run(consumer, watched),
        yield* Observers.services(subject, this.stage.book, consumer)
      )
    })
  }

  private run<R>(
    consumer: Consumer,
    handler: Core.Handler<Core.Delivery, unknown, Mishap, R>
  ): Effect.Effect<Core.Broker.Running, Core.BrokerError.BrokerError, Core.Broker.Broker | Scope.Scope | R> {
    const { Channel, Outcome, Subscription } = this.subject
    const { has, lanes, inFlight, hold, refusedDeadLetter, grace, restart } = this.settings
    const { chance, pick } = this.world
    const subscription = Subscription.make(Channel.bytes(channel), {
      group: "g",
      name: "handle",
      lanes,
      inFlight,
      hold,
      refusedDeadLetter,
      grace,
      restart,
      backoff: { base: 5, factor: 2, cap: 60, jitter: 0.2 },
      ...(has.throwing && { deadLetters: () => this.named() }),
      settle: {
        Named: Outcome.Reject(),
        Nasty: () => {
          throw has.throwing ? pick([new Mute(), new Unreadable("transient")]) : new Error("the entry throws")
        }
      }
    }, handler)
    const plain = Subscription.run(subscription)
    const run = has.tracers
      ? Effect.provideService(plain, Tracer.Tracer, Observers.brokenTracer(this.world, this.stage.book))
      : plain
    if (has.letters || has.undeclared) return watching(consumer, run)
    if (!has.throwing || chance(0.5)) return run
    const logger = Logger.make<unknown, void>(() => {
      throw new Error("the logger throws")
    })
    return Effect.provideService(run, Logger.CurrentLoggers, new Set([logger]))
  }

  /** A rule of dead letters that throws now and then. */
  private named(): string {
    if (this.world.chance(0.3)) throw new Error("the rule of dead letters throws")
    return `${channel}.dead-letters`
  }

  private handle(
    consumer: Consumer,
    delivery: Core.Delivery,
    gather: Core.Gather.Gather<Item, Trouble>
  ): Effect.Effect<unknown, Mishap> {
    const run = this.stage.book.start(consumer, delivery)
    const { chance, integer } = this.world
    delivery.after((exit, outcome) => {
      this.stage.book.end(run, exit, outcome)
      return undefined
    })
    if (this.stage.stormy ? chance(0.4) : chance(0.1)) this.hook(run, delivery, gather)
    if (this.stage.stormy && chance(0.1)) this.hook(run, delivery, gather)
    // others go on in the middle of this call: a handler that waited, who joins the group, who ends
    if (chance(0.5)) this.gate.openUnsafe()
    if (this.stage.stormy && chance(0.01) && this.stage.alive.length < 3) this.stage.start()
    if (this.stage.stormy && chance(0.003)) {
      this.stage.book.note("drain by a handler")
      this.stage.drain(consumer)
    }
    if (this.stage.stormy && chance(0.05)) this.world.spend(integer(1, 10))
    if (this.stage.stormy && chance(0.01) && consumer.running !== undefined) this.stage.pause(consumer, true)
    const { book, stormy } = this.stage
    const end = book.letters.dooms(run.entry)
      ? doomed(run)
      : ending(this.world, this.subject, run, stormy, this.settings.has.throwing)
    if (this.stage.stormy ? chance(0.5) : chance(0.8)) return end()
    consumer.suspended.add(run)
    return this.waits(end)
  }

  private waits<E>(end: () => Effect.Effect<unknown, E>): Effect.Effect<unknown, E> {
    const { chance, integer } = this.world
    if (chance(0.2)) {
      this.gate.closeUnsafe()
      return Effect.andThen(Effect.timeoutOption(this.gate.await, 50), Effect.suspend(end))
    }
    const { claim } = this.settings
    // longer than an engine waits for a handler that it interrupts, so such a handler ends at once when it is
    if (claim !== undefined && chance(0.05)) {
      return Effect.andThen(Effect.sleep(claim * integer(1, 3)), Effect.suspend(end))
    }
    const wait = chance(0.1) ? integer(100, 300) : integer(0, 15)
    const slow = Effect.andThen(Effect.sleep(wait), Effect.suspend(end))
    // some take their time to be interrupted
    return chance(0.1)
      ? Effect.onInterrupt(slow, () => Effect.sleep(wait))
      : chance(0.05)
      ? Effect.uninterruptible(slow)
      : slow
  }

  // ---- what must last

  private hook(run: Run, delivery: Core.Delivery, gather: Core.Gather.Gather<Item, Trouble>): void {
    const { world } = this
    const { chance, integer } = world
    const waits: Waits = { done: undefined, failed: undefined }
    run.hooks.push(waits)
    delivery.after(() => {
      if (chance(0.5)) {
        const added = gather.add({ run, waits })
        // a store is closed already where its consumer ends while it starts
        if (added !== Effect.interrupt) return added
        // the engine hears of it when it runs this effect, not when it is given it
        return Effect.suspend(() => {
          Object.assign(waits, { failed: "Release", done: world.now() })
          return added
        })
      }
      const { exit, failed } = this.stage.stormy && chance(0.4)
        ? trouble(world)
        : { exit: Exit.void, failed: undefined }
      const end = () => {
        waits.failed = failed
        waits.done = world.now()
        world.log(() => `a hook of ${run.entry.partition}/${run.entry.position} ends, ${failed ?? "well"}`)
        return exit
      }
      if (chance(0.5)) {
        end()
        if (exit._tag === "Failure" && chance(0.3)) {
          waits.failed = "DeadLetter"
          throw this.settings.has.throwing ? new Unreadable("permanent") : new Error("the hook throws")
        }
        return exit
      }
      const wait = this.stage.stormy && chance(0.05) ? Deferred.await(this.stage.calm) : Effect.sleep(integer(0, 30))
      return Effect.andThen(wait, Effect.suspend(end))
    })
  }

  /** The store of `gather`: slow, and at times without success. */
  private write(items: ReadonlyArray<Item>): Effect.Effect<void, Trouble> {
    const { chance, integer } = this.world
    const { exit, failed } = this.stage.stormy && chance(0.3)
      ? trouble(this.world)
      : { exit: Exit.void, failed: undefined }
    return Effect.andThen(
      Effect.sleep(this.stage.stormy ? integer(0, 40) : 0),
      Effect.suspend(() => {
        for (const { run, waits } of items) {
          waits.failed = failed
          waits.done = this.world.now()
          this.world.log(() => `${run.entry.partition}/${run.entry.position} is written, ${failed ?? "well"}`)
        }
        return exit
      })
    )
  }
}
