import { Encryption, Keys, Kms } from "@millrace/crypto"
import { it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer, Redacted } from "effect"
import { TestClock } from "effect/testing"
import { assert, describe } from "vitest"
import { bytesOf, orders, sealed, secretOf, within } from "./support.ts"

const body = bytesOf("{\"amount\":12}")
const encryption = Encryption.make()
const seal = Effect.suspend(() => encryption.seal(body, orders))
const open = (envelope: Uint8Array) => Effect.suspend(() => encryption.open(envelope, orders))

/** A service whose data keys are numbered: the wrapped one is its number, key and context. */
const service = () => {
  const state = {
    calls: [] as Array<string>,
    error: undefined as Kms.KmsError | undefined,
    wait: undefined as Duration.Input | undefined,
    plaintext: 32
  }
  const key = (number: number) => Redacted.make(new Uint8Array(state.plaintext).fill(number))
  const answer = <A>(call: string, make: () => A): Effect.Effect<A, Kms.KmsError> =>
    Effect.suspend(() => {
      state.calls.push(call)
      const { error } = state
      const result = error === undefined ? Effect.sync(make) : Effect.fail(error)
      return state.wait === undefined ? result : Effect.delay(result, state.wait)
    })
  const port: Kms.KmsPort = {
    name: "the test's KMS",
    generate: (name, context) =>
      answer(`generate ${name}`, () => {
        const number = state.calls.length
        return { plaintext: key(number), wrapped: bytesOf(`${number} ${name} ${JSON.stringify(context)}`) }
      }),
    unwrap: (name, wrapped, context) =>
      Effect.flatMap(answer(`unwrap ${name}`, () => Buffer.from(wrapped).toString()), (text) => {
        const number = Number(text.split(" ")[0])
        return text === `${number} ${name} ${JSON.stringify(context)}`
          ? Effect.succeed(key(number))
          : Effect.fail(new Kms.KmsError({ reason: "Ciphertext", message: "refuses the wrapped key" }))
      })
  }
  const layer = (options: Partial<Kms.Options<"a" | "b">> = {}) =>
    Layer.provide(
      Kms.layer({ keys: { a: "alias/a", b: "alias/b" }, writing: "a", ...options }),
      Layer.succeed(Kms.Service, port)
    )
  return { state, layer, port }
}

const throttled = new Kms.KmsError({ reason: "Throttled", message: "throttles the calls" })
const tagOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.match(effect, { onFailure: (error) => error._tag, onSuccess: () => "opened" })

describe("data keys of a KMS", () => {
  it.effect("F10 one serves many messages, in memory and for readers elsewhere", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      const envelopes = yield* Effect.provide(Effect.all(Array.from({ length: 50 }, () => seal)), layer())
      assert.deepStrictEqual(state.calls, ["generate alias/a"])
      yield* Effect.gen(function*() {
        for (const each of envelopes) assert.deepStrictEqual(yield* open(each), Buffer.from(body))
        assert.deepStrictEqual(state.calls, ["generate alias/a", "unwrap alias/a"])
        assert.isTrue(Exit.isExit(yield* Effect.sync(() => encryption.open(envelopes[0]!, orders))))
      }).pipe(Effect.provide(layer()))
      // the writer reads its own without a call
      yield* Effect.provide(Effect.flatMap(seal, open), layer())
      assert.deepStrictEqual(state.calls.slice(2), ["generate alias/a"])
    }))

  it.effect("F10 one call is in flight for each, and the interruption of one caller ends none", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      state.wait = "1 second"
      yield* Effect.gen(function*() {
        const first = yield* Effect.forkChild(seal)
        const others = yield* Effect.forkChild(Effect.all(Array.from({ length: 20 }, () => seal), { concurrency: 20 }))
        yield* TestClock.adjust("500 millis")
        yield* Fiber.interrupt(first)
        yield* TestClock.adjust("500 millis")
        const envelopes = yield* Fiber.join(others)
        assert.deepStrictEqual(state.calls, ["generate alias/a"])
        // a reader elsewhere
        yield* Effect.gen(function*() {
          const reading = yield* Effect.forkChild(
            Effect.all(envelopes.map((each) => tagOf(open(each))), { concurrency: "unbounded" })
          )
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(new Set(yield* Fiber.join(reading)), new Set(["opened"]))
          assert.deepStrictEqual(state.calls, ["generate alias/a", "unwrap alias/a"])
        }).pipe(Effect.provide(layer()))
      }).pipe(Effect.provide(layer()))
    }))

  it.effect("F10 end after messages, bytes or time, whichever is first", () =>
    Effect.gen(function*() {
      const saltsOf = (
        options: Kms.DataKeyOptions,
        work: Effect.Effect<ReadonlyArray<Uint8Array>, unknown, Keys.Ring>
      ) =>
        Effect.map(Effect.provide(work, service().layer({ dataKey: options })), (envelopes) => {
          const counts = new Map<string, number>()
          for (const each of envelopes) {
            // the salt stands behind magic, id and wrapped key
            const length = Buffer.from(each).readUInt16BE(7)
            const salt = Buffer.from(each).toString("hex", 9 + length, 41 + length)
            counts.set(salt, (counts.get(salt) ?? 0) + 1)
          }
          return [...counts.values()]
        })
      const many = (count: number) =>
        Effect.all(Array.from({ length: count }, () => Effect.tap(seal, () => TestClock.adjust(1))))
      assert.deepStrictEqual(yield* saltsOf({ messages: 1 }, many(3)), [1, 1, 1])
      // 13 bytes each: the third does not fit, and the next key has been asked for before
      assert.isAtMost(Math.max(...yield* saltsOf({ bytes: 30 }, many(8))), 2)
      assert.isAtMost(Math.max(...yield* saltsOf({ messages: 10 }, many(35))), 10)
      // larger than the limit: a key of its own
      assert.deepStrictEqual(yield* saltsOf({ bytes: 5 }, many(3)), [1, 1, 1])
      const apart = Effect.gen(function*() {
        const first = yield* seal
        yield* TestClock.adjust("59999 millis")
        const second = yield* seal
        yield* TestClock.adjust("1 millis")
        return [first, second, yield* seal]
      })
      assert.deepStrictEqual(yield* saltsOf({ age: "1 minute" }, apart), [2, 1])
    }))

  it.effect("F10 none encrypts beyond its end, when there is no next one", () =>
    Effect.gen(function*() {
      const ends = (dataKey: Kms.DataKeyOptions, between: Duration.Input) => {
        const { layer, state } = service()
        return Effect.gen(function*() {
          const answers: Array<string> = []
          for (let i = 0; i < 4; i++) {
            answers.push(yield* tagOf(seal))
            state.error = throttled
            yield* TestClock.adjust(between)
          }
          return answers
        }).pipe(Effect.provide(layer({ dataKey })))
      }
      const three = ["opened", "opened", "opened", "KeysUnavailable"]
      assert.deepStrictEqual(yield* ends({ messages: 3 }, 1), three)
      assert.deepStrictEqual(yield* ends({ bytes: 3 * body.length }, 1), three)
      assert.deepStrictEqual(yield* ends({ age: "30 seconds" }, "10 seconds"), three)
    }))

  it.effect("F10 the next one is made in the background, and while that fails the last stays to its end", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      yield* Effect.gen(function*() {
        yield* seal
        yield* TestClock.adjust("3 minutes")
        yield* seal
        assert.strictEqual(state.calls.length, 1)
        state.error = throttled
        yield* TestClock.adjust("1 minute")
        // 80 % of five minutes
        for (let i = 0; i < 10; i++) assert.isTrue(Exit.isExit(yield* Effect.sync(() => encryption.seal(body, orders))))
        yield* TestClock.adjust(1)
        assert.strictEqual(state.calls.length, 2)
        yield* TestClock.adjust("5 seconds")
        yield* seal
        yield* TestClock.adjust(1)
        assert.strictEqual(state.calls.length, 3)
        state.error = undefined
        yield* TestClock.adjust("5 seconds")
        yield* seal
        yield* TestClock.adjust("1 minute")
        // the end of the first: the second is there
        assert.isTrue(Exit.isExit(yield* Effect.sync(() => encryption.seal(body, orders))))
        assert.strictEqual(state.calls.length, 4)
      }).pipe(Effect.provide(layer()))
    }))

  it.effect("F10 are unwrapped again after their age, so that a withdrawn permission takes effect", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      yield* Effect.gen(function*() {
        const envelope = yield* seal
        yield* TestClock.adjust("299999 millis")
        assert.strictEqual(yield* tagOf(open(envelope)), "opened")
        state.error = new Kms.KmsError({ reason: "Denied", message: "denies the call" })
        yield* TestClock.adjust("1 millis")
        const error = yield* Effect.flip(open(envelope))
        assert.deepStrictEqual([error._tag, error.failure], ["KeysUnavailable", "dependency"])
        assert.strictEqual(error.message, "The key \"a\" cannot be used now: the test's KMS denies the call.")
        state.error = undefined
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(yield* tagOf(open(envelope)), "opened")
      }).pipe(Effect.provide(layer()))
    }))

  it.effect("F10 are bounded in memory", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      const envelopes = yield* Effect.provide(
        Effect.all(Array.from({ length: 3 }, () => seal)),
        layer({ dataKey: { messages: 1 } })
      )
      const before = state.calls.length
      yield* Effect.gen(function*() {
        for (const each of [...envelopes, ...envelopes]) yield* open(each)
      }).pipe(Effect.provide(layer({ dataKey: { capacity: 2 } })))
      assert.strictEqual(state.calls.length - before, 6)
    }))
})

describe("a KMS that fails", () => {
  it.effect("F10 is asked once in a cool-down for each kind of call and key, and messages carry the wait", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      const envelope = yield* Effect.provide(seal, layer())
      const other = yield* Effect.provide(seal, layer({ writing: "b" }))
      state.calls = []
      yield* Effect.gen(function*() {
        state.error = new Kms.KmsError({ reason: "Throttled", message: "throttles", retryAfter: Duration.seconds(30) })
        for (let i = 0; i < 20; i++) {
          const error = yield* Effect.flip(open(envelope))
          assert.strictEqual(error._tag, "KeysUnavailable")
          assert.deepStrictEqual(error._tag === "KeysUnavailable" && error.retryAfter, Duration.seconds(30 - i))
          yield* TestClock.adjust("1 second")
        }
        assert.deepStrictEqual(state.calls, ["unwrap alias/a"])
        state.error = undefined
        assert.strictEqual(yield* tagOf(open(other)), "opened")
        assert.strictEqual(yield* tagOf(seal), "opened")
        assert.strictEqual(yield* tagOf(open(envelope)), "KeysUnavailable")
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* tagOf(open(envelope)), "opened")
      }).pipe(Effect.provide(layer()))
    }))

  it.effect("F10 is class dependency when it is late, throws, or answers with a key of another length", () =>
    Effect.gen(function*() {
      const { layer, port, state } = service()
      state.wait = "1 hour"
      const late = yield* Effect.forkChild(Effect.provide(Effect.flip(seal), layer()))
      yield* TestClock.adjust("5 seconds")
      assert.include((yield* Fiber.join(late)).message, "does not answer in time")
      state.wait = undefined
      state.plaintext = 16
      assert.include((yield* Effect.provide(Effect.flip(seal), layer())).message, "a data key that is none")
      const throwing = {
        ...port,
        generate: () => {
          throw new Error("a secret")
        }
      }
      const thrown = yield* Effect.flip(seal).pipe(Effect.provide(Layer.provide(
        Kms.layer({ keys: { a: "alias/a" }, writing: "a" }),
        Layer.succeed(Kms.Service, throwing)
      )))
      assert.deepStrictEqual([thrown._tag, thrown.message.includes("secret")], ["KeysUnavailable", false])
    }))

  it.effect("F10 gets no more calls at a time than the option says", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      const envelopes = yield* Effect.provide(
        Effect.all(Array.from({ length: 6 }, () => seal)),
        layer({ dataKey: { messages: 1 } })
      )
      state.calls = []
      state.wait = "1 second"
      yield* Effect.gen(function*() {
        const all = yield* Effect.forkChild(Effect.all(envelopes.map(open), { concurrency: "unbounded" }))
        yield* TestClock.adjust("500 millis")
        assert.strictEqual(state.calls.length, 2)
        yield* TestClock.adjust("3 seconds")
        assert.strictEqual((yield* Fiber.join(all)).length, 6)
      }).pipe(Effect.provide(layer({ concurrency: 2 })))
    }))
})

describe("an envelope with a wrapped key", () => {
  it.effect("F10 asks for no key that the program has not named, and for no revoked one", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      const envelope = yield* Effect.provide(seal, layer({ keys: { a: "alias/a", b: "alias/b" } }))
      state.calls = []
      const only = (a: string) =>
        Effect.provide(tagOf(open(envelope)), layer({ keys: { a, b: "alias/b" }, writing: "b" }))
      assert.strictEqual(yield* only("revoked"), "KeyRevoked")
      const unnamed = Buffer.from(envelope)
      unnamed[6] = "c".charCodeAt(0)
      assert.strictEqual(yield* Effect.provide(tagOf(open(unnamed)), layer()), "KeyUnknown")
      assert.deepStrictEqual(state.calls, [])
      // the service refuses the key of another
      assert.strictEqual(yield* only("alias/z"), "Tampered")
      assert.deepStrictEqual(state.calls, ["unwrap alias/z"])
    }))

  it.effect("F10 does not open with any byte changed, nor cut at any length", () =>
    Effect.gen(function*() {
      const { layer } = service()
      const envelope = Buffer.from(yield* Effect.provide(seal, layer()))
      yield* Effect.gen(function*() {
        for (let i = 0; i < envelope.length; i++) {
          const changed = Buffer.from(envelope)
          changed[i]! ^= 1 << (i % 8)
          assert.include(["Tampered", "KeyUnknown", "Unencrypted"], yield* tagOf(open(changed)), `byte ${i}`)
          assert.include(["Tampered", "Unencrypted"], yield* tagOf(open(envelope.subarray(0, i))), `length ${i}`)
        }
        assert.strictEqual(yield* tagOf(open(envelope)), "opened")
      }).pipe(Effect.provide(layer({ cooldown: "1 millis" })))
    }))

  it.effect("F10 is not asked for when its wrapped key is longer than any", () =>
    Effect.gen(function*() {
      const { layer, state } = service()
      const envelope = Buffer.from(yield* Effect.provide(seal, layer()))
      const wrapped = Buffer.alloc(6145, "1 alias/a")
      const length = envelope.readUInt16BE(7)
      const long = Buffer.concat([
        envelope.subarray(0, 7),
        Buffer.from([6145 >> 8, 6145 & 255]),
        wrapped,
        envelope.subarray(9 + length)
      ])
      state.calls = []
      assert.strictEqual(yield* Effect.provide(tagOf(open(long)), layer()), "Tampered")
      assert.deepStrictEqual(state.calls, [])
    }))

  it("F10 and one of a key set are not mixed up, and the older key set still reads", async () => {
    const { layer, state } = service()
    const keySet = Keys.layerMemory({ keys: { a: secretOf(1) }, writing: "a" })
    const before = await within(() => sealed(encryption, body), keySet)
    const after = await Effect.runPromise(Effect.provide(seal, layer()))
    const answers = (ring: Layer.Layer<Keys.Ring>) =>
      Effect.runPromise(Effect.provide(Effect.all([before, after].map((each) => tagOf(open(each)))), ring))
    assert.deepStrictEqual(await answers(keySet), ["opened", "KeyUnknown"])
    assert.deepStrictEqual(await answers(layer()), ["KeyUnknown", "opened"])
    assert.deepStrictEqual(await answers(layer({ older: keySet })), ["opened", "opened"])
    assert.include(state.calls, "unwrap alias/a")
  })
})
