import { SchemaRegistry } from "@millrace/codecs"
import type { PayloadCodec } from "@millrace/core"
import { Effect } from "effect"
import { assert, beforeEach, describe, it } from "vitest"
import { around, errorOf, withRegistry } from "./registry.ts"
import { type Answers, registryServer } from "./registryServer.ts"

const order = { type: "record", name: "Order", namespace: "shop", fields: [{ name: "id", type: "string" }] }
const text = JSON.stringify(order)
const guid = "00112233-4455-6677-8899-aabbccddeeff"
const header = Buffer.from(`01${guid.replaceAll("-", "")}`, "hex")
const server = registryServer()

const answering = (answers: Answers) => {
  server.calls.length = 0
  server.answers = answers
}

const known: Answers = ({ call }) =>
  call.startsWith("POST") ? { id: 7, guid: guid.toUpperCase() } : call.endsWith(guid) || call.endsWith("/7")
    ? { schema: text }
    : undefined

const calls = () => server.calls.map(({ call }) => call)

const withHeader = (...values: ReadonlyArray<Uint8Array | null>): PayloadCodec.Metadata => ({
  ...around,
  fields: values.map((value) => ["__value_schema_id", value] as const)
})

describe("the name of a schema, before the body or in a header", () => {
  beforeEach(() => answering(known))
  const codec = SchemaRegistry.avro(order)

  it("F14 reads the GUID in the header, before the body, and an id in the header", () =>
    withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        for (
          const [body, metadata] of [
            [Buffer.from([2, 97]), withHeader(header)],
            [Buffer.concat([header, Buffer.from([2, 97])]), around],
            [Buffer.from([2, 97]), withHeader(Buffer.from([0, 0, 0, 0, 7]))],
            // the last of two headers counts
            [Buffer.from([2, 97]), withHeader(Buffer.from([9]), header)]
          ] as const
        ) {
          assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(body, metadata)), { id: "a" })
        }
        assert.deepStrictEqual(calls(), [`GET /schemas/guids/${guid}`, "GET /schemas/ids/7"])
      })
    ))

  it("F14 a body is never read by a prefix where a header names the schema", () =>
    withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        // the text of five zero bytes, which look like the id 0
        const body = Buffer.from([10, 0, 0, 0, 0, 0])
        assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(body, withHeader(header))), {
          id: "\0\0\0\0\0"
        })
      })
    ))

  it("F14 a header that names no schema is poison, whatever the body", () =>
    withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        const body = Buffer.from([0, 0, 0, 0, 7, 2, 97])
        const wrong = [Buffer.alloc(0), null, header.subarray(0, 16), Buffer.concat([header, Buffer.from([0])])]
        for (const value of [...wrong, Buffer.from([2, ...header.subarray(1)])]) {
          assert.include(yield* errorOf(() => codec.decode(body, withHeader(value))), {
            failure: "poison",
            reason: "framing"
          })
        }
        assert.include(yield* errorOf(() => codec.decode(header.subarray(0, 16), around)), {
          failure: "poison",
          reason: "framing"
        })
        assert.deepStrictEqual(calls(), [])
        const unknown = Buffer.concat([header.subarray(0, 16), Buffer.from([0])])
        assert.include(yield* errorOf(() => codec.decode(body, withHeader(unknown))), {
          failure: "poison",
          reason: "unknownSchema"
        })
      })
    ))

  it("F14 writes the GUID into the header by choice, and the body alone", () =>
    withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        const codec = SchemaRegistry.avro(order, { framing: "header" })
        const { bytes, fields } = yield* Effect.suspend(() => codec.encode({ id: "a" }, around))
        assert.deepStrictEqual(Buffer.from(bytes), Buffer.from([2, 97]))
        assert.deepStrictEqual(fields, [["__value_schema_id", header]])
        answering(() => ({ id: 7 }))
        const other = SchemaRegistry.avro({ ...order, name: "Other" }, { framing: "header" })
        const error = yield* errorOf(() => other.encode({ id: "a" }, around))
        assert.include(error, { failure: "permanent", reason: "framing" })
        assert.match(error.message, /set framing to prefix/)
      })
    ))
})

describe("references and ways to look a schema up", () => {
  const city = { type: "record", name: "geo.City", fields: [{ name: "name", type: "string" }] }
  const address = { type: "record", name: "shop.Address", fields: [{ name: "city", type: "geo.City" }] }
  const parcel = {
    type: "record",
    name: "shop.Parcel",
    fields: [{ name: "from", type: "shop.Address" }, { name: "via", type: "geo.City" }]
  }
  const references = [
    { name: "geo.City", subject: "city", schema: city },
    { name: "shop.Address", subject: "address", schema: address }
  ]
  const value = { from: { city: { name: "b" } }, via: { name: "c" } }

  const written = (options: SchemaRegistry.AvroOptions) =>
    withRegistry(
      { url: server.url },
      Effect.suspend(() => SchemaRegistry.avro(parcel, { references, ...options }).encode(value, around))
    )

  it("F14 registers references before the schemas that name them, each once", async () => {
    answering(({ call }) => ({ id: 1, ...(call.endsWith("/versions") ? {} : { version: call.length }) }))
    await written({ register: true })
    const cityIs = { name: "geo.City", subject: "city", version: "POST /subjects/city".length }
    const addressIs = { name: "shop.Address", subject: "address", version: "POST /subjects/address".length }
    assert.deepStrictEqual(server.calls, [
      { call: "POST /subjects/city/versions", body: { schema: JSON.stringify(city) } },
      { call: "POST /subjects/city", body: { schema: JSON.stringify(city) } },
      { call: "POST /subjects/address/versions", body: { schema: JSON.stringify(address), references: [cityIs] } },
      { call: "POST /subjects/address", body: { schema: JSON.stringify(address), references: [cityIs] } },
      {
        call: "POST /subjects/orders-value/versions",
        body: { schema: JSON.stringify(parcel), references: [cityIs, addressIs] }
      }
    ])
  })

  it("F14 looks references up without registering, and asks for none with a version", async () => {
    answering(() => ({ id: 1, version: 3 }))
    await written({})
    assert.deepStrictEqual(calls(), ["POST /subjects/city", "POST /subjects/address", "POST /subjects/orders-value"])
    answering(() => ({ id: 1 }))
    await written({ references: references.map((each) => ({ ...each, version: 2 })) })
    assert.deepStrictEqual(calls(), ["POST /subjects/orders-value"])
    assert.deepStrictEqual(server.calls[0]?.body?.["references"], [
      { name: "geo.City", subject: "city", version: 2 },
      { name: "shop.Address", subject: "address", version: 2 }
    ])
  })

  it("F14 asks the registry to normalize", async () => {
    answering(() => ({ id: 1, version: 3 }))
    await written({ normalize: true, references: [...references] })
    assert.include(calls(), "POST /subjects/city?normalize=true")
    assert.include(calls(), "POST /subjects/orders-value?normalize=true")
    answering(() => ({ id: 1, version: 3 }))
    await written({ normalize: true, register: true })
    assert.include(calls(), "POST /subjects/orders-value/versions?normalize=true")
  })

  it("F14 register and useLatest exclude each other", () => {
    assert.throws(() => SchemaRegistry.avro(order, { register: true, useLatest: true }), /register or useLatest/)
    assert.throws(() => SchemaRegistry.avro(order, { framing: "guid" as "header" }), /framing/)
  })
})

describe("the latest schema of a subject", () => {
  const latest = {
    ...order,
    fields: [{ name: "region", type: "string", default: "eu" }, { name: "id", type: ["string", "null"] }]
  }
  const answers = (more: object = {}, isCompatible = true): Answers => ({ call }) =>
    call.startsWith("POST")
      ? { is_compatible: isCompatible }
      : { id: 9, version: 2, schema: JSON.stringify(latest), ...more }

  const encoded = () =>
    withRegistry(
      { url: server.url },
      Effect.result(Effect.suspend(() => SchemaRegistry.avro(order, { useLatest: true }).encode({ id: "a" }, around)))
    )

  it("F14 writes values by it, with its defaults, once the registry calls ours compatible", async () => {
    answering(answers())
    const result = await encoded()
    assert.strictEqual(result._tag, "Success")
    if (result._tag === "Success") {
      assert.deepStrictEqual(Buffer.from(result.success.bytes), Buffer.from([0, 0, 0, 0, 9, 4, 101, 117, 0, 2, 97]))
    }
    assert.deepStrictEqual(calls(), [
      "GET /subjects/orders-value/versions/latest",
      "POST /compatibility/subjects/orders-value/versions/latest"
    ])
    // ours is the latest: no second question
    answering(answers({ schema: text }))
    assert.strictEqual((await encoded())._tag, "Success")
    assert.strictEqual(server.calls.length, 1)
  })

  it("F14 a publish fails for good where it is not compatible, not readable, of another type, or missing", async () => {
    for (
      const [answer, reason] of [
        [answers({}, false), "incompatible"],
        [answers({ schema: "\"int\"" }), "incompatible"],
        [answers({ schemaType: "JSON" }), "incompatible"],
        [() => undefined, "unregistered"]
      ] as const
    ) {
      answering(answer)
      const result = await encoded()
      assert.strictEqual(result._tag, "Failure")
      if (result._tag === "Failure") assert.include(result.failure, { failure: "permanent", reason })
    }
  })
})
