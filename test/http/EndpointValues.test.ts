import { assert, describe, it } from "@effect/vitest"
import { of } from "../../packages/http/src/internal/endpointValues.ts"
import { Effect, Exit, Schema } from "effect"
import * as fc from "fast-check"

const declares = (success: Schema.Top, error: Schema.Top) => ({ success: new Set([success]), error: new Set([error]) })
const Paid = Schema.Struct({ amount: Schema.Int })
const before = of(declares(Paid, Schema.String))

describe("values of endpoints that are kept", () => {
  it.effect("W4 are read as they were answered, failures as failures", () =>
    Effect.gen(function*() {
      for (const exit of [Exit.succeed({ amount: 1 }), Exit.fail("no")]) {
        const { body, value } = (yield* before.write(exit))!
        assert.deepStrictEqual<unknown>(yield* before.read(value!, body), exit)
      }
    }))

  it.effect("W4 that another version wrote are no defect: they are undefined, whatever bytes they are", () =>
    Effect.promise(() =>
      fc.assert(
        fc.asyncProperty(
          fc.constantFrom("success 0", "success 1", "error 0", "error 7"),
          fc.oneof(fc.uint8Array(), fc.json().map((json) => new TextEncoder().encode(json))),
          async (value, body) => {
            const found = await Effect.runPromise(before.read(value, body))
            const amount = found !== undefined && Exit.isSuccess(found)
            if (amount) assert.isTrue(Schema.is(Paid)(found.value))
            if (value === "success 1" || value === "error 7") assert.isUndefined(found)
          }
        )
      )
    ))
})
