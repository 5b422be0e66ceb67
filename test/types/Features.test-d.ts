import { Effect, Schema } from "effect"
import { expectTypeOf, test } from "vitest"
import { type Broker, type BrokerError, Channel, Hooks, type Outgoing, Parcel, Publisher, Stack } from "@millrace/core"

const Price = Schema.Struct({ item: Schema.String })
const Prices = Channel.make("prices", { payload: Price, key: (price) => price.item })
const Regional = Channel.make("prices.{region}", { payload: Price })
type Failure = Publisher.EncodeError | BrokerError.BrokerError
const price = { item: "tea" }

test("F21 the options and methods of a feature exist where the publisher declares it, and nowhere else", () => {
  const plain = Publisher.make(Prices)
  // @ts-expect-error not declared
  void plain.publish(price, { partition: 1 })
  // @ts-expect-error not declared
  void plain.publish(price, { timestamp: 1 })
  // @ts-expect-error not declared
  void plain.tombstone("tea")

  const all = Effect.flatMap(Publisher.using(Prices, ["partition", "timestamp", "tombstone"]), (prices) => {
    void prices.publishAll([price], { partition: 1, timestamp: 1, headers: {} })
    void prices.tombstone("tea", { partition: 1 })
    // @ts-expect-error a tombstone is for one key
    void prices.tombstone("tea", { key: "coffee" })
    return prices.publish(price, { key: "a", partition: 1, timestamp: 1 })
  })
  expectTypeOf(all).toEqualTypeOf<Effect.Effect<void, Failure, Broker.Broker>>()

  void Effect.map(Publisher.using(Prices, ["partition"]), (prices) => {
    void prices.publish(price, { partition: 1 })
    // @ts-expect-error not declared
    void prices.publish(price, { timestamp: 1 })
    // @ts-expect-error not declared
    void prices.tombstone("tea")
  })
  void Effect.map(Publisher.using(Regional, ["tombstone"]), (prices) => {
    void prices.tombstone("tea", { parameters: { region: "eu" } })
    // @ts-expect-error its address has parameters
    void prices.tombstone("tea")
  })
  // @ts-expect-error no such feature
  void Publisher.using(Prices, ["priority"])
})

test("F21 publish middlewares of a publisher of tombstones see that there may be no payload", () => {
  const log = Hooks.middleware({})
  void Publisher.using(Prices, ["tombstone"], log)
  void Publisher.using(Prices, ["tombstone"], Stack.start<Outgoing<typeof Price.Type | undefined>>().use(log))
  const reads = (next: Publisher.Innermost<typeof Price.Type>) => (outgoing: Outgoing<typeof Price.Type>) =>
    outgoing.payload.item === "" ? Effect.void : next(outgoing)
  void Publisher.using(Prices, ["partition"], reads)
  // @ts-expect-error a tombstone has no payload
  void Publisher.using(Prices, ["tombstone"], reads)
})

test("B2 data of a parcel may be absent, unless it is required", () => {
  expectTypeOf(Parcel.make(Price)).toEqualTypeOf<
    Schema.Codec<Parcel.Open<typeof Price.Type>, Parcel.Open<typeof Price.Encoded>>
  >()
  expectTypeOf<Parcel.Parcel<string>["data"]>().toEqualTypeOf<string | undefined>()
  expectTypeOf(Parcel.make(Price, { data: "required", unknown: "refuse" })).toEqualTypeOf<
    Schema.Codec<Parcel.Required<typeof Price.Type>, Parcel.Required<typeof Price.Encoded>>
  >()
  expectTypeOf<Parcel.OpenRequired<string>["data"]>().toEqualTypeOf<string>()
})
