import { Avro, SchemaRegistry } from "@millrace/codecs"
import { ProtobufRegistry } from "@millrace/protobuf"
import { Apicurio, ServerUnavailable } from "@millrace/testing/servers"
import { Effect, Exit, Schema, Scope } from "effect"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import { avroJson, samples } from "./avroJson.ts"
import { files, order, orderText, texts, typeOf } from "./files.ts"
import { type JavaPeer, javaPeer } from "./javaPeer.ts"
import { pairs } from "./pairs.ts"
import { around, at, errorOf, withRegistry } from "./registry.ts"

const scope = Scope.makeUnsafe()
let server: Apicurio.ApicurioServer | undefined
let java: JavaPeer | undefined
let missing = ""

const started = Effect.gen(function*() {
  const own = yield* Apicurio.own()
  return { own, peer: yield* javaPeer(own.ownUrl) }
})

beforeAll(async () => {
  const exit = await Effect.runPromise(
    Effect.result(Scope.provide(started, scope)).pipe(Effect.timeout("4 minutes"))
  )
  if (exit._tag === "Success") {
    server = exit.success.own
    java = exit.success.peer
  } else if (exit.failure instanceof ServerUnavailable) missing = exit.failure.message
  else throw exit.failure
}, 250_000)

afterAll(() => {
  java?.close()
  return Effect.runPromise(Scope.close(scope, Exit.void))
})

const version = (...more: ReadonlyArray<object>) => ({
  type: "record",
  name: "Order",
  namespace: "shop",
  fields: [{ name: "id", type: "string" }, ...more]
})

describe("SchemaRegistry with Apicurio", () => {
  it("F14 X22 registers, looks up, reads every version, and outlives a restart of the registry", async (test) => {
    if (server === undefined) return test.skip(missing)
    const { kill, start, url } = server
    await withRegistry(
      { url, timeout: "30 seconds" },
      Effect.gen(function*() {
        const old = SchemaRegistry.avro(version(), { register: true })
        assert.include(yield* errorOf(() => SchemaRegistry.avro(version()).encode({ id: "a" }, around)), {
          failure: "permanent",
          reason: "unregistered"
        })
        const { bytes } = yield* Effect.suspend(() => old.encode({ id: "a" }, around))
        // its schema is known now, and registered no second time
        const [again] = yield* at(() => SchemaRegistry.avro(version()).encode({ id: "a" }, around))
        assert.deepStrictEqual(again.bytes, bytes)

        const now = SchemaRegistry.avro(version({ name: "region", type: "string", default: "eu" }), { register: true })
        assert.deepStrictEqual(yield* Effect.suspend(() => now.decode(bytes, around)), { id: "a", region: "eu" })
        const newer = yield* Effect.suspend(() => now.encode({ id: "b", region: "us" }, around))
        assert.notDeepEqual(newer.bytes.slice(0, 5), bytes.slice(0, 5))
        assert.deepStrictEqual(yield* Effect.suspend(() => old.decode(newer.bytes, around)), { id: "b" })

        const unknown = Buffer.from(bytes)
        unknown.writeUInt32BE(4_000_000, 1)
        assert.include(yield* errorOf(() => old.decode(unknown, around)), {
          failure: "poison",
          reason: "unknownSchema"
        })

        yield* kill
        assert.deepStrictEqual(yield* Effect.suspend(() => old.decode(bytes, around)), { id: "a" })
        assert.include(yield* errorOf(() => old.decode(unknown, around)), { failure: "dependency" })
        yield* start
        assert.include(yield* errorOf(() => old.decode(unknown, around)), { failure: "poison" })
      })
    )
  }, 400_000)

  it("F14 registers a schema with references, and reads by them", async (test) => {
    if (server === undefined) return test.skip(missing)
    const address = { type: "record", name: "shop.Address", fields: [{ name: "city", type: "string" }] }
    await withRegistry(
      { url: server.url, timeout: "30 seconds" },
      Effect.gen(function*() {
        yield* Effect.suspend(() =>
          SchemaRegistry.avro(address, { register: true, subject: "recordName" }).encode({ city: "b" }, around)
        )
        const codec = SchemaRegistry.avro(version({ name: "to", type: "shop.Address" }), {
          register: true,
          subject: "topicRecordName",
          references: [{ name: "shop.Address", subject: "shop.Address", version: 1, schema: address }]
        })
        const value = { id: "a", to: { city: "b" } }
        const { bytes } = yield* Effect.suspend(() => codec.encode(value, around))
        assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(bytes, around)), value)
      })
    )
  }, 400_000)

  it(
    "F14 registers references by itself, those of Avro and imports of Protobuf, as descriptors and as texts",
    async (test) => {
      if (server === undefined) return test.skip(missing)
      const city = { type: "record", name: "geo.City", fields: [{ name: "name", type: "string" }] }
      const street = { type: "record", name: "geo.Street", fields: [{ name: "city", type: "geo.City" }] }
      const house = { type: "record", name: "geo.House", fields: [{ name: "street", type: "geo.Street" }] }
      const place = { ...around, channel: "houses" }
      await withRegistry(
        { url: server.url, timeout: "30 seconds" },
        Effect.gen(function*() {
          const avro = SchemaRegistry.avro(house, {
            register: true,
            normalize: true,
            references: [
              { name: "geo.City", subject: "geo.City", schema: city },
              { name: "geo.Street", subject: "geo.Street", schema: street }
            ]
          })
          const value = { street: { city: { name: "b" } } }
          const { bytes } = yield* Effect.suspend(() => avro.encode(value, place))
          assert.deepStrictEqual(yield* Effect.suspend(() => avro.decode(bytes, place)), value)

          for (const options of [{}, { texts, importSubject: (path: string) => `text-${path}` }]) {
            const channel = { ...around, channel: `parcels-${Object.keys(options).length}` }
            const codec = ProtobufRegistry.codec(typeOf("shop.Parcel.Label"), { register: true, ...options })
            const { bytes } = yield* Effect.suspend(() => codec.encode({ id: "a" }, channel))
            assert.deepStrictEqual(Buffer.from(bytes.subarray(5)), Buffer.from([4, 2, 2, 10, 1, 97]))
            assert.deepInclude(yield* Effect.suspend(() => codec.decode(bytes, channel)), { id: "a" })
            // without registration, all of it is found
            const finds = ProtobufRegistry.codec(typeOf("shop.Parcel.Label"), options)
            assert.deepStrictEqual((yield* Effect.suspend(() => finds.encode({ id: "a" }, channel))).bytes, bytes)
          }
        })
      )
    },
    400_000
  )

  it("F14 writes by the latest schema that the subject has", async (test) => {
    if (server === undefined) return test.skip(missing)
    const channel = { ...around, channel: "latest" }
    await withRegistry(
      { url: server.url, timeout: "30 seconds" },
      Effect.gen(function*() {
        const newer = SchemaRegistry.avro(version({ name: "region", type: "string", default: "eu" }), {
          register: true
        })
        const theirs = yield* Effect.suspend(() => newer.encode({ id: "a", region: "eu" }, channel))
        const codec = SchemaRegistry.avro(version(), { useLatest: true })
        const ours = yield* Effect.suspend(() => codec.encode({ id: "a" }, channel))
        assert.deepStrictEqual(Buffer.from(ours.bytes), Buffer.from(theirs.bytes))
      })
    )
  }, 400_000)
})

describe("Java's serializers on the other side of Apicurio", () => {
  const avro = version({ name: "note", type: ["null", "string"], default: null })

  it("F14 Avro: each reads bodies of the other, by ids of one registry", async (test) => {
    if (server === undefined || java === undefined) return test.skip(missing)
    const { ask } = java
    const channel = { ...around, channel: "java-avro" }
    const theirs = await ask(
      "registry avro-write",
      "java-avro",
      JSON.stringify(avro),
      `{"id":"ä","note":{"string":"n"}}`
    )
    await withRegistry(
      { url: server.url, timeout: "30 seconds" },
      Effect.gen(function*() {
        const codec = SchemaRegistry.avro(version({ name: "region", type: "string", default: "eu" }))
        assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(theirs, channel)), { id: "ä", region: "eu" })
        const same = SchemaRegistry.avro(avro)
        const { bytes } = yield* Effect.suspend(() => same.encode({ id: "ä", note: "n" }, channel))
        assert.deepStrictEqual(Buffer.from(bytes), theirs)
        const read = yield* Effect.promise(() => ask("registry avro-read", "java-avro", bytes))
        assert.deepStrictEqual(JSON.parse(read.toString()), { id: "ä", note: { string: "n" } })
      })
    )
  }, 400_000)

  it("F14 Protobuf: each reads messages of the other, with the indexes of the message", async (test) => {
    if (server === undefined || java === undefined) return test.skip(missing)
    const { ask } = java
    const channel = { ...around, channel: "java-protobuf" }
    const json = `{"id":"ä","tags":{"a":"b"},"price":{"currency":"EUR"}}`
    const value = { id: "ä", tags: { a: "b" }, price: { currency: "EUR" } }
    await withRegistry(
      { url: server.url, timeout: "30 seconds" },
      Effect.gen(function*() {
        const codec = ProtobufRegistry.codec(typeOf("shop.Parcel"), { register: true, texts })
        const { bytes } = yield* Effect.suspend(() => codec.encode(value, channel))
        const bare = yield* Effect.promise(() => ask("protobuf encode", files, "shop.Parcel", json))
        assert.deepStrictEqual(Buffer.from(bytes.subarray(7)), bare)
        const [head, theirs] = yield* Effect.promise(async () => {
          const theirs = await ask("registry protobuf-write", "java-protobuf-2", files, "shop.Parcel", json)
          return [theirs.subarray(5, 7), theirs] as const
        })
        assert.deepStrictEqual(Buffer.from(bytes.subarray(5, 7)), head)
        assert.deepInclude(yield* Effect.suspend(() => codec.decode(theirs, channel)), { id: "ä", tags: { a: "b" } })
        const seal = ProtobufRegistry.codec(typeOf("shop.Parcel.Seal"), { texts })
        const inner = yield* Effect.promise(() =>
          ask("registry protobuf-write", "java-protobuf-2", files, "shop.Parcel.Seal", `{"id":"s"}`)
        )
        assert.deepInclude(yield* Effect.suspend(() => seal.decode(inner, channel)), { id: "s" })
        // Apicurio's reader takes texts alone, without imports
        const place = { ...around, channel: "java-orders" }
        const orders = ProtobufRegistry.codec(order, { register: true, texts: { "order.proto": orderText } })
        const body = yield* Effect.suspend(() => orders.encode({ id: "ä", amount: 5n, tags: { a: "b" } }, place))
        assert.deepStrictEqual(Buffer.from(body.bytes.subarray(5, 7)), Buffer.from([2, 2]))
        const read = yield* Effect.promise(() => ask("registry protobuf-read", "java-orders", "Order", body.bytes))
        assert.deepStrictEqual(JSON.parse(read.toString()), { id: "ä", amount: "5", tags: { a: "b" } })
      })
    )
  }, 400_000)

  it(
    "F14 JSON Schema: Java validates our bodies by the schema that we registered, and we read its bodies",
    async (test) => {
      if (server === undefined || java === undefined) return test.skip(missing)
      const { ask } = java
      const channel = { ...around, channel: "java-json" }
      const Order = Schema.Struct({ id: Schema.String, count: Schema.Int })
      await withRegistry(
        { url: server.url, timeout: "30 seconds" },
        Effect.gen(function*() {
          const codec = SchemaRegistry.jsonSchema(Order, { register: true })
          const { bytes } = yield* Effect.suspend(() => codec.encode({ id: "ä", count: 2 }, channel))
          const read = yield* Effect.promise(() => ask("registry json-read", "java-json", bytes))
          assert.deepStrictEqual(JSON.parse(read.toString()), { id: "ä", count: 2 })
          const wrong = yield* Effect.suspend(() => codec.encode({ id: "a", count: "2" }, channel))
          const refused = yield* Effect.promise(() => ask("registry json-read", "java-json", wrong.bytes).catch(String))
          assert.match(String(refused), /error /)
          const theirs = yield* Effect.promise(() => ask("registry json-write", "java-json", `{"id":"b","count":3}`))
          assert.deepStrictEqual(yield* Effect.suspend(() => codec.decode(theirs, channel)), { id: "b", count: 3 })
        })
      )
    },
    400_000
  )
})

describe("pairs of Avro schemas", () => {
  it("F14 X22 Java writes the same bytes, and reads them by another schema to the same value", async (test) => {
    if (java === undefined) return test.skip(missing)
    const { ask } = java
    let read = 0
    for (const { name, now, old, verdict } of pairs) {
      for (const [writer, reader, letter] of [[old, now, "b"], [now, old, "f"]] as const) {
        if (!verdict.includes(letter)) continue
        for (const value of samples(writer)) {
          const bytes = Buffer.from(Avro.codec(writer).encode(value))
          assert.deepStrictEqual(await ask("avro encode", writer, avroJson(writer, value)), bytes, name)
          const theirs = JSON.parse((await ask("avro decode", writer, reader, bytes)).toString())
          const ours = Avro.codec(reader, { writer }).decode(bytes)
          assert.deepStrictEqual(JSON.parse(avroJson(reader, ours)), theirs, name)
          read++
        }
      }
    }
    assert.isAbove(read, 80)
  }, 100_000)

  it("X22 Java's Avro gives the same as Compatibility, pair by pair", async (test) => {
    if (java === undefined) return test.skip(missing)
    const { ask } = java
    const wrong: Array<string> = []
    for (const { name, now, old, verdict } of pairs) {
      const backward = (await ask("avro compatible", now, old)).length === 0
      const forward = (await ask("avro compatible", old, now)).length === 0
      const theirs = `${backward ? "b" : ""}${forward ? "f" : ""}`
      if (theirs !== verdict) wrong.push(`${name}: ${theirs}, ours ${verdict}`)
    }
    assert.deepStrictEqual(wrong, [])
  }, 100_000)

  it("X22 Apicurio gives the same as Compatibility, pair by pair", async (test) => {
    if (server === undefined) return test.skip(missing)
    const { url } = server
    const send = async (method: string, path: string, body: object) => {
      const headers = { "content-type": "application/vnd.schemaregistry.v1+json" }
      const response = await fetch(`${url}/${path}`, { method, headers, body: JSON.stringify(body) })
      const json = await response.json() as { readonly is_compatible?: boolean }
      assert.strictEqual(response.status, 200, `${path}: ${JSON.stringify(json)}`)
      return json
    }
    const wrong: Array<string> = []
    for (const [index, { name, now, old, verdict }] of pairs.entries()) {
      const subject = `pair-${index}`
      await send("POST", `subjects/${subject}/versions`, { schema: old })
      let theirs = ""
      for (const [letter, compatibility] of [["b", "BACKWARD"], ["f", "FORWARD"]] as const) {
        await send("PUT", `config/${subject}`, { compatibility })
        const { is_compatible } = await send("POST", `compatibility/subjects/${subject}/versions/latest`, {
          schema: now
        })
        if (is_compatible === true) theirs += letter
      }
      if (theirs !== verdict) wrong.push(`${name}: ${theirs}, ours ${verdict}`)
    }
    assert.deepStrictEqual(wrong, [])
  }, 100_000)
})
