import { BrokerError, type Driver, Outcome } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit } from "effect"
import { TestClock } from "effect/testing"
import { opened } from "./leasing.ts"
import { fakeLease } from "./support.ts"

const refused = BrokerError.make({ system: "fake", operation: "settle", reason: "Unreachable", message: "refused" })

type Fake = Effect.Success<ReturnType<typeof fakeLease>>

/** Settles all that is open. */
const settleAll = (fake: Fake): void => {
  for (const delivery of fake.state.open()) fake.settle(delivery, Outcome.Ack)
}

describe("X3 what the leases tell the broker at the end of a turn", () => {
  it.effect("X3 each lease that was touched, once for each turn", () =>
    Effect.gen(function*() {
      const { all, asked, leases } = yield* opened({}, {}, {})
      for (const turn of [1, 2]) {
        for (const fake of all.slice(0, 2)) {
          const [first, second] = fake.take(10 * turn, 10 * turn + 1)
          fake.settle(first!, Outcome.Ack)
          leases.touch(fake.state)
          fake.settle(second!, Outcome.Ack)
          leases.touch(fake.state)
        }
        leases.tellAll()
        assert.deepStrictEqual(
          all.map(({ calls }) => calls),
          [[12, 22], [12, 22], []].map((each) => each.slice(0, turn))
        )
      }
      assert.deepStrictEqual(asked, [])
    }))

  it.effect("X3 a call that waits for its answer is watched, one that is answered is not", () =>
    Effect.gen(function*() {
      const { all: [fake], asked, leases } = yield* opened({ isSlow: true })
      fake!.take(0)
      settleAll(fake!)
      leases.touch(fake!.state)
      leases.tellAll()
      // settled meanwhile: it goes with the next call of the fiber that waits
      fake!.take(1)
      settleAll(fake!)
      leases.touch(fake!.state)
      leases.tellAll()
      yield* fake!.answer()
      yield* fake!.answer()
      assert.deepStrictEqual([fake!.calls, asked], [[1, 2], ["calls"]])
    }))

  it.effect("X3 a call that takes a step and no time is not watched", () =>
    Effect.gen(function*() {
      let calls = 0
      const { all: [fake], asked, leases } = yield* opened({ lease: { commit: () => Effect.sync(() => void calls++) } })
      fake!.take(0)
      settleAll(fake!)
      leases.touch(fake!.state)
      leases.tellAll()
      assert.deepStrictEqual([calls, asked], [1, []])
    }))

  for (const isSlow of [false, true]) {
    it.effect(`X3 a refusal that comes ${isSlow ? "later" : "at once"} starts the source again`, () =>
      Effect.gen(function*() {
        const { all: [fake], asked, leases } = yield* opened({ isSlow })
        fake!.answerWith(refused)
        fake!.take(0)
        settleAll(fake!)
        leases.touch(fake!.state)
        leases.touch(fake!.state)
        leases.tellAll()
        if (isSlow) yield* fake!.answer(Exit.fail(refused))
        assert.deepStrictEqual(asked.filter((each) => each !== "calls"), ["failed: refused"])
        assert.strictEqual(fake!.calls.length, 1)
      }))
  }

  it.effect("X4 a lease that ends waits for no answer, and a refusal that comes later changes nothing", () =>
    Effect.gen(function*() {
      let interrupted = 0
      const { all: [fake], asked, leases } = yield* opened({
        lease: {
          commit: () =>
            Effect.onInterrupt(
              Effect.andThen(Effect.sleep(10), Effect.fail(refused)),
              () => Effect.sync(() => void interrupted++)
            )
        }
      })
      fake!.take(0)
      settleAll(fake!)
      for (let turn = 0; turn < 2; turn++) {
        leases.touch(fake!.state)
        leases.tellAll()
      }
      yield* leases.close(fake!.state.lease, "lost")
      yield* TestClock.adjust(20)
      assert.deepStrictEqual([interrupted, asked.filter((each) => each.startsWith("failed"))], [1, []])
    }))
})

describe("X3 pauses of the drivers of leases", () => {
  const pausable = (milliseconds: number) => {
    const turns: Array<string> = []
    const turn = (name: string) =>
      milliseconds === 0
        ? Effect.sync(() => void turns.push(name))
        : Effect.andThen(Effect.sleep(milliseconds), Effect.sync(() => void turns.push(name)))
    const lease: Partial<Driver.Lease> = { pause: turn("pause"), resume: turn("resume") }
    return { turns, lease }
  }

  for (const milliseconds of [0, 10]) {
    it.effect(`X3 are called once for each change, one at a time; a call takes ${milliseconds} ms`, () =>
      Effect.gen(function*() {
        const { lease, turns } = pausable(milliseconds)
        // a lease without them is left alone
        const { asked, leases } = yield* opened({ lease }, {})
        leases.turn()
        leases.room.shut()
        leases.turn()
        leases.turn()
        yield* TestClock.adjust(100)
        assert.deepStrictEqual(turns, ["pause"])
        leases.room.open()
        leases.turn()
        leases.room.shut()
        leases.turn()
        leases.room.open()
        leases.turn()
        yield* TestClock.adjust(100)
        assert.deepStrictEqual([turns.at(-1), asked], ["resume", []])
        assert.isTrue(turns.every((each, i) => each === (i % 2 === 0 ? "pause" : "resume")))
      }))
  }

  it.effect("X3 a change that comes while a call is under way is made after it", () =>
    Effect.gen(function*() {
      const { lease, turns } = pausable(10)
      const { leases } = yield* opened({ lease })
      leases.room.shut()
      leases.turn()
      leases.room.open()
      leases.turn()
      assert.deepStrictEqual(turns, [])
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(turns, ["pause", "resume"])
    }))

  it.effect("X3 a lease that opens while the subscription is paused is paused", () =>
    Effect.gen(function*() {
      const { leases } = yield* opened()
      const { lease, turns } = pausable(0)
      const [open, shut] = [yield* fakeLease({ lease }), yield* fakeLease({ lease })]
      leases.open(open.state)
      assert.deepStrictEqual(turns, [])
      leases.room.shut()
      leases.open(shut.state)
      assert.deepStrictEqual(turns, ["pause"])
    }))

  it.effect("X3 one that fails is noted, one that is interrupted is not, and the next one is made", () =>
    Effect.gen(function*() {
      const { turns, lease } = pausable(0)
      const { asked, leases } = yield* opened(
        { lease: { ...lease, pause: Effect.die(new Error("broken")) } },
        { lease: { ...lease, pause: Effect.interrupt } }
      )
      leases.room.shut()
      leases.turn()
      leases.room.open()
      leases.turn()
      assert.deepStrictEqual([asked, turns], [["noted: broken"], ["resume", "resume"]])
    }))

  it.effect("X4 a lease that ends while its driver pauses is not resumed", () =>
    Effect.gen(function*() {
      const { lease, turns } = pausable(10)
      const { all: [fake], leases } = yield* opened({ lease })
      leases.room.shut()
      leases.turn()
      leases.room.open()
      leases.turn()
      yield* leases.close(fake!.state.lease, "lost")
      yield* TestClock.adjust(100)
      assert.deepStrictEqual(turns, ["pause"])
    }))
})
