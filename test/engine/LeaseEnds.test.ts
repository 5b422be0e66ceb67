import { BrokerError, type Driver, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { collectGarbage } from "./collectGarbage.ts"
import { opened, revoke } from "./leasing.ts"
import { fakeLease, type Options } from "./support.ts"

const refused = BrokerError.make({ system: "fake", operation: "settle", reason: "Unreachable", message: "refused" })

/** Milliseconds that interrupted handlers have to end, and as many for the last call to the broker. */
const farewell = 1000

/** Begins an end of leases; `after` says whether it is over when so many milliseconds more have passed. */
const begin = (end: Effect.Effect<void>) =>
  Effect.map(Effect.forkChild(end, { startImmediately: true }), (fiber) => ({
    after: (milliseconds: number) =>
      Effect.map(TestClock.adjust(milliseconds), () => {
        const exit = fiber.pollUnsafe()
        if (exit?._tag === "Failure") throw new Error("The end failed")
        return exit !== undefined
      })
  }))

const state = ({ lost, stopped }: { readonly lost: boolean; readonly stopped: boolean }) =>
  lost ? "lost" : stopped ? "stopped" : "open"

describe("X4 a lease that is lost", () => {
  it.effect("X4 is forgotten at once, after its waits and handlers have ended", () =>
    Effect.gen(function*() {
      const { all: [fake, other], asked, leases } = yield* opened({ settlement: "message" }, {})
      fake!.take(0)
      fake!.state.began()
      fake!.state.closeRoom()
      yield* leases.close(fake!.state.lease, "lost")
      assert.deepStrictEqual(asked, ["give up 0 stopped lost", "interrupt 0 stopped lost", "forget 0 stopped lost"])
      assert.deepStrictEqual([state(fake!.state), state(other!.state)], ["lost", "open"])
      assert.deepStrictEqual([...leases.all.values()], [other!.state])
      assert.deepStrictEqual([fake!.state.whenRoom, fake!.state.whenClear].map(Exit.isExit), [true, true])
      yield* leases.close(fake!.state.lease, "lost")
      assert.deepStrictEqual([asked.length, fake!.calls], [3, []])
    }))

  it.effect("X4 is forgotten once, also while it is being revoked or drained", () =>
    Effect.gen(function*() {
      for (const how of ["revoke", "drain"] as const) {
        const { all: [fake], asked, leases } = yield* opened({})
        fake!.state.began()
        const end = yield* begin(
          how === "revoke" ? leases.close(fake!.state.lease, "revoke") : leases.end([fake!.state], revoke)
        )
        yield* leases.close(fake!.state.lease, "lost")
        fake!.state.ended()
        assert.isTrue(yield* end.after(0))
        assert.strictEqual(asked.filter((each) => each.startsWith("forget 0 stopped lost")).length, 1)
      }
    }))

  it.effect("X4 leaves its room to the others", () =>
    Effect.gen(function*() {
      const { all: [fake, other], leases } = yield* opened({}, {})
      fake!.take(0, 1, 2)
      other!.take(0, 1)
      leases.room.check(other!.state)
      assert.isFalse(Exit.isExit(other!.state.whenRoom))
      yield* leases.close(fake!.state.lease, "lost")
      assert.isTrue(Exit.isExit(other!.state.whenRoom))
    }))

  it.effect("X4 leaves nothing of itself, also while the subscription is paused and its broker does not answer", () =>
    Effect.gen(function*() {
      const { leases } = yield* opened({})
      leases.room.shut()
      // in an effect of its own, so that this one holds nothing of it
      const kept = yield* Effect.gen(function*() {
        const { settle, state, take } = yield* fakeLease({ isSlow: true })
        leases.open(state)
        for (const each of take(0)) settle(each, Outcome.Ack)
        leases.room.check(state)
        leases.touch(state)
        leases.tellAll()
        yield* leases.close(state.lease, "lost")
        return new WeakRef(state)
      })
      for (let turn = 0; turn < 2; turn++) {
        yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
        collectGarbage()
      }
      assert.isUndefined(kept.deref())
      assert.strictEqual(leases.all.size, 1)
    }))

  it.effect("X3 keeps its claims no longer", () =>
    Effect.gen(function*() {
      let extended = 0
      const extend: Driver.Lease["extend"] = () => Effect.sync(() => void extended++)
      const { all: [fake], leases } = yield* opened({ settlement: "message", lease: { extend, claim: 300 } })
      fake!.take(0)
      yield* TestClock.adjust(250)
      assert.strictEqual(extended, 2)
      yield* leases.close(fake!.state.lease, "lost")
      yield* TestClock.adjust(1000)
      assert.strictEqual(extended, 2)
    }))

  it.effect("X3 claims that lapse start the source again, those of a lease that is lost do not", () =>
    Effect.gen(function*() {
      const lease: Partial<Driver.Lease> = { extend: () => Effect.fail(refused), claim: 300 }
      const { all: [fake, lost], asked } = yield* opened(
        { settlement: "message", lease },
        { settlement: "message", lease }
      )
      fake!.take(0)
      lost!.take(0)
      lost!.state.lost = true
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(asked, ["failed: refused"])
    }))

  it.effect("X4 all of them are lost with their connection, and interrupted handlers have a second to end", () =>
    Effect.gen(function*() {
      for (const isEnding of [false, true]) {
        const { all, asked, leases } = yield* opened({}, {})
        for (const fake of all) fake.state.began()
        const end = yield* begin(leases.loseAll())
        assert.deepStrictEqual([leases.all.size, all.map((fake) => state(fake.state))], [0, ["lost", "lost"]])
        assert.deepStrictEqual(asked.filter((each) => each.startsWith("interrupt")), [
          "interrupt 0 stopped lost",
          "interrupt 1 stopped lost"
        ])
        all[0]!.state.ended()
        assert.isFalse(yield* end.after(farewell - 1))
        if (isEnding) all[1]!.state.ended()
        assert.isTrue(yield* end.after(isEnding ? 0 : 1))
      }
    }))
})

describe("X4 F18 a lease that is revoked", () => {
  it.effect("X4 starts nothing more, lets its handlers end, and tells the broker what they came to", () =>
    Effect.gen(function*() {
      const { all: [fake], asked, leases } = yield* opened({})
      const [a] = fake!.take(0)
      fake!.state.began()
      const end = yield* begin(leases.close(fake!.state.lease, "revoke"))
      assert.deepStrictEqual([state(fake!.state), asked], ["stopped", ["cancel 0 stopped"]])
      assert.isFalse(yield* end.after(revoke - 1))
      fake!.settle(a!, Outcome.Ack)
      fake!.state.ended()
      assert.isTrue(yield* end.after(0))
      assert.deepStrictEqual([fake!.calls, asked, leases.all.size], [
        [1],
        ["cancel 0 stopped", "forget 0 stopped lost"],
        0
      ])
    }))

  it.effect("X4 interrupts what has not ended in time, gives up the rest a second later, and releases it", () =>
    Effect.gen(function*() {
      const { all: [fake], asked, leases } = yield* opened({ settlement: "message" })
      const [a, b] = fake!.take(0, 1)
      fake!.settle(a!, Outcome.Reject())
      fake!.state.began()
      const end = yield* begin(leases.close(fake!.state.lease, "revoke"))
      yield* end.after(revoke - 1)
      assert.deepStrictEqual(asked, ["cancel 0 stopped"])
      assert.isFalse(yield* end.after(1))
      assert.deepStrictEqual(asked, ["cancel 0 stopped", "interrupt 0 stopped"])
      assert.isFalse(yield* end.after(farewell - 1))
      assert.deepStrictEqual(fake!.calls, [])
      assert.isTrue(yield* end.after(1))
      assert.deepStrictEqual(asked, [
        "cancel 0 stopped",
        "interrupt 0 stopped",
        "give up 0 stopped",
        "forget 0 stopped lost"
      ])
      assert.deepStrictEqual([fake!.calls, fake!.settle(b!, Outcome.Ack)], [[["0 Reject", "1 Release"]], false])
    }))

  it.effect("X4 F18 waits for no longer than its interrupted handlers need", () =>
    Effect.gen(function*() {
      const { all: [fake], asked, leases } = yield* opened({})
      fake!.state.began()
      const end = yield* begin(leases.close(fake!.state.lease, "revoke"))
      assert.isFalse(yield* end.after(revoke + 10))
      fake!.state.ended()
      assert.isTrue(yield* end.after(0))
      assert.deepStrictEqual(asked, [
        "cancel 0 stopped",
        "interrupt 0 stopped",
        "give up 0 stopped",
        "forget 0 stopped lost"
      ])
    }))

  it.effect("X4 is not one that the broker has taken back already", () =>
    Effect.gen(function*() {
      const { asked, leases } = yield* opened({})
      yield* leases.close({ partition: 7 }, "revoke")
      assert.deepStrictEqual([asked, leases.all.size], [[], 1])
    }))
})

describe("X4 the last call of a lease to its broker", () => {
  /** A lease that has one call under way and one message settled after that. */
  const calling = (options: Options = {}) =>
    Effect.gen(function*() {
      const { all, asked, leases } = yield* opened({ isSlow: true, ...options }, {})
      const [fake] = all
      const [a, b] = fake!.take(0, 1)
      fake!.settle(a!, Outcome.Ack)
      leases.touch(fake!.state)
      leases.tellAll()
      fake!.settle(b!, Outcome.Ack)
      return { fake: fake!, other: all[1]!, asked, leases }
    })

  it.effect("X4 comes after the one under way, and is waited for", () =>
    Effect.gen(function*() {
      const { fake, leases } = yield* calling()
      const end = yield* begin(leases.close(fake.state.lease, "revoke"))
      assert.isFalse(yield* end.after(1))
      assert.deepStrictEqual(fake.calls, [1])
      yield* fake.answer()
      assert.isFalse(yield* end.after(1))
      assert.deepStrictEqual(fake.calls, [1, 2])
      yield* fake.answer()
      assert.isTrue(yield* end.after(0))
      assert.strictEqual(fake.most(), 1)
    }))

  it.effect("X4 is waited for by each of two ends", () =>
    Effect.gen(function*() {
      const { fake, leases } = yield* calling()
      const ends = [
        yield* begin(leases.close(fake.state.lease, "revoke")),
        yield* begin(leases.end([fake.state], 0))
      ]
      yield* fake.answer()
      for (const end of ends) assert.isFalse(yield* end.after(1))
      yield* fake.answer()
      for (const end of ends) assert.isTrue(yield* end.after(0))
      assert.deepStrictEqual(fake.calls, [1, 2])
    }))

  it.effect("X4 may fail, or the one before it: the lease ends", () =>
    Effect.gen(function*() {
      for (const answers of [[refused], [undefined, refused]]) {
        const { fake, leases } = yield* calling()
        const end = yield* begin(leases.close(fake.state.lease, "revoke"))
        for (const error of answers) yield* fake.answer(error === undefined ? Exit.void : Exit.fail(error))
        if (answers.length === 1) yield* fake.answer(Exit.fail(refused))
        assert.isTrue(yield* end.after(0))
        assert.strictEqual(leases.all.size, 1)
      }
    }))

  it.effect("X4 is given a second, for all leases at the same time", () =>
    Effect.gen(function*() {
      const { fake, leases, other } = yield* calling()
      const never = yield* fakeLease({ lease: { commit: () => Effect.never } })
      leases.open(never.state)
      for (const each of [never, other]) for (const one of each.take(4)) each.settle(one, Outcome.Ack)
      const end = yield* begin(leases.end([fake.state, never.state, other.state], revoke))
      assert.deepStrictEqual([other.calls, fake.state.stopped, never.state.stopped], [[5], true, true])
      assert.isFalse(yield* end.after(farewell - 1))
      assert.isTrue(yield* end.after(1))
      assert.strictEqual(leases.all.size, 0)
    }))

  it.effect("X3 a drain opens the intake at once, so that no driver waits in an offer", () =>
    Effect.gen(function*() {
      const { all: [fake], leases } = yield* opened({})
      fake!.state.began()
      fake!.state.closeRoom()
      const end = yield* begin(leases.end([fake!.state], revoke))
      assert.isTrue(Exit.isExit(fake!.state.whenRoom))
      fake!.state.ended()
      assert.isTrue(yield* end.after(0))
    }))
})

describe("X4 a lease that ends in the middle of the call of its handler", () => {
  it.effect("X4 waits for that call, once, and for no call of another lease", () =>
    Effect.gen(function*() {
      const { all: [fake, other], leases } = yield* opened({}, {})
      leases.entered(fake!.state)
      yield* leases.quiet([other!.state])
      assert.strictEqual(fake!.state.busy, 0)
      const own = yield* begin(leases.quiet([fake!.state, other!.state]))
      const second = yield* begin(leases.quiet([fake!.state]))
      const foreign = yield* begin(leases.quiet([other!.state]))
      assert.deepStrictEqual([yield* own.after(1), yield* second.after(1), yield* foreign.after(1)], [
        false,
        false,
        true
      ])
      leases.left(fake!.state)
      assert.deepStrictEqual([yield* own.after(0), yield* second.after(0)], [true, true])
      assert.strictEqual(fake!.state.busy, 0)
    }))

  it.effect("X4 calls that nothing waits for leave no trace", () =>
    Effect.gen(function*() {
      const { all: [fake], leases } = yield* opened({})
      for (let i = 0; i < 2; i++) {
        leases.entered(fake!.state)
        leases.left(fake!.state)
        assert.strictEqual(fake!.state.busy, 0)
        yield* leases.quiet([fake!.state])
        leases.entered(fake!.state)
        const waiting = yield* Effect.forkChild(leases.quiet([fake!.state]), { startImmediately: true })
        assert.strictEqual(fake!.state.busy, 1)
        leases.left(fake!.state)
        yield* Fiber.join(waiting)
      }
    }))
})
