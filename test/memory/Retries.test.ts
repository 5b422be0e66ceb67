import {
  Broker,
  BrokerError,
  Channel,
  DeadLetters,
  type Delivery,
  type Driver,
  Engine,
  type Failure,
  Intake,
  Lanes,
  MemoryBroker,
  Outcome,
  Outgoing,
  Publisher,
  Retries,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, Duration, Effect, Exit, Scope, Stream } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"

class Trouble extends Data.TaggedError("Trouble")<{
  readonly failure: Failure.FailureClass
  readonly retryAfter?: Duration.Duration | undefined
}> {}

const Jobs = Channel.bytes("jobs")
const bytes = (text: string) => new TextEncoder().encode(text)
const textOf = (message: Delivery) => new TextDecoder().decode(message.payload)

/** `run`: how many runs there were before, of all messages. */
type Handle = (message: Delivery, run: number) => Effect.Effect<unknown, Trouble>

interface Seen {
  readonly text: string
  readonly attempt: number
  readonly at: number
  readonly delivery: Delivery
}

const transient = Effect.fail(new Trouble({ failure: "transient" }))
const throttled = (after: Duration.Input) =>
  Effect.fail(new Trouble({ failure: "throttled", retryAfter: Duration.fromInputUnsafe(after) }))

/** A subscription with delayed retries on a memory broker, and what its handler has seen. */
const setUp = Effect.fnUntraced(function*(
  handle: Handle,
  options: Partial<Subscription.Options> = {},
  memory: MemoryBroker.Options = {}
) {
  const made = yield* MemoryBroker.make({ partitions: 1, ...memory })
  const seen: Array<Seen> = []
  const subscription = Subscription.make(Jobs, {
    group: "g",
    name: "work",
    retries: Retries.delayed(["10 seconds", "60 seconds"]),
    ...options
  }, (delivery) =>
    Effect.clockWith((clock) => {
      const at = clock.currentTimeMillisUnsafe() / 1000
      seen.push({ text: textOf(delivery), attempt: delivery.attempt, at, delivery })
      return handle(delivery, seen.length - 1)
    }))
  const run = Subscription.run(subscription).pipe(Effect.provideService(Broker.Broker, made.broker))
  const publish = (...texts: ReadonlyArray<string>) =>
    Publisher.make(Jobs).publishAll(texts.map(bytes)).pipe(Effect.provideService(Broker.Broker, made.broker))
  const letters = Stream.runCollect(DeadLetters.list("jobs.dead-letters")).pipe(
    Effect.provideService(Broker.Broker, made.broker)
  )
  return { ...made, seen, run, publish, letters }
})

const lines = (seen: ReadonlyArray<Seen>) => seen.map(({ at, attempt, text }) => `${text} ${attempt} at ${at}`)

describe("F11 X3 delayed retries by retry channels", () => {
  it.effect("F11 a message that fails leaves its lane, comes back at its times, and ends in the dead letters", () =>
    Effect.gen(function*() {
      const { letters, publish, run, seen } = yield* setUp((message) =>
        textOf(message) === "a" ? transient : Effect.void
      )
      yield* run
      yield* publish("a", "b")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "b 1 at 0", "a 2 at 10", "a 3 at 70"])
      const [letter] = yield* letters
      assert.deepInclude(letter, { channel: "jobs", partition: 0, position: 0, attempts: 3, errorType: "Trouble" })
      assert.deepStrictEqual([letter!.group, letter!.handler, letter!.timestamp], ["g", "work", 0])
    }))

  it.effect("F11 X1 handlers see the message as it was: channel, place, time, key bytes, native headers, tombstones", () =>
    Effect.gen(function*() {
      const native = {
        keyBytes: new Uint8Array([255, 1]),
        fields: [["Tenant", bytes("7")], ["Twice", bytes("1")], ["Twice", null]] as const,
        tombstone: true
      }
      const { driver, run, seen } = yield* setUp((_, run) => run < 3 ? transient : Effect.void)
      yield* TestClock.adjust("5 seconds")
      yield* driver.publish([new Outgoing("jobs", bytes("before"), undefined, {})])
      yield* driver.publish([new Outgoing("jobs", new Uint8Array(0), undefined, { plain: "yes" }, native)])
      yield* run
      yield* TestClock.adjust("10 minutes")
      const runs = seen.filter(({ delivery }) => delivery.tombstone).map(({ delivery }) => ({
        channel: delivery.channel,
        group: delivery.origin.group,
        partition: delivery.partition,
        position: delivery.position,
        timestamp: delivery.timestamp,
        keyBytes: delivery.keyBytes,
        key: delivery.key,
        headers: { ...delivery.headers },
        fields: delivery.fields,
        tombstone: delivery.tombstone
      }))
      assert.isAtLeast(runs.length, 2)
      for (const each of runs) assert.deepStrictEqual(each, runs[0])
      assert.deepInclude(runs[0], { channel: "jobs", group: "g", position: 1, timestamp: 5000 })
    }))

  it.effect("F11 retryAfter is waited to the millisecond, spends no retry, and is never a dead letter", () =>
    Effect.gen(function*() {
      const waits = ["4 seconds", "25 seconds", "3 minutes"] as const
      const { letters, publish, run, seen } = yield* setUp((_, run) => {
        const wait = waits[run]
        return wait === undefined ? transient : throttled(wait)
      })
      yield* run
      yield* publish("a")
      yield* TestClock.adjust("1 hour")
      // 4, then 25 and 180 more, then the two delays
      assert.deepStrictEqual(lines(seen), [
        "a 1 at 0",
        "a 2 at 4",
        "a 3 at 29",
        "a 4 at 209",
        "a 5 at 219",
        "a 6 at 279"
      ])
      assert.strictEqual((yield* letters)[0]?.attempts, 6)
    }))

  it.effect("F11 a short retryAfter keeps its lane, a long one leaves it", () =>
    Effect.gen(function*() {
      const { publish, run, seen } = yield* setUp((message) =>
        textOf(message) === "short" && message.attempt === 1
          ? throttled("9 seconds")
          : textOf(message) === "long" && message.attempt === 1
          ? throttled("11 seconds")
          : Effect.void
      )
      yield* run
      yield* publish("short", "then", "long", "at once")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(lines(seen), [
        "short 1 at 0",
        "short 2 at 9",
        "then 1 at 9",
        "long 1 at 9",
        "at once 1 at 9",
        "long 2 at 20"
      ])
    }))

  it.effect("F11 the count survives the process: retries go on where they were", () =>
    Effect.gen(function*() {
      const { letters, publish, run, seen } = yield* setUp(() => transient)
      yield* publish("a")
      for (let life = 0; life < 10; life++) {
        const scope = yield* Scope.make()
        yield* Scope.provide(run, scope)
        yield* TestClock.adjust("9 seconds")
        yield* Scope.close(scope, Exit.void)
      }
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "a 2 at 10", "a 3 at 70"])
      assert.strictEqual((yield* letters).length, 1)
    }))

  it.effect("X4 whoever waits neither holds a drain nor a commit of its own channel", () =>
    Effect.gen(function*() {
      const { positions, publish, run } = yield* setUp(() => transient)
      const running = yield* run
      yield* publish("a", "b")
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(positions("jobs", "g"), [2])
      assert.deepStrictEqual(positions("jobs.g.retry-1", "g.retry-1"), [0])
      yield* running.drain
    }))

  it.effect("X4 a long retryAfter moves on from time to time, so that it holds no commit", () =>
    Effect.gen(function*() {
      const { ends, positions, publish, run, seen } = yield* setUp((message) =>
        message.attempt === 1 ? throttled("1 hour") : Effect.void
      )
      yield* run
      yield* publish("a")
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(positions("jobs.g.retry-2", "g.retry-2"), [10])
      assert.deepStrictEqual(ends("jobs.g.retry-2"), [11])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "a 2 at 3600"])
    }))

  it.effect("X5 what waits is bounded by inFlight, and all of it comes", () =>
    Effect.gen(function*() {
      const { publish, run, seen } = yield* setUp((message) => message.attempt === 1 ? transient : Effect.void, {
        inFlight: { messages: 8 }
      })
      const running = yield* run
      yield* publish(...Array.from({ length: 200 }, (_, i) => String(i)))
      yield* TestClock.adjust("5 seconds")
      const { retries } = yield* running.health
      assert.deepStrictEqual(
        retries.map(({ channel, delay, state }) => [channel, delay, state]),
        [["jobs.g.retry-1", 10_000, "running"], ["jobs.g.retry-2", 60_000, "running"]]
      )
      assert.isAtMost(retries[0]!.pending, 16)
      assert.isAtLeast(retries[0]!.pending, 8)
      yield* TestClock.adjust("6 seconds")
      assert.deepStrictEqual(
        seen.filter(({ attempt }) => attempt === 2).map(({ text }) => Number(text)).toSorted((a, b) => a - b),
        Array.from({ length: 200 }, (_, i) => i)
      )
    }))

  it.effect("X4 a pause stops the retries too", () =>
    Effect.gen(function*() {
      const { publish, run, seen } = yield* setUp((message) => message.attempt === 1 ? transient : Effect.void)
      const running = yield* run
      yield* publish("a")
      yield* TestClock.adjust("1 second")
      yield* running.pause
      assert.deepStrictEqual((yield* running.health).retries.map(({ state }) => state), ["paused", "paused"])
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(seen.length, 1)
      yield* running.resume
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "a 2 at 61"])
    }))

  it.effect("F13 what somebody else has put into a retry channel is a dead letter", () =>
    Effect.gen(function*() {
      const { driver, ends, positions, run, seen } = yield* setUp(() => Effect.void)
      yield* run
      yield* driver.publish([new Outgoing("jobs.g.retry-1", bytes("x"), undefined, {})])
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(seen.length, 0)
      assert.deepStrictEqual(ends("jobs.g.retry-1.dead-letters"), [1])
      assert.deepStrictEqual(positions("jobs.g.retry-1", "g.retry-1"), [1])
    }))

  it.effect("F11 a dead letter and an answered retry follow the same way", () =>
    Effect.gen(function*() {
      const { letters, publish, run, seen } = yield* setUp((message) =>
        Effect.succeed(message.attempt === 1 ? Outcome.Retry() : Outcome.DeadLetter(new Error("enough")))
      )
      yield* run
      yield* publish("a")
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "a 2 at 10"])
      assert.deepInclude((yield* letters)[0], { errorMessage: "enough", attempts: 2, channel: "jobs" })
    }))

  it.effect("X3 with lanes by key the key goes on, and a retry joins its lane again", () =>
    Effect.gen(function*() {
      const made = yield* MemoryBroker.make({ partitions: 1 })
      const seen: Array<string> = []
      const subscription = Subscription.make(Channel.bytes("jobs"), {
        group: "g",
        lanes: Lanes.key(4),
        retries: Retries.delayed(["1 second"])
      }, (delivery) => {
        seen.push(`${textOf(delivery)} ${delivery.attempt}`)
        return textOf(delivery) === "first" && delivery.attempt === 1 ? transient : Effect.sleep(10)
      })
      yield* Subscription.run(subscription).pipe(Effect.provideService(Broker.Broker, made.broker))
      yield* made.driver.publish(["first", "second", "third"].map((text) => new Outgoing("jobs", bytes(text), "k", {})))
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(seen, ["first 1", "second 1", "third 1", "first 2"])
    }))

  it.effect("F11 retry channels are declared when the subscription starts, and a refusal is its error", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make()
      const declared: Array<string> = []
      const refusing: Driver.Driver = {
        ...driver,
        declare: (declaration) => {
          declared.push(declaration.channel)
          return declared.length < 2 ? driver.declare(declaration) : Effect.fail(BrokerError.make({
            system: "memory",
            operation: "declare",
            reason: "Permission",
            message: "no"
          }))
        }
      }
      const subscription = Subscription.make(
        Jobs,
        { group: "g", retries: Retries.delayed(["1 second", "2 seconds"], { prefix: "later" }) },
        () => Effect.void
      )
      const failed = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, Engine.make(refusing)),
        Effect.flip
      )
      assert.strictEqual(failed.reason, "Permission")
      assert.deepStrictEqual(declared, ["later.retry-1", "later.retry-2"])
    }))

  it.effect("F11 a broker that acknowledges nothing is refused", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make()
      const none = { ...driver, capabilities: { ...driver.capabilities, settlement: "none" as const } }
      const subscription = Subscription.make(Jobs, { group: "g", retries: Retries.delayed() }, () => Effect.void)
      const failed = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, Engine.make(none)),
        Effect.flip
      )
      assert.strictEqual(failed.reason, "Unsupported")
      assert.include(failed.message, "use Retries.held")
    }))

  it("F11 wrong options are refused with their name", () => {
    assert.throws(() => Retries.delayed([]), RangeError, "Retries: delays must be at least one, got none")
    assert.throws(
      () => Retries.delayed([0]),
      RangeError,
      "Retries: each of delays must be a finite duration from 1 ms, got 0"
    )
    assert.throws(
      () => Retries.delayed([5, 4]),
      RangeError,
      "Retries: delays must not become shorter, got 4 ms after 5 ms"
    )
    assert.throws(() => Retries.delayed([5], { prefix: "" }), RangeError, "Retries: prefix must be a name")
    const all = Channel.bytes("orders.{+rest}")
    const pattern = (prefix?: string) =>
      Subscription.make(
        all,
        { group: "g", retries: Retries.delayed([5], { prefix }), deadLetters: "dead" },
        () => Effect.void
      )
    assert.throws(() => pattern(), RangeError, "must have a prefix that the pattern does not match, got undefined")
    assert.throws(() => pattern("orders.eu"), RangeError, "that the pattern does not match, got orders.eu")
    pattern("retries.orders")
  })
})

describe("F11 X3 delayed retries by the broker itself", () => {
  for (const lanes of [Lanes.partition, Lanes.key(4), Lanes.unordered(4)]) {
    it.effect(`F11 with lanes ${lanes._tag} the lane goes on, the times are the same, and nothing is published`, () =>
      Effect.gen(function*() {
        const { ends, letters, publish, run, seen } = yield* setUp(
          (message) => textOf(message) === "a" ? transient : Effect.void,
          { lanes },
          { settlement: "message" }
        )
        yield* run
        yield* publish("a", "b")
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(lines(seen), ["a 1 at 0", "b 1 at 0", "a 2 at 10", "a 3 at 70"])
        assert.deepStrictEqual(ends("jobs.g.retry-1"), [])
        assert.strictEqual((yield* letters)[0]?.attempts, 3)
      }))
  }

  it.effect("F11 with retries held and lanes by key, the lane waits as before", () =>
    Effect.gen(function*() {
      const { publish, run, seen } = yield* setUp(
        (message) => textOf(message) === "a" && message.attempt === 1 ? transient : Effect.void,
        { retries: Retries.held, backoff: { jitter: 0 } },
        { settlement: "message" }
      )
      yield* run
      yield* publish("a", "b")
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "a 2 at 1", "b 1 at 1"])
    }))

  it.effect("F11 the memory broker delays one message while others pass, and keeps the delay over a rebalance", () =>
    Effect.gen(function*() {
      const { publish, run, seen } = yield* setUp(
        (message) =>
          textOf(message) === "a" && message.attempt === 1
            ? Effect.succeed(Outcome.Retry({ after: 5000 }))
            : Effect.void,
        { lanes: Lanes.unordered(1), retries: Retries.held },
        { settlement: "message" }
      )
      const first = yield* Scope.make()
      yield* Scope.provide(run, first)
      yield* publish("a", "b")
      yield* TestClock.adjust("1 second")
      yield* Scope.close(first, Exit.void)
      yield* run
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(lines(seen), ["a 1 at 0", "b 1 at 0", "a 2 at 5"])
    }))
})

describe("X12 X4 the intake of a subscription", () => {
  it.effect("X12 goes on when nobody pauses it any more, each for himself, in any order", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({
              owner: fc.integer({ min: 0, max: 2 }),
              what: fc.constantFrom("pause", "resume", "time"),
              wait: fc.option(fc.integer({ min: 1, max: 20 }))
            }),
            { maxLength: 30 }
          ),
          (steps) =>
            Effect.runPromise(
              Effect.scoped(Effect.gen(function*() {
                const { publish, run, seen } = yield* setUp(() => Effect.void, { retries: Retries.held })
                const { health, intake } = yield* run
                const owners = [{}, {}, {}]
                const until = owners.map(() => 0)
                let now = 0
                let published = 0
                for (const { owner, wait, what } of steps) {
                  if (what === "pause") {
                    intake.pause(owners[owner]!, `owner ${owner}`, wait ?? undefined)
                    until[owner] = wait === null ? Infinity : now + wait
                  } else if (what === "resume") {
                    intake.resume(owners[owner]!)
                    until[owner] = 0
                  } else {
                    yield* TestClock.adjust(wait ?? 1)
                    now += wait ?? 1
                  }
                  const paused = until.filter((each) => each > now).length
                  yield* publish(String(published++))
                  yield* TestClock.adjust(0)
                  assert.strictEqual((yield* health).pauses.length, paused)
                  assert.strictEqual(seen.length === published, paused === 0)
                  assert.strictEqual((yield* health).state, paused === 0 ? "running" : "paused")
                }
              })).pipe(Effect.provide(TestClock.layer()))
            )
        ),
        { numRuns: 100 }
      )
    ))

  it.effect("X12 a handler that pauses it is the last that starts, and nothing is lost", () =>
    Effect.gen(function*() {
      const made = yield* MemoryBroker.make({ partitions: 1 })
      const seen: Array<string> = []
      const owner = {}
      const subscription = Subscription.make(Jobs, { group: "g" }, (delivery) =>
        Effect.map(Intake.Intake, (intake) => {
          seen.push(textOf(delivery))
          if (seen.length === 2) intake.pause(owner, "enough", 5000)
        }))
      const { health } = yield* Subscription.run(subscription).pipe(
        Effect.provideService(Broker.Broker, made.broker)
      )
      yield* made.driver.publish(["a", "b", "c"].map((text) => new Outgoing("jobs", bytes(text), undefined, {})))
      yield* TestClock.adjust("4 seconds")
      assert.deepStrictEqual(seen, ["a", "b"])
      assert.deepStrictEqual((yield* health).pauses, [{ by: "enough", until: 5000 }])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, ["a", "b", "c"])
    }))

  it.effect("X12 outside of a subscription pausing does nothing", () =>
    Effect.map(Intake.Intake, (intake) => {
      intake.pause({}, "nobody")
      intake.resume({})
      assert.deepStrictEqual(intake.pauses(), [])
    }))
})
