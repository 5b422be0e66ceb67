import { Avro, Compression, MessagePack, Upcast } from "@millrace/codecs"
import { Channel, Decode, Headers, type Message, PayloadCodec } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Effect, Exit, pipe, Schema } from "effect"
import { assert, describe, it } from "vitest"
import { around, errorOf } from "./registry.ts"

const V1 = Schema.Struct({ id: Schema.String, total: Schema.Number })
const V2 = Schema.Struct({ id: Schema.String, cents: Schema.Int, placed: Schema.Date })
const V3 = Schema.Struct({ id: Schema.String, cents: Schema.Int, placed: Schema.Date, region: Schema.String })

const day = new Date("2026-12-01T00:00:00.000Z")
const toV2 = Upcast.step(V1, V2, ({ id, total }) => {
  if (total < 0) throw new RangeError(`secret ${id}`)
  return { id, cents: Math.round(total * 100), placed: day }
})
const toV3 = Upcast.step(V2, V3, (order) => ({ ...order, region: order.placed < day ? "old" : "eu" }))
const steps = [toV2, toV3] as const
const v3 = { id: "a", cents: 150, placed: day.toISOString(), region: "eu" }

const json = (value: unknown) => Channel.json.encode(value)
const versioned = (version?: string): PayloadCodec.Metadata => ({
  ...around,
  headers: version === undefined ? Headers.empty : Headers.fromRecord({ "schema-version": version })
})

const decoded = (codec: PayloadCodec.PayloadCodec, value: unknown, version?: string) =>
  Effect.runPromise(codec.decode(json(value), versioned(version)))

describe("Upcast", () => {
  const codec = Upcast.make(steps)

  it("X22 reads each version as the newest, and one without a version as the first", async () => {
    const v1 = { id: "a", total: 1.5 }
    assert.deepStrictEqual(await decoded(codec, v1), v3)
    assert.deepStrictEqual(await decoded(codec, v1, "1"), v3)
    const v2 = { id: "a", cents: 7, placed: "2020-01-01T00:00:00.000Z" }
    assert.deepStrictEqual(await decoded(codec, v2, "2"), { ...v2, region: "old" })
    assert.deepStrictEqual(await decoded(codec, v3, "3"), v3)
  })

  it("X22 writes the newest version, and its number into the header", () => {
    const encoded = codec.encode(v3, around)
    assert.isTrue(Exit.isExit(encoded))
    assert.deepStrictEqual(Effect.runSync(encoded), { bytes: json(v3), headers: { "schema-version": "3" } })
    assert.strictEqual(codec.contentType, "application/json")
    assert.isTrue(Exit.isExit(codec.decode(json({ id: "a", total: 1 }), versioned())), "no step of a fiber")
  })

  it("X22 a version that is newer than the program is permanent, and the error says what to do", async () => {
    const error = await Effect.runPromise(errorOf(() => codec.decode(json(v3), versioned("4"))))
    assert.include(error, { codec: "Upcast", failure: "permanent", reason: "newerVersion" })
    assert.strictEqual(
      error.message,
      "The body has version 4, and this program knows 1 to 3: update it, then replay its dead letters"
    )
  })

  it("X22 wrong versions, bodies that do not fit theirs, and changes that throw are told apart; no error has a value", async () => {
    for (
      const [value, version, failure, reason] of [
        [v3, "0", "poison", "version"],
        [v3, "-1", "poison", "version"],
        [v3, "1.5", "poison", "version"],
        [v3, "secret", "poison", "version"],
        [v3, "", "poison", "version"],
        [{ id: "secret" }, "1", "validation", "value"],
        [{ id: "a", cents: "secret", placed: day }, "2", "validation", "value"],
        [{ id: "secret", total: -1 }, "1", "permanent", "change"]
      ] as const
    ) {
      const error = await Effect.runPromise(errorOf(() => codec.decode(json(value), versioned(version))))
      assert.include(error, { failure, reason }, `${version} ${JSON.stringify(value)}`)
      assert.notMatch(error.message, /secret/)
    }
    const refuses = Upcast.make(steps, { missing: "refuse" })
    assert.include(await Effect.runPromise(errorOf(() => refuses.decode(json(v3), around))), { failure: "poison" })
    assert.include(await Effect.runPromise(errorOf(() => codec.decode(Buffer.from("{"), around))), {
      failure: "poison"
    })
  })

  it("X22 the value of the last change must fit the newest schema", async () => {
    const bad = Upcast.make([Upcast.step(V1, V2, ({ id }) => ({ id, cents: 0.5, placed: day }))])
    const error = await Effect.runPromise(errorOf(() => bad.decode(json({ id: "a", total: 1 }), around)))
    assert.include(error, { failure: "validation" })
    assert.match(error.message, /version 2/)
  })

  it("X22 the version may be a field, a number in it, and begin elsewhere than 1", async () => {
    const codec = Upcast.make(steps, { version: { field: "v" }, first: 7 })
    const { bytes, headers } = await Effect.runPromise(codec.encode(v3, around))
    assert.deepStrictEqual(Channel.json.decode(bytes), { ...v3, v: 9 })
    assert.isUndefined(headers)
    assert.deepStrictEqual(await decoded(codec, { v: 7, id: "a", total: 1.5 }, "3"), v3)
    assert.deepStrictEqual(await decoded(codec, { v: 9, ...v3 }), { v: 9, ...v3 })
    assert.include(await Effect.runPromise(errorOf(() => codec.decode(json({ v: 10 }), around))), {
      reason: "newerVersion"
    })
    for (const v of [-7, 7.5, true, {}]) {
      assert.include(await Effect.runPromise(errorOf(() => codec.decode(json({ v }), around))), { reason: "version" })
    }
    assert.include(await Effect.runPromise(errorOf(() => codec.encode([v3], around))), { failure: "validation" })
  })

  it("X22 takes other codecs, whose values stay native, and keeps their headers", async () => {
    const Old = Schema.Struct({ digest: Schema.Uint8Array })
    const New = Schema.Struct({ digest: Schema.Uint8Array, size: Schema.Int })
    const step = Upcast.step(Old, New, ({ digest }) => ({ digest, size: digest.length }))
    const pack = MessagePack.codec()
    const codec = Upcast.make([step], { codec: pack, version: { header: "V" } })
    const digest = new Uint8Array([1, 2])
    const read = await Effect.runPromise(codec.decode(pack.encode({ digest }), around))
    assert.deepStrictEqual(read, { digest, size: 2 })
    const inner = PayloadCodec.make({
      name: "inner",
      encode: () => Exit.succeed({ bytes: digest, headers: { other: "1" } }),
      decode: () => Exit.succeed({})
    })
    const { headers } = await Effect.runPromise(
      Upcast.make([step], { codec: inner, version: { header: "V" } }).encode({}, around)
    )
    assert.deepStrictEqual(headers, { other: "1", v: "2" })
  })

  it("X22 refuses steps that do not follow each other, no step, and codecs with transforms", () => {
    // of the same type, and another schema
    const other = Schema.Struct({ id: Schema.String, cents: Schema.Int, placed: Schema.Date })
    assert.throws(
      () => Upcast.make([toV2, Upcast.step(other, V3, (order) => ({ ...order, region: "" }))]),
      /step 2 does not/
    )
    assert.throws(() => Upcast.make([]), /steps must be at least one/)
    const compressed = PayloadCodec.through(Channel.json, [Compression.make()])
    assert.throws(() => Upcast.make(steps, { codec: compressed }), /put them around the result/)
    assert.throws(() => Upcast.make(steps, { first: -1 }), /first must be/)
    assert.isDefined(PayloadCodec.through(Upcast.make(steps), [Compression.make()]))
    assert.isDefined(Avro.codec("string"))
  })

  it("X22 in a pipeline: old messages reach the handler as the newest, a newer one is a dead letter", async () => {
    const seen: Array<unknown> = []
    const handler = pipe(
      (message: Message<typeof V3.Type>) => Effect.sync(() => void seen.push(message.payload)),
      Decode.middleware(Channel.make("orders", { payload: V3, codec }))
    )
    const deliver = (value: unknown, version: string) =>
      Effect.runPromise(
        Deliveries.run(handler, Deliveries.make({ body: json(value), headers: { "schema-version": version } }))
      )
    assert.strictEqual((await deliver({ id: "a", total: 1.5 }, "1")).outcome._tag, "Ack")
    assert.deepStrictEqual(seen, [{ id: "a", cents: 150, placed: day, region: "eu" }])
    assert.strictEqual((await deliver(v3, "4")).outcome._tag, "DeadLetter")
  })
})
