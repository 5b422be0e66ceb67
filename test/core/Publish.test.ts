import { assert, describe, it } from "@effect/vitest"
import {
  Broker,
  BrokerError,
  Channel,
  DeadLetter,
  type Delivery,
  type Failure,
  MemoryBroker,
  type Message,
  Middleware,
  Order as Rules,
  Outcome,
  type Outgoing,
  Publish,
  Publisher,
  Retry,
  Settlement,
  Stack
} from "@millrace/core"
import { Data, Effect, Exit, Fiber, Layer, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
const Orders = Channel.make("orders", { payload: Order, key: (order) => order.id })
const order = (id: string, amount = 1) => ({ id, amount })

class Full extends Data.TaggedError("Full")<{}> {
  readonly failure: Failure.FailureClass = "dependency"
}

const memory = MemoryBroker.layer({ partitions: 1 })

const published = (channel: string): Effect.Effect<ReadonlyArray<Delivery>, BrokerError.BrokerError, Broker.Broker> =>
  Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

const ids = Effect.map(
  published("orders"),
  (all) => all.map((delivery): string => JSON.parse(new TextDecoder().decode(delivery.raw)).id)
)

/** A broker that fails as often as told, over the memory broker, and counts its calls. */
const faulty = (failures: number) => {
  const calls = { publish: 0, publishAll: 0 }
  const fail = BrokerError.make({ system: "memory", operation: "publish", reason: "Unreachable", message: "down" })
  const layer = Layer.effect(
    Broker.Broker,
    Effect.map(Broker.Broker, (broker) =>
      Broker.Broker.of({
        ...broker,
        publish: (message) => ++calls.publish <= failures ? Effect.fail(fail) : broker.publish(message),
        publishAll: (messages) => ++calls.publishAll <= failures ? Effect.fail(fail) : broker.publishAll(messages)
      }))
  ).pipe(Layer.provide(memory))
  return { calls, layer, fail }
}

/** Notes every message that it sees, and what its hook sees. */
const watch = (seen: Array<string>) =>
  Middleware.make<{ message: Outgoing<typeof Order.Type> }>()(
    { name: "Watch", stage: "publish" },
    (next) => (message) => {
      seen.push(message.payload.id)
      message.after((exit) => void seen.push(`${message.payload.id}:${exit._tag}`))
      return next(message.withHeader("watched", "yes"))
    }
  )

/** Suspends messages of odd amounts. */
const slow = Middleware.make<{ message: Outgoing<typeof Order.Type> }>()(
  { name: "Slow", stage: "publish" },
  (next) => (message) =>
    message.payload.amount % 2 === 0
      ? next(message)
      : Effect.flatMap(Effect.sleep(message.payload.amount), () => next(message))
)

describe("Publisher", () => {
  it.effect("F17 a message has its channel's key, headers and content type, and its encoded payload", () =>
    Effect.gen(function*() {
      const publisher = Publisher.make(Orders)
      yield* publisher.publish(order("a"), { headers: { Tenant: "acme" } })
      yield* publisher.publish(order("b"), { key: "other" })
      const [first, second] = yield* published("orders")
      assert.strictEqual(new TextDecoder().decode(first!.raw), "{\"id\":\"a\",\"amount\":1}")
      assert.strictEqual(first!.key, "a")
      assert.deepStrictEqual({ ...first!.headers }, { tenant: "acme", "content-type": "application/json" })
      assert.strictEqual(second!.key, "other")
    }).pipe(Effect.provide(memory)))

  it.effect("F17 what it answers publishes each time it is run, and not before", () =>
    Effect.gen(function*() {
      const publish = Publisher.make(Orders).publish(order("a"))
      assert.deepStrictEqual(yield* ids, [])
      yield* publish
      yield* publish
      assert.deepStrictEqual(yield* ids, ["a", "a"])
    }).pipe(Effect.provide(memory)))

  it.effect("F17 a payload that the schema refuses is not published, and the error names the place", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(Publisher.make(Orders).publish(order("secret", Number.NaN)))
      assert(exit._tag === "Failure" && exit.cause.reasons[0]?._tag === "Fail")
      const { error } = exit.cause.reasons[0]
      assert.instanceOf(error, Publisher.EncodeError)
      assert.match(error.message, /^Not a payload of orders: .* at amount$/)
      assert.notInclude(error.message, "secret")
      assert.deepStrictEqual(yield* ids, [])
    }).pipe(Effect.provide(memory)))

  it.effect("F17 what JSON cannot hold is an EncodeError, not an empty body", () =>
    Effect.gen(function*() {
      const publisher = Publisher.make(Channel.unchecked("any"))
      for (const payload of [undefined, () => 1, 1n]) {
        const error = yield* Effect.flip(publisher.publish(payload))
        assert.instanceOf(error, Publisher.EncodeError)
      }
      assert.deepStrictEqual(yield* published("any"), [])
    }).pipe(Effect.provide(memory)))

  it.effect("F17 publish middlewares see direct publishes and batches, in order, and their hooks run once", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const publisher = Publisher.make(Orders, watch(seen))
      yield* publisher.publish(order("a"))
      yield* publisher.publishAll([order("b"), order("c")])
      assert.deepStrictEqual(seen, ["a", "a:Success", "b", "c", "b:Success", "c:Success"])
      for (const delivery of yield* published("orders")) assert.strictEqual(delivery.headers["watched"], "yes")
    }).pipe(Effect.provide(memory)))

  it("F17 a batch keeps its order, whichever of its messages suspend on the way, and is handed over as one", () =>
    fc.assert(
      fc.asyncProperty(fc.array(fc.integer({ min: 0, max: 50 }), { maxLength: 12 }), (amounts) => {
        const { calls, layer } = faulty(0)
        return Effect.runPromise(
          Effect.gen(function*() {
            const publisher = Publisher.make(Orders, slow)
            const payloads = amounts.map((amount, i) => order(String(i), amount))
            const fiber = yield* Effect.forkChild(publisher.publishAll(payloads), { startImmediately: true })
            yield* TestClock.adjust("1 hour")
            yield* Fiber.join(fiber)
            assert.deepStrictEqual(yield* ids, payloads.map(({ id }) => id))
            assert.deepStrictEqual(calls, { publish: 0, publishAll: amounts.length === 0 ? 0 : 1 })
          }).pipe(Effect.provide([layer, TestClock.layer()]))
        )
      })
    ))

  it.effect("F17 a batch of which one message fails on the way is not published", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const payloads = [order("a"), order("b", Number.NaN), order("c")]
      for (const publisher of [Publisher.make(Orders), Publisher.make(Orders, watch(seen))]) {
        assert.instanceOf(yield* Effect.flip(publisher.publishAll(payloads)), Publisher.EncodeError)
      }
      assert.deepStrictEqual(yield* ids, [])
      assert.deepStrictEqual(seen, ["a", "b", "c", "a:Failure", "b:Failure", "c:Failure"])
    }).pipe(Effect.provide(memory)))

  it.effect("F17 a batch that the broker refuses fails, and a Retry on the way publishes it again as one", () => {
    const { calls, fail, layer } = faulty(1)
    return Effect.gen(function*() {
      const payloads = [order("a"), order("b")]
      assert.deepStrictEqual(yield* Effect.flip(Publisher.make(Orders).publishAll(payloads)), fail)
      calls.publishAll = 0
      const fiber = yield* Effect.forkChild(Publisher.make(Orders, Retry.middleware()).publishAll(payloads), {
        startImmediately: true
      })
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* ids, ["a", "b"])
      assert.deepStrictEqual(calls, { publish: 0, publishAll: 2 })
    }).pipe(Effect.provide(layer))
  })

  it.effect("F17 a middleware that publishes to another channel on the way stays out of the batch", () => {
    const batches: Array<ReadonlyArray<string>> = []
    const noting = Layer.effect(
      Broker.Broker,
      Effect.map(Broker.Broker, (broker) =>
        Broker.Broker.of({
          ...broker,
          publishAll: (messages) => {
            batches.push(messages.map(({ channel }) => channel))
            return broker.publishAll(messages)
          }
        }))
    )
    return Effect.gen(function*() {
      const copies = Publisher.make(Channel.unchecked("copies"))
      const copy = Middleware.make<{ message: Outgoing<typeof Order.Type> }>()(
        { name: "Copy", stage: "publish" },
        (next) => (message) => Effect.flatMap(copies.publish(message.payload.id), () => next(message))
      )
      yield* Publisher.make(Orders, copy).publishAll([order("a"), order("b")])
      assert.deepStrictEqual(yield* ids, ["a", "b"])
      assert.strictEqual((yield* published("copies")).length, 2)
      assert.deepStrictEqual(batches, [["orders", "orders"]])
    }).pipe(Effect.provide(Layer.provide(noting, memory)))
  })

  it.effect("F17 a hook that fails fails the publish as a BrokerError of its class", () =>
    Effect.gen(function*() {
      const unkept = Middleware.make()({ name: "Unkept", stage: "publish" }, (next) => (message) => {
        message.after(() => Effect.fail(new Full()))
        return next(message)
      })
      const error = yield* Effect.flip(Publisher.make(Orders, unkept).publish(order("a")))
      assert.instanceOf(error, BrokerError.BrokerError)
      assert.strictEqual(error.reason, "Refused")
      assert.strictEqual(error.failure, "dependency")
    }).pipe(Effect.provide(memory)))

  it.effect("F17 hooks run when the publisher is interrupted", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const never = Middleware.make()({ name: "Never", stage: "publish" }, () => () => Effect.never)
      const publisher = Publisher.make(Orders, (next) => pipe(next, never, watch(seen)))
      const fiber = yield* Effect.forkChild(publisher.publish(order("a")), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(seen, ["a", "a:Failure"])
    }).pipe(Effect.provide(memory)))

  it("F16 a publish chain in a wrong order is refused when it is built", () => {
    const strict = (name: string, inside: string) =>
      Middleware.make()({ name, stage: "publish", order: [{ inside, because: "of a reason" }] }, (next) => next)
    assert.throws(
      () => Publisher.make(Orders, (next) => pipe(next, strict("A", "X"), strict("B", "A"), strict("X", "none"))),
      Rules.OrderError,
      "B must stand inside A, not outside it: of a reason"
    )
  })
})

describe("Publish", () => {
  const handle = (message: Message<unknown>) => Effect.succeed(order(message.key ?? "none", message.position))

  it.effect("F17 the answer is published with the links to its cause, and answered", () =>
    Effect.gen(function*() {
      const chain = pipe(
        handle,
        Publish.middleware(Orders, { headers: { Kind: "new" }, key: (_, message) => message.channel })
      )
      const exit = yield* runChain(
        chain,
        deliver({ key: "k", channel: "carts", partition: 2, position: 7, headers: { "Correlation-Id": "c-1" } })
      )
      assert.deepStrictEqual(exit, Exit.succeed(order("k", 7)))
      const [delivery] = yield* published("orders")
      assert.strictEqual(delivery!.key, "carts")
      assert.deepStrictEqual({ ...delivery!.headers }, {
        "correlation-id": "c-1",
        "causation-id": "carts/2/7",
        kind: "new",
        "content-type": "application/json"
      })
      yield* runChain(chain, deliver({ headers: { "message-id": "m-9" } }))
      const [, second] = yield* published("orders")
      assert.strictEqual(second!.headers["causation-id"], "m-9")
      assert.isUndefined(second!.headers["correlation-id"])
    }).pipe(Effect.provide(memory)))

  it.effect("F17 undefined and outcomes are not published", () =>
    Effect.gen(function*() {
      const answers = [undefined, Outcome.Ack, Outcome.Reject("no")]
      for (const answer of answers) {
        const exit = yield* runChain(pipe(() => Effect.succeed(answer), Publish.middleware(Orders)), deliver())
        assert.deepStrictEqual(exit, Exit.succeed(answer))
      }
      assert.deepStrictEqual(yield* ids, [])
    }).pipe(Effect.provide(memory)))

  it.effect("F1, F11 the chain sees a failed publish: Retry runs it again, DeadLetter takes it", () => {
    const { calls, layer } = faulty(2)
    let handled = 0
    const counted = (message: Message<unknown>) => Effect.tap(handle(message), () => Effect.sync(() => handled++))
    const settled = <A, E>(chain: (message: Message<Uint8Array>) => Effect.Effect<A, E, Broker.Broker>) =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(runChain(chain, deliver({ key: "k" })), { startImmediately: true })
        yield* TestClock.adjust("1 minute")
        return yield* Fiber.join(fiber)
      })
    return Effect.gen(function*() {
      const exit = yield* settled(pipe(counted, Publish.middleware(Orders), Retry.middleware()))
      assert.deepStrictEqual(exit, Exit.succeed(order("k", 0)))
      assert.strictEqual(handled, 3)
      calls.publish = 0
      handled = 0
      const through = pipe(counted, Publish.middleware(Orders, { through: Retry.middleware() }))
      assert.deepStrictEqual(yield* settled(through), Exit.succeed(order("k", 0)))
      assert.strictEqual(handled, 1)
      calls.publish = 0
      const dead = yield* settled(pipe(handle, Publish.middleware(Orders), DeadLetter.tags("BrokerError")))
      assert(dead._tag === "Success" && Outcome.isOutcome(dead.value) && dead.value._tag === "DeadLetter")
      assert.deepStrictEqual(yield* ids, ["k", "k"])
    }).pipe(Effect.provide(layer))
  })

  it.effect("F13 an answer that the channel does not take is a dead letter of its message", () =>
    Effect.gen(function*() {
      const chain = pipe(() => Effect.succeed(order("a", Number.NaN)), Publish.middleware(Orders))
      const exit = yield* runChain(chain, deliver())
      assert.strictEqual(Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag, "DeadLetter")
    }).pipe(Effect.provide(memory)))

  it.effect("F17 publish middlewares see answers and replies, as they see publishes", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const stack = Stack.start<Outgoing<typeof Order.Type>>().use(watch(seen))
      yield* runChain(pipe(handle, Publish.middleware(Orders, { through: watch(seen) })), deliver({ key: "a" }))
      yield* runChain(pipe(handle, Publish.middleware(Orders, { through: stack })), deliver({ key: "b" }))
      yield* runChain(
        pipe(handle, Publish.reply({ channel: Orders, through: watch(seen) })),
        deliver({ key: "c", headers: { "reply-to": "orders" } })
      )
      assert.deepStrictEqual(seen, ["a", "a:Success", "b", "b:Success", "c", "c:Success"])
      assert.deepStrictEqual(yield* ids, ["a", "b", "c"])
    }).pipe(Effect.provide(memory)))

  it("F16 Publish outside Retry or DeadLetter is refused by a sentence that names both", () => {
    const failing = (_: Message<unknown>): Effect.Effect<{ id: string; amount: number }, Full> =>
      Effect.fail(new Full())
    assert.throws(
      () => Rules.check(pipe(failing, Retry.middleware(), Publish.middleware(Orders))),
      Rules.OrderError,
      "Publish must stand inside Retry, not outside it: "
    )
    assert.throws(
      () => Rules.check(pipe(failing, DeadLetter.tags("Full"), Publish.reply())),
      Rules.OrderError,
      "Publish must stand inside DeadLetter, not outside it: "
    )
  })
})

describe("Publish.reply", () => {
  const handle = (_: Message<unknown>): Effect.Effect<{ readonly sum: number }> => Effect.succeed({ sum: 3 })

  it.effect("F17, B7 a reply goes to the channel of the reply-to header with the request's correlation id", () =>
    Effect.gen(function*() {
      const chain = pipe(handle, Publish.reply())
      yield* runChain(chain, deliver({ headers: { "reply-to": "answers", "correlation-id": "c", "message-id": "m" } }))
      yield* runChain(chain, deliver({ headers: { "reply-to": "answers", "message-id": "m" } }))
      const [first, second] = yield* published("answers")
      assert.strictEqual(new TextDecoder().decode(first!.raw), "{\"sum\":3}")
      assert.strictEqual(first!.headers["correlation-id"], "c")
      assert.strictEqual(first!.headers["causation-id"], "m")
      assert.strictEqual(second!.headers["correlation-id"], "m")
    }).pipe(Effect.provide(memory)))

  it.effect("F17, B7 without the header it goes to the declared channel, else nowhere", () =>
    Effect.gen(function*() {
      const Sums = Channel.make("sums", { payload: Schema.Struct({ sum: Schema.Finite }) })
      assert.deepStrictEqual(yield* runChain(pipe(handle, Publish.reply()), deliver()), Exit.succeed({ sum: 3 }))
      yield* runChain(pipe(handle, Publish.reply({ channel: Sums })), deliver())
      assert.strictEqual((yield* published("sums")).length, 1)
      yield* runChain(pipe(handle, Publish.reply({ channel: Sums })), deliver({ headers: { "reply-to": "answers" } }))
      assert.strictEqual((yield* published("answers")).length, 1)
    }).pipe(Effect.provide(memory)))

  it.effect("F17 a channel that is not allowed is taken as missing", () =>
    Effect.gen(function*() {
      const chain = pipe(handle, Publish.reply({ allow: (channel) => channel.startsWith("replies.") }))
      yield* runChain(chain, deliver({ headers: { "reply-to": "admin" } }))
      yield* runChain(chain, deliver({ headers: { "reply-to": "replies.1" } }))
      assert.strictEqual((yield* published("admin")).length, 0)
      assert.strictEqual((yield* published("replies.1")).length, 1)
    }).pipe(Effect.provide(memory)))

  it.effect("F17 a handler that answers nothing replies null, so nobody waits in vain", () =>
    Effect.gen(function*() {
      yield* runChain(pipe(() => Effect.void, Publish.reply()), deliver({ headers: { "reply-to": "answers" } }))
      const [reply] = yield* published("answers")
      assert.strictEqual(new TextDecoder().decode(reply!.raw), "null")
    }).pipe(Effect.provide(memory)))

  it.effect("F17, B7 replies keep the order of their requests", () =>
    Effect.gen(function*() {
      const chain = pipe((message: Message<unknown>) => Effect.succeed(message.position), Publish.reply())
      for (let position = 0; position < 50; position++) {
        yield* runChain(chain, deliver({ position, headers: { "reply-to": "answers" } }))
      }
      const replies = (yield* published("answers")).map((delivery) => Number(new TextDecoder().decode(delivery.raw)))
      assert.deepStrictEqual(replies, Array.from({ length: 50 }, (_, i) => i))
    }).pipe(Effect.provide(memory)))
})
