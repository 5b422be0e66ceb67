/**
 * The consumers of a history, their subscription, and what befalls them.
 */
import type * as Core from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { Cause, Deferred, Effect, Exit, type Fiber, Latch, Scope } from "effect"
import { Book } from "./Book.ts"
import { ending, type Mishap, type Trouble, trouble } from "./endings.ts"
import type { Consumer, Run, Waits } from "./records.ts"
import type { Settings, Subject } from "./settings.ts"

/** The channel of all histories. */
export const channel = "c"

/** What the store of `gather` writes. */
interface Item {
  readonly run: Run
  readonly waits: Waits
}

/** What is under way in a history. */
export class Stage {
  readonly book: Book
  readonly consumers: Array<Consumer> = []
  readonly memory: Core.MemoryBroker.MemoryBroker
  readonly network: Simulation.Network
  /** Whether things go wrong. */
  stormy = true
  private readonly world: Simulation.World
  private readonly subject: Subject
  private readonly settings: Settings
  // opened by whoever starts next, in the middle of its call
  private readonly gate = Latch.makeUnsafe(false)
  private readonly calm = Deferred.makeUnsafe<void>()
  private serial = 0

  constructor(world: Simulation.World, subject: Subject, settings: Settings, memory: Core.MemoryBroker.MemoryBroker) {
    this.world = world
    this.subject = subject
    this.settings = settings
    this.memory = memory
    this.book = new Book(world, settings)
    const of = (process: Simulation.Process) => this.consumers.find((one) => one.process === process)!
    this.network = Simulation.network(world, memory.driver, {}, {
      opened: (process, lease) => this.book.opened(of(process), lease),
      offered: (process, lease, batch) => this.book.offered(of(process), lease, batch),
      closing: (process, lease, how) => this.book.closing(of(process), lease, how),
      settling: (process, lease, what) => this.book.settling(of(process), lease, what),
      severed: (process) => this.book.severed(of(process)),
      published: (process, batch) => {
        for (const outgoing of batch) this.book.letter(of(process), outgoing)
      }
    })
  }

  publish(count: number): void {
    const { chance, integer } = this.world
    if (!this.book.isUp) return
    for (let i = 0; i < count; i++) {
      const key = chance(0.15) ? undefined : `k${integer(1, this.settings.keys)}`
      const headers = chance(0.1)
        ? { "dead-letter-passes": "3", "dead-letter-error-message": "before", "dead-letter-at": "1" }
        : {}
      const body = new Uint8Array(integer(0, 30)).fill(this.serial++)
      this.book.publish(this.memory, new this.subject.Outgoing(channel, body, key, { ...headers }))
    }
  }

  get alive(): ReadonlyArray<Consumer> {
    return this.consumers.filter((one) => !one.killed && one.draining === undefined)
  }

  // ---- consumers

  start(): void {
    const { subject, world } = this
    const process = world.process(`consumer ${this.consumers.length + 1}`)
    const consumer: Consumer = {
      name: process.name,
      process,
      scope: Scope.makeUnsafe(),
      suspended: new Set(),
      running: undefined,
      paused: false,
      draining: undefined,
      drained: false,
      killed: false,
      health: () => consumer.running === undefined ? undefined : Effect.runSync(consumer.running.health)
    }
    this.consumers.push(consumer)
    world.log(`${consumer.name} starts`)
    const { delay, native } = this.settings
    const broker = subject.Engine.make(this.network.connect(process, { delay, deadLetter: native }))
    const begin = Effect.gen({ self: this }, function*() {
      const gather = yield* subject.Gather.make({ write: (items: ReadonlyArray<Item>) => this.write(items) })
      consumer.running = yield* subject.Subscription.run(this.subscription(consumer, gather))
      world.log(`${consumer.name} runs`)
    }).pipe(
      Effect.provideService(subject.Broker.Broker, broker),
      Effect.provideService(Scope.Scope, consumer.scope)
    )
    process.fork(begin).addObserver((exit) => {
      // nobody there when it started: it is no consumer
      if (exit._tag === "Failure") {
        consumer.draining ??= world.now()
        world.log(() => `${consumer.name} did not start: ${Cause.pretty(exit.cause)}`)
      }
    })
  }

  /** Ends a consumer in good order; completes when it has. */
  drain(consumer: Consumer): Fiber.Fiber<void> {
    const { world } = this
    const { draining } = consumer
    const since = consumer.draining ??= world.now()
    if (draining === undefined) {
      this.book.note("drain")
      world.log(`${consumer.name} drains`)
    }
    const { running } = consumer
    // a scope that closes already makes nobody wait
    const closes = running === undefined || (draining === undefined && world.chance(0.5))
    const drain = closes ? Scope.close(consumer.scope, Exit.void) : running.drain
    return consumer.process.fork(Effect.andThen(
      drain,
      Effect.sync(() => {
        if (consumer.drained || running === undefined) return
        consumer.drained = true
        world.log(`${consumer.name} is drained`)
        // whoever leaves may have to wait for others that give something back first
        const { drain: limit, revoke } = this.settings.grace
        const most = limit + (revoke + this.settings.farewell) * 4
        this.book.check(
          "drain",
          world.now() - since <= most,
          () => `the drain of ${consumer.name} took ${world.now() - since} ms, with ${limit} ms of grace`
        )
        const still = this.book.all.flatMap((entry) => entry.runs).filter((run) =>
          run.consumer === consumer && run.ended === undefined
        )
        this.book.check(
          "drain",
          still.length === 0,
          () => `${still.length} messages run after the drain of ${consumer.name}`
        )
        this.rests(consumer)
      })
    ))
  }

  /** Nothing is pending and nothing runs. */
  rests(consumer: Consumer): void {
    const health = consumer.health()
    if (health === undefined) return
    const { pending, pendingBytes, running } = health
    this.book.check(
      "health",
      pending === 0 && pendingBytes === 0 && running === 0,
      () => `${consumer.name} rests with ${pending} messages, ${pendingBytes} bytes pending, ${running} running`
    )
  }

  kill(consumer: Consumer): void {
    this.book.note("crash")
    this.world.log(`${consumer.name} is killed`)
    consumer.killed = true
    consumer.process.kill()
    this.network.gone(consumer.process)
  }

  pause(consumer: Consumer, pause: boolean): void {
    const { running } = consumer
    if (running === undefined) return
    if (pause) this.book.note("pause")
    this.world.log(`${consumer.name} is ${pause ? "paused" : "resumed"}`)
    // at once, so that what the book says is true at each moment; messages may start in the middle of a resume
    if (!pause) consumer.paused = false
    Effect.runSync(pause ? running.pause : running.resume)
    if (pause) consumer.paused = true
  }

  /** The broker stops or starts, at once, so that what the book says is true at each moment. */
  up(isUp: boolean): void {
    this.book.up(isUp)
    Effect.runSync(isUp ? this.memory.start : this.memory.stop)
  }

  /** Everything works from now on. */
  settle(): void {
    this.world.log("everything works from now on")
    this.stormy = false
    Object.assign(this.network.faults, { publish: 0, settle: 0, slow: 0 })
    Deferred.doneUnsafe(this.calm, Exit.void)
    for (const consumer of this.alive) if (consumer.paused) this.pause(consumer, false)
  }

  // ---- the subscription

  private subscription(consumer: Consumer, gather: Core.Gather.Gather<Item, Trouble>) {
    const { Channel, Subscription } = this.subject
    return Subscription.make(Channel.bytes(channel), {
      group: "g",
      name: "handle",
      lanes: this.settings.lanes,
      inFlight: this.settings.inFlight,
      hold: this.settings.hold,
      grace: this.settings.grace,
      backoff: { base: 5, factor: 2, cap: 60, jitter: 0.2 },
      restart: { base: 1, cap: 40 },
      settle: {
        Named: this.subject.Outcome.Reject(),
        Nasty: () => {
          throw new Error("the entry throws")
        }
      }
    }, (delivery) => this.handle(consumer, delivery, gather))
  }

  private handle(
    consumer: Consumer,
    delivery: Core.Delivery,
    gather: Core.Gather.Gather<Item, Trouble>
  ): Effect.Effect<unknown, Mishap> {
    const run = this.book.start(consumer, delivery)
    const { chance, integer } = this.world
    delivery.after((exit, outcome) => {
      this.book.end(run, exit, outcome)
      return undefined
    })
    if (this.stormy ? chance(0.4) : chance(0.1)) this.hook(run, delivery, gather)
    if (this.stormy && chance(0.1)) this.hook(run, delivery, gather)
    // others go on in the middle of this call: a handler that waited, who joins the group, who ends
    if (chance(0.5)) this.gate.openUnsafe()
    if (this.stormy && chance(0.01) && this.alive.length < 3) this.start()
    if (this.stormy && chance(0.003)) {
      this.book.note("drain by a handler")
      this.drain(consumer)
    }
    if (this.stormy && chance(0.05)) this.world.spend(integer(1, 10))
    if (this.stormy && chance(0.01) && consumer.running !== undefined) this.pause(consumer, true)
    const end = ending(this.world, this.subject, run, this.stormy)
    if (this.stormy ? chance(0.5) : chance(0.8)) return end()
    consumer.suspended.add(run)
    return this.waits(end)
  }

  private waits<E>(end: () => Effect.Effect<unknown, E>): Effect.Effect<unknown, E> {
    const { chance, integer } = this.world
    if (chance(0.2)) {
      this.gate.closeUnsafe()
      return Effect.andThen(Effect.timeoutOption(this.gate.await, 50), Effect.suspend(end))
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
      if (chance(0.5)) return gather.add({ run, waits })
      const { exit, failed } = this.stormy && chance(0.4) ? trouble(world) : { exit: Exit.void, failed: undefined }
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
          throw new Error("the hook throws")
        }
        return exit
      }
      const wait = this.stormy && chance(0.05) ? Deferred.await(this.calm) : Effect.sleep(integer(0, 30))
      return Effect.andThen(wait, Effect.suspend(end))
    })
  }

  /** The store of `gather`: slow, and at times without success. */
  private write(items: ReadonlyArray<Item>): Effect.Effect<void, Trouble> {
    const { chance, integer } = this.world
    const { exit, failed } = this.stormy && chance(0.3) ? trouble(this.world) : { exit: Exit.void, failed: undefined }
    return Effect.andThen(
      Effect.sleep(this.stormy ? integer(0, 40) : 0),
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
