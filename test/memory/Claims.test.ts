import { Broker, Channel, Lanes, MemoryBroker, Publisher, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { TestClock } from "effect/testing"

const Jobs = Channel.bytes("jobs")

describe("claims of a broker that settles each message", () => {
  it.effect("X4 the engine keeps the claim of a slow handler alive", () =>
    Effect.gen(function*() {
      const memory = yield* MemoryBroker.make({ settlement: "message", claim: "9 seconds", partitions: 1 })
      let runs = 0
      const slow = Subscription.make(Jobs, { group: "g", lanes: Lanes.unordered(4) }, () => {
        runs++
        return Effect.sleep("60 seconds")
      })
      yield* Effect.gen(function*() {
        const running = yield* Subscription.run(slow)
        yield* Publisher.make(Jobs).publish(new Uint8Array([1]))
        yield* TestClock.adjust("59 seconds")
        assert.strictEqual((yield* running.health).running, 1)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* running.health).pending, 0)
        assert.strictEqual(runs, 1)
        assert.deepStrictEqual(memory.positions("jobs", "g"), [1])
      }).pipe(Effect.scoped, Effect.provideService(Broker.Broker, memory.broker))
    }))
})
