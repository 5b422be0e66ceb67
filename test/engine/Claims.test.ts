import { BrokerError, type Delivery, Outcome } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { Claims } from "../../packages/core/src/internal/engine/Claims.ts"
import { LeaseState } from "../../packages/core/src/internal/engine/LeaseState.ts"

const lost = Effect.fail(
  BrokerError.make({ system: "fake", operation: "settle", reason: "Unreachable", message: "lost" })
)

type Extend = (batch: ReadonlyArray<Delivery>) => Effect.Effect<void, BrokerError.BrokerError>

/** A lease whose claims last for `claim` milliseconds, with two messages; calls and lapses as they happen. */
const make = (claim: number | undefined, extend: Extend | undefined) =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const calls: Array<string> = []
    const lapses: Array<number> = []
    const causes: Array<unknown> = []
    const called: Extend = (batch) => {
      calls.push(`${clock.currentTimeMillisUnsafe()}: ${batch.map(({ position }) => position)}`)
      return extend!(batch)
    }
    const lease = { partition: 0, settle: () => Effect.void, claim, extend: extend && called }
    const state = new LeaseState(lease, 1, clock, () => {})
    const claims = new Claims(yield* Effect.context<never>(), (lease, cause) => {
      assert.strictEqual(lease, state)
      lapses.push(clock.currentTimeMillisUnsafe())
      causes.push(Cause.squash(cause))
    })
    const deliveries = [0, 1].map((position) => Deliveries.make({ position }))
    const batch = state.take(deliveries)
    return {
      claims,
      state,
      calls,
      lapses,
      causes,
      settle: (at: number) => state.settle(deliveries[at]!, batch, Outcome.Ack)
    }
  })

describe("X4 the claims of messages in flight", () => {
  it.effect("X4 are extended for the messages that are open, three times in the life of a claim, until the lease ends", () =>
    Effect.gen(function*() {
      const { calls, claims, lapses, settle, state } = yield* make(9000, () => Exit.void)
      claims.keep(state)
      yield* TestClock.adjust(3000)
      settle(0)
      yield* TestClock.adjust(3000)
      assert.deepStrictEqual(calls, ["3000: 0,1", "6000: 1"])
      // a call without messages is not made
      settle(1)
      yield* TestClock.adjust(30_000)
      assert.strictEqual(calls.length, 2)
      state.take([Deliveries.make({ position: 7 })])
      yield* TestClock.adjust(3000)
      assert.strictEqual(calls[2], "39000: 7")
      claims.end(state)
      yield* TestClock.adjust(30_000)
      assert.deepStrictEqual([calls.length, lapses], [3, []])
    }))

  it.effect("X4 are not extended where the broker has none", () =>
    Effect.gen(function*() {
      for (const each of [yield* make(undefined, () => Exit.void), yield* make(9000, undefined)]) {
        each.claims.keep(each.state)
        yield* TestClock.adjust(30_000)
        each.claims.end(each.state)
        assert.deepStrictEqual([each.calls, each.lapses], [[], []])
      }
    }))

  it.effect("X4 of several leases are kept each on its own", () =>
    Effect.gen(function*() {
      const { calls, claims, state } = yield* make(9000, () => Exit.void)
      const other = yield* make(9000, () => Exit.void)
      claims.keep(state)
      claims.keep(other.state)
      yield* TestClock.adjust(3000)
      claims.end(other.state)
      yield* TestClock.adjust(3000)
      assert.deepStrictEqual([calls.length, other.calls.length], [2, 1])
      claims.end(state)
    }))

  // a claim of 9 seconds counts as lapsed 8.1 seconds after it was extended last; a lost call is repeated after 0.9
  interface Case {
    readonly extend: () => Extend
    /** When calls are made and when the claims lapse, in milliseconds. */
    readonly calls: ReadonlyArray<number>
    readonly lapse: number
    readonly cause: string
  }
  const answers: Record<string, Case> = {
    "a broker that is away": {
      extend: () => () => lost,
      calls: [3000, 3900, 4800, 5700, 6600, 7500, 8100],
      lapse: 8100,
      cause: "lost"
    },
    "a broker that fails later": {
      extend: () => () => Effect.delay(lost, 1000),
      // the last call has a millisecond
      calls: [3000, 4900, 6800, 8100],
      lapse: 8101,
      cause: "did not answer"
    },
    "a broker that never answers": {
      extend: () => () => Effect.never,
      calls: [3000, 6900],
      lapse: 8100,
      cause: "did not answer"
    },
    "a broker that fails in the last millisecond": {
      extend: () => {
        let calls = 0
        return () => ++calls === 1 ? Effect.never : Effect.delay(lost, 1199)
      },
      calls: [3000, 6900],
      lapse: 8099,
      cause: "lost"
    },
    "a driver that throws": {
      extend: () => () => {
        throw new Error("thrown")
      },
      calls: [3000, 3900, 4800, 5700, 6600, 7500, 8100],
      lapse: 8100,
      cause: "thrown"
    },
    "a broker that is away for a while, and then again": {
      extend: () => {
        let calls = 0
        return () => ++calls === 3 ? Effect.delay(Effect.void, 100) : lost
      },
      calls: [3000, 3900, 4800, 7900, 8800, 9700, 10_600, 11_500, 12_400, 12_900],
      // the claims last from the moment the call was made
      lapse: 12_900,
      cause: "lost"
    }
  }
  for (const [name, { calls: at, cause, extend, lapse }] of Object.entries(answers)) {
    it.effect(`X4 lapse before the broker redelivers: ${name}`, () =>
      Effect.gen(function*() {
        const { calls, causes, claims, lapses, state } = yield* make(9000, extend())
        claims.keep(state)
        for (let step = 0; step < 300; step++) yield* TestClock.adjust(100)
        assert.deepStrictEqual(calls.map((call) => Number(call.split(":")[0])), at)
        assert.deepStrictEqual(lapses, [lapse])
        assert.include(String(causes[0]), cause)
        claims.end(state)
      }))
  }
})
