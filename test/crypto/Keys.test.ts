import { Encryption, Keys } from "@millrace/crypto"
import { it } from "@effect/vitest"
import * as DataKey from "../../packages/crypto/src/internal/dataKey.ts"
import { DataKeys } from "../../packages/crypto/src/internal/keyRing.ts"
import { Clock, ConfigProvider, Data, Deferred, Duration, Effect, Exit, Fiber, Layer, Redacted } from "effect"
import { TestClock } from "effect/testing"
import { createSecretKey } from "node:crypto"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe } from "vitest"
import { bytesOf, orders, sealed, secretOf, told, within } from "./support.ts"

const body = bytesOf("{\"amount\":12}")
const encryption = Encryption.make()
const open = (envelope: Uint8Array) => Effect.suspend(() => encryption.open(envelope, orders))
const seal = Effect.suspend(() => encryption.seal(body, orders))

/** The salt of an envelope of a key whose id has one letter: each data key has its own. */
const saltOf = (envelope: Uint8Array): string => Buffer.from(envelope).toString("hex", 7, 39)

const tagOf = <A, E extends { readonly _tag: string }, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.match(effect, { onFailure: (error) => error._tag, onSuccess: () => "opened" })

class Down extends Data.TaggedError("Down")<{ readonly message: string }> {}

/** A source whose set can be changed, which counts its reads. */
const source = (first: Keys.KeySet) => {
  const state = { set: first, reads: 0, down: false, gate: undefined as Deferred.Deferred<void> | undefined }
  const load = Effect.suspend(() => {
    state.reads++
    const { down, gate, set } = state
    const answer = down
      ? Effect.fail(new Down({ message: `no answer, secret=${"hunter2".repeat(2)}` }))
      : Effect.succeed(set)
    return gate === undefined ? answer : Effect.andThen(Deferred.await(gate), answer)
  })
  return { state, load }
}

const setOf = (writing: string, keys: Keys.KeySet["keys"]): Keys.KeySet => ({ writing, keys })

describe("rotation", () => {
  const a = secretOf(1)
  const b = secretOf(2)

  it("F10 the new key writes, the old one reads, a revoked one does neither", async () => {
    const before = Keys.layerMemory({ keys: { a }, writing: "a" })
    // first every reader learns the new key, then it writes
    const known = Keys.layerMemory({ keys: { a, b }, writing: "a" })
    const rotated = Keys.layerMemory({ keys: { a, b }, writing: "b" })
    const revoked = Keys.layerMemory({ keys: { a: "revoked", b }, writing: "b" })
    const oldest = await within(() => sealed(encryption, body), before)
    const older = await within(() => sealed(encryption, body), known)
    const newest = await within(() => sealed(encryption, body), rotated)
    const answers = (layer: Layer.Layer<Keys.Ring>) =>
      within(() =>
        [oldest, older, newest].map((each) => {
          const answer = told(encryption.open(each, orders))
          return typeof answer === "string" ? answer : "opened"
        }), layer)
    assert.deepStrictEqual(await answers(before), ["opened", "opened", "KeyUnknown"])
    assert.deepStrictEqual(await answers(known), ["opened", "opened", "opened"])
    assert.deepStrictEqual(await answers(rotated), ["opened", "opened", "opened"])
    assert.deepStrictEqual(await answers(revoked), ["KeyRevoked", "KeyRevoked", "opened"])
  })

  it.effect("F10 of a source takes effect at its next read, without a restart", () =>
    Effect.gen(function*() {
      const { load, state } = source(setOf("a", { a }))
      yield* Effect.gen(function*() {
        const first = yield* seal
        state.set = setOf("b", { a, b })
        yield* TestClock.adjust("5 minutes")
        assert.strictEqual(state.reads, 2)
        const second = yield* seal
        assert.strictEqual(Buffer.from(second)[6], "b".charCodeAt(0))
        assert.deepStrictEqual(yield* open(first), Buffer.from(body))
        state.set = setOf("b", { a: "revoked", b })
        yield* TestClock.adjust("5 minutes")
        assert.strictEqual(yield* tagOf(open(first)), "KeyRevoked")
        assert.strictEqual(yield* tagOf(open(second)), "opened")
      }).pipe(Effect.provide(Keys.layer(load)))
    }))
})

describe("data keys", () => {
  const one = (dataKey: Keys.DataKeyOptions) => Keys.layerMemory({ keys: { a: secretOf(1) }, writing: "a", dataKey })

  it.effect("F10 encrypt so many messages, and then there is a new one", () =>
    Effect.gen(function*() {
      const salts = new Map<string, number>()
      for (let i = 0; i < 25; i++) {
        const salt = saltOf(yield* seal)
        salts.set(salt, (salts.get(salt) ?? 0) + 1)
      }
      assert.deepStrictEqual([...salts.values()], [10, 10, 5])
    }).pipe(Effect.provide(one({ messages: 10 }))))

  it.effect("F10 encrypt for so long, and then there is a new one", () =>
    Effect.gen(function*() {
      const first = saltOf(yield* seal)
      yield* TestClock.adjust("59999 millis")
      assert.strictEqual(saltOf(yield* seal), first)
      yield* TestClock.adjust("1 millis")
      assert.notStrictEqual(saltOf(yield* seal), first)
    }).pipe(Effect.provide(one({ age: "1 minute" }))))

  it.effect("F10 that are no longer in the cache are derived again", () =>
    Effect.gen(function*() {
      const envelopes: Array<Uint8Array> = []
      for (let i = 0; i < 6; i++) envelopes.push(yield* seal)
      assert.strictEqual(new Set(envelopes.map(saltOf)).size, 6)
      for (const each of [...envelopes, ...envelopes]) assert.deepStrictEqual(yield* open(each), Buffer.from(body))
    }).pipe(Effect.provide(one({ messages: 1, capacity: 2 }))))
})

describe("the cache of data keys", () => {
  it.effect("F10 is bounded, and drops the oldest", () =>
    Effect.map(Clock.Clock, (clock) => {
      const cache = new DataKeys({ messages: 1, age: 1, capacity: 2 }, clock)
      const data = DataKey.make("aes256Gcm", "a", createSecretKey(Redacted.value(secretOf(1))))
      for (const header of ["1", "2", "3"]) cache.keep(header, data)
      assert.deepStrictEqual(["1", "2", "3"].map((header) => cache.find(header) === data), [false, true, true])
    }))
})

describe("an unknown key id", () => {
  const a = secretOf(1)
  const b = secretOf(2)
  const newest = within(() => sealed(encryption, body), Keys.layerMemory({ keys: { b }, writing: "b" }))

  it.effect("F10 is asked for once: a key that is newer than the set loses no message", () =>
    Effect.gen(function*() {
      const envelope = yield* Effect.promise(() => newest)
      const { load, state } = source(setOf("a", { a }))
      yield* Effect.gen(function*() {
        yield* TestClock.adjust("5 seconds")
        state.set = setOf("a", { a, b })
        assert.deepStrictEqual(yield* open(envelope), Buffer.from(body))
        assert.strictEqual(state.reads, 2)
        assert.isTrue(Exit.isExit(yield* Effect.sync(() => encryption.open(envelope, orders))))
      }).pipe(Effect.provide(Keys.layer(load)))
    }))

  it.effect("F10 that the source does not have is poison, and a flood of them costs one read in a cool-down", () =>
    Effect.gen(function*() {
      const envelope = Buffer.from(yield* Effect.promise(() => newest))
      const { load, state } = source(setOf("a", { a }))
      yield* Effect.gen(function*() {
        const invented = (i: number) => {
          const bytes = Buffer.from(envelope)
          bytes[6] = 65 + (i % 26)
          return bytes
        }
        yield* TestClock.adjust("5 seconds")
        const gate = state.gate = yield* Deferred.make<void>()
        const asking = yield* Effect.forkChild(
          Effect.all(Array.from({ length: 100 }, (_, i) => tagOf(open(invented(i)))), { concurrency: "unbounded" })
        )
        yield* Effect.yieldNow
        yield* Deferred.succeed(gate, undefined)
        const answers = yield* Fiber.join(asking)
        assert.deepStrictEqual(new Set(answers), new Set(["KeyUnknown"]))
        assert.strictEqual(state.reads, 2)
        // within the cool-down no read proves that the key does not exist
        const error = yield* Effect.flip(open(invented(1)))
        assert.strictEqual(error._tag, "KeysUnavailable")
        assert.deepStrictEqual(error._tag === "KeysUnavailable" && error.retryAfter, Duration.seconds(5))
        assert.strictEqual(state.reads, 2)
      }).pipe(Effect.provide(Keys.layer(load)))
    }))

  it.effect("F10 is not judged by a read that began before its message came", () =>
    Effect.gen(function*() {
      const envelope = yield* Effect.promise(() => newest)
      const { load, state } = source(setOf("a", { a }))
      yield* Effect.gen(function*() {
        const gate = state.gate = yield* Deferred.make<void>()
        yield* TestClock.adjust("5 minutes")
        assert.strictEqual(state.reads, 2)
        yield* TestClock.adjust("1 second")
        const asking = yield* Effect.forkChild(Effect.flip(open(envelope)))
        yield* Effect.yieldNow
        yield* Deferred.succeed(gate, undefined)
        const error = yield* Fiber.join(asking)
        assert.strictEqual(error._tag, "KeysUnavailable")
      }).pipe(Effect.provide(Keys.layer(load)))
    }))
})

describe("a source that is down", () => {
  const a = secretOf(1)
  const b = secretOf(2)

  it.effect("F10 stops nothing that is known, for so long as keys are kept", () =>
    Effect.gen(function*() {
      const { load, state } = source(setOf("a", { a }))
      yield* Effect.gen(function*() {
        const envelope = yield* seal
        state.down = true
        yield* TestClock.adjust("59 minutes")
        assert.deepStrictEqual(yield* open(envelope), Buffer.from(body))
        yield* seal
        yield* TestClock.adjust("2 minutes")
        for (const each of [seal, open(envelope)]) {
          const error = yield* Effect.flip(each)
          assert.strictEqual(error._tag, "KeysUnavailable")
          assert.strictEqual(error.failure, "dependency")
        }
        state.down = false
        yield* TestClock.adjust("5 seconds")
        assert.deepStrictEqual(yield* open(envelope), Buffer.from(body))
      }).pipe(Effect.provide(Keys.layer(load, { keep: "1 hour" })))
    }))

  it.effect("F10 makes an unknown key a failure of class dependency, which names the wait and no secret", () =>
    Effect.gen(function*() {
      const envelope = yield* Effect.promise(() =>
        within(() => sealed(encryption, body), Keys.layerMemory({ keys: { b }, writing: "b" }))
      )
      const { load, state } = source(setOf("a", { a }))
      yield* Effect.gen(function*() {
        state.down = true
        yield* TestClock.adjust("5 seconds")
        const error = yield* Effect.flip(open(envelope))
        assert.strictEqual(error._tag, "KeysUnavailable")
        assert.strictEqual(error.failure, "dependency")
        assert.include(error.message, "The keys of a vault cannot be read")
        assert.notInclude(error.message, "hunter2")
      }).pipe(Effect.provide(Keys.layer(load, { name: "a vault" })))
    }))

  it.effect("F10 fails the layer at its first read, and hangs for no longer than the time limit", () =>
    Effect.gen(function*() {
      const { load, state } = source(setOf("a", { a }))
      state.down = true
      const build = Effect.flip(Effect.scoped(Layer.build(Keys.layer(load))))
      assert.strictEqual((yield* build)._tag, "KeysUnavailable")
      const hanging = yield* Effect.forkChild(Effect.flip(Effect.scoped(Layer.build(Keys.layer(Effect.never)))))
      yield* TestClock.adjust("5 seconds")
      assert.include((yield* Fiber.join(hanging)).message, "cannot be read")
    }))
})

describe("key sets", () => {
  const k = Buffer.alloc(32, 1).toString("base64url")

  it("F10 are JSON Web Key Sets", () => {
    const set = Keys.fromJson(JSON.stringify({
      keys: [
        { kid: "r", kty: "oct", revoked: { revoked_at: 1 } },
        { kid: "o", kty: "oct", k, key_ops: ["decrypt"] },
        { kid: "n", kty: "oct", k, key_ops: ["encrypt", "decrypt"], alg: "A256GCM" },
        { kid: "__proto__", kty: "oct", k }
      ]
    }))
    assert.strictEqual(set.writing, "n")
    assert.deepStrictEqual(Object.keys(set.keys), ["r", "o", "n", "__proto__"])
    assert.notInclude(String(set.keys["n"]), k)
  })

  it.each([
    ["{", "not JSON"],
    ["[]", "JSON Web Key Set"],
    ["{\"keys\":[1]}", "JSON Web Key"],
    [`{"keys":[{"kty":"oct","k":"${k}"}]}`, "kid"],
    [`{"keys":[{"kid":"a","kty":"RSA","k":"${k}"}]}`, "oct"],
    ["{\"keys\":[{\"kid\":\"a\",\"kty\":\"oct\"}]}", "must have k"],
    [`{"keys":[{"kid":"a","kty":"oct","k":"${k}"},{"kid":"a","kty":"oct","k":"${k}"}]}`, "once"],
    ["{\"keys\":[]}", "no key that may encrypt"],
    ["{\"keys\":[{\"kid\":\"a\",\"kty\":\"oct\",\"revoked\":true}]}", "no key that may encrypt"]
  ])("F10 refuse %s, without quoting a secret", (text, sentence) => {
    try {
      Keys.fromJson(text)
      assert.fail("it was read")
    } catch (error) {
      assert.instanceOf(error, RangeError)
      assert.include(error.message, sentence)
      assert.notInclude(error.message, k)
    }
  })

  it("F10 refuse secrets that have no 32 bytes, ids that have none or too many, and a writing key that cannot write", () => {
    const refuses = (set: Keys.KeySet, sentence: string) =>
      assert.throws(() => Keys.layerMemory(set), RangeError, sentence)
    for (
      const secret of [
        Redacted.make("short"),
        Redacted.make(Buffer.alloc(31).toString("base64")),
        Redacted.make(new Uint8Array(33)),
        Redacted.make(`${k}é`)
      ]
    ) refuses(setOf("a", { a: secret }), "32 bytes")
    refuses(setOf("", { "": secretOf(1) }), "1 to 255 bytes")
    refuses(setOf("é".repeat(128), { ["é".repeat(128)]: secretOf(1) }), "1 to 255 bytes")
    refuses(setOf("a", { a: "revoked" }), "not revoked")
    refuses(setOf("z", { a: secretOf(1) }), "in the set")
  })

  it("F10 generated secrets have 32 bytes and differ", async () => {
    const [one, two] = await Effect.runPromise(Effect.all([Keys.generate, Keys.generate]))
    assert.strictEqual(Buffer.from(Redacted.value(one), "base64url").length, 32)
    assert.notStrictEqual(Redacted.value(one), Redacted.value(two))
  })
})

describe("keys of the environment", () => {
  const text = JSON.stringify({ keys: [{ kid: "a", kty: "oct", k: Buffer.alloc(32, 1).toString("base64url") }] })
  const from = (env: { readonly [name: string]: string }) =>
    Keys.layerConfig().pipe(Layer.provide(ConfigProvider.layer(ConfigProvider.fromEnv({ env }))))

  it("F10 are read from ENCRYPTION_KEYS", async () => {
    const envelope = await within(
      () => sealed(encryption, body),
      Keys.layerMemory({ keys: { a: secretOf(1) }, writing: "a" })
    )
    const opened = await Effect.runPromise(open(envelope).pipe(Effect.provide(from({ ENCRYPTION_KEYS: text }))))
    assert.deepStrictEqual(opened, Buffer.from(body))
  })

  it("F10 that are missing fail the layer, and a wrong set quotes nothing", async () => {
    const exit = (env: { readonly [name: string]: string }) =>
      Effect.runPromise(Effect.scoped(Layer.build(from(env))).pipe(Effect.exit, Effect.map(String)))
    assert.include(await exit({}), "ENCRYPTION_KEYS")
    assert.notInclude(await exit({ ENCRYPTION_KEYS: "hunter2" }), "hunter2")
  })
})

describe("keys of a file", () => {
  const textOf = (writing: string, other: string) =>
    JSON.stringify({
      keys: [writing, other].map((kid) => ({
        kid,
        kty: "oct",
        k: Buffer.alloc(32, kid.charCodeAt(0)).toString("base64url")
      }))
    })

  it("F10 are read again: a rotation needs no restart", async () => {
    const folder = mkdtempSync(join(tmpdir(), "millrace-keys-"))
    const path = join(folder, "keys.json")
    try {
      writeFileSync(path, textOf("a", "b"))
      const program = Effect.gen(function*() {
        const first = yield* seal
        assert.strictEqual(first[6], "a".charCodeAt(0))
        writeFileSync(path, textOf("c", "a"))
        const later = yield* Effect.promise(() =>
          within(
            () => sealed(encryption, body),
            Keys.layerMemory({ keys: { c: Redacted.make(new Uint8Array(32).fill("c".charCodeAt(0))) }, writing: "c" })
          )
        )
        // the unknown id has the file read, once the cool-down of a millisecond is over
        const opened = yield* Effect.retry(open(later), { times: 100 })
        assert.deepStrictEqual(opened, Buffer.from(body))
        assert.strictEqual((yield* seal)[6], "c".charCodeAt(0))
        assert.deepStrictEqual(yield* open(first), Buffer.from(body))
      })
      await Effect.runPromise(Effect.provide(program, Keys.layerFile(path, { cooldown: "1 millis" })))
    } finally {
      rmSync(folder, { recursive: true })
    }
  })

  it("F10 that are missing or too large fail the layer, and the error names the path", async () => {
    const folder = mkdtempSync(join(tmpdir(), "millrace-keys-"))
    try {
      const path = join(folder, "keys.json")
      const failed = () => Effect.runPromise(Effect.flip(Effect.scoped(Layer.build(Keys.layerFile(path)))))
      assert.include((await failed()).message, `The keys of ${path} cannot be read: ENOENT`)
      writeFileSync(path, " ".repeat(1024 * 1024 + 1))
      assert.include((await failed()).message, "at most 1048576 bytes")
      writeFileSync(path, "hunter2")
      assert.include((await failed()).message, "not JSON")
      assert.notInclude(JSON.stringify(await failed()), "hunter2")
    } finally {
      rmSync(folder, { recursive: true })
    }
  })
})
