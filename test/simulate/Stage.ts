/**
 * The consumers of a history, and what befalls them.
 */
import type * as Core from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { Cause, Deferred, Effect, Exit, type Fiber, Scope } from "effect"
import { Book } from "./Book.ts"
import type { Consumer } from "./records.ts"
import { Restarts } from "./Restarts.ts"
import { Start } from "./Starts.ts"
import { channel, type Settings, type Subject } from "./settings.ts"
import { type Site, Work } from "./Work.ts"

/** What is under way in a history. */
export class Stage implements Site {
  readonly book: Book
  readonly consumers: Array<Consumer> = []
  readonly memory: Core.MemoryBroker.MemoryBroker
  readonly network: Simulation.Network
  /** Whether things go wrong. */
  stormy = true
  /** Completes when nothing goes wrong any more. */
  readonly calm = Deferred.makeUnsafe<void>()
  private readonly world: Simulation.World
  private readonly subject: Subject
  private readonly settings: Settings
  private readonly work: Work
  private serial = 0

  constructor(world: Simulation.World, subject: Subject, settings: Settings, memory: Core.MemoryBroker.MemoryBroker) {
    this.world = world
    this.subject = subject
    this.settings = settings
    this.memory = memory
    this.book = new Book(world, settings, subject)
    this.work = new Work(world, subject, settings, this)
    const of = (process: Simulation.Process) => this.consumers.find((one) => one.process === process)!
    this.network = Simulation.network(world, memory.driver, this.book.faults, {
      consuming: (process) => this.book.consuming(of(process)),
      astray: (_, operation, how, lease) => this.book.astray(operation, how, lease),
      opened: (process, lease) => this.book.opened(of(process), lease),
      offered: (process, lease, batch) => this.book.offered(of(process), lease, batch),
      closing: (process, lease, how) => this.book.closing(of(process), lease, how),
      settling: (process, lease, what) => this.book.settling(of(process), lease, what),
      severed: (process) => this.book.severed(of(process)),
      published: (process, batch) => {
        for (const outgoing of batch) this.book.letter(of(process), outgoing)
      },
      refused: (process, outgoing) => this.book.refusedLetter(of(process), outgoing)
    }, subject.BrokerError.make)
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
      ending: undefined,
      killed: false,
      restarts: new Restarts(world, this.settings),
      statistics: undefined,
      said: undefined,
      start: new Start(world, this.book, this.settings, subject),
      health: () => consumer.running === undefined ? undefined : Effect.runSync(consumer.running.health)
    }
    this.consumers.push(consumer)
    world.log(`${consumer.name} starts`)
    const { delay, native } = this.settings
    const driver = this.network.connect(process, { delay, deadLetter: native })
    const broker = subject.Engine.make(consumer.start.driver(driver))
    const begin = Effect.gen({ self: this }, function*() {
      consumer.running = yield* this.work.subscribe(consumer)
      world.log(`${consumer.name} runs`)
      consumer.start.running(consumer)
    }).pipe(
      Effect.provideService(subject.Broker.Broker, broker),
      Effect.provideService(Scope.Scope, consumer.scope)
    )
    process.fork(begin).addObserver((exit) => {
      // nobody there when it started: it is no consumer
      if (exit._tag === "Failure") {
        consumer.start.missing(consumer, () => Cause.pretty(exit.cause))
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
    const ending = consumer.process.fork(Effect.andThen(
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
    consumer.ending ??= ending
    return ending
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
    if (!pause) {
      Effect.runSync(running.resume)
      running.intake.resume(consumer)
    } else if (this.world.chance(0.3)) running.intake.pause(consumer, "the history", 1_000_000)
    else Effect.runSync(running.pause)
    if (!pause) return
    consumer.paused = true
    for (const lease of this.book.leases.values()) lease.offersInPause = 0
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
    // a lost extension costs nothing, so those go on
    Object.assign(this.network.faults, { publish: 0, settle: 0, silent: 0, broken: 0, slow: 0 })
    Deferred.doneUnsafe(this.calm, Exit.void)
    for (const consumer of this.alive) if (consumer.paused) this.pause(consumer, false)
  }
}
