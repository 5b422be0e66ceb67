import { Redaction } from "@millrace/core"
import { Schema } from "effect"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"

const Secret = Redaction.secret(Schema.String)

const shown = (schema: Schema.Top, value: unknown): unknown =>
  JSON.parse(Redaction.make({ schemas: [schema], usual: "drop" }).text(JSON.stringify(value)))

const hidden = "<redacted>"

describe("Redaction by schema", () => {
  it("H5 fields that a schema marks, at their place only", () => {
    const schema = Schema.Struct({
      id: Schema.String,
      note: Secret,
      inner: Schema.Struct({ note: Schema.String, deep: Schema.optionalKey(Secret) }),
      list: Schema.Array(Schema.Struct({ name: Schema.String, mark: Secret })),
      record: Schema.Record(Schema.String, Schema.Struct({ mark: Schema.NullOr(Secret) })),
      pair: Schema.Tuple([Schema.String, Schema.Struct({ second: Secret })])
    })
    assert.deepStrictEqual(
      shown(schema, {
        id: "1",
        note: "a",
        inner: { note: "shown", deep: "b" },
        list: [{ name: "x", mark: "c" }, { name: "y", mark: "d" }],
        record: { one: { mark: "e", note: "shown" } },
        pair: ["shown", { second: { all: "f" } }]
      }),
      {
        id: "1",
        note: hidden,
        inner: { note: "shown", deep: hidden },
        list: [{ name: "x", mark: hidden }, { name: "y", mark: hidden }],
        record: { one: { mark: hidden, note: "shown" } },
        pair: ["shown", { second: hidden }]
      }
    )
  })

  it("H5 marks on a key, under checks, in a union, and Effect's Redacted", () => {
    const schema = Schema.Struct({
      key: Schema.String.annotateKey({ [Object.keys(Secret.ast.annotations ?? {})[0] ?? ""]: true }),
      checked: Secret.check(Schema.isMinLength(1)),
      late: Redaction.secret(Schema.String.check(Schema.isMinLength(1))),
      either: Schema.Union([Schema.Struct({ a: Secret }), Schema.Struct({ b: Schema.String })]),
      redacted: Schema.Redacted(Schema.String),
      raw: Schema.RedactedFromValue(Schema.String),
      plain: Schema.String
    })
    assert.deepStrictEqual(
      shown(schema, { key: "1", checked: "2", late: "s", either: { a: "3" }, redacted: "4", raw: "5", plain: "6" }),
      { key: hidden, checked: hidden, late: hidden, either: { a: hidden }, redacted: hidden, raw: hidden, plain: "6" }
    )
  })

  it("H5 what is written under another name, or as text, is replaced with all that is around it", () => {
    const renamed = Schema.Struct({
      id: Schema.String,
      card: Schema.Struct({ number: Schema.RedactedFromValue(Schema.String) }).pipe(Schema.encodeKeys({ number: "n" }))
    })
    assert.deepStrictEqual(shown(renamed, { id: "1", card: { n: "4111" } }), { id: "1", card: hidden })
    const asText = Schema.Struct({ id: Schema.String, inner: Schema.fromJsonString(Schema.Struct({ a: Secret })) })
    assert.deepStrictEqual(shown(asText, { id: "1", inner: "{\"a\":\"s\"}" }), { id: "1", inner: hidden })
  })

  it("H5 a schema that contains itself is redacted at any depth", () => {
    interface Tree {
      readonly mark: string
      readonly children: ReadonlyArray<Tree>
    }
    const Tree: Schema.Codec<Tree> = Schema.Struct({
      mark: Secret,
      children: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
    })
    const tree = { mark: "a", children: [{ mark: "b", children: [{ mark: "c", children: [] }] }] }
    assert.notMatch(JSON.stringify(shown(Tree, tree)), /"[abc]"/)
  })

  it("H5 a body that is a secret altogether", () => {
    assert.strictEqual(shown(Secret, "s"), hidden)
    assert.strictEqual(shown(Schema.Array(Secret), ["s"]), hidden)
    assert.deepStrictEqual(Redaction.make({ schemas: [Secret] }).secrets("hunter2"), ["hunter2"])
  })

  it("H5 cut anywhere, no marked value is left", () => {
    const schema = Schema.Struct({ a: Schema.Struct({ b: Secret }), list: Schema.Array(Schema.Struct({ c: Secret })) })
    const redaction = Redaction.make({ schemas: [schema] })
    fc.assert(
      fc.property(fc.string({ maxLength: 5 }), fc.nat(200), (noise, cut) => {
        const value = { a: { b: `S3C${noise}RET` }, [noise]: noise, list: [{ c: `S3C${noise}` }, { c: ["S3C"] }] }
        assert.notInclude(redaction.text(JSON.stringify(value).slice(0, cut)), "S3C")
      }),
      { numRuns: 500 }
    )
  })
})
