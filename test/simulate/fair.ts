/**
 * Histories of uneven load: a partition floods, a lane stands still or is always ready, and the others must go on.
 */
import type { Delivery, Lanes, MemoryBroker } from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Data, Effect, Exit, Latch, Scope } from "effect"
import type { Event } from "./rules.ts"
import type { Subject } from "./settings.ts"
import { Tally } from "./Tally.ts"

const channel = "c"

/** Virtual milliseconds within which a message without trouble has to start. */
const longest = 5_000

interface Settings {
  readonly lanes: Lanes.Lanes
  readonly settlement: "position" | "message"
  readonly partitions: number
  readonly inFlight: number
  /** How the troubled partition behaves, or of `eager` the troubled lane: it always has a message that may start. */
  readonly trouble: "stuck" | "flood" | "eager"
  /** Messages of the troubled partition at the beginning. */
  readonly load: number
}

/** A message of a partition without trouble, or where a lane is eager of any other lane. */
interface Sample {
  readonly published: number
  /** Messages that had started when it was published. */
  readonly before: number
  started: boolean
}

const setUp = ({ integer, pick }: Simulation.World, { Lanes }: Subject): Settings => {
  const inFlight = pick([4, 16, 64])
  const trouble = pick(["stuck", "flood", "eager"] as const)
  return {
    trouble,
    inFlight,
    // messages that fail again and again must leave room for others
    load: trouble === "eager" ? integer(1, inFlight / 4) : inFlight * (trouble === "flood" ? 20 : integer(1, 3)),
    // what comes behind an eager message in one lane waits for it
    lanes: pick([
      ...(trouble === "eager" ? [] : [Lanes.partition]),
      Lanes.key(integer(2, 6)),
      Lanes.unordered(integer(2, 6))
    ]),
    // a broker that settles each message delays the retries of messages without lanes, so none is ready at once
    settlement: trouble === "eager" ? "position" : pick(["position", "message"] as const),
    partitions: integer(2, 4)
  }
}

const events = { stuck: "stuck lane", flood: "flood", eager: "eager lane" } as const satisfies Record<
  Settings["trouble"],
  Event
>

class Busy extends Data.TaggedError("Busy")<{}> {
  readonly failure = "transient"
}

class Load {
  readonly tally: Tally
  private readonly world: Simulation.World
  private readonly subject: Subject
  private readonly settings: Settings
  private readonly memory: MemoryBroker.MemoryBroker
  private readonly release = Latch.makeUnsafe(false)
  private readonly samples = new Map<string, Sample>()
  private readonly troubled: ReadonlyArray<string>
  private readonly calm: ReadonlyArray<string>
  private started = 0
  private serial = 0
  private isStuck = false
  private isEager = false

  constructor(world: Simulation.World, subject: Subject, settings: Settings, memory: MemoryBroker.MemoryBroker) {
    this.world = world
    this.subject = subject
    this.settings = settings
    this.memory = memory
    this.tally = new Tally(world)
    // a first message of each key shows its partition
    const keys = Array.from({ length: 24 }, (_, i) => `k${i}`)
    const partitionOf = new Map(keys.map((key) => {
      const before = memory.ends(channel)
      this.publish(key)
      return [key, memory.ends(channel).findIndex((end, p) => end > (before[p] ?? 0))]
    }))
    const first = world.pick(keys)
    const partition = partitionOf.get(first)
    this.troubled = settings.trouble === "eager" ? keys.slice(0, world.integer(1, 12)) : [first]
    this.calm = keys.filter((key) =>
      settings.trouble === "eager" ? !this.troubled.includes(key) : partitionOf.get(key) !== partition
    )
  }

  publish(key: string): string {
    const id = String(this.serial++)
    const outgoing = new this.subject.Outgoing(channel, new TextEncoder().encode(id), key, {})
    Effect.runSync(this.memory.driver.publish([outgoing]))
    return id
  }

  /** The first message of the troubled key stays in its handler, all of them come at once, or they fail again and again. */
  begin(): void {
    const { trouble } = this.settings
    this.isStuck = trouble === "stuck"
    this.isEager = trouble === "eager"
    this.tally.note(events[trouble])
    for (let i = 0; i < this.settings.load; i++) this.publish(this.troubled[i % this.troubled.length]!)
  }

  sample(): void {
    const id = this.publish(this.world.pick(this.calm))
    this.samples.set(id, { published: this.world.now(), before: this.started, started: false })
  }

  handle(delivery: Delivery): Effect.Effect<unknown, Busy> {
    const { tally, world } = this
    const id = new TextDecoder().decode(delivery.raw)
    world.log(() => `${delivery.partition}/${delivery.position} starts`)
    const sample = this.samples.get(id)
    if (sample !== undefined && !sample.started) {
      sample.started = true
      const waited = world.now() - sample.published
      const past = this.started - sample.before
      const most = this.settings.inFlight * 4 + this.samples.size
      tally.check(
        "fair",
        waited <= longest && past <= most,
        () => `a message without trouble waited ${waited} ms for ${past} others, at most ${most} may pass it`
      )
    }
    this.started++
    if (this.isStuck && this.isTroubled(delivery)) {
      this.isStuck = false
      return this.release.await
    }
    if (this.isEager && this.isTroubled(delivery)) {
      world.spend(world.integer(1, 10))
      return Effect.fail(new Busy())
    }
    return world.chance(0.5) ? Effect.void : Effect.sleep(world.integer(1, 3))
  }

  private isTroubled({ key }: Delivery): boolean {
    return key !== undefined && this.troubled.includes(key)
  }

  /** What has not started in time. */
  end(): void {
    const waiting = Array.from(this.samples.values()).filter(({ started }) => !started)
    this.tally.check(
      "fair",
      waiting.length === 0,
      () =>
        `${waiting.length} of ${this.samples.size} messages without trouble did not start in ${longest} ms: ${
          events[this.settings.trouble]
        }`
    )
    this.isEager = false
    this.release.openUnsafe()
  }

  get isSettled(): boolean {
    const ends = this.memory.ends(channel)
    return this.memory.positions(channel, "g").every((done, p) => done === ends[p])
  }
}

/** One history: one consumer, one partition with too much to do, and messages of the others now and then. */
export const fair = (subject: Subject, world: Simulation.World): Effect.Effect<Tally> =>
  Effect.gen(function*() {
    const settings = setUp(world, subject)
    world.log(() => JSON.stringify(settings))
    const { inFlight, lanes, partitions, settlement } = settings
    const memory = yield* subject.MemoryBroker.make({ settlement, partitions })
    yield* Effect.orDie(memory.driver.declare({ channel, partitions }))
    const load = new Load(world, subject, settings, memory)
    const scope = yield* Scope.make()
    const subscription = subject.Subscription.make(subject.Channel.bytes(channel), {
      group: "g",
      name: "handle",
      lanes,
      inFlight: { messages: inFlight },
      // a message that fails may start again at once
      backoff: { base: 0, cap: 0 },
      hold: { attempts: 1_000_000, age: "1 day" }
    }, (delivery) => load.handle(delivery))
    const process = world.process("consumer")
    yield* process.run(
      subject.Subscription.run(subscription).pipe(
        Effect.provideService(subject.Broker.Broker, memory.broker),
        Effect.provideService(Scope.Scope, scope),
        Effect.orDie
      )
    )
    yield* Effect.sleep(100)
    load.begin()
    for (let i = world.integer(3, 8); i > 0; i--) {
      yield* Effect.sleep(world.integer(0, 20))
      load.sample()
    }
    yield* Effect.sleep(longest)
    load.end()
    yield* Effect.sleep(longest)
    load.tally.check("6 settles", load.isSettled, () => "not settled after an uneven load")
    yield* process.run(Scope.close(scope, Exit.void))
    return load.tally
  })
