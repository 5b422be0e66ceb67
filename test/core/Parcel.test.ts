import { assert, describe, it } from "@effect/vitest"
import { Broker, Channel, MemoryBroker, Parcel, Publisher } from "@millrace/core"
import { Effect, Result, Schema, Stream } from "effect"
import * as fc from "fast-check"

const Order = Schema.Struct({ id: Schema.String, amount: Schema.FiniteFromString })
const open = Parcel.make(Order)
const closed = Parcel.make(Order, { unknown: "refuse" })

const correlationId = fc.stringMatching(/^[\w.:/+=@-]{1,128}$/)
const encoded = fc.record({
  correlationId,
  data: fc.record({ id: fc.string(), amount: fc.integer().map(String) })
})
const more = fc.dictionary(fc.string().filter((key) => key !== "__proto__"), fc.jsonValue(), { minKeys: 1 })
  .filter((fields) => !("correlationId" in fields) && !("data" in fields) && Object.keys(fields).length > 0)

describe("a parcel", () => {
  it("B2 is a correlation id and data, read and written by the data's own schema", () => {
    for (const schema of [open, closed]) {
      fc.assert(fc.property(encoded, (value) => {
        const parcel = Schema.decodeUnknownSync(schema)(value)
        assert.strictEqual(parcel.correlationId, value.correlationId)
        assert.strictEqual(parcel.data?.amount, Number(value.data.amount))
        assert.deepEqual(Schema.encodeSync(schema)(parcel), value)
      }))
    }
  })

  it("B2 fields that nobody knows are kept, both ways, or refused by name", () => {
    fc.assert(fc.property(encoded, more, (value, fields) => {
      const whole = { ...fields, ...value }
      assert.deepEqual(Schema.encodeUnknownSync(open)(Schema.decodeUnknownSync(open)(whole)), whole)
      const refused = Schema.decodeUnknownResult(closed)(whole)
      assert.isTrue(Result.isFailure(refused))
      if (Result.isFailure(refused)) assert.include(refused.failure.message, "Unknown field")
    }))
  })

  it("B2 a field that would be a prototype is not kept, and refused like any other", () => {
    const value: unknown = JSON.parse(`{"correlationId":"a","data":{"id":"a","amount":"1"},"__proto__":{"admin":true}}`)
    const parcel = Schema.decodeUnknownSync(open)(value)
    assert.strictEqual(Object.getPrototypeOf(parcel), Object.prototype)
    assert.deepStrictEqual(Object.keys(parcel).sort(), ["correlationId", "data"])
    assert.isTrue(Result.isFailure(Schema.decodeUnknownResult(closed)(value)))
  })

  it("B2 data may be absent, both ways, and stays absent; where it is required its absence is refused", () => {
    const required = [
      Parcel.make(Order, { data: "required" }),
      Parcel.make(Order, { data: "required", unknown: "refuse" })
    ]
    fc.assert(fc.property(correlationId, (id) => {
      for (const schema of [open, closed]) {
        const parcel = Schema.decodeUnknownSync(schema)({ correlationId: id })
        assert.deepStrictEqual(Object.keys(parcel), ["correlationId"])
        assert.deepStrictEqual(Schema.encodeSync(schema)(parcel), { correlationId: id })
        assert.isTrue(Result.isFailure(Schema.decodeUnknownResult(schema)({ correlationId: id, data: null })))
      }
      for (const schema of required) {
        assert.isTrue(Result.isFailure(Schema.decodeUnknownResult(schema)({ correlationId: id })))
        assert.isTrue(Result.isFailure(Schema.encodeUnknownResult(schema)({ correlationId: id })))
      }
    }))
    fc.assert(fc.property(encoded, (value) => {
      for (const schema of required) {
        const parcel = Schema.decodeUnknownSync(schema)(value)
        assert.strictEqual(parcel.data.amount, Number(value.data.amount))
        assert.deepEqual(Schema.encodeUnknownSync(schema)(parcel), value)
      }
    }))
  })

  it("B2 an id that could break a line, or is too long, is refused in both directions", () => {
    for (const id of ["", "a\nb", "a b", "x".repeat(129), 7, undefined]) {
      const value = { correlationId: id, data: { id: "a", amount: "1" } }
      assert.isTrue(Result.isFailure(Schema.decodeUnknownResult(open)(value)))
      const parcel = { correlationId: id, data: { id: "a", amount: 1 } }
      assert.isTrue(Result.isFailure(Schema.encodeUnknownResult(closed)(parcel)))
    }
  })

  it("a choice that is none is refused when it is made", () => {
    const unknown = { unknown: "drop" } as const
    assert.throws(
      // @ts-expect-error: it is keep or refuse
      () => Parcel.make(Order, unknown),
      RangeError,
      `Parcel: unknown must be "keep" or "refuse", got drop`
    )
    const data = { data: "some" } as const
    assert.throws(
      // @ts-expect-error: it is optional or required
      () => Parcel.make(Order, data),
      RangeError,
      `Parcel: data must be "optional" or "required", got some`
    )
  })

  it.effect("B2 is the payload of a channel like any other", () =>
    Effect.gen(function*() {
      const Orders = Channel.make("orders", { payload: closed, key: ({ data }) => data?.id ?? "none" })
      yield* Publisher.make(Orders).publish({ correlationId: "c-1", data: { id: "a", amount: 2 } })
      const [message] = yield* Stream.runCollect((yield* Broker.Broker).browse("orders"))
      assert.strictEqual(message?.key, "a")
      assert.strictEqual(
        new TextDecoder().decode(message?.payload),
        `{"correlationId":"c-1","data":{"id":"a","amount":"2"}}`
      )
    }).pipe(Effect.provide(MemoryBroker.layer())))
})
