import {
  Auth,
  Broker,
  BrokerError,
  Channel,
  DeadLetter,
  DeadLetters,
  Decode,
  Filter,
  type Handler,
  Lanes,
  MemoryBroker,
  type Message,
  Middleware,
  Order as Rules,
  Publisher,
  Request,
  Retries,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Data, Effect, Exit, Fiber, Layer, Logger, Metric, pipe, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

const Item = Schema.Struct({ sku: Schema.String })
type Item = typeof Item.Type

class OutOfStock extends Schema.TaggedError<OutOfStock>()("OutOfStock", { sku: Schema.String }) {}
class Down extends Data.TaggedError("Down")<{ readonly secret: string }> {
  readonly failure = "dependency" as const
}
class Broken extends Data.TaggedError("Broken")<{ readonly secret: string }> {
  readonly failure = "permanent" as const
}

const Prices = Channel.make("prices", { payload: Item })
const Price = Request.make(Prices, {
  reply: Schema.Struct({ cents: Schema.Int }),
  errors: OutOfStock,
  deadline: "10 seconds"
})
const quiet = Logger.layer([])
const memory = MemoryBroker.layer({ partitions: 1 })

type Answers<E> = (message: Message<Item>) => Effect.Effect<{ readonly cents: number }, E>

const serve = <E>(
  handle: Answers<E>,
  options: Partial<Subscription.Options> = {}
): Effect.Effect<Broker.Running, BrokerError.BrokerError, Broker.Broker | Scope.Scope> => {
  const handler = pipe(handle, Decode.middleware(Prices), Request.answer(Price))
  return Subscription.run(Subscription.make(
    Prices,
    { group: "shop", name: "price", lanes: Lanes.unordered(100), ...options },
    // errors of these tests are classified or declared
    handler as Handler<Message<Uint8Array>, unknown, never, Broker.Broker>
  ))
}

const browse = (channel: string) => Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

const textOf = (raw: Uint8Array) => new TextDecoder().decode(raw)

/** Asks, lets time pass, and says how it ended. */
const ended = <A, E>(request: Effect.Effect<A, E>, time = "1 minute" as const) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(request, { startImmediately: true })
    // what happens at once needs turns of the scheduler, and time must not run ahead of them
    for (let turn = 0; turn < 5; turn++) yield* TestClock.adjust("1 millis")
    yield* TestClock.adjust(time)
    return yield* Fiber.await(fiber)
  })

const errorOf = (exit: Exit.Exit<unknown, unknown>): unknown =>
  Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined

const length: Answers<never> = ({ payload }) => Effect.succeed({ cents: payload.sku.length })

describe("Request", () => {
  it("F20, B7 each of many requests at once gets its own answer, however long each takes", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 3000 }), fc.constantFrom("answer", "declared", "broken")), {
          maxLength: 20
        }),
        (requests) =>
          Effect.runPromise(
            Effect.gen(function*() {
              yield* serve(({ payload: { sku } }): Effect.Effect<{ cents: number }, OutOfStock | Broken> => {
                const [delay, what] = requests[Number(sku)]!
                return Effect.andThen(
                  Effect.sleep(delay),
                  what === "answer"
                    ? Effect.succeed({ cents: Number(sku) })
                    : Effect.fail(what === "declared" ? new OutOfStock({ sku }) : new Broken({ secret: "s3cret" }))
                )
              })
              const client = yield* Request.client(Price)
              const fibers = yield* Effect.forEach(
                requests,
                (_, i) => Effect.forkChild(client.request({ sku: `${i}` }))
              )
              yield* TestClock.adjust("9 seconds")
              for (const [i, [, what]] of requests.entries()) {
                const exit = yield* Fiber.await(fibers[i]!)
                if (what === "answer") assert.deepStrictEqual(exit, Exit.succeed({ cents: i }))
                else if (what === "declared") assert.deepStrictEqual(errorOf(exit), new OutOfStock({ sku: `${i}` }))
                else assert.instanceOf(errorOf(exit), Request.RemoteError)
              }
              const replies = yield* browse(client.replyTo)
              assert.strictEqual(replies.length, requests.length)
              for (const { raw } of replies) assert.notInclude(textOf(raw), "s3cret")
              assert.deepStrictEqual(yield* client.statistics, { pending: 0, late: 0 })
            }).pipe(Effect.scoped, Effect.provide([memory, TestClock.layer()]))
          )
      ),
      { numRuns: 25 }
    ))

  it.effect("F20 a client leaves neither its channel nor its group behind, and of one that is shared no group", () =>
    Effect.gen(function*() {
      yield* serve(({ payload }) => Effect.succeed({ cents: payload.sku.length }))
      const broker = yield* Broker.Broker
      const lives: Array<readonly [channel: string, group: string]> = []
      const watched = Broker.Broker.of({
        ...broker,
        consume: (consumer) => {
          lives.push([consumer.channel, consumer.group])
          assert.isUndefined(consumer.deadLetterChannel)
          return broker.consume(consumer)
        }
      })
      for (const replyTo of [undefined, "shared"]) {
        const scope = yield* Scope.make()
        const client = yield* Request.client(Price, { replyTo }).pipe(
          Effect.provideService(Broker.Broker, watched),
          Scope.provide(scope)
        )
        assert.deepStrictEqual(yield* client.request({ sku: "tea" }), { cents: 3 })
        assert.isAbove((yield* broker.lag(...lives.at(-1)!)).length, 0)
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(yield* broker.lag(...lives.at(-1)!), [])
      }
      const [own, shared] = lives.map(([channel]) => channel)
      assert.deepStrictEqual(yield* browse(own!), [])
      assert.strictEqual((yield* browse(shared!)).length, 1)
    }).pipe(Effect.scoped, Effect.provide([memory, quiet])))

  it.effect("F20 a declared error reaches its caller, and its message is rejected and not dead-lettered", () =>
    Effect.gen(function*() {
      const running = yield* serve(({ payload }) => Effect.fail(new OutOfStock(payload)))
      const client = yield* Request.client(Price)
      const error = errorOf(yield* ended(client.request({ sku: "tea" })))
      assert.deepStrictEqual(error, new OutOfStock({ sku: "tea" }))
      assert.deepStrictEqual(yield* browse("prices.dead-letters"), [])
      assert.strictEqual((yield* running.health).settled, 1)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("H19 any other error is answered as problem details that say nothing of the inside", () =>
    Effect.gen(function*() {
      yield* serve(() => Effect.fail(new Broken({ secret: "s3cret" })))
      const client = yield* Request.client(Price)
      const error = errorOf(yield* ended(client.request({ sku: "tea" })))
      assert(error instanceof Request.RemoteError)
      assert.deepStrictEqual([error.status, error.title, error.type], [500, "Internal Server Error", "about:blank"])
      const [reply] = yield* browse(client.replyTo)
      assert.strictEqual(reply!.headers["content-type"], "application/problem+json")
      assert.deepStrictEqual(Object.keys(JSON.parse(textOf(reply!.raw))), ["type", "title", "status", "detail"])
      assert.strictEqual((yield* browse("prices.dead-letters")).length, 1)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 a request that cannot be decoded is answered at once, with the place and without its values", () =>
    Effect.gen(function*() {
      yield* serve(length)
      const Wrong = Request.make(Channel.unchecked("prices"), { reply: Schema.Unknown })
      const client = yield* Request.client(Wrong)
      const invalid = errorOf(yield* ended(client.request({ sku: 12345 })))
      assert(invalid instanceof Request.RemoteError)
      assert.strictEqual(invalid.status, 422)
      assert.include(invalid.detail, "at sku")
      assert.notInclude(invalid.detail, "12345")
      const bytes = yield* Request.client(Request.make(Channel.bytes("prices"), { reply: Schema.Unknown }))
      const poison = errorOf(yield* ended(bytes.request(new Uint8Array([1, 2]))))
      assert(poison instanceof Request.RemoteError)
      assert.strictEqual(poison.status, 400)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 retries answer nothing: the caller hears once, when no attempt is left, and before its deadline", () =>
    Effect.gen(function*() {
      const Patient = Request.make(Prices, { reply: Schema.Unknown, deadline: "1 hour" })
      let calls = 0
      yield* serve(() => Effect.suspend(() => Effect.fail(new Down({ secret: `${++calls}` }))), {
        hold: { attempts: 4 },
        backoff: { base: "1 second", factor: 1, jitter: 0 }
      })
      const client = yield* Request.client(Patient)
      const fiber = yield* Effect.forkChild(client.request({ sku: "tea" }))
      yield* TestClock.adjust("2500 millis")
      assert.deepStrictEqual([calls, fiber.pollUnsafe()], [3, undefined])
      assert.deepStrictEqual(yield* browse(client.replyTo), [])
      yield* TestClock.adjust("1 second")
      const error = errorOf(yield* Fiber.await(fiber))
      assert(error instanceof Request.RemoteError)
      assert.deepStrictEqual([calls, error.status], [4, 503])
      yield* TestClock.adjust("10 minutes")
      assert.strictEqual((yield* browse(client.replyTo)).length, 1)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 so it is with retries that are delayed in channels of their own", () =>
    Effect.gen(function*() {
      let calls = 0
      yield* serve(() => Effect.suspend(() => Effect.fail(new Down({ secret: `${++calls}` }))), {
        retries: Retries.delayed(["1 second", "1 second"])
      })
      const client = yield* Request.client(Price)
      const error = errorOf(yield* ended(client.request({ sku: "tea" })))
      assert(error instanceof Request.RemoteError, String(error))
      assert.deepStrictEqual([calls, error.status], [3, 503])
      assert.strictEqual((yield* browse(client.replyTo)).length, 1)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 a retry that succeeds is answered by its answer alone", () =>
    Effect.gen(function*() {
      let calls = 0
      yield* serve(() =>
        Effect.suspend(() => ++calls < 3 ? Effect.fail(new Down({ secret: "" })) : Effect.succeed({ cents: calls }))
      )
      const client = yield* Request.client(Price)
      assert.deepStrictEqual(yield* ended(client.request({ sku: "tea" })), Exit.succeed({ cents: 3 }))
      assert.strictEqual((yield* browse(client.replyTo)).length, 1)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 what a middleware refuses, drops or gives up is answered, too", () =>
    Effect.gen(function*() {
      const handler = pipe(
        ({ payload: { sku } }: Message<Item>): Effect.Effect<{ cents: number }, Broken | OutOfStock> =>
          sku === "defect"
            ? Effect.die(new Error("s3cret"))
            : Effect.fail(sku === "broken" ? new Broken({ secret: "" }) : new OutOfStock({ sku })),
        DeadLetter.tags("Broken", "OutOfStock"),
        Filter.middleware((message: Message<Item>) => message.payload.sku !== "dropped"),
        Decode.middleware(Prices),
        Auth.middleware(),
        Request.answer(Price)
      )
      yield* Subscription.run(Subscription.make(Prices, { group: "shop" }, handler))
      const client = yield* Request.client(Price)
      const status = (sku: string, headers = { authorization: "Bearer good" }) =>
        Effect.map(ended(client.request({ sku }, { headers })), (exit) => {
          const error = errorOf(exit)
          return error instanceof Request.RemoteError ? error.status : error
        })
      assert.strictEqual(yield* status("broken"), 500)
      assert.strictEqual(yield* status("defect"), 500)
      assert.strictEqual(yield* status("dropped"), 404)
      assert.strictEqual(yield* status("tea", { authorization: "Bearer bad" }), 403)
      assert.deepStrictEqual(yield* status("tea"), new OutOfStock({ sku: "tea" }))
    }).pipe(Effect.scoped, Effect.provide([memory, Auth.layerMemory({ good: { subject: "ada" } })])))

  it.effect("F20 a request whose deadline has passed is not begun: it is rejected, and nobody is told", () =>
    Effect.gen(function*() {
      const client = yield* Request.client(Price)
      const error = errorOf(yield* ended(client.request({ sku: "tea" })))
      assert(error instanceof Request.DeadlineExceeded)
      assert.deepStrictEqual([error.after, error.failure], [10_000, "timeout"])
      let calls = 0
      const running = yield* serve((message) => (calls++, length(message)))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([calls, (yield* running.health).settled], [0, 1])
      const counted = (yield* Metric.snapshot).find(({ id }) => id === "millrace.request.expired")
      assert.deepStrictEqual(counted?.attributes, { "messaging.destination.name": "prices" })
      assert.deepStrictEqual(yield* browse(client.replyTo), [])
      assert.deepStrictEqual(yield* browse("prices.dead-letters"), [])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 an answer that comes late is dropped and counted, and one that comes twice", () =>
    Effect.gen(function*() {
      yield* serve((message) => Effect.andThen(Effect.sleep("20 seconds"), length(message)))
      const client = yield* Request.client(Price)
      assert.instanceOf(errorOf(yield* ended(client.request({ sku: "tea" }))), Request.DeadlineExceeded)
      assert.deepStrictEqual(yield* client.statistics, { pending: 0, late: 1 })
      const [reply] = yield* browse(client.replyTo)
      const again = Publisher.make(Channel.bytes(client.replyTo))
      yield* again.publish(reply!.raw, { headers: reply!.headers })
      yield* again.publish(reply!.raw)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* client.statistics, { pending: 0, late: 3 })
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 a caller that is interrupted leaves nothing behind", () =>
    Effect.gen(function*() {
      const client = yield* Request.client(Price)
      const fiber = yield* Effect.forkChild(client.request({ sku: "tea" }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* client.statistics, { pending: 1, late: 0 })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(yield* client.statistics, { pending: 0, late: 0 })
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 when the broker is lost in the middle the deadline ends the wait, and the client comes back with it", () =>
    Effect.gen(function*() {
      const { broker, start, stop } = yield* MemoryBroker.make({ partitions: 1 })
      yield* Effect.gen(function*() {
        yield* serve((message) => Effect.andThen(Effect.sleep("2 seconds"), length(message)))
        const client = yield* Request.client(Price)
        const fiber = yield* Effect.forkChild(client.request({ sku: "tea" }))
        yield* TestClock.adjust("1 second")
        yield* stop
        yield* TestClock.adjust("8999 millis")
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.instanceOf(errorOf(yield* Fiber.await(fiber)), Request.DeadlineExceeded)
        const refused = errorOf(yield* Effect.exit(client.request({ sku: "tea" })))
        assert(refused instanceof BrokerError.BrokerError)
        assert.strictEqual(refused.reason, "Unreachable")
        yield* start
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* ended(client.request({ sku: "tea" })), Exit.succeed({ cents: 3 }))
      }).pipe(Effect.scoped, Effect.provide(Layer.succeed(Broker.Broker, broker)))
    }))

  it("F20 whatever is lost and when, every request ends by its deadline, with its own answer or an error that says why", () =>
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.integer({ min: 0, max: 4000 }), fc.constantFrom("ask", "ask", "stop", "start")), {
          maxLength: 25
        }),
        (history) =>
          Effect.runPromise(
            Effect.gen(function*() {
              const { broker, start, stop } = yield* MemoryBroker.make({ partitions: 1 })
              yield* Effect.gen(function*() {
                yield* serve(({ payload: { sku } }) =>
                  Effect.as(Effect.sleep(Number(sku) % 2 === 0 ? 0 : 1500), { cents: Number(sku) })
                )
                const client = yield* Request.client(Price)
                const fibers: Array<Fiber.Fiber<Exit.Exit<{ readonly cents: number }, unknown>>> = []
                for (const [gap, what] of history) {
                  yield* TestClock.adjust(gap)
                  if (what === "stop") yield* stop
                  else if (what === "start") yield* start
                  else fibers.push(yield* Effect.forkChild(Effect.exit(client.request({ sku: `${fibers.length}` }))))
                }
                yield* TestClock.adjust("5 seconds")
                yield* TestClock.adjust("5 seconds")
                for (const [i, fiber] of fibers.entries()) {
                  const exit = fiber.pollUnsafe()
                  assert(exit !== undefined && Exit.isSuccess(exit))
                  const error = errorOf(exit.value)
                  if (error === undefined) assert.deepStrictEqual(exit.value, Exit.succeed({ cents: i }))
                  else {assert.isTrue(
                      error instanceof Request.DeadlineExceeded ||
                        (error instanceof BrokerError.BrokerError && error.reason === "Unreachable"),
                      String(error)
                    )}
                }
                assert.strictEqual((yield* client.statistics).pending, 0)
                yield* start
                // the source comes back by growing waits
                yield* TestClock.adjust("1 minute")
                assert.deepStrictEqual(yield* ended(client.request({ sku: "8" })), Exit.succeed({ cents: 8 }))
              }).pipe(Effect.scoped, Effect.provideService(Broker.Broker, broker))
            }).pipe(Effect.provide([TestClock.layer(), quiet]))
          )
      ),
      { numRuns: 30 }
    ))

  it.effect("F20 a retry whose time is after the deadline is not begun", () =>
    Effect.gen(function*() {
      let calls = 0
      const running = yield* serve(() => Effect.suspend(() => Effect.fail(new Down({ secret: `${++calls}` }))), {
        backoff: { base: "4 seconds", factor: 1, jitter: 0 }
      })
      const client = yield* Request.client(Price)
      assert.instanceOf(errorOf(yield* ended(client.request({ sku: "tea" }))), Request.DeadlineExceeded)
      assert.deepStrictEqual([calls, (yield* running.health).settled], [3, 1])
      assert.deepStrictEqual(yield* browse(client.replyTo), [])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 more requests than may wait do so within their own deadline", () =>
    Effect.gen(function*() {
      yield* serve((message) => Effect.andThen(Effect.sleep("6 seconds"), length(message)))
      const client = yield* Request.client(Price, { pending: 1 })
      const first = yield* Effect.forkChild(client.request({ sku: "a" }))
      const second = yield* Effect.forkChild(client.request({ sku: "bc" }))
      const third = yield* Effect.forkChild(client.request({ sku: "def" }, { deadline: "20 seconds" }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* client.statistics, { pending: 1, late: 0 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.await(first), Exit.succeed({ cents: 1 }))
      assert.instanceOf(errorOf(yield* Fiber.await(second)), Request.DeadlineExceeded)
      assert.deepStrictEqual(yield* Fiber.await(third), Exit.succeed({ cents: 3 }))
      assert.throws(
        () => Request.client(Price, { pending: 0 }),
        RangeError,
        "Request: pending must be an integer from 1"
      )
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 when its scope closes, who still waits hears of it at once", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const client = yield* Scope.provide(Request.client(Price), scope)
      const fiber = yield* Effect.forkChild(client.request({ sku: "tea" }))
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      for (const exit of [yield* Fiber.await(fiber), yield* Effect.exit(client.request({ sku: "tea" }))]) {
        const error = errorOf(exit)
        assert(error instanceof BrokerError.BrokerError)
        assert.strictEqual(error.reason, "Lost")
      }
    }).pipe(Effect.provide(memory)))

  it.effect("F20 a request is not settled before its answer is confirmed, and is answered when the broker is back", () =>
    Effect.gen(function*() {
      const { broker, positions } = yield* MemoryBroker.make({ partitions: 1 })
      let failures = 2
      const fail = BrokerError.make({ system: "memory", operation: "publish", reason: "Unreachable", message: "down" })
      const faulty = Broker.Broker.of({
        ...broker,
        publish: (message) =>
          message.channel === "prices" || failures-- <= 0 ? broker.publish(message) : Effect.fail(fail)
      })
      yield* Effect.gen(function*() {
        yield* serve(({ payload }) =>
          payload.sku === "" ? Effect.fail(new Broken({ secret: "" })) : Effect.succeed({ cents: 1 })
        )
        const client = yield* Request.client(Price)
        for (const sku of ["tea", ""]) {
          failures = 2
          const fiber = yield* Effect.forkChild(client.request({ sku }))
          yield* TestClock.adjust("500 millis")
          assert.deepStrictEqual(positions("prices", "shop"), [sku === "tea" ? 0 : 1])
          yield* TestClock.adjust("8 seconds")
          const exit = yield* Fiber.await(fiber)
          if (sku === "tea") assert.deepStrictEqual(exit, Exit.succeed({ cents: 1 }))
          else assert.instanceOf(errorOf(exit), Request.RemoteError)
        }
        assert.deepStrictEqual(positions("prices", "shop"), [2])
      }).pipe(Effect.scoped, Effect.provide(Layer.succeed(Broker.Broker, faulty)))
    }))

  it.effect("F20 clients that share a channel of answers drop those of others", () =>
    Effect.gen(function*() {
      yield* serve(length)
      const first = yield* Request.client(Price, { replyTo: "answers" })
      const second = yield* Request.client(Price, { replyTo: "answers" })
      assert.deepStrictEqual(yield* ended(first.request({ sku: "a" })), Exit.succeed({ cents: 1 }))
      assert.deepStrictEqual(yield* ended(second.request({ sku: "bc" })), Exit.succeed({ cents: 2 }))
      assert.deepStrictEqual([yield* first.statistics, yield* second.statistics], [
        { pending: 0, late: 0 },
        { pending: 0, late: 0 }
      ])
      const [reply] = yield* browse("answers")
      yield* Publisher.make(Channel.bytes("answers")).publish(reply!.raw, { headers: reply!.headers })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([(yield* first.statistics).late, (yield* second.statistics).late], [1, 0])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 each client has a channel of its own, and correlation ids travel", () =>
    Effect.gen(function*() {
      yield* serve(length)
      const first = yield* Request.client(Price)
      const second = yield* Request.client(Price)
      assert.notStrictEqual(first.replyTo, second.replyTo)
      assert.match(first.replyTo, /^prices\.replies\.[0-9a-f]{32}$/)
      yield* ended(first.request({ sku: "a" }, { headers: { "correlation-id": "c-1" }, key: "k" }))
      const [request] = yield* browse("prices")
      const [reply] = yield* browse(first.replyTo)
      assert.deepStrictEqual([request!.key, request!.headers["correlation-id"]], ["k", "c-1"])
      assert.strictEqual(reply!.headers["correlation-id"], "c-1")
      assert.strictEqual(reply!.headers["causation-id"], request!.headers["message-id"])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 an answer by the correlation id alone is taken, and one that is none is a RemoteError", () =>
    Effect.gen(function*() {
      const client = yield* Request.client(Price)
      const answerWith = (payload: Uint8Array, headers: Record<string, string>, i: number) =>
        Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(client.request({ sku: "a" }))
          yield* TestClock.adjust("1 second")
          const request = (yield* browse("prices"))[i]!
          const correlation = { "correlation-id": request.headers["correlation-id"]! }
          yield* Publisher.make(Channel.bytes(client.replyTo)).publish(payload, {
            headers: { ...headers, ...correlation }
          })
          yield* TestClock.adjust("1 second")
          return yield* Fiber.await(fiber)
        })
      const bytes = (text: string) => new TextEncoder().encode(text)
      const problem = { "content-type": "application/problem+json; charset=utf-8" }
      assert.deepStrictEqual(yield* answerWith(bytes("{\"cents\":7}"), {}, 0), Exit.succeed({ cents: 7 }))
      const wrong: ReadonlyArray<readonly [string, Record<string, string>, number]> = [
        ["{\"cents\":\"x\"}", {}, 502],
        ["{", {}, 502],
        ["{", problem, 502],
        ["7", problem, 500],
        ["{\"status\":418,\"error\":{\"sku\":1}}", problem, 418]
      ]
      for (const [i, [text, headers, status]] of wrong.entries()) {
        const error = errorOf(yield* answerWith(bytes(text), headers, i + 1))
        assert(error instanceof Request.RemoteError)
        assert.strictEqual(error.status, status, text)
      }
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 a correlation id of the caller's own is enough for an answer, unless two requests wait with it", () =>
    Effect.gen(function*() {
      const client = yield* Request.client(Price)
      const answers = Publisher.make(Channel.bytes(client.replyTo))
      const ask = (id: string) =>
        Effect.forkChild(client.request({ sku: "a" }, { headers: { "correlation-id": id } }), {
          startImmediately: true
        })
      const answer = (id: string, cents: number) =>
        answers.publish(new TextEncoder().encode(`{"cents":${cents}}`), { headers: { "correlation-id": id } })
      const [one, twice, again] = [yield* ask("one"), yield* ask("two"), yield* ask("two")]
      yield* TestClock.adjust("1 second")
      yield* answer("one", 1)
      yield* answer("two", 2)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.await(one), Exit.succeed({ cents: 1 }))
      assert.strictEqual((yield* client.statistics).pending, 2)
      yield* Fiber.interrupt(twice)
      yield* answer("two", 3)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.await(again), Exit.succeed({ cents: 3 }))
      assert.deepStrictEqual(yield* client.statistics, { pending: 0, late: 1 })
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("F20 a payload that its channel does not take is not sent", () =>
    Effect.gen(function*() {
      const client = yield* Request.client(Request.make(Channel.unchecked("any"), { reply: Schema.Unknown }))
      assert.instanceOf(errorOf(yield* Effect.exit(client.request(undefined))), Publisher.EncodeError)
      assert.deepStrictEqual(yield* client.statistics, { pending: 0, late: 0 })
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("B7 without a reply-to header, or with one that is not allowed, the handler runs and nobody is told", () =>
    Effect.gen(function*() {
      let calls = 0
      const handler = pipe(
        (message: Message<Item>) => (calls++, length(message)),
        Decode.middleware(Prices),
        Request.answer(Price, { allow: (channel) => channel.startsWith("replies.") })
      )
      yield* Subscription.run(Subscription.make(Prices, { group: "shop" }, handler))
      const publisher = Publisher.make(Prices)
      yield* publisher.publish({ sku: "a" })
      yield* publisher.publish({ sku: "a" }, { headers: { "reply-to": "admin" } })
      yield* publisher.publish({ sku: "a" }, { headers: { "reply-to": "replies.1", "message-id": "m" } })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(calls, 3)
      assert.deepStrictEqual(yield* browse("admin"), [])
      const [reply] = yield* browse("replies.1")
      assert.deepStrictEqual([reply!.headers["causation-id"], reply!.headers["correlation-id"]], ["m", "m"])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it("F16 what can fail outside of it is refused, since its caller would wait in vain", () => {
    const wrong = pipe(length, Request.answer(Price), Decode.middleware(Prices), Auth.middleware())
    assert.deepStrictEqual(
      Rules.violations(wrong).map((sentence) => sentence.split(", not")[0]),
      ["Request must stand outside Decode", "Request must stand outside Auth"]
    )
    assert.throws(() => Request.make(Prices, { reply: Item, deadline: 0 }), RangeError, "Request: deadline must be")
  })
})

describe("hooks of a message that is given up", () => {
  const watched = (outcomes: Array<string>) =>
    pipe(
      (_: Message<Uint8Array>): Effect.Effect<void, Down> => Effect.fail(new Down({ secret: "" })),
      Middleware.make()({ name: "Watch", stage: "consume" }, (next) => (message) => {
        message.after((_exit, outcome) => void outcomes.push(outcome?._tag ?? "none"))
        return next(message)
      })
    )

  for (
    const [name, options] of Object.entries<Partial<Subscription.Options>>({
      attempts: { hold: { attempts: 3 } },
      age: { hold: { age: "1500 millis" }, backoff: { base: "1 second", factor: 1, jitter: 0 } },
      delays: { retries: Retries.delayed(["1 second", "2 seconds"]) }
    })
  ) {
    it.effect(`F2 hear that it is a dead letter, which the broker is told: ${name}`, () =>
      Effect.gen(function*() {
        const outcomes: Array<string> = []
        yield* Subscription.run(Subscription.make(Prices, { group: "g", ...options }, watched(outcomes)))
        yield* Publisher.make(Prices).publish({ sku: "a" })
        yield* TestClock.adjust("10 minutes")
        assert.deepStrictEqual(outcomes, ["Retry", "Retry", "DeadLetter"])
        assert.strictEqual((yield* Stream.runCollect(DeadLetters.list("prices.dead-letters"))).length, 1)
      }).pipe(Effect.scoped, Effect.provide(memory)))
  }
})
