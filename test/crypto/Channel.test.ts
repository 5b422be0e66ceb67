import { assert, describe, it } from "@effect/vitest"
import {
  Audit,
  Broker,
  Channel,
  DeadLetters,
  Decode,
  Log,
  MemoryBroker,
  type Message,
  Outgoing,
  PayloadCodec,
  Publisher,
  Replays,
  Subscription
} from "@millrace/core"
import { Encryption, Keys } from "@millrace/crypto"
import { Data, Effect, Exit, Layer, Logger, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { keys, secretOf } from "./support.ts"

class Down extends Data.TaggedError("Down") {}

const Order = Schema.Struct({ id: Schema.String, card: Schema.String })
const order = { id: "a", card: "4111-1111" }
const encrypted = PayloadCodec.through(Channel.json, [Encryption.transform({ bind: ["tenant"] })])
const Orders = Channel.make("orders", { payload: Order, key: ({ id }) => id, codec: encrypted })
const memory = MemoryBroker.layer({ partitions: 1 })
const settle = TestClock.adjust("1 minute")

const received = <R>(channel: Channel.Channel<typeof Order.Type, never, never, R>) =>
  Effect.gen(function*() {
    const seen: Array<Message<typeof Order.Type>> = []
    yield* Subscription.run(Subscription.make(
      channel,
      { group: "billing", name: "bill" },
      pipe(
        (message: Message<typeof Order.Type>) => Effect.sync(() => void seen.push(message)),
        Decode.middleware(channel)
      )
    ))
    return seen
  })

const letters = (channel: string) => Effect.map(Stream.runCollect(DeadLetters.list(channel)), (all) => Array.from(all))

const shows = (bytes: Uint8Array): boolean => Buffer.from(bytes).includes("4111")

describe("an encrypted channel", () => {
  it.effect("F10 carries encrypted bodies, and its handler gets payloads", () =>
    Effect.gen(function*() {
      const seen = yield* received(Orders)
      const orders = Publisher.make(Orders)
      yield* orders.publish(order, { headers: { tenant: "t" } })
      yield* orders.publishAll([order, { ...order, id: "b" }])
      yield* settle
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [order, order, { ...order, id: "b" }])
      for (const { headers, raw } of seen) {
        assert.strictEqual(headers["content-type"], "application/json")
        assert.isFalse(shows(raw))
      }
    }).pipe(Effect.provide([memory, keys]), Effect.scoped))

  it.effect("F10 refuses bodies that were moved to another channel, key, content type or bound header", () =>
    Effect.gen(function*() {
      const there = yield* received(Channel.make("refunds", { payload: Order, codec: encrypted }))
      const here = yield* received(Orders)
      yield* Publisher.make(Orders).publish(order, { headers: { tenant: "t" } })
      yield* settle
      const broker = yield* Broker.Broker
      const { headers, raw } = here[0]!
      const moved = [
        new Outgoing("refunds", raw, "a", headers),
        new Outgoing("refunds", raw, "a", { ...headers, [DeadLetters.names.channel]: "orders" }),
        new Outgoing("orders", raw, "b", headers),
        new Outgoing("orders", raw, undefined, headers),
        new Outgoing("orders", raw, "a", { ...headers, "content-type": "text/plain" }),
        new Outgoing("orders", raw, "a", { ...headers, tenant: "u" }),
        new Outgoing("orders", raw, "a", { "content-type": "application/json" })
      ]
      for (const each of moved) yield* broker.publish(each)
      // what is not bound may change
      yield* broker.publish(new Outgoing("orders", raw, "a", { ...headers, other: "x" }))
      yield* settle
      assert.deepStrictEqual([here.length, there.length], [2, 0])
      const dead = [...yield* letters("refunds.dead-letters"), ...yield* letters("orders.dead-letters")]
      assert.lengthOf(dead, moved.length)
      for (const { delivery, errorMessage } of dead) {
        assert.deepStrictEqual(delivery.raw, raw)
        assert.match(errorMessage ?? "", /does not open/)
      }
    }).pipe(Effect.provide([memory, keys]), Effect.scoped))

  it.effect("F10 shows ciphertext alone in audit rows, log lines and dead letters, and a replay is decrypted", () => {
    const lines: Array<string> = []
    const logger = Logger.make(({ message }) => void lines.push(JSON.stringify(message)))
    return Effect.gen(function*() {
      let isBroken = true
      const seen: Array<string> = []
      const subscription = Subscription.make(
        Orders,
        { group: "billing", name: "bill" },
        pipe(
          ({ payload }: Message<typeof Order.Type>) => {
            seen.push(payload.card)
            return isBroken ? Effect.fail({ _tag: "Broken", failure: "permanent" } as const) : Effect.void
          },
          Decode.middleware(Orders),
          Log.middleware({ body: { characters: 1000 } }),
          Audit.middleware({ body: { characters: 1000 } })
        )
      )
      yield* Subscription.run(subscription)
      yield* Replays.run(subscription)
      yield* Publisher.make(Orders).publish(order)
      yield* settle
      const [letter] = yield* letters("orders.dead-letters")
      assert.isFalse(shows(letter!.delivery.raw))
      isBroken = false
      yield* DeadLetters.replay(letter!)
      yield* settle
      assert.deepStrictEqual(seen, [order.card, order.card])
      const { rows } = yield* Effect.flatMap(Audit.Store, (store) => store.query({ channel: "orders" }))
      assert.deepStrictEqual(rows.map(({ status }) => status), ["done", "deadLettered"])
      assert.notInclude(JSON.stringify(rows), "4111")
      assert.isNotEmpty(lines)
      assert.notInclude(lines.join(), "4111")
    }).pipe(Effect.provide([memory, keys, Audit.layerMemory(), Logger.layer([logger])]), Effect.scoped)
  })

  it.effect("F10 leaves tombstones as they are", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      yield* Subscription.run(Subscription.make(
        Orders,
        { group: "billing", name: "bill" },
        pipe(
          (message: Message<typeof Order.Type | undefined>) =>
            Effect.sync(() => void seen.push(message.payload, message.delivery.tombstone)),
          Decode.middleware(Orders, { tombstone: "pass" })
        )
      ))
      const orders = yield* Publisher.using(Orders, ["tombstone"])
      yield* orders.tombstone("a")
      yield* settle
      assert.deepStrictEqual(seen, [undefined, true])
    }).pipe(Effect.provide([memory, keys]), Effect.scoped))

  it.effect("F10 makes no dead letter while the source of keys is down, and reads the message after it", () => {
    const a = secretOf(1)
    const b = secretOf(2)
    let isDown = false
    const known: Record<string, typeof a> = { a }
    const load = Effect.suspend(() => isDown ? Effect.fail(new Down()) : Effect.succeed({ writing: "a", keys: known }))
    return Effect.gen(function*() {
      const seen = yield* received(Orders)
      isDown = true
      const newer = Keys.layerMemory({ keys: { b }, writing: "b" })
      yield* Effect.provide(Publisher.make(Orders).publish(order), newer)
      yield* TestClock.adjust("1 hour")
      assert.lengthOf(seen, 0)
      assert.lengthOf(yield* letters("orders.dead-letters"), 0)
      known["b"] = b
      isDown = false
      yield* TestClock.adjust("10 minutes")
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [order])
    }).pipe(Effect.provide([memory, Keys.layer(load)]), Effect.scoped)
  })

  it.effect("F10 dead-letters a body of an unknown key, of a revoked key, and plaintext", () =>
    Effect.gen(function*() {
      const seen = yield* received(Orders)
      const publish = (id: string) =>
        Effect.provide(
          Publisher.make(Orders).publish(order),
          Keys.layerMemory({ keys: { [id]: secretOf(9) }, writing: id })
        )
      yield* publish("unknown")
      yield* publish("gone")
      const broker = yield* Broker.Broker
      const plain = Channel.json.encode(order)
      yield* broker.publish(new Outgoing("orders", plain, "a", { "content-type": "application/json" }))
      yield* settle
      assert.lengthOf(seen, 0)
      assert.deepStrictEqual(
        (yield* letters("orders.dead-letters")).map(({ errorMessage }) =>
          /not in the key set|is revoked|not encrypted/.exec(errorMessage ?? "")?.[0]
        ),
        ["not in the key set", "is revoked", "not encrypted"]
      )
    }).pipe(Effect.provide([memory, keys]), Effect.scoped))

  it("F10 needs keys: a publisher without them does not compile", () => {
    const publish = Effect.provide(Publisher.make(Orders).publish(order), memory)
    // @ts-expect-error KeysRing is missing
    // @effect-diagnostics-next-line missingEffectContext:off
    const incomplete: Effect.Effect<void, unknown> = publish
    const complete: Effect.Effect<void, unknown> = Effect.provide(publish, keys)
    assert.isTrue(
      Effect.isEffect(incomplete) && Effect.isEffect(complete) && Layer.isLayer(keys) && !Exit.isExit(complete)
    )
  })
})
