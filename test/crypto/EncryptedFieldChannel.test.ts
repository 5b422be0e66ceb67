import { assert, describe, it } from "@effect/vitest"
import { Compression } from "@millrace/codecs"
import {
  Channel,
  DeadLetters,
  Decode,
  MemoryBroker,
  type Message,
  PayloadCodec,
  Publisher,
  Replays,
  Subscription
} from "@millrace/core"
import { EncryptedField, Encryption, SubjectKeys } from "@millrace/crypto"
import { Data, Effect, Layer, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { keys } from "./support.ts"

class Down extends Data.TaggedError("Down") {
  readonly failure = "permanent" as const
}

const Order = Schema.Struct({
  id: Schema.String,
  card: EncryptedField.erasable(Schema.String, { subject: "id" }),
  note: EncryptedField.of(Schema.String)
})
const order: typeof Order.Type = { id: "a", card: "4111-1111", note: "ring twice" }
const fields = EncryptedField.codecOfSubjects(Order, Channel.json)
const settle = TestClock.adjust("1 minute")
const letters = Effect.map(Stream.runCollect(DeadLetters.list("orders.dead-letters")), (all) => Array.from(all))

for (
  const [name, codec] of [
    ["alone", fields],
    [
      "below compression and encryption",
      PayloadCodec.through(fields, [Compression.make({ from: 1 }), Encryption.transform()])
    ]
  ] as const
) {
  describe(`a channel with marked values, ${name}`, () => {
    it.effect("F10 shows handlers the payload; dead letters keep the ciphertext, are replayed, and lose what is erased", () =>
      Effect.gen(function*() {
        const Orders = Channel.make("orders", { payload: Order, key: ({ id }) => id, codec })
        const seen: Array<Message<typeof Order.Type>> = []
        const state = { isDown: true }
        const subscription = Subscription.make(
          Orders,
          { group: "billing", name: "bill" },
          pipe(
            (message: Message<typeof Order.Type>) =>
              Effect.suspend(() => {
                seen.push(message)
                return state.isDown ? Effect.fail(new Down()) : Effect.void
              }),
            Decode.middleware(Orders)
          )
        )
        yield* Subscription.run(subscription)
        yield* Replays.run(subscription)
        yield* Publisher.make(Orders).publish(order)
        yield* settle
        assert.deepStrictEqual(seen.map(({ payload }) => payload), [order])
        const [dead] = yield* letters
        const raw = Buffer.from(dead!.delivery.raw)
        assert.deepStrictEqual(raw, Buffer.from(seen[0]!.raw))
        assert.isFalse(raw.includes("4111") || raw.includes("ring"))
        if (name === "alone") assert.strictEqual(JSON.parse(raw.toString()).id, "a")
        yield* SubjectKeys.erase("a")
        state.isDown = false
        yield* DeadLetters.replay(dead!)
        yield* settle
        assert.deepStrictEqual(seen[1]?.payload, { ...order, card: { _tag: "Erased" } })
      }).pipe(
        Effect.provide([
          MemoryBroker.layer({ partitions: 1 }),
          Layer.provideMerge(SubjectKeys.layer(SubjectKeys.storeMemory()), keys)
        ]),
        Effect.scoped
      ))
  })
}
