import { assert, describe, it } from "@effect/vitest"
import {
  Audit,
  Broker,
  Channel,
  DeadLetters,
  type Delivery,
  Headers,
  Lanes,
  MemoryBroker,
  Outcome,
  Outgoing,
  Subscription
} from "@millrace/core"
import { Data, Effect, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver } from "./support.ts"

class Refused extends Data.TaggedError("Refused")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

interface Published {
  readonly body: Uint8Array
  readonly key: Uint8Array | undefined
  readonly fields: ReadonlyArray<Headers.Field>
  readonly tombstone: boolean
}

const bytes = (maxLength: number) => fc.uint8Array({ maxLength })

/** Names that repeat, differ in case, look like those of dead letters, and values that are null or no text. */
const field: fc.Arbitrary<Headers.Field> = fc.tuple(
  fc.oneof(
    fc.constantFrom("trace", "Trace", "TRACE", "dead-letter-note", "Dead-Letter", "__proto__", "constructor", "ключ"),
    fc.string({ minLength: 1, maxLength: 12 })
  ),
  fc.option(bytes(20), { nil: null })
)

const rest = { key: fc.option(bytes(16), { nil: undefined }), fields: fc.array(field, { maxLength: 8 }) }

const published: fc.Arbitrary<Published> = fc.oneof(
  fc.record({ ...rest, body: bytes(64), tombstone: fc.constant(false) }),
  fc.record({ ...rest, body: fc.constant(new Uint8Array(0)), tombstone: fc.constant(true) })
)

const outgoing = (channel: string, { body, fields, key, tombstone }: Published): Outgoing<Uint8Array> =>
  new Outgoing(channel, body, undefined, Headers.empty, { keyBytes: key, fields, tombstone })

const known: ReadonlySet<string> = new Set([
  ...Object.values(DeadLetters.names),
  "dead-letter-replayed",
  "dead-letter-replay-id"
])

const { digest, headers: encoded, length, omitted } = DeadLetters.names
const smaller: ReadonlySet<string> = new Set([digest, encoded, length, omitted])

/** What of a delivery is the message itself. */
const message = (delivery: Delivery): Published => ({
  body: Uint8Array.from(delivery.raw),
  key: delivery.keyBytes,
  fields: delivery.fields.filter(([name]) => !known.has(name)),
  tombstone: delivery.tombstone
})

const added = (delivery: Delivery) => delivery.fields.filter(([name]) => known.has(name)).map(([name]) => name).sort()

const letters = (channel: string) => Stream.runCollect(DeadLetters.list(channel))

/** Runs a program over a memory broker of one partition, in virtual time. */
const run = <A, E>(program: Effect.Effect<A, E, Broker.Broker>) =>
  Effect.runPromise(
    program.pipe(
      Effect.provide(MemoryBroker.layer({ partitions: 1 }).pipe(Layer.provideMerge(TestClock.layer())))
    )
  )

const Orders = Channel.bytes("orders")

/** A subscription that refuses every message, and what it saw. */
const refusing = (error: () => Refused, name = "orders", deadLetters?: string) =>
  Effect.gen(function*() {
    const seen: Array<Delivery> = []
    const channel = Channel.bytes(name)
    yield* Subscription.run(
      Subscription.make(channel, { group: "billing", name: "placeOrder", lanes: Lanes.partition, deadLetters }, (
        delivery: Delivery
      ) => {
        seen.push(delivery)
        return Effect.fail(error())
      })
    )
    return seen
  })

const publish = (message: Outgoing<Uint8Array>) => Effect.flatMap(Broker.Broker, (broker) => broker.publish(message))

const refused = new Refused({ message: "no" })

describe("DeadLetters", () => {
  it("F13 a dead letter holds the message as it was: bytes, binary key, every header", () =>
    fc.assert(
      fc.asyncProperty(published, (original) =>
        run(Effect.scoped(Effect.gen(function*() {
          const seen = yield* refusing(() => refused)
          yield* publish(outgoing("orders", original))
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(seen.length, 1)
          const [letter, ...others] = yield* letters("orders.dead-letters")
          assert.deepStrictEqual(others, [])
          assert.deepStrictEqual(message(letter!.delivery), original)
        })))),
      { numRuns: 300 }
    ))

  it("F13 a replay publishes the message as it was, and what fails again has no more headers than before", () =>
    fc.assert(
      fc.asyncProperty(
        published,
        fc.integer({ min: 1, max: 4 }),
        (original, times) =>
          run(Effect.scoped(Effect.gen(function*() {
            const seen = yield* refusing(() => refused)
            yield* publish(outgoing("orders", original))
            yield* TestClock.adjust("1 minute")
            const first = added((yield* letters("orders.dead-letters"))[0]!.delivery)
            for (let pass = 1; pass <= times; pass++) {
              const newest = (yield* letters("orders.dead-letters")).at(-1)!
              const replayed = yield* DeadLetters.replay(newest, { reach: "all" })
              assert.strictEqual(replayed.channel, "orders")
              yield* TestClock.adjust("1 minute")
              assert.strictEqual(seen.length, pass + 1)
              assert.deepStrictEqual(message(seen[pass]!), original)
              const again = (yield* letters("orders.dead-letters")).at(-1)!
              assert.strictEqual(again.passes, pass + 1)
              assert.deepStrictEqual(message(again.delivery), original)
              assert.deepStrictEqual(added(again.delivery), first)
            }
          })))
      ),
      { numRuns: 100 }
    ))

  it.effect("F13 it says where the message came from, who gave up, why, when and after how many attempts", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_000_000)
      const broker = yield* Broker.Broker
      yield* Subscription.run(
        Subscription.make(
          Orders,
          {
            group: "billing",
            name: "placeOrder",
            lanes: Lanes.partition,
            backoff: { base: "1 second", factor: 1, jitter: 0 },
            settle: { Busy: Outcome.Retry() }
          },
          (delivery: Delivery): Effect.Effect<void, Refused | { readonly _tag: "Busy" }> =>
            Effect.fail(delivery.attempt < 3 ? { _tag: "Busy" } : new Refused({ message: "card expired" }))
        )
      )
      yield* broker.publish(new Outgoing("orders", new Uint8Array([1]), "k", Headers.empty))
      yield* TestClock.adjust("1 minute")
      const [letter] = yield* letters("orders.dead-letters")
      const { delivery: _, ...told } = letter!
      assert.deepStrictEqual(told, {
        channel: "orders",
        partition: 0,
        position: 0,
        timestamp: 1_000_000,
        group: "billing",
        handler: "placeOrder",
        attempts: 3,
        errorType: "Refused",
        errorMessage: "card expired",
        at: 1_002_000,
        passes: 1,
        omitted: []
      })
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it("F13 no error makes a header longer than its cap", () =>
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ maxLength: 5000 }),
          fc.string({ minLength: 1100, maxLength: 5000 }).map((text) => new Error(text)),
          fc.string({ minLength: 300, maxLength: 3000 }).map((_tag) => ({ _tag })),
          fc.anything()
        ),
        (error) => {
          const letter = DeadLetters.toOutgoing({ delivery: deliver(), error, channel: "x", at: 0 })
          assert.isAtMost(letter.headers[DeadLetters.names.errorMessage]!.length, DeadLetters.maximumMessage)
          assert.isAtMost(letter.headers[DeadLetters.names.errorType]!.length, 256)
        }
      )
    ))

  it.effect("F13 headers that a publisher wrote decide nothing: a replay goes where the message was read", () =>
    Effect.gen(function*() {
      yield* refusing(() => refused)
      yield* publish(
        new Outgoing("orders", new Uint8Array(0), undefined, {
          [DeadLetters.names.channel]: "admin",
          [DeadLetters.names.position]: "77",
          [DeadLetters.names.passes]: "not a number"
        })
      )
      yield* TestClock.adjust("1 minute")
      const [letter] = yield* letters("orders.dead-letters")
      assert.strictEqual(letter?.channel, "orders")
      assert.strictEqual(letter?.position, 0)
      assert.strictEqual(letter?.passes, 1)
      assert.strictEqual((yield* DeadLetters.replay(letter!, { reach: "all" })).channel, "orders")
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it.effect("F13 a dead letter that fails again keeps where it first came from", () =>
    Effect.gen(function*() {
      yield* refusing(() => refused)
      yield* refusing(() => new Refused({ message: "still no" }), "orders.dead-letters")
      yield* publish(new Outgoing("orders", new Uint8Array([7]), "k", Headers.empty))
      yield* TestClock.adjust("1 minute")
      yield* TestClock.adjust("1 minute")
      const [letter] = yield* letters("orders.dead-letters.dead-letters")
      assert.strictEqual(letter?.channel, "orders")
      assert.strictEqual(letter?.errorMessage, "still no")
      assert.strictEqual(letter?.passes, 2)
      assert.deepStrictEqual(
        added(letter!.delivery),
        // the others are those of letters that a broker refused as they were
        [...known].filter((name) => !smaller.has(name) && !name.startsWith("dead-letter-replay")).sort()
      )
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it.effect("F13 a replay may go elsewhere, and is marked; what is no dead letter is not listed", () =>
    Effect.gen(function*() {
      yield* refusing(() => refused)
      yield* publish(new Outgoing("orders", new Uint8Array([7]), "k", Headers.empty))
      yield* publish(new Outgoing("orders.dead-letters", new Uint8Array([8]), undefined, Headers.empty))
      yield* TestClock.adjust("1 minute")
      const found = yield* letters("orders.dead-letters")
      assert.strictEqual(found.length, 1)
      yield* DeadLetters.replay(found[0]!, { to: "repaired" })
      const broker = yield* Broker.Broker
      const [repaired] = yield* Stream.runCollect(broker.browse("repaired"))
      assert.deepStrictEqual(Array.from(repaired!.raw), [7])
      assert.strictEqual(repaired!.key, "k")
      assert.deepStrictEqual(added(repaired!), [
        "dead-letter-passes",
        "dead-letter-replay-id",
        "dead-letter-replayed"
      ])
    }).pipe(Effect.provide(MemoryBroker.layer({ partitions: 1 })), Effect.scoped))

  it.effect("F13 all that fit a filter are replayed, in order and once, each with its audit row", () =>
    Effect.gen(function*() {
      yield* refusing(() => refused, "orders")
      yield* refusing(() => refused, "others", "orders.dead-letters")
      const texts = Array.from({ length: 6 }, (_, i) => new Uint8Array([i]))
      for (const [i, text] of texts.entries()) {
        yield* publish(new Outgoing(i % 2 === 0 ? "orders" : "others", text, "k", Headers.empty))
        yield* TestClock.adjust("1 minute")
      }
      const all = yield* letters("orders.dead-letters")
      assert.strictEqual(all.length, 6)
      const listed = (filter: DeadLetters.Filter) =>
        Effect.map(
          Stream.runCollect(DeadLetters.list("orders.dead-letters", { filter })),
          (found) => found.map(({ delivery }) => delivery.raw[0])
        )
      assert.deepStrictEqual(yield* listed({ channel: "others" }), [1, 3, 5])
      assert.deepStrictEqual(yield* listed({ errorType: "Refused", from: all[2]!.at, to: all[4]!.at }), [2, 3])
      assert.deepStrictEqual(yield* listed({ errorType: "Other" }), [])
      assert.deepStrictEqual(yield* listed({ group: all[0]!.group, handler: all[0]!.handler, channel: "orders" }), [
        0,
        2,
        4
      ])
      const replayed = yield* Stream.runCollect(DeadLetters.replayAll("orders.dead-letters", {
        filter: { channel: "orders", passes: 1 },
        reach: "all",
        through: Audit.middleware()
      }))
      assert.deepStrictEqual(replayed.map(({ letter }) => letter.delivery.raw[0]), [0, 2, 4])
      yield* TestClock.adjust("1 minute")
      // all three came back, and are not new
      assert.deepStrictEqual(yield* listed({ channel: "orders" }), [0, 2, 4, 0, 2, 4])
      assert.deepStrictEqual(yield* listed({ channel: "orders", passes: 1 }), [0, 2, 4])
      const store = yield* Audit.Store
      const { rows } = yield* store.query({ order: "oldest" })
      assert.deepStrictEqual(
        rows.map(({ channel, kind, key, status }) => [channel, kind, key, status]),
        Array.from({ length: 3 }, () => ["orders", "producer", "k", "done"])
      )
    }).pipe(
      Effect.provide(Layer.merge(MemoryBroker.layer({ partitions: 1 }), Audit.layerMemory())),
      Effect.scoped
    ))
})
