import {
  Broker,
  type BrokerError,
  Channel,
  type Delivery,
  KillSwitch,
  Lanes,
  MemoryBroker,
  Outcome,
  Outgoing,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, Duration, Effect, Layer, type Scope } from "effect"
import { TestClock } from "effect/testing"

class Trouble extends Data.TaggedError("Trouble")<{ readonly retryAfter?: Duration.Duration | undefined }> {
  readonly failure = "permanent"
}

/** Subscriptions behind a switch, on one memory broker. */
const setUp = (
  options: KillSwitch.Options,
  handle: (message: Delivery, channel: string) => Effect.Effect<unknown, Trouble>,
  body: (stage: {
    readonly memory: MemoryBroker.MemoryBroker
    readonly running: ReadonlyArray<Broker.Running>
    readonly handled: Map<string, number>
    readonly publish: (channel: string, count: number) => Effect.Effect<void>
  }) => Effect.Effect<void, BrokerError.BrokerError, KillSwitch.KillSwitch | Broker.Broker | Scope.Scope>
) =>
  Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 1 })
    const handled = new Map<string, number>()
    const program = Effect.gen(function*() {
      const running = yield* Effect.forEach(["a", "b"], (channel) =>
        Subscription.run(
          Subscription.make(
            Channel.bytes(channel),
            { group: "g", name: channel, lanes: Lanes.partition },
            (message) => {
              handled.set(channel, (handled.get(channel) ?? 0) + 1)
              return handle(message, channel)
            }
          )
        ))
      yield* body({
        memory,
        running,
        handled,
        publish: (channel, count) =>
          Effect.orDie(memory.driver.publish(
            Array.from({ length: count }, () => new Outgoing(channel, new Uint8Array(1), undefined, {}))
          ))
      })
    })
    yield* Effect.provide(
      program,
      KillSwitch.layer(options).pipe(Layer.provide(Layer.succeed(Broker.Broker, memory.broker)))
    )
  })

const fails = Effect.fail(new Trouble({}))

describe("X12 X4 a kill switch", () => {
  it.effect("X12 stops what it watches after a burst of failures, goes on after its time, and loses nothing", () =>
    setUp(
      { rate: 0.5, minimum: 10, restartAfter: "30 seconds" },
      (_, channel) => channel === "a" ? fails : Effect.void,
      ({
        handled,
        memory,
        publish,
        running
      }) =>
        Effect.gen(function*() {
          const kill = yield* KillSwitch.KillSwitch
          yield* publish("a", 100)
          yield* TestClock.adjust("1 second")
          // the tenth failure is the last that starts
          assert.strictEqual(handled.get("a"), 10)
          yield* publish("b", 5)
          yield* TestClock.adjust("28 seconds")
          assert.deepStrictEqual([handled.get("a"), handled.get("b")], [10, undefined])
          for (const each of running) {
            const { pauses, state } = yield* each.health
            assert.deepStrictEqual([state, pauses], ["paused", [{
              by: "kill switch: 10 of 10 messages failed",
              until: 30_000
            }]])
          }
          assert.deepStrictEqual(yield* kill.status, {
            engaged: true,
            by: "10 of 10 messages failed",
            since: 0,
            until: 30_000
          })
          yield* TestClock.adjust("1 second")
          // both go on, and the failures of the one stop both again
          assert.strictEqual((handled.get("a") ?? 0) + (handled.get("b") ?? 0), 20)
          yield* TestClock.adjust("1 hour")
          assert.deepStrictEqual([handled.get("a"), handled.get("b")], [100, 5])
          assert.strictEqual((yield* kill.status).engaged, false)
          assert.deepStrictEqual(memory.positions("a", "g"), [100])
          assert.deepStrictEqual(memory.ends("a.dead-letters"), [100])
        })
    ))

  it.effect("X12 by hand it stops at once, whoever starts meanwhile too, until it is released", () =>
    setUp(
      { restartAfter: "never" },
      () => Effect.void,
      ({ handled, memory, publish, running }) =>
        Effect.gen(function*() {
          const kill = yield* KillSwitch.KillSwitch
          yield* kill.engage("migration")
          yield* publish("a", 3)
          yield* TestClock.adjust("1 day")
          assert.strictEqual(handled.size, 0)
          yield* running[0]!.resume
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(handled.size, 0)
          yield* kill.release
          yield* TestClock.adjust(1)
          assert.strictEqual(handled.get("a"), 3)
          assert.deepStrictEqual(memory.positions("a", "g"), [3])
          yield* kill.engage("a minute", { for: "1 minute" })
          yield* publish("a", 1)
          yield* TestClock.adjust("59 seconds")
          assert.strictEqual(handled.get("a"), 3)
          yield* TestClock.adjust("1 second")
          assert.strictEqual(handled.get("a"), 4)
        })
    ))

  it.effect("X12 leaves alone what it does not watch", () =>
    setUp(
      { subscriptions: ["b"], minimum: 1, rate: 0.01 },
      () => fails,
      ({ handled, publish }) =>
        Effect.gen(function*() {
          yield* publish("a", 20)
          yield* publish("b", 20)
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual([handled.get("a"), handled.get("b")], [20, 1])
        })
    ))

  it.effect("X12 counts failures of the last time only, and neither throttled nor rejected messages", () =>
    setUp(
      { minimum: 4, rate: 0.5, window: "10 seconds" },
      (message): Effect.Effect<unknown, Trouble> =>
        message.position < 20 ? Effect.succeed(Outcome.Reject()) : message.position % 2 === 0 ? Effect.void : fails,
      ({ handled, publish }) =>
        Effect.gen(function*() {
          yield* publish("a", 20)
          yield* TestClock.adjust("1 second")
          assert.strictEqual(handled.get("a"), 20)
          // one failure each eleven seconds is no burst
          for (let i = 0; i < 10; i++) {
            yield* TestClock.adjust("11 seconds")
            yield* publish("a", 2)
            yield* TestClock.adjust(0)
          }
          assert.strictEqual(handled.get("a"), 40)
          yield* publish("a", 10)
          yield* TestClock.adjust(0)
          assert.isBelow(handled.get("a")!, 50)
        })
    ))

  const failures: ReadonlyArray<readonly [string, Effect.Effect<unknown, Trouble>]> = [
    ["an error", fails],
    ["a defect", Effect.die("no")],
    ["an answered dead letter", Effect.succeed(Outcome.DeadLetter(new Error("no")))],
    ["an answered retry", Effect.succeed(Outcome.Retry())]
  ]
  for (const [name, end] of failures) {
    it.effect(`X12 ${name} is a failure`, () =>
      setUp({ minimum: 2, rate: 1 }, () => end, ({ publish, running }) =>
        Effect.gen(function*() {
          yield* publish("a", 5)
          yield* publish("b", 5)
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* running[0]!.health).pauses[0]?.by, "kill switch: 2 of 2 messages failed")
        })))
  }

  const none: ReadonlyArray<readonly [string, Effect.Effect<unknown, Trouble>]> = [
    ["a message that comes too early", Effect.fail(new Trouble({ retryAfter: Duration.days(1) }))],
    ["an interruption", Effect.interrupt]
  ]
  for (const [name, end] of none) {
    it.effect(`X12 ${name} is no failure`, () =>
      setUp({ minimum: 1, rate: 0.01 }, () => end, ({ publish, running }) =>
        Effect.gen(function*() {
          yield* publish("a", 5)
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual((yield* running[0]!.health).pauses, [])
        })))
  }

  it("X12 wrong options are refused with their name", () => {
    const build = (options: KillSwitch.Options) =>
      Effect.runPromise(
        Effect.exit(Effect.scoped(Layer.build(KillSwitch.layer(options).pipe(Layer.provide(MemoryBroker.layer())))))
      )
    assert.throws(() => KillSwitch.layer({ rate: 0 }), RangeError, "KillSwitch: rate must be above 0 to 1, got 0")
    assert.throws(
      () => KillSwitch.layer({ minimum: 0 }),
      RangeError,
      "KillSwitch: minimum must be an integer from 1, got 0"
    )
    assert.throws(
      () => KillSwitch.layer({ window: 0 }),
      RangeError,
      "KillSwitch: window must be a finite duration from 1 ms, got 0"
    )
    return build({ restartAfter: "never" })
  })
})
