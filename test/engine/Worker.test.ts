import { type Delivery, type Driver, Eager, Lanes } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Data, Effect, Exit, Fiber, Latch, Scope } from "effect"
import { TestClock } from "effect/testing"
import { startWorker } from "./workers.ts"

class Busy extends Data.TaggedError("Busy") {
  readonly failure = "transient" as const
}

/** A handler that notes where it begins and ends, and waits in between until its message is let go. */
const gates = () => {
  const seen: Array<string> = []
  const latches = new Map<number, Latch.Latch>()
  return {
    seen,
    handle: ({ position }: Delivery) => {
      seen.push(`begin ${position}`)
      const latch = Latch.makeUnsafe(false)
      latches.set(position, latch)
      return Effect.map(latch.await, () => void seen.push(`end ${position}`))
    },
    finish: (...positions: ReadonlyArray<number>) =>
      Effect.andThen(
        Effect.sync(() => {
          for (const position of positions) latches.get(position)!.openUnsafe()
        }),
        TestClock.adjust(1)
      )
  }
}

describe("X4 X6 messages that are offered", () => {
  it.effect("X6 run in the offer itself while their handlers do not suspend, also where these take steps of a fiber", () =>
    Effect.gen(function*() {
      for (const lanes of [Lanes.partition, Lanes.key(1), Lanes.unordered(1)]) {
        let handled = 0
        let hooks = 0
        const { inFlight, messages, open, sink } = yield* startWorker((delivery) => {
          delivery.after(() => void hooks++)
          return delivery.position === 0 ? Exit.void : Effect.sync(() => void handled++)
        }, { subscription: { lanes } })
        const offered = sink.offer(open(), messages("a", "a", "a"))
        assert.isTrue(Exit.isExit(offered))
        assert.deepStrictEqual([handled, hooks, inFlight()], [2, 3, []])
      }
    }).pipe(Effect.scoped))

  it.effect("X4 one lane runs one at a time, in order; what ends at once lets the next one start", () =>
    Effect.gen(function*() {
      const { finish, handle, seen } = gates()
      const { inFlight, messages, open, sink } = yield* startWorker((delivery) =>
        delivery.position % 3 === 1 ? Effect.sync(() => void seen.push(`quick ${delivery.position}`)) : handle(delivery)
      )
      yield* sink.offer(open(), messages("a", "b", "c", "d", "e"))
      assert.deepStrictEqual(inFlight(), ["0 running, 4 behind"])
      yield* finish(0)
      assert.deepStrictEqual(inFlight(), ["2 running, 2 behind"])
      yield* finish(2)
      yield* finish(3)
      const expected = ["begin 0", "end 0", "quick 1", "begin 2", "end 2", "begin 3", "end 3", "quick 4"]
      assert.deepStrictEqual(seen, expected)
      assert.deepStrictEqual(inFlight(), [])
    }).pipe(Effect.scoped))

  it.effect("X4 as many are suspended as the lanes allow, and Lanes.partition bounds its partitions only", () =>
    Effect.gen(function*() {
      for (const [lanes, most] of [[Lanes.key(2), 2], [Lanes.unordered(3), 3]] as const) {
        const { finish, handle, seen } = gates()
        const bench = yield* startWorker(handle, { subscription: { lanes } })
        yield* bench.sink.offer(bench.open(), bench.messages("a", "b", "c", "d"))
        assert.deepStrictEqual([seen.length, bench.worker.active], [most, most])
        yield* finish(0)
        assert.deepStrictEqual([seen.length, bench.worker.active], [most + 2, most])
      }
      const { handle, seen } = gates()
      const bench = yield* startWorker(handle)
      for (let partition = 0; partition < 50; partition++) {
        yield* bench.sink.offer(bench.open(partition), bench.messages("a", "a"))
      }
      assert.deepStrictEqual([seen.length, bench.worker.active, bench.worker.oldest()?.delivery.position], [50, 50, 0])
    }).pipe(Effect.scoped))

  it.effect("X4 an offer completes when there is room again: half of what may be in flight", () =>
    Effect.gen(function*() {
      const { finish, handle } = gates()
      const { messages, open, sink, worker: { leases } } = yield* startWorker(handle, {
        subscription: { lanes: Lanes.unordered(9), inFlight: { messages: 4 } }
      })
      const lease = open()
      assert.isTrue(Exit.isExit(sink.offer(lease, messages("a", "b", "c"))))
      const waiting = sink.offer(lease, messages("d"))
      assert.isFalse(Exit.isExit(waiting))
      const offer = yield* Effect.forkChild(waiting, { startImmediately: true })
      yield* finish(3)
      assert.deepStrictEqual([offer.pollUnsafe(), leases.room.pending], [undefined, 3])
      yield* finish(1)
      yield* Fiber.join(offer)
    }).pipe(Effect.scoped))

  it.effect("X5 an offer waits while `hold.span` messages are done beyond one that is not", () =>
    Effect.gen(function*() {
      const { finish, handle } = gates()
      const { messages, open, sink } = yield* startWorker(
        (delivery) => delivery.position === 0 ? handle(delivery) : Exit.void,
        { subscription: { lanes: Lanes.unordered(9), hold: { span: 2 } } }
      )
      const offer = yield* Effect.forkChild(sink.offer(open(), messages("a", "b", "c")), { startImmediately: true })
      yield* TestClock.adjust(1)
      assert.isUndefined(offer.pollUnsafe())
      yield* finish(0)
      yield* Fiber.join(offer)
    }).pipe(Effect.scoped))

  it.effect("X4 an empty batch changes nothing, and neither do a lease that has ended and one that never began", () =>
    Effect.gen(function*() {
      let handled = 0
      const { failed, log, messages, open, sink, worker: { leases } } = yield* startWorker(() => {
        handled++
        return Exit.void
      })
      const lease = open()
      assert.isTrue(Exit.isExit(sink.offer(lease, [])))
      assert.isTrue(Exit.isExit(sink.settled(lease)))
      assert.isTrue(Exit.isExit(sink.settled({ partition: 7 })))
      yield* sink.close(lease, "revoke")
      for (const ended of [lease, { partition: 7 }]) {
        assert.isTrue(Exit.isExit(sink.offer(ended, messages("a"))))
        assert.isTrue(Exit.isExit(sink.settled(ended)))
        yield* sink.close(ended, "lost")
      }
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([handled, leases.room.pending, log, failed], [0, 0, [], []])
    }).pipe(Effect.scoped))

  it.effect("X4 under a lease that is being revoked nothing more is taken in or starts", () =>
    Effect.gen(function*() {
      const { finish, handle, seen } = gates()
      const { log, messages, open, sink, worker: { leases } } = yield* startWorker(handle, {
        subscription: { lanes: Lanes.key(4) }
      })
      const lease = open()
      yield* sink.offer(lease, messages("a", "a", "b"))
      const close = yield* Effect.forkChild(sink.close(lease, "revoke"), { startImmediately: true })
      assert.isTrue(Exit.isExit(sink.offer(lease, messages("c"))))
      assert.strictEqual(leases.room.pending, 3)
      yield* finish(0)
      yield* finish(2)
      yield* Fiber.join(close)
      assert.deepStrictEqual([seen, log], [["begin 0", "begin 2", "end 0", "end 2"], ["commit 1"]])
    }).pipe(Effect.scoped))

  it.effect("X4 a handler that drains its own subscription is the last one that starts", () =>
    Effect.gen(function*() {
      const handled: Array<number> = []
      const own = yield* startWorker(({ position }) => {
        handled.push(position)
        // the source says so first, and ends the driver before its leases
        own.worker.draining = position === 1
        return Exit.void
      })
      yield* own.sink.offer(own.open(), own.messages("a", "a", "a"))
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([handled, own.log], [[0, 1], ["commit 2"]])
    }).pipe(Effect.scoped))

  it.effect("X4 what is settled under a lease is told when all of it is done", () =>
    Effect.gen(function*() {
      const { finish, handle } = gates()
      const { log, messages, open, sink, worker } = yield* startWorker(handle)
      const lease = open()
      yield* sink.offer(lease, messages("a", "b"))
      const settled = yield* Effect.forkChild(sink.settled(lease), { startImmediately: true })
      yield* finish(0)
      assert.deepStrictEqual([settled.pollUnsafe(), log], [undefined, ["commit 1"]])
      yield* finish(1)
      yield* Fiber.join(settled)
      assert.deepStrictEqual([log, worker.settled, worker.confirmations], [["commit 1", "commit 2"], 2, 2])
    }).pipe(Effect.scoped))

  it.effect("X19 a worker begins with nothing counted", () =>
    Effect.gen(function*() {
      const { worker } = yield* startWorker(() => Exit.void)
      const { active, confirmations, deadLetters, draining, dropped, paused, settled } = worker
      assert.deepStrictEqual(
        [active, confirmations, deadLetters, dropped, settled, draining, paused, worker.oldest()],
        [0, 0, 0, 0, 0, false, false, undefined]
      )
    }).pipe(Effect.scoped))
})

describe("X4 a handler whose own lease ends in the middle of its call", () => {
  // what the broker is told of its message where the lease is revoked; what it is not told, it redelivers
  const ends = {
    well: { exit: Exit.void, told: ["settle 0 Ack"] },
    "with a defect": { exit: Exit.die("broken"), told: ["publish c.dead-letters", "settle 0 DeadLetter"] },
    "with an error": { exit: Exit.fail(new Busy()), told: ["settle 0 Release"] }
  }
  for (const how of ["revoke", "lost"] as const) {
    for (const [name, { exit, told }] of Object.entries(ends)) {
      it.effect(`X4 ${how}, and the handler ends ${name}: what follows does not start, and its driver does not wait`, () =>
        Effect.gen(function*() {
          const handled: Array<number> = []
          let ended: Driver.Lease | undefined
          let end: Fiber.Fiber<void> | undefined
          let isEarly = false
          const context = yield* Effect.context<never>()
          const { failed, inFlight, log, messages, open, sink, worker } = yield* startWorker((delivery) => {
            handled.push(delivery.position)
            if (ended === undefined) return Exit.void
            end = Effect.runForkWith(context)(sink.close(ended, how))
            // a lease that is revoked waits for the call
            isEarly = how === "revoke" && end.pollUnsafe() !== undefined
            return exit
          }, { capabilities: { delay: false }, settlement: "message", subscription: { inFlight: { messages: 1 } } })
          const other = open(1)
          ended = open()
          assert.isTrue(Exit.isExit(sink.offer(ended, messages("a", "a"))))
          ended = undefined
          yield* TestClock.adjust(1000)
          assert.isDefined(end?.pollUnsafe())
          assert.deepStrictEqual([handled, isEarly, failed, inFlight()], [[0], false, [], []])
          assert.deepStrictEqual(log, how === "lost" ? [] : [...told, "settle 1 Release"])
          assert.strictEqual(worker.settled, how === "lost" || name === "with an error" ? 0 : 1)
          yield* sink.offer(other, messages("b"))
          yield* TestClock.adjust(1)
          assert.deepStrictEqual(handled, [0, 2])
        }).pipe(Effect.scoped))
    }
  }
})

describe("X4 a pause", () => {
  it.effect("X4 starts nothing more, takes nothing in and pauses the drivers, until it is resumed", () =>
    Effect.gen(function*() {
      const { finish, handle, seen } = gates()
      const { log, messages, open, sink, worker } = yield* startWorker(handle)
      const lease = open()
      yield* sink.offer(lease, messages("a", "b"))
      worker.pause()
      assert.isTrue(worker.paused)
      const offer = yield* Effect.forkChild(sink.offer(lease, messages("c")), { startImmediately: true })
      yield* finish(0)
      assert.deepStrictEqual([seen, log, offer.pollUnsafe()], [
        ["begin 0", "end 0"],
        ["pause 0", "commit 1"],
        undefined
      ])
      worker.resume()
      assert.isFalse(worker.paused)
      yield* Fiber.join(offer)
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([seen.at(-1), log.at(-1)], ["begin 1", "resume 0"])
    }).pipe(Effect.scoped))

  it.effect("X4 by a handler: it is the last one that starts", () =>
    Effect.gen(function*() {
      for (const lanes of [Lanes.partition, Lanes.unordered(4)]) {
        const handled: Array<number> = []
        const own = yield* startWorker(({ position }) => {
          handled.push(position)
          if (position === 1) own.worker.pause()
          return Exit.void
        }, { subscription: { lanes } })
        yield* Effect.forkChild(own.sink.offer(own.open(), own.messages("a", "b", "c", "d")), {
          startImmediately: true
        })
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(handled, [0, 1])
        own.worker.resume()
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(handled, [0, 1, 2, 3])
      }
    }).pipe(Effect.scoped))
})

describe("F18 X6 the scopes of messages", () => {
  it.effect("X6 messages whose handlers open nothing share one, until one of them suspends", () =>
    Effect.gen(function*() {
      const scopes: Array<Scope.Scope> = []
      const { messages, open, sink } = yield* startWorker(({ position }) => {
        // a handler finds the same at its call and later
        const called = Eager.service(Scope.Scope)
        return Effect.gen(function*() {
          scopes.push(yield* Effect.service(Scope.Scope))
          assert.strictEqual(yield* called, scopes.at(-1))
          if (position === 2) yield* Effect.sleep(10)
        })
      }, { subscription: { lanes: Lanes.unordered(4) } })
      yield* sink.offer(open(), messages("a", "b", "c", "d", "e"))
      yield* TestClock.adjust(10)
      const [a, b, c, d, e] = scopes
      assert.deepStrictEqual([a === b, b === c, c === d, d === e], [true, true, false, true])
    }).pipe(Effect.scoped))

  it.effect("F18 each message that opens something has its own, closed before the message is settled", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const clock = yield* Clock.Clock
      const { failed, messages, open, sink } = yield* startWorker(
        ({ position }) => {
          const closed = Effect.sync(() => void seen.push(`closed ${position} at ${clock.currentTimeMillisUnsafe()}`))
          const handled = position === 1 ? Effect.sleep(10) : Effect.void
          return Effect.andThen(Effect.addFinalizer(() => closed), handled)
        },
        {
          subscription: { lanes: Lanes.unordered(4) },
          settlement: "message",
          lease: (lease) => ({
            ...lease,
            settle: (batch) => {
              seen.push(...batch.map(({ delivery }) => `settled ${delivery.position}`))
              return Exit.void
            }
          })
        }
      )
      yield* sink.offer(open(), messages("a", "b", "c"))
      yield* TestClock.adjust(10)
      assert.deepStrictEqual([seen, failed], [
        ["closed 0 at 0", "closed 2 at 0", "settled 0", "settled 2", "closed 1 at 10", "settled 1"],
        []
      ])
    }).pipe(Effect.scoped))
})
