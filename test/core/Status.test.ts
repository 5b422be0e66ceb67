import { assert, describe, it } from "@effect/vitest"
import { Status } from "@millrace/core"
import { Result, Schema } from "effect"
import * as fc from "fast-check"

const { states } = Status
const anyStatus = fc.constantFrom(...states)

/** The replies of somebody who works: a walk through the table, counted from 1. */
const history = fc.array(fc.nat(), { maxLength: 20 }).map((choices) => {
  const steps: Array<Status.Standing> = []
  let standing = Status.initial
  for (const choice of choices) {
    const next: ReadonlyArray<Status.Status> = Status.transitions[standing.status]
    if (next.length === 0) break
    standing = Result.getOrThrow(Status.advance(standing, next[choice % next.length]!))
    steps.push(standing)
  }
  return steps
})

/** Some of them, in any order, each as often as chance will. */
const delivered = history.chain((steps) =>
  fc.tuple(
    fc.constant(steps),
    steps.length === 0 ? fc.constant([]) : fc.array(fc.constantFrom(...steps), { maxLength: 40 })
  )
)

const after = (replies: ReadonlyArray<Status.Standing>, from = Status.initial) =>
  replies.reduce((standing, reply) => Result.getOrThrow(Status.apply(standing, reply)), from)

describe("the status of a reply", () => {
  it("B4 its states and what follows each are data, and the final ones are final", () => {
    assert.deepStrictEqual(Object.keys(Status.transitions).sort(), [...states].sort())
    assert.deepStrictEqual(states.filter(Status.isFinal), ["completed", "partial", "failed", "cancelled"])
    for (const status of states) {
      if (!Status.isFinal(status)) assert.include(Status.transitions[status], "cancelled")
    }
  })

  it("B4 a step that the table does not have is refused, with an error that names both states", () => {
    fc.assert(fc.property(anyStatus, anyStatus, (from, to) => {
      const next: ReadonlyArray<Status.Status> = Status.transitions[from]
      const result = Status.transition(from, to)
      if (next.includes(to)) return assert.deepStrictEqual(result, Result.succeed(to))
      assert.isTrue(Result.isFailure(result))
      if (Result.isFailure(result)) {
        assert.include(result.failure, { _tag: "IllegalTransition", from, to, failure: "permanent" })
        assert.include(result.failure.message, `from ${from} to ${to}`)
      }
    }))
  })

  it("B4 replies in any order, lost and repeated, end in the state of the last of them", () => {
    fc.assert(fc.property(delivered, ([, replies]) => {
      const last = replies.reduce((last, reply) => reply.sequence > last.sequence ? reply : last, Status.initial)
      const standing = after(replies)
      assert.deepStrictEqual(standing, last)
      // once more, all of them: nothing changes, not even the value
      assert.strictEqual(after(replies, standing), standing)
    }))
  })

  it("B4 whatever replies come, legal or not, the standing only ever moves by a way of the table, and stays where it is final", () => {
    const anyReply = fc.record({ status: anyStatus, sequence: fc.nat(12) })
    fc.assert(fc.property(fc.array(anyReply, { maxLength: 30 }), (replies) => {
      let standing = Status.initial
      for (const reply of replies) {
        const result = Status.apply(standing, reply)
        if (Result.isFailure(result)) {
          assert.include(result.failure, { from: standing.status, to: reply.status })
          continue
        }
        if (result.success === standing) continue
        assert.isFalse(Status.isFinal(standing.status))
        assert.isAbove(reply.sequence, standing.sequence)
        assert.deepStrictEqual(result.success, reply)
        if (reply.sequence === standing.sequence + 1) {
          assert.isTrue(Result.isSuccess(Status.transition(standing.status, reply.status)))
        }
        standing = result.success
      }
    }))
  })

  it("B4 a late reply that would reopen what is done changes nothing", () => {
    const done = after([{ sequence: 2, status: "completed" }])
    assert.strictEqual(after([{ sequence: 1, status: "processing" }], done), done)
    assert.strictEqual(after([{ sequence: 2, status: "completed" }], done), done)
    assert.isTrue(Result.isFailure(Status.apply(done, { sequence: 3, status: "processing" })))
  })

  it("B4 the reply has a schema, both ways", () => {
    const json = Schema.fromJsonString(Status.Reply)
    fc.assert(fc.property(
      fc.record({
        id: fc.string({ minLength: 1, maxLength: 255 }),
        status: anyStatus,
        sequence: fc.nat(),
        reason: fc.string({ maxLength: 500 })
      }, { requiredKeys: ["id", "status", "sequence"] }),
      (reply) => assert.deepEqual(Schema.decodeUnknownSync(json)(Schema.encodeSync(json)(reply)), reply)
    ))
    const reply = { id: "a", status: "completed", sequence: 1 }
    const wrong = [{ status: "done" }, { sequence: -1 }, { sequence: 0.5 }, { id: "" }, { reason: "x".repeat(501) }]
    for (const change of wrong) {
      assert.isTrue(Result.isFailure(Schema.decodeUnknownResult(Status.Reply)({ ...reply, ...change })))
    }
  })
})
