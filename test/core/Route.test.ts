import {
  Broker,
  Channel,
  Decode,
  Description,
  Eager,
  MemoryBroker,
  type Message,
  Middleware,
  Order as Rules,
  Outcome,
  Publish,
  Retry,
  Route,
  Settlement,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const Placed = Schema.TaggedStruct("Placed", { id: Schema.String, amount: Schema.Finite })
const Cancelled = Schema.TaggedStruct("Cancelled", { id: Schema.String })
const Events = Channel.make("events", { payload: Schema.Union([Placed, Cancelled]) })

const byType = (message: Message<Uint8Array>) => message.headers["type"]

class Refused extends Schema.TaggedError<Refused>()("Refused", {}) {
  readonly failure = "permanent" as const
}

describe("Route", () => {
  it.effect("T8 one handler for each tag, each with its own payload", () =>
    Effect.gen(function*() {
      const handler = pipe(
        Route.tags(Events, {
          Placed: ({ payload }) => Effect.succeed(`placed ${payload.amount}`),
          Cancelled: ({ payload }) => Effect.succeed(`cancelled ${payload.id}`)
        }),
        Decode.middleware(Events)
      )
      const run = (body: unknown) => runChain(handler, deliver({ body }))
      assert.deepStrictEqual(yield* run({ _tag: "Placed", id: "1", amount: 3 }), Exit.succeed("placed 3"))
      assert.deepStrictEqual(yield* run({ _tag: "Cancelled", id: "1" }), Exit.succeed("cancelled 1"))
    }))

  it("T8, T7 every message is handled by exactly the route of its value, and all others as it is said", () =>
    fc.assert(fc.asyncProperty(
      fc.array(fc.constantFrom("a", "b", "constructor", "__proto__", "toString", ""), { maxLength: 20 }),
      (types) =>
        Effect.runPromise(Effect.gen(function*() {
          const calls: Array<string> = []
          const note = (name: string) => (_: Message<Uint8Array>) => Effect.sync(() => void calls.push(name))
          const handler = Route.by(byType, { a: note("a"), b: note("b") }, note("otherwise"))
          for (const type of types) yield* runChain(handler, deliver({ headers: { type } }))
          assert.deepStrictEqual(calls, types.map((type) => type === "a" || type === "b" ? type : "otherwise"))
        }))
    )))

  it.effect("T8 what no route takes gets the outcome that was said", () =>
    Effect.gen(function*() {
      const handler = Route.by(byType, { a: () => Effect.succeed(1) }, Outcome.Reject("of no interest"))
      assert.deepStrictEqual(yield* runChain(handler, deliver()), Exit.succeed(Outcome.Reject("of no interest")))
      assert.deepStrictEqual(yield* runChain(handler, deliver({ headers: { type: "a" } })), Exit.succeed(1))
    }))

  it.effect("T8 a route may be a pipeline of its own, and its errors, services and hooks are those of the whole", () =>
    Effect.gen(function*() {
      class Stock extends Context.Service<Stock, number>()("test/Stock") {}
      let attempts = 0
      const hooks: Array<string> = []
      const hooked = Middleware.make()({ name: "Hooked", stage: "consume" }, (next) => (message) => {
        message.after((exit) => void hooks.push(exit._tag))
        return next(message)
      })
      const failing = (_: Message<Uint8Array>): Effect.Effect<number, Refused> =>
        Effect.suspend(() => ++attempts < 3 ? Effect.fail(new Refused()) : Effect.succeed(attempts))
      const handler = Route.by(byType, {
        retried: pipe(failing, Retry.when(() => true, { times: 5 }), hooked),
        stock: () => Effect.service(Stock)
      }, Outcome.Ack)
      const run = (type: string) => Effect.provideService(runChain(handler, deliver({ headers: { type } })), Stock, 7)
      assert.deepStrictEqual(yield* run("stock"), Exit.succeed(7))
      assert.deepStrictEqual(hooks, [])
      const retried = yield* Effect.forkChild(run("retried"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(retried), Exit.succeed(3))
      assert.deepStrictEqual(hooks, ["Success"])
    }))

  it.effect("T8 a value that the types exclude is a defect, and so is a function that throws", () =>
    Effect.gen(function*() {
      const around = Middleware.make()(
        { name: "Around", stage: "consume" },
        (next) => (message) => Eager.around(message, next, (exit) => void seen.push(Exit.hasDies(exit)))
      )
      const seen: Array<boolean> = []
      const none = Route.by((_: Message<Uint8Array>): "a" => "b" as "a", { a: () => Effect.void })
      const throwing = Route.by((_: Message<Uint8Array>): "a" => {
        throw new Error("broken")
      }, { a: () => Effect.void })
      for (const handler of [none, throwing]) {
        const exit = yield* runChain(pipe(handler, around), deliver())
        assert.isTrue(Exit.hasDies(exit))
        assert.strictEqual(Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag, "DeadLetter")
      }
      assert.deepStrictEqual(seen, [true, true])
    }))

  it("T8 a pipeline shows its routes, and an order is checked on every way", () => {
    const failing = (_: Message<Uint8Array>): Effect.Effect<{ readonly id: string }, Refused> =>
      Effect.fail(new Refused())
    const answers = Channel.unchecked("answers")
    const handler = pipe(
      Route.by(byType, { a: pipe(failing, Publish.middleware(answers)), b: failing }, Outcome.Ack),
      Retry.middleware()
    )
    assert.strictEqual(
      Description.toText(handler).replaceAll(/ \(.*\)/g, ""),
      "Retry  [consume]\n  Route  [handle]\n    a:\n      Publish  [publish]\n        failing  [handle]\n    b:\n      failing  [handle]"
    )
    assert.include(Description.toMermaid(handler), "n1 -->|\"b\"| n4")
    assert.deepStrictEqual(Rules.violations(handler), [])
    const wrong = Route.by(byType, { a: pipe(failing, Retry.middleware(), Publish.middleware(answers)) }, Outcome.Ack)
    assert.throws(
      () => Subscription.make(Channel.bytes("a"), { group: "g" }, wrong),
      Rules.OrderError,
      "Publish must stand inside Retry"
    )
  })

  it("F19 a route that has finished costs no step", () => {
    const handler = Route.by(byType, { a: () => Exit.succeed(1) }, Outcome.Ack)
    assert.isTrue(Eager.isDone(handler(deliver({ headers: { type: "a" } }))))
  })
})

describe("Publish.route", () => {
  it.effect("T8 an answer goes to the channel that is chosen by its content, on that channel's broker", () =>
    Effect.gen(function*() {
      const Order = Schema.Struct({ id: Schema.String, amount: Schema.Finite })
      const Archive = Broker.named("archive")
      const Large = Channel.make("large", { payload: Order, key: (order) => order.id })
      const Small = Broker.on(Archive, Channel.make("small", { payload: Order }))
      const of = (amount: number) => ({ id: `${amount}`, amount })
      const handler = pipe(
        (message: Message<unknown>) => Effect.succeed(of(message.position)),
        Publish.route({ Large, Small }, ({ amount }) => amount > 9 ? "Large" : amount > 0 ? "Small" : undefined)
      )
      const main = yield* MemoryBroker.make()
      const other = yield* MemoryBroker.make()
      for (const position of [0, 5, 10]) {
        const exit = yield* runChain(handler, deliver({ position, headers: { "correlation-id": "c" } })).pipe(
          Effect.provideService(Broker.Broker, main.broker),
          Effect.provideService(Archive, other.broker)
        )
        assert.deepStrictEqual(exit, Exit.succeed(of(position)))
      }
      const [large, ...more] = yield* Stream.runCollect(main.broker.browse("large"))
      assert.deepStrictEqual([large!.key, large!.headers["correlation-id"], more.length], ["10", "c", 0])
      assert.strictEqual((yield* Stream.runCollect(other.broker.browse("small"))).length, 1)
      assert.strictEqual((yield* Stream.runCollect(main.broker.browse("small"))).length, 0)
    }))
})
