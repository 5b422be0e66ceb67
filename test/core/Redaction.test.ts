import { Redaction } from "@millrace/core"
import { Schema } from "effect"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { notations } from "./secretNotations.ts"

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

describe("Redaction of texts", () => {
  const redaction = Redaction.make()
  /** What no other text holds. */
  const secret = fc.string({ minLength: 8, maxLength: 24, unit: fc.constantFrom(..."ABCDEF0123456789-_") })
    .map((text) => `S3C${text}RET`)
  /** Texts that may stand beside a secret: what names it is not in them. */
  const beside = fc.constantFrom(
    "",
    "a note",
    "x=1",
    "\u00e9",
    "line\n",
    "100%",
    "\\",
    "a&b",
    "see https://a.example/b",
    "'"
  )

  for (const [name, write] of Object.entries(notations)) {
    it(`H5 ${name}`, () => {
      fc.assert(
        fc.property(secret, (text) => {
          assert.notInclude(redaction.text(write(text)), text)
          // what an error repeats of it elsewhere
          if (name !== "basic credentials") {
            assert.isTrue(redaction.secrets(write(text)).some((each) => each.includes(text)))
          }
        }),
        { numRuns: 20 }
      )
    })
  }

  it("H5 each notation in JSON, in JSON in JSON, after a text, in a query, and redacted twice", () => {
    fc.assert(
      fc.property(secret, fc.constantFrom(...Object.values(notations)), beside, (text, write, before) => {
        const written = write(text)
        for (
          const whole of [
            JSON.stringify({ note: `${before}\n${written}` }),
            JSON.stringify([before, { inner: JSON.stringify({ note: written }) }]),
            `${before}\n${written}`,
            `refused: ${JSON.stringify({ note: written })}`,
            `/cb?a=1&note=${encodeURIComponent(written)}`
          ]
        ) {
          const clean = redaction.text(whole)
          assert.notInclude(clean, text, whole)
          assert.notInclude(redaction.text(clean), text, whole)
        }
      }),
      { numRuns: 2_000 }
    )
  })

  it("H5 cut anywhere, nothing is left of the secret", () => {
    // a value before its name is not known for one when the name is cut off, nor credentials before their last letters
    const early = new Set([
      "a value and a name",
      "a value inside another, and a name",
      "a JSON web token",
      "a URL with a user",
      "basic credentials"
    ])
    const all = Object.entries(notations).filter(([name]) => !early.has(name) && !name.includes("URL with")).map((
      [, write]
    ) => write)
    fc.assert(
      fc.property(secret, fc.constantFrom(...all), fc.nat(300), (text, write, cut) => {
        assert.notInclude(redaction.text(write(text).slice(0, cut)), "S3C")
      }),
      { numRuns: 2_000 }
    )
  })

  it("H5 no text is passed over that a search would change", () => {
    // a pattern among the names may match any name, so each text is searched
    const searched = Redaction.make({ fields: ["card", "order.note", /(?!)/] })
    const quick = Redaction.make({ fields: ["card", "order.note"] })
    const names = fc.constantFrom(
      "password",
      "Pass_Word",
      "api key",
      "card",
      "CARD",
      "cardPin",
      "card_PIN",
      "spin",
      "pins",
      "pin2",
      "2pin",
      "\u212aey",
      "ap\u0130key",
      "p\u0301in",
      "code",
      "sig",
      "key",
      "signature",
      "note",
      "Bearer",
      "basic",
      "eyJhbGci",
      "%70in",
      "\\u0070in",
      "&#112;in",
      "%2570in",
      "name",
      "value",
      "auth",
      "author",
      "ssn",
      "user[pin]",
      "pin.0"
    )
    const others = fc.constantFrom(
      ..."=:?&#,;<>\"'`[]{}()-_.$@/\\% \n\t",
      "://",
      "%3D",
      "%40",
      "\\\"",
      "\\n",
      "\\\\n",
      "&quot;",
      "&amp;",
      "--",
      "=>",
      "{\"",
      "\":\"",
      "\"}",
      "[[\"",
      "\",\""
    )
    const text = fc.array(fc.oneof(names, others, others, fc.string({ maxLength: 4 })), { maxLength: 14 })
    fc.assert(
      fc.property(text, (parts) => {
        const whole = parts.join("")
        for (
          const each of [
            whole,
            JSON.stringify({ a: whole }),
            JSON.stringify([whole, { note: JSON.stringify({ whole }) }])
          ]
        ) {
          assert.strictEqual(quick.text(each), searched.text(each))
        }
      }),
      { numRuns: 5_000, examples: [[["&amp;", "sig", "=", "{"]]] }
    )
  })

  it("H5 what holds no secret is left as it is", () => {
    for (
      const text of [
        "GET /orders/7?status=open&page=2 answered 404 in 3 ms",
        "Expected string, got number at lines[0].sku",
        "connect ECONNREFUSED 127.0.0.1:5432",
        "https://registry.example:4873/@scope/name@1.2.3",
        "mailto:ada@example.org wrote: 12:30, see a > b",
        "{\"author\":\"ada\",\"spin\":1,\"name\":\"x\",\"value\":\"y\",\"code\":\"ENOENT\"}",
        "Error: boom\n    at run (file:///a/b.ts:3:7)\n    at async main (node:internal/x:1:2)",
        "level=info name=orders value=7",
        "the basic rules: none",
        "[\"a\",\"b\"]"
      ]
    ) {
      assert.strictEqual(redaction.text(text), text)
    }
  })

  it("H5 what stands beside a secret can be read", () => {
    for (
      const [text, clean] of [
        ["password=a,b&x=1", "password=<redacted>&x=1"],
        ["token=abc, please retry", "token=<redacted>, please retry"],
        ["{password: abc} is wrong", "{password: <redacted>} is wrong"],
        ["amqp://ada:pw@mq:5672/x down", "amqp://<redacted>@mq:5672/x down"],
        ["Server=db;Password=a;b;Encrypt=true", "Server=db;Password=<redacted>;Encrypt=true"],
        ["<a><pin>12</pin><b>x</b></a>", "<a><pin><redacted></pin><b>x</b></a>"],
        ["{\"n\":1,\"u\":\"x?token=abc\",\"b\":2}", "{\"n\":1,\"u\":\"x?token=<redacted>\",\"b\":2}"],
        ["[[\"authorization\",\"x\"],[\"accept\",\"y\"]]", "[[\"authorization\",\"<redacted>\"],[\"accept\",\"y\"]]"]
      ] as const
    ) {
      assert.strictEqual(redaction.text(text), clean)
    }
  })

  it("H5 F6 a text made to be slow is read in one pass", () => {
    const slow = [
      "token",
      "token=",
      "a ",
      "{\"a\":",
      "\"\\",
      "token\"",
      "[",
      "token_-. ",
      "eyJ-",
      "eyJ.",
      "bearer ",
      "://",
      "://a:b",
      "://a:b/",
      "-----BEGIN PRIVATE KEY",
      "name=password\n",
      "form-data; name=\"password\"\r\n\r\n",
      "<a ",
      "<a>",
      "a>",
      "%25",
      "%2525253D",
      "\\",
      "&quot;",
      ", ,",
      ",a",
      "x \"",
      "--a ",
      "password:\n",
      "password=,",
      "{\"value\":",
      "{\"value\":1,\"name\":\"pin\"},",
      "[\"pin\",",
      "{\"a\":{\"b\":",
      "\"a\":\"b=c\",",
      "pin",
      "p-",
      "pi.",
      "?code",
      "?-",
      "-code",
      "code-",
      "a@",
      "\"a@b\",",
      "://@",
      "\"://a:b\","
    ]
    const paths = Redaction.make({ fields: ["a.b", "*.a.b", /x$/] })
    // quadratic work would take minutes, which no test has
    for (const part of slow) assert.isString(paths.text(part.repeat(Math.ceil(100_000 / part.length))))
    // and deep recursion, or a pattern that keeps a place for each character, would fail
    const long = slow.map((part) => part.repeat(Math.ceil(150_000 / part.length))).join("\n")
    assert.isAbove(long.length, 5_000_000)
    assert.isString(paths.text(long))
    assert.isString(paths.text(JSON.stringify({ long })))
  }, 60_000)
})
