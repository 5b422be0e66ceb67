import { type Envelope, type Message, RateLimit, Settlement } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Duration, Effect, Exit, Fiber, Layer, Metric, pipe } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { deliver, runChain } from "./support.ts"

const memory = Effect.provide(RateLimit.layerMemory())
const pass = (_message: Envelope) => Exit.succeed("passed")
const passed = (exit: Exit.Exit<unknown, unknown>) => exit._tag === "Success"

const refusalOf = (exit: Exit.Exit<unknown, unknown>): RateLimit.RateLimited => {
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit
  assert.instanceOf(error, RateLimit.RateLimited)
  return error
}

const algorithms = ["gcra", "tokenBucket", "fixedWindow", "slidingCounter", "slidingLog", "concurrency"] as const

describe("several policies of one message", () => {
  const calls = { name: "calls", by: "key", limit: 3, window: "1 minute", algorithm: "slidingLog" } as const
  const bytes = {
    name: "bytes",
    limit: 10,
    window: "10 seconds",
    cost: (message: Message<Uint8Array>) => message.payload.length
  } as const

  it.effect("W7 are spent all or none, and the refusal names those that it is over and when it passes", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (message: Message<Uint8Array>) => Effect.succeed(message.payload.length),
        RateLimit.middleware({ policies: [calls, bytes] })
      )
      const send = (key: string, length: number) =>
        Effect.suspend(() => runChain(handler, deliver({ key, body: new Uint8Array(length) })))
      assert.isTrue(passed(yield* send("a", 4)))
      const heavy = refusalOf(yield* send("a", 7))
      assert.deepStrictEqual([heavy.violated, heavy.key, heavy.limit], [["bytes"], "orders", 10])
      assert.strictEqual(Duration.toMillis(heavy.retryAfter), 1000)
      // the refused one took no call: two are left
      assert.isTrue(passed(yield* send("a", 1)))
      assert.isTrue(passed(yield* send("a", 1)))
      const often = refusalOf(yield* send("a", 1))
      assert.deepStrictEqual([often.violated, Duration.toMillis(often.retryAfter)], [["calls"], 60_000])
      const both = refusalOf(yield* send("a", 9))
      assert.deepStrictEqual(both.violated, ["calls", "bytes"])
      assert.deepStrictEqual(both.policies.map(({ name }) => name), ["calls", "bytes"])
      assert.strictEqual(Duration.toMillis(both.retryAfter), 60_000)
      // nor any bytes
      assert.isTrue(passed(yield* send("b", 4)))
      const outcome = Settlement.ofExit({ entries: {}, table: Settlement.table }, Exit.fail(both))
      assert.isTrue(outcome._tag === "Retry" && Duration.toMillis(outcome.after ?? 0) === 60_000)
    }).pipe(memory))

  it.effect("W7 refused, a message passes after exactly what it was told, and not a millisecond earlier", () => {
    const policies = fc.array(
      fc.record({
        algorithm: fc.constantFrom(...algorithms),
        limit: fc.integer({ min: 1, max: 5 }),
        window: fc.integer({ min: 1, max: 1000 })
      }),
      { minLength: 1, maxLength: 4 }
    )
    const history = fc.array(fc.tuple(fc.integer({ min: 0, max: 400 }), fc.nat(), fc.constantFrom(0, 50)), {
      maxLength: 30
    })
    return Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(policies, history, fc.constantFrom(0, 0, 200), (policies, history, within) =>
          Effect.gen(function*() {
            const store = yield* RateLimit.Store
            const made = policies.map((each, i) =>
              RateLimit.policy(`p${i}`, each)
            )
            yield* TestClock.setTime(1_700_000_000_123)
            for (const [gap, some, within] of history) {
              yield* TestClock.adjust(gap)
              const asked = made.filter((_, i) =>
                (some >> i & 1) === 1
              )
              if (asked.length > 0) {
                yield* store.take(asked.map((policy) => ({ policy, key: "", cost: 1 })), within)
              }
            }
            const all = made.map((policy) => ({ policy, key: "", cost: 1 }))
            const first = yield* store.take(all, within)
            if (first.isAdmitted) return
            yield* TestClock.adjust(first.wait - 1)
            const early = yield* store.take(all, within)
            assert.deepStrictEqual([early.isAdmitted, early.wait], [false, 1])
            yield* TestClock.adjust(1)
            assert.isTrue((yield* store.take(all, within)).isAdmitted)
          }).pipe(memory, Effect.provide(TestClock.layer()), Effect.runPromise)),
        { numRuns: 500 }
      )
    )
  })

  it.effect("W7 a delay waits for the latest of all turns", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const handler = RateLimit.middleware({
        policies: [{ name: "a", limit: 1 }, { name: "b", limit: 1, window: "3 seconds" }],
        onExceeded: "delay",
        maximumDelay: "10 seconds"
      })((_: Envelope) => Effect.sync(() => clock.currentTimeMillisUnsafe()))
      const run = Effect.suspend(() => runChain(handler, deliver()))
      const fibers = yield* Effect.forEach([1, 2, 3], () => Effect.forkChild(run, { startImmediately: true }))
      yield* TestClock.adjust("6 seconds")
      const turns = yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(turns, [0, 3000, 6000].map((at) => Exit.succeed(at)))
    }).pipe(memory))

  it("W7 options that cannot be are refused when the middleware is built", () => {
    const wrong = (options: RateLimit.PoliciesOptions<Envelope>, text: string) =>
      assert.throws(() => RateLimit.middleware(options), RangeError, text)
    wrong({ policies: [] }, "RateLimit: policies must hold one or more")
    wrong(
      { policies: [{ name: "a" }, { name: "a", limit: 2 }] },
      "RateLimit: each of policies must have another name, got a twice"
    )
    wrong({ policies: [{ name: "a", cost: 101 }] }, "RateLimit: cost of a must be an integer from 0 to 100, got 101")
    wrong(
      { policies: [{ name: "a", burst: 2, algorithm: "slidingLog" }] },
      "RateLimit: burst belongs to gcra and tokenBucket"
    )
    wrong(
      { policies: [{ name: "a", limit: 100_001, algorithm: "concurrency" }] },
      "RateLimit: limit must be at most 100000"
    )
    wrong({ policies: [{ name: "a", limit: 1e12, window: "1 day" }] }, "RateLimit: burst and limit times")
    wrong(
      { policies: [{ name: "a", limit: 1e12, window: "1 day", algorithm: "fixedWindow" }] },
      "RateLimit: limit times"
    )
  })

  it.effect("W7 a cost out of range is a defect, which comes to the dead letters and does not wait for ever", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware({ limit: 5, cost: (message) => message.key?.length ?? 0 })(pass)
      assert.isTrue(passed(yield* runChain(handler, deliver({ key: "12345" }))))
      const exit = yield* runChain(handler, deliver({ key: "123456" }))
      assert.isTrue(Exit.hasDies(exit))
      assert.strictEqual(Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag, "DeadLetter")
    }).pipe(memory))
})

describe("places of a concurrency policy", () => {
  const places = { algorithm: "concurrency", limit: 2, window: "30 seconds" } as const

  it.effect("W7 are given back when the handler has ended: done, failed, a defect, interrupted", () =>
    Effect.gen(function*() {
      const endings: ReadonlyArray<Effect.Effect<unknown, string>> = [
        Effect.void,
        Effect.fail("no"),
        Effect.die("bug"),
        Effect.suspend(() => {
          throw new Error("bug")
        }),
        Effect.sleep("1 second"),
        Effect.andThen(Effect.yieldNow, Effect.fail("late")),
        Effect.andThen(Effect.yieldNow, Effect.die("late"))
      ]
      let ending: Effect.Effect<unknown, string> = Effect.void
      const handler = RateLimit.middleware(places)((_: Envelope): Effect.Effect<unknown, string> => ending)
      const run = Effect.suspend(() => runChain(handler, deliver()))
      for (ending of [...endings, ...endings]) {
        const fibers = yield* Effect.forEach([1, 2], () => Effect.forkChild(run, { startImmediately: true }))
        yield* TestClock.adjust("1 second")
        for (const fiber of fibers) {
          const exit = yield* Fiber.join(fiber)
          assert.isFalse(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof RateLimit.RateLimited)
        }
      }
      ending = Effect.never
      const fibers = yield* Effect.forEach([1, 2], () => Effect.forkChild(run, { startImmediately: true }))
      assert.strictEqual(refusalOf(yield* run).violated[0], "channel")
      yield* Fiber.interruptAll(fibers)
      ending = Effect.void
      assert.isTrue(passed(yield* run))
      assert.isTrue(passed(yield* run))
    }).pipe(memory))

  it.effect("W7 are kept while the handler runs, however long, and not waited for", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware({ ...places, limit: 1, onExceeded: "delay", maximumDelay: "1 hour" })((
        _: Envelope
      ) => Effect.sleep("10 minutes"))
      const run = Effect.suspend(() => runChain(handler, deliver()))
      const fiber = yield* Effect.forkChild(run, { startImmediately: true })
      for (let i = 0; i < 59; i++) {
        yield* TestClock.adjust("10 seconds")
        assert.isAbove(Duration.toMillis(refusalOf(yield* run).retryAfter), 19_000)
      }
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(passed(yield* Fiber.join(fiber)))
    }).pipe(memory))
})

describe("a store that cannot be asked", () => {
  const down = new RateLimit.RateLimitUnavailable({ message: "down" })
  const failing = Layer.succeed(RateLimit.Store, {
    take: () => Effect.fail(down),
    renew: () => Effect.fail(down),
    release: () => Effect.fail(down)
  })

  it.effect("F12 X9 lets messages pass where that is wanted, and counts them", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware({ name: "open", unavailable: "pass" })(pass)
      const counter = Metric.withAttributes(RateLimit.unavailable, { limit: "open" })
      const before = (yield* Metric.value(counter)).count
      for (let i = 0; i < 3; i++) assert.isTrue(passed(yield* runChain(handler, deliver())))
      assert.strictEqual(Number((yield* Metric.value(counter)).count) - Number(before), 3)
      const closed = RateLimit.middleware({ name: "closed" })(pass)
      assert.deepStrictEqual<unknown>(yield* runChain(closed, deliver()), Exit.fail(down))
    }).pipe(Effect.provide(failing)))
})

describe("refusals remembered", () => {
  interface Asked {
    readonly store: RateLimit.Store["Service"]
    readonly asked: () => number
  }
  const both = (run: (plain: Asked, cached: Asked) => Effect.Effect<void, RateLimit.RateLimitUnavailable>) =>
    Effect.gen(function*() {
      const open = (isCached: boolean) =>
        Effect.gen(function*() {
          let asked = 0
          const memory = Context.get(yield* Layer.build(Layer.fresh(RateLimit.layerMemory())), RateLimit.Store)
          const counted = Layer.succeed(RateLimit.Store, {
            ...memory,
            take: (charges, within) => {
              asked++
              return memory.take(charges, within)
            }
          })
          const layer = isCached ? Layer.provide(RateLimit.denying({ capacity: 2 }), counted) : counted
          return { store: Context.get(yield* Layer.build(Layer.fresh(layer)), RateLimit.Store), asked: () => asked }
        })
      yield* run(yield* open(false), yield* open(true))
    }).pipe(Effect.scoped)

  it.effect("F12 change no answer, and a flood asks the store once", () =>
    both((plain, cached) =>
      Effect.gen(function*() {
        const policy = RateLimit.policy("flood", { limit: 2 })
        const take = ({ store }: Asked) => Effect.suspend(() => store.take([{ policy, key: "one", cost: 1 }], 0))
        for (let i = 0; i < 2000; i++) {
          assert.deepStrictEqual(yield* take(cached), yield* take(plain))
          if (i % 10 === 0) yield* TestClock.adjust(10)
        }
        assert.strictEqual(plain.asked(), 2000)
        assert.isAtMost(cached.asked(), 12)
      })
    ))

  it.effect("F12 tell a larger cost its own wait, and a smaller one whether it passes", () =>
    both((plain, cached) =>
      Effect.gen(function*() {
        const policy = RateLimit.policy("costs", { limit: 3 })
        for (const cost of [2, 2, 2, 3, 3, 1, 1, 2, 3]) {
          const charges = [{ policy, key: "one", cost }]
          assert.deepStrictEqual(yield* cached.store.take(charges, 0), yield* plain.store.take(charges, 0))
        }
      })
    ))

  it.effect("F12 change no answer, whatever is asked of whatever algorithm", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.constantFrom(...algorithms),
          fc.array(
            fc.tuple(
              fc.constantFrom(0, 0, 1, 20, 40),
              fc.constantFrom("a", "b", "c"),
              fc.constantFrom(0, 1, 1, 2),
              fc.constantFrom(0, 0, 100)
            ),
            { maxLength: 60 }
          ),
          (algorithm, calls) =>
            both((plain, cached) =>
              Effect.gen(function*() {
                const policy = RateLimit.policy("any", { algorithm, limit: 3, window: 120 })
                for (const [gap, key, cost, within] of calls) {
                  yield* TestClock.adjust(gap)
                  const charges = [{ policy, key, cost }]
                  const [one, other] = [
                    yield* cached.store.take(charges, within),
                    yield* plain.store.take(charges, within)
                  ]
                  assert.strictEqual(one.isAdmitted, other.isAdmitted)
                  if (one.isAdmitted) assert.strictEqual(one.wait, other.wait)
                  // others, who take less or wait, may have spent since
                  else assert.isAtMost(one.wait, other.wait)
                }
              })
            ).pipe(Effect.provide(TestClock.layer()), Effect.runPromise)
        ),
        { numRuns: 300 }
      )
    ))
})
