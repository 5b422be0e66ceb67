import { Auth, Eager, type Envelope, Order, Outgoing, Settlement } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Layer, pipe } from "effect"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const subject = (_message: Envelope) => Effect.map(Auth.Principal, (principal) => principal.subject)
const known = Auth.layerMemory({
  "token-of-ada": { subject: "ada", scopes: ["orders:read", "orders:write"] },
  "token-of-bob": { subject: "bob" }
})
const handler = Auth.middleware()(subject)

const outcomeOf = (exit: Exit.Exit<unknown, unknown>) =>
  Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag

describe("Auth", () => {
  it.effect("F8 F19 gives the principal of a known credential to the handler", () =>
    Effect.gen(function*() {
      const exit = yield* runChain(handler, deliver({ headers: { Authorization: "Bearer token-of-ada" } }))
      assert.deepStrictEqual(exit, Exit.succeed("ada"))
    }).pipe(Effect.provide(known)))

  it.effect("F8 X2 the principal of one message is not seen by the next", () =>
    Effect.gen(function*() {
      const optional = Effect.serviceOption(Auth.Principal)
      yield* runChain(handler, deliver({ headers: { authorization: "Bearer token-of-ada" } }))
      const left = yield* runChain(() => optional, deliver())
      assert.strictEqual(left._tag === "Success" && left.value._tag, "None")
      const subjects = yield* Effect.forEach(
        Array.from({ length: 100 }, (_, i) => i % 2 === 0 ? "ada" : "bob"),
        (name) =>
          runChain(
            Auth.middleware()((message: Envelope) => Effect.andThen(Effect.yieldNow, subject(message))),
            deliver({ headers: { authorization: `Bearer token-of-${name}` } })
          ).pipe(Effect.map((exit) => exit._tag === "Success" && exit.value === name)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(subjects, subjects.map(() => true))
    }).pipe(Effect.provide(known)))

  it.effect("F8 a refused message says why, is dead-lettered, and never reaches the handler", () =>
    Effect.gen(function*() {
      let called = 0
      const counted = Auth.middleware()((_message: Envelope) => Effect.sync(() => called++))
      for (
        const [headers, reason] of [
          [{}, "missing"],
          [{ authorization: "Basic token-of-ada" }, "missing"],
          [{ authorization: "Bearer" }, "missing"],
          [{ authorization: "Bearertoken-of-ada" }, "missing"],
          [{ authorization: "Bearer unknown" }, "refused"],
          [{ authorization: "Bearer __proto__" }, "refused"],
          [{ authorization: "Bearer " }, "refused"]
        ] as const
      ) {
        const exit = yield* runChain(counted, deliver({ headers }))
        assert.deepStrictEqual(exit, Exit.fail(new Auth.Unauthorized({ reason })), JSON.stringify(headers))
        assert.strictEqual(outcomeOf(exit), "DeadLetter")
      }
      assert.strictEqual(called, 0)
    }).pipe(Effect.provide(known)))

  it.effect("F8 the scheme is compared in any case", () =>
    Effect.gen(function*() {
      for (const scheme of ["bearer", "BEARER", "Bearer", "bEaReR"]) {
        const exit = yield* runChain(handler, deliver({ headers: { authorization: `${scheme} token-of-bob` } }))
        assert.deepStrictEqual(exit, Exit.succeed("bob"))
      }
    }).pipe(Effect.provide(known)))

  it.effect("F8 without a scheme the whole header is the credential, as an API key's is", () =>
    Effect.gen(function*() {
      const byKey = Auth.middleware({ header: "X-API-Key", scheme: "" })(subject)
      const exit = yield* runChain(byKey, deliver({ headers: { "x-api-key": "token-of-bob" } }))
      assert.deepStrictEqual(exit, Exit.succeed("bob"))
    }).pipe(Effect.provide(known)))

  it.effect("F8 a principal passes exactly when it has every scope, and Forbidden names those that it lacks", () => {
    const names = ["a", "b", "c", "d"]
    return Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.subarray(names),
          fc.subarray(names, { minLength: 1 }),
          fc.boolean(),
          async (has, asked, apart) => {
            const [first = "", ...others] = asked
            const guarded = apart
              ? pipe(subject, Auth.scopes(first, ...others), Auth.middleware())
              : Auth.middleware({ scopes: [first, ...others] })(subject)
            const exit = await Effect.runPromise(
              runChain(guarded, deliver({ headers: { authorization: "Bearer t" } })).pipe(
                Effect.provide(Auth.layerMemory({ t: { subject: "ada", scopes: has } }))
              )
            )
            const missing = asked.filter((scope) => !has.includes(scope))
            assert.deepStrictEqual(
              exit,
              missing.length === 0 ? Exit.succeed("ada") : Exit.fail(new Auth.Forbidden({ subject: "ada", missing }))
            )
            assert.strictEqual(outcomeOf(exit), missing.length === 0 ? "Ack" : "DeadLetter")
          }
        )
      )
    )
  })

  it.effect("F8 a verifier that cannot say sends the message back instead of dead-lettering it", () =>
    Effect.gen(function*() {
      const down = new Auth.AuthUnavailable({ message: "down", retryAfter: Duration.seconds(3) })
      const exit = yield* runChain(handler, deliver({ headers: { authorization: "Bearer t" } })).pipe(
        Effect.provide(Layer.succeed(Auth.Verifier, { verify: () => Effect.fail(down) }))
      )
      assert.deepStrictEqual(exit, Exit.fail(down))
      const outcome = Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)
      assert.isTrue(outcome._tag === "Retry" && Duration.toMillis(outcome.after ?? 0) === 3000)
    }))

  it.effect("F8 an answer that is there at once is used at once, a late one is awaited", () =>
    Effect.gen(function*() {
      const message = deliver({ headers: { authorization: "Bearer token-of-ada" } })
      const quick = Auth.middleware()((_message: Envelope) => Exit.succeed("done"))
      assert.isTrue(yield* Effect.sync(() => Eager.isDone(quick(message))))
      const { verify } = yield* Auth.Verifier
      const late = Auth.Verifier.of({ verify: (credential) => Effect.andThen(Effect.yieldNow, verify(credential)) })
      const slow = runChain(handler, message).pipe(Effect.provideService(Auth.Verifier, late))
      assert.deepStrictEqual(yield* slow, Exit.succeed("ada"))
    }).pipe(Effect.provide(known)))

  it.effect("F8 X1 a publisher is checked as a consumer is", () =>
    Effect.gen(function*() {
      const outgoing = new Outgoing("orders", new Uint8Array(), undefined, { authorization: "Bearer token-of-bob" })
      assert.deepStrictEqual(yield* runChain(handler, outgoing), Exit.succeed("bob"))
    }).pipe(Effect.provide(known)))

  it("F16 scopes outside authentication are refused when the pipeline is built", () => {
    assert.deepStrictEqual(Order.violations(pipe(subject, Auth.middleware(), Auth.scopes("a"))), [
      "Scopes must stand inside Auth, not outside it: there is no principal to ask before the message is authenticated"
    ])
    assert.deepStrictEqual(Order.violations(pipe(subject, Auth.scopes("a"), Auth.middleware())), [])
  })

  it("options out of range are refused when the middleware is built", () => {
    assert.throws(() => Auth.middleware({ header: "" }), RangeError, "Auth: header must be a name")
    assert.throws(() => Auth.middleware({ scheme: "Bear er" }), RangeError, "Auth: scheme must be a token")
  })
})
