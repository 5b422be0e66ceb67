/** The contract of every rate limit store, as one suite. */
import { assert, describe, it } from "@effect/vitest"
import { RateLimit } from "@millrace/core"
import { Effect, Exit, Layer, Random, Scope } from "effect"
import { TestClock } from "effect/testing"
import { Reference } from "./internal/rateLimitModel.ts"

/** Options of `suite`. */
export interface Options {
  /**
   * The clock by which the store decides. `effect`: Effect's clock, which the suite moves. `own`: the store's clock, and the
   * suite waits. Default: `own`.
   */
  readonly clock?: "effect" | "own" | undefined
  /** The number of random programs that are compared with the model; an integer from 1. Default: 30. */
  readonly programs?: number | undefined
  /** Whether a new build of the layer finds the counts of an earlier one. Default: `forgets`. */
  readonly reopened?: "keeps" | "forgets" | undefined
}

type Store = RateLimit.Store["Service"]

const algorithms: ReadonlyArray<RateLimit.Algorithm> = [
  "gcra",
  "tokenBucket",
  "fixedWindow",
  "slidingCounter",
  "slidingLog",
  "concurrency"
]

const unique = Effect.map(Random.nextInt, (number) => `c${number.toString(36)}`)

const integer = (from: number, to: number) => Random.nextIntBetween(from, to, { halfOpen: false })

const oneOf = <A>(values: ReadonlyArray<A>) => Effect.map(integer(0, values.length - 1), (i) => values[i]!)

/** A policy so small that a few calls reach its limit. */
const randomPolicy = (name: string, algorithm: RateLimit.Algorithm) =>
  Effect.gen(function*() {
    const limit = yield* integer(1, 6)
    const window = yield* oneOf([3, 10, 50, 70])
    const burst = algorithm === "gcra" || algorithm === "tokenBucket" ? yield* integer(1, 6) : undefined
    return RateLimit.policy(name, { algorithm, limit, window, burst })
  })

const texts = [
  "",
  " ",
  "a",
  "A",
  "é 😀 漢字",
  "quote \" and \\ and '",
  "a\nb",
  "a\tb",
  "100%",
  "{tag}",
  "x".repeat(600)
]

const places = (policy: RateLimit.Policy): boolean => policy.algorithm === "concurrency"

/** The comparable parts of a decision: its lease is the store's own, and the model uses its time. */
const told = (decision: RateLimit.Decision) => [decision.isAdmitted, decision.wait, decision.verdicts]

/**
 * Registers the suite that every `RateLimit.Store` passes, by vitest's `describe`: each algorithm, alone and with others,
 * decides call by call as a model does that tries every millisecond; waits are exact; a call is counted by all policies or
 * by none; concurrent calls get no more than the limit; and places are released, renewed, and freed when their time is over.
 *
 * The layer is built once for each test. The store may hold keys of other runs.
 *
 * **Example** (your own store)
 *
 * ```ts
 * import { RateLimit } from "@millrace/core"
 * import { RateLimitStoreContract } from "@millrace/testing"
 *
 * export const register = () =>
 *   RateLimitStoreContract.suite("memory", RateLimit.layerMemory(), { clock: "effect" })
 * ```
 */
export const suite = <E>(name: string, layer: Layer.Layer<RateLimit.Store, E>, options: Options = {}): void => {
  const isOurs = options.clock === "effect"
  // Effect's clock advances only here
  const pass = (millis: number) => isOurs ? TestClock.adjust(millis) : Effect.sleep(millis)
  const run = <A, F>(body: (store: Store, key: string) => Effect.Effect<A, F, Scope.Scope>) => () =>
    Effect.flatMap(unique, (key) => Effect.flatMap(RateLimit.Store, (store) => body(store, key))).pipe(
      Effect.scoped,
      Effect.provide(layer),
      (effect) => isOurs ? Effect.andThen(TestClock.setTime(1_700_000_000_000), effect) : effect
    )
  const test = <A, F>(title: string, body: (store: Store, key: string) => Effect.Effect<A, F, Scope.Scope>) =>
    isOurs ? it.effect(title, run(body)) : it.live(title, run(body))

  const program = (store: Store, key: string, of: ReadonlyArray<RateLimit.Algorithm>) =>
    Effect.gen(function*() {
      const reference = new Reference()
      const policies = yield* Effect.forEach(of, (algorithm, i) => randomPolicy(`${key}${i}`, algorithm))
      const held: Array<{ charges: ReadonlyArray<RateLimit.Charge>; lease: number }> = []
      const history: Array<string> = policies.map((policy) => JSON.stringify(policy))
      for (let step = 0; step < (isOurs ? 60 : 25); step++) {
        const gap = yield* oneOf([0, 0, 0, 1, 7, 30, 90])
        if (gap > 0) yield* pass(gap)
        const some = yield* oneOf(held)
        const kind = yield* integer(0, 9)
        if (some !== undefined && kind === 0) {
          held.splice(held.indexOf(some), 1)
          yield* store.release(some.charges, some.lease)
          reference.release(some.charges, some.lease)
          history.push(`release ${some.lease}`)
          continue
        }
        // a store with its own clock reveals its time only in decisions
        if (some !== undefined && kind === 1 && isOurs) {
          const now = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
          const isHeld = yield* store.renew(some.charges, some.lease)
          assert.strictEqual(
            isHeld,
            reference.renew(some.charges, some.lease, now),
            `renew, after\n${history.join("\n")}`
          )
          continue
        }
        const asked = yield* Effect.filter(policies, () => Effect.map(integer(0, 3), (no) => no > 0))
        const own = yield* oneOf(["a", "b"])
        const charges = yield* Effect.forEach(asked.length === 0 ? policies : asked, (policy) =>
          Effect.map(oneOf([0, 1, 1, 1, 2, policy.burst, policy.burst + 1]), (cost) => ({ policy, key: own, cost })))
        const within = yield* oneOf([0, 0, 5, 100])
        const decision = yield* store.take(charges, within)
        const expected = reference.take(charges, within, decision.at, decision.lease)
        history.push(`${decision.at % 100_000} ${
          charges.map(({ cost, policy }) => `${policy.name}:${cost}`).join(" ")
        } of ${own} within ${within}: ${decision.isAdmitted}`)
        assert.deepStrictEqual(told(decision), told(expected), `after\n${history.join("\n")}`)
        const isPlaced = decision.isAdmitted && charges.some(({ policy }) =>
          places(policy)
        )
        assert.strictEqual(decision.lease > 0, isPlaced, "a lease where places were taken")
        if (isPlaced) {
          held.push({ charges, lease: decision.lease })
        }
      }
    })

  const programs = options.programs ?? 30
  const compared = (title: string, of: Effect.Effect<ReadonlyArray<RateLimit.Algorithm>>) =>
    test(
      title,
      (store, key) =>
        Effect.forEach(Array.from({ length: programs }, (_, i) => i), (i) =>
          Effect.flatMap(of, (algorithms) => program(store, `${key}-${i}`, algorithms)), {
          concurrency: isOurs ? 1 : 8
        })
    )

  describe(`Rate limit store: ${name}`, () => {
    for (const algorithm of algorithms) {
      compared(`W6 W7 F12 ${algorithm} answers as its model, call by call`, Effect.succeed([algorithm]))
    }
    compared(
      "W7 several policies answer as their models do together, and are spent all or none",
      Effect.flatMap(integer(2, 4), (count) => Effect.all(Array.from({ length: count }, () => oneOf(algorithms))))
    )

    for (const algorithm of algorithms) {
      test(
        `W7 F12 ${algorithm}: calls that come together get the limit, not one more and not one less`,
        (store, key) =>
          Effect.gen(function*() {
            const policy = RateLimit.policy(key, { algorithm, limit: 20, window: "10 minutes" })
            // a store that answers synchronously acts when it is called
            const take = Effect.suspend(() => store.take([{ policy, key, cost: 1 }], 0))
            const decisions = yield* Effect.all(Array.from({ length: 60 }, () => take), { concurrency: "unbounded" })
            assert.strictEqual(decisions.filter(({ isAdmitted }) => isAdmitted).length, 20)
          })
      )
    }

    test("W7 a refusal by one of many policies spends nothing of the others", (store, key) =>
      Effect.gen(function*() {
        const charges = algorithms.map((algorithm) => ({
          policy: RateLimit.policy(`${key}${algorithm}`, { algorithm, limit: 3, window: "10 minutes" }),
          key,
          cost: 1
        }))
        const none = { policy: RateLimit.policy(`${key}none`, { limit: 1, window: "10 minutes" }), key, cost: 1 }
        assert.isTrue((yield* store.take([none], 0)).isAdmitted)
        for (let i = 0; i < 5; i++) {
          const refused = yield* store.take([...charges, none], 0)
          assert.isFalse(refused.isAdmitted)
          assert.deepStrictEqual(refused.verdicts.map(({ wait }) => wait > 0), [...charges.map(() => false), true])
        }
        const free = yield* store.take(charges, 0)
        assert.isTrue(free.isAdmitted)
        assert.deepStrictEqual(free.verdicts.map(({ remaining }) => remaining), charges.map(() => 2))
      }))

    test(
      "W7 a place is free when it is given back, twice is harmless, and others keep theirs",
      (store, key) =>
        Effect.gen(function*() {
          const policy = RateLimit.policy(key, { algorithm: "concurrency", limit: 2, window: "10 minutes" })
          const charges = [{ policy, key, cost: 1 }]
          // a store that answers synchronously acts when it is called
          const take = Effect.suspend(() => store.take(charges, 60_000))
          const first = yield* take
          const second = yield* take
          assert.isFalse((yield* take).isAdmitted, "nobody waits for a place")
          yield* store.release(charges, first.lease)
          yield* store.release(charges, first.lease)
          assert.isTrue((yield* take).isAdmitted)
          assert.isFalse((yield* take).isAdmitted)
          assert.isTrue(yield* store.renew(charges, second.lease))
          assert.isFalse(yield* store.renew(charges, first.lease))
        })
    )

    test(
      "W7 a place without a sign of life is free when its time is over, and one with it is not",
      (store, key) =>
        Effect.gen(function*() {
          const policy = RateLimit.policy(key, { algorithm: "concurrency", limit: 2, window: 600 })
          const charges = [{ policy, key, cost: 1 }]
          // a store that answers synchronously acts when it is called
          const take = Effect.suspend(() => store.take(charges, 0))
          const [silent, alive] = [yield* take, yield* take]
          for (let i = 0; i < 6; i++) {
            yield* pass(200)
            assert.isTrue(yield* store.renew(charges, alive.lease))
          }
          assert.isFalse(yield* store.renew(charges, silent.lease))
          assert.isTrue((yield* take).isAdmitted)
          assert.isFalse((yield* take).isAdmitted)
        })
    )

    test("W6 keys are counted apart, whatever their text", (store, key) =>
      Effect.gen(function*() {
        for (const algorithm of algorithms) {
          const policy = RateLimit.policy(key, { algorithm, limit: 1, window: "10 minutes" })
          for (const text of texts) assert.isTrue((yield* store.take([{ policy, key: text, cost: 1 }], 0)).isAdmitted)
          for (const text of texts) assert.isFalse((yield* store.take([{ policy, key: text, cost: 1 }], 0)).isAdmitted)
        }
      }))

    test("W6 the largest limits and windows are counted exactly", (store, key) =>
      Effect.gen(function*() {
        const policy = RateLimit.policy(key, { limit: 999_983, window: "1 day", burst: 999_983 })
        const charge = (cost: number) => store.take([{ policy, key, cost }], 0)
        assert.isTrue((yield* charge(999_982)).isAdmitted)
        const full = yield* charge(999_983)
        assert.isFalse(full.isAdmitted)
        // 999,982 messages take 86,399,913.6 ms to refill, and some have passed
        assert.isAtMost(full.wait, 86_399_914)
        assert.isAtLeast(full.wait, 86_399_914 - (isOurs ? 0 : 60_000))
      }))

    if (options.reopened === "keeps") {
      it.live("W6 F12 another build of the layer goes on with the same counts", () =>
        Effect.gen(function*() {
          const key = yield* unique
          const policies = algorithms.map((algorithm) =>
            RateLimit.policy(key + algorithm, { algorithm, limit: 1, window: "10 minutes" })
          )
          const once = Effect.scoped(Effect.gen(function*() {
            const scope = yield* Scope.Scope
            const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
            const taken = yield* Effect.exit(Effect.provideContext(
              Effect.flatMap(RateLimit.Store, (store) =>
                Effect.forEach(policies, (policy) => store.take([{ policy, key, cost: 1 }], 0))),
              context
            ))
            assert.isTrue(Exit.isSuccess(taken))
            return taken._tag === "Success"
              ? taken.value.map(({ isAdmitted }) =>
                isAdmitted
              )
              : []
          }))
          assert.deepStrictEqual(yield* once, policies.map(() => true))
          assert.deepStrictEqual(yield* once, policies.map(() => false))
        }))
    }
  })
}
