/**
 * The laws of every middleware, as one suite: a middleware must not lose a result, an error, a defect or an interruption on
 * the way out, and must leave no trace of one message for the next.
 */
import { assert, describe, it } from "@effect/vitest"
import type { Envelope, Handler } from "@millrace/core"
import { Cause, Context, Data, Effect, Exit, Fiber, Layer, Logger } from "effect"
import { TestClock } from "effect/testing"
import * as Deliveries from "./Deliveries.ts"
import * as Faults from "./internal/laws/faults.ts"

export { oddErrors } from "./internal/laws/odd.ts"

/** The error that the inner handler fails with; it has no class. */
export class LawError extends Data.TaggedError("LawError")<{}> {}

/** Options of `suite`. */
export interface Options<Outer extends Deliveries.Carrier, R, A> {
  /** Makes a new message each time, which the middleware must let through. */
  readonly message: () => Outer
  /** The services that the middleware needs; built anew for each run. */
  readonly layer?: Layer.Layer<R> | undefined
  /** The result of the inner handler. Default: an object. */
  readonly answer?: A | undefined
  /**
   * `passes` (the default): the middleware passes the handler's `LawError` through unchanged. A function: the middleware
   * handles the error, and the function checks the exit.
   */
  readonly failure?: "passes" | ((exit: Exit.Exit<unknown, unknown>) => void) | undefined
  /** How often the middleware may call the handler for one message. Default: `once`. */
  readonly calls?: "once" | "several" | undefined
}

type Inside<Inner, A> = Handler<Inner, A, LawError>

interface Ended {
  readonly exit: Exit.Exit<unknown, unknown>
  readonly calls: number
}

/** How the inner handler ends: at the call, or later. */
const ways = [
  ["at once", <A, E>(exit: Exit.Exit<A, E>): Effect.Effect<A, E> => exit],
  ["later", <A, E>(exit: Exit.Exit<A, E>): Effect.Effect<A, E> => Effect.flatMap(Effect.yieldNow, () => exit)]
] as const

class Mark extends Context.Service<Mark, { readonly of: string }>()("@millrace/testing/MiddlewareLaws/Mark") {}

const reasonOf = (exit: Exit.Exit<unknown, unknown>): Cause.Reason<unknown> => {
  assert(Exit.isFailure(exit), "the chain succeeded")
  const reason = exit.cause.reasons[0]
  assert(reason !== undefined, "the chain failed without a reason")
  return reason
}

/**
 * Registers the laws of a middleware as tests, each with a handler that ends at once and with one that ends later.
 *
 * `build` makes a new instance at each call. The tests run in virtual time and print no logs. Beside successes and failures
 * they try errors of any kind (`oddErrors`), loggers and tracers that throw, hooks that throw, and handlers that return no
 * effect: none of these may change the end of a message or hold a place, a permit or a timer.
 *
 * **Example** (your own middleware)
 *
 * ```ts no-run
 * import { Middleware } from "@millrace/core"
 * import { Deliveries, MiddlewareLaws } from "@millrace/testing"
 *
 * MiddlewareLaws.suite(
 *   "Pass",
 *   () => Middleware.make()({ name: "Pass", stage: "consume" }, (next) => next),
 *   { message: () => Deliveries.make() }
 * )
 * ```
 */
export const suite = <Outer extends Deliveries.Carrier, Inner extends Envelope, R = never, A = unknown>(
  name: string,
  build: () => (next: Inside<Inner, A>) => Handler<Outer, unknown, unknown, R>,
  options: Options<Outer, R, A>
): void => {
  // a middleware without needs has R = never, and any object is a valid answer if A is unspecified
  const layer = Layer.fresh(options.layer ?? Layer.empty as unknown as Layer.Layer<R>)
  const answer = options.answer ?? { of: "the handler" } as A
  const several = options.calls === "several"

  /** Runs one message through a chain and its hooks, as a source does, while the clock jumps ahead. */
  const run = (handler: Handler<Outer, unknown, unknown, R>, message: Outer) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(Deliveries.run(handler, message), { startImmediately: true })
      // first the chain's time, then that of its hooks
      yield* TestClock.adjust("1 day")
      yield* TestClock.adjust("1 day")
      const { exit, hooks } = yield* Fiber.join(fiber)
      assert.deepStrictEqual(hooks, Exit.void, "a hook failed")
      return exit
    })

  /** Runs one message through a new instance around a handler. */
  const end = (inside: Inside<Inner, A>, instance = build()) =>
    Effect.gen(function*() {
      let calls = 0
      const exit = yield* run(
        instance((message) => {
          calls += 1
          return inside(message)
        }),
        options.message()
      )
      return { exit, calls } satisfies Ended
    })

  const law = (title: string, effect: () => Effect.Effect<unknown, unknown, R>) =>
    it.effect(title, () => Effect.provide(effect(), Layer.merge(layer, Logger.layer([]))))

  describe(`${name}: laws of a middleware`, () => {
    for (const [when, ends] of ways) {
      law(
        `F19 a success passes, and the handler is called once: ${when}`,
        () =>
          Effect.map(end(() => ends(Exit.succeed(answer))), ({ calls, exit }) => {
            assert(Exit.isSuccess(exit), `the chain failed: ${String(exit)}`)
            assert.strictEqual(exit.value, answer)
            assert.strictEqual(calls, 1)
          })
      )

      law(`F19 a failure passes, unless the middleware is declared to handle it: ${when}`, () => {
        const error = new LawError()
        return Effect.map(end(() => ends(Exit.fail(error))), ({ calls, exit }) => {
          if (!several) assert.strictEqual(calls, 1)
          if (typeof options.failure === "function") return options.failure(exit)
          const reason = reasonOf(exit)
          assert(Cause.isFailReason(reason), "the failure became something else")
          assert.strictEqual(reason.error, error)
        })
      })

      law(`F19 a defect passes: ${when}`, () => {
        const defect = new Error("defect")
        return Effect.map(end(() => ends(Exit.die(defect))), ({ calls, exit }) => {
          const reason = reasonOf(exit)
          assert(Cause.isDieReason(reason), "the defect became something else")
          assert.strictEqual(reason.defect, defect)
          if (!several) assert.strictEqual(calls, 1)
        })
      })

      law(
        `F19 an interruption passes: ${when}`,
        () =>
          Effect.map(end(() => ends(Exit.interrupt())), ({ calls, exit }) => {
            assert(
              Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause),
              "the interruption became something else"
            )
            assert.strictEqual(calls, 1)
          })
      )

      law(
        `F19 a hook of the handler runs once, after the chain, and sees how it ended: ${when}`,
        () =>
          Effect.gen(function*() {
            const seen: Array<string> = []
            const message = options.message()
            const exit = yield* run(
              build()((inner) => {
                inner.after((exit) => void seen.push(exit._tag))
                return ends(Exit.succeed(answer))
              }),
              message
            )
            assert.deepStrictEqual(seen, [exit._tag])
          })
      )
    }

    law(
      "F19 a throw inside settles as a defect, and is not thrown at the caller of the chain",
      () =>
        Effect.gen(function*() {
          const defect = new Error("thrown")
          const handler = build()(() => {
            throw defect
          })
          let thrown: unknown
          const exit = yield* run((message) => {
            try {
              return handler(message)
            } catch (error) {
              thrown = error
              throw error
            }
          }, options.message())
          assert.isUndefined(thrown, "it threw")
          const reason = reasonOf(exit)
          assert(Cause.isDieReason(reason), "the throw became something else")
          assert.strictEqual(reason.defect, defect)
        })
    )

    law("F19 interrupting the chain interrupts the handler", () =>
      Effect.gen(function*() {
        let ended = 0
        const handler = build()(() => Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (ended += 1))))
        const message = options.message()
        const fiber = yield* Effect.forkChild(Effect.suspend(() => handler(message)), { startImmediately: true })
        yield* TestClock.adjust(0)
        assert.strictEqual(ended, 0)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(ended, 1)
        yield* Deliveries.end(message, Exit.interrupt())
        assert.strictEqual(ended, 1)
      }))

    law("F19 a chain that is called and then never awaited is ended by its hooks", () =>
      Effect.gen(function*() {
        let started = 0
        let ended = 0
        const handler = build()(() =>
          Effect.suspend(() => {
            started += 1
            return Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (ended += 1)))
          })
        )
        const message = options.message()
        yield* Effect.suspend(() => {
          void handler(message)
          return Effect.void
        })
        yield* TestClock.adjust(0)
        yield* Deliveries.end(message, Exit.interrupt())
        assert.strictEqual(ended, started)
      }))

    law("F15 instances share nothing, and one instance keeps nothing of a message for the next handler", () => {
      const history: ReadonlyArray<Exit.Exit<A, LawError>> = [
        Exit.succeed(answer),
        Exit.fail(new LawError()),
        Exit.die("defect"),
        Exit.succeed(answer),
        Exit.interrupt()
      ]
      const through = (instance: ReturnType<typeof build>) =>
        Effect.forEach(history, (exit) => Effect.map(end(() => exit, instance), shape)).pipe(Effect.provide(layer))
      return Effect.gen(function*() {
        const first = build()
        const second = build()
        const alone = yield* through(first)
        assert.deepStrictEqual(yield* through(second), alone, "a second instance differs from the first")
        assert.deepStrictEqual(yield* through(first), alone, "the first instance differs the second time")
      })
    })

    law(
      "X2 the handler has the services of the caller, and the caller's fiber is left as it was",
      () =>
        Effect.gen(function*() {
          const handler = build()(() => {
            seen.push(
              Context.getUnsafe(Fiber.getCurrent()!.context, Mark as unknown as Context.Key<never, Mark["Service"]>).of
            )
            return Exit.succeed(answer)
          })
          const seen: Array<string> = []
          yield* Effect.withFiber((fiber) => {
            const before = fiber.context
            const result = handler(options.message())
            assert.strictEqual(fiber.context, before, "the fiber's services were changed")
            return Effect.asVoid(result)
          }).pipe(Effect.provideService(Mark, { of: "the caller" }))
          assert.deepStrictEqual(seen, ["the caller"])
        })
    )

    Faults.register({
      build,
      message: options.message,
      answer,
      passes: typeof options.failure !== "function",
      law
    })
  })
}

/** The parts of an end that do not depend on the identity of errors. */
const shape = ({ calls, exit }: Ended) => ({
  calls,
  exit: Exit.isSuccess(exit) ? "Success" : exit.cause.reasons.map((reason) => reason._tag).join()
})
