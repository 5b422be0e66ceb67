import { fromBinary, toBinary } from "@bufbuild/protobuf"
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt"
import { ProtobufRegistry } from "@millrace/protobuf"
import { Effect } from "effect"
import { assert, describe, it } from "vitest"
import { texts, typeOf } from "../codecs/files.ts"
import { around, errorOf, withRegistry } from "../codecs/registry.ts"
import { type Answers, registryServer } from "../codecs/registryServer.ts"

const server = registryServer()

const answering = (answers: Answers) => {
  server.calls.length = 0
  server.answers = answers
}

const base64 = Buffer.from(toBinary(FileDescriptorProtoSchema, typeOf("shop.Parcel").file.proto)).toString("base64")

/** A text as a printer of descriptors writes it: with the entry of the map as a message. */
const printed = texts["shop/parcel.proto"].replace(
  "message Seal",
  "message TagsEntry { option map_entry = true; string key = 1; string value = 2; }\n  message Seal"
)

/** Indexes on the wire: their count and each of them doubled. */
const heads: ReadonlyArray<readonly [name: string, head: ReadonlyArray<number>]> = [
  ["shop.First", [0]],
  ["shop.Parcel", [2, 2]],
  ["shop.Parcel.Seal", [4, 2, 0]],
  ["shop.Parcel.Label", [4, 2, 2]],
  ["shop.Parcel.Label.Ink", [6, 2, 2, 0]]
]

const reads = (schema: string, head: ReadonlyArray<number>, name: string, options?: ProtobufRegistry.Options) => {
  answering(() => ({ schema, schemaType: "PROTOBUF" }))
  const body = Buffer.from([0, 0, 0, 0, 7, ...head, 10, 1, 97])
  return withRegistry(
    { url: server.url },
    Effect.result(Effect.suspend(() => ProtobufRegistry.codec(typeOf(name), options).decode(body, around)))
  )
}

describe("ProtobufRegistry", () => {
  it("F14 writes the indexes of the message behind the id, the first message as one zero", () => {
    answering(() => ({ id: 258, version: 1 }))
    return withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        for (const [name, head] of heads) {
          const codec = ProtobufRegistry.codec(typeOf(name))
          const { bytes } = yield* Effect.suspend(() => codec.encode({ id: "a" }, around))
          assert.deepStrictEqual(Buffer.from(bytes), Buffer.from([0, 0, 0, 1, 2, ...head, 10, 1, 97]), name)
        }
      })
    )
  })

  it("F14 reads the indexes by a descriptor, by a text, and where the entries of maps are counted", async () => {
    for (const schema of [base64, texts["shop/parcel.proto"]]) {
      for (const [name, head] of heads) {
        const result = await reads(schema, head, name)
        assert.strictEqual(result._tag, "Success", name)
        if (result._tag === "Success") assert.deepInclude(result.success, { id: "a" })
      }
    }
    assert.strictEqual((await reads(base64, [2, 0], "shop.First"))._tag, "Success")
    for (const schema of [base64, printed]) {
      assert.strictEqual((await reads(schema, [4, 2, 0], "shop.Parcel.Seal"))._tag, "Success")
      assert.strictEqual((await reads(schema, [4, 2, 6], "shop.Parcel.Seal"))._tag, "Failure")
      assert.strictEqual((await reads(schema, [4, 2, 2], "shop.Parcel.Seal"))._tag, "Success")
      assert.strictEqual((await reads(schema, [4, 2, 4], "shop.Parcel.Label"))._tag, "Success")
    }
    assert.strictEqual((await reads("export message A {} local message B {}", [2, 2], "shop.First"))._tag, "Failure")
    assert.strictEqual((await reads("package shop; export message First {}", [0], "shop.First"))._tag, "Success")
  })

  it("F14 a body of another message, of no message, or of a schema that is none is poison", async () => {
    const deep = `${"message A {".repeat(100)}`
    for (
      const [schema, head] of [
        [base64, [2, 2]],
        [base64, [2, 40]],
        [base64, [4, 0, 0]],
        [texts["shop/parcel.proto"], [2, 2]],
        ["message Other { string id = 1; }", [0]],
        ["AAAA", [0]],
        [deep, [0]]
      ] as const
    ) {
      const result = await reads(schema, head, "shop.First")
      assert.strictEqual(result._tag, "Failure", schema.slice(0, 20))
      if (result._tag === "Failure") {
        assert.include(result.failure, { failure: "poison", reason: "body" })
        if (schema === deep) assert.match(result.failure.message, /nested more than 64 deep/)
      }
    }
  })

  it("F14 indexes that are negative, too many, too long or cut off are poison without a request", async () => {
    for (
      const head of [
        [],
        [1],
        [3, 0],
        [0x82, 1, ...Array<number>(65).fill(0)],
        [2],
        [2, 0x80],
        [2, 0x80, 0x80, 0x80, 0x80, 1],
        [0x82, 2],
        [4, 2]
      ]
    ) {
      answering(() => ({ schema: base64, schemaType: "PROTOBUF" }))
      const body = Buffer.from([0, 0, 0, 0, 7, ...head])
      const error = await withRegistry(
        { url: server.url },
        errorOf(() => ProtobufRegistry.codec(typeOf("shop.First")).decode(body, around))
      )
      assert.include(error, { failure: "poison", reason: "framing" }, String(head))
      assert.strictEqual(server.calls.length, 0)
    }
  })

  it("F14 the GUID in a header has the indexes behind it", async () => {
    const guid = "00112233-4455-6677-8899-aabbccddeeff"
    answering(({ call }) =>
      call.startsWith("POST") ? { id: 7, version: 1, guid } : { schema: base64, schemaType: "PROTOBUF" }
    )
    const codec = ProtobufRegistry.codec(typeOf("shop.Parcel.Label"), { framing: "header" })
    await withRegistry(
      { url: server.url },
      Effect.gen(function*() {
        const { bytes, fields = [] } = yield* Effect.suspend(() => codec.encode({ id: "a" }, around))
        assert.deepStrictEqual(Buffer.from(bytes), Buffer.from([10, 1, 97]))
        assert.deepStrictEqual(fields, [
          ["__value_schema_id", Buffer.from(`01${guid.replaceAll("-", "")}040202`, "hex")]
        ])
        const read = yield* Effect.suspend(() => codec.decode(bytes, { ...around, fields }))
        assert.deepInclude(read, { id: "a" })
        assert.include(server.calls.map(({ call }) => call), `GET /schemas/guids/${guid}`)
      })
    )
  })

  it("F14 registers imports first, apart from those of google/protobuf, as descriptors or as texts", async () => {
    const register = async (options: ProtobufRegistry.Options) => {
      answering(() => ({ id: 1, version: 4 }))
      const codec = ProtobufRegistry.codec(typeOf("shop.Parcel"), { register: true, ...options })
      await withRegistry({ url: server.url }, Effect.suspend(() => codec.encode({ id: "a" }, around)))
      return server.calls
    }
    const asDescriptors = await register({ subject: "recordName" })
    assert.deepStrictEqual(asDescriptors.map(({ call }) => call), [
      "POST /subjects/shop%2Fmoney.proto/versions",
      "POST /subjects/shop%2Fmoney.proto",
      "POST /subjects/shop.Parcel/versions"
    ])
    const file = fromBinary(
      FileDescriptorProtoSchema,
      Buffer.from(String(asDescriptors[0]?.body?.["schema"]), "base64")
    )
    assert.strictEqual(file.name, "shop/money.proto")
    const asTexts = await register({ texts, importSubject: (path) => `of-${path.length}` })
    assert.deepStrictEqual(asTexts.map(({ call }) => call), [
      "POST /subjects/of-16/versions",
      "POST /subjects/of-16",
      "POST /subjects/orders-value/versions"
    ])
    assert.deepStrictEqual(asTexts[2]?.body, {
      schemaType: "PROTOBUF",
      schema: texts["shop/parcel.proto"],
      references: [{ name: "shop/money.proto", subject: "of-16", version: 4 }]
    })
  })

  it("F14 the latest schema gives the indexes", async () => {
    const moved = "package shop; message New {} message Newer {} message First { string id = 1; }"
    answering(({ call }) =>
      call.startsWith("POST")
        ? { is_compatible: true, id: 1, version: 1 }
        : { id: 9, schema: moved, schemaType: "PROTOBUF" }
    )
    const written = (name: string) =>
      withRegistry(
        { url: server.url },
        Effect.result(
          Effect.suspend(() => ProtobufRegistry.codec(typeOf(name), { useLatest: true }).encode({ id: "a" }, around))
        )
      )
    const first = await written("shop.First")
    assert.strictEqual(first._tag, "Success")
    if (first._tag === "Success") {
      assert.deepStrictEqual(Buffer.from(first.success.bytes), Buffer.from([0, 0, 0, 0, 9, 2, 4, 10, 1, 97]))
    }
    const other = await written("shop.Parcel")
    assert.strictEqual(other._tag, "Failure")
    if (other._tag === "Failure") assert.include(other.failure, { failure: "permanent", reason: "incompatible" })
  })

  it("F14 fields that the reader does not know are kept or dropped by choice", async () => {
    answering(() => ({ id: 7, version: 1, schema: base64, schemaType: "PROTOBUF" }))
    // field 9 is a text that First does not have
    const body = Buffer.from([0, 0, 0, 0, 7, 0, 10, 1, 97, 74, 1, 98])
    const again = (unknownFields: "keep" | "drop") =>
      withRegistry(
        { url: server.url },
        Effect.suspend(() => {
          const codec = ProtobufRegistry.codec(typeOf("shop.First"), { unknownFields })
          return Effect.flatMap(codec.decode(body, around), (value) => codec.encode(value, around))
        })
      )
    assert.deepStrictEqual(Buffer.from((await again("keep")).bytes), body)
    assert.deepStrictEqual(Buffer.from((await again("drop")).bytes), body.subarray(0, 9))
  })
})
