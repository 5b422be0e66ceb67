import { Auth, BrokerError, Failure, RateLimit } from "@millrace/core"
import { Body, Client, Problem, Webhook } from "@millrace/http"
import { Data, Duration, Redacted, Schema } from "effect"
import { HttpServerResponse, ProblemDetails } from "effect/http"
import * as fc from "fast-check"
import { assert, describe, it } from "vitest"
import { firstError } from "../../packages/http/src/internal/jsonPlace.ts"

class Own extends Data.TaggedError("Own")<{
  readonly failure: Failure.FailureClass
  readonly message: string
  readonly cause?: unknown
  readonly retryAfter?: Duration.Duration | undefined
}> {}

const secret = fc.string({ minLength: 8, maxLength: 30 }).map((text) => `s3cret ${text}`)

const of = (error: unknown) => Problem.of(Problem.defaults, error)

describe("Problem", () => {
  it("H1 each class has its status and its level", () => {
    const found = Failure.classes.map((failure) => {
      const { level, status } = of({ failure })
      return [failure, status, level]
    })
    assert.deepStrictEqual(found, [
      ["transient", 503, "Warn"],
      ["permanent", 422, "Info"],
      ["throttled", 429, "Info"],
      ["poison", 400, "Info"],
      ["conflict", 409, "Info"],
      ["timeout", 504, "Warn"],
      ["auth", 403, "Info"],
      ["validation", 422, "Info"],
      ["dependency", 503, "Warn"],
      ["defect", 500, "Error"]
    ])
  })

  it("H1 the errors of Millrace have an answer of their own", () => {
    const broker = (reason: BrokerError.Reason) =>
      BrokerError.make({ system: "kafka", operation: "publish", reason, message: "host db-7" })
    const status = (failure: Failure.FailureClass) =>
      new Client.StatusFailed({
        method: "GET",
        url: "http://inside",
        status: 404,
        failure,
        body: Redacted.make(new Uint8Array()),
        contentType: undefined
      })
    const cases: ReadonlyArray<readonly [unknown, number]> = [
      [new Auth.Unauthorized({ reason: "expired" }), 401],
      [new Auth.Forbidden({ subject: "ada", missing: ["x"] }), 403],
      [new RateLimit.RateLimitUnavailable({ message: "redis" }), 503],
      [new Body.BodyTooLarge({ limit: 1 }), 413],
      [new Body.MediaTypeUnsupported({ accepts: ["a/b"] }), 415],
      [new Webhook.SignatureRefused({ reason: "wrong" }), 401],
      [broker("TooLarge"), 413],
      [broker("Unreachable"), 503],
      [broker("Lost"), 503],
      [broker("Credentials"), 500],
      [broker("Invalid"), 500],
      [broker("Refused"), 422],
      [status("permanent"), 502],
      [status("dependency"), 503],
      [status("throttled"), 429]
    ]
    for (const [error, code] of cases) {
      assert.strictEqual(of(error).status, code, Failure.tagOf(error))
      assert.notInclude(JSON.stringify(of(error).body), "db-7")
      assert.notInclude(JSON.stringify(of(error).body), "inside")
    }
  })

  it("H19 nothing of an error is shown that its entry does not ask for, whatever the error holds", () => {
    fc.assert(
      fc.property(secret, fc.constantFrom(...Failure.classes, undefined), (text, failure) => {
        const errors = [
          new Own({ failure: failure ?? "defect", message: text, cause: new Error(text) }),
          Object.assign(new Error(text), failure === undefined ? {} : { failure }, { stack: text, code: text }),
          { _tag: text, failure, message: text, fields: text, issue: text },
          text
        ]
        for (const error of errors) {
          const problem = of(error)
          const shown = JSON.stringify([problem.body, problem.headers, Problem.envelope(Problem.defaults, error)])
          assert.notInclude(shown, "s3cret")
        }
      })
    )
  })

  it("H1 an entry by tag rules over its class, a part of an entry over the rest, and wrong ones are refused", () => {
    const problems = Problem.make({
      types: "https://example.com/p/",
      table: { conflict: { title: "Taken", retryAfter: "1500 millis" } },
      tags: { Own: (error: Own) => error.message === "shown" ? { status: 418, detail: "message" } : undefined }
    })
    const own = Problem.of(problems, new Own({ failure: "conflict", message: "shown" }))
    assert.deepStrictEqual([own.status, own.body.detail, own.level], [418, "shown", "Info"])
    const other = Problem.of(problems, new Own({ failure: "conflict", message: "hidden" }))
    assert.deepStrictEqual(other.body, {
      type: "https://example.com/p/conflict",
      title: "Taken",
      status: 409,
      failure: "conflict",
      retryAfter: 2
    })
    // the error's own time rules
    const timed = Problem.of(problems, new Own({ failure: "conflict", message: "", retryAfter: Duration.millis(1) }))
    assert.strictEqual(timed.retryAfter, 1)
    for (const status of [200, 399, 600, 400.5, Number.NaN]) {
      assert.throws(() => Problem.make({ table: { auth: { status } } }), RangeError, "status of auth")
      assert.throws(() => Problem.make({ tags: { A: { status } } }), RangeError, "status of A")
    }
    // a tag is a word that came from anywhere
    assert.strictEqual(of({ _tag: "constructor" }).status, 500)
    assert.strictEqual(of({ _tag: "__proto__" }).status, 500)
  })

  it("H19 fields are pointers of bounded length and number, and the document is one of RFC 9457", () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ pointer: fc.string({ unit: "binary" }), detail: fc.string({ unit: "binary" }) }), {
          maxLength: 60
        }),
        (fields) => {
          const { body } = of({ failure: "validation", fields: [...fields, 7, null, { pointer: 1, detail: 2 }] })
          const errors = (body["errors"] ?? []) as ReadonlyArray<Problem.Field>
          assert.strictEqual(errors.length, Math.min(fields.length, Problem.maximumFields))
          for (const { detail, pointer } of errors) {
            assert.isTrue(
              detail.isWellFormed() && pointer.isWellFormed() && detail.length <= 256 && pointer.length <= 256
            )
          }
          const response = Problem.toResponse(of({ failure: "validation", fields }), { requestId: "1" })
          assert.strictEqual(response.headers["content-type"], ProblemDetails.contentType)
          assert.strictEqual(response.headers["cache-control"], "no-store")
          assert.isTrue(HttpServerResponse.isHttpServerResponse(response))
          const decoded = Schema.decodeUnknownSync(ProblemDetails.Schema)(JSON.parse(JSON.stringify(body)))
          assert.deepStrictEqual(decoded.status, 422)
        }
      )
    )
  })

  it("H19 the envelope of a broker's reply is the same document, without the status of another protocol", () => {
    fc.assert(
      fc.property(fc.constantFrom(...Failure.classes), fc.nat(100_000), (failure, millis) => {
        const error = new Own({ failure, message: "m", retryAfter: Duration.millis(millis) })
        const { status, ...rest } = of(error).body
        assert.isNumber(status)
        assert.deepStrictEqual(Problem.envelope(Problem.defaults, error), rest)
        assert.isTrue(Number(rest["retryAfter"]) * 1000 >= millis)
      })
    )
  })

  it("H19 the place where a text stops being JSON is found for every text that is none, and for no other", () => {
    const broken = fc.tuple(
      fc.json(),
      fc.nat(),
      fc.constantFrom("", "x", ",", "}", "]", "\"", "\\", ":", "01", "\n", "nul")
    )
      .map(([text, at, piece]) => {
        const place = at % (text.length + 1)
        return text.slice(0, place) + piece + text.slice(place + (at % 3))
      })
    let wrong = 0
    fc.assert(
      fc.property(fc.oneof(fc.json(), broken, fc.string()), (text) => {
        let message: string | undefined
        try {
          JSON.parse(text)
        } catch (error) {
          message = String(error)
        }
        const place = firstError(text)
        assert.strictEqual(place === undefined, message === undefined, text)
        if (place === undefined) return
        wrong += 1
        assert.isTrue(place >= 0 && place <= text.length)
        // the engine points at the character, this at the token that begins there or before
        const position = /at position (\d+)/.exec(message ?? "")?.[1]
        if (position !== undefined) assert.isTrue(place <= Number(position), `${text}: ${place} after ${position}`)
      }),
      { numRuns: 2_000 }
    )
    assert.isAbove(wrong, 200)
    assert.strictEqual(firstError(`{"a": [1, x]}`), 10)
    assert.strictEqual(firstError(`{"a": 1`), 7)
  })
})
