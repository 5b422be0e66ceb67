import { Lanes } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import * as fc from "fast-check"
import { leaseOf, LeaseState } from "../../packages/core/src/internal/engine/LeaseState.ts"
import { collectGarbage } from "./collectGarbage.ts"
import { Dispatching, type Options, type Plan, type Taken } from "./dispatching.ts"

const kinds: ReadonlyArray<Options["lanes"]> = [
  Lanes.partition,
  Lanes.unordered(1),
  Lanes.unordered(3),
  Lanes.key(2),
  Lanes.key(3, { keyless: "partition" })
]

const plan = fc.record({
  key: fc.constantFrom("a", "b", undefined),
  ends: fc.array(fc.constantFrom("suspended", "suspended", "held", "lease lost"), { maxLength: 3 }),
  cost: fc.constantFrom(0, 0, 1, 3),
  wait: fc.integer({ min: 0, max: 30 })
})

type Step =
  | { readonly push: ReadonlyArray<Plan>; readonly lease: number }
  | { readonly finish: number }
  | { readonly again: number }
  | { readonly mayStart: boolean }
  | { readonly lose: number }
  | { readonly advance: number }

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({ push: fc.array(plan, { minLength: 1, maxLength: 12 }), lease: fc.nat(2) }),
  fc.record({ push: fc.array(plan, { minLength: 1, maxLength: 12 }), lease: fc.nat(2) }),
  fc.record({ finish: fc.nat() }),
  fc.record({ finish: fc.nat() }),
  fc.record({ again: fc.nat() }),
  fc.record({ mayStart: fc.boolean() }),
  fc.record({ lose: fc.nat(8) }),
  fc.record({ advance: fc.integer({ min: 1, max: 12 }) })
)

/** Whether an earlier message of the same lane is not finished. */
const isBlocked = (all: ReadonlyArray<Taken>, one: Taken): boolean =>
  one.lane !== undefined &&
  all.some((other) =>
    other !== one && other.lane === one.lane && leaseOf(other.delivery) === leaseOf(one.delivery) &&
    (other.state === "suspended" || other.state === "held")
  )

/** The messages of a lane that have started, in order of their first start. */
const firstStarts = ({ started, taken }: Dispatching, belongs: (one: Taken) => boolean): ReadonlyArray<number> =>
  [...new Set(started)].filter((position) => belongs(taken[position]!))

const isSorted = (positions: ReadonlyArray<number>): boolean =>
  positions.every((position, i) => i === 0 || positions[i - 1]! < position)

/** A model of one run: no message of a lane starts beside another, and none waits that may start. */
const run = (options: Options, steps: ReadonlyArray<Step>): void => {
  const world = new Dispatching(options)
  const { dispatcher, leases, machine, taken } = world
  const limit = options.lanes._tag === "partition" ? Number.POSITIVE_INFINITY : options.lanes.limit
  const nowOf = (one: Taken) => options.tier === 1 ? one.due <= machine.now : true
  world.handler = (position) => {
    const one = taken[position]!
    assert.isTrue(world.mayStart)
    assert.isBelow(dispatcher.active, limit)
    assert.isFalse(isBlocked(taken, one))
    assert.isAtMost(one.starts, 1 + one.plan.ends!.filter((end) => end === "held").length)
    // the cost of its own call has passed
    if (options.tier === 1) assert.isAtMost(one.due, machine.now - one.plan.cost!)
  }
  const check = () => {
    assert.isAtMost(world.most, limit)
    const waiting = world.in("new")
    if (world.mayStart && dispatcher.active < limit) {
      const ready = waiting.filter((one) => nowOf(one) && !isBlocked(taken, one))
      assert.deepStrictEqual(ready.map(({ delivery }) => delivery.position), [])
      // one timer, at the time of the first that waits; that of a lost lease may be left over
      const next = waiting.filter((one) => !nowOf(one)).map(({ due }) => due).toSorted((a, b) => a - b).slice(0, 1)
      const alarms = machine.sleepers.map(({ at }) => at)
      if (leases.some(({ lost }) => lost)) { for (const due of next) assert.isTrue(alarms.some((at) => at <= due)) }
      else assert.deepStrictEqual(alarms, next)
    }
    assert.deepStrictEqual(world.refused, [])
    assert.isAtMost(machine.sleepers.length, 1)
    if (options.tier === 1) return
    for (const lease of leases) {
      for (const lane of new Set(taken.map((one) => one.lane))) {
        assert.isTrue(isSorted(firstStarts(world, (one) => leaseOf(one.delivery) === lease && one.lane === lane)))
      }
    }
  }
  for (const each of steps) {
    if ("push" in each) {
      world.push(each.lease, ...each.push)
    } else if ("advance" in each) machine.advance(each.advance)
    else if ("lose" in each) {
      if (each.lose < leases.length) world.lose(each.lose)
    } else if ("mayStart" in each) {
      world.mayStart = each.mayStart
      if (each.mayStart) dispatcher.wake()
    } else {
      const [state, at] = "finish" in each ? ["suspended", each.finish] as const : ["held", each.again] as const
      const all = world.in(state)
      const one = all[at % all.length]
      if (one !== undefined && state === "held") world.again(one)
      else if (one !== undefined) world.finish(one)
    }
    world.settle()
    check()
  }
}

describe("X3 X5 X19 the messages that a dispatcher starts", () => {
  for (const lanes of kinds) {
    const name = lanes._tag === "partition" ? "partition" : `${lanes._tag} ${lanes.limit}`
    it(`X3 X19 ${name}: each lane in order and one at a time, no more than the limit, and none waits that may start`, () => {
      fc.assert(fc.property(fc.array(step, { maxLength: 40 }), (steps) => run({ lanes }, steps)), { numRuns: 150 })
    })
    it(`F11 X19 ${name}: a message of a retry channel starts when its time has come`, () => {
      fc.assert(
        fc.property(fc.array(step, { maxLength: 40 }), (steps) => run({ lanes, tier: 1 }, steps)),
        { numRuns: 150 }
      )
    })
  }
})

describe("X3 the limit of suspended handlers", () => {
  for (const [name, lanes] of [["without a lane", Lanes.unordered(1)], ["of a lane", Lanes.key(1)]] as const) {
    it(`X3 a message ${name} that runs again waits for room`, () => {
      const world = new Dispatching({ lanes })
      world.push(0, { key: "a", ends: ["held"] }, { key: "b", ends: ["suspended"] })
      world.settle()
      const [held, running] = world.taken
      world.again(held!)
      world.settle()
      assert.deepStrictEqual(world.started, [0, 1])
      world.finish(running!)
      world.settle()
      assert.deepStrictEqual(world.started, [0, 1, 0])
    })

    it(`X4 a message ${name} that waits for room does not start when its lease is lost`, () => {
      const world = new Dispatching({ lanes })
      world.push(0, { key: "a", ends: ["held"] })
      world.push(1, { key: "b", ends: ["suspended"] })
      world.settle()
      const [held, running] = world.taken
      world.again(held!)
      world.lose(0)
      world.finish(running!)
      world.settle()
      assert.deepStrictEqual([world.started, world.refused], [[0, 1], []])
    })
  }

  it("X3 a message that ran again and ends has started for the last time", () => {
    const world = new Dispatching({ lanes: Lanes.partition })
    world.push(0, { ends: ["held", "suspended"] }, {})
    world.settle()
    world.again(world.taken[0]!)
    world.settle()
    world.finish(world.taken[0]!)
    world.settle()
    assert.deepStrictEqual(world.started, [0, 0, 1])
  })
})

describe("X4 leases that end before their messages start", () => {
  it("X4 the batches of a lease that is revoked are passed over", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(1) })
    world.push(0, { ends: ["suspended"] }, {}, {})
    world.push(0, {})
    world.push(1, {}, {})
    world.leases[0]!.stopped = true
    world.finish(world.taken[0]!)
    world.settle()
    assert.deepStrictEqual([world.started, world.refused], [[0, 4, 5], []])
  })

  it("X4 a lease that ends while a message of its batch is called takes that batch along, and no other", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(4) })
    world.mayStart = false
    world.push(0, {}, { ends: ["lease lost"] }, {})
    world.push(0, {})
    world.push(1, {}, {})
    world.mayStart = true
    world.dispatcher.wake()
    world.settle()
    assert.deepStrictEqual([world.started, world.refused], [[0, 1, 4, 5], []])
  })

  it("X4 a message that ends after its lease was lost starts nothing of what waited behind it", () => {
    const world = new Dispatching({ lanes: Lanes.partition })
    world.push(0, { ends: ["suspended"] }, {}, {})
    world.lose(0)
    world.finish(world.taken[0]!)
    world.settle()
    assert.deepStrictEqual([world.started, world.refused], [[0], []])
  })

  it("X4 nothing is kept of a lost lease, also while the subscription is paused", async () => {
    const world = new Dispatching({ lanes: Lanes.partition })
    world.mayStart = false
    const kept = (() => {
      const lost = new LeaseState({ partition: 3 }, 1, world.machine.clock, () => {})
      world.dispatcher.push(lost.take([Deliveries.make()]))
      world.settle()
      world.dispatcher.forget(lost)
      return new WeakRef(lost)
    })()
    for (let turn = 0; turn < 2; turn++) {
      await new Promise<void>((resolve) => setImmediate(resolve))
      collectGarbage()
    }
    assert.isUndefined(kept.deref())
    world.settle()
  })
})

describe("F11 the timer of the messages that wait for their time", () => {
  const make = () => new Dispatching({ lanes: Lanes.unordered(2), tier: 1 })

  it("F11 messages whose time has come need none, nor does the channel of the subscription itself", () => {
    for (const [tier, wait] of [[1, 0], [0, 20]] as const) {
      const world = new Dispatching({ lanes: Lanes.unordered(2), tier })
      world.push(0, { wait })
      assert.deepStrictEqual([world.started, world.machine.slept], [[0], 0])
    }
  })

  it("F11 is there once, wherever the fibers yield while it is set twice", () => {
    for (let yields = 2; yields < 10; yields++) {
      const world = make()
      world.machine.yields = yields
      world.push(0, { wait: 20 }, { wait: 10 })
      for (let i = 0; i < 200; i++) world.machine.step()
      world.machine.yields = 0
      world.settle()
      world.push(0, { wait: 15 })
      world.settle()
      assert.deepStrictEqual(world.machine.sleepers.map(({ at }) => at), [1010])
    }
  })

  it("F11 is set again only for a message that comes sooner", () => {
    const world = make()
    const timers = (wait: number) => {
      world.push(0, { wait })
      world.settle()
      return [world.machine.slept, world.machine.sleepers.map(({ at }) => at)]
    }
    assert.deepStrictEqual([20, 30, 20, 0.5, 0.5].map(timers), [
      [1, [1020]],
      [1, [1020]],
      [1, [1020]],
      [2, [1000.5]],
      [2, [1000.5]]
    ])
    world.machine.advance(0.5)
    assert.deepStrictEqual([world.started, world.machine.slept], [[3, 4], 3])
    assert.deepStrictEqual(world.machine.sleepers.map(({ at }) => at), [1020])
    world.machine.advance(30)
    assert.deepStrictEqual([world.started.length, world.machine.sleepers], [5, []])
  })

  it("F11 ends with the dispatcher, also where there is none", () => {
    const world = make()
    world.dispatcher.end()
    world.push(0, { wait: 20 })
    world.settle()
    assert.strictEqual(world.machine.sleepers.length, 1)
    world.dispatcher.end()
    world.settle()
    assert.deepStrictEqual(world.machine.sleepers, [])
  })

  it("X4 messages of a lost lease are forgotten, those of the others are not", () => {
    const world = make()
    world.push(0, { wait: 10 })
    world.push(1, { wait: 10 })
    world.settle()
    world.lose(0)
    world.machine.advance(10)
    assert.deepStrictEqual(world.started, [1])
  })
})
