import { Avro, MessagePack } from "@millrace/codecs"
import { Channel, PayloadCodec } from "@millrace/core"
import { decoder, encoder } from "../../packages/core/src/pipeline/compile.ts"
import { EncryptedField, Keys, SubjectKeys } from "@millrace/crypto"
import { Data, Effect, Exit, Layer, Option, Redacted, Schema, SchemaTransformation } from "effect"
import { it as timed } from "@effect/vitest"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { keys, secretOf } from "./support.ts"

class Down extends Data.TaggedError("Down") {}

const around = (more: Partial<PayloadCodec.Metadata> = {}): PayloadCodec.Metadata => ({
  system: "kafka",
  channel: "orders",
  key: "customer-7",
  keyBytes: Buffer.from("customer-7"),
  headers: {},
  fields: [],
  attempt: 1,
  timestamp: undefined,
  ...more
})

const store = () => SubjectKeys.storeMemory()
const services = (ring: Layer.Layer<Keys.Ring> = keys, stored = store(), options: SubjectKeys.Options = {}) =>
  Layer.provideMerge(SubjectKeys.layer(stored, options), ring)

type Services = Keys.Ring | SubjectKeys.Service

/** Publishes and reads as the channel does: schema, then codec. */
const on = <P>(schema: Schema.Codec<P, unknown>, codec: PayloadCodec.PayloadCodec<Services>) => {
  const toRaw = encoder(schema, codec.values)
  const fromRaw = decoder(schema, codec.values)
  return {
    publish: (payload: P, metadata = around()) =>
      Effect.map(
        Effect.flatMap(Effect.orDie(toRaw(payload)), (raw) => Effect.suspend(() => codec.encode(raw, metadata))),
        ({ bytes }) => bytes
      ),
    read: (bytes: Uint8Array, metadata = around()) =>
      Effect.flatMap(Effect.suspend(() => codec.decode(bytes, metadata)), (raw) => Effect.orDie(fromRaw(raw)))
  }
}

const layers = services()
const run = <A, E>(effect: Effect.Effect<A, E, Services>, layer: Layer.Layer<Services> = layers) =>
  Effect.runPromise(Effect.provide(effect, layer))

const reasonOf = <A>(effect: Effect.Effect<A, PayloadCodec.PayloadError, Services>) =>
  Effect.match(effect, { onFailure: (error) => `${error.reason} ${error.failure}`, onSuccess: () => "opened" })

const jsonOf = (bytes: Uint8Array) => JSON.parse(Buffer.from(bytes).toString())

const Order = Schema.Struct({
  id: Schema.String,
  email: EncryptedField.of(Schema.String),
  born: Schema.optionalKey(EncryptedField.of(Schema.Date)),
  lines: Schema.Array(Schema.Struct({ sku: Schema.String, note: EncryptedField.of(Schema.NullOr(Schema.String)) })),
  prices: Schema.Record(Schema.String, EncryptedField.of(Schema.Number))
})
const order: typeof Order.Type = {
  id: "a",
  email: "ann@example.com",
  born: new Date(0),
  lines: [{ sku: "x", note: "first" }, { sku: "y", note: null }],
  prices: { net: 1.5, ["__proto__x"]: -3 }
}
const orders = on(Order, EncryptedField.codec(Order, Channel.json))

describe("marked values", () => {
  it("F10 are encrypted by themselves, and the rest of the payload stays as it is", async () => {
    const bytes = await run(orders.publish(order))
    const json = jsonOf(bytes)
    assert.strictEqual(json.id, "a")
    assert.deepStrictEqual(json.lines.map(({ sku }: { sku: string }) => sku), ["x", "y"])
    assert.deepStrictEqual(Object.keys(json.prices), ["net", "__proto__x"])
    for (const text of [json.email, json.born, json.lines[0].note, json.lines[1].note, json.prices.net]) {
      assert.match(text, /^TVJF[\w-]+$/)
    }
    assert.notMatch(Buffer.from(bytes).toString("latin1"), /ann|1970|first|1\.5/)
    assert.deepStrictEqual(await run(orders.read(bytes)), order)
    // the given payload is not changed, and a missing property stays missing
    assert.strictEqual(order.email, "ann@example.com")
    const { born: _, ...without } = order
    assert.deepStrictEqual(await run(Effect.flatMap(orders.publish(without), (bytes) => orders.read(bytes))), without)
  })

  it("F10 cost no step of a fiber while their keys are in memory", () =>
    run(Effect.sync(() => {
      const codec = EncryptedField.codec(Order, Channel.json)
      const raw = { id: "a", email: "b", lines: [], prices: {} }
      const encoded = codec.encode(raw, around())
      assert.isTrue(Exit.isExit(encoded) && Exit.isSuccess(encoded))
      if (Exit.isExit(encoded) && Exit.isSuccess(encoded)) {
        assert.isTrue(Exit.isExit(codec.decode((encoded.value as PayloadCodec.Encoded).bytes, around())))
      }
    })))

  it("F10 leave the codec's own values as they are, also below a key __proto__", () =>
    run(Effect.gen(function*() {
      const codec = EncryptedField.codec(Order, Channel.json)
      const raw = {
        id: "a",
        email: "b",
        lines: [{ sku: "x", note: "y" }],
        prices: JSON.parse("{\"__proto__\":5,\"net\":6}")
      }
      const before = structuredClone(raw)
      const { bytes } = yield* codec.encode(raw, around())
      assert.deepStrictEqual(raw, before)
      assert.deepStrictEqual(Object.keys(raw.prices), ["__proto__", "net"])
      assert.notInclude(Buffer.from(bytes).toString(), ":5")
      const read = yield* codec.decode(bytes, around())
      assert.deepStrictEqual(JSON.stringify(read), JSON.stringify(raw))
    })))

  it("F10 of Avro and MessagePack become bytes, and values that JSON cannot hold come back", async () => {
    const Row = Schema.Struct({
      id: Schema.String,
      photo: EncryptedField.of(Schema.Uint8Array),
      total: EncryptedField.of(Schema.BigInt),
      ratio: EncryptedField.of(Schema.Number),
      seen: EncryptedField.of(Schema.Date)
    })
    const row = { id: "a", photo: Uint8Array.of(1, 2, 3), total: 2n ** 80n, ratio: -0, seen: new Date(7) }
    const schema = {
      type: "record",
      name: "Row",
      fields: [
        { name: "id", type: "string" },
        ...["photo", "total", "ratio", "seen"].map((name) => ({ name, type: "bytes" }))
      ]
    }
    for (const inner of [Avro.codec(schema), MessagePack.codec()]) {
      const rows = on(Row, EncryptedField.codec(Row, inner))
      const bytes = await run(rows.publish(row))
      const bare = inner.decode(bytes) as Record<string, unknown>
      assert.strictEqual(bare["id"], "a")
      assert.instanceOf(bare["photo"], Uint8Array)
      assert.deepStrictEqual(await run(rows.read(bytes)), row)
      for (const ratio of [Number.NaN, Infinity, -Infinity, 1e300]) {
        assert.deepStrictEqual(
          (await run(Effect.flatMap(rows.publish({ ...row, ratio }), (b) => rows.read(b)))).ratio,
          ratio
        )
      }
    }
  })

  it("F10 are found below classes, unions, options, renamed keys, later checks and schemas that contain themselves", async () => {
    class Person extends Schema.Class<Person>("Person")({ name: EncryptedField.of(Schema.String) }) {}
    interface Tree {
      readonly secret: string
      readonly below: ReadonlyArray<Tree>
    }
    const Tree = Schema.Struct({
      secret: EncryptedField.of(Schema.String),
      below: Schema.Array(Schema.suspend((): Schema.Codec<Tree> => Tree))
    })
    const All = Schema.Struct({
      person: Person,
      either: Schema.Union([
        Schema.Struct({ _tag: Schema.Literal("A"), a: EncryptedField.of(Schema.String) }),
        Schema.Struct({ _tag: Schema.Literal("B"), a: Schema.String, b: EncryptedField.of(Schema.String) })
      ]),
      maybe: Schema.Option(EncryptedField.of(Schema.String)),
      renamed: Schema.Struct({ from: EncryptedField.of(Schema.String) }).pipe(Schema.encodeKeys({ from: "to" })),
      checked: EncryptedField.of(Schema.String.check(Schema.isMinLength(1))).check(Schema.isMaxLength(99)),
      number: EncryptedField.of(Schema.NumberFromString),
      pair: Schema.Tuple([Schema.String, EncryptedField.of(Schema.String)]),
      tree: Tree
    })
    const secret = "secret-value"
    const payload: typeof All.Type = {
      person: new Person({ name: secret }),
      either: { _tag: "B", a: secret, b: secret },
      maybe: Option.some(secret),
      renamed: { from: secret },
      checked: secret,
      number: 4711,
      pair: ["open", secret],
      tree: { secret, below: [{ secret, below: [{ secret, below: [] }] }] }
    }
    const all = on(All, EncryptedField.codec(All, Channel.json))
    const bytes = await run(all.publish(payload))
    assert.notMatch(Buffer.from(bytes).toString(), /secret-value|4711/)
    assert.deepStrictEqual(await run(all.read(bytes)), payload)
  })

  it("F10 that cannot be found are refused when the codec is made, as is a schema without one", () => {
    const codec = (schema: Schema.Codec<unknown, unknown>, inner: Channel.Codec = Channel.json) => () =>
      EncryptedField.codec(schema, inner)
    const secret = EncryptedField.of(Schema.String)
    assert.throws(codec(Schema.Struct({ a: Schema.String })), /^EncryptedField: the payload has no marked value$/)
    const lost = /^EncryptedField: a has a marked value that its encoded form does not show/
    // a native codec has no encoding of an Option
    assert.throws(codec(Schema.Struct({ a: Schema.Option(secret) }), MessagePack.codec()), lost)
    // the same schema is found elsewhere
    assert.throws(codec(Schema.Struct({ b: secret, a: Schema.Option(secret) }), MessagePack.codec()), lost)
    const joined = Schema.Struct({ x: secret, y: secret }).pipe(Schema.encodeTo(
      Schema.Struct({ z: secret }),
      SchemaTransformation.transform({ decode: ({ z }) => ({ x: z, y: z }), encode: ({ x }) => ({ z: x }) })
    ))
    assert.throws(codec(Schema.Struct({ a: joined })), lost)
    assert.throws(codec(Schema.Struct({ a: Schema.TemplateLiteral(["x-", secret]) })), lost)
    assert.throws(
      codec(Schema.Struct({ a: Schema.Record(secret, Schema.String) })),
      /^EncryptedField: a has marked keys/
    )
    assert.throws(
      codec(Schema.Struct({ a: Schema.Union([secret, Schema.Struct({ b: EncryptedField.of(Schema.String) })]) })),
      /^EncryptedField: a is marked as a whole and inside/
    )
    assert.throws(
      codec(Schema.Struct({ a: Schema.Union([secret, EncryptedField.searchable(Schema.Number)]) })),
      /^EncryptedField: a is marked in two ways/
    )
    assert.throws(
      codec(Schema.Struct({ a: EncryptedField.of(Schema.String, { subject: "id" }) })),
      /use codecOfSubjects/
    )
    assert.throws(codec(Schema.Struct({ a: EncryptedField.searchable(Schema.String) })), /searchKey must be given/)
    assert.throws(() => EncryptedField.of(Schema.String, { subject: "a..b" }), /subject must be names joined by dots/)
    const around = PayloadCodec.through(Channel.json, [{
      name: "t",
      stage: "compress",
      encode: (bytes) => Exit.succeed({ bytes }),
      decode: (bytes) => Exit.succeed(bytes)
    }])
    assert.throws(() => EncryptedField.codec(Order, around), /put PayloadCodec.through around this one/)
  })
})

describe("an encrypted value", () => {
  const Pair = Schema.Struct({
    a: EncryptedField.of(Schema.String),
    b: EncryptedField.of(Schema.String),
    list: Schema.Array(EncryptedField.of(Schema.String))
  })
  const pairs = on(Pair, EncryptedField.codec(Pair, Channel.json))
  const json = (value: unknown): Uint8Array => Buffer.from(JSON.stringify(value))

  it("F10 opens nowhere else: not in another field, element, channel, message, or as a body", () =>
    fc.assert(
      fc.asyncProperty(fc.string(), fc.string(), fc.string({ minLength: 1 }), async (a, b, other) => {
        const payload = { a, b, list: [a, b] }
        const bytes = await run(pairs.publish(payload))
        assert.deepStrictEqual(await run(pairs.read(bytes)), payload)
        const sealed = jsonOf(bytes)
        for (
          const moved of [
            { ...sealed, a: sealed.b, b: sealed.a },
            { ...sealed, a: sealed.list[0] },
            { ...sealed, list: [sealed.list[1], sealed.list[0]] },
            { ...sealed, list: [sealed.list[1]] }
          ]
        ) {
          assert.strictEqual(await run(reasonOf(pairs.read(json(moved)))), "Tampered poison")
        }
        for (
          const metadata of [
            around({ channel: `orders${other}` }),
            around({ keyBytes: Buffer.from(`customer-7${other}`) }),
            around({ keyBytes: undefined }),
            around({ keyBytes: Buffer.alloc(0) })
          ]
        ) {
          assert.strictEqual(await run(reasonOf(pairs.read(bytes, metadata))), "Tampered poison")
        }
      }),
      { numRuns: 40 }
    ))

  it("F10 does not open under another secret of the same id, or a key that is unknown or revoked", async () => {
    const bytes = await run(pairs.publish({ a: "x", b: "y", list: [] }))
    const under = (set: Keys.KeySet["keys"]) =>
      run(reasonOf(pairs.read(bytes)), services(Keys.layerMemory({ keys: { w: secretOf(9), ...set }, writing: "w" })))
    assert.strictEqual(await under({ new: secretOf(3) }), "Tampered poison")
    assert.strictEqual(await under({}), "KeyUnknown poison")
    assert.strictEqual(await under({ new: "revoked" }), "KeyRevoked permanent")
    assert.strictEqual(await under({ new: secretOf(1) }), "opened")
  })

  it("F10 does not open with any byte or character changed, nor cut anywhere", async () => {
    const bytes = await run(pairs.publish({ a: "secret", b: "y", list: [] }))
    const sealed = jsonOf(bytes)
    const envelope = Buffer.from(sealed.a, "base64url")
    const texts: Array<string> = []
    for (let i = 0; i < envelope.length; i++) {
      const changed = Buffer.from(envelope)
      changed[i]! ^= 1 << (i % 8)
      texts.push(changed.toString("base64url"), envelope.toString("base64url", 0, i))
    }
    for (let i = 0; i < sealed.a.length; i++) {
      texts.push(`${sealed.a.slice(0, i)}${sealed.a[i] === "A" ? "B" : "A"}${sealed.a.slice(i + 1)}`)
      // another spelling of the same bytes
      texts.push(`${sealed.a.slice(0, i)} ${sealed.a.slice(i)}`)
    }
    texts.push(`${sealed.a}=`, `${sealed.a}AAAA`)
    await run(
      Effect.forEach(
        texts,
        (a) =>
          Effect.map(
            reasonOf(pairs.read(json({ ...sealed, a }))),
            (reason) => assert.match(reason, /^(Tampered|KeyUnknown|KeyRevoked|Unencrypted) (poison|permanent)$/, a)
          )
      )
    )
  })

  it("F10 that is plain, of another type or too deep is poison, and plain ones are accepted until a date", async () => {
    const plain = { a: "x", b: "y", list: [] }
    assert.strictEqual(await run(reasonOf(pairs.read(json(plain)))), "Unencrypted poison")
    for (const a of [5, null, {}, [], "", "TVJF"]) {
      const sealed = jsonOf(await run(pairs.publish(plain)))
      assert.match(await run(reasonOf(pairs.read(json({ ...sealed, a })))), /^(Unencrypted|Tampered) poison$/)
    }
    const until = (acceptUntil: Date) =>
      on(Pair, EncryptedField.codec(Pair, Channel.json, { plaintext: { acceptUntil } }))
    assert.deepStrictEqual(await run(until(new Date(Date.now() + 60_000)).read(json(plain))), plain)
    assert.strictEqual(await run(reasonOf(until(new Date(0)).read(json(plain)))), "Unencrypted poison")
    const Deep: Schema.Codec<unknown> = Schema.Struct({
      a: EncryptedField.of(Schema.String),
      in: Schema.Array(Schema.suspend((): Schema.Codec<unknown> => Deep))
    })
    const deep = `${"{\"a\":\"\",\"in\":[".repeat(50_000)}${"]}".repeat(50_000)}`
    assert.match(
      await run(reasonOf(on(Deep, EncryptedField.codec(Deep, Channel.json)).read(Buffer.from(deep)))),
      /poison$/
    )
  })

  it("F10 names its place and nothing else in errors", async () => {
    const sealed = jsonOf(await run(orders.publish(order)))
    const error = await run(Effect.flip(orders.read(json({ ...sealed, prices: { "jane@example.com": "x" } }))))
    assert.strictEqual(
      error.message,
      "The value of prices.* is not encrypted. While publishers change over, plaintext.acceptUntil accepts such values until a date"
    )
    const Any = Schema.Struct({ any: EncryptedField.of(Schema.Unknown) })
    const refused = await run(
      Effect.flip(on(Any, EncryptedField.codec(Any, MessagePack.codec())).publish({ any: { b: [1n] } }))
    )
    assert.deepStrictEqual([refused.failure, refused.reason], ["validation", "Value"])
  })
})

describe("data subjects", () => {
  const Sale = Schema.Struct({
    buyer: Schema.Struct({ id: Schema.String, name: EncryptedField.of(Schema.String, { subject: "buyer.id" }) }),
    seller: Schema.Struct({
      id: Schema.Number,
      name: EncryptedField.erasable(Schema.String, { subject: "seller.id" })
    }),
    total: EncryptedField.of(Schema.Number)
  })
  const sales = on(Sale, EncryptedField.codecOfSubjects(Sale, Channel.json))
  const sale: typeof Sale.Type = { buyer: { id: "b1", name: "Ann" }, seller: { id: 7, name: "Bob" }, total: 5 }

  it("F10 have keys of their own: an erased one takes its values with it, and no other", async () => {
    const stored = store()
    const layer = services(keys, stored)
    const bytes = await run(sales.publish(sale), layer)
    assert.deepStrictEqual(await run(sales.read(bytes), layer), sale)
    await run(SubjectKeys.erase("7"), layer)
    // in the process that erased, and in one that starts later
    for (const each of [layer, services(keys, stored)]) {
      assert.deepStrictEqual(await run(sales.read(bytes), each), {
        ...sale,
        seller: { id: 7, name: { _tag: "Erased" } }
      })
    }
    await run(SubjectKeys.erase("b1"), layer)
    assert.strictEqual(await run(reasonOf(sales.read(bytes)), layer), "SubjectErased permanent")
  })

  it("F10 that are erased are not written any more, and an erased value can be published on", async () => {
    await run(
      Effect.gen(function*() {
        const bytes = yield* sales.publish(sale)
        yield* SubjectKeys.erase("7")
        assert.strictEqual(yield* reasonOf(sales.publish(sale)), "SubjectErased permanent")
        const read = yield* sales.read(bytes)
        const again = yield* sales.publish(read)
        assert.strictEqual(jsonOf(again).seller.name, "")
        assert.deepStrictEqual(yield* sales.read(again), read)
      }),
      services()
    )
  })

  it("F10 an invented mark of erasure is refused while the subject is not erased", async () => {
    await run(
      Effect.gen(function*() {
        const sealed = jsonOf(yield* sales.publish(sale))
        for (const name of ["", { _tag: "Erased" }]) {
          const forged = Buffer.from(JSON.stringify({ ...sealed, seller: { ...sealed.seller, name } }))
          assert.match(yield* reasonOf(sales.read(forged)), /^(Tampered|Unencrypted) poison$/)
        }
      }),
      services()
    )
  })

  it("F10 a value under another subject does not open, and one without a subject is refused", async () => {
    await run(
      Effect.gen(function*() {
        const sealed = jsonOf(yield* sales.publish(sale))
        yield* sales.publish({ ...sale, buyer: { id: "b2", name: "Eve" } })
        const read = (buyer: object) => reasonOf(sales.read(Buffer.from(JSON.stringify({ ...sealed, buyer }))))
        assert.strictEqual(yield* read({ ...sealed.buyer, id: "b2" }), "Tampered poison")
        assert.strictEqual(yield* read({ ...sealed.buyer, id: "b3" }), "KeyUnknown poison")
        assert.strictEqual(yield* read({ name: sealed.buyer.name }), "SubjectMissing poison")
        assert.strictEqual(yield* read({ name: sealed.buyer.name, id: "" }), "SubjectMissing poison")
        assert.strictEqual(yield* read({ name: sealed.total, id: "b1" }), "Tampered poison")
        assert.strictEqual(
          yield* reasonOf(sales.publish({ ...sale, buyer: { id: "", name: "x" } })),
          "SubjectMissing validation"
        )
      }),
      services()
    )
  })

  it("F10 keys in the store are encrypted and bound to their subject", async () => {
    const rows = new Map<string, Uint8Array | "erased">()
    const stored: SubjectKeys.Store = {
      get: (subject) => Effect.sync(() => rows.get(subject)),
      add: (subject, bytes) => Effect.sync(() => rows.set(subject, rows.get(subject) ?? bytes).get(subject)!),
      erase: (subject) => Effect.sync(() => void rows.set(subject, "erased"))
    }
    const bytes = await run(sales.publish(sale), services(keys, stored))
    assert.strictEqual(rows.size, 2)
    for (const each of rows.values()) assert.strictEqual(Buffer.from(each).toString("latin1", 0, 3), "MRE")
    const [first, second] = [...rows.keys()]
    const swapped = rows.get(first!)!
    rows.set(first!, rows.get(second!)!).set(second!, swapped)
    assert.strictEqual(await run(reasonOf(sales.read(bytes)), services(keys, stored)), "KeysUnavailable dependency")
  })

  it("F10 a store that fails, hangs or throws is class dependency, and each subject is read once at a time", async () => {
    let reads = 0
    const failing = (get: SubjectKeys.Store<Down>["get"]): SubjectKeys.Store<Down> => ({ ...store(), get })
    for (
      const get of [
        () => Effect.fail(new Down()),
        () => Effect.never,
        () => {
          throw new Error("thrown")
        }
      ]
    ) {
      const layer = services(keys, failing(get) as SubjectKeys.Store, { timeout: "20 millis" })
      assert.strictEqual(await run(reasonOf(sales.publish(sale)), layer), "KeysUnavailable dependency")
    }
    const stored = store()
    const counted: SubjectKeys.Store = {
      ...stored,
      get: (subject) => Effect.delay(Effect.suspend(() => (reads++, stored.get(subject))), "5 millis")
    }
    const layer = services(keys, counted)
    await run(
      Effect.gen(function*() {
        const all = yield* Effect.all(Array.from({ length: 50 }, () => sales.publish(sale)), {
          concurrency: "unbounded"
        })
        const before = reads
        assert.strictEqual(before, 2)
        yield* Effect.all(all.map((bytes) => sales.read(bytes)), { concurrency: "unbounded" })
        assert.strictEqual(reads, before)
      }),
      layer
    )
  })
})

describe("the keys of data subjects in memory", () => {
  const Note = Schema.Struct({ of: Schema.String, text: EncryptedField.of(Schema.String, { subject: "of" }) })
  const notes = on(Note, EncryptedField.codecOfSubjects(Note, Channel.json))
  const note = { of: "ann", text: "hello" }

  timed.effect("F10 are forgotten after their age, so that an erasure in another process takes effect", () => {
    const stored = store()
    return Effect.gen(function*() {
      const bytes = yield* notes.publish(note)
      yield* stored.erase("ann")
      yield* TestClock.adjust("59999 millis")
      assert.deepStrictEqual(yield* notes.read(bytes), note)
      yield* TestClock.adjust("1 millis")
      assert.strictEqual(yield* reasonOf(notes.read(bytes)), "SubjectErased permanent")
      assert.strictEqual(yield* reasonOf(notes.publish(note)), "SubjectErased permanent")
    }).pipe(Effect.provide(services(keys, stored)))
  })

  timed.effect("F10 are bounded in number", () => {
    const stored = store()
    let reads = 0
    const counted = { ...stored, get: (subject: string) => Effect.suspend(() => (reads++, stored.get(subject))) }
    return Effect.gen(function*() {
      const of = (name: string) => notes.publish({ of: name, text: "x" })
      yield* of("a")
      yield* of("b")
      const before = reads
      yield* of("a")
      yield* of("b")
      assert.strictEqual(reads, before)
      yield* of("c")
      yield* of("a")
      assert.strictEqual(reads, before + 2)
    }).pipe(Effect.provide(services(keys, counted, { capacity: 2 })))
  })
})

describe("searchable values", () => {
  const searchKey = Redacted.make(Buffer.alloc(64, 7).toString("base64"))
  const User = Schema.Struct({
    email: EncryptedField.searchable(Schema.String),
    tags: Schema.Array(EncryptedField.searchable(Schema.String))
  })
  const users = on(User, EncryptedField.codec(User, Channel.json, { searchKey }))

  it("F10 have equal ciphertexts in one place, and others elsewhere", async () => {
    const user = { email: "a@example.com", tags: ["x", "a@example.com", "x"] }
    const bytes = await run(users.publish(user))
    const { email, tags } = jsonOf(bytes)
    assert.deepStrictEqual(await run(users.read(bytes)), user)
    assert.strictEqual(jsonOf(await run(users.publish(user, around({ keyBytes: undefined })))).email, email)
    const term = (channel: string, path: ReadonlyArray<string>, value: string) =>
      EncryptedField.searchTerm({ searchKey, channel, path, value })
    assert.strictEqual(term("orders", ["email"], user.email), email)
    assert.strictEqual(term("orders", ["tags", "*"], "x"), tags[0])
    assert.strictEqual(tags[0], tags[2])
    assert.strictEqual(new Set([email, tags[1], term("billing", ["email"], user.email)]).size, 3)
    const moved = Buffer.from(JSON.stringify({ email: tags[1], tags: [] }))
    assert.strictEqual(await run(reasonOf(users.read(moved))), "Tampered poison")
    assert.strictEqual(await run(reasonOf(users.read(bytes, around({ channel: "billing" })))), "Tampered poison")
    const other = on(User, EncryptedField.codec(User, Channel.json, { searchKey: Redacted.make(new Uint8Array(64)) }))
    assert.strictEqual(await run(reasonOf(other.read(bytes))), "Tampered poison")
    for (let i = 0; i < 40; i++) {
      const changed = Buffer.from(email, "base64url")
      if (i >= changed.length) break
      changed[i]! ^= 1
      const forged = Buffer.from(JSON.stringify({ email: changed.toString("base64url"), tags: [] }))
      assert.match(await run(reasonOf(users.read(forged))), /^(Tampered|Unencrypted) poison$/)
    }
  })

  it("F10 need a key of 64 bytes", () => {
    for (const key of ["", "short", Buffer.alloc(32).toString("base64"), new Uint8Array(63)]) {
      assert.throws(
        () => EncryptedField.codec(User, Channel.json, { searchKey: Redacted.make(key) }),
        /^EncryptedField: searchKey must have 64 bytes, or their base64, got something else$/
      )
    }
  })
})
