import {
  Address,
  AsyncApi,
  Broker,
  Channel,
  DeadLetters,
  Decode,
  MemoryBroker,
  type Message,
  Publish,
  Publisher,
  Subscription
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Effect, Exit, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const Order = Schema.Struct({ id: Schema.String })
const Created = Channel.make("orders.{region}.created", { payload: Order, key: (order) => order.id })
const memory = MemoryBroker.layer({ partitions: 1 })

const browse = (channel: string) => Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

const errorOf = (exit: Exit.Exit<unknown, unknown>): unknown =>
  Exit.isFailure(exit) ? exit.cause.reasons.find(Cause.isFailReason)?.error : undefined

const segment = fc.string({ minLength: 1, maxLength: 8 }).filter((text) => !/[./:{}]/.test(text))

describe("addresses with parameters", () => {
  it("F20 what is filled in is read back, whatever the values", () =>
    fc.assert(fc.property(
      fc.array(fc.tuple(segment, fc.constantFrom(".", "/", ":"), segment), { minLength: 1, maxLength: 4 }),
      fc.option(fc.string({ minLength: 1 }).filter((text) => !/[{}]/.test(text)), { nil: undefined }),
      (segments, rest) => {
        const address = segments.map(([text, separator], i) => `${text}${separator}{p${i}}`).join(".") +
          (rest === undefined ? "" : ".{+rest}")
        const values: Record<string, string> = Object.fromEntries(segments.map(([, , value], i) => [`p${i}`, value]))
        if (rest !== undefined) values["rest"] = rest
        const pattern = Address.pattern(address)!
        assert.deepStrictEqual({ ...pattern.match(Address.fill(pattern, values)) }, values)
      }
    )))

  it("F20 a value that is missing, empty or more than a segment is refused by name", () => {
    const pattern = Address.pattern("orders.{region}.{+rest}")!
    for (const region of [undefined, "", "a.b", "a/b", "a:b", "{a}"]) {
      assert.throws(
        () => Address.fill(pattern, { region, rest: "x" }),
        Address.AddressError,
        /^Channel: region of orders/
      )
    }
    assert.throws(
      () => Address.fill(pattern, { region: "eu" }),
      Address.AddressError,
      "at least one character, and no { or }, got nothing"
    )
    assert.strictEqual(Address.fill(pattern, { region: "eu", rest: "a.b" }), "orders.eu.a.b")
  })

  it("F20 a name that is no address is refused when the channel is made", () => {
    assert.throws(() => Channel.bytes("orders.{region"), Address.AddressError, "it opens a parameter")
    assert.throws(() => Channel.bytes(""), RangeError, "a name is needed")
  })

  it.effect("F20 a publisher sends each message to the channel that its parameters name", () =>
    Effect.gen(function*() {
      const publisher = Publisher.make(Created)
      yield* publisher.publish({ id: "1" }, { parameters: { region: "eu" }, headers: { a: "b" } })
      yield* publisher.publishAll([{ id: "2" }, { id: "3" }], { parameters: { region: "us" } })
      const [first] = yield* browse("orders.eu.created")
      assert.deepStrictEqual([first!.key, first!.headers["a"]], ["1", "b"])
      assert.strictEqual((yield* browse("orders.us.created")).length, 2)
      yield* Publisher.make(Channel.at(Created, { region: "eu" })).publish({ id: "4" })
      assert.strictEqual((yield* browse("orders.eu.created")).length, 2)
    }).pipe(Effect.provide(memory)))

  it.effect("F20 a value that does not fit is an EncodeError, of publishers and of answers, and nothing is published", () =>
    Effect.gen(function*() {
      const parameters = { region: "a.b" }
      const published = yield* Effect.exit(Publisher.make(Created).publish({ id: "1" }, { parameters }))
      assert.instanceOf(errorOf(published), Publisher.EncodeError)
      const all = yield* Effect.exit(Publisher.make(Created).publishAll([{ id: "1" }], { parameters }))
      assert.instanceOf(errorOf(all), Publisher.EncodeError)
      const answered = yield* runChain(
        pipe(
          (_: Message<unknown>) => Effect.succeed({ id: "1" }),
          Publish.middleware(Created, { parameters: () => parameters })
        ),
        deliver()
      )
      assert.instanceOf(errorOf(answered), Publisher.EncodeError)
      assert.deepStrictEqual(yield* browse("orders.a.b.created"), [])
    }).pipe(Effect.provide(memory)))

  it.effect("F20 a subscription reads every channel that fits, and its handler the parameters", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      yield* Subscription.run(Subscription.make(
        Created,
        { group: "g" },
        pipe(
          (message: Message<typeof Order.Type>) =>
            Effect.sync(() => void seen.push(`${Channel.parameters(Created, message).region} ${message.payload.id}`)),
          Decode.middleware(Created)
        )
      ))
      const publisher = Publisher.make(Created)
      yield* publisher.publish({ id: "1" }, { parameters: { region: "eu" } })
      yield* publisher.publish({ id: "2" }, { parameters: { region: "us" } })
      yield* Publisher.make(Channel.make("orders.eu.paid", { payload: Order })).publish({ id: "3" })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(seen.sort(), ["eu 1", "us 2"])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it("F20 a message of another channel has no such parameters, and the sentence says why", () => {
    assert.throws(
      () => Channel.parameters(Created, deliver({ channel: "eu.orders.x.created" })),
      RangeError,
      "eu.orders.x.created does not fit orders.{region}.created"
    )
    const prefixed = Channel.prefixed("eu.", Created)
    assert.deepStrictEqual(
      { ...Channel.parameters(prefixed, deliver({ channel: "eu.orders.x.created" })) },
      { region: "x" }
    )
  })

  it("F20 a document lists the parameters of an address", () => {
    const subscription = Subscription.make(
      Created,
      { group: "g", name: "created" },
      (_: Message<Uint8Array>) => Effect.void
    )
    const { channels } = AsyncApi.document({ title: "t", version: "1", subscriptions: [subscription] })
    assert.containSubset(channels["orders._region_.created"], {
      address: "orders.{region}.created",
      parameters: { region: { description: "One segment." } }
    })
  })
})

describe("the channel of dead letters", () => {
  const failing = (_: Message<Uint8Array>) => Effect.die("broken")

  it.effect("T11 of a pattern, it is named by the channel that the message was read from", () =>
    Effect.gen(function*() {
      yield* Subscription.run(Subscription.make(Created, { group: "g" }, failing))
      yield* Publisher.make(Created).publish({ id: "1" }, { parameters: { region: "eu" } })
      yield* TestClock.adjust("1 second")
      const letters = yield* Stream.runCollect(DeadLetters.list("orders.eu.created.dead-letters"))
      assert.deepStrictEqual(letters.map(({ channel }) => channel), ["orders.eu.created"])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it.effect("T11 a rule names it, once for each message", () =>
    Effect.gen(function*() {
      const deadLetters = (channel: string) => `failed/${channel}`
      yield* Subscription.run(Subscription.make(Channel.bytes("a"), { group: "g", deadLetters }, failing))
      yield* Publisher.make(Channel.bytes("a")).publishAll([new Uint8Array(1), new Uint8Array(2)])
      yield* TestClock.adjust("1 second")
      const letters = yield* Stream.runCollect(DeadLetters.list("failed/a"))
      assert.deepStrictEqual(letters.map(({ delivery, passes }) => [delivery.raw.length, passes]), [[1, 1], [2, 1]])
      assert.deepStrictEqual(yield* browse("a.dead-letters"), [])
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it("T11 a pattern never reads its own dead letters", () => {
    const all = Channel.bytes("orders.{+rest}")
    assert.throws(() => Subscription.make(all, { group: "g" }, failing), RangeError, "got orders.x.dead-letters")
    assert.throws(
      () => Subscription.make(all, { group: "g", deadLetters: "orders.failed" }, failing),
      RangeError,
      "Subscription: deadLetters of orders.{+rest} must be a channel that the pattern does not match"
    )
    assert.isDefined(Subscription.make(all, { group: "g", deadLetters: (channel) => `dead.${channel}` }, failing))
  })
})
