import { CloudEvents, Compression, MessagePack } from "@millrace/codecs"
import { Channel, Decode, type Message, PayloadCodec } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { CloudEvent, HTTP, Kafka, MQTT } from "cloudevents"
import { it } from "@effect/vitest"
import { Effect, pipe, Schema } from "effect"
import * as fc from "fast-check"
import { assert, describe } from "vitest"
import { around, decoded, encoded, refusal, scenarios, seen, systems } from "./events.ts"

const options: CloudEvents.Options = { source: "/shop", type: "com.example.order", time: "none", id: () => "1" }
const json = CloudEvents.codec(Channel.json, options)
const whole = CloudEvents.event(Channel.json)
const structured = CloudEvents.event(Channel.json, { mode: "structured" })
const packed = CloudEvents.event(MessagePack.codec(), { mode: "structured" })
const utf8 = new TextEncoder()
const text = new TextDecoder()

/** Reads the attributes of a body as the handler of a consumer does. */
const attributesOf = (system: string, body: Uint8Array, headers: Readonly<Record<string, string>>) => {
  const delivery = Deliveries.make({ body, headers, system })
  return CloudEvents.attributes(delivery)
}

const line = fc.string({ unit: "grapheme", maxLength: 12 }).filter((each) =>
  !/[\p{Cc}\p{Noncharacter_Code_Point}]/u.test(each)
)
const full = line.filter((each) => each !== "")
const anyJson = fc.jsonValue().filter((each) => !JSON.stringify(each).includes("__proto__"))
  .map((each): unknown => JSON.parse(JSON.stringify(each)))
const parts = (texts: fc.Arbitrary<string>, data: fc.Arbitrary<unknown>) => ({
  id: texts,
  source: fc.stringMatching(/^\/[\w./?=&-]{0,20}$/),
  type: texts,
  subject: texts,
  time: fc.date({ min: new Date(0), max: new Date(4e12), noInvalidDate: true }).map((date) => date.toISOString()),
  dataschema: fc.webUrl(),
  extensions: fc.dictionary(fc.stringMatching(/^[a-z][a-z0-9]{4,9}z$/), texts, {
    minKeys: 1,
    maxKeys: 3,
    noNullPrototype: true
  }),
  data
})
const event = fc.record(parts(full, anyJson), { requiredKeys: ["id", "source", "type"] })
/** The SDK writes and reads headers of HTTP without percent-encoding, and needs a time and data. */
const plain = fc.record(
  parts(
    fc.stringMatching(/^[\x21\x23\x24\x26-\x7e]{1,12}$/),
    fc.dictionary(fc.stringMatching(/^[a-z]{1,8}$/), anyJson, { noNullPrototype: true })
  ),
  { requiredKeys: ["id", "source", "type", "time", "data"] }
)

describe("CloudEvents", () => {
  for (const { attributes, body, data, headers, system, title } of [...scenarios("kafka"), ...scenarios("http")]) {
    it(`F14 passes the conformance scenario ${title.replace(/\s+/g, " ")}`, () => {
      assert.deepStrictEqual(decoded(json, utf8.encode(body), around(system, headers)), data)
      assert.deepStrictEqual(
        { ...attributesOf(system, utf8.encode(body), headers) },
        { ...attributes, extensions: {} } as never
      )
    })
  }

  it("F14 reads back each event in both modes, on each broker and on any other that it was carried to", () => {
    fc.assert(
      fc.property(event, fc.constantFrom(...systems), fc.constantFrom(...systems), (given, from, to) => {
        for (
          const [codec, type] of [[whole, "application/json"], [structured, "application/json"], [
            packed,
            "application/vnd.msgpack"
          ]] as const
        ) {
          const written = encoded(codec, given, around(from, { "content-type": codec.contentType ?? "" }))
          const expected = { ...given, datacontenttype: type }
          assert.deepEqual(decoded(codec, written.bytes, around(from, seen(written))), expected)
          // MQTT has no prefix, so its headers are an event's on MQTT alone; structured events are one everywhere
          if (from !== "mqtt" || codec !== whole) {
            assert.deepEqual(decoded(codec, written.bytes, around(to, seen(written))), expected)
          }
        }
      }),
      { numRuns: 300 }
    )
  })

  it("F14 is read by the SDK of CloudEvents, and reads what that writes, on Kafka, HTTP and MQTT", () => {
    fc.assert(
      fc.property(plain, (given) => {
        for (const codec of [whole, structured]) {
          for (const [system, peer] of [["kafka", Kafka], ["http", HTTP], ["mqtt", MQTT]] as const) {
            const written = encoded(codec, given, around(system, { "content-type": codec.contentType ?? "" }))
            const headers = { ...seen(written) }
            const body = text.decode(written.bytes)
            const { "content-type": contentType, ...properties } = headers
            const theirs = peer.toEvent(
              system === "mqtt"
                ? { headers: properties, body: JSON.parse(body), PUBLISH: { "Content Type": contentType } } as never
                : { headers, body, value: body } as never
            )
            assert.isFalse(Array.isArray(theirs))
            const read = theirs as CloudEvent<unknown>
            assert.deepStrictEqual([read.id, read.source, read.type, read.subject, read.data], [
              given.id,
              given.source,
              given.type,
              given.subject,
              given.data
            ])
            assert.deepStrictEqual(
              Object.fromEntries(Object.keys(given.extensions ?? {}).map((name) => [name, read[name]])),
              given.extensions ?? {}
            )
          }
        }
        const { extensions, ...own } = given
        const theirs = new CloudEvent({ ...own, ...extensions, datacontenttype: "application/json" } as never)
        for (const mode of ["binary", "structured"] as const) {
          for (const [system, peer] of [["kafka", Kafka], ["http", HTTP]] as const) {
            const message = peer[mode](theirs)
            const body = "value" in message ? message.value : message.body
            const bytes = utf8.encode(typeof body === "string" ? body : JSON.stringify(body))
            const headers = Object.entries(message.headers).filter(([, value]) => value !== undefined)
            const read = decoded(whole, bytes, around(system, Object.fromEntries(headers) as Record<string, string>))
            assert.deepInclude(read, { id: given.id, source: given.source, type: given.type, data: given.data })
            assert.deepStrictEqual((read as { extensions?: unknown }).extensions, extensions)
          }
        }
      }),
      { numRuns: 60 }
    )
  })

  it("F14 writes the headers of each protocol's binding", () => {
    const names = (system: string) => Object.keys({ ...seen(encoded(json, { a: 1 }, around(system))) }).sort()
    const written = (prefix: string) =>
      [...["id", "source", "specversion", "type"].map((each) => prefix + each), "content-type"].sort()
    assert.deepStrictEqual(names("kafka"), written("ce_"))
    assert.deepStrictEqual(names("memory"), written("ce_"))
    assert.deepStrictEqual(names("outbox"), written("ce_"))
    assert.deepStrictEqual(names("nats"), written("ce-"))
    assert.deepStrictEqual(names("http"), written("ce-"))
    assert.deepStrictEqual(names("rabbitmq"), written("cloudevents:"))
    assert.deepStrictEqual(names("mqtt"), written(""))
    const amqp = encoded(json, { a: 1 }, around("rabbitmq"))
    assert.include((amqp.fields ?? []).map(([name]) => name), "cloudEvents:id")
    const outbox = CloudEvents.codec(Channel.json, { ...options, binding: "amqp" })
    assert.deepStrictEqual(encoded(outbox, { a: 1 }, around("outbox")).fields, amqp.fields)
  })

  it("F14 encodes headers of HTTP as the binding's example, and reads quotes and escapes of older writers", () => {
    const subject = `Euro € 😀"%`
    const written = encoded(CloudEvents.codec(Channel.json, { ...options, subject }), {}, around("http"))
    assert.strictEqual(written.headers?.["ce-subject"], "Euro%20%E2%82%AC%20%F0%9F%98%80%22%25")
    const read = (value: string) => {
      const headers = { ...seen(written), "ce-subject": value }
      return attributesOf("http", written.bytes, headers)?.subject
    }
    assert.strictEqual(read("Euro%20%E2%82%AC%20%F0%9F%98%80%22%25"), subject)
    assert.strictEqual(read(`"a \\"b\\" %41"`), `a "b" A`)
    assert.strictEqual(read("%e2%82%ac%2541 100%"), "€%41 100%")
    assert.isUndefined(read("%C0%A0"))
    const { failure } = refusal(json, written.bytes, around("http", { ...seen(written), "ce-subject": "%C0%A0" }))
    assert.strictEqual(failure, "poison")
  })

  it("F14 reads data_base64, texts, null, no data, and attributes that are booleans, integers or null", () => {
    const read = (members: string, codec: PayloadCodec.PayloadCodec = whole) =>
      decoded(
        codec,
        utf8.encode(`{"specversion":"1.0","id":"1","source":"/a","type":"t"${members}}`),
        around("kafka", { "content-type": "Application/CloudEvents+JSON ; charset=utf-8" })
      )
    const base = { id: "1", source: "/a", type: "t" }
    assert.deepEqual(read(""), base)
    assert.deepEqual(read(`,"data":null`), { ...base, datacontenttype: "application/json", data: null })
    assert.deepEqual(read(`,"data":"text"`), { ...base, datacontenttype: "application/json", data: "text" })
    assert.deepEqual(read(`,"data_base64":"eyJhIjoxfQ==","subject":null,"data_other":1,"Upper":2`), {
      ...base,
      data: { a: 1 }
    })
    assert.deepEqual(read(`,"one":true,"two":-5,"three":"x"`), {
      ...base,
      extensions: { one: "true", two: "-5", three: "x" }
    })
    const raw = CloudEvents.event({
      contentType: "application/xml",
      encode: () => new Uint8Array(),
      decode: (bytes) => text.decode(bytes)
    })
    assert.deepEqual(read(`,"datacontenttype":"application/xml","data":"<a/>"`, raw), {
      ...base,
      datacontenttype: "application/xml",
      data: "<a/>"
    })
    const written = encoded(
      packed,
      { ...base, data: new Uint8Array([1, 2]) },
      around("kafka", { "content-type": packed.contentType ?? "" })
    )
    assert.strictEqual(JSON.parse(text.decode(written.bytes)).data_base64, "xAIBAg==")
  })

  it("F14 takes the media type from content-type, also where a header of its own says another", () => {
    const headers = {
      "content-type": "application/json",
      ce_specversion: "1.0",
      ce_id: "1",
      ce_source: "/a",
      ce_type: "t",
      ce_datacontenttype: "text/xml"
    }
    assert.deepEqual(decoded(whole, utf8.encode("{}"), around("kafka", headers)), {
      id: "1",
      source: "/a",
      type: "t",
      datacontenttype: "application/json",
      data: {}
    })
  })

  it("F14 finds the attributes of a structured event where headers say otherwise, without reading the body again", () => {
    const body = utf8.encode(`{"specversion":"1.0","id":"1","source":"/a","type":"t","data":{}}`)
    const headers = {
      "content-type": "application/cloudevents+json",
      ce_specversion: "1.0",
      ce_id: "2",
      ce_source: "/b",
      ce_type: "u"
    }
    assert.strictEqual(attributesOf("kafka", body, headers)?.id, "1")
    decoded(json, body, around("kafka", headers))
    body.fill(0)
    assert.strictEqual(attributesOf("kafka", body, headers)?.id, "1")
    assert.isUndefined(attributesOf("kafka", new Uint8Array(3), headers))
    assert.isUndefined(attributesOf("kafka", new Uint8Array(3), {}))
  })

  const bad: ReadonlyArray<readonly [why: RegExp, body: string, headers: Readonly<Record<string, string>>]> = [
    [/batch/, "[]", { "content-type": "application/cloudevents-batch+json; charset=UTF-8" }],
    [/other than JSON/, "[]", { "content-type": "application/cloudevents+avro" }],
    [/no event/, "{}", { "content-type": "application/json" }],
    [/specversion is missing/, "{}", { ce_id: "1" }],
    [/specversion is not 1.0/, "{}", { ce_specversion: "0.3", ce_id: "1", ce_source: "a", ce_type: "t" }],
    [/source is missing/, "{}", { ce_specversion: "1.0", ce_id: "1", ce_type: "t" }],
    [/type is missing or empty/, "{}", { ce_specversion: "1.0", ce_id: "1", ce_source: "a", ce_type: "" }],
    [/subject is missing or empty/, "{}", {
      ce_specversion: "1.0",
      ce_id: "1",
      ce_source: "a",
      ce_type: "t",
      ce_subject: ""
    }],
    [/time is not/, "{}", {
      ce_specversion: "1.0",
      ce_id: "1",
      ce_source: "a",
      ce_type: "t",
      ce_time: "2020-13-01T00:00:00Z"
    }],
    [/id has a control character/, "{}", { ce_specversion: "1.0", ce_id: "1\n2", ce_source: "a", ce_type: "t" }],
    [/not JSON, and its codec/, "{}", {
      "content-type": "text/xml",
      ce_specversion: "1.0",
      ce_id: "1",
      ce_source: "a",
      ce_type: "t"
    }],
    [/at most 100 attributes/, "{}", {
      ce_specversion: "1.0",
      ce_id: "1",
      ...Object.fromEntries(Array.from({ length: 99 }, (_, at) => [`ce_a${at}`, "x"]))
    }],
    [/at most/, "{}", { ce_specversion: "1.0", ce_id: "x".repeat(70_000) }],
    ...([
      ["{", /not JSON/],
      ["[]", /not a JSON object/],
      ["null", /not a JSON object/],
      [`{"specversion":1}`, /specversion is not 1.0/],
      [`{"specversion":"1.0","id":{}}`, /id is no text/],
      [`{"specversion":"1.0","id":1.5}`, /id is no text/],
      [`{"specversion":"1.0","id":"1","source":"a","type":"t","data":1,"data_base64":"AA=="}`, /both/],
      [`{"specversion":"1.0","id":"1","source":"a","type":"t","data_base64":"A"}`, /not Base64/],
      [`{"specversion":"1.0","id":"1","source":"a","type":"t","data_base64":{}}`, /not Base64/],
      [`{"specversion":"1.0","id":"1","source":"a","type":"t","datacontenttype":"text/plain","data":1}`, /no text/],
      [`{"specversion":"1.0","id":"\\ud800","source":"a","type":"t"}`, /no Unicode/],
      [`{${Array.from({ length: 201 }, (_, at) => `"a${at}":null`).join()}}`, /at most 200 members/]
    ] as const).map(([body, why]) => [why, body, { "content-type": "application/cloudevents+json" }] as const)
  ]
  for (const [why, body, headers] of bad) {
    it(`F14 refuses as poison, without a value in the message: ${String(why)} ${body.slice(0, 60)}`, () => {
      const error = refusal(json, utf8.encode(body), around("kafka", headers))
      assert.strictEqual(error.failure, "poison")
      assert.match(error.message, why)
      for (const value of [...Object.values(headers), body]) {
        if (value.length > 8) assert.notInclude(error.message, value)
      }
    })
  }

  it("F14 reads a message that is no event where the channel says so, and refuses too large a body", () => {
    const both = CloudEvents.event(Channel.json, { missing: "read", maximumBytes: 80 })
    assert.deepEqual(decoded(both, utf8.encode(`{"a":1}`), around("kafka")), { data: { a: 1 } })
    const large = utf8.encode(`{"specversion":"1.0","id":"1","source":"/a","type":"t","data":"${"x".repeat(20)}"}`)
    assert.match(
      refusal(both, large, around("kafka", { "content-type": "application/cloudevents+json" })).message,
      /larger than 80/
    )
  })

  it("F14 refuses attributes that are not valid, when they are written", () => {
    const refused = (changed: Partial<CloudEvents.Options>) => {
      const codec = CloudEvents.codec(Channel.json, { ...options, ...changed })
      return Effect.runSync(Effect.flip(codec.encode({}, around("kafka"))))
    }
    for (
      const changed of [
        { source: "" },
        { source: "a b" },
        { type: "" },
        { type: "a\u0000" },
        { id: () => "" },
        { subject: "" },
        { time: () => "yesterday" },
        { dataschema: "relative" },
        { extensions: { Upper: "x" } },
        { extensions: { a2345678901234567890b: "x" } },
        { extensions: { data: "x" } },
        { extensions: { id: "x" } },
        { extensions: { large: "x".repeat(70_000) } }
      ]
    ) {
      const { failure } = refused(changed)
      assert.strictEqual(failure, "validation", JSON.stringify(changed).slice(0, 80))
    }
    assert.throws(
      () => CloudEvents.codec(Channel.json, { ...options, mode: "batch" as never }),
      /CloudEvents: mode must be/
    )
  })

  it.effect("F14 gives each event an id and the time, and the same id where its message has one", () =>
    Effect.gen(function*() {
      const codec = CloudEvents.codec(Channel.json, { source: "/a", type: (value) => Object.keys(value as object)[0] })
      const headers = (before: Record<string, string>) =>
        Effect.map(codec.encode({ placed: 1 }, around("kafka", before)), (all) => ({ ...all.headers }))
      const first = yield* headers({})
      const second = yield* headers({})
      assert.match(first["ce_id"] ?? "", /^[0-9a-f-]{36}$/)
      assert.notStrictEqual(first["ce_id"], second["ce_id"])
      assert.strictEqual(first["ce_time"], "1970-01-01T00:00:00.000Z")
      assert.strictEqual(first["ce_type"], "placed")
      const own = yield* headers({ "message-id": "m1", "correlation-id": "c1", "causation-id": "k1" })
      assert.deepInclude(own, { ce_id: "m1", ce_correlationid: "c1", ce_causationid: "k1" })
    }))

  it.effect("F14 reaches the handler typed, and settles an event that does not decode as poison", () =>
    Effect.gen(function*() {
      const Order = Schema.Struct({ amount: Schema.Number, at: Schema.optionalKey(Schema.DateTimeUtcFromString) })
      const Orders = Channel.make("orders", {
        payload: CloudEvents.Event(Order),
        codec: whole,
        key: (each) => each.subject
      })
      const seenBy: Array<unknown> = []
      const handler = pipe(
        (message: Message<typeof Orders extends Channel.Channel<infer P, never, never, never> ? P : never>) =>
          Effect.sync(() =>
            void seenBy.push([
              message.payload.type,
              message.payload.data.amount,
              message.payload.extensions?.["region"]
            ])
          ),
        Decode.middleware(Orders)
      )
      const headers = { ce_specversion: "1.0", ce_id: "1", ce_source: "/a", ce_type: "placed", ce_region: "eu" }
      const make = (body: string) => Deliveries.make({ body: utf8.encode(body), headers, system: "kafka" })
      yield* Deliveries.run(handler, make(`{"amount":3}`))
      assert.deepStrictEqual(seenBy, [["placed", 3, "eu"]])
      const { outcome } = yield* Deliveries.run(handler, make("{"))
      assert.deepInclude(outcome, { _tag: "DeadLetter" })
    }))

  it("F14 gives the headers of a request, and refuses transforms inside of the event", () => {
    const found = CloudEvents.headers({
      specversion: "1.0",
      id: "ü",
      source: "/a",
      type: "t",
      datacontenttype: "text/plain",
      extensions: { x: "y" }
    }, "http")
    assert.deepEqual({ ...found }, {
      "ce-specversion": "1.0",
      "ce-id": "%C3%BC",
      "ce-source": "/a",
      "ce-type": "t",
      "ce-x": "y",
      "content-type": "text/plain"
    })
    assert.deepEqual(
      Object.keys(CloudEvents.headers({ specversion: "1.0", id: "1", source: "/a", type: "t", extensions: {} }, "amqp"))
        .sort(),
      [
        "cloudEvents:id",
        "cloudEvents:source",
        "cloudEvents:specversion",
        "cloudEvents:type"
      ]
    )
    assert.throws(
      () => CloudEvents.headers({ specversion: "1.0", id: "", source: "/a", type: "t", extensions: {} }, "http"),
      /id is missing/
    )
    const compressed = PayloadCodec.through(Channel.json, [Compression.make()])
    assert.throws(() => CloudEvents.event(compressed), /transforms \(zstd\)/)
  })
})
