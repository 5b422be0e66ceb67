import { assert, describe, it } from "@effect/vitest"
import {
  After,
  Broker,
  Channel,
  Correlate,
  type Correlation,
  Decode,
  type Delivery,
  type Envelope,
  Headers,
  Lanes,
  Log,
  MemoryBroker,
  type Message,
  Order,
  Outgoing,
  Publish,
  Publisher,
  Request,
  Subscription,
  Trace
} from "@millrace/core"
import { Cause, Deferred, Effect, Exit, Fiber, Logger, pipe, Random, References, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, recording, runChain } from "./support.ts"

const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/

/** The annotations of each line that is logged. */
const recorder = () => {
  const lines: Array<Readonly<Record<string, unknown>>> = []
  const logger = Logger.make(({ fiber, message }) => {
    lines.push({ text: String(message), ...fiber.getRef(References.CurrentLogAnnotations) })
  })
  return { lines, logged: Effect.provide(Logger.layer([logger])) }
}

/** What a handler inside sees. */
const seeing = (options?: Correlate.Options) => {
  const seen: Array<Correlation.Correlation | undefined> = []
  const handler = Correlate.middleware(options)((_: Envelope) =>
    Effect.map(Correlate.Current, (ids) => void seen.push(ids))
  )
  return { handler, seen }
}

const see = (headers: Record<string, string>, options?: Correlate.Options) =>
  Effect.gen(function*() {
    const { handler, seen } = seeing(options)
    yield* runChain(handler, deliver({ headers, partition: 2, position: 7 }))
    return seen[0]!
  })

class Server implements Envelope {
  readonly kind = "server"
  readonly channel = "GET /orders"
  readonly key = undefined
  readonly hooks = undefined
  told: Correlation.Correlation | undefined
  readonly headers: Headers.Headers
  constructor(headers: Record<string, string>) {
    this.headers = Headers.fromRecord(headers)
  }
  withHeader(): this {
    return this
  }
  after(): void {}
  correlated(ids: Correlation.Correlation): void {
    this.told = ids
  }
}

class Call implements Envelope {
  readonly kind = "client"
  readonly channel = "GET example.com"
  readonly key = undefined
  readonly hooks = undefined
  readonly headers: Headers.Headers
  constructor(headers: Headers.Headers) {
    this.headers = headers
  }
  withHeader(name: string, value: string): this {
    return new Call(Headers.set(this.headers, name, value)) as this
  }
  after(): void {}
}

const written = <M extends Envelope>(message: M, options?: Correlate.Options) => {
  const sent: Array<Headers.Headers> = []
  const handler = Correlate.middleware(options)((message: M) => Effect.sync(() => void sent.push(message.headers)))
  return Effect.as(Effect.suspend(() => handler(message)), sent)
}

const text = Channel.make("next", { payload: Schema.String })
const memory = MemoryBroker.layer({ partitions: 1 })

const published = (channel: string) =>
  Effect.flatMap(Broker.Broker, (broker) => Stream.runCollect(broker.browse(channel)))

const headersIn = (channel: string) => Effect.map(published(channel), (all) => all.map(({ headers }) => headers))

const links = (channel: string) =>
  Effect.map(
    published(channel),
    (all) =>
      all.map(({ headers, raw }) => [new TextDecoder().decode(raw), headers["correlation-id"], headers["causation-id"]])
  )

describe("Correlate", () => {
  it.effect("B9 the id comes from the headers, the cause is the message", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* see({ "X-Correlation-Id": "c-1", "message-id": "m-1" }), {
        id: "c-1",
        causation: "m-1",
        upstream: undefined,
        replaced: undefined
      })
      for (
        const name of [
          "correlation-id",
          "x-request-id",
          "ce_correlationid",
          "ce-correlationid"
        ]
      ) {
        const ids = yield* see({ [name]: "c-1" })
        assert.deepStrictEqual([ids.id, ids.causation], ["c-1", "orders/2/7"], name)
      }
      const own = yield* see({ "my-id": "c-1", "correlation-id": "c-2" }, { accept: ["My-Id"] })
      assert.strictEqual(own.id, "c-1")
      const flow = yield* see({ "correlation-id": "of-one-request", "x-correlation-id": "of-all" })
      assert.strictEqual(flow.id, "of-all")
    }))

  it.effect("B9 a message without an id begins a flow of its own name, else of a new one", () =>
    Effect.gen(function*() {
      const named = yield* see({ "message-id": "m-1" })
      assert.deepStrictEqual([named.id, named.causation, named.replaced], ["m-1", "m-1", undefined])
      yield* TestClock.setTime(Date.UTC(2026, 10, 21))
      const made = yield* see({})
      assert.match(made.id, uuid)
      assert.strictEqual(Number.parseInt(made.id.replaceAll("-", "").slice(0, 12), 16), Date.UTC(2026, 10, 21))
      assert.strictEqual(made.causation, "orders/2/7")
      const chosen = yield* see({}, { generate: Effect.as(Effect.yieldNow, "mine") })
      assert.strictEqual(chosen.id, "mine")
      const [once, again] = yield* Effect.all([1, 2].map(() => Random.withSeed(see({}), "seed")))
      assert.strictEqual(once?.id, again?.id)
    }))

  it.effect("W1 only a token of at most 128 characters is taken, and nothing else is shown anywhere", () =>
    Effect.gen(function*() {
      for (
        const evil of ["a\r\nERROR forged", "x".repeat(129), "", "a b", "a\"b", "é", "a\u2028b", "<script>", "a,b;c"]
      ) {
        const { lines, logged } = recorder()
        const handler = pipe((_: Delivery) => Effect.log("inside"), Log.middleware(), Correlate.middleware())
        yield* logged(runChain(handler, deliver({ headers: { "correlation-id": evil, "message-id": evil } })))
        assert.strictEqual(lines.length, 2)
        for (const line of lines) {
          assert.match(String(line["correlationId"]), uuid)
          assert.strictEqual(line["causationId"], "orders/0/0")
          assert.strictEqual(line["upstreamId"], "<malformed>")
          if (evil.length > 3) assert.notInclude(JSON.stringify(line), evil.slice(0, 100))
        }
      }
      // a good one behind a bad one still counts
      assert.strictEqual((yield* see({ "x-correlation-id": "a b", "x-request-id": "good" })).id, "good")
      assert.strictEqual((yield* see({ "x-request-id": "x".repeat(128) })).id.length, 128)
    }))

  it.effect("W1 any header: the id is a token, and it is the header's where that is one", () =>
    Effect.promise(() =>
      fc.assert(fc.asyncProperty(
        fc.oneof(fc.string(), fc.string({ unit: "binary" }), fc.string({ unit: fc.constantFrom(..."ab09_.:/+=@-") })),
        fc.constantFrom("correlation-id", "message-id", "x-request-id"),
        async (given, name) => {
          const ids = await Effect.runPromise(see({ [name]: given }))
          const isToken = /^[\w.:/+=@-]{1,128}$/.test(given)
          if (isToken) assert.strictEqual(ids.id, given)
          else assert.match(ids.id, uuid)
          assert.match(ids.causation ?? "", /^[\w.:/+=@-]{1,128}$/)
        }
      ))
    ))

  it.effect("W1 a channel that came from outside cannot break the causation id", () =>
    Effect.gen(function*() {
      const { handler, seen } = seeing()
      yield* runChain(handler, deliver({ channel: `a\r\nb ${"c".repeat(300)}`, position: 7 }))
      assert.match(seen[0]?.causation ?? "", /^[\w.:/+=@-]{128}$/)
      assert.isTrue(seen[0]?.causation?.endsWith("/0/7"))
    }))

  it.effect("W1 who is not trusted gets another id, and the given one stays beside it", () =>
    Effect.gen(function*() {
      const never = yield* see({ "x-request-id": "theirs" }, { trust: "never" })
      assert.match(never.id, uuid)
      assert.deepStrictEqual([never.upstream, never.replaced], ["theirs", "untrusted"])
      const asked: Array<string> = []
      const trust = (message: Envelope) => {
        asked.push(message.channel)
        return message.headers["from"] === "friend"
      }
      assert.strictEqual((yield* see({ "x-request-id": "theirs", from: "friend" }, { trust })).id, "theirs")
      assert.strictEqual((yield* see({ "x-request-id": "theirs", from: "foe" }, { trust })).upstream, "theirs")
      assert.match((yield* see({ "message-id": "m-1" }, { trust: "never" })).id, uuid)
      assert.deepStrictEqual(asked, ["orders", "orders"], "who gives nothing need not be trusted")
      const { lines, logged } = recorder()
      const handler = Correlate.middleware({ trust: "never" })((_: Delivery) => Effect.log("inside"))
      yield* logged(runChain(handler, deliver({ headers: { "x-request-id": "theirs" } })))
      assert.strictEqual(lines[0]?.["upstreamId"], "theirs")
    }))

  it.effect("B9 a server: the cause is the request, and it is told what to answer", () =>
    Effect.gen(function*() {
      const handle = (headers: Record<string, string>, options?: Correlate.Options) => {
        const message = new Server(headers)
        const { handler, seen } = seeing(options)
        return Effect.map(Effect.suspend(() => handler(message)), () => {
          assert.strictEqual(message.told, seen[0])
          return seen[0]!
        })
      }
      const both = yield* handle({ "correlation-id": "c-1", "x-request-id": "r-1" })
      assert.deepStrictEqual([both.id, both.causation], ["c-1", "r-1"])
      const one = yield* handle({ "x-request-id": "r-1" })
      assert.deepStrictEqual([one.id, one.causation], ["r-1", "r-1"])
      for (const headers of [{}, { "x-request-id": "a b" }]) {
        const made = yield* handle(headers)
        assert.match(made.id, uuid)
        assert.strictEqual(made.causation, made.id)
      }
      const refused = yield* handle({ "x-request-id": "r-1" }, { trust: "never" })
      assert.strictEqual(refused.causation, refused.id)
    }))

  it.effect("B6 W3 a thousand interleaved messages: each line, each forked and detached fiber has its own", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const gate = yield* Deferred.make<void>()
      const handler = pipe(
        (message: Delivery) =>
          Effect.gen(function*() {
            const child = yield* Effect.forkChild(
              Effect.andThen(Effect.sleep(message.position % 7), Effect.log(`child ${message.position}`))
            )
            const detached = yield* Effect.forkDetach(
              Effect.andThen(Deferred.await(gate), Effect.log(`detached ${message.position}`))
            )
            yield* Effect.sleep(message.position % 13)
            yield* Effect.log(`own ${message.position}`)
            yield* Fiber.join(child)
            return detached
          }),
        Log.middleware(),
        Correlate.middleware()
      )
      const fibers = yield* Effect.forEach(Array.from({ length: 1000 }, (_, i) => i), (i) =>
        Effect.forkChild(
          logged(runChain(handler, deliver({ position: i, headers: { "correlation-id": `c-${i}` } })))
        ))
      for (let i = 0; i < 20; i++) yield* TestClock.adjust(1)
      const exits = yield* Fiber.joinAll(fibers)
      yield* Deferred.succeed(gate, undefined)
      for (const exit of exits) yield* Fiber.join(Exit.isSuccess(exit) ? exit.value : yield* exit)
      assert.strictEqual(lines.length, 4000)
      for (const { correlationId, causationId, position, text } of lines) {
        const i = position ?? String(text).split(" ")[1]
        assert.deepStrictEqual([correlationId, causationId], [`c-${i}`, `orders/0/${i}`], String(text))
      }
      assert.isUndefined(yield* Correlate.Current)
      assert.deepStrictEqual(yield* References.CurrentLogAnnotations, {})
    }))

  it.effect("B9 what is published inside carries both, by any publisher, and what the caller said stays", () =>
    Effect.gen(function*() {
      const plain = Publisher.make(text)
      const handler = pipe(
        (_: Delivery) =>
          Effect.gen(function*() {
            yield* plain.publish("a")
            yield* plain.publishAll(["b", "c"])
            yield* plain.publish("d", { headers: { "Correlation-Id": "mine", "causation-id": "me" } })
            yield* Publisher.make(text, Correlate.middleware()).publish("e")
            return "f"
          }),
        Publish.middleware(text),
        Correlate.middleware()
      )
      yield* runChain(handler, deliver({ headers: { "x-request-id": "c-1", "message-id": "m-1" } }))
      yield* plain.publish("g")
      assert.deepStrictEqual(yield* links("next"), [
        ["\"a\"", "c-1", "m-1"],
        ["\"b\"", "c-1", "m-1"],
        ["\"c\"", "c-1", "m-1"],
        ["\"d\"", "mine", "me"],
        ["\"e\"", "c-1", "m-1"],
        ["\"f\"", "c-1", "m-1"],
        ["\"g\"", undefined, undefined]
      ])
    }).pipe(Effect.provide(memory)))

  it.effect("B9 an answer repeats what the request says, and tells the flow beside it", () =>
    Effect.gen(function*() {
      const reply = pipe((_: Delivery) => Effect.succeed("ok"), Publish.reply(), Correlate.middleware())
      const ask = (headers: Record<string, string>) =>
        runChain(reply, deliver({ headers: { "reply-to": "replies", ...headers } }))
      yield* ask({ "correlation-id": "of the request", "x-correlation-id": "flow", "message-id": "m-1" })
      yield* ask({ "correlation-id": "c-1" })
      yield* ask({ "message-id": "m-1" })
      yield* ask({ "x-request-id": "c-1" })
      const sent = yield* headersIn("replies")
      assert.deepStrictEqual(
        sent.map((each) => [each["correlation-id"], each["x-correlation-id"], each["causation-id"]]),
        [
          ["of the request", "flow", "m-1"],
          ["c-1", undefined, "orders/0/0"],
          ["m-1", undefined, "m-1"],
          ["c-1", undefined, "orders/0/0"]
        ]
      )
    }).pipe(Effect.provide(memory)))

  it.effect("B9 a request keeps the flow's id on its way to whoever answers", () =>
    Effect.gen(function*() {
      const Prices = Channel.make("prices", { payload: Schema.String })
      const Price = Request.make(Prices, { reply: Schema.String })
      const seen: Array<Correlation.Correlation | undefined> = []
      yield* Subscription.run(Subscription.make(
        Prices,
        { group: "shop", lanes: Lanes.unordered(10) },
        pipe(
          (message: Message<string>) =>
            Effect.map(Correlate.Current, (ids) => {
              seen.push(ids)
              return message.payload
            }),
          Decode.middleware(Prices),
          Request.answer(Price),
          Correlate.middleware()
        )
      ))
      const client = yield* Request.client(Price)
      const handler = Correlate.middleware()((_: Delivery) => client.request("tea"))
      const fiber = yield* Effect.forkChild(runChain(handler, deliver({ headers: { "x-request-id": "c-1" } })))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.succeed("tea"))
      const [asked] = yield* headersIn("prices")
      const [answered] = yield* headersIn(client.replyTo)
      assert.strictEqual(seen[0]?.id, "c-1")
      assert.strictEqual(seen[0]?.causation, asked?.["message-id"])
      assert.strictEqual(asked?.["causation-id"], "orders/0/0")
      assert.strictEqual(answered?.["x-correlation-id"], "c-1")
      assert.strictEqual(answered?.["correlation-id"], asked?.["correlation-id"])
    }).pipe(Effect.provide(memory), Effect.scoped))

  it.effect("B9 X1 a publisher and a client write the ids of the context, and begin a flow without one", () =>
    Effect.gen(function*() {
      const outgoing = (headers: Record<string, string> = {}) =>
        new Outgoing("next", new Uint8Array(), undefined, Headers.fromRecord(headers))
      const call = (headers: Record<string, string> = {}) => new Call(Headers.fromRecord(headers))
      const within = <A>(effect: Effect.Effect<A>) =>
        Effect.provideService(effect, Correlate.Current, {
          id: "c-1",
          causation: "m-1",
          upstream: undefined,
          replaced: undefined
        })
      const plain = (all: ReadonlyArray<Headers.Headers>) => all.map((each) => ({ ...each }))
      assert.deepStrictEqual(plain(yield* within(written(outgoing()))), [{
        "correlation-id": "c-1",
        "causation-id": "m-1"
      }])
      assert.deepStrictEqual(plain(yield* within(written(call()))), [{
        "correlation-id": "c-1",
        "x-request-id": "c-1"
      }])
      const own = { "correlation-id": "own", "causation-id": "own", "x-request-id": "own" }
      assert.deepStrictEqual(plain(yield* within(written(outgoing(own)))), [own])
      assert.deepStrictEqual(plain(yield* within(written(call(own)))), [own])
      assert.deepStrictEqual(plain(yield* within(written(call(), { write: { client: ["Request-Id"] } }))), [{
        "request-id": "c-1"
      }])
      const [begun] = yield* written(outgoing())
      assert.match(begun?.["correlation-id"] ?? "", uuid)
      assert.isUndefined(begun?.["causation-id"])
      const { lines, logged } = recorder()
      const publish = pipe((_: Outgoing<Uint8Array>) => Effect.log("sent"), Log.middleware(), Correlate.middleware())
      yield* logged(Effect.suspend(() => publish(outgoing({ "correlation-id": "given" }))))
      assert.deepStrictEqual(lines.map((line) => line["correlationId"]), ["given", "given"])
    }))

  it.effect("B9 the current span and those inside say both ids, wherever Trace stands", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const publish = Trace.middleware()((_: Outgoing<Uint8Array>) => Effect.void)
      const inner = (_: Delivery) =>
        Effect.suspend(() => publish(new Outgoing("next", new Uint8Array(), undefined, Headers.empty)))
      for (
        const handler of [
          pipe(inner, Correlate.middleware(), Trace.middleware()),
          pipe(inner, Trace.middleware(), Correlate.middleware())
        ]
      ) {
        spans.length = 0
        yield* runChain(handler, deliver({ headers: { "x-request-id": "c-1", "message-id": "m-1" } })).pipe(
          traced
        )
        assert.deepStrictEqual(spans.map(({ name }) => name), ["process orders", "publish next"])
        for (const span of spans) {
          assert.deepInclude(Object.fromEntries(span.attributes), {
            "millrace.correlation.id": "c-1",
            "millrace.causation.id": "m-1",
            "messaging.message.conversation_id": "c-1"
          })
        }
      }
    }))

  it.effect("B6 a message that is interrupted is logged with its own id, also before the chain's first step", () =>
    Effect.gen(function*() {
      const { lines, logged } = recorder()
      const started = yield* Deferred.make<void>()
      const handler = pipe(
        (_: Delivery) => Effect.andThen(Deferred.succeed(started, undefined), Effect.never),
        Log.middleware(),
        Correlate.middleware()
      )
      const message = deliver({ headers: { "correlation-id": "c-1" } })
      const fiber = yield* Effect.forkChild(logged(Effect.suspend(() => handler(message))))
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      yield* logged(Effect.suspend(() => After.run(message.hooks ?? [], Exit.interrupt(), undefined)))
      assert.deepStrictEqual(lines.map((line) => [line["status"], line["correlationId"]]), [["interrupted", "c-1"]])
    }))

  it("W9 what shows the id stands inside", () => {
    const handler = (_: Delivery) => Effect.void
    assert.deepStrictEqual(Order.violations(pipe(handler, Log.middleware(), Correlate.middleware())), [])
    assert.deepStrictEqual(Order.violations(pipe(handler, Correlate.middleware(), Log.middleware())), [
      "Correlate must stand outside Log, not inside it: what stands outside it does not know the id"
    ])
  })

  it("W1 names that are none of a header are refused, and an id that is no token is a defect", () => {
    assert.throws(
      () => Correlate.middleware({ accept: ["x id"] }),
      RangeError,
      "Correlate: accept must be names of headers, got \"x id\""
    )
    assert.throws(() => Correlate.middleware({ write: { client: ["a:b"] } }), RangeError, "write.client")
    const { handler } = seeing({ generate: Effect.succeed("a\nb") })
    const exit = Effect.runSync(runChain(handler, deliver()))
    assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
  })
})
