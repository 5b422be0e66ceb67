import { Broker, Bulkhead, Channel, type Delivery, Lanes, MemoryBroker, Outgoing, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, type Exit, Fiber, Layer, pipe } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { deliver } from "./support.ts"

const isolated = <A, E>(effect: Effect.Effect<A, E, Bulkhead.Compartments>) =>
  Effect.runPromise(effect.pipe(Effect.provide(Layer.mergeAll(Bulkhead.layer, TestClock.layer()))))

const calls = fc.array(
  fc.record({
    /** Milliseconds after the one before it. */
    after: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.integer({ min: 1, max: 10 })),
    /** Milliseconds inside; 0 ends at the call. */
    takes: fc.integer({ min: 0, max: 20 }),
    ends: fc.constantFrom("ok", "fails", "dies"),
    /** Milliseconds until it is interrupted. */
    interrupted: fc.option(fc.integer({ min: 0, max: 25 }))
  }),
  { maxLength: 40 }
)

describe("X12 a bulkhead", () => {
  it("X12 holds its limits, keeps the order of arrival, and gives every place back, whatever ends how", () =>
    fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 0, max: 6 }),
        calls,
        (limit, queue, calls) =>
          isolated(Effect.gen(function*() {
            let inside = 0
            let last = -1
            const handler = pipe(
              (message: Delivery) =>
                Effect.suspend(() => {
                  const { ends, takes } = calls[message.position]!
                  assert.isAbove(message.position, last)
                  last = message.position
                  assert.isAtMost(++inside, limit)
                  const end = ends === "ok" ? Effect.void : ends === "fails" ? Effect.fail("no") : Effect.die("no")
                  return Effect.ensuring(
                    takes === 0 ? end : Effect.andThen(Effect.sleep(takes), end),
                    Effect.sync(() => inside--)
                  )
                }),
              Bulkhead.middleware({ name: "it", limit, queue })
            )
            const fibers: Array<Fiber.Fiber<Exit.Exit<unknown, unknown>>> = []
            const compartments = yield* Bulkhead.Compartments
            for (const [position, { after, interrupted }] of calls.entries()) {
              yield* TestClock.adjust(after)
              const before = compartments.of("it", limit, queue)
              const isFull = before.running === limit && before.waiting === queue
              const refused = before.refused
              const run = yield* Effect.forkChild(Effect.exit(Effect.suspend(() => handler(deliver({ position })))), {
                startImmediately: true
              })
              fibers.push(run)
              assert.strictEqual(before.refused - refused, isFull ? 1 : 0)
              if (interrupted !== null) {
                yield* Effect.forkChild(Effect.andThen(Effect.sleep(interrupted), Fiber.interrupt(run)))
              }
              const [now] = yield* compartments.snapshot
              assert.isAtMost(now!.running, limit)
              assert.isAtMost(now!.waiting, queue)
            }
            yield* TestClock.adjust("1 minute")
            for (const fiber of fibers) assert.isDefined(fiber.pollUnsafe())
            assert.deepInclude((yield* compartments.snapshot)[0] ?? { running: 0, waiting: 0 }, {
              running: 0,
              waiting: 0
            })
          }))
      ),
      { numRuns: 300 }
    ))

  it.effect("X12 whoever is interrupted while it waits leaves its turn to the next", () =>
    Effect.gen(function*() {
      const seen: Array<number> = []
      const handler = pipe(
        (message: Delivery) => Effect.andThen(Effect.sync(() => void seen.push(message.position)), Effect.sleep(10)),
        Bulkhead.middleware({ name: "it", limit: 1, queue: 9 })
      )
      const call = (position: number) =>
        Effect.forkChild(Effect.suspend(() => handler(deliver({ position }))), { startImmediately: true })
      const first = yield* call(0)
      const second = yield* call(1)
      yield* call(2)
      second.interruptUnsafe()
      first.interruptUnsafe()
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(seen, [0, 2])
    }).pipe(Effect.provide(Bulkhead.layer)))

  it.effect("X12 is shared by name across subscriptions, refuses with a class and a time, and loses nothing", () =>
    Effect.gen(function*() {
      const memory = yield* MemoryBroker.make({ partitions: 1 })
      let inside = 0
      let most = 0
      let done = 0
      for (const channel of ["a", "b"]) {
        const handler = pipe(
          (_: Delivery) =>
            Effect.suspend(() => {
              most = Math.max(most, ++inside)
              return Effect.andThen(
                Effect.sleep(100),
                Effect.sync(() => {
                  inside--
                  done++
                })
              )
            }),
          Bulkhead.middleware({ name: "geocoder", limit: 3, queue: 2, retryAfter: "50 millis" })
        )
        yield* Subscription.run(
          Subscription.make(
            Channel.bytes(channel),
            { group: "g", lanes: Lanes.unordered(20), hold: { attempts: 1 } },
            handler
          )
        ).pipe(Effect.provideService(Broker.Broker, memory.broker))
        yield* memory.driver.publish(
          Array.from({ length: 50 }, () => new Outgoing(channel, new Uint8Array(1), undefined, {}))
        )
      }
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([most, done], [3, 100])
      assert.deepStrictEqual([memory.ends("a.dead-letters"), memory.ends("b.dead-letters")], [[0], [0]])
      const [shown] = yield* (yield* Bulkhead.Compartments).snapshot
      assert.deepInclude(shown, { name: "geocoder", limit: 3, running: 0, waiting: 0 })
      assert.isAbove(shown!.refused, 0)
    }).pipe(Effect.provide(Bulkhead.layer)))

  it.effect("X12 its refusal is throttled, and says when to come back", () =>
    Effect.gen(function*() {
      const handler = pipe((_: Delivery) => Effect.never, Bulkhead.middleware({ name: "it", limit: 1, retryAfter: 7 }))
      const call = Effect.suspend(() => handler(deliver()))
      yield* Effect.forkChild(call, { startImmediately: true })
      const refused = yield* Effect.flip(call)
      assert.deepStrictEqual([refused._tag, refused.failure, Duration.toMillis(refused.retryAfter)], [
        "BulkheadFull",
        "throttled",
        7
      ])
      assert.strictEqual(refused.message, "Bulkhead it is full: come back in 7ms")
    }).pipe(Effect.provide(Bulkhead.layer)))

  it("X12 wrong options are refused with their name", () => {
    const build = (options: Partial<Bulkhead.Options>) => () => Bulkhead.middleware({ name: "it", ...options })
    assert.throws(build({ name: "" }), RangeError, "Bulkhead: name must say what is protected")
    assert.throws(build({ limit: 0 }), RangeError, "Bulkhead: limit must be an integer from 1, got 0")
    assert.throws(build({ queue: -1 }), RangeError, "Bulkhead: queue must be an integer from 0, got -1")
    assert.throws(
      build({ retryAfter: 0 }),
      RangeError,
      "Bulkhead: retryAfter must be a finite duration from 1 ms, got 0"
    )
  })
})
