import {
  AnySchema,
  DescriptorProtoSchema,
  type FileDescriptorSet,
  FileDescriptorSetSchema,
  StructSchema,
  TimestampSchema
} from "@bufbuild/protobuf/wkt"
import { create, createFileRegistry, type DescMessage, fromBinary } from "@bufbuild/protobuf"
import { Protobuf } from "@millrace/protobuf"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"
import { fuzz } from "../fuzz/fuzz.ts"

const set: FileDescriptorSet = fromBinary(
  FileDescriptorSetSchema,
  readFileSync(new URL("./order.binpb", import.meta.url))
)
const registry = createFileRegistry(set)
const typeOf = (name: string): DescMessage => {
  const found = registry.getMessage(name)
  if (found === undefined) throw new Error(`no ${name}`)
  return found
}
const order = typeOf("shop.Order")

const value = {
  id: "a",
  amount: 2n ** 60n,
  price: 1.5,
  lines: [{ sku: "s", quantity: 2 }, { sku: "", quantity: -1 }],
  tags: { region: "eu" },
  picture: new Uint8Array([1, 2, 3]),
  status: 1,
  payment: { case: "card", value: "1234" }
}

const refuses = (desc: DescMessage, bytes: Uint8Array, why: RegExp, options?: Protobuf.Options) =>
  assert.throws(() => Protobuf.codec(desc, options).decode(bytes), why)

const varint = (value: number): Array<number> =>
  value > 127 ? [(value % 128) | 128, ...varint(Math.floor(value / 128))] : [value]

/** A length-delimited field. */
const field = (number: number, ...parts: ReadonlyArray<Uint8Array>): Buffer => {
  const body = Buffer.concat(parts)
  return Buffer.concat([Buffer.from([...varint(number * 8 + 2), ...varint(body.length)]), body])
}

describe("Protobuf", () => {
  it("F14 reads back a message, from a plain value and from a message", () => {
    const codec = Protobuf.codec(order)
    const bytes = codec.encode(value)
    assert.deepInclude(codec.decode(bytes), { ...value, lines: (codec.decode(bytes) as typeof value).lines })
    assert.deepEqual(
      (codec.decode(bytes) as typeof value).lines.map(({ quantity, sku }) => ({ sku, quantity })),
      value.lines
    )
    assert.deepStrictEqual(codec.encode(create(order, value)), bytes)
    assert.deepStrictEqual(codec.encode(codec.decode(bytes)), bytes)
    assert.strictEqual(codec.contentType, "application/x-protobuf")
  })

  it("F14 keeps unknown fields, or drops them", () => {
    const newer = Buffer.concat([Protobuf.codec(order).encode(value), field(99, Buffer.from("new"))])
    const kept = Protobuf.codec(order)
    assert.deepStrictEqual(Buffer.from(kept.encode(kept.decode(newer))), newer)
    const dropped = Protobuf.codec(order, { unknownFields: "drop" })
    assert.deepStrictEqual(dropped.encode(dropped.decode(newer)), kept.encode(value))
  })

  it("F14 refuses messages and groups nested deeper than maximumDepth", () => {
    const nested = (depth: number) => {
      let body: Buffer = Buffer.alloc(0)
      // google.protobuf.DescriptorProto.nested_type
      for (let level = 0; level < depth; level++) body = field(3, body)
      return body
    }
    assert.isObject(Protobuf.codec(DescriptorProtoSchema).decode(nested(99)))
    refuses(DescriptorProtoSchema, nested(100), /maximum recursion depth of 100/)
    refuses(DescriptorProtoSchema, nested(4), /maximum recursion depth of 3/, { maximumDepth: 3 })
    refuses(order, Buffer.alloc(10_000, Buffer.from(varint(99 * 8 + 3))), /maximum recursion depth|too deep|nest/i)
  })

  it("F14 refuses more fields than maximumItems before an object is made of them", () => {
    const empties = Buffer.alloc(30, field(3, Buffer.alloc(0)))
    assert.isObject(Protobuf.codec(DescriptorProtoSchema, { maximumItems: 15 }).decode(empties))
    refuses(DescriptorProtoSchema, empties, /more fields than maximumItems, 14/, { maximumItems: 14 })
    const inside = field(3, empties)
    refuses(DescriptorProtoSchema, inside, /more fields than maximumItems, 15/, { maximumItems: 15 })
    assert.isObject(Protobuf.codec(DescriptorProtoSchema, { maximumItems: 16 }).decode(inside))
    // a map's values: google.protobuf.Struct.fields, Value.list_value, ListValue.values
    const map = field(1, field(1, Buffer.from("k")), field(2, field(6, Buffer.alloc(40, field(1, Buffer.alloc(0))))))
    refuses(StructSchema, map, /more fields than maximumItems, 20/, { maximumItems: 20 })
    assert.isObject(Protobuf.codec(StructSchema, { maximumItems: 24 }).decode(map))
  })

  it("F14 refuses bytes that are no message, and values that are none", () => {
    const bytes = Protobuf.codec(order).encode(value)
    refuses(order, Buffer.concat([bytes, Buffer.from([0])]), /^Protobuf: .*shop\.Order$/)
    refuses(order, bytes.subarray(0, -1), /^Protobuf: /)
    refuses(order, Buffer.from([0x0a, 0x02, 0xc3, 0x28]), /^Protobuf: /)
    refuses(order, bytes, /more than maximumBytes, 5/, { maximumBytes: 5 })
    for (const wrong of [null, 5, [], new Uint8Array(), { amount: "many" }, { lines: [5] }]) {
      assert.throws(() => Protobuf.codec(order).encode(wrong), /^Protobuf: .*shop\.Order$/, JSON.stringify(wrong))
    }
  })

  it("F14 refuses the map key __proto__, and no other name of an object", () => {
    const entry = (key: string) => field(5, field(1, Buffer.from(key)), field(2, Buffer.from("x")))
    refuses(order, entry("__proto__"), /the key __proto__/)
    // the word as a value is none
    assert.isObject(Protobuf.codec(order).decode(field(1, Buffer.from("__proto__"))))
    assert.deepInclude(Protobuf.codec(order).decode(entry("toString")), { tags: { toString: "x" } })
    const inner = field(
      1,
      field(1, Buffer.from("a")),
      field(2, field(5, field(1, field(1, Buffer.from("__proto__")), field(2))))
    )
    refuses(StructSchema, inner, /the key __proto__/)
  })

  it("F14 survives changed, cut and random bytes", () => {
    fuzz(Protobuf.codec(order).decode, [Protobuf.codec(order).encode(value)], "ProtobufError")
    fuzz(Protobuf.codec(TimestampSchema).decode, [Protobuf.codec(AnySchema).encode({ typeUrl: "a" })], "ProtobufError")
  })
})
