/**
 * The laws of a middleware about faulty code: odd errors, loggers and tracers that throw, handlers that return no effect,
 * hooks that throw, and the fiber of a call that has ended.
 */
import { assert } from "@effect/vitest"
import type { Envelope, Handler } from "@millrace/core"
import { Cause, Effect, Exit, Fiber, Logger, References, Tracer } from "effect"
import { TestClock } from "effect/testing"
import * as Deliveries from "../../Deliveries.ts"
import { oddErrors } from "./odd.ts"

/** The parts that the laws need from the suite that registers them. */
export interface Suite<Outer extends Deliveries.Carrier, Inner extends Envelope, A, E, R> {
  readonly build: () => (next: Handler<Inner, A, E>) => Handler<Outer, unknown, unknown, R>
  readonly message: () => Outer
  readonly answer: A
  /** Whether the middleware passes every failure of the handler on unchanged. */
  readonly passes: boolean
  readonly law: (title: string, effect: () => Effect.Effect<unknown, unknown, R>) => void
}

const ways = [
  ["at once", <A, E>(exit: Exit.Exit<A, E>): Effect.Effect<A, E> => exit],
  ["later", <A, E>(exit: Exit.Exit<A, E>): Effect.Effect<A, E> => Effect.flatMap(Effect.yieldNow, () => exit)]
] as const

const refuse = (): never => {
  throw new Error("an observer that throws")
}

const throwing = Tracer.make({ span: refuse })

/** A tracer that creates spans whose methods throw. */
const mute = Tracer.make({
  span: (options) => {
    const span = new Tracer.NativeSpan(options)
    for (const name of ["end", "attribute", "event", "addLinks"] as const) {
      Object.defineProperty(span, name, { value: refuse })
    }
    return span
  }
})

const observers: ReadonlyArray<readonly [string, <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>]> = [
  ["a logger that throws", (self) =>
    self.pipe(
      Effect.provide(Logger.layer([Logger.make(refuse)])),
      Effect.provideService(References.MinimumLogLevel, "All")
    )],
  ["a tracer that throws", (self) => Effect.withTracer(self, throwing)],
  ["a span that throws", (self) => Effect.withTracer(self, mute)]
]

const notEffects: ReadonlyArray<() => unknown> = [
  () => undefined,
  () => null,
  () => 7,
  () => "text",
  () => ({}),
  () => () => undefined,
  () => Promise.reject(new Error("an unawaited rejection"))
]

/** Registers the laws. */
export const register = <Outer extends Deliveries.Carrier, Inner extends Envelope, A, E, R>(
  { answer, build, law, message, passes }: Suite<Outer, Inner, A, E, R>
): void => {
  /** Runs one message to its end, hooks included, while the clock jumps ahead. */
  const run = (handler: Handler<Outer, unknown, unknown, R>) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(Deliveries.run(handler, message()), { startImmediately: true })
      yield* TestClock.adjust("1 day")
      yield* TestClock.adjust("1 day")
      return yield* Fiber.join(fiber)
    })

  /** Checks that an instance still works: no state of an earlier message blocks it. */
  const stillWorks = (instance: ReturnType<typeof build>) =>
    Effect.map(run(instance(() => Exit.succeed(answer))), ({ exit, hooks }) => {
      assert.deepStrictEqual(hooks, Exit.void, "a hook of the next message failed")
      assert.strictEqual(exit._tag, "Success", "the next message failed")
    })

  for (const [when, ends] of ways) {
    law(`H1 an odd error passes as any other, and breaks no hook: ${when}`, () =>
      Effect.gen(function*() {
        const instance = build()
        for (const [what, make] of oddErrors) {
          const odd = make()
          // an error of the handler may be any value
          const { exit, hooks } = yield* run(instance(() => ends(Exit.fail(odd as E))))
          assert.deepStrictEqual(hooks, Exit.void, `${what}: a hook failed`)
          if (!passes) continue
          const reason = Exit.isFailure(exit) ? exit.cause.reasons[0] : undefined
          assert(reason !== undefined && Cause.isFailReason(reason), `${what}: the failure became something else`)
          assert(Object.is(reason.error, odd), `${what}: the error became another`)
        }
      }))

    for (const [what, observed] of observers) {
      law(`F19 ${what} changes no outcome: ${when}`, () =>
        Effect.gen(function*() {
          const done = yield* observed(run(build()(() => ends(Exit.succeed(answer)))))
          assert.strictEqual(done.exit._tag, "Success")
          assert.deepStrictEqual(done.hooks, Exit.void, "a hook failed")
          const failed = yield* observed(run(build()(() => ends(Exit.die("defect")))))
          assert(
            Exit.isFailure(failed.exit) && Cause.squash(failed.exit.cause) === "defect",
            "the defect became something else"
          )
          assert.deepStrictEqual(failed.hooks, Exit.void, "a hook failed")
        }))
    }
  }

  law("F19 a handler that returns no Effect is a defect that says so, and holds nothing", () =>
    Effect.gen(function*() {
      const instance = build()
      for (const given of notEffects) {
        // untyped code may return anything
        const { exit } = yield* run(instance(() => given() as Effect.Effect<A, E>))
        const defect = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert(defect instanceof TypeError, `a ${exit._tag} without a TypeError`)
        assert.match(defect.message, /returned .+ instead of an Effect/)
        yield* stillWorks(instance)
      }
    }))

  law(
    "F19 a hook that throws is the hooks' defect, stops no other hook, and holds nothing",
    () =>
      Effect.gen(function*() {
        const instance = build()
        let heard = 0
        const thrown = new Error("hook")
        const { exit, hooks } = yield* run(instance((inner) => {
          inner.after(() => void (heard += 1))
          inner.after(() => {
            throw thrown
          })
          return Exit.succeed(answer)
        }))
        assert.strictEqual(exit._tag, "Success")
        assert.strictEqual(heard, 1)
        assert(Exit.isFailure(hooks) && Cause.squash(hooks.cause) === thrown, "the hooks ended otherwise")
        yield* stillWorks(instance)
      })
  )

  law("X2 what suspends goes on without the fiber of its call", () =>
    Effect.gen(function*() {
      const instance = build()(() => Effect.flatMap(Effect.yieldNow, () => Exit.succeed(answer)))
      const envelope = message()
      const call = Effect.withFiber((fiber) => Effect.succeed({ fiber, result: instance(envelope) }))
      const { fiber: caller, result } = yield* Effect.flatMap(Effect.forkChild(call), Fiber.join)
      let touched = false
      Object.defineProperty(caller, "setContext", {
        value: () => {
          touched = true
        }
      })
      const fiber = yield* Effect.forkChild(result, { startImmediately: true })
      yield* TestClock.adjust("1 day")
      yield* Deliveries.end(envelope, yield* Fiber.await(fiber))
      assert.isFalse(touched, "it uses the fiber of the call after that has ended")
    }))
}
