import { assert, describe, it } from "@effect/vitest"
import { DeadLetter, type Failure, type Handler, type Message, Order, Outcome, Retry, Stack } from "@millrace/core"
import { Cause, Data, Duration, Effect, Exit, pipe } from "effect"
import { deliver, runChain } from "./support.ts"

class Refused extends Data.TaggedError("Refused")<{ readonly status: number }> {}
class Failed extends Data.TaggedError("Failed")<{
  readonly failure: Failure.FailureClass
  readonly retryAfter?: Duration.Duration
}> {}

type Errors = Refused | Failed

const failing = (error: Errors) => (_: Message<unknown>): Effect.Effect<string, Errors> => Effect.fail(error)

const suspended = (error: Errors) => (_: Message<unknown>): Effect.Effect<string, Errors> =>
  Effect.andThen(Effect.yieldNow, Effect.fail(error))

const run = <A, E>(handler: Handler<Message<Uint8Array>, A, E>, attempt = 1) => runChain(handler, deliver({ attempt }))

const refused = new Refused({ status: 410 })

describe("DeadLetter", () => {
  for (const [how, fails] of [["at once", failing], ["later", suspended]] as const) {
    it.effect(`F13 an error with the tag becomes a dead letter, any other passes: failing ${how}`, () =>
      Effect.gen(function*() {
        const other = new Failed({ failure: "transient" })
        assert.deepStrictEqual(
          yield* run(pipe(fails(refused), DeadLetter.tags("Refused"))),
          Exit.succeed(Outcome.DeadLetter(refused))
        )
        assert.deepStrictEqual(yield* run(pipe(fails(other), DeadLetter.tags("Refused"))), Exit.fail(other))
      }))

    it.effect(`F13 an error of the class becomes a dead letter, any other passes: failing ${how}`, () =>
      Effect.gen(function*() {
        const invalid = new Failed({ failure: "validation" })
        const transient = new Failed({ failure: "transient" })
        const chain = (error: Errors) => pipe(fails(error), DeadLetter.classes("validation", "auth"))
        assert.deepStrictEqual(yield* run(chain(invalid)), Exit.succeed(Outcome.DeadLetter(invalid)))
        assert.deepStrictEqual(yield* run(chain(transient)), Exit.fail(transient))
        assert.deepStrictEqual(yield* run(chain(refused)), Exit.fail(refused))
      }))

    it.effect(`F13 what carries retryAfter goes back to its source, whoever names it: failing ${how}`, () =>
      Effect.gen(function*() {
        const error = new Failed({ failure: "throttled", retryAfter: Duration.seconds(9) })
        const back = Exit.succeed(Outcome.Retry({ after: "9 seconds" }))
        assert.deepStrictEqual(yield* run(pipe(fails(error), DeadLetter.tags("Failed"))), back)
        assert.deepStrictEqual(yield* run(pipe(fails(error), DeadLetter.classes("throttled"))), back)
        assert.deepStrictEqual(yield* run(pipe(fails(error), DeadLetter.when((e) => e._tag === "Failed"))), back)
        assert.deepStrictEqual(yield* run(pipe(fails(error), DeadLetter.afterAttempts(1)), 5), Exit.fail(error))
      }))
  }

  it.effect("F13 a guard decides by the error's fields", () =>
    Effect.gen(function*() {
      const gone = (error: Errors): error is Refused => error._tag === "Refused" && error.status === 410
      assert.deepStrictEqual(
        yield* run(pipe(failing(refused), DeadLetter.when(gone))),
        Exit.succeed(Outcome.DeadLetter(refused))
      )
      const other = new Refused({ status: 500 })
      assert.deepStrictEqual(yield* run(pipe(failing(other), DeadLetter.when(gone))), Exit.fail(other))
    }))

  it.effect("F13 a success, a defect and an interruption pass", () =>
    Effect.gen(function*() {
      const through = DeadLetter.classes("defect", "transient", "permanent")
      assert.deepStrictEqual(yield* run(pipe(() => Effect.succeed(1), through)), Exit.succeed(1))
      const died = yield* run(pipe(() => Effect.die(new Failed({ failure: "permanent" })), through))
      assert(died._tag === "Failure" && died.cause.reasons[0]?._tag === "Die")
      const interrupted = yield* run(pipe(() => Effect.interrupt, through))
      assert(interrupted._tag === "Failure" && Cause.hasInterruptsOnly(interrupted.cause))
    }))

  it.effect.each(
    [
      ["transient", "DeadLetter"],
      ["timeout", "DeadLetter"],
      ["dependency", "DeadLetter"],
      ["conflict", "DeadLetter"],
      ["throttled", "DeadLetter"],
      ["permanent", "passes"],
      ["auth", "passes"],
      ["validation", "passes"],
      ["poison", "passes"],
      ["defect", "passes"]
    ] as const
  )(
    "F13 the last attempt of what would be retried is a dead letter: %s",
    ([failure, expected]) =>
      Effect.gen(function*() {
        const error = new Failed({ failure })
        const chain = pipe(failing(error), DeadLetter.afterAttempts(3))
        assert.deepStrictEqual(yield* run(chain, 2), Exit.fail(error))
        const last = expected === "passes" ? Exit.fail(error) : Exit.succeed(Outcome.DeadLetter(error))
        assert.deepStrictEqual(yield* run(chain, 3), last)
        assert.deepStrictEqual(yield* run(chain, 4), last)
      })
  )

  it("F13 options out of range are refused by name", () => {
    assert.throws(() => DeadLetter.tags(), RangeError, "DeadLetter: tags must be at least one, got none")
    assert.throws(() => DeadLetter.classes(), RangeError, "DeadLetter: classes must be at least one")
    assert.throws(
      () => DeadLetter.classes("fatal" as "auth"),
      RangeError,
      "DeadLetter: each of classes must be \"transient\""
    )
    assert.throws(
      () => DeadLetter.afterAttempts(0),
      RangeError,
      "DeadLetter: attempts must be an integer from 1, got 0"
    )
  })

  it("F16 each of its forms is refused inside Retry, in pipe and in a stack, by a sentence that names both", () => {
    const sentence = "DeadLetter must stand outside Retry, not inside it: "
    const fails = failing(refused)
    const start = Stack.start<Message<Uint8Array>>().use(Retry.middleware())
    const wrong = [
      pipe(fails, DeadLetter.tags("X"), Retry.middleware()),
      pipe(fails, DeadLetter.classes("auth"), Retry.middleware()),
      pipe(fails, DeadLetter.afterAttempts(2), Retry.middleware()),
      pipe(fails, DeadLetter.when((error) => error._tag === "Refused"), Retry.middleware()),
      start.use(DeadLetter.tags("X")).handle(fails),
      start.use(DeadLetter.classes("auth")).handle(fails),
      start.use(DeadLetter.afterAttempts(2)).handle(fails)
    ]
    for (const each of wrong) assert.throws(() => Order.check(each), Order.OrderError, sentence)
    assert.doesNotThrow(() => Order.check(pipe(fails, Retry.middleware(), DeadLetter.tags("X"))))
  })
})
