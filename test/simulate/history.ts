import type * as Core from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { Cause, Data, Deferred, Duration, Effect, Exit, Fiber, Latch, Scope } from "effect"
import { Book, cameTo, type Run, type Waits } from "./Book.ts"

/** The code under test: the real core, or a copy with a bug planted in it. */
export type Subject = typeof Core

/** How a history is set up; decided by its seed. */
export interface Settings {
  readonly lanes: Core.Lanes.Lanes
  readonly settlement: "position" | "message"
  /** Whether the broker writes dead letters by itself. */
  readonly native: boolean
  /** Whether the broker delays by itself. */
  readonly delay: boolean
  readonly partitions: number
  readonly keys: number
  readonly messages: number
  readonly inFlight: { readonly messages: number; readonly bytes: number }
  readonly hold: { readonly attempts: number; readonly age: number; readonly span: number }
  readonly grace: { readonly revoke: number; readonly drain: number }
  /** What is allowed beyond a grace: what was interrupted ends, and the broker is told the last of it. */
  readonly farewell: number
}

/** One process with one subscription. */
export interface Consumer {
  readonly name: string
  readonly process: Simulation.Process
  readonly scope: Scope.Closeable
  readonly suspended: Set<Run>
  running: Core.Broker.Running | undefined
  paused: boolean
  /** When its drain began. */
  draining: number | undefined
  drained: boolean
  killed: boolean
  readonly health: () => Core.Broker.Health | undefined
}

class Trouble extends Data.TaggedError("Trouble")<{
  readonly failure: Core.Failure.FailureClass
  readonly message: string
  readonly retryAfter?: Duration.Duration | undefined
}> {}

class Named extends Data.TaggedError("Named")<{ readonly message: string }> {}

/** Its entry throws. */
class Nasty extends Data.TaggedError("Nasty")<{ readonly message: string }> {}

const channel = "c"

/** What the store of `gather` writes. */
interface Item {
  readonly run: Run
  readonly waits: Waits
}

const setUp = (world: Simulation.World, subject: Subject): Settings => {
  const { chance, integer, pick } = world
  const settlement = pick(["position", "message"] as const)
  const lanes = pick([
    subject.Lanes.partition,
    subject.Lanes.key(integer(1, 6)),
    subject.Lanes.key(integer(1, 6), { keyless: "partition" }),
    subject.Lanes.unordered(integer(1, 6))
  ])
  return {
    lanes,
    settlement,
    native: settlement === "message" && chance(0.2),
    delay: settlement === "message" && chance(0.2) && lanes._tag === "unordered",
    partitions: integer(1, 4),
    keys: integer(1, 6),
    messages: integer(1, 40),
    inFlight: { messages: pick([1, 2, 5, 20, 1000]), bytes: pick([1, 40, 100_000]) },
    hold: {
      attempts: pick([1, 2, 3, 6, 1000]),
      age: pick([50, 500, 1_000_000]),
      span: pick([2, 10, 1_000_000])
    },
    grace: { revoke: pick([0, 20, 200]), drain: pick([0, 20, 200]) },
    farewell: 6000
  }
}

/** What is under way in a history. */
class Stage {
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
    if (draining === undefined) world.log(`${consumer.name} drains`)
    const { running } = consumer
    const drain = running === undefined || world.chance(0.5) ? Scope.close(consumer.scope, Exit.void) : running.drain
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
    this.world.log(`${consumer.name} is killed`)
    consumer.killed = true
    consumer.process.kill()
    this.network.gone(consumer.process)
  }

  pause(consumer: Consumer, pause: boolean): void {
    const { running } = consumer
    if (running === undefined) return
    this.world.log(`${consumer.name} is ${pause ? "paused" : "resumed"}`)
    // at once, so that what the book says is true at each moment
    Effect.runSync(pause ? running.pause : running.resume)
    consumer.paused = pause
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
  ): Effect.Effect<unknown, Trouble | Named | Nasty> {
    const run = this.book.start(consumer, delivery)
    const { chance, integer } = this.world
    delivery.after((exit, outcome) => {
      this.book.end(run, exit, outcome)
      return undefined
    })
    if (this.stormy ? chance(0.4) : chance(0.1)) this.hook(run, delivery, gather)
    if (this.stormy && chance(0.1)) this.hook(run, delivery, gather)
    // another handler goes on in the middle of this call
    if (chance(0.5)) this.gate.openUnsafe()
    if (this.stormy && chance(0.05)) this.world.spend(integer(1, 10))
    if (this.stormy && chance(0.01) && consumer.running !== undefined) this.pause(consumer, true)
    const end = this.ending(run)
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

  /** How a run ends. */
  private ending(run: Run): () => Effect.Effect<unknown, Trouble | Named | Nasty> {
    const { Outcome } = this.subject
    const { chance, integer, pick } = this.world
    const answer = (outcome: Core.Outcome.Outcome) => {
      run.expected = outcome._tag
      return () => Exit.succeed(outcome)
    }
    const fails = (error: Trouble | Named | Nasty, expected: Run["expected"]) => {
      run.expected = expected
      return () => Exit.fail(error)
    }
    const message = chance(0.1) ? "x".repeat(5000) : "no"
    if (!this.stormy || chance(0.55)) return () => Exit.succeed(1)
    switch (
      pick([
        "retry",
        "after",
        "dead",
        "reject",
        "release",
        "transient",
        "permanent",
        "throttled",
        "named",
        "nasty",
        "die",
        "throw",
        "interrupt"
      ])
    ) {
      case "retry":
        return answer(Outcome.Retry())
      case "after":
        run.after = integer(0, 40)
        return answer(Outcome.Retry({ after: run.after }))
      case "dead":
        return answer(Outcome.DeadLetter(new Error(message)))
      case "reject":
        return answer(Outcome.Reject())
      case "release":
        return answer(Outcome.Release)
      case "transient":
        return fails(new Trouble({ failure: "transient", message }), "Retry")
      case "permanent":
        return fails(new Trouble({ failure: "permanent", message }), "DeadLetter")
      case "throttled":
        run.after = integer(0, 40)
        return fails(new Trouble({ failure: "throttled", message, retryAfter: Duration.millis(run.after) }), "Retry")
      case "named":
        return fails(new Named({ message }), "Reject")
      case "nasty":
        return fails(new Nasty({ message }), "DeadLetter")
      case "interrupt":
        run.expected = "Release"
        run.selfInterrupt = true
        return () => Effect.interrupt
      case "die":
        run.expected = "DeadLetter"
        return () => Exit.die(new Error(message))
      default:
        run.expected = "DeadLetter"
        return () => {
          throw new Error(message)
        }
    }
  }

  // ---- what must last

  private trouble(): { readonly exit: Exit.Exit<void, Trouble>; readonly failed: Waits["failed"] } {
    const { integer, pick } = this.world
    const message = "hook"
    switch (pick(["transient", "permanent", "throttled", "die", "interrupt"])) {
      case "transient":
        return { exit: Exit.fail(new Trouble({ failure: "transient", message })), failed: "Retry" }
      case "permanent":
        return { exit: Exit.fail(new Trouble({ failure: "permanent", message })), failed: "DeadLetter" }
      case "throttled":
        return {
          exit: Exit.fail(new Trouble({ failure: "throttled", message, retryAfter: Duration.millis(integer(0, 40)) })),
          failed: "Throttled"
        }
      case "die":
        return { exit: Exit.die(new Error(message)), failed: "DeadLetter" }
      default:
        return { exit: Exit.interrupt(), failed: "Release" }
    }
  }

  private hook(run: Run, delivery: Core.Delivery, gather: Core.Gather.Gather<Item, Trouble>): void {
    const { world } = this
    const { chance, integer } = world
    const waits: Waits = { done: false, failed: undefined }
    run.hooks.push(waits)
    delivery.after(() => {
      if (chance(0.5)) return gather.add({ run, waits })
      const { exit, failed } = this.stormy && chance(0.4) ? this.trouble() : { exit: Exit.void, failed: undefined }
      const end = () => {
        waits.failed = failed
        waits.done = true
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
    const { exit, failed } = this.stormy && chance(0.3) ? this.trouble() : { exit: Exit.void, failed: undefined }
    return Effect.andThen(
      Effect.sleep(this.stormy ? integer(0, 40) : 0),
      Effect.suspend(() => {
        for (const { run, waits } of items) {
          waits.failed = failed
          waits.done = true
          this.world.log(() => `${run.entry.partition}/${run.entry.position} is written, ${failed ?? "well"}`)
        }
        return exit
      })
    )
  }
}

/** One history: a storm, then calm weather in which all that is left must be done. */
export const history = (subject: Subject) => (world: Simulation.World): Effect.Effect<Book> =>
  Effect.gen(function*() {
    const settings = setUp(world, subject)
    const { chance, integer, pick } = world
    world.log(() => JSON.stringify(settings))
    const memory = yield* subject.MemoryBroker.make({
      partitions: settings.partitions,
      settlement: settings.settlement
    })
    const stage = new Stage(world, subject, settings, memory)
    yield* memory.driver.declare({ channel, partitions: settings.partitions }).pipe(Effect.orDie)
    Object.assign(stage.network.faults, {
      publish: pick([0, 0.3, 0.8]),
      settle: pick([0, 0, 0.1]),
      slow: pick([0, 0.2, 0.8]),
      longest: pick([5, 50])
    })
    stage.publish(settings.messages)
    for (let i = integer(1, 2); i > 0; i--) stage.start()
    for (let i = integer(2, 14); i > 0; i--) {
      yield* Effect.sleep(integer(0, 40))
      const { alive } = stage
      const one = alive.length === 0 ? undefined : pick(alive)
      const what = pick(["publish", "start", "drain", "kill", "pause", "resume", "stop", "up", "sleep"])
      if (what === "publish") stage.publish(integer(1, 6))
      else if (what === "start" && alive.length < 3) stage.start()
      else if (what === "stop" && stage.book.isUp && chance(0.5)) {
        stage.up(false)
      } else if (what === "up" || what === "sleep") {
        stage.up(true)
      } else if (one === undefined) continue
      else if (what === "drain") stage.drain(one)
      else if (what === "kill" && chance(0.5)) stage.kill(one)
      else if (what === "pause") stage.pause(one, true)
      else if (what === "resume") stage.pause(one, false)
    }
    stage.up(true)
    stage.settle()
    if (chance(0.2)) { for (const one of stage.alive) stage.drain(one) }
    if (stage.alive.length === 0) stage.start()
    const { book } = stage
    const committed = () => memory.positions(channel, "g").every((done, p) => done === memory.ends(channel)[p])
    const deadline = world.now() + 60_000
    do {
      yield* Effect.sleep(20)
      if (stage.alive.length === 0) stage.start()
    } while (!committed() && world.now() < deadline)
    book.check("6 settles", committed(), () =>
      `not settled: ${
        book.all.filter((entry) =>
          memory.positions(channel, "g")[entry.partition]! <= entry.position
        )
          .map((entry) =>
            `${entry.partition}/${entry.position} (${
              entry.runs.map((run) => cameTo(run) ?? "open").join(", ") || "never ran"
            })`
          ).join("; ")
      }`)
    book.check(
      "8 hold",
      memory.ends(channel).every((end, p) =>
        end === (book.entries[p]?.length ?? 0)
      ),
      () => "something was published to the channel itself"
    )
    // what was told last is heard, what was interrupted long ago has ended, and then nobody has anything left
    yield* Effect.sleep(1000)
    for (const one of stage.alive) if (one.running !== undefined) stage.rests(one)
    for (const one of stage.consumers) {
      if (one.killed) continue
      const end = yield* Effect.timeoutOption(Fiber.await(stage.drain(one)), 120_000)
      book.check("drain", end._tag === "Some", () => `the drain of ${one.name} does not end`)
    }
    yield* Effect.sleep(1000)
    for (const entry of book.all) {
      for (const run of entry.runs) {
        if (run.consumer.killed) continue
        book.check("hooks", run.hooksRun === 1, () =>
          `the hooks of ${entry.partition}/${entry.position} ran ${run.hooksRun} times`)
      }
    }
    return book
  })
