import {
  Broker,
  Channel,
  DeadLetters,
  Idempotency,
  Identity,
  Lanes,
  MemoryBroker,
  type Message,
  Outcome,
  Outgoing,
  Replays,
  Subscription
} from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { it } from "@effect/vitest"
import { Effect, Layer, pipe, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { assert, describe } from "vitest"

const idOf = (headers: Readonly<Record<string, string>>, options: Deliveries.Options = {}) =>
  Identity.of(Deliveries.make({ headers, ...options }))

describe("Identity", () => {
  it("T13 is the source and id of a CloudEvent in each binding, else message-id, else a place that lasts", () => {
    const event = (start: string) => ({ [`${start}source`]: "/a", [`${start}id`]: "1", [`${start}specversion`]: "1.0" })
    for (const start of ["ce_", "ce-", "cloudEvents:", "cloudEvents_"]) {
      assert.strictEqual(idOf({ ...event(start), "message-id": "m" }), "/a#1", start)
    }
    assert.strictEqual(idOf(event(""), { system: "mqtt" }), "/a#1")
    assert.isUndefined(idOf(event(""), { system: "kafka" }))
    assert.strictEqual(idOf({ "ce-source": "/a", "ce-id": "%C3%A9%20" }), idOf({ ce_source: "/a", ce_id: "é " }))
    assert.strictEqual(idOf({ "ce-source": "/a", "ce-id": "%" }), "/a#%")
    assert.strictEqual(idOf({ ce_id: "1", "message-id": "m" }), "m")
    assert.strictEqual(idOf({ "message-id": "m" }, { lasting: true }), "m")
    assert.strictEqual(idOf({ "message-id": "" }, { lasting: true, position: 7, timestamp: 5 }), "orders/0/7@5")
    assert.strictEqual(idOf({}, { lasting: true, position: 7, timestamp: undefined }), "orders/0/7")
    assert.isUndefined(idOf({}))
    assert.strictEqual(Identity.of(new Outgoing("orders", 1, undefined, { "message-id": "m" })), "m")
    assert.isUndefined(Identity.of(new Outgoing("orders", 1, undefined, {})))
  })

  it("T13 is another for each other source and id, and at most 255 characters long", () => {
    const part = fc.string({ unit: fc.constantFrom("a", "#", "1", "2"), minLength: 1, maxLength: 6 })
    fc.assert(fc.property(part, part, part, part, (source, id, otherSource, otherId) => {
      const same = source === otherSource && id === otherId
      const [one, other] = [idOf({ ce_source: source, ce_id: id }), idOf({ ce_source: otherSource, ce_id: otherId })]
      assert.strictEqual(one === other, same)
    }))
    assert.notStrictEqual(idOf({ ce_source: "a#b", ce_id: "c" }), idOf({ ce_source: "a", ce_id: "b#c" }))
    const long = [..."ab"].map((last) => idOf({ "message-id": `${"x".repeat(300)}${last}` }))
    assert.notStrictEqual(long[0], long[1])
    for (const id of long) assert.match(id ?? "", /^sha-256:[0-9a-f]{64}$/)
  })

  for (const headers of [{}, { "message-id": "m1" }, { ce_source: "/a", ce_id: "1" }]) {
    it.effect(`T13 stays the same through retries, the dead letter, both replays and another broker: ${JSON.stringify(headers)}`, () =>
      Effect.gen(function*() {
        const seen: Array<string | undefined> = []
        let fails = true
        const handler = (message: Message<Uint8Array>) =>
          Effect.sync(() => {
            seen.push(Identity.of(message))
            return fails
              ? message.attempt < 3 ? Outcome.Retry({ after: "1 second" }) : Outcome.DeadLetter("no")
              : Outcome.Ack
          })
        const subscribe = (channel: string) => {
          const subscription = Subscription.make(
            Channel.bytes(channel),
            { group: "g", name: "n", lanes: Lanes.partition },
            handler
          )
          return Effect.andThen(Subscription.run(subscription), Replays.run(subscription))
        }
        const carried = yield* Effect.scoped(Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* subscribe("orders")
          // the position of its copies is another one
          yield* TestClock.setTime(1_000)
          yield* broker.publish(new Outgoing("orders", new Uint8Array([1]), "k", headers))
          yield* TestClock.adjust("1 minute")
          const letters = yield* Stream.runCollect(DeadLetters.list("orders.dead-letters"))
          const [letter] = Array.from(letters)
          seen.push(Identity.of(letter!.delivery))
          fails = false
          yield* DeadLetters.replay(letter!)
          yield* TestClock.adjust("1 minute")
          yield* DeadLetters.replay(letter!, { reach: "all" })
          yield* TestClock.adjust("1 minute")
          yield* subscribe("elsewhere")
          yield* DeadLetters.replay(letter!, { to: "elsewhere" })
          yield* TestClock.adjust("1 minute")
          const copies = yield* Stream.runCollect(broker.browse("elsewhere"))
          return Array.from(copies)[0]!
        })).pipe(Effect.provide(MemoryBroker.layer()))
        yield* Effect.scoped(Effect.gen(function*() {
          const broker = yield* Broker.Broker
          yield* subscribe("bridge")
          yield* broker.publish(new Outgoing("bridge", carried.raw, carried.key, carried.headers))
          yield* TestClock.adjust("1 minute")
        })).pipe(Effect.provide(MemoryBroker.layer()))
        assert.strictEqual(seen.length, 8)
        // three attempts, the letter and the replay for the group; then all groups, another channel, another broker
        assert.strictEqual(new Set(seen.slice(0, 5)).size, 1, seen.join(", "))
        assert.strictEqual(new Set(seen).size, Object.keys(headers).length === 0 ? 4 : 1, seen.join(", "))
        assert.isDefined(seen[0])
      }))
  }

  it.effect("T13 is the key of Idempotency: a message that was handled is not handled again, by any of its copies", () =>
    Effect.gen(function*() {
      let runs = 0
      const handler = pipe(
        (_: Message<Uint8Array>) => Effect.sync(() => void runs++),
        Idempotency.middleware()
      )
      const deliver = (options: Deliveries.Options) =>
        Effect.map(Deliveries.run(handler, Deliveries.make(options)), ({ outcome }) => outcome._tag)
      for (const attempt of [1, 2]) {
        assert.strictEqual(yield* deliver({ headers: { ce_source: "/a", ce_id: "1" }, attempt }), "Ack")
        assert.strictEqual(yield* deliver({ lasting: true, position: 3, attempt }), "Ack")
      }
      assert.strictEqual(runs, 2)
      assert.strictEqual(yield* deliver({ lasting: true, position: 4 }), "Ack")
      assert.strictEqual(runs, 3)
      // the position of RabbitMQ is that of another message after it has connected again
      assert.strictEqual(yield* deliver({ position: 3 }), "DeadLetter")
      assert.strictEqual(runs, 3)
    }).pipe(Effect.provide(Idempotency.layerMemory().pipe(Layer.orDie))))
})
