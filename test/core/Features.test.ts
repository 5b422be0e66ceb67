import { assert, describe, it } from "@effect/vitest"
import {
  Broker,
  BrokerError,
  Channel,
  Features,
  Headers,
  Hooks,
  MemoryBroker,
  Outgoing,
  Publisher
} from "@millrace/core"
import { Effect, Exit, Layer, Schema, Stream } from "effect"
import * as fc from "fast-check"

const Price = Schema.Struct({ item: Schema.String, cents: Schema.Int })
const Prices = Channel.make("prices", { payload: Price, key: (price) => price.item })
const all = ["partition", "timestamp", "tombstone"] as const

const found = Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse("prices")))

/** A broker that lacks what it is told, over the memory broker, and counts what is published. */
const lacking = (lacks: ReadonlyArray<Features.Feature>, published: Array<unknown> = []) =>
  Layer.provide(
    Layer.effect(
      Broker.Broker,
      Effect.map(Broker.Broker, (broker) =>
        Broker.Broker.of({
          ...broker,
          system: "other",
          capabilities: {
            ...broker.capabilities,
            partitions: !lacks.includes("partition"),
            timestamps: lacks.includes("timestamp") ? "none" : "milliseconds",
            tombstones: !lacks.includes("tombstone")
          },
          publish: (outgoing) => {
            published.push(outgoing)
            return broker.publish(outgoing)
          }
        }))
    ),
    MemoryBroker.layer({ partitions: 4 })
  )

describe("features of publishing", () => {
  it("F21 a publisher is built where the broker has all that it declares, else a sentence names broker, channel and feature", () =>
    fc.assert(
      fc.asyncProperty(
        fc.subarray([...all]),
        fc.subarray([...all]),
        (uses, lacks) =>
          Effect.runPromise(
            Effect.gen(function*() {
              const exit = yield* Effect.exit(Publisher.using(Prices, uses))
              const wrong = uses.find((feature) => lacks.includes(feature))
              if (wrong === undefined) return assert.isTrue(Exit.isSuccess(exit))
              const error = yield* Effect.flip(exit)
              assert.instanceOf(error, BrokerError.BrokerError)
              assert.strictEqual(error.reason, "Unsupported")
              for (const word of ["other", "prices", wrong]) assert.include(error.message, word)
            }).pipe(Effect.provide(lacking(lacks)))
          )
      )
    ))

  it.effect("F21 partition, timestamp and tombstone arrive as they were said, in publishes and batches", () =>
    Effect.gen(function*() {
      const prices = yield* Publisher.using(Prices, all)
      yield* prices.publish({ item: "tea", cents: 1 }, { partition: 3, timestamp: 1000, headers: { a: "b" } })
      yield* prices.publishAll([{ item: "tea", cents: 2 }, { item: "mate", cents: 3 }], { partition: 2, timestamp: 7 })
      yield* prices.tombstone("tea", { partition: 1, timestamp: 0, headers: { a: "c" } })
      const told = (yield* found).map((message) => [
        message.partition,
        message.timestamp,
        message.key,
        message.tombstone,
        message.headers["a"],
        new TextDecoder().decode(message.raw)
      ])
      assert.deepStrictEqual(told, [
        [1, 0, "tea", true, "c", ""],
        [2, 7, "tea", false, undefined, `{"item":"tea","cents":2}`],
        [2, 7, "mate", false, undefined, `{"item":"mate","cents":3}`],
        [3, 1000, "tea", false, "b", `{"item":"tea","cents":1}`]
      ])
      const [tombstone] = yield* found
      assert.isUndefined(tombstone?.headers["content-type"])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 4 }))))

  it.effect("F17 tombstones pass the publish middlewares, which are composed once", () =>
    Effect.gen(function*() {
      let composed = 0
      const seen: Array<unknown> = []
      const prices = yield* Publisher.using(Prices, ["tombstone"], (next) => {
        composed++
        const hooked = Hooks.middleware({ postSend: () => Effect.sync(() => void seen.push("hook")) })(next)
        return (outgoing) => {
          seen.push(outgoing.payload, outgoing.native?.tombstone)
          // what a middleware makes of a tombstone stays one
          return hooked(outgoing.withHeader("x", "1").withPayload({ item: "none", cents: 0 }))
        }
      })
      yield* prices.tombstone("tea")
      yield* prices.publish({ item: "mate", cents: 1 })
      assert.strictEqual(composed, 1)
      assert.deepStrictEqual(seen, [undefined, true, "hook", { item: "mate", cents: 1 }, undefined, "hook"])
      const tombstones = (yield* found).filter(({ tombstone }) => tombstone)
      assert.deepStrictEqual(tombstones.map(({ headers, key, raw }) => [key, headers["x"], raw.length]), [[
        "tea",
        "1",
        0
      ]])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 4 }))))

  it("F21 a driver refuses by the same table what goes past the types, and a number that is none", () =>
    fc.assert(
      fc.property(
        fc.record({
          partition: fc.option(fc.oneof(fc.integer(), fc.double()), { nil: undefined }),
          timestamp: fc.option(fc.oneof(fc.integer(), fc.double()), { nil: undefined }),
          tombstone: fc.option(fc.boolean(), { nil: undefined })
        }),
        fc.record({
          partitions: fc.boolean(),
          timestamps: fc.constantFrom("milliseconds" as const, "seconds" as const, "none" as const),
          tombstones: fc.boolean()
        }),
        (native, capabilities) => {
          const outgoing = new Outgoing("prices", new Uint8Array(0), undefined, Headers.empty, native)
          const error = Features.refuse("other", capabilities, outgoing)
          const { partition, timestamp, tombstone } = native
          const lacks = (tombstone === true && !capabilities.tombstones) ||
            (partition !== undefined && !capabilities.partitions) ||
            (timestamp !== undefined && capabilities.timestamps === "none")
          const isWrong = [partition, timestamp].some((each) =>
            each !== undefined && !(Number.isSafeInteger(each) && each >= 0)
          )
          assert.strictEqual(error === undefined, !lacks && !isWrong)
          if (error !== undefined && !isWrong) assert.strictEqual(error.reason, "Unsupported")
        }
      )
    ))

  it.effect("F21 a partition that is not there is refused before anything is written, also in the middle of a batch", () =>
    Effect.gen(function*() {
      const prices = yield* Publisher.using(Prices, ["partition"])
      const error = yield* Effect.flip(prices.publishAll([{ item: "tea", cents: 1 }], { partition: 4 }))
      assert.include(error.message, "from 0 to 3")
      assert.deepStrictEqual(yield* found, [])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 4 }))))
})
