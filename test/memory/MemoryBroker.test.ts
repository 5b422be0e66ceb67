import { Address, type Driver, MemoryBroker, Outcome, Outgoing } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Stream } from "effect"
import { TestClock } from "effect/testing"
import { consumer } from "./consumer.ts"
import { collectGarbage } from "../engine/collectGarbage.ts"

const message = (channel = "c", key?: string, size = 1) => new Outgoing(channel, new Uint8Array(size), key, {})
const messages = (count: number, channel = "c") => Array.from({ length: count }, () => message(channel))
const settle = TestClock.adjust(1)
const kept = (driver: Driver.Driver, channel = "c") =>
  Effect.map(
    Stream.runCollect(driver.browse(channel)),
    (all) => all.map(({ attempt, position }) => [position, attempt])
  )
/** A pattern's address, and what fits it. */
const pattern = Address.pattern("orders.{region}")!

describe("X6 X19 a memory broker", () => {
  it.effect("X19 refuses options that are no counts", () =>
    Effect.gen(function*() {
      for (const value of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
        for (const option of ["partitions", "retention"] as const) {
          const exit = yield* Effect.exit(MemoryBroker.make({ [option]: value }))
          assert.include(String(exit), `MemoryBroker: ${option} must be an integer from 1, got ${value}`)
        }
      }
      yield* MemoryBroker.make({ partitions: 1, retention: 1 })
    }))

  it.effect("T1 says what it can do", () =>
    Effect.gen(function*() {
      const each = (options: MemoryBroker.Options) =>
        Effect.map(MemoryBroker.make(options), ({ driver }) => driver.capabilities)
      const both = {
        ordering: "partition" as const,
        redelivery: true,
        deadLetter: false,
        groups: true,
        fanOut: true,
        retention: true,
        replay: true,
        persistence: false,
        browse: true,
        tombstones: true,
        transactions: false,
        patterns: true,
        lag: true
      }
      assert.deepInclude(yield* each({ maximumBytes: 5 }), {
        ...both,
        settlement: "position",
        delay: false,
        attempts: false,
        maximumBytes: 5
      })
      assert.deepInclude(yield* each({ settlement: "message" }), {
        ...both,
        settlement: "message",
        delay: true,
        attempts: true,
        maximumBytes: undefined
      })
    }))

  it.effect("X6 takes a body of the greatest length, none that is longer, and then nothing of the batch", () =>
    Effect.gen(function*() {
      const { driver, ends } = yield* MemoryBroker.make({ maximumBytes: 3, partitions: 1 })
      yield* driver.publish([])
      yield* driver.publish([message("c", "k", 3)])
      const error = yield* Effect.flip(Effect.suspend(() => driver.publish([message(), message("c", "k", 4)])))
      assert.strictEqual(error.reason, "TooLarge")
      assert.deepStrictEqual(ends("c"), [1])
    }))

  it.effect("X6 sends each message of a batch to its own channel", () =>
    Effect.gen(function*() {
      const { driver, ends } = yield* MemoryBroker.make({ partitions: 1 })
      yield* driver.publish(["a", "b", "b", "a", "c"].map((channel) => message(channel)))
      assert.deepStrictEqual(["a", "b", "c", "d"].map((channel) => ends(channel)), [[2], [2], [1], []])
    }))

  it.effect("X6 while it is stopped every operation fails as unreachable", () =>
    Effect.gen(function*() {
      const { driver, start, stop } = yield* MemoryBroker.make()
      yield* driver.publish([message()])
      yield* stop
      const failures = yield* Effect.all([
        Effect.flip(Effect.suspend(() => driver.publish([message()]))),
        Effect.flip(Stream.runDrain(driver.browse("c"))),
        Effect.flip(driver.lag("c", "g")),
        Effect.flip(driver.check)
      ])
      assert.deepStrictEqual(
        failures.map(({ operation, reason }) => [operation, reason]),
        ["publish", "browse", "lag", "check"].map((operation) => [operation, "Unreachable"])
      )
      const one = yield* consumer(driver)
      assert.deepStrictEqual([one.error()?.operation, one.error()?.reason], ["consume", "Unreachable"])
      yield* start
      yield* driver.publish([message()])
      yield* driver.check
      assert.strictEqual((yield* kept(driver)).length, 2)
    }))

  it.effect("X6 a channel or a group that is not there has no positions and no lag", () =>
    Effect.gen(function*() {
      const { driver, positions } = yield* MemoryBroker.make({ partitions: 2 })
      const one = yield* consumer(driver)
      assert.deepStrictEqual([positions("c", "g"), positions("c", "other"), positions("other", "g")], [[0, 0], [], []])
      assert.deepStrictEqual(yield* driver.lag("c", "other"), [])
      assert.deepStrictEqual(yield* driver.lag("other", "g"), [])
      assert.strictEqual((yield* driver.lag("c", "g")).length, 2)
      yield* one.leave
    }))

  const settlements = ["position", "message"] as const
  it.effect.each(settlements)(
    "X6 keeps `retention` messages after every group has done them: %s",
    (settlement) =>
      Effect.gen(function*() {
        const { driver } = yield* MemoryBroker.make({ partitions: 1, retention: 10, settlement })
        const fast = yield* consumer(driver)
        const slow = yield* consumer(driver, { group: "slow" })
        const done = (who: typeof fast, below: number) => {
          const lease = who.leases.get(0)!
          const batch = who.offers.flatMap(({ batch }) => batch).filter(({ position }) => position < below)
          return lease.settle === undefined
            ? lease.commit!(below)
            : lease.settle(batch.map((delivery) => ({ delivery, outcome: Outcome.Ack })))
        }
        const first = Effect.map(kept(driver), (all) => [all.length, all[0]?.[0], all[0]?.[1]])
        yield* driver.publish(messages(73))
        yield* settle
        yield* done(fast, 73)
        yield* done(slow, 70)
        // Fewer than 64 beyond the retention are not worth a trim.
        assert.deepStrictEqual(yield* first, [73, 0, 1])
        yield* driver.publish(messages(1))
        yield* settle
        yield* done(fast, 74)
        assert.deepStrictEqual(yield* first, [10, 64, 1])
        yield* driver.publish(messages(100))
        yield* settle
        yield* done(fast, 174)
        // The slow group has not done what follows.
        assert.deepStrictEqual(yield* first, [104, 70, 1])
        yield* done(slow, 174)
        assert.deepStrictEqual(yield* first, [10, 164, 1])
      })
  )

  it.effect("X6 a consumer that joins while the broker stops is told, and never ready", () =>
    Effect.gen(function*() {
      const { driver, start, stop } = yield* MemoryBroker.make({ partitions: 2 })
      const end = yield* Deferred.make<void>()
      const old = yield* consumer(driver, { end: Deferred.await(end) })
      const late = yield* consumer(driver)
      yield* settle
      assert.deepStrictEqual(old.ends, ["1 revoke"])
      yield* stop
      yield* Deferred.succeed(end, undefined)
      yield* settle
      assert.strictEqual(late.error()?.reason, "Unreachable")
      assert.deepStrictEqual(late.seen, { ready: 0, polled: 0, opened: 0 })
      yield* Effect.all([late.leave, old.leave])
      yield* start
    }))

  it.effect("X6 a stop cuts every consumer, ends its leases as lost, and gives them to none that is cut", () =>
    Effect.gen(function*() {
      const { driver, start, stop } = yield* MemoryBroker.make({ partitions: 2 })
      const [a, b] = [yield* consumer(driver), yield* consumer(driver)]
      yield* settle
      const before = [a.seen.opened, b.seen.opened]
      yield* stop
      const refused = yield* Effect.flip(a.leases.get(0)!.commit!(1))
      assert.strictEqual(refused.reason, "Lost")
      yield* settle
      assert.deepStrictEqual([a.error()?.reason, b.error()?.reason], ["Unreachable", "Unreachable"])
      yield* a.leave
      yield* b.leave
      assert.deepStrictEqual([a.ends, b.ends], [["1 revoke", "0 lost"], ["1 lost"]])
      assert.deepStrictEqual([a.seen.opened, b.seen.opened], before)
      yield* start
      const next = yield* consumer(driver)
      yield* driver.publish(messages(2))
      yield* settle
      assert.deepStrictEqual(next.lines(), ["0:0", "1:0"])
      assert.isAtLeast(next.seen.polled, 1)
      yield* next.leave
    }))

  it.effect("X6 holds nothing of a consumer that has left", () =>
    Effect.gen(function*() {
      const { driver, positions } = yield* MemoryBroker.make({ partitions: 1 })
      const held = yield* Effect.forEach([undefined, pattern, undefined], (pattern) =>
        Effect.gen(function*() {
          const onReady = () => {}
          const one = yield* consumer(driver, { onReady, pattern })
          yield* settle
          yield* one.leave
          return new WeakRef(onReady)
        }))
      // The last one may still be on the stack.
      for (let turn = 0; turn < 3; turn++) {
        yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
        collectGarbage()
      }
      assert.deepStrictEqual(held.slice(0, 2).map((ref) => ref.deref()), [undefined, undefined])
      assert.deepStrictEqual(positions("c", "g"), [0])
    }))
})

describe("F20 X19 a memory broker read by a pattern", () => {
  it.effect("F20 reads the channels that fit, those made later from their beginning, and says once that it is ready", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make({ partitions: 1 })
      yield* driver.publish([message("orders.old"), message("other")])
      const one = yield* consumer(driver, {
        pattern,
        channel: pattern.address,
        from: "latest",
        onReady: () => {
          assert.isTrue(Exit.isExit(driver.publish([message("orders.old", "at the moment it is ready")])))
        }
      })
      yield* settle
      yield* driver.publish([message("orders.new"), message("another"), message("orders.newer")])
      yield* settle
      yield* driver.publish([message("orders.newest")])
      yield* settle
      const seen = one.offers.flatMap(({ batch }) => batch.map(({ channel, position }) => `${channel} ${position}`))
      assert.deepStrictEqual(seen.toSorted(), [
        "orders.new 0",
        "orders.newer 0",
        "orders.newest 0",
        "orders.old 1"
      ])
      assert.strictEqual(one.seen.ready, 1)
      yield* one.leave
    }))

  it.effect("F20 fails as its readers do", () =>
    Effect.gen(function*() {
      const { driver, stop } = yield* MemoryBroker.make({ partitions: 1 })
      yield* driver.publish([message("orders.a"), message("orders.b")])
      const one = yield* consumer(driver, { pattern, channel: pattern.address })
      yield* settle
      assert.isFalse(one.isDone())
      yield* stop
      yield* settle
      assert.strictEqual(one.error()?.reason, "Unreachable")
      yield* one.leave
    }))
})
