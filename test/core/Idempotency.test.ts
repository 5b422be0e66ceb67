import { assert, describe, it } from "@effect/vitest"
import { type Delivery, Idempotency, Outcome, Retry, Settlement } from "@millrace/core"
import { IdempotencyStoreContract } from "@millrace/testing"
import { type Duration, Effect, Exit, Fiber, Layer, pipe, Schema } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const Answer = Schema.Struct({ id: Schema.String, at: Schema.Date })

const request = (key: string | undefined, body: unknown = {}, more: Parameters<typeof deliver>[0] = {}): Delivery =>
  deliver({ body, headers: key === undefined ? {} : { "idempotency-key": key }, ...more })

const failureOf = (exit: Exit.Exit<unknown, unknown>) => {
  assert(Exit.isFailure(exit))
  const reason = exit.cause.reasons[0]
  assert(reason?._tag === "Fail")
  return reason.error
}

const outcomeOf = (exit: Exit.Exit<unknown, unknown>) =>
  Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag

/** A handler that counts its runs, and what it is wrapped by. */
const counted = (takes: Duration.Input = 0) => {
  const seen: Array<string> = []
  const handler = (message: Delivery) =>
    Effect.andThen(
      Effect.sleep(takes),
      Effect.sync(() => {
        seen.push(message.headers["idempotency-key"] ?? "none")
        return { id: `run ${seen.length}`, at: new Date(seen.length) }
      })
    )
  return { seen, handler }
}

const memory = Idempotency.layerMemory()

IdempotencyStoreContract.suite("memory", memory)

describe("Idempotency", () => {
  it.effect("W4 a request that comes again gets the first answer, of its type, and does not run", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted()
      const chain = Idempotency.middleware({ answer: Answer })(handler)
      const first = yield* runChain(chain, request("a"))
      const again = yield* runChain(chain, request("a"))
      const other = yield* runChain(chain, request("b"))
      assert.deepStrictEqual(first, Exit.succeed({ id: "run 1", at: new Date(1) }))
      assert.deepStrictEqual(again, first)
      assert.deepStrictEqual(other, Exit.succeed({ id: "run 2", at: new Date(2) }))
      assert.deepStrictEqual(seen, ["a", "b"])
    }).pipe(Effect.provide(memory)))

  it.effect("W4 a key means one thing in one channel, group and caller; quotes are no part of it", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted()
      const chain = Idempotency.middleware({
        answer: Answer,
        caller: (message: Delivery) => message.headers["tenant"] ?? ""
      })(handler)
      const places = [{}, { channel: "others" }, { group: "shipping" }, { headers: { tenant: "7" } }]
      for (const _ of [1, 2]) {
        for (const { headers, ...place } of places) {
          yield* runChain(chain, deliver({ ...place, headers: { "idempotency-key": "k", ...headers } }))
          yield* runChain(chain, deliver({ ...place, headers: { "idempotency-key": "\"k\"", ...headers } }))
        }
      }
      assert.strictEqual(seen.length, places.length)
    }).pipe(Effect.provide(memory)))

  it.effect("W4 the same key with another body is refused for good, and says so", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted()
      const chain = Idempotency.middleware({ answer: Answer })(handler)
      yield* runChain(chain, request("a", { amount: 1 }))
      const exit = yield* runChain(chain, request("a", { amount: 2 }))
      assert.deepInclude(failureOf(exit), { _tag: "IdempotencyRefused", reason: "reused", failure: "validation" })
      assert.strictEqual(outcomeOf(exit), "DeadLetter")
      assert.deepStrictEqual(seen, ["a"])
    }).pipe(Effect.provide(memory)))

  it.effect("W4 without a key a request is refused, or runs each time where it is told to; message-id stands in", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted()
      const strict = Idempotency.middleware({ answer: Answer })(handler)
      assert.deepInclude(failureOf(yield* runChain(strict, request(undefined))), { reason: "missing" })
      for (const key of ["", "x".repeat(256)]) {
        assert.deepInclude(failureOf(yield* runChain(strict, request(key))), { reason: "invalid" })
      }
      const loose = Idempotency.middleware({ answer: Answer, missing: "run" })(handler)
      yield* runChain(loose, request(undefined))
      yield* runChain(loose, request(undefined))
      assert.strictEqual(seen.length, 2)
      const identified = () => deliver({ headers: { "message-id": "m" } })
      yield* runChain(strict, identified())
      yield* runChain(strict, identified())
      assert.strictEqual(seen.length, 3)
    }).pipe(Effect.provide(memory)))

  it.effect("W5 beside one that runs a second is told when to come back, and one that waits gets its answer", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted("5 seconds")
      const refusing = Idempotency.middleware({ answer: Answer, lease: "30 seconds" })(handler)
      const waiting = Idempotency.middleware({ answer: Answer, running: "wait" })(handler)
      const first = yield* Effect.forkChild(runChain(refusing, request("a")))
      yield* Effect.yieldNow
      const refused = yield* runChain(refusing, request("a"))
      assert.deepInclude(failureOf(refused), { _tag: "IdempotencyRunning", failure: "conflict" })
      assert.strictEqual(outcomeOf(refused), "Retry")
      const second = yield* Effect.forkChild(runChain(waiting, request("a")))
      yield* TestClock.adjust("6 seconds")
      assert.deepStrictEqual(yield* Fiber.join(second), yield* Fiber.join(first))
      assert.deepStrictEqual(seen, ["a"])
    }).pipe(Effect.provide(memory)))

  it.effect("W5 a claim with no millisecond left is waited for, too", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted()
      const store = yield* Idempotency.Store
      let asked = 0
      const chain = Idempotency.middleware({ answer: Answer, running: "wait" })(handler)
      const fiber = yield* Effect.forkChild(
        runChain(chain, request("a")).pipe(Effect.provideService(Idempotency.Store, {
          ...store,
          claim: (claim) => ++asked < 3 ? Exit.succeed({ _tag: "Running", left: 0 }) : store.claim(claim)
        }))
      )
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(fiber)))
      assert.deepStrictEqual([asked, seen], [3, ["a"]])
    }).pipe(Effect.provide(memory)))

  it.effect("W5 waiting ends with its time", () =>
    Effect.gen(function*() {
      const { handler } = counted("1 hour")
      const chain = Idempotency.middleware({ answer: Answer, running: "wait", maximumWait: "3 seconds" })(handler)
      yield* Effect.forkChild(runChain(chain, request("a")))
      yield* Effect.yieldNow
      const second = yield* Effect.forkChild(runChain(chain, request("a")))
      yield* TestClock.adjust("2999 millis")
      assert.isUndefined(second.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.deepInclude(failureOf(yield* Fiber.join(second)), { _tag: "IdempotencyRunning" })
    }).pipe(Effect.provide(memory)))

  it.effect("W5 a handler keeps its claim for as long as it takes; one that has lost it is interrupted", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted("5 minutes")
      const store = yield* Idempotency.Store
      const chain = Idempotency.middleware({ answer: Answer, lease: "3 seconds" })(handler)
      const first = yield* Effect.forkChild(runChain(chain, request("a")))
      yield* TestClock.adjust("299 seconds")
      assert.deepInclude(failureOf(yield* runChain(chain, request("a"))), { _tag: "IdempotencyRunning" })
      yield* TestClock.adjust("1 second")
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(first)))
      let interrupted = 0
      const stuck = Idempotency.middleware({ lease: "3 seconds" })(() =>
        Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
      )
      const lost = yield* Effect.forkChild(
        runChain(stuck, request("b")).pipe(Effect.provideService(Idempotency.Store, {
          ...store,
          extend: () => Exit.succeed(false)
        }))
      )
      yield* TestClock.adjust("1 second")
      assert.deepInclude(failureOf(yield* Fiber.join(lost)), { _tag: "IdempotencyLost", failure: "conflict" })
      assert.deepStrictEqual([interrupted, seen.length], [1, 1])
    }).pipe(Effect.provide(memory)))

  it.effect("W5 an answer that comes after the claim has ended is not passed on", () =>
    Effect.gen(function*() {
      const store = yield* Idempotency.Store
      const chain = Idempotency.middleware()(() => Exit.void)
      const exit = yield* runChain(chain, request("a")).pipe(
        Effect.provideService(Idempotency.Store, { ...store, complete: () => Exit.succeed(false) })
      )
      assert.deepInclude(failureOf(exit), { _tag: "IdempotencyLost" })
    }).pipe(Effect.provide(memory)))

  it.effect("W5 what fails, dies, is interrupted or is to come again gives its key back", () =>
    Effect.gen(function*() {
      const endings: Record<string, Effect.Effect<unknown, string>> = {
        fails: Effect.fail("no"),
        dies: Effect.die("no"),
        "fails later": Effect.andThen(Effect.sleep(1), Effect.fail("no")),
        interrupted: Effect.interrupt,
        retry: Effect.succeed(Outcome.Retry()),
        release: Effect.succeed(Outcome.Release),
        dead: Effect.succeed(Outcome.DeadLetter())
      }
      for (const [key, ending] of Object.entries(endings)) {
        let runs = 0
        const chain = Idempotency.middleware({ answer: Schema.Unknown })(() =>
          Effect.suspend(() => {
            runs++
            return ending
          })
        )
        for (const _ of [1, 2]) {
          const fiber = yield* Effect.forkChild(runChain(chain, request(key)))
          yield* TestClock.adjust("1 second")
          yield* Fiber.await(fiber)
        }
        assert.strictEqual(runs, 2, key)
      }
      const slow = Idempotency.middleware()(() => Effect.asVoid(Effect.sleep("1 hour")))
      const fiber = yield* Effect.forkChild(runChain(slow, request("cut")))
      yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      const quick = Idempotency.middleware()(() => Exit.void)
      assert.deepStrictEqual<unknown>(yield* runChain(quick, request("cut")), Exit.void)
    }).pipe(Effect.provide(memory)))

  it.effect("W4 F11 attempts of a Retry on either side run until one succeeds, and no duplicate after it", () =>
    Effect.gen(function*() {
      for (const outside of [true, false]) {
        let runs = 0
        const flaky = () => Effect.suspend(() => ++runs < 3 ? Effect.fail(new Trouble()) : Effect.void)
        const retry = Retry.middleware({ schedule: Retry.exponential({ times: 5, base: 1 }) })
        const chain = outside
          ? pipe(flaky, Idempotency.middleware(), retry)
          : pipe(flaky, retry, Idempotency.middleware())
        for (const _ of [1, 2]) {
          const fiber = yield* Effect.forkChild(runChain(chain, request(`k${outside}`)))
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual<unknown>(yield* Fiber.join(fiber), Exit.void)
        }
        assert.strictEqual(runs, 3)
      }
    }).pipe(Effect.provide(memory)))

  it.effect("W4 what was dropped on purpose is done, too", () =>
    Effect.gen(function*() {
      let runs = 0
      const chain = Idempotency.middleware()(() =>
        Effect.sync(() => {
          runs++
          return Outcome.Reject("not ours")
        })
      )
      assert.strictEqual(outcomeOf(yield* runChain(chain, request("a"))), "Reject")
      assert.strictEqual(outcomeOf(yield* runChain(chain, request("a"))), "Ack")
      assert.strictEqual(runs, 1)
    }).pipe(Effect.provide(memory)))

  it.effect("W5 while the store is out of reach requests fail, or run all the same, as it was chosen", () => {
    const down = Exit.fail(new Idempotency.IdempotencyUnavailable({ message: "No store answers." }))
    const store = { claim: () => down, complete: () => down, extend: () => down, release: () => down }
    return Effect.gen(function*() {
      const { handler, seen } = counted()
      const closed = yield* runChain(Idempotency.middleware({ answer: Answer })(handler), request("a"))
      assert.deepInclude(failureOf(closed), { _tag: "IdempotencyUnavailable", failure: "dependency" })
      assert.strictEqual(seen.length, 0)
      const open = Idempotency.middleware({ answer: Answer, unavailable: "run" })(handler)
      assert.isTrue(Exit.isSuccess(yield* runChain(open, request("a"))))
      assert.strictEqual(seen.length, 1)
    }).pipe(Effect.provideService(Idempotency.Store, store))
  })

  it.effect("W5 however requests of a key interleave, one of them succeeds and every other gets its answer", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.array(
            fc.record({ at: fc.nat(2000), takes: fc.nat(1500), key: fc.nat(2), fails: fc.boolean() }),
            { minLength: 1, maxLength: 12 }
          ),
          async (requests) => {
            const succeeded = new Map<number, number>()
            const answers = new Map<number, Set<unknown>>()
            const run = Effect.gen(function*() {
              const fibers = yield* Effect.forEach(requests, ({ at, fails, key, takes }, i) =>
                Effect.forkChild(Effect.andThen(
                  Effect.sleep(at),
                  runChain(
                    Idempotency.middleware({ answer: Schema.Number, running: "wait", lease: 300 })(() =>
                      Effect.andThen(
                        Effect.sleep(takes),
                        fails ? Effect.fail("own") : Effect.sync(() => {
                          succeeded.set(key, (succeeded.get(key) ?? 0) + 1)
                          return i
                        })
                      )
                    ),
                    request(`k${key}`)
                  ).pipe(Effect.map((exit) => {
                    if (Exit.isSuccess(exit)) {
                      answers.set(key, (answers.get(key) ?? new Set()).add(exit.value))
                    }
                  }))
                )))
              yield* TestClock.adjust("1 minute")
              yield* Effect.forEach(fibers, Fiber.join)
            })
            await Effect.runPromise(run.pipe(Effect.provide(Layer.merge(TestClock.layer(), memory))))
            for (const count of succeeded.values()) {
              assert.strictEqual(count, 1)
            }
            for (const found of answers.values()) {
              assert.strictEqual(found.size, 1)
            }
          }
        ),
        { numRuns: 100 }
      )
    ))

  it.effect("W5 P15 a memory store stays as large as it was allowed to, and keeps the newest results", () =>
    Effect.gen(function*() {
      const { handler, seen } = counted()
      const chain = Idempotency.middleware({ answer: Answer })(handler)
      for (let i = 0; i < 30; i++) yield* runChain(chain, request(`k${i}`))
      for (let i = 20; i < 30; i++) yield* runChain(chain, request(`k${i}`))
      assert.strictEqual(seen.length, 30)
      yield* runChain(chain, request("k0"))
      assert.strictEqual(seen.length, 31)
    }).pipe(Effect.provide(Idempotency.layerMemory({ capacity: 10 }))))

  it("wrong options are refused when the middleware is built", () => {
    assert.throws(
      () => Idempotency.middleware({ lease: 99 }),
      RangeError,
      "Idempotency: lease must be a finite duration from 100 ms, got 99"
    )
    assert.throws(() => Idempotency.middleware({ keep: 0 }), RangeError, "Idempotency: keep must be")
    assert.throws(
      () => Idempotency.layerMemory({ capacity: 0 }),
      RangeError,
      "capacity must be an integer from 1 to 1073741824, got 0"
    )
  })
})

class Trouble extends Error {
  readonly _tag = "Trouble"
  readonly failure = "transient" as const
}
