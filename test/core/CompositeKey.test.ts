import { assert, describe, it } from "@effect/vitest"
import { CircuitBreaker, type Delivery, RateLimit } from "@millrace/core"
import { compositeKey } from "@millrace/core/compositeKey"
import { Effect, Exit } from "effect"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

const text = fc.string({ unit: fc.constantFrom("a", "1", ":", "\n", "/", "1:") })

describe("keys made of several texts", () => {
  it("S two lists give one key only where they are the same", () => {
    fc.assert(fc.property(fc.array(text), fc.array(text), (one, other) => {
      assert.strictEqual(compositeKey(...one) === compositeKey(...other), JSON.stringify(one) === JSON.stringify(other))
    }))
  })

  it("W6 S a limit by key is another for each channel and key, also where a message has no key", () => {
    const place = fc.record({ channel: text, key: fc.option(text, { nil: undefined }) })
    const keyOf = async ({ channel, key }: { channel: string; key: string | undefined }) => {
      let seen = ""
      const chain = RateLimit.middleware({ by: "key" })((_: Delivery) => Effect.void)
      await Effect.runPromise(
        runChain(chain, deliver(key === undefined ? { channel } : { channel, key })).pipe(
          Effect.provideService(
            RateLimit.Store,
            {
              take: ([charge]) => {
                seen = charge!.key
                return Exit.succeed({ isAdmitted: true, wait: 0, verdicts: [], at: 0, lease: 0 })
              },
              renew: () => Exit.succeed(true),
              release: () => Exit.void
            }
          )
        )
      )
      return seen
    }
    return fc.assert(
      fc.asyncProperty(place, place, async (one, other) => {
        const same = one.channel === other.channel && one.key === other.key
        assert.strictEqual(await keyOf(one) === await keyOf(other), same)
      }),
      { examples: [[{ channel: "a\nb", key: undefined }, { channel: "a", key: "b" }]] }
    )
  })

  it("W6 policies of two algorithms never share their counts", () => {
    const { id } = RateLimit.policy("a", { algorithm: "tokenBucket", limit: 5, burst: 5 })
    assert.notStrictEqual(RateLimit.policy("a:tokenBucket", { limit: 5, burst: 5 }).id, id)
  })

  it("X12 a breaker's name has no slash, which divides it from the keys of its circuits", () => {
    assert.throws(
      () => CircuitBreaker.middleware({ name: "payments/eu" }),
      RangeError,
      `CircuitBreaker: name must not contain "/", got payments/eu`
    )
  })
})
