import { assert, describe, it } from "@effect/vitest"
import {
  Audit,
  Broker,
  BrokerError,
  Bulkhead,
  Channel,
  CircuitBreaker,
  Correlate,
  Fallback,
  type Handler,
  Hedge,
  Hooks,
  Idempotency,
  Log,
  MemoryBroker,
  Metrics,
  Middleware,
  Order,
  type Outgoing,
  Publisher,
  RateLimit,
  Retry,
  Timeout,
  Trace
} from "@millrace/core"
import { Cause, Data, Effect, Exit, Fiber, Layer, Logger, pipe, Schema, Semaphore } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

const Item = Schema.Struct({ n: Schema.Int })
const Items = Channel.make("items", { payload: Item, key: () => "one key" })
type Next = Handler<Outgoing<typeof Item.Type>, unknown, unknown, unknown>
type Step = (next: Next) => Next

class Refused extends Data.TaggedError("Refused")<{}> {
  readonly failure = "permanent" as const
}

const down = BrokerError.make({ system: "memory", operation: "publish", reason: "Unreachable", message: "down" })

interface Call {
  readonly numbers: ReadonlyArray<number>
  readonly headers: ReadonlyArray<Record<string, string>>
  ended: "done" | "failed" | undefined
}

const textOf = (bytes: Uint8Array): string => new TextDecoder().decode(bytes)

/** A broker that notes its calls; how long each takes, in milliseconds, and whether it fails. */
const noting = (script: ReadonlyArray<{ readonly wait: number; readonly fails: boolean }>) => {
  const calls: Array<Call> = []
  const singles: Array<string> = []
  const layer = Layer.effect(
    Broker.Broker,
    Effect.map(MemoryBroker.make({ partitions: 1 }), ({ broker }) =>
      Broker.Broker.of({
        ...broker,
        publish: (message) => {
          singles.push(textOf(message.payload))
          return broker.publish(message)
        },
        publishAll: (messages) =>
          Effect.suspend(() => {
            const { fails, wait } = script[calls.length] ?? { fails: false, wait: 0 }
            const call: Call = {
              numbers: messages.map(({ payload }): number => JSON.parse(textOf(payload)).n),
              headers: messages.map(({ headers }) => headers),
              ended: undefined
            }
            calls.push(call)
            return Effect.sleep(wait).pipe(
              Effect.andThen(fails ? Effect.fail(down) : broker.publishAll(messages)),
              Effect.onExit((exit) =>
                Effect.sync(() => {
                  call.ended = Exit.isSuccess(exit) ? "done" : "failed"
                })
              )
            )
          })
      }))
  )
  return { calls, singles, layer }
}

const services = Layer.mergeAll(
  Bulkhead.layer,
  CircuitBreaker.layer(),
  Hedge.layer,
  RateLimit.layerMemory(),
  Metrics.layer,
  Audit.layerMemory(),
  Idempotency.layerMemory(),
  Logger.layer([])
)

const user = (name: string, build: (next: Next) => Next): Step =>
  Middleware.make()({ name, stage: "publish" }, build as never) as unknown as Step

const holds = (permits: number) => {
  const semaphore = Semaphore.makeUnsafe(permits)
  return user("Holds", (next) => (message) => semaphore.withPermits(1)(Effect.suspend(() => next(message))))
}
const repeats = user("Repeats", (next) => (message) => Effect.retry(Effect.suspend(() => next(message)), { times: 2 }))
const repeatsApart = user("RepeatsApart", (next) => (message) => {
  const attempt = Effect.suspend(() => next(message))
  const wait = 100 * (message.payload.n + 1)
  return Effect.catch(attempt, () => Effect.andThen(Effect.sleep(wait), attempt))
})
const slow = user("Slow", (next) => (message) =>
  message.payload.n % 2 === 0
    ? next(message)
    : Effect.andThen(Effect.sleep(300 * (5 - message.payload.n)), Effect.suspend(() => next(message))))
const slower = user(
  "Slower",
  (next) => (message) => Effect.andThen(Effect.sleep(3000), Effect.suspend(() => next(message)))
)
const signs = user("Signs", (next) => (message) => next(message.withHeader("signed", String(message.payload.n))))
const limits = user("Limits", (next) => (message) => Effect.timeout(Effect.suspend(() => next(message)), 4000))
const refuses = user(
  "Refuses",
  (next) => (message) => message.payload.n === 2 ? Effect.fail(new Refused()) : next(message)
)
const twice = () => {
  const semaphore = Semaphore.makeUnsafe(2)
  return user(
    "HoldsAndRepeats",
    (next) => (message) => Effect.retry(semaphore.withPermits(1)(Effect.suspend(() => next(message))), { times: 1 })
  )
}
/** A plain function, as a program may write it. */
const plain: Step = (next) => (message) => Effect.andThen(Effect.yieldNow, Effect.suspend(() => next(message)))

const step = (middleware: unknown): Step => middleware as Step

let built = 0

const pool: { readonly [name: string]: () => Step } = {
  Retry: () => step(Retry.middleware({ times: 2 })),
  Timeout: () => step(Timeout.middleware({ after: "5 seconds" })),
  // one name twice in a stack would wait for itself with a single message, too
  Bulkhead: () => step(Bulkhead.middleware({ name: `${++built}`, limit: 1, queue: 100 })),
  CircuitBreaker: () => step(CircuitBreaker.middleware({ name: "broker" })),
  RateLimit: () => step(RateLimit.middleware({ limit: 10, onExceeded: "delay", maximumDelay: "1 minute" })),
  Concurrency: () => step(RateLimit.middleware({ name: `places ${++built}`, limit: 1, algorithm: "concurrency" })),
  Hooks: () => step(Hooks.middleware({ preSend: () => Effect.sleep(1500), postSend: () => Effect.void })),
  Log: () => step(Log.middleware()),
  Trace: () => step(Trace.middleware()),
  Metrics: () => step(Metrics.middleware()),
  Correlate: () => step(Correlate.middleware()),
  Audit: () => step(Audit.middleware()),
  holds1: () => holds(1),
  holds3: () => holds(3),
  repeats: () => repeats,
  repeatsApart: () => repeatsApart,
  slow: () => slow,
  slower: () => slower,
  signs: () => signs,
  limits: () => limits,
  refuses: () => refuses,
  twice,
  plain: () => plain
}

/** Runs for as long as virtual time tells it to; undefined where it does not end. */
const ending = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect, { startImmediately: true })
    for (let i = 0; i < 60 && fiber.pollUnsafe() === undefined; i++) yield* TestClock.adjust("10 seconds")
    const exit = fiber.pollUnsafe()
    if (exit === undefined) yield* Fiber.interrupt(fiber)
    return exit
  })

const payloads = (count: number) => Array.from({ length: count }, (_, n) => ({ n }))

const through = (steps: ReadonlyArray<Step>) => (next: Publisher.Innermost<typeof Item.Type>) =>
  // outermost first; what fails and is needed is of no interest here
  steps.reduceRight<Next>((inner, each) => each(inner), next as Next) as Handler<
    Outgoing<typeof Item.Type>,
    unknown,
    unknown
  >

describe("publishAll", () => {
  it(
    "F17 any stack gives the broker all messages in order in one call for each attempt, or none; and that is the result",
    () =>
      fc.assert(
        fc.asyncProperty(
          fc.record({
            count: fc.integer({ min: 1, max: 6 }),
            names: fc.array(fc.constantFrom(...Object.keys(pool)), { maxLength: 5 }),
            wraps: fc.array(fc.constantFrom(...Object.keys(pool).filter((name) => pool[name]!() !== plain)), {
              maxLength: 2
            }),
            script: fc.array(fc.record({ wait: fc.constantFrom(0, 10, 2000, 20_000), fails: fc.boolean() }), {
              maxLength: 8
            })
          }),
          ({ count, names, script, wraps }) => {
            const { calls, layer, singles } = noting(script)
            const told: Array<string> = []
            const outer = user("Told", (next) => (message) => {
              message.after((exit) => void told.push(`${message.payload.n} ${exit._tag}`))
              return next(message)
            })
            let publisher: Publisher.Publisher<typeof Item.Type, unknown, never>
            try {
              publisher = Publisher.make(Items, through([outer, ...names.map((name) => pool[name]!())])) as never
            } catch (error) {
              // a stack in a wrong order is refused
              assert.instanceOf(error, Order.OrderError)
              return Promise.resolve()
            }
            const wrapped = wraps
              // their payload is bytes
              .filter((name) => !["slow", "repeatsApart", "signs", "refuses"].includes(name))
              .reduceRight(
                (inner, name) =>
                  Layer.provide(Broker.wrap(pool[name]!() as never) as Layer.Layer<Broker.Broker>, inner),
                layer as Layer.Layer<Broker.Broker>
              )
            return Effect.runPromise(
              Effect.gen(function*() {
                const exit = yield* ending(publisher.publishAll(payloads(count)))
                assert(exit !== undefined, "it never ended")
                if (exit._tag === "Failure" && Cause.hasDies(exit.cause)) {
                  assert.instanceOf(Cause.squash(exit.cause), Order.OrderError)
                  return
                }
                const all = payloads(count).map(({ n }) => n)
                for (const call of calls) assert.deepStrictEqual(call.numbers, all)
                assert.deepStrictEqual(singles, [])
                assert.strictEqual(
                  calls.filter(({ ended }) => ended === "done").length,
                  exit._tag === "Success" ? 1 : 0
                )
                if (exit._tag === "Success") assert.strictEqual(calls.at(-1)?.ended, "done")
                // a message behind one that failed on the way has not begun
                const expected = all.map((n) => `${n} ${exit._tag}`)
                // a middleware that started over may have registered its hook twice
                const once = Array.from(new Set(told))
                assert.deepStrictEqual(once, expected.slice(0, calls.length > 0 ? count : once.length))
              }).pipe(
                Effect.provide(wrapped),
                Effect.provide([services, TestClock.layer()]),
                Effect.catchDefect((defect) => defect instanceof Order.OrderError ? Effect.void : Effect.die(defect))
              ) as Effect.Effect<void>
            )
          }
        ),
        { numRuns: 300 }
      ),
    60_000
  )

  const run = <E>(
    publisher: Publisher.Publisher<typeof Item.Type, E, never>,
    count: number,
    layer: Layer.Layer<Broker.Broker>
  ) =>
    Effect.map(
      ending(publisher.publishAll(payloads(count))).pipe(Effect.provide(layer)),
      (exit) => exit ?? assert.fail("it never ended")
    )
  // the services that its middlewares need are given to each test
  const publisherOf = (...steps: ReadonlyArray<Step>): Publisher.Publisher<typeof Item.Type, unknown, never> =>
    Publisher.make(Items, through(steps)) as never
  const fails = (times: number) => Array.from({ length: times }, () => ({ wait: 10, fails: true }))

  it.effect("F17 a Bulkhead gives one place to a batch", () => {
    const { calls, layer } = noting([{ wait: 1000, fails: false }])
    return Effect.gen(function*() {
      const bulkhead = step(Bulkhead.middleware({ name: "broker", limit: 2, queue: 100 }))
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(bulkhead), 5, layer)))
      assert.deepStrictEqual(calls.map(({ numbers }) => numbers), [[0, 1, 2, 3, 4]])
    }).pipe(Effect.provide(services))
  })

  it.effect("F17 a Timeout over slow middlewares publishes nothing, and a Retry outside it repeats the whole", () => {
    const { calls, layer } = noting([{ wait: 5000, fails: false }])
    const timeout = step(Timeout.middleware({ after: "1 second" }))
    return Effect.gen(function*() {
      assert.isTrue(Exit.isFailure(yield* run(publisherOf(timeout, slow), 5, layer)))
      assert.deepStrictEqual(calls, [])
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(step(Retry.middleware()), timeout), 3, layer)))
      assert.deepStrictEqual(calls.map(({ ended }) => ended), ["failed", "done"])
    })
  })

  it.effect("F17 a Retry publishes a refused batch again as a whole, and what is inside reads the attempt", () => {
    const { calls, layer } = noting(fails(2))
    const attempts: Array<string> = []
    const reads = user("Reads", (next) => (message) =>
      Effect.flatMap(Retry.Attempt, (attempt) => {
        attempts.push(`${message.payload.n}.${attempt}`)
        return next(message)
      }))
    return Effect.gen(function*() {
      const publisher = publisherOf(step(Trace.middleware()), step(Retry.middleware()), reads)
      assert.isTrue(Exit.isSuccess(yield* run(publisher, 2, layer)))
      assert.deepStrictEqual(calls.map(({ numbers }) => numbers), [[0, 1], [0, 1], [0, 1]])
      assert.deepStrictEqual(attempts, ["0.1", "1.1", "0.2", "1.2", "0.3", "1.3"])
    })
  })

  it.effect("F17 a CircuitBreaker counts batches", () => {
    const { calls, layer } = noting(fails(9))
    return Effect.gen(function*() {
      const breaker = step(CircuitBreaker.middleware({ name: "broker", trip: CircuitBreaker.consecutive(2) }))
      const publisher = publisherOf(breaker)
      for (let i = 0; i < 3; i++) yield* run(publisher, 5, layer)
      assert.strictEqual(calls.length, 2)
    }).pipe(Effect.provide(services))
  })

  it.effect("F17 each message of a refused batch fails for the middlewares that it is inside", () => {
    const { calls, layer } = noting(fails(1))
    const sent: Array<number> = []
    const records = user(
      "Records",
      (next) => (message) => Effect.tap(next(message), () => Effect.sync(() => sent.push(message.payload.n)))
    )
    const spooled: Array<number> = []
    const spools = step((next: Publisher.Innermost<typeof Item.Type>) =>
      pipe(next, Fallback.tags(["BrokerError"], ({ payload }) => Effect.sync(() => spooled.push(payload.n))))
    )
    return Effect.gen(function*() {
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(spools, records), 3, layer)))
      assert.deepStrictEqual([sent, spooled], [[], [0, 1, 2]])
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(spools, records), 3, layer)))
      assert.deepStrictEqual([sent, spooled], [[0, 1, 2], [0, 1, 2]])
      assert.strictEqual(calls.length, 2)
    })
  })

  it.effect("F17 a middleware that holds what the next message waits for lets messages pass in turn, and a warning says so", () => {
    const { calls, layer } = noting([...fails(1), { wait: 0, fails: false }])
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => void lines.push(String(message)))
    const spooled: Array<number> = []
    const semaphore = Semaphore.makeUnsafe(1)
    const spools = user("Spools", (next) => (message) =>
      semaphore.withPermits(1)(
        Effect.catch(Effect.suspend(() => next(message)), () => Effect.sync(() => spooled.push(message.payload.n)))
      ))
    return Effect.gen(function*() {
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(spools), 3, layer)))
      // its message was not the only one that failed
      assert.deepStrictEqual(spooled.sort(), [0, 1, 2])
      assert.strictEqual(calls.length, 1)
      assert.match(lines.join(), /the middleware Spools .* Set inBatch in its description/)
    }).pipe(Effect.provide(Logger.layer([logger])))
  })

  it.effect("F17 a middleware that says once runs once, with the last message", () => {
    const { calls, layer } = noting(fails(1))
    const seen: Array<number> = []
    const semaphore = Semaphore.makeUnsafe(1)
    const once = step(
      Middleware.make<{ message: Outgoing<typeof Item.Type> }>()(
        { name: "Once", stage: "publish", inBatch: "once" },
        (next) => (message) => {
          seen.push(message.payload.n)
          return Effect.retry(semaphore.withPermits(1)(Effect.suspend(() => next(message))), { times: 1 })
        }
      )
    )
    return Effect.gen(function*() {
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(once, signs), 3, layer)))
      assert.deepStrictEqual(seen, [2])
      assert.deepStrictEqual(calls.map(({ numbers }) => numbers), [[0, 1, 2], [0, 1, 2]])
      assert.deepStrictEqual(calls[1]!.headers.map((headers) => headers["signed"]), ["0", "1", "2"])
    })
  })

  it.effect("F17 what a middleware drops is not in the batch, and what it copies is", () => {
    const { calls, layer } = noting([])
    const drops = user("Drops", (next) => (message) => message.payload.n % 2 === 1 ? Effect.void : next(message))
    const none = user("None", () => () => Effect.void)
    const copies = user(
      "Copies",
      (next) => (message) =>
        Effect.all([next(message), next(message.withHeader("copy", "yes"))], { concurrency: 2, discard: true })
    )
    return Effect.gen(function*() {
      for (const each of [drops, none, copies, plain]) {
        assert.isTrue(Exit.isSuccess(yield* run(publisherOf(each), 4, layer)))
      }
      assert.deepStrictEqual(calls.map(({ numbers }) => numbers), [[0, 2], [0, 0, 1, 1, 2, 2, 3, 3], [0, 1, 2, 3]])
    })
  })

  it.effect("F17 messages that a middleware passes on after the batch has ended are published alone", () => {
    const { calls, layer, singles } = noting([{ wait: 1000, fails: false }])
    const later = user(
      "Later",
      (next) => (message) =>
        Effect.asVoid(Effect.forkDetach(Effect.andThen(Effect.sleep(10), Effect.suspend(() => next(message)))))
    )
    return Effect.gen(function*() {
      // another batch is on its way
      yield* Effect.forkChild(publisherOf().publishAll(payloads(1)), { startImmediately: true })
      yield* publisherOf(later).publishAll(payloads(2))
      yield* TestClock.adjust(10)
      assert.strictEqual(calls.length, 1)
      assert.deepStrictEqual(singles, [JSON.stringify({ n: 0 }), JSON.stringify({ n: 1 })])
    }).pipe(Effect.provide(layer))
  })

  it.effect("F17 so are those that a middleware passes on again after their turn in a batch", () => {
    const { calls, layer, singles } = noting([{ wait: 60_000, fails: false }])
    const semaphore = Semaphore.makeUnsafe(1)
    const again = user("Again", (next) => (message) => {
      const passed = Effect.suspend(() => next(message))
      return semaphore.withPermits(1)(
        Effect.andThen(Effect.forkDetach(Effect.andThen(Effect.sleep(10_000), passed)), passed)
      )
    })
    return Effect.gen(function*() {
      // another batch is on its way
      yield* Effect.forkChild(publisherOf().publishAll(payloads(1)), { startImmediately: true })
      yield* Effect.forkChild(publisherOf(again).publishAll(payloads(3)))
      yield* TestClock.adjust(15_000)
      assert.deepStrictEqual(calls.map(({ numbers }) => numbers), [[0], [0, 1, 2]])
      assert.deepStrictEqual(singles, [0, 1, 2].map((n) => JSON.stringify({ n })))
    }).pipe(Effect.provide(Layer.merge(layer, services)))
  })

  it.effect("W5 a batch that holds an idempotency key twice is refused, and gives its keys back", () => {
    const { calls, layer } = noting([])
    const keyed = step(Idempotency.middleware({ key: ({ payload }: Outgoing<typeof Item.Type>) => `${payload.n % 2}` }))
    return Effect.gen(function*() {
      const exit = yield* run(publisherOf(keyed), 3, layer)
      assert.instanceOf(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, Idempotency.IdempotencyRunning)
      assert.deepStrictEqual(calls, [])
      assert.isTrue(Exit.isSuccess(yield* run(publisherOf(keyed), 2, layer)))
    }).pipe(Effect.provide(Idempotency.layerMemory()))
  })

  it.effect("F17 services of one message are not those of another", () => {
    const { calls, layer } = noting([])
    const ids: Array<string | undefined> = []
    const reads = user("Reads", (next) => (message) =>
      Effect.flatMap(Correlate.Current, (current) => {
        ids.push(current?.id)
        return next(message)
      }))
    return Effect.gen(function*() {
      yield* run(publisherOf(step(Correlate.middleware()), step(Trace.middleware()), reads), 3, layer)
      const written = calls[0]!.headers.map((headers) => headers["correlation-id"])
      assert.strictEqual(new Set(written).size, 3)
      assert.deepStrictEqual(ids, written)
    })
  })

  it.effect("F17 a hook that fails fails the batch as a BrokerError of its class, and stops no other hook", () => {
    const { calls, layer } = noting([])
    const told: Array<number> = []
    const unkept = user("Unkept", (next) => (message) => {
      message.after(() => {
        told.push(message.payload.n)
        return Effect.fail(new Refused())
      })
      return next(message)
    })
    return Effect.gen(function*() {
      const exit = yield* run(publisherOf(unkept), 3, layer)
      const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
      assert.instanceOf(error, BrokerError.BrokerError)
      assert.deepStrictEqual([error.reason, error.failure], ["Refused", "permanent"])
      assert.deepStrictEqual([told, calls.length], [[0, 1, 2], 1])
    })
  })

  it.effect("F17 a batch whose caller is interrupted tells the hooks of all messages, and lets go of what is held", () => {
    const { layer } = noting([{ wait: 5000, fails: false }])
    const told: Array<string> = []
    const semaphore = Semaphore.makeUnsafe(3)
    const tells = user("Tells", (next) => (message) => {
      message.after((exit) => void told.push(`${message.payload.n} ${exit._tag}`))
      return semaphore.withPermits(1)(Effect.suspend(() => next(message)))
    })
    return Effect.gen(function*() {
      const publishing = publisherOf(tells).publishAll(payloads(3)).pipe(Effect.provide(layer))
      const fiber = yield* Effect.forkChild(publishing, { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(told, ["0 Failure", "1 Failure", "2 Failure"])
      yield* semaphore.take(3)
    })
  })

  for (const inBatch of [undefined, "each", "once"] as const) {
    it.effect(`F17 what a middleware publishes by its own publisher is no part of its batch: ${inBatch ?? "default"}`, () => {
      const { calls, layer, singles } = noting([])
      const copy = Middleware.make<{ message: Outgoing<typeof Item.Type> }>()(
        { name: "Copy", stage: "publish", inBatch },
        (next) => (message) =>
          message.payload.n >= 100
            ? next(message)
            // the type of the publisher is that of its middleware
            : Effect.flatMap(Effect.orDie(publisher.publish({ n: message.payload.n + 100 })), () => next(message))
      )
      const publisher = publisherOf(step(copy)) as Publisher.Publisher<typeof Item.Type, unknown, never>
      return Effect.gen(function*() {
        assert.isTrue(Exit.isSuccess(yield* run(publisher, 3, layer)))
        assert.deepStrictEqual(calls.map(({ numbers }) => numbers), [[0, 1, 2]])
        const copies = inBatch === "once" ? [102] : [100, 101, 102]
        assert.deepStrictEqual(singles, copies.map((n) => JSON.stringify({ n })))
      })
    })
  }

  it.effect("F17 a batch of which one message fails on the way ends soon, however many wait inside", () => {
    const count = 20_000
    const { calls, layer } = noting([])
    const late = Middleware.make<{ message: Outgoing<typeof Item.Type> }>()(
      { name: "Late", stage: "publish", inBatch: "each" },
      (next) => (message) =>
        Effect.andThen(
          Effect.yieldNow,
          Effect.suspend(() => message.payload.n === count - 1 ? Effect.die("late") : next(message))
        )
    )
    return Effect.gen(function*() {
      const exit = yield* Effect.exit(Effect.provide(publisherOf(step(late)).publishAll(payloads(count)), layer))
      assert.strictEqual(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, "late")
      assert.deepStrictEqual(calls, [])
    })
    // 1 second where it is linear, and 15 where each message that is interrupted looks at all others
  }, 8000)
})
