/**
 * A storm over a user's own subscription: random crashes, rebalances, drains and outages, on a network that is slow and
 * loses calls; then calm weather, in which all messages must be settled.
 */
import { Broker, type Driver, Engine, MemoryBroker } from "@millrace/core"
import { Cause, Effect, Exit, Fiber, Scope } from "effect"
import { type Faults, make as network, type Network, type Watch } from "./Network.ts"
import type { Process, World } from "./World.ts"

/** The programs and the strength of a storm. */
export interface Storm<E, E2> {
  /**
   * One consumer, started repeatedly, each time in a process of its own: usually `Subscription.run`. For a graceful shutdown
   * the storm closes its scope; at a crash its process stops at once. Make state that must outlive a crash outside of the
   * consumer.
   */
  readonly consumer: Effect.Effect<unknown, E, Broker.Broker | Scope.Scope>
  /** Publishes, in a process that never dies; its publishes wait while the broker is down. */
  readonly producer: Effect.Effect<unknown, E2, Broker.Broker>
  /** The memory broker behind the network. */
  readonly broker?: MemoryBroker.Options | undefined
  /** The probabilities of faults during the storm. Default: decided by the seed. */
  readonly faults?: Faults | undefined
  /** The most consumers at once; an integer from 1. Default: 3. */
  readonly consumers?: number | undefined
  /** Virtual milliseconds of calm weather within which all messages must be settled. Default: 600,000. */
  readonly calm?: number | undefined
}

interface Consumer {
  readonly process: Process
  readonly scope: Scope.Closeable
  readonly fiber: Fiber.Fiber<unknown, unknown>
}

/** Logs the calls between consumers and broker. */
const watch = (world: World): Watch => ({
  opened: ({ name }, { partition }) => world.log(() => `${name} is given partition ${partition}`),
  offered: ({ name }, { partition }, batch) =>
    world.log(() => `${name} is offered ${batch.length} of partition ${partition} from ${batch[0]!.position}`),
  closing: ({ name }, { partition }, how) => {
    world.log(() => `${name}: partition ${partition} ends, ${how}`)
    return () => world.log(() => `${name}: partition ${partition} is given back`)
  },
  settling: ({ name }, { partition }, what) => {
    const words = () =>
      typeof what === "number"
        ? `commits partition ${partition} up to ${what}`
        : `settles ${
          what.map(({ delivery, outcome }) => `${partition}/${delivery.position} ${outcome._tag}`).join(", ")
        }`
    return ({ _tag }) => world.log(() => `${name} ${words()}${_tag === "Failure" ? ", and hears of a failure" : ""}`)
  },
  published: ({ name }, batch) =>
    world.log(() =>
      `${name} has published ${batch.length} to ${[...new Set(batch.map(({ channel }) => channel))].join(", ")}`
    )
})

class Weather<E, E2> {
  readonly memory: MemoryBroker.MemoryBroker
  private readonly driver: Driver.Driver
  private readonly world: World
  private readonly storm: Storm<E, E2>
  private readonly network: Network
  private readonly groups = new Map<string, Driver.ConsumeOptions>()
  private consumers: Array<Consumer> = []
  private started = 0
  private isUp = true
  private refusal: string | undefined

  constructor(world: World, storm: Storm<E, E2>, memory: MemoryBroker.MemoryBroker) {
    this.world = world
    this.storm = storm
    this.memory = memory
    const { driver } = memory
    this.driver = {
      ...driver,
      consume: (options, sink) => {
        this.groups.set(`${options.channel} ${options.group}`, options)
        return driver.consume(options, sink)
      }
    }
    const faults = storm.faults ?? {
      publish: world.pick([0, 0.3]),
      settle: world.pick([0, 0, 0.1]),
      slow: world.pick([0, 0.2, 0.8]),
      longest: world.pick([5, 50])
    }
    this.network = network(world, this.driver, { ...faults }, watch(world))
  }

  produce(): Fiber.Fiber<void> {
    const { driver, world } = this
    const publish: Driver.Driver["publish"] = (batch) =>
      Effect.catch(
        Effect.suspend(() => driver.publish(batch)),
        (error) => this.isUp ? Effect.fail(error) : Effect.andThen(Effect.sleep(10), publish(batch))
      )
    const broker = Engine.make({ ...driver, publish })
    return world.process("producer").fork(
      this.storm.producer.pipe(
        Effect.provideService(Broker.Broker, broker),
        Effect.catchCause((cause) =>
          Effect.sync(() => world.expect(false, `the producer failed: ${Cause.pretty(cause)}`))
        ),
        Effect.asVoid
      )
    )
  }

  start(): void {
    const { world } = this
    const process = world.process(`consumer ${++this.started}`)
    world.log(`${process.name} starts`)
    const scope = Scope.makeUnsafe()
    const fiber = process.fork(this.storm.consumer.pipe(
      Effect.provideService(Broker.Broker, Engine.make(this.network.connect(process))),
      Effect.provideService(Scope.Scope, scope)
    ))
    const consumer: Consumer = { process, scope, fiber }
    this.consumers.push(consumer)
    fiber.addObserver((exit) => {
      if (exit._tag === "Success") return
      this.remove(consumer)
      this.refusal = `${process.name} did not start: ${Cause.pretty(exit.cause)}`
      world.log(this.refusal)
    })
  }

  private remove(consumer: Consumer): void {
    this.consumers = this.consumers.filter((one) => one !== consumer)
  }

  private end(consumer: Consumer): Fiber.Fiber<void> {
    this.world.log(`${consumer.process.name} drains`)
    this.remove(consumer)
    return consumer.process.fork(Scope.close(consumer.scope, Exit.void))
  }

  private crash(consumer: Consumer): void {
    this.world.log(`${consumer.process.name} crashes`)
    this.remove(consumer)
    consumer.process.kill()
    this.network.gone(consumer.process)
  }

  private up(isUp: boolean): void {
    if (this.isUp === isUp) return
    this.world.log(`the broker ${isUp ? "is up again" : "stops"}`)
    this.isUp = isUp
    Effect.runSync(isUp ? this.memory.start : this.memory.stop)
  }

  /** Makes one random event happen. */
  happen(): void {
    const { chance, pick } = this.world
    const one = this.consumers.length === 0 ? undefined : pick(this.consumers)
    switch (pick(["start", "start", "drain", "crash", "outage", "up", "nothing"])) {
      case "start":
        if (this.consumers.length < (this.storm.consumers ?? 3)) this.start()
        return
      case "drain":
        if (one !== undefined) this.end(one)
        return
      case "crash":
        if (one !== undefined) this.crash(one)
        return
      case "outage":
        return this.up(!chance(0.5))
      default:
        return this.up(true)
    }
  }

  private isSettled(): boolean {
    return this.groups.size > 0 && Array.from(this.groups.values()).every(({ channel, group }) => {
      const ends = this.memory.ends(channel)
      const positions = this.memory.positions(channel, group)
      // a group has no positions yet if its first member found the broker down
      return positions.length === ends.length && positions.every((position, partition) => position === ends[partition])
    })
  }

  /** Ends all faults, waits until all messages are settled, and stops all consumers. */
  calm(producer: Fiber.Fiber<void>): Effect.Effect<void> {
    const { network, world } = this
    return Effect.gen({ self: this }, function*() {
      world.log("everything works from now on")
      this.up(true)
      Object.assign(network.faults, { publish: 0, settle: 0, slow: 0 })
      const deadline = world.now() + (this.storm.calm ?? 600_000)
      while (world.now() < deadline && !(producer.pollUnsafe() !== undefined && this.isSettled())) {
        if (this.consumers.length === 0) this.start()
        yield* Effect.sleep(20)
      }
      world.expect(this.isSettled(), () => `not settled: ${this.left()}`)
      for (const consumer of this.consumers) {
        const ended = yield* Effect.timeoutOption(Fiber.await(this.end(consumer)), 120_000)
        world.expect(ended._tag === "Some", () => `${consumer.process.name} does not end`)
      }
    })
  }

  private left(): string {
    if (this.groups.size === 0) return this.refusal ?? "nobody consumes"
    return Array.from(this.groups.values(), ({ channel, group }) => {
      const ends = this.memory.ends(channel)
      const parts = this.memory.positions(channel, group).map((position, p) => `${position} of ${ends[p]}`)
      return `${group} has done ${parts.join(", ")} of ${channel}`
    }).join("; ")
  }
}

/**
 * Runs a storm over a subscription and completes when it is over: all published messages are settled, and every consumer has
 * left. The program then checks its own invariants with `world.expect`.
 *
 * The history fails when a message stays unsettled, a consumer does not end, the producer fails, or no consumer can start
 * although the broker is up.
 */
export const storm = <E, E2>(world: World, options: Storm<E, E2>): Effect.Effect<void> =>
  Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: world.integer(1, 3), ...options.broker })
    const weather = new Weather(world, options, memory)
    const producer = weather.produce()
    weather.start()
    for (let i = world.integer(2, 12); i > 0; i--) {
      yield* Effect.sleep(world.integer(0, 60))
      weather.happen()
    }
    yield* weather.calm(producer)
  })
