import { Auth, Eager } from "@millrace/core"
import { Jwt } from "@millrace/security"
import { assert, describe, it, vi } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Latch, Layer } from "effect"
import { TestClock } from "effect/testing"
import * as jose from "jose"
import { claims, epoch, issuer, issuerOf, sign } from "./support.ts"

const keyOf = async (kid: string) => {
  const pair = await jose.generateKeyPair("EdDSA", { extractable: true })
  return {
    jwk: { ...await jose.exportJWK(pair.publicKey), kid },
    token: (more: object = {}) =>
      sign(pair.privateKey, { ...claims, exp: epoch + 1_000_000, ...more }, { alg: "EdDSA", kid })
  }
}

const [one, two, other] = await Promise.all([keyOf("one"), keyOf("two"), keyOf("one")])

const options = {
  algorithms: ["EdDSA"],
  issuer,
  audience: "orders",
  keys: { url: "https://issuer.example/jwks", refresh: "10 minutes", cooldown: "30 seconds", keep: "1 hour" }
} as const

/** The subject, or why there is none. */
const ask = (token: string) =>
  Effect.flatMap(Auth.Verifier, (verifier) => verifier.verify(token)).pipe(
    Effect.map((principal) => principal.subject),
    Effect.catchTags({
      Unauthorized: (error) => Effect.succeed(error.reason),
      AuthUnavailable: (error) => Effect.succeed(`back in ${Duration.toMillis(error.retryAfter ?? 0)}`)
    })
  )

const kept = (token: string) =>
  Effect.map(Auth.Verifier, (verifier) => {
    const answer = verifier.verify(token)
    return Eager.isDone(answer) && answer._tag === "Success"
  })

type State = ReturnType<typeof issuerOf>["state"]

/** A program beside an issuer, at `epoch`, in virtual time. */
const beside = (
  keys: ReadonlyArray<jose.JWK>,
  program: (state: State) => Effect.Effect<void, never, Auth.Verifier>,
  before: (state: State) => void = () => {}
) =>
  Effect.gen(function*() {
    yield* TestClock.setTime(epoch * 1000)
    const { layer, state } = issuerOf({ keys: keys as Array<jose.JWK> })
    before(state)
    yield* Effect.provide(program(state), Jwt.layer(options).pipe(Layer.provide(layer)))
  })

const token = (make: () => Promise<string>) => Effect.promise(make)

describe("keys at an address", () => {
  it.effect("F8 keys are read once for many tokens, and again every refresh", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        const tokens = yield* Effect.forEach(Array.from({ length: 20 }), (_, i) =>
          token(() => one.token({ jti: `${i}` })))
        const all = yield* Effect.forEach(tokens, ask, { concurrency: "unbounded" })
        assert.deepStrictEqual(new Set(all), new Set(["ada"]))
        assert.strictEqual(state.asked, 1)
        yield* TestClock.adjust("599 seconds")
        assert.strictEqual(state.asked, 1)
        yield* TestClock.adjust("1 seconds")
        assert.strictEqual(state.asked, 2)
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(state.asked, 3)
      })))

  it.effect("F8 a new key is found when the first token comes that names it", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(yield* token(one.token)), "ada")
        state.keys = { keys: [one.jwk, two.jwk] }
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* ask(yield* token(two.token)), "ada")
        assert.strictEqual(state.asked, 2)
      })))

  it.effect("F8 a key that was rotated within the cool-down loses no message: it comes back when keys may be read", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(yield* token(one.token)), "ada")
        state.keys = { keys: [two.jwk] }
        yield* TestClock.adjust("1 seconds")
        const rotated = yield* token(two.token)
        assert.strictEqual(yield* ask(rotated), "back in 29000")
        assert.strictEqual(state.asked, 1)
        yield* TestClock.adjust("28999 millis")
        assert.strictEqual(yield* ask(rotated), "back in 1")
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* ask(rotated), "ada")
      })))

  it.effect("F8 a fetch that began before a token came does not prove that its key does not exist", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(yield* token(one.token)), "ada")
        const rotated = yield* token(two.token)
        yield* TestClock.adjust("30 seconds")
        const latch = yield* Latch.make()
        state.answer = latch.await
        const first = yield* Effect.forkChild(ask(rotated), { startImmediately: true })
        yield* TestClock.adjust("1 second")
        const second = yield* Effect.forkChild(ask(rotated), { startImmediately: true })
        yield* latch.open
        assert.strictEqual(yield* Fiber.join(first), "unknownKey")
        assert.strictEqual(yield* Fiber.join(second), "back in 30000")
      })))

  it.effect("F8 a key that the issuer does not have is refused, after one reading for all tokens that name such keys", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(yield* token(one.token)), "ada")
        yield* TestClock.adjust("30 seconds")
        const stranger = yield* token(two.token)
        const all = yield* Effect.forEach(Array.from({ length: 20 }), () => ask(stranger), { concurrency: "unbounded" })
        assert.deepStrictEqual(new Set(all), new Set(["unknownKey"]))
        assert.strictEqual(state.asked, 2)
      })))

  it.effect("F8 P10 a token is forgotten when its key leaves the set, also when another takes the key's name", () =>
    beside([one.jwk, two.jwk], (state) =>
      Effect.gen(function*() {
        const [first, second] = [yield* token(one.token), yield* token(two.token)]
        assert.deepStrictEqual([yield* ask(first), yield* ask(second)], ["ada", "ada"])
        assert.deepStrictEqual([yield* kept(first), yield* kept(second)], [true, true])
        state.keys = { keys: [other.jwk, two.jwk] }
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual([yield* kept(first), yield* kept(second)], [false, true])
        assert.strictEqual(yield* ask(first), "signature")
        state.keys = { keys: [] }
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(yield* kept(second), false)
      })))

  it.effect("F8 during an outage the last good set holds, new tokens too, until it is too old", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        const first = yield* token(one.token)
        assert.strictEqual(yield* ask(first), "ada")
        state.status = 503
        yield* TestClock.adjust("59 minutes")
        assert.isAbove(state.asked, 6)
        assert.strictEqual(yield* kept(first), true)
        assert.strictEqual(yield* ask(yield* token(() => one.token({ jti: "new" }))), "ada")
        yield* TestClock.adjust("90 seconds")
        assert.strictEqual(yield* kept(first), false)
        assert.match(yield* ask(first), /^back in \d+$/)
        state.status = 200
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* ask(first), "ada")
      })))

  it.effect("F8 an issuer that is down when the program starts sends messages back, with one reading a cool-down", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        const first = yield* token(one.token)
        assert.strictEqual(yield* ask(first), "back in 30000")
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* ask(first), "back in 20000")
        assert.strictEqual(state.asked, 1)
        yield* TestClock.adjust("20 seconds")
        assert.strictEqual(state.asked, 2)
        state.status = 200
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual(yield* ask(first), "ada")
      }), (state) => {
      state.status = 500
    }))

  it.effect("F8 what is no key set, and an issuer that never answers, are outages", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        const first = yield* token(one.token)
        assert.strictEqual(yield* ask(first), "back in 30000")
        state.keys = { keys: [one.jwk] }
        state.answer = Effect.never
        yield* TestClock.adjust("30 seconds")
        const waiting = yield* Effect.forkChild(ask(first), { startImmediately: true })
        yield* TestClock.adjust("4999 millis")
        assert.isUndefined(waiting.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.strictEqual(yield* Fiber.join(waiting), "back in 30000")
      }), (state) => {
      state.keys = { keys: "none" }
    }))

  it.effect("F8 a message that gives up waiting for keys does not take them from the others", () =>
    Effect.gen(function*() {
      const latch = yield* Latch.make()
      yield* beside([one.jwk], (state) =>
        Effect.gen(function*() {
          const first = yield* token(one.token)
          const gone = yield* Effect.forkChild(ask(first), { startImmediately: true })
          const waiting = yield* Effect.forkChild(ask(first), { startImmediately: true })
          yield* Effect.yieldNow
          yield* Fiber.interrupt(gone)
          yield* latch.open
          assert.strictEqual(yield* Fiber.join(waiting), "ada")
          assert.strictEqual(state.asked, 1)
        }), (state) => {
        state.answer = latch.await
      })
    }))

  it.effect("F8 a token whose key leaves the set while it is checked is not kept", () =>
    beside([one.jwk], (state) =>
      Effect.gen(function*() {
        assert.strictEqual(yield* ask(yield* token(one.token)), "ada")
        const late = yield* token(() => one.token({ jti: "late" }))
        const gate = Promise.withResolvers<void>()
        const verify = crypto.subtle.verify.bind(crypto.subtle)
        const spy = vi.spyOn(crypto.subtle, "verify").mockImplementation(async (...all) => {
          await gate.promise
          return verify(...all)
        })
        yield* Effect.addFinalizer(() => Effect.sync(() => spy.mockRestore()))
        const check = yield* Effect.forkChild(ask(late), { startImmediately: true })
        state.keys = { keys: [two.jwk] }
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(state.asked, 2)
        gate.resolve()
        assert.strictEqual(yield* Fiber.join(check), "ada")
        assert.strictEqual(yield* kept(late), false)
      }).pipe(Effect.scoped)))

  it.effect("F8 secrets and private keys in a set are never used", () =>
    Effect.gen(function*() {
      const { privateKey } = yield* Effect.promise(() => jose.generateKeyPair("EdDSA", { extractable: true }))
      const jwk = { ...yield* Effect.promise(() => jose.exportJWK(privateKey)), kid: "private" }
      const signed = yield* token(() =>
        sign(privateKey, { ...claims, exp: epoch + 600 }, { alg: "EdDSA", kid: "private" })
      )
      yield* beside([jwk], () =>
        Effect.gen(function*() {
          yield* Effect.yieldNow
          yield* TestClock.adjust("30 seconds")
          assert.strictEqual(yield* ask(signed), "unknownKey")
        }))
    }))

  it.effect("F8 a set that says how long it is fresh is read again then: not within the cool-down, not after the refresh", () =>
    Effect.forEach(
      [
        [{ "cache-control": "public, max-age=60" }, 60],
        [{ "cache-control": "Max-Age=\"60\", must-revalidate", age: "20" }, 40],
        [{ "cache-control": "max-age=1" }, 30],
        [{ "cache-control": "max-age=60", age: "59" }, 30],
        [{ "cache-control": "max-age=86400" }, 600],
        [{ "cache-control": "no-store, max-age=0" }, 600],
        [{ "cache-control": "s-maxage=60" }, 600],
        [{ "cache-control": "max-age=soon" }, 600],
        [{ "cache-control": "max-age=60", age: "100" }, 600]
      ] as const,
      ([headers, seconds]) =>
        beside([one.jwk], (state) =>
          Effect.gen(function*() {
            assert.strictEqual(yield* ask(yield* token(one.token)), "ada")
            yield* TestClock.adjust(seconds * 1000 - 1)
            assert.strictEqual(state.asked, 1, JSON.stringify(headers))
            yield* TestClock.adjust(1)
            assert.strictEqual(state.asked, 2, JSON.stringify(headers))
          }), (state) => {
          state.headers = headers
        })
    ))

  it.effect("F8 a set of 100 keys is one, of 101 or more than a mebibyte is an outage", () =>
    Effect.forEach([[99, 0, "ada"], [100, 0, "back in 30000"], [1, 2 ** 20, "back in 30000"]] as const, (
      [count, bytes, answer]
    ) =>
      beside(
        [...Array.from({ length: count }, (_, i) => ({ ...two.jwk, kid: `k${i}` })), one.jwk],
        () =>
          Effect.gen(function*() {
            assert.strictEqual(yield* ask(yield* token(one.token)), answer)
          }),
        (state) => {
          if (bytes > 0) state.keys = { keys: [one.jwk], more: "x".repeat(bytes) }
        }
      )))

  it.effect("F8 reading ends with the layer", () =>
    Effect.gen(function*() {
      const states: Array<State> = []
      yield* beside([one.jwk], (state) => Effect.sync(() => void states.push(state)))
      const asked = states[0]!.asked
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(states[0]!.asked, asked)
      assert.isAbove(yield* Clock.currentTimeMillis, epoch * 1000)
    }))
})
