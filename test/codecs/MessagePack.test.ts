import { Decoder, Encoder } from "@msgpack/msgpack"
import { MessagePack } from "@millrace/codecs"
import { Channel, Decode, type Message } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Effect, pipe, Schema } from "effect"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { fuzz } from "../fuzz/fuzz.ts"

const codec = MessagePack.codec()
const decode = (hex: string, options?: MessagePack.Options) =>
  MessagePack.codec(options).decode(Buffer.from(hex.replaceAll(" ", ""), "hex"))
const refuses = (hex: string, why: RegExp, options?: MessagePack.Options) =>
  assert.throws(() => decode(hex, options), why)

const int64 = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n })
/** A number where it is exact. */
const exact = (value: bigint): number | bigint => Number.isSafeInteger(Number(value)) ? Number(value) : value

const value = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4 },
    fc.constant(null),
    fc.boolean(),
    fc.maxSafeInteger(),
    fc.double({ noNaN: true }),
    int64.map(exact),
    fc.string({ unit: "grapheme", maxLength: 40 }),
    fc.uint8Array({ maxLength: 300 }),
    fc.date({ noInvalidDate: true }),
    fc.array(tie("value"), { maxLength: 20 }),
    fc.dictionary(fc.string().filter((key) => key !== "__proto__"), tie("value"), {
      noNullPrototype: true,
      maxKeys: 20
    })
  )
})).value

const peer = {
  encoder: new Encoder({ useBigInt64: true }),
  decoder: new Decoder({ useBigInt64: true })
}
/** The peer has a bigint for each 64-bit form, and writes -0 as the integer 0. */
const narrow = (each: unknown): unknown =>
  typeof each === "bigint"
    ? exact(each)
    : each === 0
    ? 0
    : each instanceof Date || typeof each !== "object" || each === null
    ? each
    : each instanceof Uint8Array
    ? new Uint8Array(each)
    : Array.isArray(each)
    ? each.map(narrow)
    : Object.fromEntries(Object.entries(each).map(([key, inner]) => [key, narrow(inner)]))

describe("MessagePack", () => {
  it("F14 reads back each value, and reads and writes what @msgpack/msgpack writes and reads", () => {
    fc.assert(
      fc.property(value, (value) => {
        const bytes = codec.encode(value)
        assert.deepStrictEqual(codec.decode(bytes), value)
        assert.deepStrictEqual(narrow(peer.decoder.decode(bytes)), narrow(value))
        assert.deepStrictEqual(codec.decode(peer.encoder.encode(value)), narrow(value))
      }),
      { examples: [[-0], [{ zero: [-0] }]] }
    )
  })

  it("F14 writes the shortest form of each integer, text, list and map", () => {
    const first = (value: unknown) => codec.encode(value)[0]
    const forms: ReadonlyArray<readonly [unknown, number]> = [
      [127, 0x7f],
      [128, 0xcc],
      [256, 0xcd],
      [65_536, 0xce],
      [2 ** 32, 0xcf],
      [2n ** 64n - 1n, 0xcf],
      [-32, 0xe0],
      [-33, 0xd0],
      [-129, 0xd1],
      [-32_769, 0xd2],
      [-(2 ** 31) - 1, 0xd3],
      [-0, 0xcb],
      [1.5, 0xcb],
      ["x".repeat(31), 0xbf],
      ["x".repeat(32), 0xd9],
      ["x".repeat(256), 0xda],
      ["x".repeat(65_536), 0xdb],
      [new Array(15).fill(0), 0x9f],
      [new Array(16).fill(0), 0xdc],
      [new Array(65_536).fill(0), 0xdd],
      [{}, 0x80],
      [Object.fromEntries(Array.from({ length: 16 }, (_, index) => [`k${index}`, 0])), 0xde],
      [new Uint8Array(255), 0xc4],
      [new Uint8Array(256), 0xc5],
      [new Uint8Array(65_536), 0xc6]
    ]
    for (const [value, form] of forms) {
      assert.strictEqual(first(value), form)
      assert.deepStrictEqual(codec.decode(codec.encode(value)), value)
    }
  })

  it("F14 reads timestamps in all three forms, and integer keys as texts", () => {
    assert.deepStrictEqual(decode("d6ff 00000001"), new Date(1000))
    assert.deepStrictEqual(decode("d7ff 003d0900 00000001"), new Date(1001))
    assert.deepStrictEqual(decode("c70cff 000f4240 ffffffffffffffff"), new Date(-999))
    refuses("c70cff 3b9aca00 0000000000000000", /out of range/)
    refuses("c70cff 00000000 7fffffffffffffff", /out of range/)
    assert.deepStrictEqual(decode("81 05 a161"), { 5: "a" })
    refuses("81 c0 a161", /neither text nor integer/)
    refuses("81 90 a161", /nested deeper|neither text nor integer/)
  })

  it("F14 refuses extensions: they are code of classes that others register", () => {
    // msgpackr's records and RegExp
    refuses("d47240 91a161", /begins no value/)
    refuses("c70278 0102", /an extension of type 120 is not accepted/)
    refuses("c1", /begins no value/)
  })

  it("F14 refuses counts, lengths and bytes that cannot be", () => {
    refuses("", /ends inside a value at position 0/)
    refuses("0000", /goes on after its value at position 1/)
    refuses("dd ffffffff 00", /more items than the rest/)
    refuses("df 7fffffff 00", /more items than the rest/)
    refuses("c6 ffffffff 00", /ends inside/)
    refuses("db ffffffff 00", /ends inside/)
    refuses("a2 c328", /no UTF-8/)
    refuses("d9 20 61", /ends inside/)
    refuses("83 a161 00 a162 00 a161 01", /the same key twice/)
    refuses("84 00 00 01 00 02 00 03 00", /more items than maximumItems, 3/, { maximumItems: 3 })
    refuses("a3616263", /larger than maximumBytes, 3/, { maximumBytes: 3 })
  })

  it("F14 reads values nested up to maximumDepth", () => {
    assert.isArray(decode(`${"91".repeat(100)}00`))
    refuses(`${"91".repeat(101)}00`, /deeper than maximumDepth, 100/)
    refuses(`${"81a161".repeat(100_000)}00`, /deeper than maximumDepth, 100/)
    const self: Array<unknown> = []
    self.push(self)
    assert.throws(() => codec.encode(self), /nested deeper than maximumDepth, or holds itself/)
  })

  it("F14 refuses the key __proto__, and no other name of an object", () => {
    refuses(`81 a9 ${Buffer.from("__proto__").toString("hex")} 80`, /the key __proto__/)
    refuses(`81 d909 ${Buffer.from("__proto__").toString("hex")} 80`, /the key __proto__/)
    refuses(`81 da0009 ${Buffer.from("__proto__").toString("hex")} 80`, /the key __proto__/)
    assert.deepStrictEqual(decode(`81 a8 ${Buffer.from("toString").toString("hex")} 01`), { toString: 1 })
    assert.throws(() => codec.encode(JSON.parse("{\"__proto__\": 1}")), /the key __proto__/)
  })

  it("F14 refuses values without a form", () => {
    for (
      const value of [
        undefined,
        Symbol("a"),
        () => 1,
        new Map(),
        new Set(),
        2n ** 64n,
        -(2n ** 63n) - 1n,
        "\ud800",
        new Date(Number.NaN)
      ]
    ) {
      assert.throws(() => codec.encode(value), /^MessagePack: /)
    }
    assert.deepStrictEqual(codec.decode(codec.encode({ a: undefined, b: [undefined] })), { b: [null] })
  })

  it("F14 a key is read by its bytes, also if another has the same hash", () => {
    const keys = Array.from({ length: 5_000 }, (_, index) => `key-${index}`)
    for (const key of [...keys, ...keys]) assert.deepStrictEqual(codec.decode(codec.encode({ [key]: 1 })), { [key]: 1 })
  })

  it("F14 gives copies of bytes, which a handler may change", () => {
    const body = codec.encode(new Uint8Array([1, 2]))
    const read = codec.decode(body) as Uint8Array
    read[0] = 9
    assert.deepStrictEqual(codec.decode(body), new Uint8Array([1, 2]))
  })

  it("F14 survives changed, cut and random bytes", () => {
    fuzz(codec.decode, fc.sample(value, { numRuns: 30, seed: 1 }).map((each) => codec.encode(each)), "MessagePackError")
  })

  it("F14 passes bytes and bigints between schema and codec as they are", async () => {
    const Files = Channel.make("files", {
      payload: Schema.Struct({ digest: Schema.Uint8Array, size: Schema.BigInt }),
      codec: MessagePack.codec()
    })
    const seen: Array<unknown> = []
    const handler = pipe(
      (message: Message<{ readonly digest: Uint8Array; readonly size: bigint }>) =>
        Effect.sync(() => void seen.push(message.payload)),
      Decode.middleware(Files)
    )
    const file = { digest: new Uint8Array([1, 2]), size: 2n ** 60n }
    const { outcome } = await Effect.runPromise(
      Deliveries.run(handler, Deliveries.make({ channel: "files", body: codec.encode(file) }))
    )
    assert.strictEqual(outcome._tag, "Ack")
    assert.deepStrictEqual(seen, [file])
  })
})
