import { Fingerprint } from "@millrace/monitor"
import { Data } from "effect"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"

class Missing extends Data.TaggedError("Missing")<{ readonly message: string; readonly cause?: unknown }> {
  readonly failure = "permanent" as const
}
class Other extends Data.TaggedError("Other")<{ readonly message: string }> {
  readonly failure = "permanent" as const
}

const print = (error: unknown) => Fingerprint.of(error).fingerprint

/** The same sentence with other values is one group. */
const sentences: ReadonlyArray<(n: number, text: string) => string> = [
  (n) => `order ${n} is missing`,
  (n) => `connect ECONNREFUSED 10.0.${n % 256}.7:${1_000 + n}`,
  (n) => `user ada${n}@example.com is unknown`,
  (n) => `GET https://api.example.com/orders/${n}?page=${n} answered 500`,
  (n) => `lease 018f3c2a-0000-7000-8000-${String(n).padStart(12, "0")} is over`,
  (n) => `hash ${n.toString(16).padStart(8, "0")}0f does not match`,
  (_n, text) => `field "${text.replaceAll("\"", "")}x" is no number`,
  (n) => `took ${n}.5 ms at 2026-12-0${n % 9 + 1}T10:00:${String(n % 60).padStart(2, "0")}Z`,
  (n) => `worker-${n + 10} stopped`
]

describe("Fingerprint", () => {
  it("H15 values in a message make no groups, and different sentences do", () => {
    fc.assert(
      fc.property(
        fc.nat({ max: 5_000 }),
        fc.nat({ max: 5_000 }),
        fc.string({ maxLength: 20 }),
        fc.string({ maxLength: 20 }),
        (a, b, x, y) => {
          const one = sentences.map((sentence) => print(new Missing({ message: sentence(a, x) })))
          const two = sentences.map((sentence) => print(new Missing({ message: sentence(b, y) })))
          assert.deepStrictEqual(one, two)
          assert.strictEqual(new Set(one).size, sentences.length)
        }
      ),
      { numRuns: 300 }
    )
  })

  it("H15 class, tag and causes make groups", () => {
    const plain = print(new Missing({ message: "gone" }))
    assert.notStrictEqual(print(new Other({ message: "gone" })), plain)
    assert.notStrictEqual(print(new Missing({ message: "gone", cause: new TypeError("a") })), plain)
    assert.strictEqual(
      print(new Missing({ message: "gone", cause: new TypeError("a") })),
      print(new Missing({ message: "gone", cause: new TypeError("b") }))
    )
    assert.strictEqual(print({ _tag: "Missing", failure: "permanent", message: "gone" }), plain)
  })

  it("H15 a bug is grouped by its place, without lines, and not by its type alone", () => {
    const stack = (name: string, line: number) =>
      Object.assign(new TypeError("x is undefined"), {
        stack:
          `TypeError: x is undefined\n    at ${name} (file:///app/dist/orders.js:${line}:7)\n    at run (node:internal/a:1:1)\n    at next (/app/node_modules/effect/dist/a.js:1:1)`
      })
    assert.strictEqual(print(stack("place", 10)), print(stack("place", 99)))
    assert.notStrictEqual(print(stack("place", 10)), print(stack("pay", 10)))
    const windows = Object.assign(new TypeError("x is undefined"), {
      stack: "TypeError: x is undefined\n    at place (file:///srv/other/orders.js:3:1)"
    })
    assert.strictEqual(print(windows), print(stack("place", 10)))
  })

  it("H15 an error may name its group, and begins with the version", () => {
    const named = (fingerprint: string, message: string) => Object.assign(new Error(message), { fingerprint })
    assert.strictEqual(print(named("stock", "a")), print(named("stock", "b")))
    assert.notStrictEqual(print(named("stock", "a")), print(named("price", "a")))
    assert.match(print(new Error("a")), /^1:[0-9a-f]{16}$/)
  })

  it("H15 any value has a fingerprint, and no text takes long", () => {
    const odd = new Proxy(new Error("x"), {
      get: () => {
        throw new Error("unreadable")
      }
    })
    for (const error of [odd, null, undefined, 7, "text", Symbol("a"), {}, [], () => 0]) {
      assert.match(print(error), /^1:/)
    }
    const loop: { cause?: unknown } = {}
    loop.cause = loop
    print(loop)
    const parts = ["a@", "1.1.1.1.", "\"", "0-0-0", "'a", "http://", "((((", "a.b-c_", "abcdef", "12 "]
    const before = process.cpuUsage()
    for (const part of parts) for (let i = 0; i < 20; i++) Fingerprint.parameterise(part.repeat(10_000))
    const { system, user } = process.cpuUsage(before)
    // a microsecond for each character that is read would be 0.5 ms
    assert.isBelow((system + user) / (parts.length * 20), 1_000)
    assert.isAtMost(Fingerprint.parameterise("word ".repeat(1_000)).length, 200)
    assert.strictEqual(Fingerprint.parameterise("a\r\nb\u2028c"), "a b c")
  })
})
