import { Broker, Channel, type Driver, Engine, Lanes, MemoryBroker, Retries, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Logger } from "effect"
import { TestClock } from "effect/testing"
import { message, refusal } from "./altered.ts"
import { delivery, scripted, subscribed } from "./scripted.ts"

type Capabilities = Partial<Driver.Capabilities>

/** The memory broker's, with some changed. */
const capable = (changes: Capabilities) =>
  Effect.map(MemoryBroker.make({ partitions: 1 }), ({ driver }): Driver.Capabilities => ({
    ...driver.capabilities,
    delay: false,
    ...changes
  }))

const delayed = Retries.delayed(["1 second", "1 minute"])
const regional = Subscription.make(
  Channel.bytes("c.{region}"),
  { group: "g", name: "s" },
  () => Effect.void
).consumer

describe("X6 a subscription that its broker cannot serve", () => {
  const cases: ReadonlyArray<readonly [string, Capabilities, ReturnType<typeof subscribed>, boolean]> = [
    ["order where there is none", { ordering: "none" }, subscribed(), true],
    [
      "lanes by key where there is no order",
      { ordering: "none" },
      subscribed(undefined, { lanes: Lanes.key(2) }),
      false
    ],
    ["no order where there is none", { ordering: "none" }, subscribed(undefined, { lanes: Lanes.unordered(2) }), false],
    ["order of partitions", { ordering: "partition" }, subscribed(), false],
    ["a pattern where there are none", { patterns: false }, regional, true],
    ["a pattern", { patterns: true }, regional, false],
    ["a channel where there are no patterns", { patterns: false }, subscribed(), false],
    [
      "delayed retries without acknowledgements",
      { settlement: "none" },
      subscribed(undefined, { retries: delayed }),
      true
    ],
    ["held retries without acknowledgements", { settlement: "none" }, subscribed(), false],
    ["delayed retries", { settlement: "position" }, subscribed(undefined, { retries: delayed }), false]
  ]
  for (const [name, changes, consumer, isRefused] of cases) {
    it.effect(`X6 ${name}: ${isRefused ? "is refused" : "is served"}`, () =>
      Effect.gen(function*() {
        const { broker, lives } = yield* scripted(
          { capabilities: yield* capable(changes) },
          ({ sink }) => Effect.sync(sink.ready)
        )
        const exit = yield* Effect.exit(Effect.scoped(broker.consume(consumer)))
        assert.strictEqual(exit._tag, isRefused ? "Failure" : "Success")
        if (!isRefused) return
        const { message, reason } = yield* Effect.flip(exit)
        assert.deepStrictEqual([reason, lives.length], ["Unsupported", 0])
        assert.match(message, /memory .* subscription s can/)
      }))
  }
})

describe("F22 the dead letter channel is declared when a subscription starts", () => {
  /** Starts a subscription; answers the declared channels, and the Warn lines. */
  const started = (
    changes: Capabilities,
    declare: () => ReturnType<Driver.Driver["declare"]> = () => Effect.void,
    consumer: typeof regional = subscribed()
  ) => {
    const warned: Array<unknown> = []
    const logger = Logger.make(({ logLevel, message }) => void (logLevel === "Warn" && warned.push(message)))
    return Effect.gen(function*() {
      const declared: Array<string> = []
      const { broker } = yield* scripted({
        capabilities: yield* capable(changes),
        declare: ({ channel }) => {
          declared.push(channel)
          return declare()
        }
      }, ({ sink }) => Effect.sync(sink.ready))
      const start = yield* Effect.forkChild(broker.consume(consumer))
      yield* TestClock.adjust(4999)
      const isOver = start.pollUnsafe() !== undefined
      yield* TestClock.adjust(1)
      yield* Fiber.join(start)
      return { declared, warned, isOver }
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
  }

  it.effect("F22 where the engine writes dead letters, and their channel has one name", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* started({}), { declared: ["c.dead-letters"], warned: [], isOver: true })
      assert.deepStrictEqual((yield* started({ deadLetter: true })).declared, [])
      assert.deepStrictEqual((yield* started({ settlement: "none" })).declared, [])
      assert.deepStrictEqual((yield* started({}, undefined, regional)).declared, [])
    }))

  const answers: ReadonlyArray<readonly [string, () => ReturnType<Driver.Driver["declare"]>, boolean]> = [
    ["is there and differs", () => Effect.fail(refusal("Conflict")), false],
    ["needs no declaration", () => Effect.fail(refusal("Unsupported")), false],
    ["may not be declared", () => Effect.fail(refusal("Permission")), true],
    ["breaks the driver", () => Effect.die({ reason: "Conflict" }), true],
    ["has a driver that throws", () => {
      throw new Error("thrown by the client")
    }, true]
  ]
  for (const [name, declare, isWarned] of answers) {
    it.effect(`F22 one that ${name} ${isWarned ? "is told in a Warn line" : "is as good"}`, () =>
      Effect.gen(function*() {
        const { isOver, warned } = yield* started({}, declare)
        assert.isTrue(isOver)
        assert.strictEqual(warned.length, isWarned ? 1 : 0)
        if (isWarned) {
          assert.match(String(warned[0]), /^The dead letter channel c\.dead-letters of s could not be declared/)
        }
      }))
  }

  it.effect("F22 a broker that does not answer holds the start for five seconds", () =>
    Effect.gen(function*() {
      const { isOver, warned } = yield* started({}, () => Effect.never)
      assert.isFalse(isOver)
      assert.deepStrictEqual(warned.map((line) => Array.isArray(line) ? line[1] : line), [
        "The broker did not answer in time."
      ])
    }))
})

describe("F11 a subscription with retry channels", () => {
  const consumer = subscribed(undefined, { retries: delayed })
  const names = ["c.g.retry-2", "c.g.retry-1", "c"]

  it.effect("F11 reads them from before its own channel, each after it was declared, and shows them", () =>
    Effect.gen(function*() {
      const declared: Array<string> = []
      const { broker, lives } = yield* scripted({
        capabilities: yield* capable({}),
        declare: ({ channel }) => Effect.sync(() => void declared.push(channel))
      }, ({ options, sink }) =>
        Effect.sync(() => {
          sink.ready()
          if (options.channel === "c.g.retry-1") {
            const lease = { partition: 0 }
            sink.open(lease)
            void sink.offer(lease, [delivery(0)])
          }
        }))
      const running = yield* broker.consume(consumer)
      assert.deepStrictEqual([lives.map(({ options }) => options.channel), declared], [
        names,
        ["c.g.retry-1", "c.g.retry-2", "c.dead-letters"]
      ])
      const { channel, retries } = yield* running.health
      const shown = { state: "running", lastError: undefined }
      assert.deepStrictEqual([channel, retries], ["c", [
        { channel: "c.g.retry-1", delay: 1000, pending: retries[0]!.pending, ...shown },
        { channel: "c.g.retry-2", delay: 60_000, pending: 0, ...shown }
      ]])
    }).pipe(Effect.scoped))

  it.effect("F22 leaves the dead letters of its own channel to a broker that writes them", () =>
    Effect.gen(function*() {
      const told: Array<string> = []
      const { broker, lives } = yield* scripted({
        capabilities: yield* capable({ deadLetter: true, settlement: "message" }),
        publish: (batch) => Effect.sync(() => void told.push(...batch.map((each) => `published to ${each.channel}`)))
      }, ({ sink }) => Effect.sync(sink.ready))
      yield* broker.consume(subscribed(() => Effect.die("x"), { retries: delayed }))
      const lease: Driver.Lease = {
        partition: 0,
        settle: (batch) => Effect.sync(() => void told.push(...batch.map(({ outcome }) => outcome._tag)))
      }
      lives[2]!.sink.open(lease)
      yield* lives[2]!.sink.offer(lease, [delivery(0)])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(told, ["DeadLetter"])
    }).pipe(Effect.scoped))

  it.effect("F11 has none where the broker delays", () =>
    Effect.gen(function*() {
      const { broker, lives } = yield* scripted(
        { capabilities: yield* capable({ delay: true, attempts: true }) },
        ({ sink }) => Effect.sync(sink.ready)
      )
      const running = yield* broker.consume(consumer)
      assert.deepStrictEqual([lives.map(({ options }) => options.channel), (yield* running.health).retries], [
        ["c"],
        []
      ])
    }).pipe(Effect.scoped))

  for (const broken of names) {
    it.effect(`F2 does not start when ${broken} cannot be read, whether the others are ready or not`, () =>
      Effect.gen(function*() {
        for (const isReady of [false, true]) {
          const { broker, events, lives } = yield* scripted(
            { capabilities: yield* capable({}) },
            (life) =>
              Effect.suspend(() => {
                if (life.options.channel === broken) return life.end(refusal("Credentials"))
                if (isReady) life.sink.ready()
                return Effect.void
              })
          )
          const start = yield* Effect.forkChild(broker.consume(consumer))
          yield* TestClock.adjust("1 second")
          const exit = start.pollUnsafe()
          assert.isDefined(exit)
          assert.strictEqual((yield* Effect.flip(exit!)).reason, "Credentials")
          // nothing that began is left
          assert.strictEqual(events.filter((each) => each === "closed").length, lives.length)
        }
      }).pipe(Effect.scoped))
  }
})

describe("X4 a drain of a subscription", () => {
  it.effect("X4 is known to its handlers, ends its pauses, and drains all its sources at the same time", () =>
    Effect.gen(function*() {
      const seen: Array<boolean> = []
      const look = Effect.map(Effect.service(Broker.Draining), ({ isDraining }) => void seen.push(isDraining()))
      const { broker, events, lives } = yield* scripted(
        { capabilities: yield* capable({}) },
        ({ sink }) => Effect.sync(sink.ready)
      )
      const running = yield* broker.consume(
        subscribed(() => Effect.andThen(look, Effect.andThen(Effect.sleep(100), look)), { retries: delayed })
      )
      const { sink } = lives[2]!
      const lease = { partition: 0, commit: () => Effect.void }
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0), delivery(1)])
      yield* TestClock.adjust(1)
      running.intake.pause({}, "test", 10_000)
      const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
      yield* TestClock.adjust(10)
      // those with nothing to wait for are over
      assert.strictEqual(events.filter((each) => each === "closed").length, 2)
      yield* TestClock.adjust(89)
      yield* Fiber.join(drain)
      assert.deepStrictEqual([seen, (yield* running.health).state], [[false, true], "stopped"])
      const before = yield* running.health
      running.intake.pause({}, "test")
      assert.deepStrictEqual((yield* running.health).pauses, before.pauses)
    }).pipe(Effect.scoped))
})

describe("X4 a drain whose driver takes its time to stop", () => {
  it.effect("X4 starts nothing more meanwhile", () =>
    Effect.gen(function*() {
      const handled: Array<number> = []
      const { broker, lives } = yield* scripted({}, ({ sink }) => {
        sink.ready()
        return Effect.onInterrupt(Effect.never, () => Effect.sleep("1 second"))
      })
      const running = yield* broker.consume(
        subscribed(({ position }) => Effect.andThen(Effect.sleep(100), Effect.sync(() => void handled.push(position))))
      )
      const { sink } = lives[0]!
      const lease = { partition: 0, commit: () => Effect.void }
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0), delivery(1)])
      yield* TestClock.adjust(1)
      const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(drain)
      assert.deepStrictEqual(handled, [0])
    }).pipe(Effect.scoped))
})

describe("X6 a broker made of a driver", () => {
  const counting = Effect.map(MemoryBroker.make({ partitions: 1 }), ({ driver }) => {
    const batches: Array<ReadonlyArray<string | undefined>> = []
    const publish: Driver.Driver["publish"] = (batch) => {
      batches.push(batch.map(({ key }) => key))
      return driver.publish(batch)
    }
    return { driver: { ...driver, publish }, batches }
  })

  it.effect("X6 publishes one message or all at once, and calls nothing for none", () =>
    Effect.gen(function*() {
      const { batches, driver } = yield* counting
      const broker = Engine.make(driver)
      assert.isTrue(Exit.isExit(broker.publishAll([])))
      yield* broker.publish(message("a"))
      yield* broker.publishAll([message("b")])
      yield* broker.publishAll([message("c"), message("d")])
      assert.deepStrictEqual(batches, [["a"], ["b"], ["c", "d"]])
    }))

  it.effect("X6 is a layer of a driver that has to be opened", () =>
    Effect.gen(function*() {
      const { batches, driver } = yield* counting
      const publish = Effect.flatMap(Broker.Broker, (broker) => broker.publish(message("a")))
      yield* Effect.provide(publish, Engine.layer(Effect.succeed(driver)))
      assert.deepStrictEqual(batches, [["a"]])
    }))
})
