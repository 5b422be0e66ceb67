import { RateLimit } from "@millrace/core"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { fields } from "../../packages/http/src/RateLimitFields.ts"

const verdict = (wait: number, remaining: number, reset: number): RateLimit.Verdict => ({ wait, remaining, reset })
const search = RateLimit.policy("search", { limit: 100, window: "1 minute" })
const day = RateLimit.policy("a \"day\" é", { limit: 1000, window: "1 day", algorithm: "slidingCounter" })
const places = RateLimit.policy("places", { limit: 5, algorithm: "concurrency" })

describe("fields of rate limits", () => {
  it("W6 W7 say each policy, what remains, and when there is more", () => {
    const admitted = {
      isAdmitted: true,
      wait: 0,
      verdicts: [verdict(0, 99, 600), verdict(0, 7, 1), verdict(0, 4, 30_000)],
      at: 0,
      lease: 1
    }
    assert.deepStrictEqual(fields({ policies: [search, day, places], decision: admitted }), {
      "ratelimit-policy":
        "\"search\";q=100;w=60, \"a \\\"day\\\" ?\";q=1000;w=86400, \"places\";q=5;qu=\"concurrent-requests\"",
      ratelimit: "\"search\";r=99;t=1, \"a \\\"day\\\" ?\";r=7;t=1, \"places\";r=4"
    })
    const refused = {
      isAdmitted: false,
      wait: 1001,
      verdicts: [verdict(1001, 0, 60_000), verdict(0, 7, 3_600_000)],
      at: 0,
      lease: 0
    }
    assert.deepStrictEqual(fields({ policies: [search, day], decision: refused }, { form: "both" }), {
      "ratelimit-policy": "\"search\";q=100;w=60, \"a \\\"day\\\" ?\";q=1000;w=86400",
      ratelimit: "\"search\";r=0;t=2, \"a \\\"day\\\" ?\";r=7;t=3600",
      "x-ratelimit-limit": "100",
      "x-ratelimit-remaining": "0",
      "x-ratelimit-reset": "2",
      "retry-after": "2"
    })
  })

  it("W6 nobody who obeys comes too early: times are rounded up, what remains down", () => {
    const times = fc.integer({ min: 0, max: 100_000_000 })
    fc.assert(
      fc.property(times, times, fc.integer({ min: 0, max: 100 }), fc.boolean(), (wait, reset, remaining, isRefused) => {
        const decision = {
          isAdmitted: !isRefused,
          wait,
          verdicts: [verdict(isRefused ? Math.max(1, wait) : 0, remaining, reset)],
          at: 0,
          lease: 0
        }
        const found = fields({ policies: [search], decision }, { form: "both" })
        const [, r, t] = /r=(\d+);t=(\d+)$/.exec(found["ratelimit"]!)!
        assert.strictEqual(Number(r), remaining)
        assert.isAtLeast(Number(t) * 1000, isRefused ? wait : reset)
        assert.strictEqual(found["retry-after"] !== undefined, isRefused)
        if (isRefused) assert.isAtLeast(Number(found["retry-after"]) * 1000, wait)
      })
    )
  })

  it("W6 names of policies stay inside of their quotes", () => {
    fc.assert(fc.property(fc.string({ unit: "binary" }), (name) => {
      const decision = { isAdmitted: true, wait: 0, verdicts: [verdict(0, 1, 1)], at: 0, lease: 0 }
      const found = fields({ policies: [RateLimit.policy(name)], decision })
      assert.match(found["ratelimit"]!, /^"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*";r=1;t=1$/)
    }))
    assert.deepStrictEqual(
      fields({ policies: [], decision: { isAdmitted: true, wait: 0, verdicts: [], at: 0, lease: 0 } }),
      {}
    )
  })
})
