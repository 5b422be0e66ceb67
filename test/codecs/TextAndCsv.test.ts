import { Csv, Text } from "@millrace/codecs"
import { Schema } from "effect"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { fuzz } from "../fuzz/fuzz.ts"

const utf8 = new TextEncoder()
const text = (bytes: Uint8Array) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes)
const csv = Csv.codec(["a", "b"])
const read = (body: string, codec = csv) => codec.decode(utf8.encode(body))
const field = fc.string({
  unit: fc.oneof(fc.constantFrom(",", "\"", "\r", "\n", "\uFEFF", " "), fc.string({ unit: "grapheme", maxLength: 1 })),
  maxLength: 8
})

describe("Text", () => {
  it("F14 reads back each text, and refuses bytes that are none", () => {
    const codec = Text.codec({ maximumBytes: 400 })
    fc.assert(fc.property(fc.string({ unit: "grapheme", maxLength: 8 }), fc.boolean(), (value, isMarked) => {
      const whole = isMarked ? `\uFEFF${value}` : value
      assert.strictEqual(codec.decode(codec.encode(whole)), whole)
    }))
    assert.throws(() => codec.decode(new Uint8Array([0xff])), /not UTF-8/)
    assert.throws(() => codec.decode(new Uint8Array(401)), /more than 400/)
    assert.throws(() => codec.encode("x".repeat(401)), /more than 400/)
    assert.throws(() => codec.encode(5), /text is needed/)
    assert.throws(() => codec.encode("\ud800"), /surrogate/)
  })
})

describe("CSV", () => {
  it("F14 reads back each list of records, with a header and without, of one column and of several", () => {
    fc.assert(
      fc.property(
        fc.uniqueArray(field.filter((name) => name !== ""), { minLength: 1, maxLength: 3 }),
        fc.array(fc.array(field, { minLength: 3, maxLength: 3 }), { maxLength: 4 }),
        fc.constantFrom("present" as const, "absent" as const),
        (columns, rows, header) => {
          const codec = Csv.codec(columns, { header })
          const records = rows.map((row) => Object.fromEntries(columns.map((column, at) => [column, row[at]!])))
          assert.deepEqual(codec.decode(codec.encode(records)), records)
        }
      )
    )
  })

  it("F14 follows the examples of RFC 4180: line ends, quotes, spaces, empty fields", () => {
    const row = { a: "aaa", b: "bbb" }
    assert.deepEqual(read("a,b\r\naaa,bbb\r\n"), [row])
    assert.deepEqual(read("a,b\r\naaa,bbb"), [row])
    assert.deepEqual(read("\uFEFFa,b\naaa,bbb\n"), [row])
    assert.deepEqual(read("b,x,a\n\"bbb\",,\"aaa\"\n"), [row])
    assert.deepEqual(read("a,b\n\"a\"\"\r\n,a\", b \n,\n"), [{ a: "a\"\r\n,a", b: " b " }, { a: "", b: "" }])
    assert.deepEqual(read("a,b"), [])
    assert.strictEqual(
      text(csv.encode([{ a: "x,\"y\"", b: 1 }, { a: true }, { a: null, b: 5n }])),
      "a,b\r\n\"x,\"\"y\"\"\",1\r\ntrue,\r\n,5\r\n"
    )
  })

  it("F14 takes the columns from a struct, whose schema reads numbers", () => {
    const Line = Schema.Struct({ sku: Schema.String, amount: Schema.NumberFromString })
    assert.deepStrictEqual(Csv.columnsOf(Line), ["sku", "amount"])
    const decoded = Schema.decodeUnknownSync(Schema.Array(Line))(
      Csv.codec(Csv.columnsOf(Line)).decode(utf8.encode("sku,amount\nx,3\n"))
    )
    assert.deepEqual(decoded, [{ sku: "x", amount: 3 }])
  })

  it("F14 refuses what is no CSV of its columns, by the row and without a value", () => {
    const bad: ReadonlyArray<readonly [string, RegExp]> = [
      ["", /header is missing/],
      ["a\n", /no column b/],
      ["a,b,a\n", /column twice/],
      ["a,b\nsecret\n", /row 2: it has 1 fields/],
      ["a,b\n1,2,3\n", /row 2: it has 3 fields/],
      ["a,b\n1,2\n\n", /row 3: it has 1 fields/],
      ["a,b\n\"secret,2\n", /row 2: a quoted field has no end/],
      ["a,b\n\"1\"x,2\n", /row 2: characters follow/],
      ["a,b\n1\"secret,2\n", /row 2: a quote stands within/],
      ["a,b\n1\r2,3\n", /row 2: a carriage return/],
      ["a,b\n\"1\"\r,3\n", /row 2: characters follow/]
    ]
    for (const [body, why] of bad) {
      assert.throws(() => read(body), why)
      assert.throws(() => read(body), /^(?!.*secret)/)
    }
    assert.throws(() => csv.decode(new Uint8Array([0xff])), /not UTF-8/)
    assert.throws(() => read("a,b\n1,2\n", Csv.codec(["a", "b"], { maximumBytes: 7 })), /more than 7 bytes/)
    assert.throws(() => read("a,b\n1,2\n", Csv.codec(["a", "b"], { maximumItems: 3 })), /more than 3 fields/)
    assert.throws(() => Csv.codec(["a", "b"], { maximumItems: 3 }).encode([{}, {}]), /more than 3 fields/)
    assert.throws(() => Csv.codec(["a", "b"], { maximumBytes: 6 }).encode([{}]), /more than 6 bytes/)
    assert.throws(() => csv.encode({}), /list of records/)
    assert.throws(() => csv.encode([1]), /record is needed/)
    assert.throws(() => csv.encode([{ a: {} }]), /column a has a value/)
    for (const columns of [[], ["a", "a"], [""], ["__proto__"]]) assert.throws(() => Csv.codec(columns), RangeError)
  })

  it("F14 withstands changed bodies: an error of its own, within bounds", () => {
    const samples = ["a,b\r\n1,2\r\n", "b,a,c\n\"x\"\"y\",,\"\r\n\"\n", "a,b\n,\n,\n"].map((body) => utf8.encode(body))
    assert.isAbove(fuzz(csv.decode, samples, "CsvError"), 100)
    assert.isAbove(fuzz(Text.codec().decode, samples, "TextError"), 100)
  })
})
