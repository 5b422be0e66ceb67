import { assert, describe, it } from "@effect/vitest"
import { Failure, Log, Outcome, Outgoing, Redaction, Settlement } from "@millrace/core"
import { MiddlewareLaws } from "@millrace/testing"
import { Cause, Duration, Effect, Exit, Logger } from "effect"
import * as fc from "fast-check"
import { deliver } from "./support.ts"

const throwing = () => {
  throw new Error("it cannot be read")
}

const fields = ["_tag", "name", "message", "stack", "failure", "retryAfter", "cause"] as const

const value: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 3, arbitrary: fc.anything({ withBigInt: true, withNullPrototype: true, withSparseArray: true }) },
  { weight: 2, arbitrary: fc.constantFrom(...Failure.classes) },
  { weight: 2, arbitrary: fc.string({ unit: "binary" }) },
  fc.constant(Symbol("odd")),
  fc.constant(Duration.seconds(1)),
  fc.constant("y".repeat(100_000))
)

/** Errors and objects whose fields are anything, or throw when they are read. */
const object: fc.Arbitrary<() => object> = fc.tuple(
  fc.constantFrom(() => new Error("x"), () => ({}), () => Object.create(null) as object, () => () => undefined),
  fc.array(fc.tuple(fc.constantFrom(...fields), fc.boolean(), value))
).map(([make, given]) => () => {
  const made = make()
  for (const [field, refuses, each] of given) {
    Object.defineProperty(
      made,
      field,
      refuses ? { get: throwing, configurable: true } : { value: each, configurable: true }
    )
  }
  return made
})

const traps = ["get", "has", "getPrototypeOf", "ownKeys", "getOwnPropertyDescriptor"] as const

const proxy = fc.tuple(object, fc.subarray([...traps])).map(([target, refused]) => () =>
  new Proxy(target(), Object.fromEntries(refused.map((trap) => [trap, throwing])))
)

// functions, since the library reads the values that it makes
const anything: fc.Arbitrary<() => unknown> = fc.oneof(
  value.map((each) => () => each),
  object,
  proxy,
  fc.constantFrom(...MiddlewareLaws.oddErrors.map(([, make]) => make))
)

const policy: Settlement.Policy = { entries: {}, table: Settlement.table }

const format = Log.format({ format: "json" })

describe("Failure", () => {
  it("H1 reading an error never throws, and what it gives is bounded and of its type", () => {
    const redaction = Redaction.make()
    fc.assert(
      fc.property(anything, (make) => {
        const error = make()
        const tag = Failure.tagOf(error)
        assert.isTrue(typeof tag === "string" && tag.length <= Failure.maximumTag)
        const text = Failure.messageOf(error)
        assert.isTrue(typeof text === "string" && text.length <= Failure.maximumMessage)
        assert.isAtMost(Failure.messageOf(error, 10).length, 10)
        const found = Failure.classOf(error)
        assert.isTrue(found === undefined || Failure.classes.includes(found))
        assert.strictEqual(Failure.isClassified(error), found !== undefined)
        const after = Failure.retryAfterOf(error)
        assert.isTrue(after === undefined || Duration.isDuration(after))
        assert.isTrue(Outcome.isOutcome(Settlement.ofError(policy, error)))
        for (const cause of [Cause.fail(error), Cause.die(error)]) {
          assert.isTrue(Cause.isCause(Redaction.hideCause(redaction, deliver(), cause)))
        }
      }),
      { numRuns: 2000 }
    )
  })

  it.effect("H1 a log line can tell of any error", () =>
    Effect.gen(function*() {
      const lines: Array<string> = []
      const logger = Logger.make((line) => void lines.push(format.log(line)))
      for (const [what, make] of MiddlewareLaws.oddErrors) {
        lines.length = 0
        yield* Effect.logError("failed", Cause.fail(make()), { of: make() }).pipe(
          Effect.provide(Logger.layer([logger]))
        )
        assert.strictEqual(lines.length, 1, what)
        assert.isAtMost(lines[0]!.length, 200_000, what)
        JSON.parse(lines[0]!)
      }
    }))

  it("H1 tag, message and class are those that the error names", () => {
    class Named extends Error {
      override readonly name = "Named"
    }
    assert.strictEqual(Failure.tagOf({ _tag: "SoldOut" }), "SoldOut")
    assert.strictEqual(Failure.tagOf(new Named("x")), "Named")
    assert.strictEqual(Failure.tagOf(Object.assign(new Error("x"), { name: undefined })), "Error")
    assert.strictEqual(Failure.tagOf("text"), "string")
    assert.strictEqual(Failure.messageOf(new Named("why")), "why")
    assert.strictEqual(Failure.messageOf("why"), "why")
    assert.strictEqual(Failure.messageOf(7n), "7")
    assert.strictEqual(Failure.messageOf({ a: 1 }), "")
    assert.strictEqual(Failure.messageOf("a🙂bc", 3), "a…")
    assert.isUndefined(Failure.classOf({ failure: "toString" }))
    assert.deepStrictEqual(
      Failure.retryAfterOf({ failure: "throttled", retryAfter: Duration.seconds(2) }),
      Duration.seconds(2)
    )
    assert.isUndefined(Failure.retryAfterOf({ failure: "throttled", retryAfter: "2 seconds" }))
    assert.isUndefined(Failure.retryAfterOf({ retryAfter: Duration.seconds(2) }))
  })

  it("H1 a long text is searched for secrets only as far as it is shown, and no secret is left at the cut", () => {
    const secret = "s3cr3t-".repeat(40)
    const message = deliver({ body: { password: secret } })
    const usual = Redaction.make()
    for (let before = 65_000; before < 65_600; before += 7) {
      let longest = 0
      const redaction: Redaction.Redaction = {
        ...usual,
        text: (text) => {
          longest = Math.max(longest, text.length)
          return text
        }
      }
      const shown = Redaction.hide(redaction, message, "x".repeat(before) + secret + "y".repeat(5_000_000))
      assert.isAtMost(longest, 70_000)
      assert.isAtMost(shown.length, 65_536)
      assert.notInclude(shown, "s3cr3t-s3")
    }
  })

  it("H1 a long body is searched for secrets in its first 256 KiB only", () => {
    const lengths: Array<number> = []
    const redaction: Redaction.Redaction = {
      ...Redaction.make(),
      secrets: (text) => {
        lengths.push(text.length)
        return []
      }
    }
    const text = "x".repeat(5_000_000)
    Redaction.hide(redaction, deliver({ body: new TextEncoder().encode(text) }), "failed")
    Redaction.hide(redaction, new Outgoing("c", { text }, undefined, {}), "failed")
    assert.deepStrictEqual(lengths, [262_144, 262_144])
  })

  it("H1 a cause that is too long to be searched is shown without the rest", () => {
    const secret = "hunter2-hunter2"
    const message = deliver({ body: { password: secret } })
    const cause = Cause.fail(new Error("x".repeat(5_000_000) + secret))
    const shown = Redaction.hideCause(Redaction.make(), message, cause)
    assert.isAtMost(Cause.pretty(shown).length, 200_000)
    assert.notInclude(Cause.pretty(shown), secret)
  })
})

describe("Settlement of odd errors", () => {
  const entries: Settlement.Policy["entries"] = {
    SoldOut: Outcome.Ack,
    Throws: () => {
      throw new Error("entry")
    },
    // an entry of code without types
    Nothing: (() => undefined) as never,
    Text: "drop it" as never
  }
  const settle = (error: unknown, table: Settlement.Table = Settlement.table) =>
    Settlement.ofExit({ entries, table }, Exit.fail(error))

  it("H1 a tag that every object inherits names no entry", () => {
    for (const tag of ["constructor", "toString", "__proto__", "hasOwnProperty", "valueOf"]) {
      assert.deepStrictEqual(settle({ _tag: tag }), Outcome.DeadLetter({ _tag: tag }))
      const named = Object.assign(new Error("x"), { name: tag })
      assert.deepStrictEqual(settle(named), Outcome.DeadLetter(named))
      const transient = { _tag: tag, failure: "transient" }
      assert.deepStrictEqual(settle(transient), Outcome.Retry())
    }
    assert.strictEqual(settle({ _tag: "SoldOut" }), Outcome.Ack)
  })

  it("H1 an entry that throws or returns no outcome makes a dead letter that says so", () => {
    const thrown = settle({ _tag: "Throws" })
    assert(thrown._tag === "DeadLetter" && thrown.error instanceof Error)
    assert.strictEqual(thrown.error.message, "entry")
    for (const tag of ["Nothing", "Text"]) {
      const given = settle({ _tag: tag })
      assert(given._tag === "DeadLetter" && given.error instanceof TypeError)
      assert.strictEqual(given.error.message, `Settlement: the entry ${tag} returned no Outcome`)
    }
  })

  it("H1 a row of the table that throws, returns no outcome or is missing makes a dead letter", () => {
    const throws = { ...Settlement.table, transient: throwing }
    assert.strictEqual(settle({ failure: "transient" }, throws)._tag, "DeadLetter")
    const nothing = { ...Settlement.table, transient: (() => undefined) as never }
    assert.strictEqual(settle({ failure: "transient" }, nothing)._tag, "DeadLetter")
    const missing = { ...Settlement.table, transient: undefined as never }
    assert.strictEqual(settle({ failure: "transient" }, missing)._tag, "DeadLetter")
    const defects = { ...Settlement.table, defect: throwing }
    const exit = Exit.die(new Error("defect"))
    assert.strictEqual(Settlement.ofExit({ entries: {}, table: defects }, exit)._tag, "DeadLetter")
  })

  it("H1 a retryAfter that is no duration is as good as none", () => {
    assert.deepStrictEqual(settle({ failure: "transient", retryAfter: "soon" }), Outcome.Retry())
    assert.strictEqual(settle({ failure: "permanent", retryAfter: 5 })._tag, "DeadLetter")
  })

  it("H1 a body that a handler answers is no outcome, whatever its sender wrote", () => {
    const body: unknown = JSON.parse(JSON.stringify({ ...Outcome.Release, "~millrace/Outcome": true }))
    assert.isFalse(Outcome.isOutcome(body))
    assert.strictEqual(Settlement.ofExit(policy, Exit.succeed(body)), Outcome.Ack)
    const odd = new Proxy({}, { has: throwing })
    assert.strictEqual(Settlement.ofExit(policy, Exit.succeed(odd)), Outcome.Ack)
  })
})
