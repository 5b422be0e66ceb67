import { Channel, Decode, Publisher, Stack, Subscription } from "@millrace/core"
import { Simulation } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Data, Effect, Schema } from "effect"

const Payment = Schema.Struct({ id: Schema.String, amount: Schema.Number })
const Payments = Channel.make("payments", { payload: Payment, key: ({ id }) => id })
const payments = Array.from({ length: 12 }, (_, i) => ({ id: `p${i}`, amount: 2 }))

class Busy extends Data.TaggedError("Busy")<{}> {
  readonly failure = "transient"
}

type Book = (rows: Map<string, number>, payment: typeof Payment.Type) => void

/** Books payments, into rows that outlive a crash, with a store that is slow and at times busy. */
const ledger = (book: Book) => (world: Simulation.World): Effect.Effect<void> =>
  Effect.gen(function*() {
    const rows = new Map<string, number>()
    const handler = Stack.start().use(Decode.middleware(Payments)).handle(({ payload }) =>
      Effect.gen(function*() {
        yield* Effect.sleep(world.integer(0, 20))
        if (world.chance(0.1)) return yield* new Busy()
        book(rows, payload)
        yield* Effect.sleep(world.integer(0, 5))
      })
    )
    const subscription = Subscription.make(Payments, { group: "ledger", name: "book" }, handler)
    yield* Simulation.storm(world, {
      consumer: Subscription.run(subscription),
      producer: Publisher.make(Payments).publishAll(payments)
    })
    for (const { amount, id } of payments) {
      world.expect(rows.get(id) === amount, () => `${id} is booked as ${rows.get(id)}, not as ${amount}`)
    }
  })

const adding: Book = (rows, { amount, id }) => rows.set(id, (rows.get(id) ?? 0) + amount)
const setting: Book = (rows, { amount, id }) => rows.set(id, amount)

describe("X16 a subscription and an invariant of one's own", () => {
  it.effect("X16 a handler that counts a redelivery twice is found, with seed, log and how to run it again", () =>
    Effect.gen(function*() {
      const failed = yield* Effect.flip(Simulation.check(ledger(adding)))
      assert.match(failed.faults[0]!, /^p\d+ is booked as (?:[468]|\d\d+), not as 2$/)
      assert.isTrue(failed.log.some((line) => /crashes|ends, (?:revoke|lost)/.test(line)))
      assert.include(failed.message, `again: Simulation.check(program, { from: ${failed.seed}, seeds: 1 })`)
      const again = yield* Effect.flip(Simulation.check(ledger(adding), { from: failed.seed, seeds: 1 }))
      assert.deepStrictEqual([again.faults, again.log], [failed.faults, failed.log])
    }))

  it.effect("X16 a handler that takes duplicates holds in 500 histories", () =>
    Effect.gen(function*() {
      const { milliseconds, seeds, steps } = yield* Simulation.check(ledger(setting), { seeds: 500 })
      assert.strictEqual(seeds, 500)
      assert.isAbove(milliseconds, seeds)
      assert.isAbove(steps, seeds)
    }))

  it.effect("X16 what is never settled is a failure, and says how far it came", () =>
    Effect.gen(function*() {
      const stuck = (world: Simulation.World) =>
        Simulation.storm(world, {
          consumer: Subscription.run(
            Subscription.make(Payments, { group: "ledger", name: "book" }, Stack.start().handle(() => Effect.never))
          ),
          producer: Publisher.make(Payments).publishAll(payments)
        })
      const failed = yield* Effect.flip(Simulation.check(stuck, { seeds: 1 }))
      assert.match(failed.faults[0]!, /^not settled: ledger has done 0 of \d+.* of payments$/)
    }))

  it.effect("X16 a program that reads time or chance from outside its world is told so", () =>
    Effect.gen(function*() {
      let calls = 0
      const stray = (world: Simulation.World) => Effect.sync(() => world.expect(false, `call ${++calls}`))
      const failed = yield* Effect.flip(Simulation.check(stray, { seeds: 1 }))
      assert.strictEqual(failed.faults.length, 2)
      assert.include(failed.faults[1]!, "its replay goes another way")
    }))

  it.effect("X16 a program that waits for a Promise is told so", () =>
    Effect.gen(function*() {
      const waits = () => Effect.promise(() => new Promise<void>(() => {}))
      const failed = yield* Effect.flip(Simulation.check(waits, { seeds: 1 }))
      assert.match(failed.faults[0]!, /^deadlock: .*Promise/)
    }))

  it.effect("X16 a handler of a world that runs for ever is a livelock", () =>
    Effect.gen(function*() {
      const failed = yield* Effect.flip(
        Simulation.check(() => Effect.forever(Effect.yieldNow), { seeds: 1, steps: 10_000 })
      )
      assert.match(failed.faults[0]!, /^livelock/)
    }))

  it("X16 wrong options are refused with their name and value", () => {
    assert.throws(
      () => Simulation.check(() => Effect.void, { seeds: 0 }),
      RangeError,
      "seeds must be an integer from 1"
    )
    assert.throws(
      () => Simulation.check(() => Effect.void, { from: 0.5 }),
      RangeError,
      "from must be an integer from 0"
    )
  })
})
