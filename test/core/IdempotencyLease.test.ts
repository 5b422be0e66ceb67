import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber } from "effect"
import { type Delivery, Idempotency } from "@millrace/core"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const request = (): Delivery => deliver({ headers: { "idempotency-key": "a" } })

type Store = Idempotency.Store["Service"]

/** A store of one claim, whose calls a test replaces. */
const store = (calls: Partial<Store>): Store => ({
  claim: () => Exit.succeed({ _tag: "Claimed", token: 1 }),
  complete: () => Exit.succeed(true),
  extend: () => Exit.succeed(true),
  release: () => Exit.void,
  ...calls
})

const down = Exit.fail(new Idempotency.IdempotencyUnavailable({ message: "No store answers." }))

const lease = 3000

/** Runs a handler that takes so long, and says when it began, was interrupted or ended, and how its chain ended and when. */
const run = (calls: Partial<Store>, takes: number, horizon = 60_000) =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const began = clock.currentTimeMillisUnsafe()
    const since = () => clock.currentTimeMillisUnsafe() - began
    let interrupted: number | undefined
    const chain = Idempotency.middleware({ lease })((_: Delivery) =>
      Effect.onInterrupt(Effect.sleep(takes), () =>
        Effect.sync(() => {
          interrupted = since()
        }))
    )
    const fiber = yield* Effect.forkChild(
      runChain(chain, request()).pipe(
        Effect.provideService(Idempotency.Store, store(calls)),
        Effect.map((exit) => ({ exit, at: since() }))
      )
    )
    yield* TestClock.adjust(horizon)
    const ended = fiber.pollUnsafe()
    yield* Fiber.interrupt(fiber)
    return { interrupted, ended: ended !== undefined && Exit.isSuccess(ended) ? ended.value : undefined }
  })

const tagOf = (exit: Exit.Exit<unknown, { readonly _tag?: unknown }> | Exit.Exit<unknown, unknown> | undefined) =>
  exit !== undefined && Exit.isFailure(exit) && exit.cause.reasons[0]?._tag === "Fail"
    ? (exit.cause.reasons[0].error as { readonly _tag?: unknown })._tag
    : exit?._tag

describe("Idempotency, leases", () => {
  for (
    const [title, extend] of [
      ["fails", () => down],
      ["has no answer", () => Effect.never],
      ["has no answer and cannot be interrupted", () => Effect.uninterruptible(Effect.never)],
      ["dies", () => Effect.die("no")],
      ["throws", () => {
        throw new Error("no")
      }]
    ] as const
  ) {
    it.effect(`W5 a handler whose heartbeat ${title} is interrupted before its lease ends, and its message comes back`, () =>
      Effect.gen(function*() {
        const { ended, interrupted } = yield* run({ extend }, 3_600_000)
        assert.isDefined(interrupted)
        assert.isAtLeast(interrupted!, lease * 2 / 3)
        assert.isBelow(interrupted!, lease)
        assert.strictEqual(tagOf(ended?.exit), "IdempotencyLost")
        assert.isBelow(ended!.at, lease)
      }))

    it.effect(`W5 one heartbeat that ${title} costs nothing`, () =>
      Effect.gen(function*() {
        let calls = 0
        const { ended, interrupted } = yield* run(
          {
            extend: (): Effect.Effect<boolean, Idempotency.IdempotencyUnavailable> =>
              ++calls === 3 ? extend() : Exit.succeed(true)
          },
          20_000
        )
        assert.isUndefined(interrupted)
        assert.strictEqual(ended?.exit._tag, "Success")
      }))
  }

  it.effect("W5 two heartbeats in a row that nobody hears cost nothing", () =>
    Effect.gen(function*() {
      let calls = 0
      const { ended, interrupted } = yield* run(
        { extend: () => ++calls % 3 === 0 ? Exit.succeed(true) : Effect.never },
        20_000
      )
      assert.isUndefined(interrupted)
      assert.strictEqual(ended?.exit._tag, "Success")
    }))

  it.effect(
    "W5 whatever a store answers and when, no handler runs on beside a claim that another could take",
    () =>
      Effect.promise(() =>
        fc.assert(
          fc.asyncProperty(
            fc.nat(2500),
            fc.array(fc.record({ kind: fc.constantFrom("yes", "late", "fail", "never"), after: fc.nat(1500) }), {
              maxLength: 12
            }),
            async (claimTakes, answers) => {
              await Effect.runPromise(
                Effect.gen(function*() {
                  const clock = yield* Clock.Clock
                  const now = () => clock.currentTimeMillisUnsafe()
                  // by the store's clock: a call is counted when it is made or when it is answered; the worst is when it is made
                  let until = 0
                  let calls = 0
                  const { interrupted } = yield* run({
                    claim: () =>
                      Effect.suspend(() => {
                        until = now() + lease
                        return Effect.as(Effect.sleep(claimTakes), { _tag: "Claimed", token: 1 } as const)
                      }),
                    extend: () =>
                      Effect.suspend(() => {
                        const { after, kind } = answers[calls++ % Math.max(1, answers.length)] ??
                          { kind: "never", after: 0 }
                        if (kind === "fail") return Effect.andThen(Effect.sleep(after), down)
                        if (kind === "never") return Effect.never
                        if (now() >= until) return Exit.succeed(false)
                        until = now() + lease
                        return Effect.as(Effect.sleep(kind === "late" ? after : 0), true)
                      })
                  }, 20_000)
                  if (interrupted !== undefined) assert.isAtMost(interrupted, until)
                  else assert.isAtLeast(until, 20_000)
                }).pipe(Effect.provide(TestClock.layer()))
              )
            }
          ),
          { numRuns: 100 }
        )
      ),
    60_000
  )

  it.effect("W5 a claim that ended while its answer was on the way is not worked under", () =>
    Effect.gen(function*() {
      let runs = 0
      const chain = Idempotency.middleware({ lease })((_: Delivery) => Effect.sync(() => void runs++))
      const fiber = yield* Effect.forkChild(
        runChain(chain, request()).pipe(
          Effect.provideService(
            Idempotency.Store,
            store({ claim: () => Effect.as(Effect.sleep(lease), { _tag: "Claimed", token: 1 } as const) })
          )
        )
      )
      yield* TestClock.adjust(lease)
      assert.strictEqual(tagOf(yield* Fiber.join(fiber)), "IdempotencyLost")
      assert.strictEqual(runs, 0)
    }))

  it.effect("W5 a completion without an answer ends with the lease; its message comes back", () =>
    Effect.gen(function*() {
      const { ended, interrupted } = yield* run({ extend: () => Effect.never, complete: () => Effect.never }, 100)
      assert.isUndefined(interrupted)
      assert.strictEqual(tagOf(ended?.exit), "IdempotencyLost")
      assert.isAtMost(ended!.at, lease)
    }))

  it.effect("W5 a release without an answer holds a failed message no longer than a lease", () =>
    Effect.gen(function*() {
      for (const later of [0, 100]) {
        const chain = Idempotency.middleware({ lease })((_: Delivery) =>
          later === 0 ? Effect.fail("own") : Effect.andThen(Effect.sleep(later), Effect.fail("own"))
        )
        const fiber = yield* Effect.forkChild(
          runChain(chain, request()).pipe(
            Effect.provideService(Idempotency.Store, store({ release: () => Effect.uninterruptible(Effect.never) }))
          )
        )
        yield* TestClock.adjust(lease + later)
        assert.deepStrictEqual<unknown>(fiber.pollUnsafe(), Exit.succeed(Exit.fail("own")))
      }
    }))

  it.effect("W5 what is interrupted before its first step gives its key back", () =>
    Effect.gen(function*() {
      const released: Array<number> = []
      const message = request()
      const chain = Idempotency.middleware()((_: Delivery) => Effect.never)
      const fiber = yield* Effect.forkChild(
        Effect.andThen(
          Effect.yieldNow,
          Effect.flatMap(
            Effect.suspend(() => {
              // the chain is called, and interrupted before what it answered is run
              const called = chain(message)
              return Effect.succeed(called)
            }),
            () => Effect.never
          )
        ).pipe(
          Effect.provideService(
            Idempotency.Store,
            store({
              release: (_, token) => {
                released.push(token)
                return Exit.void
              }
            })
          )
        )
      )
      yield* TestClock.adjust(1)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(released, [])
      for (const hook of message.hooks ?? []) yield* hook(Exit.interrupt(), undefined) ?? Exit.void
      assert.deepStrictEqual(released, [1])
    }))
})

describe("Idempotency.layerMemory, when the wall clock is set", () => {
  for (const [title, jump] of [["forward", 86_400_000], ["back", -86_400_000]] as const) {
    it.effect(`W5 a day ${title}, no claim and no result ends, and none stays longer`, () =>
      Effect.gen(function*() {
        const clock = yield* Clock.Clock
        let set = 0
        const warped: Clock.Clock = { ...clock, currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + set }
        yield* Effect.gen(function*() {
          const keys = yield* Idempotency.Store
          const claim = (key: string) => Effect.map(keys.claim({ key, fingerprint: "", lease }), ({ _tag }) => _tag)
          const done = yield* keys.claim({ key: "done", fingerprint: "", lease })
          if (done._tag !== "Claimed") return assert.fail(done._tag)
          yield* keys.complete("done", done.token, new Uint8Array(0), 10_000)
          yield* claim("running")
          set = jump
          assert.deepStrictEqual([yield* claim("done"), yield* claim("running")], ["Completed", "Running"])
          yield* TestClock.adjust(lease)
          assert.deepStrictEqual([yield* claim("done"), yield* claim("running")], ["Completed", "Claimed"])
          yield* TestClock.adjust(10_000)
          assert.strictEqual(yield* claim("done"), "Claimed")
        }).pipe(Effect.provide(Idempotency.layerMemory()), Effect.provideService(Clock.Clock, warped))
      }))
  }
})
