/** The promises of every store of claims. */
import { assert, describe, it } from "@effect/vitest"
import { Claims, ClaimStore } from "@millrace/claims"
import { Data, DateTime, Deferred, Duration, Effect, Fiber, type Layer, Stream } from "effect"
import { bytesOf, decode, encode, failureOf, referenceOf } from "./support.ts"

/** How the tests reach behind a store. */
export interface Options {
  /** Replaces or removes the bytes under a key, as a fault does. */
  readonly replace: (key: string, body: Uint8Array | undefined) => Effect.Effect<unknown, unknown, ClaimStore.Store>
  /** Whether the store removes bodies by `prune`. */
  readonly prunes: boolean
  /** Lists all that is stored for keys of a day, drafts and parts too. */
  readonly count?: (day: string) => Effect.Effect<number, unknown>
}

class Broken extends Data.TaggedError("Broken") {}

let count = 0
const keyOf = (day = "2026-12-01") => `${day}/test-${process.pid}-${Date.now()}-${count++}`

const collected = <E, R>(stream: Stream.Stream<Uint8Array, E, R>) => Stream.mkUint8Array(stream)

const openAll = (key: string, offset: number) =>
  Effect.scoped(Effect.gen(function*() {
    const store = yield* ClaimStore.Store
    const body = yield* store.open(key, offset)
    return body === undefined ? undefined : yield* collected(body)
  }))

const same = (actual: Uint8Array | undefined, expected: Uint8Array, what = "the body") =>
  assert.isTrue(
    actual !== undefined && Buffer.compare(Buffer.from(actual), Buffer.from(expected)) === 0,
    `${what} has ${actual?.length} bytes and is not the one of ${expected.length} bytes that was written`
  )

const kib = 1024

/** Registers the suite, by vitest's `describe`. */
export const suite = <E>(
  name: string,
  layer: () => Layer.Layer<ClaimStore.Store, E>,
  options: Options
): void => {
  const test = <A, F>(
    title: string,
    body: (store: ClaimStore.Store["Service"]) => Effect.Effect<A, F, ClaimStore.Store>
  ) =>
    it.live(
      title,
      () => Effect.suspend(() => Effect.provide(Effect.flatMap(ClaimStore.Store, body), layer())),
      30_000
    )

  describe(`claim store: ${name}`, () => {
    test("X13 a body is read as it was written, whole, from an offset, and cut", (store) =>
      Effect.gen(function*() {
        for (const size of [0, 1, 255, 256 * kib, 256 * kib + 1, 1500 * kib]) {
          const key = keyOf()
          const body = bytesOf(size, size)
          yield* store.write(key, body)
          same(yield* store.read(key, size + 1), body, `${size} bytes`)
          same(yield* store.read(key, Math.floor(size / 2)), body.subarray(0, Math.floor(size / 2)), "the half")
          same(yield* openAll(key, 0), body, "the stream")
          for (const offset of [1, 256 * kib, size]) {
            if (offset <= size) same(yield* openAll(key, offset), body.subarray(offset), `from ${offset} of ${size}`)
          }
        }
      }))

    test("X13 a body that is absent is no failure", (store) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* store.read(keyOf(), 10), undefined)
        assert.strictEqual(yield* openAll(keyOf(), 0), undefined)
        assert.strictEqual(yield* openAll(keyOf(), 5), undefined)
      }))

    test("X13 a stream of any parts becomes one body, and one that fails leaves nothing", (store) =>
      Effect.gen(function*() {
        const [whole, failed, none] = [keyOf(), keyOf(), keyOf()]
        const body = bytesOf(900 * kib + 7)
        const parts = [body.subarray(0, 1), body.subarray(1, 1), body.subarray(1, 300 * kib), body.subarray(300 * kib)]
        yield* store.writeStream(whole, Stream.fromIterable(parts))
        same(yield* store.read(whole, body.length + 1), body)
        yield* store.writeStream(none, Stream.empty)
        same(yield* store.read(none, 1), new Uint8Array(0))
        const error = yield* Effect.flip(
          store.writeStream(failed, Stream.concat(Stream.fromIterable(parts), Stream.fail(new Broken())))
        )
        assert.strictEqual(error._tag, "Broken")
        assert.strictEqual(yield* store.read(failed, 1), undefined)
      }))

    test("X13 a stream that is interrupted leaves nothing", (store) =>
      Effect.gen(function*() {
        const key = keyOf("2026-11-05")
        const reached = yield* Deferred.make<void>()
        const rest = Stream.fromEffect(Effect.andThen(Deferred.succeed(reached, undefined), Effect.never))
        const fiber = yield* Effect.forkChild(
          store.writeStream(key, Stream.concat(Stream.make(bytesOf(600 * kib)), rest))
        )
        yield* Deferred.await(reached)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* store.read(key, 1), undefined)
        if (options.count !== undefined) assert.strictEqual(yield* options.count("2026-11-05"), 0)
      }))

    test("X13 writers of one body do not disturb each other or its readers", (store) =>
      Effect.gen(function*() {
        const key = keyOf("2026-11-06")
        const body = bytesOf(700 * kib)
        yield* Effect.forEach([1, 2, 3], () => store.write(key, body), { concurrency: 3 })
        const read = Effect.flatMap(store.read(key, body.length + 1), (found) => Effect.sync(() => same(found, body)))
        yield* Effect.all([store.write(key, body), read, store.write(key, body), read, read], { concurrency: 5 })
        yield* read
        if (options.count === undefined) return
        // the same as of one writer
        yield* store.write(keyOf("2026-11-07"), body)
        assert.strictEqual(yield* options.count("2026-11-06"), yield* options.count("2026-11-07"))
      }))

    test("X13 a changed, truncated or longer body is corrupt, a removed one is missing, then gone", () =>
      Effect.gen(function*() {
        const claims = Claims.transform({ threshold: 10, grace: "1 minute" })
        const body = bytesOf(5000, Date.now())
        const encoded = yield* encode(claims, body)
        const reference = referenceOf(encoded)
        same(yield* decode(claims, encoded), body)
        const changed = body.slice()
        changed[2500] = changed[2500]! ^ 1
        for (const wrong of [changed, body.subarray(0, 4999), Buffer.concat([body, Buffer.alloc(1)])]) {
          yield* options.replace(reference.key, wrong)
          assert.deepStrictEqual(yield* failureOf(decode(claims, encoded)), ["poison", "ClaimCorrupt"])
        }
        yield* options.replace(reference.key, body)
        same(yield* decode(claims, encoded), body)
        yield* options.replace(reference.key, undefined)
        assert.deepStrictEqual(yield* failureOf(decode(claims, encoded)), ["dependency", "ClaimMissing"])
        const later = Claims.transform({ threshold: 10, grace: 0 })
        assert.deepStrictEqual(yield* failureOf(decode(later, encoded)), ["permanent", "ClaimMissing"])
      }))

    test("X13 a stream of a claim is verified to its end", (store) =>
      Effect.gen(function*() {
        const body = bytesOf(1200 * kib, Date.now())
        const claim = yield* Claims.put("videos", Stream.make(body.subarray(0, 500_000), body.subarray(500_000)))
        assert.strictEqual(claim.size, body.length)
        same(yield* collected(Claims.stream(claim)), body)
        same(yield* collected(Claims.stream(claim, { offset: 700_000 })), body.subarray(700_000))
        const key = claim.reference!.key
        const changed = body.slice()
        changed[0] = changed[0]! ^ 1
        for (const wrong of [changed, body.subarray(0, -1), Buffer.concat([body, Buffer.alloc(1)])]) {
          yield* options.replace(key, wrong)
          const error = yield* Effect.flip(Stream.runDrain(Claims.stream(claim)))
          assert.strictEqual(error._tag, "ClaimCorrupt")
          if (wrong.length === body.length) continue
          // without a digest, the length is verified
          const partial = yield* Effect.flip(Stream.runDrain(Claims.stream(claim, { offset: 700_000 })))
          assert.strictEqual(partial._tag, "ClaimCorrupt")
        }
        yield* options.replace(key, undefined)
        const error = yield* Effect.flip(Stream.runDrain(Claims.stream(claim)))
        assert.deepInclude(error, { _tag: "ClaimMissing", failure: "dependency" })
        assert.isAbove(store.name.length, 0)
      }))

    if (options.prunes) {
      test("X13 bodies of old days are removed, and those of later days stay", (store) =>
        Effect.gen(function*() {
          const [old, edge, young] = [keyOf("2001-01-01"), keyOf("2001-01-02"), keyOf("2001-01-03")]
          for (const key of [old, edge, young]) yield* store.write(key, bytesOf(300 * kib))
          const before = DateTime.toEpochMillis(DateTime.makeUnsafe("2001-01-02T23:59:59Z"))
          assert.isAtLeast(yield* store.prune!(before), 1)
          const left = yield* Effect.forEach([old, edge, young], (key) =>
            Effect.map(store.read(key, 1), (b) => b?.length))
          assert.deepStrictEqual(left, [undefined, 1, 1])
          if (options.count !== undefined) {
            assert.strictEqual(yield* options.count("2001-01-01"), 0)
          }
          yield* ClaimStore.prune(Duration.toMillis("3650 days"))
          assert.strictEqual(yield* store.read(young, 1), undefined)
        }))
    }
  })
}
