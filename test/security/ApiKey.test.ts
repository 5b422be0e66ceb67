import { Auth, Eager, type Envelope, Settlement } from "@millrace/core"
import { Server } from "@millrace/http"
import { ApiKey } from "@millrace/security"
import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Layer, Redacted } from "effect"
import { HttpRouter } from "effect/http"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createHash, createHmac } from "node:crypto"
import { inspect } from "node:util"
import { crc32 } from "node:zlib"
import { deliver, runChain } from "../core/support.ts"
import { call, serveWith } from "../http/support.ts"

const prefix = "acme_test"
const pepper = Redacted.make("a pepper of more than thirty-two bytes, kept apart")

/** The subject, or why there is none. */
const ask = (key: Redacted.Redacted<string> | string) =>
  Effect.flatMap(
    Auth.Verifier,
    (verifier) => verifier.verify(typeof key === "string" ? key : Redacted.value(key))
  ).pipe(
    Effect.map((principal) => principal.subject),
    Effect.catchTags({
      Unauthorized: (error) => Effect.succeed(error.reason),
      AuthUnavailable: (error) => Effect.succeed(error.message)
    })
  )

const make = (options: Partial<ApiKey.GenerateOptions> = {}) =>
  Effect.runPromise(ApiKey.generate({ prefix, ...options }))

/** A store that the test breaks, slows and counts. */
const storeOf = (keys: Map<string, ApiKey.Stored>) => {
  const state = { asked: 0, answer: undefined as Effect.Effect<void, Auth.AuthUnavailable> | undefined }
  const layer = Layer.succeed(ApiKey.Store, {
    find: (id) => {
      state.asked++
      const found = () => Exit.succeed(keys.get(id))
      return state.answer === undefined ? found() : Effect.flatMap(state.answer, found)
    }
  })
  return { state, layer }
}

const over = (
  keys: Map<string, ApiKey.Stored>,
  program: (state: ReturnType<typeof storeOf>["state"]) => Effect.Effect<void, never, Auth.Verifier>,
  options: Partial<ApiKey.Options> = {}
) =>
  Effect.suspend(() => {
    const { layer, state } = storeOf(keys)
    return Effect.provide(program(state), ApiKey.layer({ prefix, ...options }).pipe(Layer.provide(layer)))
  })

const down = new Auth.AuthUnavailable({ message: "down", retryAfter: Duration.seconds(3) })

const [ada, bob] = await Promise.all([make(), make()])
const stored = (made: ApiKey.Generated, more: Partial<ApiKey.Stored> = {}): [string, ApiKey.Stored] => [
  made.id,
  { hashes: [{ hash: made.hash }], subject: "ada", ...more }
]

/** Another key of the same id and form, with a right checksum and another secret. */
const forged = (made: ApiKey.Generated) => Effect.runSync(ApiKey.generate({ prefix, id: made.id })).key

describe("the form of keys", () => {
  it("F8 a key says its prefix, its id, 256 bits of chance and a checksum, and is stored as a hash only", async () => {
    const seen = new Set<string>()
    for (let i = 0; i < 200; i++) {
      const { hash, id, key } = await make()
      const text = Redacted.value(key)
      const [, found, secret = "", sum = ""] = /^acme_test_([0-9A-Za-z]{17})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})$/.exec(
        text
      )!
      assert.strictEqual(found, id)
      // base 62 of the CRC-32 of all that stands before it, by another way
      const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
      const value = [...sum].reduce((total, letter) => total * 62 + digits.indexOf(letter), 0)
      assert.strictEqual(value, crc32(text.slice(0, -6)))
      assert.strictEqual(hash, `sha256:${createHash("sha256").update(text).digest("base64url")}`)
      assert.isFalse(hash.includes(secret) || inspect({ hash, id, key }).includes(secret))
      seen.add(secret)
    }
    assert.strictEqual(seen.size, 200)
  })

  it("F8 with a pepper the hash is an HMAC that nobody can make without it", async () => {
    const { hash, key } = await make({ pepper })
    const expected = createHmac("sha256", Redacted.value(pepper)).update(Redacted.value(key)).digest("base64url")
    assert.strictEqual(hash, `hmac-sha256:${expected}`)
    assert.strictEqual(ApiKey.hash(key, { pepper: [pepper, Redacted.make("x".repeat(32))] }), hash)
    assert.notStrictEqual(ApiKey.hash(key), hash)
  })

  it.effect("F8 what is no key, or has a slip in it, is malformed and costs the store nothing", () =>
    over(new Map([stored(ada)]), (state) =>
      Effect.gen(function*() {
        const key = Redacted.value(ada.key)
        const { verify } = yield* Auth.Verifier
        const letters = [..."0aZ_-. \n\0é\u{1F600}"]
        yield* Effect.promise(() =>
          fc.assert(
            fc.asyncProperty(
              fc.nat(key.length),
              fc.constantFrom(...letters),
              fc.constantFrom("replace", "insert", "remove"),
              async (at, letter, how) => {
                const changed = key.slice(0, at) + (how === "remove" ? "" : letter) +
                  key.slice(how === "insert" ? at : at + 1)
                fc.pre(changed !== key)
                const exit = await Effect.runPromiseExit(verify(changed))
                assert.deepStrictEqual(exit, Exit.fail(new Auth.Unauthorized({ reason: "malformed" })))
              }
            ),
            { numRuns: 500 }
          )
        )
        for (const each of ["", key.toUpperCase(), key.slice(5), `x${key}`, "__proto__", key.repeat(1000)]) {
          assert.strictEqual(yield* ask(each), "malformed")
        }
        const elsewhere = yield* ApiKey.generate({ prefix: "acme_live", id: ada.id })
        assert.strictEqual(yield* ask(elsewhere.key), "malformed")
        assert.strictEqual(state.asked, 0)
      })))
})

describe("what a key is answered", () => {
  it.effect("F8 the owner's principal, with scopes, issuer and claims; nobody can change it for the others", () =>
    over(
      new Map([stored(ada, { scopes: ["a", "b"], issuer: "shop", claims: { tenant: { id: 7 } } })]),
      () =>
        Effect.gen(function*() {
          const { verify } = yield* Auth.Verifier
          const principal = yield* Effect.orDie(verify(Redacted.value(ada.key)))
          assert.deepStrictEqual(principal, {
            subject: "ada",
            issuer: "shop",
            scopes: ["a", "b"],
            claims: { tenant: { id: 7 }, sub: "ada", key: ada.id }
          })
          assert.throws(() => (principal.scopes as Array<string>).push("admin"), TypeError)
          assert.throws(() => (principal.claims["tenant"] as { id: number }).id = 8, TypeError)
          assert.strictEqual(yield* Effect.orDie(verify(Redacted.value(ada.key))), principal)
        })
    ))

  it.effect("F8 B10 an unknown id, a wrong secret, a revoked key and another's hash get one and the same answer", () => {
    const revoked = Effect.runSync(ApiKey.generate({ prefix }))
    const swapped = Effect.runSync(ApiKey.generate({ prefix }))
    const keys = new Map([
      stored(ada),
      stored(revoked, { revoked: true }),
      // whoever can write to the store, and moves Ada's hash to an id of his own
      [swapped.id, { hashes: [{ hash: ada.hash }], subject: "root" }] satisfies [string, ApiKey.Stored]
    ])
    return over(keys, () =>
      Effect.gen(function*() {
        const { verify } = yield* Auth.Verifier
        const answers = yield* Effect.forEach(
          [bob.key, forged(ada), revoked.key, forged(revoked), swapped.key],
          (key) => Effect.exit(verify(Redacted.value(key)))
        )
        for (const answer of answers) {
          assert.deepStrictEqual(answer, Exit.fail(new Auth.Unauthorized({ reason: "refused" })))
        }
        assert.strictEqual(yield* ask(ada.key), "ada")
      }))
  })

  it.effect("F8 keys and their secrets end at their times; only who has the secret is told so", () =>
    Effect.gen(function*() {
      const second = yield* ApiKey.generate({ prefix, id: ada.id })
      const keys = new Map<string, ApiKey.Stored>([[ada.id, {
        hashes: [{ hash: ada.hash, expiresAt: 60_000 }, { hash: second.hash }],
        subject: "ada",
        expiresAt: 120_000
      }]])
      yield* over(keys, () =>
        Effect.gen(function*() {
          // the overlap: both hold
          assert.deepStrictEqual([yield* ask(ada.key), yield* ask(second.key)], ["ada", "ada"])
          yield* TestClock.adjust(59_999)
          assert.deepStrictEqual([yield* ask(ada.key), yield* ask(second.key)], ["ada", "ada"])
          yield* TestClock.adjust(1)
          assert.deepStrictEqual([yield* ask(ada.key), yield* ask(second.key)], ["expired", "ada"])
          yield* TestClock.adjust(59_999)
          assert.strictEqual(yield* ask(second.key), "ada")
          yield* TestClock.adjust(1)
          assert.deepStrictEqual([yield* ask(second.key), yield* ask(forged(ada))], ["expired", "refused"])
        }))
    }))

  it.effect("F8 peppers rotate: old hashes hold as long as their pepper is listed", () =>
    Effect.gen(function*() {
      const newer = Redacted.make("another pepper of more than thirty-two bytes")
      const [before, after] = yield* Effect.all([
        ApiKey.generate({ prefix, pepper }),
        ApiKey.generate({ prefix, pepper: [newer, pepper] })
      ])
      const keys = new Map([stored(before), stored(after)])
      const both = Effect.all([ask(before.key), ask(after.key)])
      const seen = (expected: ReadonlyArray<string>) => () =>
        Effect.map(both, (found) => assert.deepStrictEqual(found, [...expected] as [string, string]))
      yield* over(keys, seen(["ada", "refused"]), { pepper })
      yield* over(keys, seen(["ada", "ada"]), { pepper: [newer, pepper] })
      yield* over(keys, seen(["refused", "ada"]), { pepper: newer })
      yield* over(keys, seen(["refused", "refused"]))
    }))
})

describe("asking the store", () => {
  const atOnce = (key: Redacted.Redacted<string>) =>
    Effect.map(Auth.Verifier, ({ verify }) => Eager.isDone(verify(Redacted.value(key))))

  it.effect("F8 once in 30 seconds for a key, whatever comes; so late a revocation counts, and not later", () => {
    const keys = new Map([stored(ada)])
    return over(keys, (state) =>
      Effect.gen(function*() {
        for (let i = 0; i < 50; i++) assert.strictEqual(yield* ask(ada.key), "ada")
        for (let i = 0; i < 50; i++) assert.strictEqual(yield* ask(forged(ada)), "refused")
        assert.isTrue(yield* atOnce(ada.key))
        assert.strictEqual(state.asked, 1)
        keys.set(...stored(ada, { revoked: true }))
        yield* TestClock.adjust(29_999)
        assert.strictEqual(yield* ask(ada.key), "ada")
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* ask(ada.key), "refused")
        assert.strictEqual(state.asked, 2)
        keys.delete(ada.id)
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* ask(ada.key), "refused")
        assert.strictEqual(state.asked, 3)
      }))
  })

  it.effect("F8 an unknown id is asked for once in 10 seconds, then found where it is there", () => {
    const keys = new Map<string, ApiKey.Stored>()
    return over(keys, (state) =>
      Effect.gen(function*() {
        for (let i = 0; i < 50; i++) assert.strictEqual(yield* ask(ada.key), "refused")
        assert.strictEqual(state.asked, 1)
        keys.set(...stored(ada))
        yield* TestClock.adjust(9999)
        assert.strictEqual(yield* ask(ada.key), "refused")
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* ask(ada.key), "ada")
        assert.strictEqual(state.asked, 2)
      }))
  })

  it.effect("F8 messages with one key share one question, and one that gives up does not take it from the others", () =>
    over(new Map([stored(ada)]), (state) =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        state.answer = Deferred.await(gate)
        const gone = yield* Effect.forkChild(ask(ada.key), { startImmediately: true })
        const waiting = yield* Effect.forEach(
          Array.from({ length: 20 }),
          () => Effect.forkChild(ask(ada.key), { startImmediately: true })
        )
        yield* Fiber.interrupt(gone)
        yield* Deferred.succeed(gate, undefined)
        for (const fiber of waiting) assert.strictEqual(yield* Fiber.join(fiber), "ada")
        assert.strictEqual(state.asked, 1)
      })))

  it.effect("F8 a store that is down: known keys hold for 5 minutes, others go back; one question a second", () =>
    over(new Map([stored(ada), stored(bob)]), (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(ada.key), "ada")
        state.answer = Effect.fail(down)
        yield* TestClock.adjust("30 seconds")
        for (let i = 0; i < 50; i++) assert.strictEqual(yield* ask(ada.key), "ada")
        assert.strictEqual(state.asked, 2)
        assert.strictEqual(yield* ask(forged(ada)), "refused")
        assert.strictEqual(yield* ask(bob.key), "down")
        yield* TestClock.adjust("269 seconds")
        assert.strictEqual(yield* ask(ada.key), "ada")
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(yield* ask(ada.key), "down")
        state.answer = undefined
        assert.deepStrictEqual([yield* ask(ada.key), yield* ask(bob.key)], ["ada", "ada"])
      })))

  it.effect("F8 a store that hangs is given 5 seconds", () =>
    over(new Map([stored(ada)]), (state) =>
      Effect.gen(function*() {
        state.answer = Effect.never
        const waiting = yield* Effect.forkChild(ask(ada.key), { startImmediately: true })
        yield* TestClock.adjust(4999)
        assert.isUndefined(waiting.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* Fiber.join(waiting), "The store of API keys did not answer within 5s")
      })))

  it.effect("F8 what is kept is bounded, and a flood of unknown ids drives no key out", () =>
    over(new Map([stored(ada), stored(bob)]), (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(ada.key), "ada")
        const strangers = yield* Effect.forEach(Array.from({ length: 20 }), () => ApiKey.generate({ prefix }))
        for (const { key } of strangers) assert.strictEqual(yield* ask(key), "refused")
        assert.strictEqual(state.asked, 21)
        assert.strictEqual(yield* ask(ada.key), "ada")
        // of the unknown ones only the last is still known as such
        yield* ask(strangers[19]!.key)
        assert.strictEqual(state.asked, 21)
        yield* ask(strangers[0]!.key)
        assert.strictEqual(state.asked, 22)
        yield* ask(bob.key)
        yield* ask(ada.key)
        assert.strictEqual(state.asked, 24)
      }), { cache: { capacity: 1 } }))

  it.effect("F8 a hash in the store that is none is a defect that does not quote it", () =>
    over(new Map([stored(ada, { hashes: [{ hash: "my-own-secret" }] })]), () =>
      Effect.gen(function*() {
        const exit = yield* runChain(
          Auth.middleware({ scheme: "", header: "k" })(() => Effect.void),
          deliver({ headers: { k: Redacted.value(ada.key) } })
        )
        assert.include(inspect(exit, { depth: 9 }), "ApiKey: a stored hash of")
        assert.notInclude(inspect(exit, { depth: 9 }), "my-own-secret")
      })))
})

describe("in a pipeline", () => {
  it.effect("F8 F15 a key reaches the handler as a principal; a refused message is dead-lettered, one that must wait goes back", () =>
    over(new Map([stored(ada, { scopes: ["orders:write"] })]), (state) =>
      Effect.gen(function*() {
        const handler = Auth.middleware({ header: "x-api-key", scheme: "", scopes: ["orders:write"] })(
          (_message: Envelope) => Effect.map(Auth.Principal, (principal) => principal.subject)
        )
        const send = (key: string) => runChain(handler, deliver({ headers: { "X-API-Key": key } }))
        const outcome = (exit: Exit.Exit<unknown, unknown>) =>
          Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)
        assert.deepStrictEqual(yield* send(Redacted.value(ada.key)), Exit.succeed("ada"))
        assert.strictEqual(outcome(yield* send(Redacted.value(bob.key)))._tag, "DeadLetter")
        assert.strictEqual(outcome(yield* send("no key"))._tag, "DeadLetter")
        state.answer = Effect.fail(down)
        yield* TestClock.adjust("10 seconds")
        const back = outcome(yield* send(Redacted.value(bob.key)))
        assert.isTrue(back._tag === "Retry" && Duration.toMillis(back.after ?? 0) === 3000)
      })))

  it.live("F8 B10 on HTTP every refusal is one and the same answer, and an outage says when to come again", () => {
    const revoked = Effect.runSync(ApiKey.generate({ prefix }))
    const keys = new Map([
      stored(ada, { scopes: ["a"] }),
      stored(revoked, { revoked: true }),
      stored(bob, { expiresAt: 1 })
    ])
    return over(keys, (state) =>
      Effect.gen(function*() {
        const verifier = yield* Auth.Verifier
        const handler = Auth.middleware({ header: "x-api-key", scheme: "", scopes: ["a"] })(
          (_message: Envelope) => Effect.map(Auth.Principal, ({ subject }) => ({ subject }))
        )
        const base = yield* Effect.orDie(serveWith(
          Server.layer(Server.route("GET", "/", handler)).pipe(
            HttpRouter.provideRequest(Layer.succeed(Auth.Verifier, verifier))
          )
        ))
        const send = (headers: Record<string, string>) => Effect.promise(() => call(base, "/", { headers }))
        const good = yield* send({ "X-Api-Key": Redacted.value(ada.key) })
        assert.deepStrictEqual([good.status, good.json()], [200, { subject: "ada" }])
        const stranger = Redacted.value((yield* ApiKey.generate({ prefix })).key)
        const wrong = [stranger, ...[forged(ada), revoked.key, bob.key].map(Redacted.value), "no key", `${stranger}x`]
        const answers = yield* Effect.forEach([{}, ...wrong.map((key) => ({ "x-api-key": key }))], send)
        const shown = answers.map(({ headers, json, status }) => {
          const { requestId: _, ...problem } = json()
          return JSON.stringify([status, headers["www-authenticate"], headers["content-type"], problem])
        })
        assert.strictEqual(new Set(shown).size, 1, shown.join("\n"))
        assert.include(shown[0], "[401,")
        state.answer = Effect.fail(down)
        const late = yield* send({ "x-api-key": Redacted.value((yield* ApiKey.generate({ prefix })).key) })
        assert.deepStrictEqual([late.status, late.headers["retry-after"]], [503, "3"])
      }).pipe(Effect.scoped))
  })
})

describe("options", () => {
  it("F8 what is out of range is refused when the layer is made, and no secret is quoted", () => {
    const short = Redacted.make("my-own-secret")
    const wrong: ReadonlyArray<readonly [object, string]> = [
      [{ prefix: "" }, "ApiKey: prefix must be"],
      [{ prefix: "Acme" }, "ApiKey: prefix must be"],
      [{ prefix: "acme_" }, "ApiKey: prefix must be"],
      [{ prefix: "a.*b" }, "ApiKey: prefix must be"],
      [{ pepper: short }, "ApiKey: pepper must have at least 32 bytes, got 13"],
      [{ pepper: [] }, "ApiKey: pepper must hold at least one"],
      [{ timeout: 0 }, "ApiKey: timeout must be a finite duration from 1 ms"],
      [{ cache: { fresh: "-1 seconds" } }, "ApiKey: cache.fresh"],
      [
        { cache: { fresh: "1 minute", stale: "59 seconds" } },
        "ApiKey: cache.stale must be a finite duration from 60000 ms"
      ],
      [{ cache: { unknown: "-1 seconds" } }, "ApiKey: cache.unknown"],
      [{ cache: { capacity: 0 } }, "ApiKey: cache.capacity must be an integer from 1, got 0"]
    ]
    for (const [each, message] of wrong) {
      assert.throws(() => ApiKey.layer({ prefix, ...each }), RangeError, message)
    }
    assert.throws(() => ApiKey.generate({ prefix, id: "short" }), RangeError, "ApiKey: id must be")
    assert.throws(() => ApiKey.generate({ prefix, pepper: short }), RangeError, "ApiKey: pepper")
  })
})
