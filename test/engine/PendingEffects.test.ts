import { type Delivery, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Deferred, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { Fifo } from "../../packages/core/src/internal/engine/Fifo.ts"
import { type Lane, leaseOf } from "../../packages/core/src/internal/engine/LeaseState.ts"
import { PendingEffects } from "../../packages/core/src/internal/engine/PendingEffects.ts"
import { acknowledged, settled } from "../../packages/core/src/internal/engine/RetryPolicy.ts"
import { fakeLease } from "./support.ts"

/** Effects in progress, and everything that is told of their ends. */
const setUp = Effect.gen(function*() {
  const ends: Array<readonly [ReadonlyArray<number>, string]> = []
  const effects = new PendingEffects(yield* Effect.context<never>(), yield* Clock.Clock, ({ messages }, exit) => {
    const how = exit._tag === "Success" ? "done" : Exit.hasInterrupts(exit) ? "interrupted" : "failed"
    ends.push([messages.map(({ delivery }) => delivery.position), how])
    for (const { delivery } of messages) leaseOf(delivery).ended()
  })
  const lease = yield* fakeLease()
  const deliveries = lease.take(0, 1, 2, 3, 4)
  let runs = 0
  /** An effect that counts its runs, and ends when the test says so. */
  const gate = Deferred.makeUnsafe<void>()
  const effect = Effect.suspend(() => {
    runs++
    return Deferred.await(gate)
  })
  const open = Effect.andThen(Effect.sync(() => Deferred.doneUnsafe(gate, Exit.void)), Effect.yieldNow)
  const add = (at: number, lane: Lane | "late" | "none" = "late", own: Effect.Effect<void> = effect) =>
    effects.add(own, deliveries[at]!, acknowledged, lane === "none" ? undefined : lane)
  const lane = (...queue: ReadonlyArray<Delivery>): Lane => {
    const found: Lane = { lease: lease.state, id: 0, again: undefined, queue: new Fifo() }
    for (const each of queue) found.queue.push(each)
    return found
  }
  return { effects, add, effect, open, runs: () => runs, lane, lease, deliveries, ends }
})

describe("X9 X19 effects that must be durable before their messages are settled", () => {
  it.effect("X9 messages whose lanes have gone on share one run of an effect, and their leases are busy until it ends", () =>
    Effect.gen(function*() {
      const { add, ends, lease, open, runs } = yield* setUp
      for (const at of [0, 1, 2]) add(at)
      assert.deepStrictEqual([runs(), lease.state.busy, ends], [1, 3, []])
      yield* open
      assert.deepStrictEqual([runs(), lease.state.busy, ends], [1, 0, [[[0, 1, 2], "done"]]])
      // one that comes later needs a run of its own
      add(3)
      assert.deepStrictEqual([runs(), ends.length], [2, 2])
    }))

  it.effect("X9 a message that keeps its lane shut has a run of its own", () =>
    Effect.gen(function*() {
      const { add, ends, lane, open, runs } = yield* setUp
      add(0)
      add(1, "none")
      add(2, lane())
      add(3)
      assert.strictEqual(runs(), 3)
      yield* open
      assert.deepStrictEqual(ends, [[[0, 3], "done"], [[1], "done"], [[2], "done"]])
    }))

  it.effect("X9 the end of a run takes no later run of the same effect along", () =>
    Effect.gen(function*() {
      const { deliveries, effects, ends, lease } = yield* setUp
      let runs = 0
      const gates = [Deferred.makeUnsafe<void>(), Deferred.makeUnsafe<void>()]
      const effect = Effect.uninterruptible(Effect.suspend(() => Deferred.await(gates[runs++]!)))
      const add = (at: number) => effects.add(effect, deliveries[at]!, acknowledged, "late")
      add(0)
      // nothing waits for the first run any more, and it cannot be stopped
      effects.giveUp(lease.state)
      add(1)
      Deferred.doneUnsafe(gates[0]!, Exit.void)
      yield* Effect.yieldNow
      add(2)
      assert.strictEqual(runs, 2)
      Deferred.doneUnsafe(gates[1]!, Exit.void)
      yield* Effect.yieldNow
      assert.deepStrictEqual(ends.map(([positions]) => positions), [[], [1, 2]])
    }))

  it.effect("X9 an effect that has ended already, or fails, is told in the same way", () =>
    Effect.gen(function*() {
      const { add, effects, ends, lease } = yield* setUp
      add(0, "late", Effect.void)
      add(1, "none", Exit.die("x"))
      add(2, "late", Effect.andThen(Effect.yieldNow, Exit.die("x")))
      yield* Effect.yieldNow
      yield* Effect.yieldNow
      assert.deepStrictEqual(ends, [[[0], "done"], [[1], "failed"], [[2], "failed"]])
      assert.deepStrictEqual([lease.state.busy, [...effects.inFlight()]], [0, []])
    }))

  it.effect("X9 what is told beside the exit: the verdict and the lane of each message", () =>
    Effect.gen(function*() {
      const { deliveries, lane, lease } = yield* setUp
      const told: Array<unknown> = []
      const effects = new PendingEffects(yield* Effect.context<never>(), yield* Clock.Clock, (waiting, exit) => {
        told.push(waiting.lane, waiting.messages, exit)
      })
      const verdict = settled(Outcome.Retry())
      const own = lane()
      effects.add(Effect.void, deliveries[0]!, verdict, own)
      assert.deepStrictEqual(told, [own, [{ delivery: deliveries[0], verdict }], Exit.void])
      assert.strictEqual(lease.state.busy, 1)
    }))
})

describe("X4 effects of a lease that ends", () => {
  it.effect("X4 are interrupted where nothing else waits for them, and run again for another lease", () =>
    Effect.gen(function*() {
      const { add, effect, effects, ends, lane, lease, open, runs } = yield* setUp
      const other = yield* fakeLease()
      const [first, second] = other.take(10, 11)
      add(0)
      effects.add(effect, first!, acknowledged, "late")
      add(1)
      add(2, lane())
      assert.deepStrictEqual([lease.state.busy, other.state.busy], [3, 1])
      effects.giveUp(lease.state)
      yield* Effect.yieldNow
      assert.deepStrictEqual([lease.state.busy, other.state.busy, ends], [0, 1, [[[], "interrupted"]]])
      assert.deepStrictEqual(effects.leases(), [other.state])
      effects.giveUp(other.state)
      effects.add(effect, second!, acknowledged, "late")
      assert.deepStrictEqual([runs(), effects.leases()], [3, [other.state]])
      yield* open
      assert.deepStrictEqual(ends, [[[], "interrupted"], [[], "interrupted"], [[11], "done"]])
      assert.deepStrictEqual([other.state.busy, effects.leases()], [0, []])
    }))

  it.effect("X4 also where an effect ends its own lease in its first step", () =>
    Effect.gen(function*() {
      const { add, effects, ends, lease } = yield* setUp
      add(0, "late", Effect.sync(() => effects.giveUp(lease.state)))
      assert.deepStrictEqual([lease.state.busy, ends, effects.leases()], [0, [[[], "done"]], []])
    }))

  it.effect("X4 X15 are counted and shown for each lease and lane", () =>
    Effect.gen(function*() {
      const { add, deliveries, effects, lane, lease } = yield* setUp
      yield* TestClock.adjust(5)
      add(0)
      yield* TestClock.adjust(5)
      add(1)
      add(2, "none")
      add(3, lane(deliveries[4]!, deliveries[4]!))
      assert.deepStrictEqual(effects.leases(), Array(4).fill(lease.state))
      const shown = Array.from(effects.inFlight(), ({ behind, delivery, error, since, state }) => {
        assert.strictEqual(error, undefined)
        return [delivery.position, state, since, behind]
      })
      assert.deepStrictEqual(shown, [[0, "durable effect", 5, 1], [2, "durable effect", 10, 0], [
        3,
        "durable effect",
        10,
        2
      ]])
    }))
})
