import * as NodeSdk from "@effect/opentelemetry/NodeSdk"
import { assert, describe, it } from "@effect/vitest"
import {
  After,
  Baggage,
  Broker,
  Channel,
  type Delivery,
  type Envelope,
  type Handler,
  Headers,
  MemoryBroker,
  type Message,
  Outcome,
  Outgoing,
  Publisher,
  Subscription,
  Trace,
  TraceContext
} from "@millrace/core"
import { SpanStatusCode } from "@opentelemetry/api"
import { type ReadableSpan, SimpleSpanProcessor, type SpanExporter } from "@opentelemetry/sdk-trace-base"
import {
  Cause,
  Context,
  Data,
  Deferred,
  Effect,
  Exit,
  Fiber,
  Layer,
  Option,
  pipe,
  Random,
  References,
  Tracer
} from "effect"
import { FetchHttpClient } from "effect/http"
import { Otlp } from "effect/observability"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { createServer } from "node:http"
import { deliver, recording, runChain } from "./support.ts"

const traceId = "0af7651916cd43dd8448eb211c80319c"
const spanId = "b7ad6b7169203331"
const sampled = `00-${traceId}-${spanId}-01`
const unsampled = `00-${traceId}-${spanId}-00`

const parentOf = (span: Tracer.Span | undefined) => span && Option.getOrUndefined(span.parent)
const exitOf = (span: Tracer.Span | undefined) => span?.status._tag === "Ended" ? span.status.exit : undefined
const all = (span: Tracer.Span | undefined) => Object.fromEntries(span?.attributes ?? [])

class Broken extends Data.TaggedError("Broken")<{}> {
  readonly failure = "poison" as const
}

const done = (_: Envelope) => Effect.void

/** What a handler sees of its context, and what a publish inside it writes. */
const seen = (options?: Trace.Options) => {
  const published: Array<Headers.Headers> = []
  let span: Tracer.AnySpan | undefined
  let baggage: Baggage.Baggage = Baggage.empty
  const publish = Trace.middleware(options)((message: Outgoing<Uint8Array>) =>
    Effect.sync(() => void published.push(message.headers))
  )
  const handler: Handler<Delivery, void> = Trace.middleware(options)((_: Delivery) =>
    Effect.gen(function*() {
      span = (yield* Effect.serviceOption(Tracer.ParentSpan)).pipe(Option.getOrUndefined)
      baggage = yield* Trace.Baggage
      yield* publish(new Outgoing("next", new Uint8Array(), undefined, Headers.empty))
    })
  )
  return { handler, published, span: () => span, baggage: () => baggage }
}

describe("Trace", () => {
  it.effect("F5 a consumed message is one span with the attributes of the conventions", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const handler = Trace.middleware()((_: Delivery) => Effect.sleep("20 millis"))
      const message = deliver({
        system: "kafka",
        partition: 3,
        position: 42,
        attempt: 2,
        headers: { traceparent: sampled }
      })
      const fiber = yield* Effect.forkChild(traced(runChain(handler, message)))
      yield* TestClock.adjust("20 millis")
      yield* Fiber.join(fiber)
      assert.strictEqual(spans.length, 1)
      const [span] = spans
      assert.strictEqual(span?.name, "process orders")
      assert.strictEqual(span?.kind, "consumer")
      assert.deepStrictEqual(all(span), {
        "messaging.system": "kafka",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "billing",
        "messaging.kafka.offset": 42,
        "millrace.attempt": 2
      })
      assert.strictEqual(span?.traceId, traceId)
      assert.strictEqual(parentOf(span)?.spanId, spanId)
      assert.isTrue(span?.status._tag === "Ended" && span.status.endTime - span.status.startTime === 20_000_000n)
    }))

  it.effect("F5 spans of the handler are children, and what it publishes carries the publishing span", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const { handler, published } = seen()
      const state = "vendor=1,other=2"
      const headers = {
        traceparent: `00-${traceId}-${spanId}-03`,
        tracestate: state,
        baggage: "tenant=a%20b;ttl=3,x=1"
      }
      yield* traced(Effect.withSpan(runChain(handler, deliver({ headers })), "ambient"))
      const process = spans.find(({ name }) => name === "process orders")
      const publish = spans.find(({ name }) => name === "publish next")
      assert.strictEqual(
        parentOf(process)?.spanId,
        spanId,
        "a span around the engine is not the parent of every message"
      )
      assert.strictEqual(parentOf(publish)?.spanId, process?.spanId)
      assert.strictEqual(publish?.kind, "producer")
      assert.strictEqual(all(publish)["messaging.operation.type"], "send")
      assert.deepStrictEqual({ ...published[0] }, {
        traceparent: `00-${traceId}-${publish?.spanId}-03`,
        tracestate: state,
        baggage: "tenant=a%20b;ttl=3,x=1"
      })
    }))

  it.effect("F5 without traceparent a message begins a trace of its own, whatever span is around", () =>
    Effect.gen(function*() {
      const { roots, spans, traced } = recording()
      yield* traced(Effect.withSpan(runChain(Trace.middleware()((_: Delivery) => Effect.void), deliver()), "engine"))
      assert.isUndefined(parentOf(spans[1]))
      assert.notStrictEqual(spans[1]?.traceId, spans[0]?.traceId)
      yield* traced(runChain(Trace.middleware()(done), deliver({ headers: { traceparent: sampled } })))
      assert.deepStrictEqual(roots, [false, true, false])
    }))

  it.effect("F5 relation link: a trace of its own, linked to the sender's", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const { handler, published } = seen({ relation: "link" })
      yield* traced(runChain(handler, deliver({ headers: { traceparent: sampled, tracestate: "vendor=1" } })))
      const [span] = spans
      assert.isUndefined(parentOf(span))
      assert.notStrictEqual(span?.traceId, traceId)
      assert.deepStrictEqual(span?.links.map((link) => link.span.spanId), [spanId])
      assert.isUndefined(published[0]?.["tracestate"], "a trace state belongs to its trace")
    }))

  for (
    const [title, handler, type] of [
      ["a failure", (_: Delivery) => Effect.fail(new Broken()), "Broken"],
      ["a failure after a wait", (_: Delivery) => Effect.andThen(Effect.yieldNow, Effect.fail(new Broken())), "Broken"],
      ["a defect", (_: Delivery) => Effect.die(new TypeError("no")), "TypeError"],
      ["a throw", (_: Delivery): Effect.Effect<never> => {
        throw new RangeError("no")
      }, "RangeError"],
      [
        "a dead letter that a middleware answered",
        (_: Delivery) => Effect.succeed(Outcome.DeadLetter(new Broken())),
        "Broken"
      ]
    ] as const
  ) {
    it.effect(`F5 ${title} inside, as of a parser or a decoder, is the span's error`, () =>
      Effect.gen(function*() {
        const { spans, traced } = recording()
        yield* traced(runChain(Trace.middleware()(handler as Handler<Delivery, unknown, Broken>), deliver()))
        const exit = exitOf(spans[0])
        assert.isTrue(exit !== undefined && exit._tag === "Failure" && !Cause.hasInterrupts(exit.cause))
        assert.strictEqual(all(spans[0])["error.type"], type)
      }))
  }

  for (const gap of [false, true]) {
    it.effect(`F5 an interruption ends the span and is no error${gap ? ", also before the chain's first step" : ""}`, () =>
      Effect.gen(function*() {
        const { spans, traced } = recording()
        const message = deliver()
        const started = yield* Deferred.make<void>()
        const handler = Trace.middleware()((_: Delivery) =>
          Effect.andThen(Deferred.succeed(started, undefined), Effect.never)
        )
        const fiber = yield* Effect.forkChild(traced(Effect.suspend(() => handler(message))))
        yield* Deferred.await(started)
        // the deferred wakes this fiber inside the call: there, only the hook knows that the span is open
        if (!gap) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(spans[0]?.status._tag, gap ? "Started" : "Ended")
        yield* After.run(message.hooks ?? [], Exit.interrupt(), undefined)
        const exit = exitOf(spans[0])
        assert.isTrue(exit?._tag === "Failure" && Cause.hasInterruptsOnly(exit.cause))
        assert.deepInclude(all(spans[0]), { "millrace.status": "interrupted" })
        assert.notProperty(all(spans[0]), "error.type")
      }))
  }

  for (
    const [title, context, headers] of [
      ["nobody traces", Effect.provideService(Tracer.Tracer, Tracer.nativeTracer), { traceparent: sampled }],
      ["tracing is switched off", Effect.withTracerEnabled(false), { traceparent: sampled }],
      ["spans of this level are not wanted", Effect.provideService(Tracer.MinimumTraceLevel, "Error"), {
        traceparent: sampled
      }],
      ["the sender does not sample", <A, E, R>(self: Effect.Effect<A, E, R>) => self, { traceparent: unsampled }]
    ] as const
  ) {
    it.effect(`F5 no span where ${title}, but its context flows on`, () =>
      Effect.gen(function*() {
        const { spans, traced } = recording()
        const { baggage, handler, published } = seen()
        const message = deliver({ headers: { ...headers, tracestate: "vendor=1", baggage: "tenant=7" } })
        yield* traced(context(runChain(handler, message)))
        assert.strictEqual(spans.length, 0)
        assert.strictEqual(baggage().get("tenant")?.value, "7")
        const expected: Record<string, string> = { ...headers, tracestate: "vendor=1", baggage: "tenant=7" }
        assert.deepStrictEqual({ ...published[0] }, expected)
      }))
  }

  it.effect("F5 a share of new traces is recorded, and the others tell those behind them", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const { handler, published } = seen({ sample: 0.25 })
      for (let i = 0; i < 400; i++) yield* traced(runChain(handler, deliver()))
      const recorded = spans.filter(({ name }) => name === "process orders").length
      assert.isTrue(recorded > 60 && recorded < 140, `${recorded} of 400`)
      assert.strictEqual(spans.length, recorded * 2)
      assert.strictEqual(published.filter(({ traceparent }) => traceparent?.endsWith("-02")).length, 400 - recorded)
      for (const { traceparent } of published) assert.isDefined(TraceContext.fromHeaders({ traceparent: traceparent! }))
      assert.strictEqual(new Set(published.map(({ traceparent }) => traceparent)).size, 400)
    }).pipe(Random.withSeed("trace")))

  it.effect("F5 a context that the sender wrote is kept, and linked", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      let headers: Headers.Headers = Headers.empty
      const publish = Trace.middleware()((message: Outgoing<string>) =>
        Effect.sync(() => void (headers = message.headers))
      )
      const own = Headers.fromRecord({ traceparent: sampled, baggage: "mine=1" })
      yield* traced(
        Effect.suspend(() => After.around(new Outgoing("orders", "", undefined, own), publish)).pipe(
          Effect.provideService(Trace.Baggage, Baggage.set(Baggage.empty, "a", "b"))
        )
      )
      assert.deepStrictEqual({ ...headers }, { traceparent: sampled, baggage: "mine=1" })
      assert.strictEqual(spans[0]?.kind, "client")
      assert.strictEqual(spans[0]?.links[0]?.span.spanId, spanId)
    }))

  it.effect("F5 a publish names the broker's system, and one option rules over it", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const broker = Context.make(Broker.Broker, { system: "nats" } as Broker.Broker["Service"])
      const outgoing = new Outgoing("orders", "", undefined, Headers.empty)
      yield* traced(Effect.suspend(() => After.around(outgoing, Trace.middleware()(done)))).pipe(
        Effect.provideContext(broker)
      )
      const middleware = Trace.middleware({ system: "kafka", attributes: () => ({ own: 1 }) })
      yield* traced(Effect.suspend(() => After.around(outgoing, middleware(done))))
      assert.strictEqual(all(spans[0])["messaging.system"], "nats")
      assert.deepInclude(all(spans[1]), { "messaging.system": "kafka", own: 1 })
    }))

  it.effect("F5 servers and clients: kinds of their own, extracting and injecting", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const request = (kind: "server" | "client", headers: Headers.Headers): Envelope => ({
        kind,
        channel: "POST /orders",
        key: undefined,
        headers,
        withHeader(name, value) {
          return { ...this, headers: Headers.set(this.headers, name, value) }
        },
        after: () => {}
      })
      let sent: Headers.Headers = Headers.empty
      const client = Trace.middleware()((message: Envelope) => Effect.sync(() => void (sent = message.headers)))
      const server = Trace.middleware()((_: Envelope) => client(request("client", Headers.empty)))
      yield* traced(Effect.suspend(() => server(request("server", Headers.fromRecord({ traceparent: sampled })))))
      assert.deepStrictEqual(spans.map(({ kind, name, traceId }) => [kind, name, traceId]), [
        ["server", "POST /orders", traceId],
        ["client", "POST /orders", traceId]
      ])
      assert.strictEqual(sent["traceparent"], `00-${traceId}-${spans[1]?.spanId}-01`)
    }))

  it.effect("F5 a batch is one span with a link for each message", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const messages = Array.from({ length: 130 }, (_, i) =>
        deliver({
          system: "kafka",
          position: i,
          headers: { traceparent: i === 1 ? "nonsense" : `00-${traceId}-${String(i + 1).padStart(16, "0")}-01` }
        }))
      yield* traced(Effect.exit(Effect.fail(new Broken()).pipe(Trace.batch(messages))))
      assert.strictEqual(spans.length, 1)
      assert.isUndefined(parentOf(spans[0]))
      assert.strictEqual(spans[0]?.links.length, 127)
      assert.strictEqual(spans[0]?.links[1]?.span.spanId, "0000000000000003")
      assert.deepStrictEqual(spans[0]?.links[1]?.attributes, {
        "messaging.destination.partition.id": "0",
        "messaging.kafka.offset": 2
      })
      assert.deepInclude(all(spans[0]), { "messaging.batch.message_count": 130, "error.type": "Broken" })
      assert.notProperty(all(spans[0]), "messaging.kafka.offset")
    }))

  it.effect("F5 spans of a channel with parameters are named by its address, and say which channel it is", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      const Temperatures = Channel.bytes("plant.{machine}.temperature")
      const handler = Trace.middleware()((_: Message<Uint8Array>) => Effect.void)
      yield* traced(Effect.gen(function*() {
        yield* Subscription.run(Subscription.make(Temperatures, { group: "g" }, handler))
        const publisher = Publisher.make(Temperatures, Trace.middleware())
        yield* publisher.publish(new Uint8Array(1), { parameters: { machine: "m1" } })
        yield* TestClock.adjust("1 second")
      }))
      assert.deepStrictEqual(spans.map(({ name }) => name), [
        `publish ${Temperatures.name}`,
        `process ${Temperatures.name}`
      ])
      for (const span of spans) {
        assert.deepInclude(all(span), {
          "messaging.destination.name": "plant.m1.temperature",
          "messaging.destination.template": Temperatures.name
        })
      }
    }).pipe(Effect.scoped, Effect.provide(MemoryBroker.layer({ partitions: 1 }))))

  it.effect("F5 attributes and links of the context reach the span", () =>
    Effect.gen(function*() {
      const { spans, traced } = recording()
      yield* traced(runChain(Trace.middleware()(done), deliver())).pipe(
        Effect.provideService(References.TracerSpanAnnotations, { "service.region": "eu" })
      )
      assert.strictEqual(all(spans[0])["service.region"], "eu")
    }))

  it("F5 a layer can wrap a broker with it, and it needs and gives nothing", () => {
    const wrapped: Layer.Layer<Broker.Broker, never, Broker.Broker> = Broker.wrap(Trace.middleware())
    assert.isDefined(wrapped)
    assert.throws(() => Trace.middleware({ sample: 1.5 }), RangeError, "Trace: sample must be from 0 to 1, got 1.5")
  })

  it("F5 spans are exported over HTTP as OTLP by Effect's own layer", async () => {
    const bodies: Array<string> = []
    const server = createServer((request, response) => {
      let body = ""
      request.on("data", (chunk) => body += String(chunk))
      request.on("end", () => {
        if (request.url === "/v1/traces") bodies.push(body)
        response.end("{}")
      })
    })
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    const address = server.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    const Telemetry = Otlp.layerJson({
      baseUrl: `http://127.0.0.1:${port}`,
      resource: { serviceName: "billing" }
    }).pipe(Layer.provide(FetchHttpClient.layer))
    const handler = pipe(
      (message: Delivery) => message.position === 0 ? Effect.void : Effect.fail(new Broken()),
      Trace.middleware()
    )
    const headers = { traceparent: sampled }
    try {
      await Effect.runPromise(
        Effect.andThen(
          runChain(handler, deliver({ system: "kafka", headers })),
          runChain(handler, deliver({ system: "kafka", headers, position: 1 }))
        ).pipe(Effect.provide(Telemetry))
      )
    } finally {
      server.close()
    }
    const spans = bodies.flatMap((body) => JSON.parse(body).resourceSpans).flatMap(({ scopeSpans }) => scopeSpans)
      .flatMap((scope) => scope.spans)
    assert.strictEqual(spans.length, 2)
    for (const span of spans) {
      assert.deepInclude(span, { traceId, parentSpanId: spanId, name: "process orders", kind: 5 })
      assert.deepInclude(span.attributes, { key: "messaging.system", value: { stringValue: "kafka" } })
    }
    assert.deepStrictEqual(spans.map(({ status }) => status.code), [1, 2])
    assert.deepInclude(spans[1].attributes, { key: "messaging.kafka.offset", value: { intValue: 1 } })
    assert.deepInclude(spans[1].attributes, { key: "error.type", value: { stringValue: "Broken" } })
  })
})

describe("@effect/opentelemetry", () => {
  it.effect("F5 spans go to the OpenTelemetry SDK, as children of the remote span", () =>
    Effect.gen(function*() {
      const kept: Array<ReadableSpan> = []
      const exporter: SpanExporter = {
        export: (spans, done) => {
          kept.push(...spans)
          done({ code: 0 })
        },
        shutdown: () => Promise.resolve()
      }
      const Sdk = NodeSdk.layer(() => ({
        resource: { serviceName: "billing" },
        spanProcessor: new SimpleSpanProcessor(exporter)
      }))
      const handler = pipe(
        (message: Delivery) => message.position === 0 ? Effect.void : Effect.fail(new Broken()),
        Trace.middleware()
      )
      for (const position of [0, 1]) {
        const headers = { traceparent: sampled }
        yield* Effect.provide(runChain(handler, deliver({ system: "kafka", headers, position })), Sdk)
      }
      assert.deepStrictEqual(
        kept.map((span) => [
          span.name,
          span.spanContext().traceId,
          span.parentSpanContext?.spanId,
          span.attributes["messaging.kafka.offset"],
          span.attributes["error.type"],
          span.resource.attributes["service.name"],
          span.status.code
        ]),
        [
          ["process orders", traceId, spanId, 0, undefined, "billing", SpanStatusCode.OK],
          ["process orders", traceId, spanId, 1, "Broken", "billing", SpanStatusCode.ERROR]
        ]
      )
    }))
})

describe("TraceContext", () => {
  const read = (traceparent: string, tracestate?: string) =>
    TraceContext.fromHeaders(tracestate === undefined ? { traceparent } : { traceparent, tracestate })

  it("B9 reads what the W3C says is a traceparent", () => {
    const ids = `${traceId}-${spanId}`
    const good = [sampled, unsampled, `  ${sampled}\t`, `00-${ids}-ff`, `cc-${ids}-01`, `cc-${ids}-01-what-comes-later`]
    for (const text of good) {
      assert.deepInclude(read(text), { traceId, spanId }, text)
    }
    assert.deepStrictEqual(good.map((text) => read(text)?.sampled), [true, false, true, true, true, true])
    assert.deepStrictEqual(good.map((text) => read(text)?.random), [false, false, false, true, false, false])
  })

  it("B9 ignores every other traceparent", () => {
    const ids = `${traceId}-${spanId}`
    const bad = [
      "",
      `ff-${ids}-01`,
      `00-${ids}-01-more`,
      `00-${ids}-01.`,
      `cc-${ids}-01.what`,
      `00-${"0".repeat(32)}-${spanId}-01`,
      `00-${traceId}-${"0".repeat(16)}-01`,
      sampled.toUpperCase(),
      `00-${traceId.toUpperCase()}-${spanId}-01`,
      `0-${ids}-01`,
      `000-${ids}-01`,
      `.0-${ids}-01`,
      `00-${traceId.slice(1)}-${spanId}-01`,
      `00-${traceId}-${spanId}a-01`,
      `00-${ids}-1`,
      `00-${ids}-.1`,
      `${sampled},${sampled}`,
      `cc-${ids}-01-${"x".repeat(600)}`
    ]
    for (const text of bad) assert.isUndefined(read(text), text)
  })

  it("B9 keeps a tracestate that is well formed, and drops it alone where it is not", () => {
    const member = (i: number) => `k${i}=${i}`
    const list = (n: number) => Array.from({ length: n }, (_, i) => member(i)).join(",")
    const state = (text: string) => read(sampled, text)?.state
    assert.strictEqual(state("foo=1 \t , \t bar=2, ,baz=a=b".replace("a=b", "ab")), "foo=1,bar=2,baz=ab")
    assert.strictEqual(state("foo=1,fo0_-*/@a-b=2,0x=3"), "foo=1,fo0_-*/@a-b=2,0x=3")
    assert.strictEqual(state(list(32)), list(32))
    for (
      const bad of [
        "foo =1",
        "FOO=1",
        "foo.bar=1",
        "@foo=1",
        "foo@@bar=1",
        "foo=1,foo=2",
        "foo=bar=baz",
        "foo=,bar=1",
        list(33)
      ]
    ) {
      assert.isUndefined(state(bad), bad)
      assert.isDefined(read(sampled, bad))
    }
    for (const long of ["z".repeat(257), `${"t".repeat(242)}@v`, `t@${"v".repeat(15)}`]) {
      assert.isUndefined(state(`${long}=1`))
    }
    assert.strictEqual(state(`${"z".repeat(256)}=1,foo=1`), `${"z".repeat(256)}=1,foo=1`)
  })

  it("B9 a tracestate that is too long loses its long members first, then the last, never part of one", () => {
    const long = `long=${"x".repeat(200)}`
    const short = Array.from({ length: 30 }, (_, i) => `k${String(i).padStart(2, "0")}=${"y".repeat(9)}`)
    const kept = TraceContext.checkState([long, ...short].join(","))
    assert.strictEqual(kept, short.join(","))
    const many = Array.from({ length: 32 }, (_, i) => `k${String(i).padStart(2, "0")}=${"y".repeat(26)}`)
    const cut = TraceContext.checkState(many.join(","))!
    assert.isAtMost(cut.length, 512)
    assert.strictEqual(cut, many.slice(0, 16).join(","))
  })

  it("B9 what is written is read back", () => {
    const hex = (length: number) =>
      fc.string({ minLength: length, maxLength: length, unit: fc.constantFrom(..."0123456789abcdef") })
        .filter((text) => /[1-9a-f]/.test(text))
    fc.assert(fc.property(hex(32), hex(16), fc.boolean(), (traceId, spanId, sampled) => {
      const text = TraceContext.parentOf(Tracer.externalSpan({ traceId, spanId, sampled }))
      assert.deepInclude(read(text), { traceId, spanId, sampled, random: false })
      assert.strictEqual(TraceContext.parentOf(read(text)!), text)
    }))
  })
})

describe("Baggage", () => {
  it("B9 reads members, properties, percent signs and what is not UTF-8", () => {
    const parsed = Baggage.parse("a=1, b = two%20words;ttl=3;secret ,c=x=y,d=%FF,e=%zz,bad key=1,=2,f=\"q\",g=,a=9")
    assert.deepStrictEqual([...parsed], [
      ["a", { value: "9", properties: undefined }],
      ["b", { value: "two words", properties: "ttl=3;secret" }],
      ["c", { value: "x=y", properties: undefined }],
      ["d", { value: "\uFFFD", properties: undefined }],
      ["e", { value: "%zz", properties: undefined }],
      ["g", { value: "", properties: undefined }]
    ])
  })

  it("B9 keeps 64 members and 8,192 characters, whole members only, in and out", () => {
    const full = Array.from({ length: 64 }, (_, i) => `k${String(i).padStart(2, "0")}=${"v".repeat(123)}`).join(",")
    assert.strictEqual(full.length, 8191)
    assert.strictEqual(Baggage.format(Baggage.parse(full)), full)
    assert.strictEqual(Baggage.parse(`${full},z=1`).size, 64)
    assert.strictEqual(Baggage.parse(Array.from({ length: 65 }, (_, i) => `k${i}=`).join(",")).size, 64)
    assert.strictEqual(Baggage.parse(`a=1,b=${"v".repeat(8192)}`).size, 1)
    assert.strictEqual(Baggage.format(Baggage.parse(`a=1,b=${"v".repeat(8186)}`))?.length, 8192)
    assert.strictEqual(Baggage.format(new Map([["a", { value: "%".repeat(3000), properties: undefined }]])), undefined)
  })

  it("B9 any text survives a round trip, and no header can be broken by it", () => {
    const key = fc.stringMatching(/^[a-zA-Z0-9_.~-]{1,12}$/)
    const value = fc.string({ unit: "binary", maxLength: 40 }).filter((text) => text.isWellFormed())
    fc.assert(fc.property(fc.dictionary(key, value, { maxKeys: 10 }), (record) => {
      const entries = Object.entries(record)
      const baggage = entries.reduce((bag, [name, text]) => Baggage.set(bag, name, text), Baggage.empty)
      const header = Baggage.format(baggage) ?? ""
      assert.match(header, /^[\x21-\x7e]*$/)
      assert.deepStrictEqual(Baggage.parse(header), baggage)
    }))
  })
})
