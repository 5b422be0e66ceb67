import { assert, describe, it } from "@effect/vitest"
import {
  Baggage,
  Broker,
  Channel,
  type Delivery,
  type Headers,
  MemoryBroker,
  Outgoing,
  Publisher,
  Subscription,
  Trace
} from "@millrace/core"
import { Effect, pipe, Stream, Tracer } from "effect"
import { TestClock } from "effect/testing"
import { cases, type Fields, parentId, traceId } from "./traceCases.ts"

const encoder = new TextEncoder()
const tracer = Tracer.make({ span: (options) => new Tracer.NativeSpan(options) })

/** What goes on when messages with these fields are consumed, and each is published about. */
const through = (all: ReadonlyArray<Fields>): Effect.Effect<ReadonlyArray<Headers.Headers>> =>
  Effect.gen(function*() {
    const broker = yield* Broker.Broker
    const publisher = Publisher.make(Channel.bytes("next"), Trace.middleware())
    yield* Subscription.run(Subscription.make(
      Channel.bytes("orders"),
      { group: "g" },
      pipe((message: Delivery) => publisher.publish(message.payload), Trace.middleware())
    ))
    for (const fields of all) {
      yield* broker.publish(
        new Outgoing("orders", encoder.encode("x"), undefined, {}, {
          fields: fields.map(([name, value]) => [name, encoder.encode(value)])
        })
      )
    }
    yield* TestClock.adjust("1 second")
    return (yield* Stream.runCollect(broker.browse("next"))).map(({ headers }) => headers)
  }).pipe(
    Effect.scoped,
    Effect.provide(MemoryBroker.layer({ partitions: 1 })),
    Effect.provideService(Tracer.Tracer, tracer),
    Effect.orDie
  )

describe("the W3C's cases of Trace Context, on messages", () => {
  for (const [name, list] of Object.entries(cases)) {
    it.effect(`B9 ${name}`, () =>
      Effect.gen(function*() {
        const sent = yield* through(list.map(([fields]) => fields))
        assert.strictEqual(sent.length, list.length)
        const parents = new Set<string | undefined>()
        list.forEach(([fields, expected], i) => {
          const [, version, trace, span] = /^(\w\w)-(\w{32})-(\w{16})-(\w\w)$/.exec(sent[i]?.["traceparent"] ?? "") ??
            []
          const what = JSON.stringify(fields)
          assert.strictEqual(version, "00", what)
          assert.strictEqual(trace === traceId, expected.trace === "same", what)
          assert.notMatch(trace ?? "", /^0{32}$/)
          if (!/-0[02]$/.test(fields[0]?.[1] ?? "")) assert.notStrictEqual(span, parentId, what)
          if (name === "traceparent_random_flag") assert.match(sent[i]?.["traceparent"] ?? "", /-0[23]$/)
          assert.strictEqual(sent[i]?.["tracestate"], expected.state, what)
          parents.add(span)
        })
        if (name.startsWith("multiple")) assert.strictEqual(parents.size, 3)
      }))
  }
})

describe("the W3C's cases of Baggage, on messages", () => {
  const entry = (value: string, properties?: string) => ({ value, properties })
  const odd = "\t \"';=asdf!@#$%^&*()"
  const oddly = "%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29"
  const parsed: Readonly<Record<string, readonly [header: string, Readonly<Record<string, unknown>>]>> = {
    ctor_default: ["", {}],
    parse_simple: ["SomeKey=SomeValue", { SomeKey: entry("SomeValue") }],
    parse_multiple: ["SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal", {
      SomeKey: entry("SomeValue", "SomeProp"),
      SomeKey2: entry("SomeValue2", "ValueProp=PropVal")
    }],
    parse_multiple_plain: ["SomeKey=SomeValue,SomeKey2=SomeValue2", {
      SomeKey: entry("SomeValue"),
      SomeKey2: entry("SomeValue2")
    }],
    parse_multiple_ows: [
      "SomeKey \t = \t SomeValue \t ; \t SomeProp \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t ValueProp \t = \t PropVal",
      { SomeKey: entry("SomeValue", "SomeProp"), SomeKey2: entry("SomeValue2", "ValueProp \t = \t PropVal") }
    ],
    parse_multiple_kv_property: [
      "SomeKey=SomeValue;SomePropKey=SomePropValue,SomeKey2=SomeValue2;SomePropKey2=SomePropValue2",
      {
        SomeKey: entry("SomeValue", "SomePropKey=SomePropValue"),
        SomeKey2: entry("SomeValue2", "SomePropKey2=SomePropValue2")
      }
    ],
    parse_multiple_kv_property_ows: [
      "SomeKey \t = \t SomeValue \t ; \t SomePropKey=SomePropValue \t , \t SomeKey2 \t = \t SomeValue2 \t ; \t K \t = \t V",
      { SomeKey: entry("SomeValue", "SomePropKey=SomePropValue"), SomeKey2: entry("SomeValue2", "K \t = \t V") }
    ],
    parse_multiple_equals: ["SomeKey=SomeValue=equals", { SomeKey: entry("SomeValue=equals") }],
    parse_percent_encoded: [`SomeKey=${oddly}`, { SomeKey: entry(odd) }],
    parse_percent_encoded_ows: [`SomeKey \t = \t ${oddly} \t `, { SomeKey: entry(odd) }],
    parse_property: ["SomeKey=SomeValue;SomeProp", { SomeKey: entry("SomeValue", "SomeProp") }],
    parse_multi_property: ["SomeKey=SomeValue;SomeProp;SecondProp=PropValue", {
      SomeKey: entry("SomeValue", "SomeProp;SecondProp=PropValue")
    }],
    parse_kv_property: ["SomeKey=SomeValue;SomePropKey=SomePropValue", {
      SomeKey: entry("SomeValue", "SomePropKey=SomePropValue")
    }],
    parse_simple_ows: ["SomeKey \t = \t SomeValue \t ", { SomeKey: entry("SomeValue") }],
    parse_property_ows: ["SomeKey \t = \t SomeValue \t ; \t SomeProp", { SomeKey: entry("SomeValue", "SomeProp") }],
    parse_multi_property_ows: ["SomeKey \t = \t SomeValue \t ; \t SomeProp \t ; \t SecondProp \t = \t PropValue", {
      SomeKey: entry("SomeValue", "SomeProp \t ; \t SecondProp \t = \t PropValue")
    }],
    parse_kv_property_ows: ["SomeKey \t = \t SomeValue \t ; \t SomePropKey \t = \t SomePropValue", {
      SomeKey: entry("SomeValue", "SomePropKey \t = \t SomePropValue")
    }]
  }
  for (const [name, [header, expected]] of Object.entries(parsed)) {
    it(`B9 ${name}`, () => {
      const bag = Baggage.parse(header)
      assert.deepStrictEqual(Object.fromEntries(bag), expected)
      assert.deepStrictEqual(Baggage.parse(Baggage.format(bag) ?? ""), bag)
    })
  }

  const goesOn = (...headers: ReadonlyArray<string>) =>
    Effect.map(through([headers.map((header) => ["Baggage", header] as const)]), ([sent]) => sent?.["baggage"])

  it.effect("B9 serialize_at_least_64, serialize_long_entry, serialize_many_entries", () =>
    Effect.gen(function*() {
      const many = Array.from({ length: 64 }, (_, i) => `key${i}=value`).join(",")
      assert.strictEqual(yield* goesOn(many), many)
      const long = `a=${"0123456789".repeat(819)}`
      assert.strictEqual(long.length, 8192)
      assert.strictEqual(yield* goesOn(long), long)
      // more members than anybody must send on: whole ones from the front
      const entries = Array.from({ length: 512 }, (_, i) => `${String(i).padStart(3, "0")}=0123456789a`)
      assert.strictEqual(yield* goesOn(entries.join(",")), entries.slice(0, 64).join(","))
    }))

  it.effect("B9 several fields are one list", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* goesOn("a=1", "b=2;p"), "a=1,b=2;p")
    }))
})
