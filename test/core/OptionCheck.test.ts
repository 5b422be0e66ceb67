import { OptionCheck } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import * as fc from "fast-check"

const check = OptionCheck.make("Poller")

/** Values as code without types may pass them. */
const wrong: ReadonlyArray<readonly [value: unknown, shown: string]> = [
  [Number.NaN, "NaN"],
  [-1, "-1"],
  ["", "an empty text"],
  ["5 bananas", "5 bananas"],
  ["5", "5"],
  [undefined, "undefined"],
  [null, "null"],
  [true, "true"],
  [{}, "{}"],
  [{ seconds: Number.NaN }, `{"seconds":null}`],
  [{ bananas: 5 }, `{"bananas":5}`],
  [[1, Number.NaN], "[1,null]"],
  [["1", "2"], `["1","2"]`],
  [Symbol("a"), "Symbol(a)"],
  [() => 1, "() => 1"]
]

describe("checks of options", () => {
  it("a wrong duration is refused with module, option and range, whatever its type", () => {
    for (const [value, shown] of [...wrong, [Infinity, "Infinity"], [Duration.infinity, "Infinity"]] as const) {
      assert.throws(
        () => check.millis("every", value as Duration.Input),
        RangeError,
        `Poller: every must be a finite duration from 1 ms, got ${shown}`
      )
    }
    // where 0 is allowed, nothing else is taken for it
    for (const [value] of wrong) {
      assert.throws(
        () => check.millis("after", value as Duration.Input, { least: 0 }),
        /^Poller: after must be a finite/
      )
    }
    assert.throws(() => check.millis("every", "0.4 millis"), "from 1 ms, got 0.4 millis")
    const days = 25 * 24 * 60 * 60 * 1000
    assert.throws(
      () => check.millis("every", days, { most: days - 1 }),
      "a duration from 1 ms to 24 days, got 2160000000"
    )
  })

  it("seconds of a protocol are whole", () => {
    assert.strictEqual(check.seconds("tolerance", "2 minutes"), 120)
    for (const value of ["1500 millis", Infinity, Number.NaN, "5 bananas", 0] as const) {
      assert.throws(
        () => check.seconds("tolerance", value as Duration.Input, { most: 300 }),
        `Poller: tolerance must be a duration of whole seconds from 1 to 300, got ${value}`
      )
    }
  })

  it("a wrong count, number or share is refused by its range", () => {
    for (const [value, shown] of [...wrong, [Infinity, "Infinity"], [5n, "5"]] as const) {
      const given = value as number
      assert.throws(() => check.count("batch", given), `Poller: batch must be an integer from 1, got ${shown}`)
      assert.throws(() => check.number("factor", given), `Poller: factor must be a number from 0, got ${shown}`)
      assert.throws(() => check.fraction("jitter", given), `Poller: jitter must be from 0 to 1, got ${shown}`)
    }
    assert.throws(() => check.count("batch", 1.5), "an integer from 1, got 1.5")
    assert.throws(() => check.count("batch", 9, { least: 2, most: 8 }), "an integer from 2 to 8, got 9")
    assert.throws(() => check.fraction("share", 0, "above 0"), "Poller: share must be above 0 to 1, got 0")
  })

  it("a choice must be one of its words, not a name that objects have", () => {
    const by = (value: unknown) => () => check.oneOf("by", value as "a", ["a", "b", "c"])
    for (const [value, shown] of [...wrong, ["constructor", "constructor"]] as const) {
      assert.throws(by(value), RangeError, `Poller: by must be "a", "b" or "c", got ${shown}`)
    }
    assert.strictEqual(by("b")(), "b")
  })

  it("a long value is cut, and one that cannot be shown is named by its type", () => {
    assert.throws(() => check.count("batch", "x".repeat(1000) as never), `got ${"x".repeat(100)}…`)
    const silent = {
      toJSON: () => {
        throw new Error("no")
      }
    }
    assert.throws(() => check.millis("every", silent as never), "got a value of type object")
  })

  it("every finite duration in range is turned into whole milliseconds", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 2 ** 40 }), (millis) => {
      assert.strictEqual(check.millis("every", millis), millis)
      assert.strictEqual(check.millis("every", Duration.millis(millis)), millis)
      assert.strictEqual(check.millis("every", `${millis} millis`), millis)
      assert.strictEqual(check.millis("every", { milliseconds: millis }), millis)
      assert.strictEqual(check.millis("every", BigInt(millis) * 1_000_000n), millis)
      assert.strictEqual(check.millis("every", [0, millis * 1_000_000]), millis)
    }))
    assert.strictEqual(check.millis("every", "1500 micros"), 2)
    assert.strictEqual(check.millis("every", 0, { least: 0 }), 0)
  })

  it("Infinity passes where it means never", () => {
    assert.strictEqual(check.millis("every", "Infinity", { infinite: true }), Infinity)
    assert.throws(
      () => check.millis("every", "-Infinity", { infinite: true }),
      "Poller: every must be a duration from 1 ms or Infinity, got -Infinity"
    )
  })
})
