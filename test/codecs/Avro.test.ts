import { Avro } from "@millrace/codecs"
import { Schema } from "effect"
import avsc from "avsc"
import * as fc from "fast-check"
import { readFileSync } from "node:fs"
import { assert, describe, it } from "vitest"
import { fuzz } from "../fuzz/fuzz.ts"
import { vector } from "./support.ts"

const order = {
  type: "record",
  name: "Order",
  namespace: "shop",
  fields: [
    { name: "id", type: "string" },
    { name: "amount", type: "long" },
    { name: "price", type: "double" },
    { name: "weight", type: "float" },
    { name: "paid", type: "boolean" },
    { name: "count", type: "int" },
    { name: "note", type: ["null", "string"], default: null },
    { name: "status", type: { type: "enum", name: "Status", symbols: ["NEW", "SENT"] } },
    { name: "digest", type: { type: "fixed", name: "Digest", size: 4 } },
    { name: "picture", type: "bytes" },
    {
      name: "lines",
      type: {
        type: "array",
        items: {
          type: "record",
          name: "Line",
          fields: [{ name: "sku", type: "string" }, { name: "quantity", type: "int" }]
        }
      }
    },
    { name: "tags", type: { type: "map", values: "string" } }
  ]
}

const int32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 })
const text = fc.string({ unit: "grapheme" })
const key = text.filter((each) => each !== "__proto__")
const bytes = (size?: number) =>
  fc.uint8Array(size === undefined ? { maxLength: 40 } : { minLength: size, maxLength: size })

const values = fc.record({
  id: text,
  // avsc reads other integers from 2^52 on
  amount: fc.oneof(fc.integer({ min: -(2 ** 52) + 1, max: 2 ** 52 - 1 }), int32),
  price: fc.double({ noNaN: true }),
  weight: fc.float({ noNaN: true }),
  paid: fc.boolean(),
  count: int32,
  note: fc.option(text, { nil: null }),
  status: fc.constantFrom("NEW", "SENT"),
  digest: bytes(4),
  picture: bytes(),
  lines: fc.array(fc.record({ sku: text, quantity: int32 })),
  tags: fc.dictionary(key, text, { noNullPrototype: true })
})

const other = avsc.Type.forSchema(order as avsc.Schema, { wrapUnions: "never" })
/** Its records are classes and its bytes are Buffers. */
const plain = (value: unknown): unknown =>
  value instanceof Uint8Array
    ? new Uint8Array(value)
    : Array.isArray(value)
    ? value.map(plain)
    : typeof value === "object" && value !== null
    ? Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]))
    : value

const reads = (schema: Avro.Definition, hex: string, options?: Avro.Options) =>
  Avro.codec(schema, options).decode(Buffer.from(hex, "hex"))

const refuses = (schema: Avro.Definition, hex: string, why: RegExp, options?: Avro.Options) =>
  assert.throws(() => reads(schema, hex, options), why)

describe("Avro", () => {
  it("F14 reads back each value, and writes and reads the bytes of avsc", () => {
    const codec = Avro.codec(order)
    fc.assert(fc.property(values, (value) => {
      const encoded = codec.encode(value)
      assert.deepStrictEqual(codec.decode(encoded), value)
      assert.deepStrictEqual(plain(other.fromBuffer(Buffer.from(encoded))), value)
      const buffers = { ...value, digest: Buffer.from(value.digest), picture: Buffer.from(value.picture) }
      assert.deepStrictEqual(new Uint8Array(other.toBuffer(buffers)), encoded)
    }))
  })

  it("F14 keeps every 64-bit integer", () => {
    const codec = Avro.codec("long")
    fc.assert(fc.property(fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }), (value) => {
      const read = codec.decode(codec.encode(value))
      assert.strictEqual(BigInt(read as bigint), value)
      assert.strictEqual(typeof read, Number.isSafeInteger(Number(value)) ? "number" : "bigint")
    }))
    for (const edge of [2n ** 53n, 2n ** 49n, -(2n ** 49n), 2n ** 48n, 2n ** 28n, -(2n ** 63n), 2n ** 63n - 1n]) {
      assert.strictEqual(BigInt(codec.decode(codec.encode(edge)) as bigint), edge)
    }
    assert.throws(() => codec.encode(2n ** 63n), /the value must be long, got bigint/)
    assert.throws(() => codec.encode(2 ** 53), /must be long/)
  })

  it("F14 has the canonical forms and fingerprints of the Avro project", () => {
    const cases = vector("schema-tests.txt").split(/^\/\/ \d+$/m).slice(1).map((each) => ({
      input: /^<<INPUT\n([\s\S]*?)\nINPUT|^<<INPUT (.*)/m.exec(each)?.slice(1).find((found) => found !== undefined) ??
        "",
      canonical: /<<canonical (.*)/.exec(each)?.[1],
      fingerprint: /<<fingerprint (-?\d+)/.exec(each)?.[1]
    }))
    assert.isAtLeast(cases.length, 20)
    for (const { canonical, fingerprint, input } of cases) {
      assert.strictEqual(Avro.canonicalForm(input), canonical)
      if (fingerprint !== undefined) {
        assert.strictEqual(BigInt.asIntN(64, Avro.fingerprint(input)).toString(), fingerprint)
      }
    }
  })

  it("F14 reads the single-object message of the Avro project", () => {
    const schema = vector("test_schema.avsc")
    const message = readFileSync(new URL("./vectors/test_message.bin", import.meta.url))
    const codec = Avro.singleObject(schema)
    assert.deepStrictEqual(codec.encode(codec.decode(message)), new Uint8Array(message))
    assert.throws(() => codec.decode(message.subarray(1)), /no fingerprint of a known schema/)
  })

  it("F14 X22 reads single-object bodies of older versions", () => {
    const before = Avro.singleObject(version(["id"]))
    const codec = Avro.singleObject(version(["id", { name: "region", type: "string", default: "eu" }]), {
      writers: [version(["id"])]
    })
    assert.deepStrictEqual(codec.decode(before.encode({ id: "a" })), { id: "a", region: "eu" })
    assert.deepStrictEqual(codec.decode(codec.encode({ id: "a", region: "us" })), { id: "a", region: "us" })
  })

  describe("F14 X22 schema resolution", () => {
    const resolved = (writer: Avro.Definition, reader: Avro.Definition, value: unknown) =>
      Avro.codec(reader, { writer }).decode(Avro.codec(writer).encode(value))

    it("promotes numbers, texts and bytes", () => {
      assert.strictEqual(resolved("int", "long", 5), 5)
      assert.strictEqual(resolved("int", "double", 5), 5)
      assert.strictEqual(resolved("long", "double", 2n ** 60n), 2 ** 60)
      assert.strictEqual(resolved("float", "double", 0.5), 0.5)
      assert.strictEqual(resolved("bytes", "string", new Uint8Array([97])), "a")
      assert.deepStrictEqual(resolved("string", "bytes", "a"), new Uint8Array([97]))
      assert.match(Avro.unreadable("long", "int") ?? "", /written as long cannot be read as int/)
    })

    it("skips unknown fields of every kind, adds defaults, follows aliases and the reader's order", () => {
      const writer = version([
        { name: "gone", type: order },
        { name: "old", type: "string" },
        { name: "list", type: { type: "array", items: "null" } },
        { name: "union", type: ["null", "long"] },
        { name: "id", type: "string" }
      ])
      const reader = version([
        { name: "id", type: "string" },
        { name: "fresh", type: { type: "map", values: "int" }, default: { a: 1 } },
        { name: "renamed", aliases: ["old"], type: ["null", "string"] }
      ])
      const gone = fc.sample(values, 1)[0]
      assert.deepStrictEqual(
        resolved(writer, reader, { gone, old: "x", list: [null, null], union: 2 ** 40, id: "a" }),
        { id: "a", fresh: { a: 1 }, renamed: "x" }
      )
      assert.match(
        Avro.unreadable(version([]), version(["id"])) ?? "",
        /has no field id, and the reader's schema gives it no default/
      )
    })

    it("gives each value its own default", () => {
      const reader = version([{ name: "list", type: { type: "array", items: "int" }, default: [] }])
      const codec = Avro.codec(reader, { writer: version([]) })
      const first = codec.decode(new Uint8Array()) as { list: Array<number> }
      first.list.push(1)
      assert.deepStrictEqual(codec.decode(new Uint8Array()), { list: [] })
    })

    it("reads unknown symbols as the enum's default, and fails without one", () => {
      const writer = { type: "enum", name: "E", symbols: ["A", "B"] }
      assert.strictEqual(resolved(writer, { type: "enum", name: "E", symbols: ["A"], default: "A" }, "B"), "A")
      assert.throws(() => resolved(writer, { type: "enum", name: "E", symbols: ["A"] }, "B"), /does not have/)
    })

    it("agrees with avsc on which pairs can be read", () => {
      const simple = fc.constantFrom<Avro.Definition>(
        "null",
        "boolean",
        "int",
        "long",
        "float",
        "double",
        "bytes",
        "string",
        { type: "array", items: "int" },
        { type: "array", items: "double" },
        { type: "map", values: "long" },
        { type: "enum", name: "E", symbols: ["A"] },
        { type: "fixed", name: "F", size: 2 },
        { type: "fixed", name: "F", size: 3 },
        version(["id"]),
        version([{ name: "id", type: "bytes" }])
      )
      fc.assert(
        fc.property(simple, simple, (writer, reader) => {
          let readable = true
          try {
            avsc.Type.forSchema(reader as avsc.Schema).createResolver(avsc.Type.forSchema(writer as avsc.Schema))
          } catch {
            readable = false
          }
          assert.strictEqual(Avro.unreadable(writer, reader) === undefined, readable, JSON.stringify([writer, reader]))
        }),
        { numRuns: 400 }
      )
    })
  })

  it("F14 reads recursive values up to maximumDepth", () => {
    const list = { type: "record", name: "Node", fields: [{ name: "next", type: ["null", "Node"] }] }
    assert.deepStrictEqual(reads(list, "020200"), { next: { next: { next: null } } })
    assert.throws(() => reads(list, `${"02".repeat(100)}00`, { maximumDepth: 99 }), /deeper than maximumDepth, 99/)
    assert.isObject(reads(list, `${"02".repeat(100)}00`))
    refuses(list, `${"02".repeat(100_000)}00`, /deeper than maximumDepth, 100/)
    const skipped = { writer: version([{ name: "deep", type: list }]) }
    refuses(version([]), `${"02".repeat(100_000)}00`, /deeper than maximumDepth, 100/, skipped)
    const self: { next: unknown } = { next: null }
    self.next = self
    assert.throws(() => Avro.codec(list).encode(self), /must be/)
  })

  it("F14 refuses counts, lengths and bytes that cannot be", () => {
    const nulls = { type: "array", items: "null" }
    assert.deepStrictEqual(reads(nulls, "0600"), [null, null, null])
    // 200 million nulls in 5 bytes
    refuses(nulls, "8088debe0100", /more items without bytes/)
    refuses(version([]), "8088debe0100", /more items without bytes/, { writer: version([{ name: "n", type: nulls }]) })
    refuses({ type: "array", items: version([]) }, "8088debe0100", /more items without bytes/)
    refuses({ type: "array", items: "int" }, "8088debe010200", /more items than the rest/)
    refuses({ type: "array", items: "int" }, "feffffffffffffffff01", /too many items/)
    refuses({ type: "array", items: "int" }, "080202020200", /more items than maximumItems, 3/, { maximumItems: 3 })
    refuses("bytes", "feffffff0f61", /larger than the rest/)
    refuses("string", "01", /negative/)
    refuses("string", "0261ff", /goes on after its value at position 2/)
    refuses("string", "04c328", /no UTF-8/)
    refuses("boolean", "02", /neither 0 nor 1/)
    refuses("int", "ffffffff1f", /more than 32 bits/)
    refuses("long", "ffffffffffffffffff03", /more than 64 bits/)
    refuses("double", "00", /ends inside/)
    refuses(["null", "int"], "04", /a branch that its schema does not have/)
    refuses({ type: "enum", name: "E", symbols: ["A"] }, "02", /a symbol that its schema does not have/)
    refuses("bytes", "0461ff", /larger than maximumBytes, 2/, { maximumBytes: 2 })
  })

  it("F14 refuses the map key __proto__, and no other name of an object", () => {
    const map = { type: "map", values: "int" }
    const body = (key: string) => Buffer.from([2, key.length * 2, ...Buffer.from(key), 2, 0]).toString("hex")
    refuses(map, body("__proto__"), /the key __proto__/)
    for (const name of ["toString", "constructor", "hasOwnProperty"]) {
      assert.deepStrictEqual(Object.entries(reads(map, body(name)) as object), [[name, 1]])
    }
    assert.throws(() => Avro.codec(map).encode(JSON.parse("{\"__proto__\": 1}")), /must be/)
  })

  it("F14 names the place of a value that does not fit, and not the value", () => {
    const codec = Avro.codec(order)
    const [value] = fc.sample(values, 1)
    assert.throws(
      () => codec.encode({ ...value, lines: [{ sku: "a", quantity: 1 }, { sku: "secret", quantity: 1.5 }] }),
      /^Avro: lines\[1\]\.quantity must be int, got number$/
    )
    assert.throws(
      () => codec.encode({ ...value, digest: new Uint8Array(3) }),
      /digest must be 4 bytes of shop.Digest, got bytes/
    )
    assert.throws(() => codec.encode({ ...value, note: 5 }), /note must be one of null, string, got number/)
    assert.throws(() => codec.encode({ ...value, id: "\ud800" }), /id must be string/)
  })

  it("F14 refuses definitions that are no schema, with their place", () => {
    const bad = (definition: Avro.Definition, why: RegExp) => assert.throws(() => Avro.codec(definition), why)
    bad("{", /is no JSON/)
    bad("Order", /names the type "Order", which it does not define/)
    bad(version([{ name: "__proto__", type: "int" }]), /the name __proto__, at fields\[0\]/)
    bad(version([{ name: "a b", type: "int" }]), /a field whose name is none, at fields\[0\]/)
    bad(version([{ name: "a\"]+alert(1)", type: "int" }]), /a field whose name is none/)
    bad(version(["a", "a"]), /two fields a/)
    bad(["int", "int"], /two branches int/)
    bad([["int"]], /a union directly in a union/)
    bad({ type: "fixed", name: "F", size: 1e9 }, /whose size is no integer/)
    bad(
      JSON.stringify({ type: "array", items: "int" }).replace(
        "\"int\"",
        "{\"type\":\"array\",\"items\":".repeat(100) + "\"int\"" + "}".repeat(100)
      ),
      /nested more than 64 deep/
    )
    let error: unknown
    try {
      Avro.codec(version([{ name: "a", type: "Missing" }]))
    } catch (cause) {
      error = cause
    }
    assert.include(error, { _tag: "AvroSchemaError", failure: "permanent", path: "fields[0].type" })
  })

  it("F14 gives copies of bytes, which a handler may change", () => {
    const body = Avro.codec("bytes").encode(new Uint8Array([1, 2]))
    const read = Avro.codec("bytes").decode(body) as Uint8Array
    read[0] = 9
    assert.deepStrictEqual(Avro.codec("bytes").decode(body), new Uint8Array([1, 2]))
  })

  it("F14 survives changed, cut and random bytes", () => {
    const codec = Avro.codec(order)
    const samples = fc.sample(values, { numRuns: 20, seed: 1 }).map((value) => codec.encode(value))
    fuzz(codec.decode, samples, "AvroError")
    const tree = Avro.codec({
      type: "record",
      name: "T",
      fields: [{ name: "c", type: { type: "array", items: ["null", "int", "T", { type: "map", values: "T" }] } }]
    })
    fuzz(tree.decode, [tree.encode({ c: [null, 1, { c: [] }, { a: { c: [] } }] })], "AvroError")
  })

  it("F14 values pass an Effect Schema after the codec", () => {
    const codec = Avro.codec(version(["id"]))
    const Order = Schema.Struct({ id: Schema.String })
    assert.deepStrictEqual(Schema.decodeUnknownSync(Order)(codec.decode(codec.encode({ id: "a" }))), { id: "a" })
  })
})

function version(fields: ReadonlyArray<string | object>): Avro.Definition {
  return {
    type: "record",
    name: "Version",
    fields: fields.map((field) => typeof field === "string" ? { name: field, type: "string" } : field)
  }
}
