import { assert, describe, it } from "@effect/vitest"
import { Gather } from "@millrace/core"
import { Data, Deferred, Effect, Exit, Fiber, Scope } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

class Full extends Data.TaggedError("Full")<{ readonly group: number }> {}

const turns = (n: number) => Effect.repeat(Effect.yieldNow, { times: n })

/** A store that takes as long as it is told, and keeps what it was given. */
const store = () => {
  const groups: Array<ReadonlyArray<number>> = []
  let running = 0
  let most = 0
  const write = (behave: (group: number) => Effect.Effect<void, Full>) => (items: ReadonlyArray<number>) =>
    Effect.suspend(() => {
      running += 1
      most = Math.max(most, running)
      const group = groups.push([...items]) - 1
      return behave(group)
    }).pipe(Effect.ensuring(Effect.sync(() => running -= 1)))
  return { groups, write, most: () => most }
}

describe("Gather", () => {
  it.effect("P5 items of one turn share one write and one effect, which starts on the next turn", () =>
    Effect.gen(function*() {
      const { groups, write } = store()
      const gather = yield* Gather.make({ write: write(() => Effect.void) })
      const first = gather.add(1)
      const second = gather.add(2)
      assert.strictEqual(first, second)
      assert.deepStrictEqual(groups, [])
      assert.strictEqual(gather.pending(), 2)
      yield* first
      assert.deepStrictEqual(groups, [[1, 2]])
      assert.strictEqual(gather.pending(), 0)
      // what is done stays done, and can be awaited again
      yield* second
      assert.notStrictEqual(gather.add(3), first)
    }).pipe(Effect.scoped))

  it.effect("P5 what gathers during a write goes with the next one, at most `maximum` in each", () =>
    Effect.gen(function*() {
      const { groups, write, most } = store()
      const gather = yield* Gather.make({ maximum: 3, write: write(() => Effect.sleep("1 second")) })
      const first = yield* Effect.forkChild(gather.add(0))
      yield* turns(5)
      const later = [1, 2, 3, 4].map(gather.add)
      assert.deepStrictEqual(groups, [[0]])
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(first)
      assert.deepStrictEqual(groups, [[0], [1, 2, 3]])
      assert.strictEqual(later[0], later[2])
      assert.notStrictEqual(later[2], later[3])
      yield* TestClock.adjust("2 seconds")
      yield* Effect.all(later, { concurrency: "unbounded" })
      assert.deepStrictEqual(groups, [[0], [1, 2, 3], [4]])
      assert.strictEqual(most(), 1)
    }).pipe(Effect.scoped))

  it.effect("X9 random histories: each item is written once, in order, and ends as the write of its group did", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({
              items: fc.integer({ min: 1, max: 6 }),
              pause: fc.integer({ min: 0, max: 3 }),
              impatient: fc.boolean()
            }),
            { maxLength: 20 }
          ),
          fc.array(
            fc.record({
              turns: fc.integer({ min: 0, max: 5 }),
              end: fc.constantFrom("done", "failed", "died", "interrupted")
            }),
            { minLength: 1, maxLength: 8 }
          ),
          fc.integer({ min: 1, max: 5 }),
          (bursts, writes, maximum) =>
            Effect.runPromise(
              Effect.gen(function*() {
                const { groups, write, most } = store()
                const endOf = (group: number) => writes[group % writes.length]!.end
                const gather = yield* Gather.make({
                  maximum,
                  write: write((group) => {
                    const end = endOf(group)
                    return Effect.andThen(
                      turns(writes[group % writes.length]!.turns),
                      end === "done"
                        ? Effect.void
                        : end === "failed"
                        ? new Full({ group })
                        : end === "died"
                        ? Effect.die(group)
                        : Effect.interrupt
                    )
                  })
                })
                const patient: Array<readonly [number, Fiber.Fiber<void, Full>]> = []
                let next = 0
                for (const burst of bursts) {
                  for (let i = 0; i < burst.items; i++) {
                    const item = next++
                    const fiber = yield* Effect.forkChild(gather.add(item), { startImmediately: true })
                    if (burst.impatient && i % 2 === 1) yield* Fiber.interrupt(fiber)
                    else patient.push([item, fiber])
                  }
                  yield* turns(burst.pause)
                }
                for (const [item, fiber] of patient) {
                  const exit = yield* Fiber.await(fiber)
                  const group = groups.findIndex((items) => items.includes(item))
                  const end = endOf(group)
                  assert.strictEqual(Exit.isSuccess(exit), end === "done")
                  assert.strictEqual(Exit.hasInterrupts(exit), end === "interrupted")
                  assert.strictEqual(Exit.hasDies(exit), end === "died")
                  if (end === "failed") assert.deepStrictEqual(exit, Exit.fail(new Full({ group })))
                }
                while (gather.pending() > 0) yield* Effect.yieldNow
                assert.deepStrictEqual(groups.flat(), Array.from({ length: next }, (_, i) => i))
                assert.isTrue(groups.every((items) => items.length <= maximum))
                assert.isTrue(most() <= 1)
              }).pipe(Effect.scoped)
            )
        ),
        { numRuns: 300 }
      )
    ))

  it.effect("X9 closing the scope writes what has gathered and waits for it; then nothing is taken", () =>
    Effect.gen(function*() {
      const { groups, write } = store()
      const scope = yield* Scope.make()
      const gather = yield* Scope.provide(
        Gather.make({ maximum: 2, write: write(() => Effect.sleep("1 second")) }),
        scope
      )
      const waiting = [1, 2, 3].map(gather.add)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("1 second")
      assert.isUndefined(closing.pollUnsafe())
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(gather.add(4))))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      yield* Effect.all(waiting)
      assert.deepStrictEqual(groups, [[1, 2], [3]])
    }))

  it.effect("X9 a full gather holds its callers, and forgets those that give up", () =>
    Effect.gen(function*() {
      const { groups, write } = store()
      const gate = yield* Deferred.make<void>()
      const gather = yield* Gather.make({ capacity: 2, write: write(() => Deferred.await(gate)) })
      const [first] = [1, 2].map(gather.add)
      const givesUp = yield* Effect.forkChild(gather.add(3), { startImmediately: true })
      const waits = yield* Effect.forkChild(gather.add(4), { startImmediately: true })
      yield* turns(5)
      assert.strictEqual(gather.pending(), 2)
      yield* Fiber.interrupt(givesUp)
      yield* Deferred.succeed(gate, undefined)
      yield* first!
      yield* Fiber.join(waits)
      assert.deepStrictEqual(groups, [[1, 2], [4]])
    }).pipe(Effect.scoped))

  it.effect("X9 a store that answers at once does not nest its writes", () =>
    Effect.gen(function*() {
      let written = 0
      const gather = yield* Gather.make({
        write: (items: ReadonlyArray<number>) => Effect.sync(() => void (written += items.length))
      })
      yield* Effect.forEach(Array.from({ length: 20_000 }, (_, i) => i), gather.add, { discard: true })
      assert.strictEqual(written, 20_000)
    }).pipe(Effect.scoped))

  it("refuses sizes that are no counts", () => {
    const write = () => Effect.void
    assert.throws(() => Gather.make({ write, maximum: 0 }), RangeError, "Gather.make: maximum")
    assert.throws(() => Gather.make({ write, capacity: 1.5 }), RangeError, "Gather.make: capacity")
  })
})
