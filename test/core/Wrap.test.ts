import { assert, describe, it } from "@effect/vitest"
import {
  Broker,
  Channel,
  Correlate,
  Decode,
  Log,
  MemoryBroker,
  type Message,
  Middleware,
  Order,
  Publisher,
  Retry,
  Subscription,
  Trace
} from "@millrace/core"
import { Cause, Data, Deferred, Effect, Exit, Layer, pipe, Schema, Stream } from "effect"

const Orders = Channel.make("orders", { payload: Schema.String, key: (id) => id })

class No extends Data.TaggedError("No")<{}> {
  readonly failure = "permanent" as const
}

const noting = (name: string, seen: Array<string>) => {
  let built = 0
  const middleware = Middleware.make()({ name, stage: "consume" }, (next) => {
    built++
    return (message) => {
      seen.push(`${name} ${message.kind}`)
      return next(message)
    }
  })
  return { middleware, built: () => built }
}

/** The memory broker inside layers of middlewares, the nearest to the program first. */
const wrapped = (...layers: ReadonlyArray<Layer.Layer<Broker.Broker, never, Broker.Broker>>) =>
  layers.reduceRight<Layer.Layer<Broker.Broker>>(
    (inner, each) => Layer.provide(each, inner),
    MemoryBroker.layer({ partitions: 1 })
  )

const published = Effect.flatMap(
  Broker.Broker,
  (broker) => Effect.map(Stream.runCollect(broker.browse("orders")), (all) => all.map(({ key }) => key))
)

const defectOf = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.map(Effect.exit(effect), (exit) => Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined)

describe("Broker.wrap", () => {
  it.effect("F17 of several layers the one nearest to the program is outermost, when publishing and when consuming", () => {
    const seen: Array<string> = []
    const [near, middle, far] = [noting("near", seen), noting("middle", seen), noting("far", seen)]
    return Effect.gen(function*() {
      const handled = yield* Deferred.make<void>()
      const handler = pipe(
        (_: Message<string>) => Effect.asVoid(Deferred.succeed(handled, undefined)),
        Decode.middleware(Orders)
      )
      yield* Subscription.run(Subscription.make(Orders, { group: "g", name: "h" }, handler))
      yield* Publisher.make(Orders).publish("1")
      yield* Deferred.await(handled)
      assert.deepStrictEqual(
        seen,
        ["producer", "consumer"].flatMap((kind) => ["near", "middle", "far"].map((name) => `${name} ${kind}`))
      )
      // once to publish, once for the subscription
      assert.deepStrictEqual([near.built(), middle.built(), far.built()], [2, 2, 2])
    }).pipe(
      Effect.scoped,
      Effect.provide(
        wrapped(Broker.wrap(near.middleware), Broker.wrap(middle.middleware), Broker.wrap(far.middleware))
      )
    )
  })

  it.effect("F17 F16 a wrong order of layers is refused when the layer is built", () =>
    Effect.gen(function*() {
      const right = wrapped(Broker.wrap(Correlate.middleware()), Broker.wrap(Log.middleware()))
      const wrong = wrapped(Broker.wrap(Log.middleware()), Broker.wrap(Correlate.middleware()))
      assert.isUndefined(yield* defectOf(Effect.scoped(Layer.build(right))))
      const defect = yield* defectOf(Effect.scoped(Layer.build(wrong)))
      assert.instanceOf(defect, Order.OrderError)
      assert.match(defect.message, /^Correlate must stand outside Log, not inside it/)
    }))

  it.effect("F17 F16 a wrong order of a layer and a publisher or a subscription is refused when they start", () =>
    Effect.gen(function*() {
      const logged = Publisher.make(Orders, Log.middleware())
      for (const publish of [logged.publish("1"), logged.publishAll(["1"])]) {
        assert.instanceOf(yield* defectOf(publish), Order.OrderError)
      }
      assert.deepStrictEqual(yield* published, [])
      yield* Publisher.make(Orders, Trace.middleware()).publish("2")
      assert.deepStrictEqual(yield* published, ["2"])
      const handle = pipe((_: Message<Uint8Array>) => Effect.void, Correlate.middleware())
      const subscription = Subscription.make(Orders, { group: "g", name: "h" }, handle)
      assert.isUndefined(yield* defectOf(Effect.scoped(Subscription.run(subscription))))
      const defect = yield* defectOf(
        Effect.scoped(Subscription.run(subscription)).pipe(
          Effect.provide(wrapped(Broker.wrap(Log.middleware())))
        )
      )
      assert.instanceOf(defect, Order.OrderError)
    }).pipe(Effect.provide(wrapped(Broker.wrap(Correlate.middleware())))))

  it.effect("F17 a batch through layers is one batch of the broker, in order, all or none", () => {
    const calls: Array<number> = []
    const counting = Layer.effect(
      Broker.Broker,
      Effect.map(Broker.Broker, (broker) =>
        Broker.Broker.of({
          ...broker,
          publish: (message) => {
            calls.push(1)
            return broker.publish(message)
          },
          publishAll: (messages) => {
            calls.push(messages.length)
            return broker.publishAll(messages)
          }
        }))
    )
    const slow = Middleware.make()(
      { name: "Slow", stage: "publish" },
      (next) => (message) => message.key === "1" ? Effect.flatMap(Effect.yieldNow, () => next(message)) : next(message)
    )
    const refuse = Middleware.make()(
      { name: "Refuse", stage: "publish" },
      (next) => (message) => message.key === "bad" ? Effect.fail(new No()) : next(message)
    )
    return Effect.gen(function*() {
      const orders = Publisher.make(Orders, Retry.middleware())
      yield* orders.publishAll(["1", "2", "3"])
      const error = yield* Effect.flip(orders.publishAll(["4", "bad", "5"]))
      assert.strictEqual(error._tag === "BrokerError" && error.reason, "Refused")
      assert.deepStrictEqual(yield* published, ["1", "2", "3"])
      assert.deepStrictEqual(calls, [3])
    }).pipe(Effect.provide(wrapped(Broker.wrap(slow), Broker.wrap(refuse), counting)))
  })

  it.effect("F17 the middlewares of a layer run with its services beneath those of the caller", () => {
    const seen: Array<string | undefined> = []
    const reads = Middleware.make()(
      { name: "Reads", stage: "publish" },
      (next) => (message) =>
        Effect.flatMap(Correlate.Current, (ids) => {
          seen.push(ids?.id)
          return next(message)
        })
    )
    return Publisher.make(Orders).publishAll(["1", "2"]).pipe(
      Effect.provideService(Correlate.Current, {
        id: "of-the-caller",
        causation: undefined,
        upstream: undefined,
        replaced: undefined
      }),
      Effect.provide(wrapped(Broker.wrap(reads))),
      Effect.andThen(Effect.sync(() => assert.deepStrictEqual(seen, ["of-the-caller", "of-the-caller"])))
    )
  })
})
