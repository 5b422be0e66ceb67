import { BrokerError, type Driver, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { leaseOf } from "../../packages/core/src/internal/engine/LeaseState.ts"
import { collectGarbage } from "./collectGarbage.ts"
import { fakeLease } from "./support.ts"

const refused = BrokerError.make({ system: "fake", operation: "settle", reason: "Unreachable", message: "no" })

describe("X3 X19 what a lease tells a broker that settles by position", () => {
  it.effect("X3 a commit is the lowest position all below which is settled, and never the same one twice", () =>
    Effect.gen(function*() {
      const plan = fc.record({
        sizes: fc.array(fc.integer({ min: 1, max: 6 }), { minLength: 1, maxLength: 6 }),
        order: fc.array(fc.nat(), { maxLength: 40 })
      })
      const run = (
        sizes: ReadonlyArray<number>,
        order: ReadonlyArray<number>,
        lease: Effect.Success<ReturnType<typeof fakeLease>>
      ) => {
        // positions with gaps, as compacted logs have them
        let next = 0
        const all = sizes.flatMap((size) => lease.take(...Array.from({ length: size }, () => next += 3)))
        const open = [...all]
        for (const at of order) {
          if (open.length === 0) break
          const [delivery] = open.splice(at % open.length, 1)
          assert.isTrue(lease.settle(delivery!, Outcome.Ack))
          assert.isFalse(lease.settle(delivery!, Outcome.Ack))
          assert.isTrue(Exit.isExit(lease.state.tell()))
          const first = open.map(({ position }) => position).toSorted((a, b) => a - b)[0]
          const settledBefore = all.filter(({ position }) => first === undefined || position < first)
          const last = settledBefore.at(-1)?.position
          const commits = lease.calls
          assert.strictEqual(lease.state.committed, last === undefined ? undefined : last + 1)
          assert.strictEqual(commits.at(-1), last === undefined ? undefined : last + 1)
          assert.deepStrictEqual(commits, [...new Set(commits)])
          assert.strictEqual(lease.state.unsettled, open.length)
          assert.strictEqual(lease.state.settled, all.length - open.length)
          assert.deepStrictEqual(
            [...lease.state.open()].map(({ position }) => position),
            open.map((each) => each.position).toSorted((a, b) => a - b)
          )
        }
        assert.strictEqual(lease.told(), lease.calls.length)
      }
      for (const { order, sizes } of fc.sample(plan, { numRuns: 100, seed: 7 })) run(sizes, order, yield* fakeLease())
    }))

  it.effect("X3 one call at a time: what is settled meanwhile goes with the next", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease({ isSlow: true })
      const [a, b, c] = lease.take(1, 2, 3)
      lease.settle(a!, Outcome.Ack)
      assert.isTrue(Exit.isExit(lease.state.whenStill))
      yield* TestClock.adjust(5)
      const telling = yield* Effect.forkChild(lease.state.tell(), { startImmediately: true })
      assert.strictEqual(lease.state.settlingSince, 5)
      assert.isFalse(Exit.isExit(lease.state.whenStill))
      for (const delivery of [b!, c!]) {
        lease.settle(delivery, Outcome.Ack)
        assert.isTrue(Exit.isExit(lease.state.tell()))
      }
      assert.deepStrictEqual([lease.calls, lease.state.committed], [[2], undefined])
      yield* lease.answer()
      assert.deepStrictEqual([lease.calls, lease.state.committed, lease.told()], [[2, 4], 2, 1])
      yield* lease.answer()
      yield* Fiber.join(telling)
      assert.deepStrictEqual([lease.state.committed, lease.most(), lease.told()], [4, 1, 2])
      assert.isTrue(Exit.isExit(lease.state.whenStill))
      assert.strictEqual(lease.state.settlingSince, undefined)
    }))

  it.effect("X9 a driver that keeps what is settled beyond a position is told of it, also at the same position", () =>
    Effect.gen(function*() {
      const calls: Array<readonly [number, ReadonlyArray<Driver.Range>]> = []
      const commit = (position: number, beyond?: () => ReadonlyArray<Driver.Range>) => {
        calls.push([position, beyond?.() ?? []])
        return Exit.void
      }
      const lease = yield* fakeLease({ lease: { commit, keepsBeyond: true } })
      const [a, b, , d, e] = [...lease.take(3, 4, 6), ...lease.take(7, 9)]
      for (const delivery of [b!, e!, d!, a!]) {
        lease.settle(delivery, Outcome.Ack)
        yield* lease.state.tell()
        // nothing new is told twice
        yield* lease.state.tell()
      }
      assert.deepStrictEqual(calls, [
        [3, [{ from: 4, to: 5 }]],
        [3, [{ from: 4, to: 5 }, { from: 9, to: 10 }]],
        [3, [{ from: 4, to: 5 }, { from: 7, to: 10 }]],
        [5, [{ from: 7, to: 10 }]]
      ])
    }))

  it.effect("X3 a commit that fails is the error of its call, and is made again", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease()
      const [a] = lease.take(7)
      lease.settle(a!, Outcome.Ack)
      lease.answerWith(refused)
      assert.strictEqual((yield* Effect.flip(lease.state.tell())).reason, "Unreachable")
      assert.deepStrictEqual([lease.state.committed, lease.told()], [undefined, 0])
      lease.answerWith(undefined)
      yield* lease.state.tell()
      assert.deepStrictEqual([lease.calls, lease.state.committed], [[8, 8], 8])
    }))

  it.effect("X4 under a lost lease nothing is settled, released or told", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease()
      const [a, b] = lease.take(0, 1)
      lease.settle(a!, Outcome.Ack)
      lease.state.lost = true
      yield* lease.state.tell()
      assert.isFalse(lease.settle(b!, Outcome.Ack))
      assert.deepStrictEqual([lease.calls, lease.state.unsettled], [[], 1])
    }))

  it.effect("X5 the driver waits while `span` messages are settled beyond one that is not, until half are committed", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease({ span: 4 })
      const [first, ...rest] = lease.take(0, 1, 2, 3, 4, 5, 6)
      const isSlack = () => Exit.isExit(lease.state.whenSlack)
      for (const delivery of rest.slice(0, 3)) lease.settle(delivery, Outcome.Ack)
      assert.isTrue(isSlack())
      lease.settle(rest[3]!, Outcome.Ack)
      assert.isFalse(isSlack())
      const waiting = yield* Effect.forkChild(lease.state.whenSlack, { startImmediately: true })
      yield* lease.state.tell()
      assert.isUndefined(waiting.pollUnsafe())
      lease.settle(first!, Outcome.Ack)
      yield* lease.state.tell()
      yield* Fiber.join(waiting)
      assert.isTrue(isSlack())
      assert.deepStrictEqual(lease.calls, [5])
    }))

  it.effect("X5 the driver goes on when half of `span` is left ahead", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease({ span: 4 })
      const all = lease.take(0, 1, 2, 3, 4, 5, 6)
      for (const at of [1, 2, 4, 5]) lease.settle(all[at]!, Outcome.Ack)
      assert.isFalse(Exit.isExit(lease.state.whenSlack))
      lease.settle(all[0]!, Outcome.Ack)
      yield* lease.state.tell()
      assert.deepStrictEqual(lease.calls, [3])
      assert.isTrue(Exit.isExit(lease.state.whenSlack))
    }))

  it.effect("X3 what is settled in the middle of a call that is answered at once goes with the next", () =>
    Effect.gen(function*() {
      const calls: Array<number> = []
      const commit = (position: number): Effect.Effect<void, BrokerError.BrokerError> => {
        calls.push(position)
        lease.settle(b!, Outcome.Ack)
        return lease.state.tell()
      }
      const lease = yield* fakeLease({ lease: { commit } })
      const [a, b] = lease.take(0, 1)
      lease.settle(a!, Outcome.Ack)
      assert.isTrue(Exit.isExit(lease.state.tell()))
      assert.deepStrictEqual([calls, lease.state.committed], [[1, 2], 2])
    }))

  it.effect("X3 the intake of a lease is open until its room is closed", () =>
    Effect.gen(function*() {
      const { state } = yield* fakeLease()
      assert.isTrue(Exit.isExit(state.whenRoom))
      state.closeRoom()
      const offer = yield* Effect.forkChild(state.whenRoom, { startImmediately: true })
      assert.isUndefined(offer.pollUnsafe())
      state.openRoom()
      yield* Fiber.join(offer)
      assert.isTrue(Exit.isExit(state.whenRoom))
    }))

  it.effect("X3 nothing is kept of messages that are committed", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease()
      const kept = (() => {
        const [delivery] = lease.take(0)
        lease.settle(delivery!, Outcome.Ack)
        return new WeakRef(delivery!)
      })()
      yield* lease.state.tell()
      for (let turn = 0; turn < 2; turn++) {
        yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
        collectGarbage()
      }
      assert.isUndefined(kept.deref())
      assert.strictEqual(lease.state.committed, 1)
    }))

  it.effect("X4 the end of a lease resumes everything that waits for it", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease({ span: 1 })
      const [, b] = lease.take(0, 1)
      lease.settle(b!, Outcome.Ack)
      lease.state.closeRoom()
      const waits = () => [lease.state.whenClear, lease.state.whenRoom, lease.state.whenSlack]
      assert.deepStrictEqual(waits().map((each) => Exit.isExit(each)), [false, false, false])
      const fibers = yield* Effect.forEach(waits(), (each) => Effect.forkChild(each, { startImmediately: true }))
      lease.state.end()
      yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual([lease.state.stopped, lease.state.lost], [true, true])
    }))

  it.effect("X4 a lease is clear when all is settled, and quiet when nothing of it is in progress", () =>
    Effect.gen(function*() {
      const { settle, state, take } = yield* fakeLease()
      assert.isTrue(Exit.isExit(state.whenClear))
      yield* state.whenQuiet
      const [a, b] = take(0, 1)
      const bytes = a!.payload.length + b!.payload.length
      assert.deepStrictEqual([state.bytes, leaseOf(a!) === state], [bytes, true])
      settle(a!, Outcome.Ack)
      assert.deepStrictEqual([Exit.isExit(state.whenClear), state.bytes], [false, b!.payload.length])
      settle(b!, Outcome.Ack)
      assert.deepStrictEqual([Exit.isExit(state.whenClear), state.bytes], [true, 0])
      state.began()
      state.began()
      const quiet = yield* Effect.forkChild(state.whenQuiet, { startImmediately: true })
      state.ended()
      yield* Effect.yieldNow
      assert.isUndefined(quiet.pollUnsafe())
      state.ended()
      yield* Fiber.join(quiet)
    }))
})

describe("X3 X19 what a lease tells a broker that settles each message", () => {
  it.effect("X3 outcomes are told in order, each once, those released too", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease({ settlement: "message" })
      const [a, b, c] = lease.take(0, 1, 2)
      lease.settle(b!, Outcome.Reject())
      lease.settle(a!, Outcome.Ack)
      yield* lease.state.tell()
      lease.state.release(c!, Outcome.Release)
      lease.state.release(c!, Outcome.Release)
      yield* lease.state.tell()
      yield* lease.state.tell()
      assert.deepStrictEqual(lease.calls, [["1 Reject", "0 Ack"], ["2 Release"]])
      assert.deepStrictEqual([lease.told(), lease.state.committed], [2, undefined])
    }))

  it.effect("X3 outcomes that the broker refused are told again with the next", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease({ settlement: "message" })
      const [a, b] = lease.take(0, 1)
      lease.answerWith(refused)
      lease.settle(a!, Outcome.Ack)
      assert.strictEqual(yield* Effect.flip(lease.state.tell()), refused)
      lease.answerWith(undefined)
      lease.settle(b!, Outcome.Ack)
      yield* lease.state.tell()
      assert.deepStrictEqual(lease.calls, [["0 Ack"], ["0 Ack", "1 Ack"]])
      assert.strictEqual(lease.told(), 1)
    }))

  it.effect("X4 a message that is released under a lease by position stays open: a commit does not pass it", () =>
    Effect.gen(function*() {
      const lease = yield* fakeLease()
      const [a, b] = lease.take(0, 1)
      lease.state.release(a!, Outcome.Release)
      lease.settle(b!, Outcome.Ack)
      yield* lease.state.tell()
      assert.deepStrictEqual([lease.calls, [...lease.state.open()].length], [[], 1])
    }))
})
