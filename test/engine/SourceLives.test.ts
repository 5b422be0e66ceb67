import { Lanes } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Logger } from "effect"
import { TestClock } from "effect/testing"
import { refusal } from "./altered.ts"
import { delivery, type Life, type Script, scripted, started, starting, type subscribed } from "./scripted.ts"

describe("F2 a source asks its driver", () => {
  const asked: ReadonlyArray<readonly [string, Parameters<typeof subscribed>[1], object]> = [
    ["in order, by partitions", {}, { ordered: true, from: "earliest", messages: 4096, batch: 512, bytes: 67_108_864 }],
    ["in order, by keys", { lanes: Lanes.key(2), from: "latest" }, { ordered: true, from: "latest" }],
    ["for no order", { lanes: Lanes.unordered(2) }, { ordered: false }],
    ["for batches no longer than what may be in flight", { inFlight: { messages: 20, bytes: 7 } }, {
      messages: 20,
      batch: 20,
      bytes: 7
    }]
  ]
  for (const [name, options, expected] of asked) {
    it.effect(`X3 ${name}`, () =>
      Effect.gen(function*() {
        const { lives } = yield* started(undefined, options)
        const found: Record<string, unknown> = { ...lives[0]!.options }
        const named = { channel: "c", pattern: undefined, group: "g", handler: "s" }
        for (const [key, value] of Object.entries({ ...named, ...expected })) assert.strictEqual(found[key], value, key)
      }).pipe(Effect.scoped))
  }
})

describe("F2 the start of a source", () => {
  it.effect("F2 is over when the driver is ready, also after a connection that closed before", () =>
    Effect.gen(function*() {
      const { broker, lives } = yield* scripted()
      const start = yield* starting(broker)
      yield* TestClock.adjust(1)
      yield* lives[0]!.end()
      yield* TestClock.adjust("1 second")
      assert.isUndefined(start.pollUnsafe())
      lives[1]!.sink.ready()
      const running = yield* Fiber.join(start)
      assert.deepInclude(yield* running.health, { state: "running", restarts: 1, lastError: undefined })
    }).pipe(Effect.scoped))

  it.effect("F2 fails with the error of the first connection", () =>
    Effect.gen(function*() {
      const { broker, events, lives } = yield* scripted()
      const start = yield* starting(broker)
      yield* TestClock.adjust(1)
      const error = refusal("Credentials")
      yield* lives[0]!.end(error)
      assert.strictEqual(yield* Effect.flip(Fiber.join(start)), error)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(events, ["connected", "closed"])
    }).pipe(Effect.scoped))

  it.effect("F2 is no concern of connections after it", () =>
    Effect.gen(function*() {
      const { lives, running } = yield* started()
      yield* lives[0]!.end()
      yield* TestClock.adjust("1 second")
      const error = refusal("Credentials")
      yield* lives[1]!.end(error)
      yield* TestClock.adjust("1 second")
      lives[2]!.sink.ready()
      assert.deepInclude(yield* running.health, { state: "running", restarts: 2, lastError: error })
    }).pipe(Effect.scoped))
})

const settles = ({ sink }: Life) => {
  const lease = { partition: 0, commit: () => Effect.void }
  sink.open(lease)
  return Effect.andThen(sink.offer(lease, [delivery(0)]), Effect.sleep(1))
}

describe("F2 the waits before a source starts again", () => {
  const scripts: ReadonlyArray<readonly [string, Script, ReadonlyArray<number>, object?]> = [
    ["double up to the longest", ({ sink }) => Effect.sync(sink.ready), [100, 200, 400, 800, 1000, 1000]],
    ["double from nothing", ({ sink }) => Effect.sync(sink.ready), [0, 2, 4, 8, 10, 10], { base: 0, cap: 10 }],
    [
      "are short after something was done",
      (life, number) => {
        life.sink.ready()
        return number === 2 ? settles(life) : Effect.void
      },
      [100, 200, 101, 200, 400]
    ],
    ["are short after a connection that lasted for the longest wait", ({ sink }) => {
      sink.ready()
      return Effect.sleep(1000)
    }, [1100, 1100, 1100]],
    ["double after one that was a little shorter", ({ sink }) => {
      sink.ready()
      return Effect.sleep(999)
    }, [1099, 1199, 1399]],
    ["are short after a connection that was ready twice", ({ sink }) => {
      sink.ready()
      return Effect.andThen(Effect.delay(Effect.sync(sink.ready), 999), Effect.sleep(1))
    }, [1100, 1100]],
    ["double after connections that were never ready, as long as they may last", ({ sink }, number) => {
      if (number === 0) sink.ready()
      return number === 0 ? Effect.void : Effect.sleep(5000)
    }, [100, 5200, 5400]]
  ]
  for (const [name, script, expected, restart = { base: 100, cap: 1000 }] of scripts) {
    it.effect(`F2 ${name}`, () =>
      Effect.gen(function*() {
        const { broker, lives } = yield* scripted({}, (life, number) =>
          Effect.andThen(script(life, number), Effect.suspend(() => life.end(refusal("Lost")))))
        yield* starting(broker, undefined, { restart })
        yield* TestClock.adjust("20 seconds")
        const starts = lives.map(({ at }) =>
          at
        ).slice(0, expected.length + 1)
        assert.deepStrictEqual(starts.slice(1).map((at, i) => at - starts[i]!), expected)
      }).pipe(Effect.scoped))
  }

  it.effect("F2 are told in Warn lines, with the last error", () => {
    const told: Array<unknown> = []
    const logger = Logger.make(({ logLevel, message }) => void (logLevel === "Warn" && told.push(message)))
    return Effect.gen(function*() {
      const { lives } = yield* started()
      const error = refusal("Lost")
      yield* lives[0]!.end()
      yield* TestClock.adjust("1 second")
      yield* lives[1]!.end(error)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(told, [
        ["The source of s ended; it starts again in 100 ms", "connection closed"],
        ["The source of s ended; it starts again in 200 ms", error]
      ])
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
  })
})

describe("W8 the state of a source", () => {
  it.effect("W8 is that of its connection and its pauses", () =>
    Effect.gen(function*() {
      const { lives, running, stateOf } = yield* started()
      const states: Array<string> = []
      const look = Effect.map(stateOf, (state) => void states.push(state))
      yield* look
      yield* running.resume
      yield* look
      yield* running.pause
      yield* look
      yield* running.resume
      yield* look
      yield* lives[0]!.end()
      yield* TestClock.adjust(10)
      yield* running.pause
      yield* look
      yield* TestClock.adjust("1 second")
      lives[1]!.sink.ready()
      yield* look
      yield* lives[1]!.end()
      yield* TestClock.adjust(10)
      yield* running.resume
      yield* look
      yield* TestClock.adjust("1 second")
      lives[2]!.sink.ready()
      yield* look
      assert.deepStrictEqual(states, [
        "running",
        "running",
        "paused",
        "running",
        "restarting",
        "paused",
        "restarting",
        "running"
      ])
    }).pipe(Effect.scoped))

  it.effect("W8 shows the last sign of life", () =>
    Effect.gen(function*() {
      const { lives, running } = yield* started()
      const seen: Array<number | undefined> = []
      const look = Effect.map(running.health, ({ lastPoll }) => void seen.push(lastPoll))
      yield* look
      yield* TestClock.adjust(5)
      yield* look
      lives[0]!.sink.polled()
      yield* look
      yield* TestClock.adjust(5)
      lives[0]!.sink.ready()
      yield* look
      assert.deepStrictEqual(seen, [0, 0, 5, 10])
    }).pipe(Effect.scoped))

  it.effect("W8 is draining until all is over, whatever the driver and pauses say", () =>
    Effect.gen(function*() {
      const { lives, running, stateOf } = yield* started(() => Effect.sleep(10))
      const { sink } = lives[0]!
      const lease = { partition: 0, commit: () => Effect.void }
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0)])
      const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
      yield* TestClock.adjust(5)
      sink.ready()
      yield* running.pause
      yield* running.resume
      const during = yield* stateOf
      yield* TestClock.adjust(5)
      yield* Fiber.join(drain)
      assert.deepStrictEqual([during, yield* stateOf], ["draining", "stopped"])
    }).pipe(Effect.scoped))

  it.effect("W8 is draining, too, where the drain comes between two connections", () =>
    Effect.gen(function*() {
      const { lives, running, stateOf } = yield* started(
        () => Effect.uninterruptible(Effect.sleep(1500)),
        { restart: { base: "1 minute" } }
      )
      const { sink } = lives[0]!
      const lease = { partition: 0, commit: () => Effect.void }
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0)])
      yield* lives[0]!.end()
      yield* TestClock.adjust(1200)
      const before = yield* stateOf
      const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
      yield* TestClock.adjust(10)
      const during = yield* stateOf
      yield* TestClock.adjust(1000)
      yield* Fiber.join(drain)
      assert.deepStrictEqual([before, during, yield* stateOf], ["restarting", "draining", "stopped"])
    }).pipe(Effect.scoped))
})
