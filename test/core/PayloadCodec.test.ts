import { assert, describe, it } from "@effect/vitest"
import {
  Broker,
  Channel,
  DeadLetters,
  Decode,
  type Delivery,
  Eager,
  Headers,
  MemoryBroker,
  type Message,
  Outgoing,
  PayloadCodec,
  Publish,
  Publisher,
  Replays,
  Request,
  Retries,
  Subscription
} from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Cause, Context, Effect, Exit, Layer, pipe, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"

const Order = Schema.Struct({ id: Schema.String, at: Schema.Date, body: Schema.Uint8Array })
const order = { id: "a", at: new Date(0), body: new Uint8Array([1, 2, 255]) }
const second = { ...order, id: "b" }
const third = { ...order, id: "c" }
const encoder = new TextEncoder()
const decoder = new TextDecoder("utf-8", { fatal: true })
const memory = MemoryBroker.layer({ partitions: 1 })
const settle = TestClock.adjust("1 minute")

/** A service that may be down, or answer later. */
class Keys
  extends Context.Service<Keys, { readonly key: Effect.Effect<number, PayloadCodec.PayloadError> }>()("Keys")
{}

const keys = (key: Effect.Effect<number, PayloadCodec.PayloadError> = Exit.succeed(7)) => Layer.succeed(Keys, { key })

const xor = (bytes: Uint8Array, key: number) => bytes.map((byte) => byte ^ key)

/** Changes bytes by a key, and checks that they are read from the channel and under the key that they were written for. */
const bound: PayloadCodec.Transform<Keys, "encrypt"> = {
  name: "bound",
  stage: "encrypt",
  encode: (bytes, { channel, headers, key }) =>
    Effect.flatMapEager(
      Eager.service(Keys),
      (service) =>
        Effect.mapEager(service.key, (secret) => ({
          bytes: xor(encoder.encode(`${channel}|${key}|${headers["content-type"]}|${Array.from(bytes)}`), secret),
          headers: { "bound-by": "bound" }
        }))
    ),
  decode: (bytes, { channel, headers, key }) =>
    Effect.flatMapEager(Eager.service(Keys), (service) =>
      Effect.flatMapEager(service.key, (secret) => {
        const [...parts] = decoder.decode(xor(bytes, secret)).split("|")
        return parts.length === 4 && parts[0] === channel && parts[1] === String(key) &&
            parts[2] === headers["content-type"]
          ? Exit.succeed(Uint8Array.from(parts[3]!.split(","), Number))
          : Exit.fail(PayloadCodec.poison({ codec: "bound", reason: "Tampered", message: "written for another place" }))
      }))
}

const marked: PayloadCodec.Transform<never, "compress"> = {
  name: "marked",
  stage: "compress",
  encode: (bytes) => Exit.succeed({ bytes: bytes.toReversed(), headers: { mark: "reversed" } }),
  decode: (bytes, { headers }) => Exit.succeed(headers["mark"] === "reversed" ? bytes.toReversed() : bytes)
}

const Orders = Channel.make("orders", {
  payload: Order,
  key: ({ id }) => id,
  codec: PayloadCodec.through(Channel.json, [marked, bound])
})

const received = <P, R>(channel: Channel.Channel<P, never, never, R>, group = "billing") =>
  Effect.gen(function*() {
    const seen: Array<Message<P>> = []
    yield* Subscription.run(Subscription.make(
      channel,
      { group, name: "bill" },
      pipe((message: Message<P>) => Effect.sync(() => void seen.push(message)), Decode.middleware(channel))
    ))
    return seen
  })

const letters = (channel = "orders.dead-letters") =>
  Effect.map(Stream.runCollect(DeadLetters.list(channel)), (all) => Array.from(all))

describe("PayloadCodec", () => {
  it.effect("F10 F14 X13 a codec and its transforms see channel, key and headers, out and in, alone and in a batch", () =>
    Effect.gen(function*() {
      const seen = yield* received(Orders)
      const orders = Publisher.make(Orders)
      yield* orders.publish(order, { headers: { mark: "the publisher's" } })
      yield* orders.publishAll([second, third])
      yield* settle
      assert.deepStrictEqual(seen.map(({ payload }) => payload), [order, second, third])
      const { headers, raw } = seen[0]!
      assert.deepStrictEqual({ ...headers }, {
        "content-type": "application/json",
        mark: "reversed",
        "bound-by": "bound"
      })
      assert.throws(() => decoder.decode(raw.slice(0, 1)) === "{" ? undefined : JSON.parse(String.fromCharCode(...raw)))
    }).pipe(Effect.provide([memory, keys()]), Effect.scoped))

  it.effect("F10 F14 X13 a service that answers later gives the same, and a batch keeps its order", () =>
    Effect.gen(function*() {
      const seen = yield* received(Orders)
      const sent = yield* Effect.forkChild(
        Publisher.make(Orders).publishAll([order, second, third])
      )
      yield* TestClock.adjust("10 minutes")
      assert.isDefined(sent.pollUnsafe())
      assert.deepStrictEqual(seen.map(({ payload }) => payload.id), ["a", "b", "c"])
    }).pipe(Effect.provide([memory, keys(Effect.delay(Effect.succeed(7), "1 second"))]), Effect.scoped))

  it.effect("F14 binary header fields go out and come back; values are the schema's own", () =>
    Effect.gen(function*() {
      const id = new Uint8Array([1, 0, 255, 128])
      let got: unknown
      const codec = PayloadCodec.make({
        name: "registry",
        contentType: "application/x",
        values: "native",
        encode: (value) => {
          got = value
          return Exit.succeed({ bytes: encoder.encode("x"), fields: [["__value_schema_id", id]] })
        },
        decode: (_, { fields, system }) => {
          const [, found] = fields.find(([name]) => name === "__value_schema_id")!
          return Exit.succeed({ id: system, at: order.at, body: found })
        }
      })
      const channel = Channel.make("registered", {
        payload: Schema.Struct({ id: Schema.String, at: Schema.Date, body: Schema.Uint8Array }),
        codec
      })
      const seen = yield* received(channel)
      yield* Publisher.make(channel).publish(order)
      yield* settle
      assert.deepStrictEqual(got, order)
      assert.deepStrictEqual(seen[0]!.payload, { id: "memory", at: order.at, body: id })
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F14 bytes that do not decode are dead letters with their own bytes; their message holds no value", () =>
    Effect.gen(function*() {
      const seen = yield* received(Orders)
      const broker = yield* Broker.Broker
      const body = encoder.encode("a secret body")
      yield* broker.publish(new Outgoing("orders", body, "k", Headers.empty))
      yield* settle
      assert.lengthOf(seen, 0)
      const [letter] = yield* letters()
      assert.deepStrictEqual(letter!.delivery.raw, body)
      assert.strictEqual(letter!.errorType, "DecodeError")
      assert.notInclude(letter!.errorMessage, "secret")
    }).pipe(Effect.provide([memory, keys()]), Effect.scoped))

  it.effect("F14 F10 X13 a service that is down makes no dead letter and spends no attempt; nothing is published", () =>
    Effect.gen(function*() {
      const down = PayloadCodec.dependency({ codec: "bound", message: "the key service does not answer" })
      let isDown = false
      const layer = keys(Effect.suspend(() => isDown ? Exit.fail(down) : Exit.succeed(7)))
      yield* Effect.gen(function*() {
        const orders = Publisher.make(Orders)
        yield* orders.publish(order)
        isDown = true
        const seen = yield* received(Orders)
        const failed = yield* Effect.flip(orders.publishAll([order]))
        assert.deepInclude(failed, { _tag: "EncodeError", failure: "dependency", cause: down })
        yield* TestClock.adjust("1 hour")
        assert.lengthOf(seen, 0)
        isDown = false
        yield* settle
        assert.deepStrictEqual(seen.map(({ payload }) => payload), [order])
        assert.lengthOf(yield* letters(), 0)
      }).pipe(Effect.provide([memory, layer]), Effect.scoped)
    }))

  it.effect("F10 a message moved to another channel or key does not decode", () =>
    Effect.gen(function*() {
      const there = yield* received(Channel.make("other", { payload: Order, codec: Orders.content.codec! }))
      const here = yield* received(Orders)
      yield* Publisher.make(Orders).publish(order)
      yield* settle
      const broker = yield* Broker.Broker
      const { headers, raw } = here[0]!
      yield* broker.publish(new Outgoing("other", raw, "a", headers))
      yield* broker.publish(new Outgoing("other", raw, "a", { ...headers, "dead-letter-channel": "orders" }))
      yield* broker.publish(new Outgoing("orders", raw, "b", headers))
      yield* settle
      assert.deepStrictEqual([here.length, there.length], [1, 0])
      assert.lengthOf(yield* letters("other.dead-letters"), 2)
      assert.lengthOf(yield* letters(), 1)
    }).pipe(Effect.provide([memory, keys()]), Effect.scoped))

  for (const way of ["held", "delayed"] as const) {
    it.effect(`F10 X13 what binds bytes to a channel holds in ${way} retries, dead letters and replays`, () =>
      Effect.gen(function*() {
        let isBroken = true
        const seen: Array<string> = []
        const subscription = Subscription.make(
          Orders,
          { group: "billing", name: "bill", retries: way === "held" ? Retries.held : Retries.delayed(["1 second"]) },
          pipe(
            (message: Message<typeof Order.Type>) => {
              seen.push(message.payload.id)
              return isBroken ? Effect.fail({ _tag: "Down", failure: "transient" } as const) : Effect.void
            },
            Decode.middleware(Orders)
          )
        )
        yield* Subscription.run(subscription)
        yield* Replays.run(subscription)
        yield* Publisher.make(Orders).publish(order)
        yield* TestClock.adjust("1 hour")
        assert.isAbove(seen.length, 1)
        const [letter] = yield* letters()
        assert.isDefined(letter)
        // a reader of the dead letters decodes them as the messages that they were
        const channel = Channel.make("orders.dead-letters", { payload: Order, codec: Orders.content.codec! })
        const dead = yield* received(channel, "audit")
        yield* settle
        assert.deepStrictEqual(dead.map(({ payload }) => payload), [order])
        isBroken = false
        const before = seen.length
        yield* Stream.runDrain(DeadLetters.replayAll("orders.dead-letters"))
        yield* settle
        assert.strictEqual(seen.length, before + 1)
      }).pipe(Effect.provide([memory, keys()]), Effect.scoped))
  }

  it.effect("F22 a header of a retry channel names no other channel than its subscription's", () =>
    Effect.gen(function*() {
      const seen: Array<string> = []
      yield* Subscription.run(Subscription.make(
        Channel.bytes("orders"),
        { group: "billing", name: "bill", retries: Retries.delayed(["1 second"]) },
        (delivery: Delivery) => Effect.sync(() => void seen.push(delivery.channel))
      ))
      const broker = yield* Broker.Broker
      const own = (channel: string) => ({
        [Retries.names.channel]: channel,
        [Retries.names.partition]: "0",
        [Retries.names.position]: "0",
        [Retries.names.attempts]: "1",
        [Retries.names.failures]: "1",
        [Retries.names.at]: "0",
        [Retries.names.due]: "0"
      })
      yield* broker.publish(new Outgoing("orders.billing.retry-1", order.body, undefined, own("salaries")))
      yield* broker.publish(new Outgoing("orders.billing.retry-1", order.body, undefined, own("orders")))
      yield* settle
      assert.deepStrictEqual(seen, ["orders"])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("F21 a tombstone reaches no codec", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      yield* Subscription.run(Subscription.make(
        Orders,
        { group: "billing", name: "bill" },
        pipe(
          (message: Message<typeof Order.Type | undefined>) => Effect.sync(() => void seen.push(message.payload)),
          Decode.middleware(Orders, { tombstone: "pass" })
        )
      ))
      const orders = yield* Publisher.using(Orders, ["tombstone"])
      yield* orders.tombstone("a")
      yield* settle
      assert.deepStrictEqual(seen, [undefined])
    }).pipe(Effect.provide([memory, keys(Effect.die("asked for a tombstone"))]), Effect.scoped))

  it.effect("F14 F10 requests, answers, declared errors and problems pass the codecs of both ends", () =>
    Effect.gen(function*() {
      class Unknown extends Schema.TaggedError<Unknown>()("Unknown", { id: Schema.String }) {}
      const Price = Request.make(Orders, {
        reply: Schema.Struct({ cents: Schema.BigInt }),
        errors: Unknown,
        codec: PayloadCodec.through(Channel.json, [bound])
      })
      const bodies: Array<string> = []
      yield* Subscription.run(Subscription.make(
        Orders,
        { group: "shop" },
        pipe(
          ({ payload }: Message<typeof Order.Type>): Effect.Effect<{ cents: bigint }, Unknown> =>
            payload.id === "a" ?
              Exit.succeed({ cents: 5n })
              : payload.id === "b"
              ? Exit.fail(new Unknown({ id: "b" }))
              : Exit.die("no"),
          Decode.middleware(Orders),
          Request.answer(Price)
        )
      ))
      yield* Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel: "answers" }))
      const client = yield* Request.client(Price, { replyTo: "answers" })
      yield* Subscription.run(Subscription.make(
        Channel.bytes("answers"),
        { group: "spy" },
        (message: Message<Uint8Array>) => Effect.sync(() => void bodies.push(String.fromCharCode(...message.raw)))
      ))
      const asked = yield* Effect.forkChild(
        Effect.all(["a", "b", "c"].map((id) => Effect.result(client.request({ ...order, id }))))
      )
      for (let i = 0; i < 20; i++) yield* TestClock.adjust("100 millis")
      const exit = asked.pollUnsafe()
      const results = Exit.isExit(exit) && Exit.isSuccess(exit) ? exit.value : []
      assert.deepStrictEqual(
        results.map((each) => each._tag === "Success" ? String(each.success.cents) : each.failure._tag),
        ["5", "Unknown", "RemoteError"]
      )
      assert.lengthOf(bodies, 3)
      for (const body of bodies) assert.notMatch(body, /cents|Unknown|status/)
    }).pipe(Effect.provide([memory, keys()]), Effect.scoped))

  it.effect("F14 answers of a handler, routes and replies are encoded by the channels that they go to", () =>
    Effect.gen(function*() {
      const Billed = Channel.make("billed", { payload: Order, codec: Orders.content.codec! })
      const In = Channel.unchecked("in")
      const seen = yield* received(Billed)
      yield* Subscription.run(Subscription.make(
        In,
        { group: "g" },
        pipe(
          (_: Message<unknown>) => Effect.succeed(order),
          Publish.middleware(Billed),
          Publish.route({ Billed }, () => "Billed"),
          Publish.reply({ channel: Billed }),
          Decode.middleware(In)
        )
      ))
      yield* Publisher.make(In).publish(1)
      yield* settle
      assert.deepStrictEqual(seen.map(({ payload }) => payload.id), ["a", "a", "a"])
    }).pipe(Effect.provide([memory, keys()]), Effect.scoped))

  it.effect("F14 a throw of decode is poison, a throw of encode refuses the value; so are those of transforms", () =>
    Effect.gen(function*() {
      const boom = (): Effect.Effect<never> => {
        throw new SyntaxError("a secret at position 5")
      }
      const own = PayloadCodec.make({ name: "own", encode: boom, decode: boom })
      const around = PayloadCodec.through(Channel.json, [{ name: "own", stage: "store", encode: boom, decode: boom }])
      for (const codec of [own, around]) {
        const channel = Channel.unchecked("c", codec)
        const failed = yield* Effect.flip(Publisher.make(channel).publish(1))
        assert.deepInclude(failed, { _tag: "EncodeError", failure: "validation" })
        const handler = pipe((_: Message<unknown>) => Effect.void, Decode.middleware(channel))
        const { exit } = yield* Deliveries.run(handler, Deliveries.make())
        const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.deepInclude(error, { _tag: "DecodeError", failure: "poison" })
        assert.notInclude(JSON.stringify(error), "secret")
      }
    }).pipe(Effect.provide(memory)))

  it("F10 X13 transforms in a wrong order are refused", () => {
    const store: PayloadCodec.Transform<never, "store"> = { ...marked, name: "files", stage: "store" }
    // @ts-expect-error compress stands inside encrypt
    const compressedLast = () => PayloadCodec.through(Channel.json, [bound, marked])
    assert.throws(compressedLast, RangeError, "marked (compress) comes after")
    // @ts-expect-error a store stands outermost
    assert.throws(() => PayloadCodec.through(Channel.json, [marked, store, bound]), RangeError, "bound (encrypt)")
    const stored = PayloadCodec.through(Channel.json, [store])
    assert.throws(() => PayloadCodec.through(stored, [marked]), RangeError, "outwards")
    assert.deepStrictEqual(
      PayloadCodec.through(PayloadCodec.through(Channel.json, [marked]), [bound, store]).transforms.map(({ name }) =>
        name
      ),
      ["marked", "bound", "files"]
    )
    assert.strictEqual(PayloadCodec.through(Channel.json, []).plain, Channel.json)
  })
})
