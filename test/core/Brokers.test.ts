import {
  Broker,
  type BrokerError,
  Channel,
  DeadLetters,
  Decode,
  MemoryBroker,
  type Message,
  Middleware,
  Publish,
  Publisher,
  Request,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"

const Order = Schema.Struct({ id: Schema.String })
const Orders = Channel.make("orders", { payload: Order })
const Archive = Broker.named("archive")
const Archived = Broker.on(Archive, Channel.make("orders", { payload: Order }))

const memory = MemoryBroker.layer({ partitions: 1 })
const both = Layer.merge(memory, Broker.layerAs(Archive, memory))

const bodies = (
  broker: Broker.Broker["Service"],
  channel: string
): Effect.Effect<ReadonlyArray<string>, BrokerError.BrokerError> =>
  Effect.map(Stream.runCollect(broker.browse(channel)), (all) => all.map(({ raw }) => new TextDecoder().decode(raw)))

describe("several brokers in one program", () => {
  it.effect("F20 a channel is published to the broker that it is on, and to no other", () =>
    Effect.gen(function*() {
      yield* Publisher.make(Orders).publish({ id: "1" })
      yield* Publisher.make(Archived).publishAll([{ id: "2" }])
      assert.deepStrictEqual(yield* bodies(yield* Broker.Broker, "orders"), ["{\"id\":\"1\"}"])
      assert.deepStrictEqual(yield* bodies(yield* Archive, "orders"), ["{\"id\":\"2\"}"])
    }).pipe(Effect.provide(both)))

  it.effect("F20 a handler reads from one and answers to another", () =>
    Effect.gen(function*() {
      const handler = pipe(
        (message: Message<typeof Order.Type>) => Effect.succeed({ id: `${message.payload.id}!` }),
        Publish.middleware(Archived),
        Decode.middleware(Orders)
      )
      yield* Subscription.run(Subscription.make(Orders, { group: "g" }, handler))
      yield* Publisher.make(Orders).publish({ id: "1" })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* bodies(yield* Archive, "orders"), ["{\"id\":\"1!\"}"])
      assert.strictEqual((yield* bodies(yield* Broker.Broker, "orders")).length, 1)
    }).pipe(Effect.scoped, Effect.provide(both)))

  it.effect("F20 a subscription reads its channel's broker, writes its dead letters there, and they are replayed there", () =>
    Effect.gen(function*() {
      let calls = 0
      const handler = (_: Message<Uint8Array>) => calls++ === 0 ? Effect.die("broken") : Effect.void
      yield* Subscription.run(Subscription.make(Archived, { group: "g" }, handler))
      yield* Publisher.make(Orders).publish({ id: "1" })
      yield* Publisher.make(Archived).publish({ id: "2" })
      yield* TestClock.adjust("1 second")
      const letters = yield* Stream.runCollect(DeadLetters.list("orders.dead-letters", { broker: Archive }))
      assert.strictEqual(letters.length, 1)
      assert.deepStrictEqual(yield* Stream.runCollect(DeadLetters.list("orders.dead-letters")), [])
      yield* DeadLetters.replay(letters[0]!, { broker: Archive, reach: "all" })
      yield* TestClock.adjust("1 second")
      assert.strictEqual(calls, 2)
    }).pipe(Effect.scoped, Effect.provide(both)))

  it.effect("F20 a request goes out and comes back on its channel's broker", () =>
    Effect.gen(function*() {
      const Echo = Request.make(Archived, { reply: Order })
      const handler = pipe(
        (message: Message<typeof Order.Type>) => Effect.succeed(message.payload),
        Decode.middleware(Archived),
        Request.answer(Echo)
      )
      yield* Subscription.run(Subscription.make(Archived, { group: "g" }, handler))
      const client = yield* Request.client(Echo)
      const fiber = yield* Effect.forkChild(client.request({ id: "7" }))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(fiber), { id: "7" })
      assert.strictEqual((yield* bodies(yield* Archive, client.replyTo)).length, 1)
    }).pipe(Effect.scoped, Effect.provide(both)))

  it.effect("F20 a middleware around one broker leaves the other alone; the same name is the same service", () => {
    const seen: Array<string> = []
    const watch = Middleware.make()({ name: "Watch", stage: "publish" }, (next) => (message) => {
      seen.push(message.channel)
      return next(message)
    })
    const watched = Layer.provide(Broker.wrap(watch), memory)
    return Effect.gen(function*() {
      yield* Publisher.make(Orders).publish({ id: "1" })
      assert.deepStrictEqual(seen, [])
      yield* Publisher.make(Broker.on(Broker.named("archive"), Orders)).publish({ id: "1" })
      assert.deepStrictEqual(seen, ["orders"])
    }).pipe(Effect.provide(Layer.merge(memory, Broker.layerAs(Archive, watched))))
  })
})
