import { Lanes } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Context, Scheduler } from "effect"
import { Dispatching, type Plan } from "./dispatching.ts"

const many = (count: number, plan: Plan = {}): ReadonlyArray<Plan> => Array.from({ length: count }, () => plan)

/** How many messages started in each turn in which any did. */
const sizes = ({ turns }: Dispatching): ReadonlyArray<number> =>
  turns.map((sum, i) => sum - (turns[i - 1] ?? 0)).filter((size) => size > 0)

const againAll = (world: Dispatching): void => {
  for (const one of world.in("held")) world.again(one)
}

describe("X19 the slices of a dispatcher", () => {
  /** The ways in which messages come to their start: after `prepare`, `begin` makes ten of them ready. */
  const ways: Record<string, {
    readonly prepare?: (world: Dispatching, cost: number) => void
    readonly begin: (world: Dispatching, cost: number) => void
  }> = {
    "messages taken in": { begin: (world, cost) => world.push(0, ...many(10, { cost })) },
    "lanes that go on": {
      prepare: (world, cost) => world.push(0, ...many(10).map((_, i): Plan => ({ key: `${i}`, ends: ["held"], cost }))),
      begin: againAll
    },
    "messages of one lane": {
      prepare: (world, cost) => world.push(0, { key: "a", ends: ["suspended"] }, ...many(10, { key: "a", cost })),
      begin: (world) => world.finish(world.taken[0]!)
    },
    "messages without a lane that run again": {
      prepare: (world, cost) => world.push(0, ...many(10, { ends: ["held"], cost })),
      begin: againAll
    },
    "messages of a retry channel": {
      prepare: (world, cost) => world.push(0, ...many(10, { wait: 20, cost })),
      begin: (world) => world.machine.advance(20)
    }
  }
  for (const [name, { begin, prepare }] of Object.entries(ways)) {
    const make = (cost: number) => {
      const world = new Dispatching({ lanes: Lanes.key(100), tier: name.includes("retry channel") ? 1 : undefined })
      prepare?.(world, cost)
      world.settle()
      return world
    }

    it(`X19 ${name}: a slice ends with the message by which 4 ms have passed`, () => {
      const world = make(1)
      begin(world, 1)
      world.settle()
      assert.deepStrictEqual(sizes(world).slice(-3), [4, 4, 2])
    })

    it(`X19 ${name}: quick ones are one slice`, () => {
      const world = make(0)
      begin(world, 0)
      world.settle()
      assert.strictEqual(sizes(world).at(-1), 10)
    })

    it(`X3 ${name}: one whose handler pauses the subscription is the last that starts`, () => {
      const world = make(0)
      world.handler = () => {
        world.handler = () => {}
        world.mayStart = false
        world.dispatcher.endSlice()
      }
      begin(world, 0)
      world.settle()
      assert.strictEqual(sizes(world).at(-1), 1)
      world.mayStart = true
      world.dispatcher.wake()
      world.settle()
      assert.strictEqual(sizes(world).at(-1), 9)
    })
  }

  it("X19 a message that may run again while others of its turn run waits for the next turn", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    world.push(0, { ends: ["held"] })
    world.settle()
    world.handler = (position) => {
      if (position === 1) world.again(world.taken[0]!)
    }
    world.push(0, {})
    world.settle()
    assert.deepStrictEqual([world.started, sizes(world)], [[0, 1, 0], [1, 1, 1]])
  })

  it("X19 after a turn that used up no slice, messages without a lane that run again come first", () => {
    const world = new Dispatching({ lanes: Lanes.key(100) })
    world.push(0, ...many(5, { ends: ["held"], cost: 1 }))
    world.settle()
    // this slice is used up, the next one is not
    againAll(world)
    world.settle()
    world.push(0, { key: "a", ends: ["held"] }, { ends: ["held"] })
    world.settle()
    againAll(world)
    world.settle()
    assert.deepStrictEqual(world.started.slice(-4), [5, 6, 6, 5])
  })

  it("X19 other tasks run between two slices", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    world.push(0, ...many(6, { cost: 1 }))
    const before: Array<number> = []
    world.machine.tasks.unshift({ run: () => before.push(world.started.length), priority: 0 })
    world.settle()
    assert.deepStrictEqual([before, world.started.length], [[4], 6])
  })

  it("X19 a lane that is cut off by the end of a slice goes behind the lanes that are ready", () => {
    const world = new Dispatching({ lanes: Lanes.key(100) })
    world.push(0, { key: "a", ends: ["suspended"] }, { key: "b", ends: ["suspended"] })
    world.push(0, ...many(6, { key: "a", cost: 1 }), ...many(2, { key: "b", cost: 1 }))
    for (const one of world.in("suspended")) world.finish(one)
    world.settle()
    assert.deepStrictEqual(world.started.slice(2), [2, 3, 4, 5, 8, 9, 6, 7])
  })

  it("X19 what comes while the loop waits starts at once, in the slice that has begun, and later when that is over", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    world.push(0, ...many(2, { cost: 1 }))
    assert.strictEqual(world.started.length, 2)
    world.push(0, ...many(5, { cost: 1 }))
    assert.strictEqual(world.started.length, 4)
    world.settle()
    assert.deepStrictEqual(sizes(world), [2, 2, 3])
    world.machine.advance(4)
    world.push(0, ...many(5, { cost: 1 }))
    assert.strictEqual(world.started.length, 7)
    world.settle()
    assert.deepStrictEqual(sizes(world), [2, 2, 3, 4, 1])
  })

  it("X19 what comes while a handler is called starts after it", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    let depth = 0
    world.handler = (position) => {
      assert.strictEqual(++depth, 1)
      if (position < 3) world.push(0, {}, {})
      depth--
    }
    world.push(0, {}, {})
    world.settle()
    assert.deepStrictEqual(world.started, [0, 1, 2, 3, 4, 5, 6, 7])
  })

  it("X19 what comes while a handler is called is no reason to end the next slice early", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    world.handler = (position) => {
      if (position === 2) world.push(0, ...many(8, { cost: 1 }))
    }
    world.push(0, ...many(4, { cost: 1 }))
    world.settle()
    assert.deepStrictEqual(sizes(world), [4, 4, 4])
  })

  it("X3 while nothing may start, what comes wakes no turn at once", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    const turns = world.turns.length
    world.mayStart = false
    world.push(0, {})
    assert.strictEqual(world.turns.length, turns)
    world.settle()
    assert.deepStrictEqual([world.turns.length, world.started], [turns + 1, []])
    world.mayStart = true
    world.dispatcher.wake()
    world.settle()
    assert.deepStrictEqual(world.started, [0])
  })

  it("X19 all wakes of one turn are one turn of the loop, and each turn has an end", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    for (const expected of [1, 2, 3]) {
      for (let i = 0; i < 3; i++) world.dispatcher.wake()
      assert.strictEqual(world.machine.tasks.length, 1)
      world.settle()
      assert.strictEqual(world.turns.length, 1 + expected)
    }
  })

  it("X19 a wake stands in line with the tasks of the program", () => {
    const world = new Dispatching({ lanes: Lanes.unordered(100) })
    const turns: Array<number> = []
    world.dispatcher.wake()
    Context.get(world.machine.context, Scheduler.Scheduler).makeDispatcher().scheduleTask(
      () => turns.push(world.turns.length),
      0
    )
    world.settle()
    assert.deepStrictEqual(turns, [2])
  })
})

describe("X3 X19 messages that are always ready to run again, each for a whole slice", () => {
  const eager: Record<string, string | undefined> = { "of a lane": "eager", "without a lane": undefined }
  /** Ways in which another message comes to its start; each answers its position. */
  const others: Record<string, (world: Dispatching) => number> = {
    "a new message": (world) => {
      world.push(0, { key: "new" })
      return world.taken.length - 1
    },
    "a lane that goes on": (world) => {
      world.finish(world.in("suspended")[0]!)
      return 1
    },
    "a message without a lane that runs again": (world) => {
      world.again(world.taken[2]!)
      return 2
    },
    "a message whose time has come": (world) => {
      world.push(0, { wait: 10 })
      return world.taken.length - 1
    }
  }
  for (const [kind, key] of Object.entries(eager)) {
    for (const [name, begin] of Object.entries(others)) {
      it(`X3 X19 ${kind}, do not keep ${name} from starting`, () => {
        const world = new Dispatching({ lanes: Lanes.key(100), tier: 1 })
        world.push(0, { key: "slow", ends: ["suspended"] }, { key: "slow" }, { ends: ["held"] })
        const ends = Array.from({ length: 1000 }, () => "held" as const)
        world.push(0, ...Array.from({ length: 3 }, (_, i): Plan => ({ key: key && `${key} ${i}`, ends, cost: 5 })))
        world.settle()
        const isEager = ({ plan }: Dispatching["taken"][number]) => plan.ends === ends
        const go = () => {
          for (const one of world.in("held")) if (isEager(one)) world.again(one)
          world.machine.step()
        }
        for (let i = 0; i < 10; i++) go()
        const position = begin(world)
        const from = world.started.length
        for (let i = 0; i < 50; i++) go()
        const started = world.started.slice(from)
        assert.isAbove(started.length, 20)
        assert.include(started.slice(0, 12), position)
      })
    }
  }
})
