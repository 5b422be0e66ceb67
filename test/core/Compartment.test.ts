import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, type Fiber, Scheduler } from "effect"
import { Compartment } from "../../packages/core/src/middleware/compartment.ts"

/** Gives up the processor before each step of a fiber, so that a test comes between any two of them. */
const stepping = () => {
  const tasks: Array<() => void> = []
  const scheduler: Scheduler.Scheduler = {
    executionMode: "async",
    // the first two are the end of the last pause and the step itself
    shouldYield: (fiber) => fiber.currentOpCount > 2,
    makeDispatcher: () => ({ scheduleTask: (task) => tasks.push(task), flush: () => {} })
  }
  /** Takes so many steps, or fewer where no fiber has more. */
  const step = (count: number): number => {
    let taken = 0
    for (; taken < count && tasks.length > 0; taken++) tasks.shift()!()
    return taken
  }
  const fork = <A, E>(effect: Effect.Effect<A, E>): Fiber.Fiber<A, E> =>
    Effect.runForkWith(Context.make(Scheduler.Scheduler, scheduler))(effect)
  return { step, fork }
}

const refused = () => "refused" as const

/** A compartment whose places are taken, and calls that wait for them. */
const setUp = (calls: number, limit = 1, end: Effect.Effect<void> = Effect.void) => {
  const { fork, step } = stepping()
  const compartment = new Compartment("it", limit, 9)
  for (let i = 0; i < limit; i++) assert.isTrue(compartment.take())
  const ran: Array<number> = []
  const fibers = Array.from(
    { length: calls },
    (_, i) => fork(compartment.wait(() => Effect.andThen(Effect.sync(() => void ran.push(i)), end), refused))
  )
  return { compartment, fibers, ran, step }
}

/** Runs a case for each number of steps up to the most that there are. */
const sweep = (most: number, run: (steps: number) => boolean): void => {
  for (let steps = 0; steps < most; steps++) if (!run(steps)) return
  assert.fail(`more than ${most} steps`)
}

describe("X12 the places of a bulkhead, between any two steps of a fiber", () => {
  it("X12 a call does not pass one that waits", () => {
    let passes = 0
    sweep(100, (steps) => {
      const { compartment, ran, step } = setUp(1)
      const isEarly = step(steps) === steps
      const isWaiting = compartment.waiting > 0
      compartment.free()
      // the woken call may take several steps to its place
      for (let more = 0; compartment.waiting > 0 && more < 100; more++) {
        assert.isFalse(compartment.take())
        step(1)
      }
      if (isWaiting) passes++
      step(1000)
      assert.deepStrictEqual([ran, compartment.running, compartment.waiting], [[0], 0, 0])
      return isEarly
    })
    assert.isAbove(passes, 0)
  })

  it("X12 a call that is interrupted on its way to a free place leaves it to the next", () => {
    sweep(100, (steps) => {
      let isEarly = false
      sweep(100, (later) => {
        const { compartment, fibers, ran, step } = setUp(2)
        isEarly = step(steps) === steps
        compartment.free()
        const isMoving = step(later) === later
        fibers[0]!.interruptUnsafe()
        step(1000)
        assert.deepStrictEqual([ran.at(-1), compartment.running, compartment.waiting], [1, 0, 0])
        return isMoving
      })
      return isEarly
    })
  })

  it("X12 no place stays free while a call waits", () => {
    sweep(100, (steps) => {
      let isEarly = false
      sweep(100, (later) => {
        const { compartment, ran, step } = setUp(3, 2, Effect.never)
        isEarly = step(steps) === steps
        compartment.free()
        const isMoving = step(later) === later
        compartment.free()
        step(1000)
        assert.deepStrictEqual([ran.toSorted(), compartment.running, compartment.waiting], [[0, 1], 2, 1])
        return isMoving
      })
      return isEarly
    })
  })

  it("X12 a place that becomes free before the first step of a call is taken without a queue", () => {
    const { fork, step } = stepping()
    const compartment = new Compartment("it", 1, 0)
    assert.isTrue(compartment.take())
    let ran = 0
    const call = compartment.wait(() => Effect.sync(() => ran++), refused)
    compartment.free()
    fork(call)
    step(1000)
    assert.deepStrictEqual([ran, compartment.running, compartment.refused], [1, 0, 0])
  })
})
