/**
 * Histories of delayed retries: messages that fail leave their place, come back when their time has come, and end.
 */
import type { Delivery, Driver, Failure, Lanes, Outgoing, Retries } from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { Cause, Data, Duration, Effect, Exit, Fiber, Scope } from "effect"
import type { Subject } from "./settings.ts"

/** Sums of fractions of milliseconds are not exact. */
const epsilon = 0.02

const channel = "c"
const letters = `${channel}.dead-letters`

class Trouble extends Data.TaggedError("Trouble")<{
  readonly failure: Failure.FailureClass
  readonly retryAfter?: Duration.Duration | undefined
}> {}

/** What becomes of a run, and how many retries the message may have spent before it. */
interface Run {
  readonly attempt: number
  readonly spent: ReadonlySet<number>
  ended: number | undefined
  /** Milliseconds that it names, or the next delay; undefined where it asks for no retry. */
  again: number | "delay" | "dead" | undefined
  dead: boolean
  done: boolean
}

interface Entry {
  readonly partition: number
  readonly position: number
  readonly outgoing: Outgoing<Uint8Array>
  readonly isStubborn: boolean
  readonly runs: Array<Run>
  letters: number
}

interface Consumer {
  readonly process: Simulation.Process
  readonly scope: Scope.Closeable
}

interface Settings {
  readonly settlement: "position" | "message"
  readonly native: boolean
  readonly lanes: Lanes.Lanes
  readonly delays: Retries.Delayed["delays"]
}

const setUp = ({ chance, integer, pick }: Simulation.World, { Lanes }: Subject): Settings => {
  const settlement = pick(["position", "message"] as const)
  return {
    settlement,
    native: settlement === "message" && chance(0.3),
    lanes: pick([Lanes.partition, Lanes.key(integer(1, 4)), Lanes.unordered(integer(1, 4))]),
    delays: pick<Retries.Delayed["delays"]>([[20], [10, 40], [10, 10, 60], [5, 15, 80]])
  }
}

class Stage {
  readonly entries: Array<Array<Entry>> = []
  readonly retries = new Set<string>()
  consumers: Array<Consumer> = []
  stormy = true
  isUp = true
  private readonly world: Simulation.World
  private readonly subject: Subject
  private readonly settings: Settings
  readonly memory: Effect.Success<ReturnType<Subject["MemoryBroker"]["make"]>>
  readonly network: Simulation.Network
  private started = 0

  constructor(world: Simulation.World, subject: Subject, settings: Settings, memory: Stage["memory"]) {
    this.world = world
    this.subject = subject
    this.settings = settings
    this.memory = memory
    const { consume } = memory.driver
    const driver: Driver.Driver = {
      ...memory.driver,
      consume: (options, sink) => {
        if (options.channel !== channel) this.retries.add(options.channel)
        return consume(options, sink)
      }
    }
    this.network = Simulation.network(
      world,
      driver,
      {
        publish: world.pick([0, 0.3]),
        settle: world.pick([0, 0, 0.1]),
        slow: world.pick([0, 0.2, 0.8]),
        longest: world.pick([5, 50])
      },
      { published: (_, batch) => batch.forEach((outgoing) => this.published(outgoing)) },
      subject.BrokerError.make
    )
  }

  // ---- what goes over the network

  private published(outgoing: Outgoing<Uint8Array>): void {
    const { world } = this
    const header = (name: string) => outgoing.headers[name]
    const isLetter = outgoing.channel === letters
    const prefix = isLetter ? "dead-letter-" : "delayed-retry-"
    const entry = this.entries[Number(header(`${prefix}partition`))]?.[Number(header(`${prefix}position`))]
    world.log(() => `${entry?.partition}/${entry?.position} is published to ${outgoing.channel}`)
    world.expect(outgoing.channel !== channel, "a retry is published to its own channel")
    world.expect(
      entry !== undefined && header(`${prefix}channel`) === channel &&
        same(outgoing, (outgoing.native?.fields ?? []).map(([name]) => name), entry.outgoing),
      () => `${outgoing.channel} gets a message that nobody published, or not as it was: ${outgoing.headers}`
    )
    if (entry === undefined) return
    if (isLetter) {
      entry.letters++
      const isOver = entry.runs.some((run) =>
        run.dead || (run.again === "delay" && run.spent.has(this.settings.delays.length))
      )
      world.expect(isOver || this.settings.native, () => `${idOf(entry)} is given up before its last retry`)
      return
    }
    const attempt = Number(header("delayed-retry-attempts"))
    world.expect(
      entry.runs.some((run) =>
        run.again !== undefined &&
        // a broker that counts deliveries counts those of whoever waited and was cut short, too
        (this.settings.settlement === "message" ? run.attempt <= attempt : run.attempt === attempt)
      ),
      () => `${idOf(entry)} leaves its place after attempt ${attempt}, which did not fail`
    )
  }

  publish(count: number): void {
    const { chance, integer } = this.world
    for (let i = 0; i < count; i++) {
      const key = chance(0.2) ? undefined : `k${integer(1, 4)}`
      const body = new Uint8Array(integer(0, 8)).fill(i)
      const outgoing = new this.subject.Outgoing(channel, body, key, chance(0.3) ? { tenant: `t${i}` } : {})
      const before = this.memory.ends(channel)
      Effect.runSync(this.memory.driver.publish([outgoing]))
      this.memory.ends(channel).forEach((end, partition) => {
        const own = this.entries[partition] ??= []
        if (end === before[partition]) return
        own.push({ partition, position: end - 1, outgoing, isStubborn: chance(0.2), runs: [], letters: 0 })
      })
    }
  }

  // ---- consumers

  start(): void {
    const { settings, subject, world } = this
    const process = world.process(`consumer ${++this.started}`)
    world.log(`${process.name} starts`)
    const scope = Scope.makeUnsafe()
    const consumer: Consumer = { process, scope }
    this.consumers.push(consumer)
    const { native } = settings
    const broker = subject.Engine.make(this.network.connect(process, { delay: native, attempts: native }))
    const subscription = subject.Subscription.make(subject.Channel.bytes(channel), {
      group: "g",
      name: "handle",
      lanes: settings.lanes,
      retries: subject.Retries.delayed(settings.delays),
      restart: { base: 1, cap: 40 },
      backoff: { base: 5, cap: 60 },
      grace: { drain: world.pick([0, 50]), revoke: world.pick([0, 50]) },
      inFlight: { messages: world.pick([1, 3, 1000]) }
    }, (delivery) => this.handle(delivery))
    const run = subject.Subscription.run(subscription).pipe(
      Effect.provideService(subject.Broker.Broker, broker),
      Effect.provideService(Scope.Scope, scope)
    )
    process.fork(run).addObserver((exit) => {
      if (exit._tag === "Success") return
      world.log(() => `${process.name} did not start: ${Cause.pretty(exit.cause)}`)
      // what has begun of it ends
      this.end(consumer)
    })
  }

  end(consumer: Consumer): Fiber.Fiber<void> {
    this.world.log(`${consumer.process.name} drains`)
    this.consumers = this.consumers.filter((one) => one !== consumer)
    return consumer.process.fork(Scope.close(consumer.scope, Exit.void))
  }

  private kill(consumer: Consumer): void {
    this.world.log(`${consumer.process.name} is killed`)
    this.consumers = this.consumers.filter((one) => one !== consumer)
    consumer.process.kill()
    this.network.gone(consumer.process)
  }

  up(isUp: boolean): void {
    if (this.isUp === isUp) return
    this.world.log(`the broker ${isUp ? "is up again" : "stops"}`)
    this.isUp = isUp
    Effect.runSync(isUp ? this.memory.start : this.memory.stop)
  }

  happen(): void {
    const { chance, integer, pick } = this.world
    const one = this.consumers.length === 0 ? undefined : pick(this.consumers)
    switch (pick(["publish", "start", "drain", "kill", "outage", "up"])) {
      case "publish":
        if (this.isUp) this.publish(integer(1, 4))
        return
      case "start":
        if (this.consumers.length < 3) this.start()
        return
      case "drain":
        if (one !== undefined) this.end(one)
        return
      case "kill":
        if (one !== undefined) this.kill(one)
        return
      case "outage":
        return this.up(!chance(0.5))
      default:
        return this.up(true)
    }
  }

  // ---- the handler

  private handle(delivery: Delivery): Effect.Effect<unknown, Trouble> {
    const { settings, subject, world } = this
    const entry = this.entries[delivery.partition]?.[delivery.position]
    world.expect(
      entry !== undefined && delivery.channel === channel && delivery.origin.group === "g" &&
        same(delivery, Object.keys(delivery.headers), entry.outgoing),
      () => `the handler sees ${delivery.channel} ${delivery.partition}/${delivery.position}, not as it was`
    )
    if (entry === undefined) return Effect.void
    const now = world.now()
    const run: Run = {
      attempt: delivery.attempt,
      spent: this.spent(entry, delivery.attempt, now),
      ended: undefined,
      again: undefined,
      dead: false,
      done: false
    }
    world.log(() => `${idOf(entry)} runs, attempt ${run.attempt}, after ${[...run.spent].join(" or ")} retries`)
    world.expect(
      settings.native || run.spent.size > 0,
      () => `${idOf(entry)} runs at attempt ${run.attempt} before its time, or after its last retry`
    )
    entry.runs.push(run)
    delivery.after((_, outcome) => {
      run.ended = world.now()
      const asked = run.again
      run.again = outcome?._tag !== "Retry" && outcome?._tag !== "Release" || asked === "dead"
        ? undefined
        : asked ?? "delay"
      run.dead = outcome?._tag === "DeadLetter"
      // hooks hear of a retry that will not be made as of the dead letter that it is
      world.expect(
        !run.dead || asked === "dead" || settings.native || run.spent.has(settings.delays.length),
        () => `${idOf(entry)} is given up before its last retry`
      )
      run.done = outcome?._tag === "Ack"
      world.log(() => `${idOf(entry)} came to ${outcome?._tag}`)
      return world.chance(0.2) ? Effect.sleep(world.integer(0, 10)) : undefined
    })
    const end = (): Effect.Effect<unknown, Trouble> => {
      const { chance, integer, pick } = world
      if (entry.isStubborn) return fail("transient")
      if (!this.stormy || chance(0.4)) return Effect.void
      switch (pick(["transient", "transient", "throttled", "dead", "interrupt"])) {
        case "throttled":
          run.again = pick([integer(0, 9), integer(10, 300)])
          return fail("throttled", run.again)
        case "dead":
          run.again = "dead"
          return Effect.succeed(subject.Outcome.DeadLetter(new Error("no")))
        case "interrupt":
          return Effect.interrupt
        default:
          return fail("transient")
      }
    }
    return world.chance(0.5) ? end() : Effect.andThen(Effect.sleep(world.integer(0, 20)), Effect.suspend(end))
  }

  /** How many retries may have been spent before a run: each follows one that failed, no earlier than it may. */
  private spent(entry: Entry, attempt: number, now: number): ReadonlySet<number> {
    const found = new Set<number>()
    const { delays } = this.settings
    if (attempt === 1 || (this.settings.settlement === "message" && entry.runs.length === 0)) found.add(0)
    for (const before of entry.runs) {
      const { again, ended } = before
      if (before.attempt >= attempt) continue
      if (this.settings.settlement === "message") { for (const each of before.spent) found.add(each) }
      if (ended === undefined || again === undefined) continue
      for (const each of before.spent) {
        if (again === "delay") {
          const delay = delays[each]
          if (delay !== undefined && now - ended >= delay - epsilon) found.add(each + 1)
        } else if (again !== "dead" && now - ended >= again - epsilon) found.add(each)
      }
    }
    return found
  }

  // ---- the end

  get isSettled(): boolean {
    const { ends, positions } = this.memory
    return [[channel, "g"] as const, ...Array.from(this.retries, (each) => [each, `g.${each.slice(4)}`] as const)]
      .every(([name, group]) => {
        const done = positions(name, group)
        const all = ends(name)
        // a group whose first member found the broker down has no positions yet
        return done.length === all.length && done.every((position, p) => position === all[p])
      })
  }

  concluded(): void {
    for (const entry of this.entries.flat()) {
      const isDone = entry.runs.some(({ done }) => done)
      this.world.expect(isDone || entry.letters > 0, () => `${idOf(entry)} is lost`)
      this.world.expect(
        !entry.isStubborn || entry.letters > 0,
        () => `${idOf(entry)} fails for ever, and has no dead letter`
      )
    }
  }
}

const fail = (failure: Failure.FailureClass, after?: number): Exit.Exit<never, Trouble> =>
  Exit.fail(new Trouble({ failure, retryAfter: after === undefined ? undefined : Duration.millis(after) }))

const idOf = ({ partition, position }: Entry): string => `${partition}/${position}`

/** Whether one holds the other: the bytes, the key, and of the headers all that the engine did not add. */
const same = (
  copy: Pick<Outgoing<Uint8Array>, "key" | "payload">,
  headers: ReadonlyArray<string>,
  original: Outgoing<Uint8Array>
): boolean =>
  copy.key === original.key && copy.payload.length === original.payload.length &&
  copy.payload.every((byte, i) => byte === original.payload[i]) &&
  headers.join() === Object.keys(original.headers).join()

/** One history: a storm, then calm weather in which all that is left must end. */
export const delayed = (subject: Subject) => (world: Simulation.World): Effect.Effect<void> =>
  Effect.gen(function*() {
    const settings = setUp(world, subject)
    world.log(() => JSON.stringify(settings))
    const { integer } = world
    const memory = yield* subject.MemoryBroker.make({ settlement: settings.settlement, partitions: integer(1, 3) })
    yield* Effect.orDie(memory.driver.declare({ channel }))
    const stage = new Stage(world, subject, settings, memory)
    stage.publish(integer(1, 12))
    stage.start()
    for (let i = integer(2, 12); i > 0; i--) {
      yield* Effect.sleep(integer(0, 60))
      stage.happen()
    }
    world.log("everything works from now on")
    stage.up(true)
    stage.stormy = false
    Object.assign(stage.network.faults, { publish: 0, settle: 0, slow: 0 })
    const deadline = world.now() + 5_000
    do {
      if (stage.consumers.length === 0) stage.start()
      yield* Effect.sleep(20)
    } while (!stage.isSettled && world.now() < deadline)
    world.expect(stage.isSettled, "not settled")
    stage.concluded()
    for (const consumer of stage.consumers) {
      const ended = yield* Effect.timeoutOption(Fiber.await(stage.end(consumer)), 60_000)
      world.expect(ended._tag === "Some", () => `${consumer.process.name} does not end`)
    }
  })
