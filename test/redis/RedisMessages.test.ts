import { Headers, Outgoing } from "@millrace/core"
import { RedisStreams } from "@millrace/redis"
import * as Codec from "../../packages/redis/src/internal/client/Codec.ts"
import * as Keys from "../../packages/redis/src/internal/client/Keys.ts"
import * as Slots from "../../packages/redis/src/internal/client/Slots.ts"
import { globOf } from "../../packages/redis/src/internal/pubsub/Consumer.ts"
import * as Entries from "../../packages/redis/src/internal/streams/Codec.ts"
import { Address } from "@millrace/core"
import * as fc from "fast-check"
import { expect, it } from "vitest"

const bytes = fc.uint8Array({ maxLength: 40 })
const header = fc.tuple(
  fc.oneof(
    fc.string({ unit: "grapheme", maxLength: 12 }),
    fc.constantFrom("body", "key", ":tombstone", ":=x", ":0x", "Body")
  ),
  fc.option(bytes)
)
const message = fc.record({
  payload: fc.oneof(
    bytes,
    fc.constantFrom("millrace/1 ", "millrace/1 {}\n", "millrace/1 {\"key\":\"k\"}\nx").map((text) => Buffer.from(text))
  ),
  keyBytes: fc.option(bytes, { nil: undefined }),
  fields: fc.array(header, { maxLength: 6 }),
  tombstone: fc.boolean()
})

const outgoing = ({ fields, keyBytes, payload, tombstone }: typeof message extends fc.Arbitrary<infer A> ? A : never) =>
  new Outgoing("c", tombstone ? new Uint8Array(0) : payload, undefined, Headers.empty, { fields, keyBytes, tombstone })

const plain = (fields: ReadonlyArray<Headers.Field>) =>
  fields.map(([name, value]) => [name, value === null ? null : Buffer.from(value).toString("hex")])

it("F13, F4 an entry gives back every body, key and header as it was, whatever they are called and hold", () => {
  fc.assert(fc.property(message, (sent) => {
    const fields = Entries.toFields(outgoing(sent)).map((each) => Buffer.from(each))
    const entry: Entries.Entry = [Buffer.from("1-1"), fields]
    const body = Entries.bodyOf(fields)
    expect(body === null).toBe(sent.tombstone)
    if (body !== null) expect(body.equals(Buffer.from(sent.payload))).toBe(true)
    const key = Entries.reader.keyBytes(entry)
    expect(key && Buffer.from(key).toString("hex")).toBe(sent.keyBytes && Buffer.from(sent.keyBytes).toString("hex"))
    expect(plain(Entries.reader.fields(entry))).toEqual(plain(sent.fields))
    expect({ ...Entries.reader.headers(entry) }).toEqual({ ...Headers.fromFields(sent.fields) })
  }))
})

it("F13, F4 so does a value of a list or of Pub/Sub", () => {
  fc.assert(fc.property(message, (sent) => {
    const envelope = Codec.open(Codec.toValue(outgoing(sent)))
    const body = Codec.bodyOf(envelope)
    expect(body === null).toBe(sent.tombstone)
    if (body !== null) expect(body.equals(Buffer.from(sent.payload))).toBe(true)
    const key = Codec.reader.keyBytes(envelope)
    expect(key && Buffer.from(key).toString("hex")).toBe(sent.keyBytes && Buffer.from(sent.keyBytes).toString("hex"))
    expect(plain(Codec.reader.fields(envelope))).toEqual(plain(sent.fields))
  }))
})

it("F13 a value of another program is its body, and no line of ours breaks a reader", () => {
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array(), fc.string().map((line) => Buffer.from(`millrace/1 ${line}`))), (value) => {
      const envelope = Codec.open(Buffer.from(value))
      Codec.reader.fields(envelope)
      Codec.reader.key(envelope)
      Codec.bodyOf(envelope)
    })
  )
  for (
    const line of ["{", "[]", "null", "{\"headers\":7}", "{\"headers\":[7,[1,2],[\"a\"],[\"b\",\"c\"]]}", "{\"key\":7}"]
  ) {
    const envelope = Codec.open(Buffer.from(`millrace/1 ${line}\nbody`))
    expect(Codec.bodyOf(envelope)?.toString()).toBe("body")
    expect(Codec.reader.key(envelope)).toBe(undefined)
    expect(plain(Codec.reader.fields(envelope))).toEqual(line.includes("\"b\"") ? [["b", "63"]] : [])
  }
  const raw = Codec.open(Buffer.from("{\"n\":1}\n"))
  expect([Codec.bodyOf(raw)?.toString(), Codec.reader.key(raw), Codec.reader.fields(raw)]).toEqual([
    "{\"n\":1}\n",
    undefined,
    []
  ])
})

it("F13 an entry that another program wrote shows its body, and its other fields as headers", () => {
  const entry = (
    ...fields: Array<string>
  ): Entries.Entry => [Buffer.from("5-0"), fields.map((each) => Buffer.from(each))]
  const [, mixed] = entry("trace", "t", "key", "k", "body", "b")
  expect(Entries.bodyOf(mixed)?.toString()).toBe("b")
  expect({ ...Entries.reader.headers(entry("trace", "t", "key", "k", "body", "b")) }).toEqual({ trace: "t" })
  expect(Entries.reader.key(entry("trace", "t", "key", "k"))).toBe("k")
  const [, none] = entry("trace", "t")
  expect(Entries.bodyOf(none)?.length).toBe(0)
})

it("X5 positions grow with ids, stay whole numbers, and lead back to the id", () => {
  const id = fc.tuple(fc.integer({ min: 0, max: 2 ** 42 - 1 }), fc.integer({ min: 0, max: 2047 }))
  const positionOf = ([ms, seq]: readonly [number, number]) => Entries.positionOf(Buffer.from(`${ms}-${seq}`))
  fc.assert(fc.property(id, id, (one, other) => {
    const [a, b] = [positionOf(one), positionOf(other)]
    expect(Number.isSafeInteger(a)).toBe(true)
    expect(RedisStreams.idAt(a)).toBe(one.join("-"))
    expect(Math.sign(a - b)).toBe(Math.sign(one[0] - other[0]) || Math.sign(one[1] - other[1]))
  }))
  // ids that somebody chose: never falling, never unsafe
  const wild = [
    "0-1",
    "0-2047",
    "0-9999",
    "1-0",
    "1790000000000-3",
    "4398046511104-0",
    "18446744073709551615-18446744073709551615"
  ]
  const found = wild.map((each) => Entries.positionOf(Buffer.from(each)))
  expect(found.every(Number.isSafeInteger)).toBe(true)
  expect(found).toEqual(found.toSorted((a, b) => a - b))
})

/** The slot's part of a key, as Redis Cluster finds it. */
const hashed = (key: string): string => /\{([^}]+)\}/.exec(key.slice(Math.max(0, key.indexOf("{"))))?.[1] ?? key

it("X5 the keys of a channel share its hash tag, and no two channels or groups share a key", () => {
  expect(Keys.beside("orders", "g", "lock")).toBe("{orders}:millrace:orders:g:lock")
  expect(hashed(Keys.beside("{tenant}.orders", "g", "lock"))).toBe("tenant")
  const word = fc.string({ unit: fc.constantFrom("a", ":", "%", "/", "{", "é"), minLength: 1, maxLength: 4 })
  fc.assert(fc.property(fc.tuple(word, word), fc.tuple(word, word), (one, other) => {
    if (one.join("\0") === other.join("\0")) return
    expect(Keys.beside(one[0], one[1], "lock")).not.toBe(Keys.beside(other[0], other[1], "lock"))
  }))
})

it("F20 a pattern in Redis's words takes no text for a wildcard", () => {
  const glob = (address: string) => globOf(Address.pattern(address)!)
  expect(glob("orders.{region}.created")).toBe("orders.*.created")
  expect(glob("a*b?[c]\\/{+rest}")).toBe("a\\*b\\?\\[c\\]\\\\/*")
})

it("X5 keys beside a channel share its slot, whatever its name", () => {
  // the check value of this CRC
  expect(Slots.slotOf("123456789")).toBe(0x31c3)
  fc.assert(fc.property(
    fc.oneof(
      fc.string({ unit: "grapheme", minLength: 1 }),
      fc.array(fc.constantFrom("{", "}", "a", "b"), { minLength: 1, maxLength: 6 }).map((some) => some.join(""))
    ),
    (channel) => {
      expect(Slots.slotOf(Keys.beside(channel, "group", "lock"))).toBe(Slots.slotOf(channel))
    }
  ))
})
