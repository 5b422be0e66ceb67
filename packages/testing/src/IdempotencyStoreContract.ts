/** The contract of every idempotency store, as one suite. */
import { assert, describe, it } from "@effect/vitest"
import { Idempotency } from "@millrace/core"
import { Effect, Exit, Layer, Random, Scope } from "effect"

/** Options of `suite`. */
export interface Options {
  /** Whether a new build of the layer finds the claims and results of an earlier one. Default: `forgets`. */
  readonly reopened?: "keeps" | "forgets" | undefined
}

type Store = Idempotency.Store["Service"]

const minute = 60_000

const bytes = (...values: ReadonlyArray<number>): Uint8Array => Uint8Array.from(values)

const unique = Effect.map(Random.nextInt, (number) => `c${number.toString(36)}`)

const claimed = (claim: Idempotency.Claim): number => {
  assert(claim._tag === "Claimed", `expected a claim, got ${claim._tag}`)
  return claim.token
}

const completed = (claim: Idempotency.Claim): ReadonlyArray<number> => {
  assert(claim._tag === "Completed", `expected a result, got ${claim._tag}`)
  return Array.from(claim.result)
}

const ask = (store: Store, key: string, lease = minute, fingerprint = "f") => store.claim({ key, fingerprint, lease })

/** Waits until a lease of `millis` has surely ended by the store's clock. */
const outlive = (millis: number) => Effect.sleep(millis + 150)

const texts = ["", " ", "é 😀 漢字", "quote \" and \\ and '", "a\nb\tc", "100%", "{tag}", "x".repeat(600)]

/**
 * Registers the suite that every `Idempotency.Store` passes, by vitest's `describe`: one owner at a time, growing tokens,
 * results kept byte for byte and for their time, and an owner whose lease has ended changes nothing.
 *
 * The layer is built once for each test, on the machine's clock. The store may hold keys of other runs.
 *
 * **Example** (your own store)
 *
 * ```ts
 * import { Idempotency } from "@millrace/core"
 * import { IdempotencyStoreContract } from "@millrace/testing"
 *
 * export const register = () => IdempotencyStoreContract.suite("memory", Idempotency.layerMemory())
 * ```
 */
export const suite = <E>(name: string, layer: Layer.Layer<Idempotency.Store, E>, options: Options = {}): void => {
  const test = <A, F>(
    title: string,
    body: (store: Store, key: string) => Effect.Effect<A, F, Scope.Scope>
  ) =>
    it.live(
      title,
      () =>
        Effect.flatMap(unique, (key) => Effect.flatMap(Idempotency.Store, (store) => body(store, key))).pipe(
          Effect.scoped,
          Effect.provide(layer)
        )
    )

  describe(`Idempotency store: ${name}`, () => {
    test("W4 W5 a key has one owner, and then one result", (store, key) =>
      Effect.gen(function*() {
        const token = claimed(yield* ask(store, key))
        const second = yield* ask(store, key)
        assert(second._tag === "Running")
        assert.isTrue(second.left > minute - 10_000 && second.left <= minute, `${second.left} ms are left`)
        assert.isTrue(yield* store.complete(key, token, bytes(0, 255, 10), minute))
        assert.deepStrictEqual(completed(yield* ask(store, key)), [0, 255, 10])
        assert.deepStrictEqual(completed(yield* ask(store, key)), [0, 255, 10])
      }))

    test(
      "W4 keys and results are kept byte for byte, an empty one and a large one too",
      (store, key) =>
        Effect.gen(function*() {
          const large = Uint8Array.from({ length: 200_000 }, (_, i) => i * 31 & 255)
          for (const [i, text] of texts.entries()) {
            const own = `${key}${text}`
            const result = i === 0 ? bytes() : i === 1 ? large : bytes(i)
            yield* store.complete(own, claimed(yield* ask(store, own)), result, minute)
          }
          for (const [i, text] of texts.entries()) {
            const expected = i === 0 ? [] : i === 1 ? Array.from(large) : [i]
            assert.deepStrictEqual(completed(yield* ask(store, `${key}${text}`)), expected)
          }
        })
    )

    test(
      "W4 the same key with another fingerprint is another request, while it runs and when it is done",
      (store, key) =>
        Effect.gen(function*() {
          const token = claimed(yield* ask(store, key, minute, "one"))
          assert.strictEqual((yield* ask(store, key, minute, "two"))._tag, "Reused")
          yield* store.complete(key, token, bytes(1), minute)
          assert.strictEqual((yield* ask(store, key, minute, "two"))._tag, "Reused")
          assert.deepStrictEqual(completed(yield* ask(store, key, minute, "one")), [1])
        })
    )

    test("W5 a claim whose lease has ended is anybody's, under a larger token, and its first owner changes nothing", (
      store,
      key
    ) =>
      Effect.gen(function*() {
        const first = claimed(yield* ask(store, key, 200))
        yield* outlive(200)
        const second = claimed(yield* ask(store, key, minute, "of somebody else"))
        assert.isAbove(second, first)
        assert.isFalse(yield* store.complete(key, first, bytes(1), minute))
        assert.isFalse(yield* store.extend(key, first, minute))
        yield* store.release(key, first)
        assert.strictEqual((yield* ask(store, key, minute, "of somebody else"))._tag, "Running")
        assert.isTrue(yield* store.complete(key, second, bytes(2), minute))
        assert.isFalse(yield* store.complete(key, first, bytes(1), minute))
        assert.deepStrictEqual(completed(yield* ask(store, key, minute, "of somebody else")), [2])
      }))

    test(
      "W5 a claim that has ended cannot be completed or extended, though nobody has taken it",
      (store, key) =>
        Effect.gen(function*() {
          const token = claimed(yield* ask(store, key, 200))
          yield* outlive(200)
          assert.isFalse(yield* store.extend(key, token, minute))
          assert.isFalse(yield* store.complete(key, token, bytes(1), minute))
          claimed(yield* ask(store, key))
        })
    )

    test("W5 a claim that is extended stays its owner's", (store, key) =>
      Effect.gen(function*() {
        // far from the lease's end each time, even on a busy machine
        const token = claimed(yield* ask(store, key, 1_500))
        for (const _ of [1, 2, 3]) {
          yield* Effect.sleep(600)
          assert.isTrue(yield* store.extend(key, token, 1_500))
        }
        assert.strictEqual((yield* ask(store, key))._tag, "Running")
        assert.isTrue(yield* store.complete(key, token, bytes(1), minute))
      }))

    test(
      "W5 a claim that is given back is anybody's at once, and is not given back twice",
      (store, key) =>
        Effect.gen(function*() {
          const first = claimed(yield* ask(store, key, minute, "one"))
          yield* store.release(key, first)
          const second = claimed(yield* ask(store, key, minute, "two"))
          assert.isAbove(second, first)
          yield* store.release(key, first)
          assert.strictEqual((yield* ask(store, key, minute, "two"))._tag, "Running")
          yield* store.complete(key, second, bytes(2), minute)
          yield* store.release(key, second)
          assert.deepStrictEqual(completed(yield* ask(store, key, minute, "two")), [2])
        })
    )

    test("W4 a result is kept for its time and no longer", (store, key) =>
      Effect.gen(function*() {
        yield* store.complete(key, claimed(yield* ask(store, key)), bytes(1), 1_000)
        assert.deepStrictEqual(completed(yield* ask(store, key)), [1])
        yield* outlive(1_000)
        claimed(yield* ask(store, key, minute, "another request"))
      }))

    test("W5 of many that ask at once for each of many keys one gets it", (store, key) =>
      Effect.gen(function*() {
        const keys = Array.from({ length: 40 }, (_, i) => `${key}-${i}`)
        const claims = yield* Effect.all(
          Array.from({ length: 10 }, () => keys.map((each) => ask(store, each))).flat(),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(claims.filter(({ _tag }) => _tag === "Claimed").length, keys.length)
        assert.strictEqual(claims.filter(({ _tag }) => _tag === "Running").length, 9 * keys.length)
        const tokens = keys.map((_, i) =>
          claims.filter((_, at) => at % keys.length === i).flatMap((claim) =>
            claim._tag === "Claimed" ? [claim.token] : []
          )[0]!
        )
        const results = yield* Effect.all(keys.map((each, i) => store.complete(each, tokens[i]!, bytes(i), minute)), {
          concurrency: "unbounded"
        })
        assert.isTrue(results.every((isKept) => isKept))
      }))

    it.live(`W4 X9 another build of the layer ${options.reopened ?? "forgets"} what this one has kept`, () =>
      Effect.gen(function*() {
        const key = yield* unique
        const open = Effect.gen(function*() {
          const scope = yield* Scope.make()
          const context = yield* Layer.buildWithScope(Layer.fresh(layer), scope)
          return { scope, context }
        })
        const use = <A, F>(body: (store: Store) => Effect.Effect<A, F>) =>
          Effect.flatMap(open, ({ context, scope }) =>
            Effect.flatMap(Idempotency.Store, body).pipe(
              Effect.provideContext(context),
              Effect.ensuring(Scope.close(scope, Exit.void))
            ))
        const token = yield* use((store) => Effect.map(ask(store, `${key}-open`), claimed))
        yield* use((store) =>
          Effect.flatMap(ask(store, key), (claim) => store.complete(key, claimed(claim), bytes(7), minute))
        )
        yield* use((store) =>
          Effect.gen(function*() {
            const [done, running] = [yield* ask(store, key), yield* ask(store, `${key}-open`)]
            if (options.reopened !== "keeps") {
              claimed(done)
              claimed(running)
              return
            }
            assert.deepStrictEqual(completed(done), [7])
            assert.strictEqual(running._tag, "Running")
            assert.isTrue(yield* store.complete(`${key}-open`, token, bytes(8), minute))
          })
        )
      }))
  })
}
