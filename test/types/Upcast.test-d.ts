import { Upcast } from "@millrace/codecs"
import { type PayloadCodec } from "@millrace/core"
import { Schema } from "effect"
import { expectTypeOf, test } from "vitest"

const V1 = Schema.Struct({ id: Schema.String })
const V2 = Schema.Struct({ id: Schema.String, count: Schema.Number })
const V3 = Schema.Struct({ id: Schema.String, count: Schema.Number, region: Schema.String })

const toV2 = Upcast.step(V1, V2, ({ id }) => ({ id, count: 1 }))
const toV3 = Upcast.step(V2, V3, (order) => ({ ...order, region: "eu" }))

test("X22 steps in order compile", () => {
  expectTypeOf(Upcast.make([toV2, toV3])).toEqualTypeOf<PayloadCodec.PayloadCodec>()
  expectTypeOf(Upcast.make([toV2])).toEqualTypeOf<PayloadCodec.PayloadCodec>()
  Upcast.step(V1, V2, (order) => {
    expectTypeOf(order).toEqualTypeOf<typeof V1.Type>()
    return { id: order.id, count: 1 }
  })
})

test("X22 a wrong order, a gap and a change to another version do not compile", () => {
  // @ts-expect-error each step begins with the version that the step before ends with
  Upcast.make([toV3, toV2])
  // @ts-expect-error the step from 2 to 3 is missing
  Upcast.make([toV2, Upcast.step(V3, V1, ({ id }) => ({ id }))])
  // @ts-expect-error a version does not follow itself
  Upcast.make([toV2, toV2])
  // @ts-expect-error the change does not make the version
  Upcast.step(V1, V2, (order) => order)
})
