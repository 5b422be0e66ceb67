import { Avro, Compatibility } from "@millrace/codecs"
import { assert, describe, it } from "vitest"
import { pairs } from "./pairs.ts"

const reads = (old: string, now: string, level: Compatibility.Level) =>
  Compatibility.check(old, now, level).length === 0

const verdict = (old: string, now: string) =>
  `${reads(old, now, "backward") ? "b" : ""}${reads(old, now, "forward") ? "f" : ""}`

describe("Compatibility", () => {
  for (const { name, now, old, verdict: expected } of pairs) {
    it(`X22 judges both directions: ${name}`, () => {
      assert.strictEqual(verdict(old, now), expected)
      assert.strictEqual(reads(old, now, "full"), expected === "bf")
      // in the other order, the directions change places
      assert.strictEqual(verdict(now, old), [...expected].map((each) => each === "b" ? "f" : "b").sort().join(""))
    })
  }

  it("X22 whatever it calls readable, the codec can read", () => {
    for (const { name, now, old, verdict } of pairs) {
      if (verdict.includes("b")) assert.isUndefined(Avro.unreadable(old, now), name)
      if (verdict.includes("f")) assert.isUndefined(Avro.unreadable(now, old), name)
    }
  })

  it("X22 lists every incompatibility with its place, direction and reason", () => {
    const line = (fields: ReadonlyArray<object>) => ({ type: "record", name: "Line", fields })
    const order = (fields: ReadonlyArray<object>, more: ReadonlyArray<object>) => ({
      type: "record",
      name: "Order",
      fields: [{ name: "lines", type: { type: "array", items: line(fields) } }, ...more]
    })
    const old = order([{ name: "sku", type: "string" }], [
      { name: "state", type: { type: "enum", name: "State", symbols: ["OPEN", "SHUT", "LOST"] } },
      { name: "by", type: { type: "map", values: ["null", "int", "string"] } },
      { name: "hash", type: { type: "fixed", name: "Hash", size: 4 } }
    ])
    const now = order([{ name: "sku", type: "long" }, { name: "count", type: "int" }], [
      { name: "state", type: { type: "enum", name: "State", symbols: ["OPEN"] } },
      { name: "by", type: { type: "map", values: ["null", "long"] } },
      { name: "hash", type: { type: "fixed", name: "Hash", size: 8 } }
    ])
    assert.deepStrictEqual(Compatibility.check(old, now, "backward"), [
      {
        direction: "backward",
        version: 0,
        path: "lines[].sku",
        message: "data written as string cannot be read as long"
      },
      {
        direction: "backward",
        version: 0,
        path: "lines[].count",
        message: "the writer has no such field, and the reader gives it no default"
      },
      {
        direction: "backward",
        version: 0,
        path: "state",
        message: "the reader's enum has no SHUT, LOST and no default"
      },
      {
        direction: "backward",
        version: 0,
        path: "by{}",
        message: "data written as string fits no branch of the reader's union of null, long"
      },
      {
        direction: "backward",
        version: 0,
        path: "hash",
        message: "Hash has 4 bytes for the writer, and 8 for the reader"
      }
    ])
    assert.deepStrictEqual(
      Compatibility.check(old, now, "forward").map(({ direction, path }) => `${direction} ${path}`),
      ["forward lines[].sku", "forward by{}", "forward hash"]
    )
    assert.strictEqual(Compatibility.check(old, now, "full").length, 8)
  })

  it("X22 checks a schema against all older ones, and names the version", () => {
    const field = (type: unknown) => ({ type: "record", name: "R", fields: [{ name: "a", type }] })
    const olds = [field("string"), field("int"), field("long")]
    assert.deepStrictEqual(
      Compatibility.checkAll(olds, field("double"), "backward").map(({ path, version }) => [version, path]),
      [[0, "a"]]
    )
    assert.deepStrictEqual(Compatibility.checkAll([], field("double"), "full"), [])
    assert.throws(() => Compatibility.check("int", "int", "backwards" as "backward"), /level must be one of/)
    assert.throws(() => Compatibility.check("int", { type: "none" }, "full"), /names the type "none"/)
  })
})
