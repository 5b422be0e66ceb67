import {
  AsyncApi,
  Auth,
  Broker,
  BrokerError,
  Channel,
  Decode,
  type Delivery,
  Lanes,
  Log,
  MemoryBroker,
  type Message,
  Middleware,
  Order as Rules,
  Outcome,
  Publish,
  Publisher,
  Retry,
  Router,
  Stack
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, Effect, Exit, Layer, Logger, pipe, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"

const Order = Schema.Struct({ id: Schema.String })
const Orders = Channel.make("orders", { payload: Order })
const Refunds = Channel.make("refunds", { payload: Order })
const memory = MemoryBroker.layer({ partitions: 1 })

class Refused extends Data.TaggedError("Refused")<{}> {}
class Wrong extends Data.TaggedError("Wrong")<{}> {
  readonly failure = "permanent" as const
}
class Down extends Data.TaggedError("Down")<{}> {}

const nothing = (_: Message<Uint8Array>) => Effect.void

/** A middleware that notes that it was called. */
const noting = (name: string, seen: Array<string>) =>
  Middleware.make()({ name, stage: "consume" }, (next) => (message) => {
    seen.push(`${name} ${message.channel}`)
    return next(message)
  })

const one = new Uint8Array(1)

describe("Router", () => {
  it.effect("T7 several queues, one handler each, behind what they share", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      const handle = (name: string) => (message: Message<typeof Order.Type>) =>
        Effect.sync(() => void seen.push(`${name} ${message.payload.id}`))
      const router = Router.make({
        prefix: "shop.",
        group: "billing",
        through: Stack.start().use(noting("outer", seen)).use(noting("inner", seen))
      })
        .add(Orders, { name: "placeOrder" }, pipe(handle("place"), Decode.middleware(Orders)))
        .add(Refunds, { name: "refundOrder" }, pipe(handle("refund"), Decode.middleware(Refunds)))
      yield* Router.run(router)
      yield* Publisher.make(Channel.prefixed("shop.", Orders)).publish({ id: "1" })
      yield* TestClock.adjust("1 second")
      yield* Publisher.make(Channel.prefixed("shop.", Refunds)).publish({ id: "2" })
      yield* Publisher.make(Refunds).publish({ id: "3" })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen, [
        "outer shop.orders",
        "inner shop.orders",
        "place 1",
        "outer shop.refunds",
        "inner shop.refunds",
        "refund 2"
      ])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it("F20 names, groups and stacks of nested routers stand in the order of their nesting, however deep", () =>
    fc.assert(fc.property(
      fc.array(fc.tuple(fc.stringMatching(/^[a-z]{0,3}$/), fc.stringMatching(/^[a-z]{0,3}$/), fc.boolean()), {
        maxLength: 5
      }),
      (levels) => {
        const innermost = Router.make({ group: "g" }).add(Channel.bytes("orders"), { name: "n" }, nothing)
        const router = levels.reduceRight<Router.Router<never, Broker.Broker>>(
          (inner, [prefix, groupPrefix, own], i) => {
            const stack = Stack.start().use(noting(`level${i}`, []))
            return own
              ? Router.make({ prefix, groupPrefix, through: stack }).include(inner)
              : Router.make({ prefix, groupPrefix }).include(inner)
          },
          innermost
        )
        const [subscription] = router.subscriptions
        assert.strictEqual(subscription!.channel, `${levels.map(([prefix]) => prefix).join("")}orders`)
        assert.strictEqual(subscription!.consumer.group, `${levels.map(([, prefix]) => prefix).join("")}g`)
        assert.deepStrictEqual(
          Router.toText(router).split("\n").slice(1).map((line) => line.trim().split(" ")[0]),
          [...levels.flatMap(([, , own], i) => own ? [`level${i}`] : []), "n"]
        )
      }
    )))

  it("F20 an option of a subscription rules over its router's, and that over an outer router's, field by field", () => {
    const inner = Router.make({ group: "inner", hold: { attempts: 3 }, lanes: Lanes.unordered(2) })
      .add(Orders, {}, nothing)
      .add(Refunds, { group: "own", lanes: Lanes.key(4), hold: { age: "1 second" }, from: undefined }, nothing)
    const { subscriptions } = Router.make({ from: "latest", hold: { attempts: 5, span: 7 } }).include(inner)
    assert.deepStrictEqual(
      subscriptions.map(({ consumer: { from, group, hold, lanes } }) => ({ from, group, hold, lanes })),
      [
        {
          from: "latest",
          group: "inner",
          hold: { attempts: 3, age: 600_000, span: 7, retryAfter: 86_400_000 },
          lanes: Lanes.unordered(2)
        },
        {
          from: "latest",
          group: "own",
          hold: { attempts: 3, age: 1000, span: 7, retryAfter: 86_400_000 },
          lanes: Lanes.key(4)
        }
      ]
    )
  })

  it.effect("F20 errors of the stack are settled by the router, a handler's own by its subscription", () =>
    Effect.gen(function*() {
      const refuse = Middleware.make()(
        { name: "Refuse", stage: "consume" },
        (next) => (message): Middleware.Returns<Refused> =>
          message.headers["refuse"] === undefined ? next(message) : Exit.fail(new Refused())
      )
      const outcomes: Array<unknown> = []
      const watch = Middleware.make()({ name: "Watch", stage: "consume" }, (next) => (message) => {
        message.after((_, outcome) => void outcomes.push(outcome))
        return next(message)
      })
      const failing = (_: Message<Uint8Array>): Effect.Effect<void, Down> => Effect.fail(new Down())
      const router = Router.make({
        group: "g",
        through: Stack.start().use(watch).use(refuse),
        settle: { Refused: Outcome.Reject("refused") }
      }).add(Orders, { settle: { Down: Outcome.Reject("down") } }, failing)
      yield* Router.run(Router.make().include(router))
      const publisher = Publisher.make(Orders)
      yield* publisher.publish({ id: "1" })
      yield* publisher.publish({ id: "2" }, { headers: { refuse: "yes" } })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(outcomes, [Outcome.Reject("down"), Outcome.Reject("refused")])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it("F16 an order that the stack and the handler make together is refused when it is added", () => {
    const failing = (_: Message<Uint8Array>): Effect.Effect<{ readonly id: string }, Refused> =>
      Effect.fail(new Refused())
    const router = Router.make({ group: "g", through: Stack.start().use(Publish.middleware(Orders)) })
    assert.throws(
      () => router.add(Refunds, { settle: { Refused: Outcome.Ack } }, pipe(failing, Retry.middleware())),
      Rules.OrderError,
      "Publish must stand inside Retry"
    )
    const inner = Router.make({ group: "g" })
      .add(Refunds, { settle: { Refused: Outcome.Ack } }, pipe(failing, Retry.middleware()))
    assert.throws(() => router.include(inner), Rules.OrderError, "Publish must stand inside Retry")
  })

  it("F20 what is there already, wrong or without a group is refused with a sentence", () => {
    const router = Router.make({ group: "g" }).add(Orders, { name: "n" }, nothing)
    assert.throws(
      () => router.add(Orders, { name: "n" }, nothing),
      RangeError,
      "Router: n of orders is in group g already"
    )
    assert.throws(() => router.include(router), RangeError, "Router: n of orders is in group g already")
    const twice = Router.make().include(Router.make({ prefix: "b." }).include(router)).include(router)
    assert.deepStrictEqual(twice.subscriptions.map(({ channel }) => channel), ["b.orders", "orders"])
    assert.throws(() => router.add(Refunds, { inFlight: { messages: 0 } }, nothing), RangeError, "inFlight.messages")
    assert.throws(() => Router.make({ group: "" }).add(Orders, {}, nothing), RangeError, "Router: orders needs a group")
    assert.strictEqual(router.subscriptions.length, 1)
  })

  it.effect("F20 dead letters go by the router's rule, named by the prefixed channel", () =>
    Effect.gen(function*() {
      const router = Router.make({ prefix: "eu.", group: "g", deadLetters: (channel) => `failed.${channel}` })
        .add(Orders, {}, (_: Message<Uint8Array>) => Effect.die("broken"))
      yield* Router.run(router)
      yield* Publisher.make(Channel.prefixed("eu.", Orders)).publish({ id: "1" })
      yield* TestClock.adjust("1 second")
      const { browse } = yield* Broker.Broker
      assert.strictEqual((yield* Stream.runCollect(browse("failed.eu.orders"))).length, 1)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("T11 a failure is logged once, dead-lettered once by the router's rule, and has that one outcome", () => {
    const lines: Array<string> = []
    const recording = Logger.make((options) => void lines.push(`${options.logLevel} ${String(options.message)}`))
    const outcomes: Array<unknown> = []
    const watch = Middleware.make()({ name: "Watch", stage: "consume" }, (next) => (message) => {
      message.after((_, outcome) => void outcomes.push(outcome?._tag))
      return next(message)
    })
    return Effect.gen(function*() {
      // the answer is published, and then it fails: it must be dead-lettered and not delivered again
      const failing = (message: Message<typeof Order.Type>) => Effect.succeed(message.payload)
      const after = Middleware.make()(
        { name: "After", stage: "consume" },
        (next) => (message) => Effect.flatMap(next(message), (): Middleware.Returns<Wrong> => Effect.fail(new Wrong()))
      )
      const router = Router.make({
        group: "g",
        deadLetters: (channel) => `failed.${channel}`,
        through: Stack.start().use(watch).use(Log.middleware())
      }).add(Orders, {}, pipe(failing, Publish.middleware(Refunds), after, Decode.middleware(Orders)))
      yield* Router.run(router)
      yield* Publisher.make(Orders).publish({ id: "1" })
      yield* TestClock.adjust("1 hour")
      const { browse } = yield* Broker.Broker
      assert.strictEqual((yield* Stream.runCollect(browse("failed.orders"))).length, 1)
      assert.strictEqual((yield* Stream.runCollect(browse("refunds"))).length, 1)
      assert.deepStrictEqual(outcomes, ["DeadLetter"])
      assert.strictEqual(lines.filter((line) => line.startsWith("Error")).length, 1)
    }).pipe(Effect.scoped, Effect.provide([memory, Logger.layer([recording])]))
  })

  it.effect("F20 all are drained side by side when the scope closes: none takes anything more while another drains", () =>
    Effect.gen(function*() {
      const ended: Array<string> = []
      const slow = (message: Delivery) =>
        Effect.andThen(Effect.sleep("2 seconds"), Effect.sync(() => void ended.push(message.channel)))
      const router = Router.make({ group: "g" })
        .add(Channel.bytes("a"), {}, slow).add(Channel.bytes("b"), {}, slow).add(Channel.bytes("c"), {}, slow)
      const scope = yield* Scope.make()
      yield* Scope.provide(Router.run(router), scope)
      for (const name of ["a", "b", "c"]) yield* Publisher.make(Channel.bytes(name)).publishAll([one, one, one])
      yield* TestClock.adjust("1 second")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("20 seconds")
      assert.deepStrictEqual(ended.sort(), ["a", "b", "c"])
      assert.isDefined(closing.pollUnsafe())
    }).pipe(Effect.provide(memory)))

  it.effect("F20 one that cannot start fails the layer, and the others are stopped", () =>
    Effect.gen(function*() {
      const { broker } = yield* MemoryBroker.make()
      const down = BrokerError.make({ system: "memory", operation: "consume", reason: "Unreachable", message: "down" })
      let stopped = 0
      const picky = Broker.Broker.of({
        ...broker,
        consume: (consumer) =>
          consumer.channel === "refunds"
            ? Effect.andThen(Effect.sleep("1 second"), Effect.fail(down))
            : Effect.tap(broker.consume(consumer), () => Effect.addFinalizer(() => Effect.sync(() => void stopped++)))
      })
      const router = Router.make({ group: "g" }).add(Orders, {}, nothing).add(Refunds, {}, nothing)
      const built = yield* Effect.forkChild(
        Effect.flip(
          Effect.scoped(Layer.build(Layer.provide(Router.layer(router), Layer.succeed(Broker.Broker, picky))))
        )
      )
      // the other one has started by then
      yield* TestClock.adjust("500 millis")
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(built.pollUnsafe(), Exit.succeed(down))
      assert.strictEqual(stopped, 1)
    }))

  it("X7 it prints itself, and is documented under its own names", () => {
    const router = Router.make({ prefix: "eu.", group: "g", through: Stack.start().use(Auth.middleware()) })
      .add(Orders, { name: "place", lanes: Lanes.key(3) }, nothing)
    assert.strictEqual(
      Router.toText(router).replaceAll(/ \((?!group).*\)/g, ""),
      "eu.orders: place (group: g, lanes: key 3)\n  Auth  [consume]\n    place  [handle]"
    )
    const document = AsyncApi.document({ title: "t", version: "1", subscriptions: router.subscriptions })
    assert.deepStrictEqual(Object.keys(document.channels), ["eu.orders"])
  })
})
