import { type Delivery, Outcome, Retries } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import {
  acknowledged,
  backoff,
  BrokerDelayedRetries,
  brokerDelays,
  HeldRetries,
  type Limits,
  type RetryPolicy,
  type Verdict
} from "../../packages/core/src/internal/engine/RetryPolicy.ts"
import { fakeLease } from "./support.ts"

const limits: Limits = {
  hold: { attempts: 3, age: 1000, span: 5, retryAfter: 500 },
  backoff: { base: 10, factor: 2, cap: 35, jitter: 0 },
  retries: { _tag: "held" }
}
const middle = () => 0.5
const retry = Outcome.Retry()
const after = (milliseconds: number) => Outcome.Retry({ after: milliseconds })
const error = new Error("own")

/** A verdict in short: `hold 10`, `retry 10`, `give up: why`. */
const short = (verdict: Verdict): string => {
  if (verdict._tag === "Hold") return `hold ${verdict.after}`
  if (verdict._tag === "GiveUp") return `give up: ${String(verdict.outcome.error)}`
  if (verdict._tag === "Settle" && verdict.outcome._tag === "Retry") {
    return `retry ${JSON.stringify(verdict.outcome.after)}`
  }
  return `${verdict._tag} ${verdict.outcome._tag}`
}

/** Decides and, where the message is held, remembers its cost. */
const fail = (
  policy: RetryPolicy,
  delivery: Delivery,
  outcome: Outcome.Outcome,
  now: number,
  cause?: unknown
): string => {
  const verdict = policy.decide(delivery, outcome, cause, now)
  if (verdict._tag === "Hold") policy.held(delivery, verdict)
  return short(verdict)
}

describe("F11 X19 the wait after a failure", () => {
  it("F11 grows by the factor from the base up to the cap, with jitter to both sides", () => {
    const schedule = { base: 10, factor: 2, cap: 35, jitter: 0.2 }
    const waits = (random: number) => [1, 2, 3, 4].map((failures) => backoff(schedule, failures, () => random))
    assert.deepStrictEqual(waits(0.5), [10, 20, 35, 35])
    assert.deepStrictEqual(waits(0), [8, 16, 28, 28])
    assert.deepStrictEqual(waits(1), [12, 24, 42, 42])
  })

  it("F11 is the broker's where it delays and counts attempts, and no lane would wait", () => {
    const lanes = { partition: { _tag: "partition" }, unordered: { _tag: "unordered", limit: 4 } } as const
    const held = { _tag: "held" } as const
    const delayed = { _tag: "delayed", delays: [1], prefix: undefined } as never
    const can = (delay: boolean, attempts: boolean) => ({ delay, attempts }) as Parameters<typeof brokerDelays>[0]
    assert.deepStrictEqual([
      brokerDelays(can(true, true), { lanes: lanes.unordered, retries: held }),
      brokerDelays(can(true, true), { lanes: lanes.partition, retries: delayed }),
      brokerDelays(can(true, true), { lanes: lanes.partition, retries: held }),
      brokerDelays(can(false, true), { lanes: lanes.unordered, retries: held }),
      brokerDelays(can(true, false), { lanes: lanes.unordered, retries: held })
    ], [true, true, false, false, false])
  })
})

describe("F11 X19 messages that are held in their lane", () => {
  const setUp = Effect.map(fakeLease(), (lease) => ({
    lease,
    policy: new HeldRetries(limits, false, middle),
    delivery: lease.take(0, 1, 2, 3, 4, 5, 6, 7)[0]!
  }))

  it.effect("F11 wait longer after each failure, and are given up after so many attempts, with their own error", () =>
    Effect.gen(function*() {
      const { delivery, policy } = yield* setUp
      const verdicts = [1, 2, 3].map((failure) => fail(policy, delivery, retry, failure, error))
      assert.deepStrictEqual(verdicts, ["hold 10", "hold 20", "give up: Error: own"])
      assert.strictEqual(policy.costOf(delivery)?.failures, 2)
      policy.settled(delivery)
      assert.strictEqual(policy.costOf(delivery), undefined)
      assert.strictEqual(fail(policy, delivery, retry, 9), "hold 10")
    }))

  it.effect("F11 the reason of a message without an error is the limit that it reached", () =>
    Effect.gen(function*() {
      const { delivery, lease, policy } = yield* setUp
      assert.strictEqual(fail(policy, delivery, retry, 100), "hold 10")
      assert.strictEqual(fail(policy, delivery, retry, 1099), "hold 20")
      const old = yield* setUp
      fail(old.policy, old.delivery, retry, 100)
      assert.strictEqual(fail(old.policy, old.delivery, retry, 1100), "give up: Error: Given up: it failed for 1000 ms")
      const passed = [...lease.state.open()].slice(1)
      for (const each of passed.slice(0, 5)) lease.settle(each, Outcome.Ack)
      const span = "give up: Error: Given up: 5 messages were settled ahead of it"
      assert.strictEqual(
        short(policy.decide(delivery, retry, undefined, 0)),
        "give up: Error: Given up: 3 attempts failed"
      )
      const other = yield* setUp
      fail(other.policy, other.delivery, retry, 0)
      const rest = [...other.lease.state.open()].slice(1)
      for (const each of rest.slice(0, 4)) other.lease.settle(each, Outcome.Ack)
      assert.strictEqual(short(other.policy.decide(other.delivery, retry, undefined, 0)), "hold 20")
      other.lease.settle(rest[4]!, Outcome.Ack)
      assert.strictEqual(short(other.policy.decide(other.delivery, retry, undefined, 0)), span)
    }))

  it.effect("F11 a time that an error names costs no attempt, no age and no span, but has a sum", () =>
    Effect.gen(function*() {
      const { delivery, lease, policy } = yield* setUp
      assert.strictEqual(fail(policy, delivery, retry, 0), "hold 10")
      assert.strictEqual(fail(policy, delivery, after(200), 10), "hold 200")
      for (const each of [...lease.state.open()].slice(1, 7)) lease.settle(each, Outcome.Ack)
      assert.strictEqual(fail(policy, delivery, after(0), 2000), "hold 10")
      assert.strictEqual(fail(policy, delivery, retry, 2500), "hold 20")
      assert.deepInclude(policy.costOf(delivery), { failures: 2, waited: 210, settledBefore: 6 })
      // 10 ms before the named waits
      assert.strictEqual(policy.costOf(delivery)?.since, 2490)
      assert.strictEqual(fail(policy, delivery, after(290), 2500), "hold 290")
      assert.strictEqual(
        fail(policy, delivery, after(11), 2500),
        "give up: Error: Given up: its errors named waits of 511 ms together"
      )
      assert.strictEqual(fail(policy, delivery, after(11), 2500, error), "give up: Error: own")
    }))

  it.effect("F11 a decision changes nothing, and the end of a lease forgets its messages only", () =>
    Effect.gen(function*() {
      const { delivery, lease, policy } = yield* setUp
      const other = yield* fakeLease()
      const [stays] = other.take(0)
      policy.decide(delivery, retry, error, 0)
      assert.strictEqual(policy.costOf(delivery), undefined)
      fail(policy, delivery, retry, 0, error)
      fail(policy, stays!, retry, 0)
      assert.strictEqual(policy.costOf(delivery)?.error, error)
      // what it failed with last is kept where an attempt ends without an error
      fail(policy, delivery, retry, 1)
      assert.strictEqual(policy.costOf(delivery)?.error, error)
      policy.forget(lease.state)
      assert.deepStrictEqual([policy.costOf(delivery), policy.costOf(stays!)?.failures], [undefined, 1])
    }))

  it.effect("T11 other outcomes are settled; a dead letter is the engine's, or the broker's where it writes them", () =>
    Effect.gen(function*() {
      const { delivery, policy } = yield* setUp
      const native = new HeldRetries(limits, true, middle)
      const letter = Outcome.DeadLetter(error)
      assert.strictEqual(policy.decide(delivery, Outcome.Ack, undefined, 0), acknowledged)
      assert.strictEqual(short(policy.decide(delivery, Outcome.Release, undefined, 0)), "Settle Release")
      assert.strictEqual(short(policy.decide(delivery, Outcome.Reject(), undefined, 0)), "Settle Reject")
      assert.strictEqual(short(policy.decide(delivery, letter, undefined, 0)), "give up: Error: own")
      assert.strictEqual(short(native.decide(delivery, letter, undefined, 0)), "Settle DeadLetter")
    }))
})

describe("F11 X19 messages that the broker delays", () => {
  const millis = (verdict: Verdict): number | string =>
    verdict._tag === "Settle" && verdict.outcome._tag === "Retry" && verdict.outcome.after !== undefined
      ? Number(/\d+/.exec(String(verdict.outcome.after))![0])
      : short(verdict)

  it.effect("F11 wait by the backoff and the broker's count of attempts", () =>
    Effect.gen(function*() {
      const { take } = yield* fakeLease()
      const [delivery] = take(0)
      const policy = new BrokerDelayedRetries(limits, false, middle)
      const verdicts: Array<number | string> = []
      for (const attempts of [1, 2, 3]) {
        delivery!.attempts = attempts
        verdicts.push(millis(policy.decide(delivery!, retry, undefined, 0)))
      }
      assert.deepStrictEqual(verdicts, [10, 20, "give up: Error: Given up: 3 attempts failed"])
      assert.strictEqual(millis(policy.decide(delivery!, after(500), undefined, 0)), 500)
      assert.strictEqual(millis(policy.decide(delivery!, after(1), undefined, 0)), 10)
      assert.strictEqual(
        millis(policy.decide(delivery!, after(501), undefined, 0)),
        "give up: Error: Given up: its errors named waits of 501 ms together"
      )
    }))

  it.effect("F11 wait by the delays of the subscription, where it has some", () =>
    Effect.gen(function*() {
      const retries = Retries.delayed(["1 second", "1 minute"])
      const policy = new BrokerDelayedRetries({ ...limits, retries }, false, middle)
      const verdicts = [1, 2, 3].map((attempt) =>
        millis(policy.decide(Deliveries.make({ attempt }), retry, undefined, 0))
      )
      assert.deepStrictEqual(verdicts, [1000, 60_000, "give up: Error: Given up: 3 attempts failed"])
    }))

  it.effect("F11 named waits add up to the present one for each attempt, and no more than the time since the message came", () =>
    Effect.gen(function*() {
      const policy = new BrokerDelayedRetries(limits, false, middle)
      const decide = (delivery: Delivery, wait: number, now: number) =>
        millis(policy.decide(delivery, after(wait), undefined, now))
      const tooLong = (sum: number) => `give up: Error: Given up: its errors named waits of ${sum} ms together`
      const unknown = (attempt: number) => Deliveries.make({ attempt, timestamp: undefined })
      assert.deepStrictEqual([decide(unknown(5), 100, 1), decide(unknown(6), 100, 1)], [100, tooLong(600)])
      const old = Deliveries.make({ attempt: 100, timestamp: 1000 })
      assert.deepStrictEqual([decide(old, 101, 1399), decide(old, 101, 1400)], [101, tooLong(501)])
      // from a clock that is ahead
      assert.strictEqual(decide(old, 500, 0), 500)
      const unreadable = Object.defineProperty(unknown(6), "timestamp", {
        get: () => {
          throw new Error("the driver cannot read")
        }
      })
      assert.strictEqual(decide(unreadable, 100, 1), tooLong(600))
    }))
})
