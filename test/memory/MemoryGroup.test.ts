import { type Delivery, type Driver, MemoryBroker, Outcome, Outgoing } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Latch } from "effect"
import { TestClock } from "effect/testing"
import { consumer } from "./consumer.ts"

const message = (key?: string) => new Outgoing("c", new Uint8Array(1), key, {})
const messages = (count: number) => Array.from({ length: count }, () => message())
const settle = TestClock.adjust(0)
const byMessage = { settlement: "message", partitions: 1 } as const

type Consumer = Effect.Success<ReturnType<typeof consumer>>

/** A message that the consumer was offered. */
const offered = (one: Consumer, position: number): Delivery =>
  one.offers.flatMap(({ batch }) => batch).findLast((delivery) => delivery.position === position)!

const tell = (one: Consumer, position: number, outcome: Outcome.Outcome, lease = one.leases.get(0)!) =>
  lease.settle!([{ delivery: offered(one, position), outcome }])

const retryAfter = (milliseconds: number) => Outcome.Retry({ after: milliseconds })

describe("X6 X19 a group of the memory broker, by position", () => {
  it.effect("X6 partitions go by turns to the members, in the order in which they joined; only what moves is revoked", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make({ partitions: 3 })
      const [a, b] = [yield* consumer(driver), yield* consumer(driver)]
      yield* settle
      assert.deepStrictEqual([a.ends, b.ends], [["1 revoke"], []])
      assert.deepStrictEqual([[...a.leases.keys()], [...b.leases.keys()]], [[0, 1, 2], [1]])
      yield* driver.publish(messages(3))
      yield* settle
      assert.deepStrictEqual([a.lines(), b.lines()], [["0:0", "2:0"], ["1:0"]])
      yield* a.leave
      yield* settle
      assert.deepStrictEqual(a.ends, ["1 revoke", "0 revoke", "2 revoke"])
      assert.deepStrictEqual(b.lines(), ["1:0", "0:0", "2:0"])
      yield* b.leave
    }))

  it.effect("X4 a partition is given to its next owner only after the first has ended its lease", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make({ partitions: 2 })
      const end = yield* Deferred.make<void>()
      const a = yield* consumer(driver, { end: Deferred.await(end) })
      const b = yield* consumer(driver)
      const c = yield* consumer(driver)
      yield* settle
      assert.deepStrictEqual([a.ends, b.seen.opened, c.seen.ready], [["1 revoke"], 0, 0])
      // It is the owner's until the end of its lease.
      yield* a.leases.get(1)!.commit!(0)
      yield* Deferred.succeed(end, undefined)
      yield* settle
      assert.deepStrictEqual([b.seen.opened, c.seen], [1, { ready: 1, polled: 0, opened: 0 }])
      const refused = yield* Effect.flip(a.leases.get(1)!.commit!(0))
      assert.deepStrictEqual([refused.operation, refused.reason], ["settle", "Lost"])
      yield* b.leases.get(1)!.commit!(0)
      yield* Effect.all([c.leave, b.leave, a.leave])
    }))

  it.effect("X4 a commit never goes back", () =>
    Effect.gen(function*() {
      const { driver, positions } = yield* MemoryBroker.make({ partitions: 1 })
      const one = yield* consumer(driver)
      yield* driver.publish(messages(9))
      yield* settle
      for (const position of [5, 3, 5, 7]) yield* one.leases.get(0)!.commit!(position)
      assert.deepStrictEqual(positions("c", "g"), [7])
      assert.deepStrictEqual(yield* driver.lag("c", "g"), [{ partition: 0, messages: 2 }])
      yield* one.leave
    }))

  it.effect("X5 partitions are read in turn, from the first, however much one of them has", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make({ partitions: 3 })
      yield* driver.publish(messages(9))
      const one = yield* consumer(driver, { batch: 1 })
      yield* settle
      const cycle = ["0:0", "1:0", "2:0", "0:1", "1:1", "2:1", "0:2", "1:2", "2:2"]
      assert.deepStrictEqual(one.lines(), cycle)
      yield* one.leave
    }))
})

describe("X6 X19 a group of the memory broker, message by message", () => {
  it.effect("X4 what is retried or released comes again, in order, counted, and in the same moment", () =>
    Effect.gen(function*() {
      const { driver, positions } = yield* MemoryBroker.make(byMessage)
      yield* driver.publish(messages(4))
      const one = yield* consumer(driver)
      yield* settle
      assert.deepStrictEqual(one.lines(), ["0:0", "0:1", "0:2", "0:3"])
      one.clear()
      const back = [2, 0, 3].map((position) => ({
        delivery: { position } as Delivery,
        outcome: position === 0 ? Outcome.Release : Outcome.Retry()
      }))
      yield* one.leases.get(0)!.settle!(back)
      assert.deepStrictEqual(yield* driver.lag("c", "g"), [{ partition: 0, messages: 4 }])
      yield* settle
      assert.deepStrictEqual(one.lines(), ["0:0*", "0:2*", "0:3*"])
      assert.deepStrictEqual(yield* driver.lag("c", "g"), [{ partition: 0, messages: 4 }])
      for (const position of [0, 2, 3]) yield* tell(one, position, Outcome.Ack)
      assert.deepStrictEqual(positions("c", "g"), [1])
      assert.deepStrictEqual(yield* driver.lag("c", "g"), [{ partition: 0, messages: 1 }])
      yield* one.leave
    }))

  it.effect("X4 an outcome counts once, and for a message that is out", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make(byMessage)
      yield* driver.publish(messages(1))
      const one = yield* consumer(driver)
      yield* settle
      const twice = { delivery: offered(one, 0), outcome: Outcome.Retry() }
      yield* one.leases.get(0)!.settle!([twice, twice])
      yield* settle
      assert.deepStrictEqual(one.lines(), ["0:0", "0:0*"])
      yield* tell(one, 0, Outcome.Ack)
      yield* tell(one, 0, Outcome.Retry())
      yield* one.leases.get(0)!.extend!([offered(one, 0)])
      yield* settle
      assert.deepStrictEqual(one.lines(), ["0:0", "0:0*"])
      yield* one.leave
    }))

  it.effect("F11 delays end in the order of their times, each at its own", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make(byMessage)
      yield* driver.publish(messages(4))
      const one = yield* consumer(driver)
      yield* settle
      const waits = [3000, 1000, 4000, 2000]
      const told = waits.map((wait, position) => ({ delivery: offered(one, position), outcome: retryAfter(wait) }))
      yield* one.leases.get(0)!.settle!(told)
      one.clear()
      const seen: Array<ReadonlyArray<string>> = []
      for (let second = 0; second < 4; second++) {
        yield* TestClock.adjust(999)
        seen.push(one.lines())
        yield* TestClock.adjust(1)
      }
      seen.push(one.lines())
      assert.deepStrictEqual(seen, [
        [],
        ["0:1*"],
        ["0:1*", "0:3*"],
        ["0:1*", "0:3*", "0:0*"],
        ["0:1*", "0:3*", "0:0*", "0:2*"]
      ])
      yield* one.leave
    }))

  it.effect("X3 what came back at different times, with no delay, keeps its order", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make(byMessage)
      yield* driver.publish(messages(3))
      const room = Latch.makeUnsafe(true)
      const one = yield* consumer(driver, { room: Effect.suspend(() => room.await) })
      yield* TestClock.adjust(5)
      room.closeUnsafe()
      yield* driver.publish(messages(1))
      yield* TestClock.adjust(1)
      one.clear()
      for (const position of [2, 0]) {
        const delivery = { position } as Delivery
        yield* one.leases.get(0)!.settle!([{ delivery, outcome: Outcome.Retry() }])
        yield* TestClock.adjust(1)
      }
      room.openUnsafe()
      yield* settle
      assert.deepStrictEqual(one.lines(), ["0:0*", "0:2*"])
      yield* one.leave
    }))

  it.effect("X4 what a member had when its lease ended goes to the next at once, in order and counted", () =>
    Effect.gen(function*() {
      for (const how of ["revoke", "lost"]) {
        const { driver, start, stop } = yield* MemoryBroker.make(byMessage)
        yield* driver.publish(messages(3))
        const one = yield* consumer(driver)
        yield* settle
        yield* tell(one, 0, Outcome.Retry())
        yield* settle
        const lease = one.leases.get(0)!
        if (how === "lost") yield* stop
        yield* one.leave
        yield* start
        const refusals = [
          yield* Effect.flip(lease.settle!([{ delivery: offered(one, 1), outcome: Outcome.Ack }])),
          yield* Effect.flip(lease.extend!([offered(one, 1)]))
        ]
        assert.deepStrictEqual(refusals.map(({ reason }) => reason), ["Lost", "Lost"])
        const next = yield* consumer(driver)
        yield* settle
        assert.deepStrictEqual(next.lines(), ["0:0**", "0:1*", "0:2*"])
        yield* next.leave
      }
    }))

  it.effect("X4 a claim that is not extended ends, and its message comes again", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make({ ...byMessage, claim: "10 seconds" })
      yield* driver.publish(messages(2))
      const one = yield* consumer(driver)
      yield* settle
      const lease: Driver.Lease = one.leases.get(0)!
      assert.strictEqual(lease.claim, 10_000)
      yield* TestClock.adjust(6000)
      yield* lease.extend!([offered(one, 0)])
      yield* TestClock.adjust(3999)
      assert.deepStrictEqual(one.lines(), ["0:0", "0:1"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(one.lines(), ["0:0", "0:1", "0:1*"])
      yield* TestClock.adjust(6000)
      assert.deepStrictEqual(one.lines(), ["0:0", "0:1", "0:1*", "0:0*"])
      yield* TestClock.adjust(4000)
      assert.deepStrictEqual(one.lines(), ["0:0", "0:1", "0:1*", "0:0*", "0:1**"])
      yield* one.leave
    }))

  it.effect("X4 without a claim nothing comes again while its lease goes on", () =>
    Effect.gen(function*() {
      const { driver } = yield* MemoryBroker.make(byMessage)
      yield* driver.publish(messages(2))
      const one = yield* consumer(driver)
      yield* TestClock.adjust("10 days")
      assert.deepStrictEqual(one.lines(), ["0:0", "0:1"])
      assert.strictEqual(one.leases.get(0)!.claim, undefined)
      yield* one.leave
    }))
})
