/**
 * Histories of uneven load: a partition floods or a lane of it stands still, and the others must go on.
 */
import type { Delivery, Lanes, MemoryBroker } from "@millrace/core"
import type { Simulation } from "@millrace/testing"
import { Effect, Exit, Latch, Scope } from "effect"
import type { Subject } from "./settings.ts"
import { Tally } from "./Tally.ts"

const channel = "c"

/** Virtual milliseconds within which a message of an idle partition has to start. */
const longest = 5_000

interface Settings {
  readonly lanes: Lanes.Lanes
  readonly settlement: "position" | "message"
  readonly partitions: number
  readonly inFlight: number
  /** How the troubled partition behaves. */
  readonly trouble: "stuck" | "flood"
  /** Messages of the troubled partition at the beginning. */
  readonly load: number
}

/** A message of a partition without trouble. */
interface Sample {
  readonly published: number
  /** Messages that had started when it was published. */
  readonly before: number
  started: boolean
}

const setUp = ({ integer, pick }: Simulation.World, { Lanes }: Subject): Settings => {
  const inFlight = pick([4, 16, 64])
  const trouble = pick(["stuck", "flood"] as const)
  return {
    trouble,
    inFlight,
    load: inFlight * (trouble === "flood" ? 20 : integer(1, 3)),
    lanes: pick([Lanes.partition, Lanes.key(integer(2, 6)), Lanes.unordered(integer(2, 6))]),
    settlement: pick(["position", "message"] as const),
    partitions: integer(2, 4)
  }
}

class Load {
  readonly tally: Tally
  private readonly world: Simulation.World
  private readonly subject: Subject
  private readonly settings: Settings
  private readonly memory: MemoryBroker.MemoryBroker
  private readonly release = Latch.makeUnsafe(false)
  private readonly samples = new Map<string, Sample>()
  private readonly troubled: string
  private readonly calm: ReadonlyArray<string>
  private started = 0
  private serial = 0
  private isStuck = false

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
    this.troubled = world.pick(keys)
    this.calm = keys.filter((key) => partitionOf.get(key) !== partitionOf.get(this.troubled))
  }

  publish(key: string): string {
    const id = String(this.serial++)
    const outgoing = new this.subject.Outgoing(channel, new TextEncoder().encode(id), key, {})
    Effect.runSync(this.memory.driver.publish([outgoing]))
    return id
  }

  /** The first message of the troubled key stays in its handler, or all of them come at once. */
  begin(): void {
    this.isStuck = this.settings.trouble === "stuck"
    this.tally.note(this.isStuck ? "stuck lane" : "flood")
    for (let i = 0; i < this.settings.load; i++) this.publish(this.troubled)
  }

  sample(): void {
    const id = this.publish(this.world.pick(this.calm))
    this.samples.set(id, { published: this.world.now(), before: this.started, started: false })
  }

  handle(delivery: Delivery): Effect.Effect<unknown> {
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
        () => `a message of an idle partition waited ${waited} ms for ${past} others, at most ${most} may pass it`
      )
    }
    this.started++
    if (this.isStuck && delivery.key === this.troubled) {
      this.isStuck = false
      return this.release.await
    }
    return world.chance(0.5) ? Effect.void : Effect.sleep(world.integer(1, 3))
  }

  /** What has not started in time. */
  end(): void {
    const waiting = Array.from(this.samples.values()).filter(({ started }) => !started)
    this.tally.check(
      "fair",
      waiting.length === 0,
      () =>
        `${waiting.length} of ${this.samples.size} messages of idle partitions did not start in ${longest} ms, ${
          this.settings.trouble === "flood" ? "beside a flood" : "beside a lane that stands still"
        }`
    )
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
      inFlight: { messages: inFlight }
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
