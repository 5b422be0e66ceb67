import { CircuitBreaker, type Delivery, type Failure, Fallback, type Headers } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Exit, Metric, pipe } from "effect"
import { deliver } from "./support.ts"

class Down extends Data.TaggedError("Down")<{ readonly host: string }> {
  readonly failure = "dependency"
}
class Wrong extends Data.TaggedError("Wrong")<{}> {
  readonly failure = "validation"
}

const ways = [
  ["at once", <A, E>(effect: Effect.Effect<A, E>) => effect],
  ["later", <A, E>(effect: Effect.Effect<A, E>) => Effect.andThen(Effect.yieldNow, effect)]
] as const

const fallbacks = Effect.map(
  Metric.snapshot,
  (all) =>
    all.filter(({ attributes, id }) =>
      id === "millrace.fallbacks" && attributes?.["messaging.destination.name"] === "prices"
    ).map(({ attributes, state }) => [attributes?.["error.type"], "count" in state ? state.count : undefined])
)

describe("X12 a fallback", () => {
  for (const [way, make] of ways) {
    it.effect(`X12 answers instead, with the error and the message, and says so (${way})`, () =>
      Effect.gen(function*() {
        const seen: Array<Headers.Headers> = []
        const handler = pipe(
          (message: Delivery): Effect.Effect<string, Down | Wrong> =>
            make<string, Down | Wrong>(Effect.fail(message.key === "wrong" ? new Wrong() : new Down({ host: "h" }))),
          Fallback.tags(["Down"], (message, error) => {
            seen.push(message.headers)
            return Effect.succeed({ cached: error.host })
          })
        )
        const answer = yield* Effect.suspend(() => handler(deliver({ channel: "prices", headers: { tenant: "7" } })))
        assert.deepStrictEqual(answer, { cached: "h" })
        assert.deepStrictEqual(seen.map((headers) => Object.entries(headers)), [[["tenant", "7"], [
          Fallback.header,
          "Down"
        ]]])
        assert.deepStrictEqual(yield* fallbacks, [["Down", 1]])
        const wrong: Wrong = yield* Effect.flip(Effect.suspend(() => handler(deliver({ key: "wrong" }))))
        assert.strictEqual(wrong._tag, "Wrong")
      }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))

    it.effect(`X12 by classes it takes what another middleware refused, and fails as its own handler does (${way})`, () =>
      Effect.gen(function*() {
        const handler = pipe(
          (_: Delivery): Effect.Effect<string, Down> => make(Effect.fail(new Down({ host: "h" }))),
          CircuitBreaker.middleware({ name: "it", trip: CircuitBreaker.consecutive(1) }),
          Fallback.classes(
            ["dependency"],
            (_, error) => error._tag === "CircuitOpen" ? Effect.fail(new Wrong()) : Effect.succeed("cached")
          )
        )
        const call = Effect.suspend(() => handler(deliver()))
        assert.strictEqual(yield* call, "cached")
        assert.strictEqual((yield* Effect.flip(call))._tag, "Wrong")
      }).pipe(Effect.provide(CircuitBreaker.layer())))

    it.effect(`X12 lets answers, defects and interruptions pass (${way})`, () =>
      Effect.gen(function*() {
        const exits: ReadonlyArray<Effect.Effect<string, Down>> = [
          Exit.succeed("ok"),
          Exit.die("no"),
          Exit.interrupt(1),
          Exit.failCause(Cause.combine(Cause.fail(new Down({ host: "h" })), Cause.interrupt(1)))
        ]
        for (const end of exits) {
          const handler = pipe(
            (_: Delivery): Effect.Effect<string, Down> => make(end),
            Fallback.tags(["Down"], () => Effect.succeed("cached"))
          )
          const exit = yield* Effect.exit(end)
          const out = yield* Effect.exit(Effect.suspend(() => handler(deliver())))
          assert.strictEqual(String(out), String(exit))
        }
      }))
  }

  it("X12 wrong options are refused with their name", () => {
    assert.throws(() => Fallback.tags([], () => Effect.void), RangeError, "Fallback: tags must be at least one")
    assert.throws(() => Fallback.classes([], () => Effect.void), RangeError, "Fallback: classes must be at least one")
    assert.throws(
      () => Fallback.classes(["other" as Failure.FailureClass], () => Effect.void),
      RangeError,
      "Fallback: each of classes must be \"transient\", "
    )
  })
})
