import { Channel, type Delivery, Outcome, Outgoing, Retries, Subscription } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { ChannelRetries, RetryChannels } from "../../packages/core/src/internal/engine/RetryChannels.ts"
import type { Limits, Verdict } from "../../packages/core/src/internal/engine/RetryPolicy.ts"
import { fakeLease } from "./support.ts"

/** How an attempt ends: it fails, or it fails with an error that names a wait in milliseconds. */
type Failed = "fails" | number

interface Sent {
  readonly tier: number
  /** Milliseconds until its next attempt. */
  readonly after: number
  /** How many attempts have failed without a time of their own, where this is such a one. */
  readonly failures: number | undefined
}

interface Journey {
  /** Each attempt: its number and its time. */
  readonly runs: ReadonlyArray<readonly [number, number]>
  /** The retry channels that the message was put into after its attempts, or while it was passed on. */
  readonly sent: ReadonlyArray<Sent>
  /** The longest time in one retry channel, beyond the delay of that channel. */
  readonly overstay: number
  readonly end: "handled" | "given up"
}

const base = 5
const begin = 1_000_000
const own = new Error("own")

const limitsOf = (retries: Retries.Delayed, retryAfter: number): Limits => ({
  hold: { attempts: 1, age: 1, span: 1, retryAfter },
  backoff: { base, factor: 1, cap: base, jitter: 0 },
  retries
})

const Orders = Channel.bytes("orders")

/** Brings one message through its retry channels, in place of the engine and the broker. Its attempts end as `failed` says. */
const journey = (delays: Retries.Delayed["delays"], retryAfter: number, failed: ReadonlyArray<Failed>) =>
  Effect.gen(function*() {
    let now = begin
    const clock = { ...(yield* Clock.Clock), currentTimeMillisUnsafe: () => now }
    const retries: Retries.Delayed = { _tag: "delayed", delays, prefix: undefined }
    const runs: Array<readonly [number, number]> = []
    const { consumer } = Subscription.make(Orders, { group: "g", name: "s" }, ({ attempt, channel, key, position }) => {
      assert.deepStrictEqual([channel, key, position], ["orders", "k", 0])
      runs.push([attempt, now - begin])
      const how = failed[runs.length - 1]
      return Exit.succeed(how === undefined ? Outcome.Ack : Outcome.Retry(how === "fails" ? {} : { after: how }))
    })
    const channels = new RetryChannels(consumer, retries, clock)
    const policies = Array.from(
      { length: delays.length + 1 },
      (_, tier) => new ChannelRetries(limitsOf(retries, retryAfter), false, { channels, tier })
    )
    const { state } = yield* fakeLease()
    const arrive = (channel: string, headers: { readonly [name: string]: string }, position: number): Delivery => {
      const delivery = Deliveries.make({ channel, headers, key: "k", position })
      state.take([delivery])
      return delivery
    }
    const sent: Array<Journey["sent"][number]> = []
    let overstay = 0
    let tier = 0
    let delivery = arrive("orders", {}, 0)
    for (let turn = 0; turn < 1000; turn++) {
      const ran = runs.length
      const handle = tier === 0 ? consumer.handle : channels.consumer(consumer, tier).handle
      const outcome = (yield* handle(delivery)) as Outcome.Outcome
      const isPassed = runs.length === ran
      const verdict: Verdict = policies[tier]!.decide(delivery, outcome, isPassed ? undefined : own, now)
      if (verdict._tag === "Hold") {
        policies[tier]!.held(delivery, verdict)
        assert.isBelow(verdict.after, delays[0])
        delivery.attempts++
        now += verdict.after
      } else if (verdict._tag === "Publish") {
        policies[tier]!.settled(delivery)
        assert.strictEqual(verdict.error, isPassed ? undefined : own)
        const { channel, headers } = verdict.outgoing
        tier = channels.channels.indexOf(channel) + 1
        assert.isAbove(tier, 0)
        delivery = arrive(channel, headers, turn + 1)
        const before = now
        now = channels.due(delivery, tier)
        const isPlain = !isPassed && failed[ran] === "fails"
        const failures = isPlain ? failed.slice(0, runs.length).filter((how) => how === "fails").length : undefined
        sent.push({ tier, failures, after: Retries.read(delivery, "g")!.due - before })
        overstay = Math.max(overstay, now - before - delays[tier - 1]!)
      } else {
        if (verdict._tag === "GiveUp") assert.strictEqual(verdict.outcome.error, own)
        return { runs, sent, overstay, end: verdict._tag === "GiveUp" ? "given up" : "handled" } satisfies Journey
      }
    }
    return assert.fail("the message does not arrive")
  })

/** When the attempts are, and how the message ends. */
const expected = (delays: ReadonlyArray<number>, retryAfter: number, failed: ReadonlyArray<Failed>) => {
  const runs: Array<readonly [number, number]> = []
  let [at, failures, waited] = [0, 0, 0]
  for (const how of [...failed, undefined]) {
    runs.push([runs.length + 1, at])
    if (how === undefined) return { runs, end: "handled" }
    if (how === "fails") {
      const delay = delays[failures++]
      if (delay === undefined) break
      at += delay
    } else {
      const wait = Math.max(how, base)
      waited += wait
      if (waited > retryAfter) break
      at += wait
    }
  }
  return { runs, end: "given up" }
}

const delays = fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 4 })
  .map((found) => Retries.delayed(found.toSorted((a, b) => a - b)).delays)
const attempt = fc.oneof<[fc.Arbitrary<Failed>, fc.Arbitrary<Failed>]>(
  fc.constant("fails"),
  fc.integer({ min: 0, max: 150 })
)

describe("F11 X3 a message on its way through retry channels", () => {
  it("F11 X4 its attempts come exactly at their times, counted from 1, and no channel keeps it for much longer than its delay", () => {
    const lengths = fc.integer({ min: 50, max: 400 })
    fc.assert(
      fc.property(delays, lengths, fc.array(attempt, { maxLength: 8 }), (delays, retryAfter, failed) => {
        const { end, overstay, runs, sent } = Effect.runSync(journey(delays, retryAfter, failed))
        assert.deepStrictEqual({ runs, end }, expected(delays, retryAfter, failed))
        // the rest of its time is waited in the same channel only where it is shorter than any delay
        assert.isBelow(overstay, delays[0])
        for (const { after, failures, tier } of sent) {
          // the channel of its failure, or the longest delay that is not too long
          if (failures !== undefined) assert.strictEqual(tier, failures)
          else {
            assert.isAtMost(delays[tier - 1]!, after)
            assert.isAbove(delays[tier] ?? Number.POSITIVE_INFINITY, after)
          }
        }
      }),
      { numRuns: 300 }
    )
  })
})

const setUp = Effect.gen(function*() {
  const clock = yield* Clock.Clock
  const retries = Retries.delayed(["1 second", "1 minute"])
  const { consumer } = Subscription.make(
    Orders,
    { group: "g", name: "s", from: "latest", retries, deadLetters: "letters" },
    (delivery) => {
      delivery.after(() => undefined)
      return Exit.succeed(delivery.attempt)
    }
  )
  const channels = new RetryChannels(consumer, retries, clock)
  const limits = limitsOf(retries, 500)
  const { state } = yield* fakeLease()
  const take = (options: Deliveries.Options): Delivery => {
    const delivery = Deliveries.make(options)
    state.take([delivery])
    return delivery
  }
  const place = { position: 3, partition: 2, timestamp: 4, key: "k", headers: { trace: "t" } }
  const original = take({ ...place, channel: "orders", body: "b" })
  const progress = { attempts: 1, failures: 1, named: 20, at: 1000, due: 2000 }
  const { headers } = Retries.toOutgoing(original, channels.channels[0]!, progress)
  /** The message in its first retry channel, for its second attempt. */
  const waiting = take({
    channel: channels.channels[0]!,
    headers: { ...place.headers, ...headers },
    key: "k",
    body: "b"
  })
  /** A message that the engine did not put into the retry channel. */
  const foreign = take({ channel: channels.channels[0]! })
  /** A message whose headers its driver cannot read. */
  const unreadable = Object.defineProperty(take({}), "headers", {
    get: () => {
      throw new Error("the driver cannot read")
    }
  })
  return { consumer, channels, limits, original, waiting, foreign, unreadable }
})

describe("F11 the retry channels of a subscription", () => {
  it.effect("F11 have the names of channel and group, or a prefix, and readers with a group for each", () =>
    Effect.gen(function*() {
      const { channels, consumer } = yield* setUp
      assert.deepStrictEqual(channels.channels, ["orders.g.retry-1", "orders.g.retry-2"])
      const named = new RetryChannels(consumer, Retries.delayed([1], { prefix: "p" }), yield* Clock.Clock)
      assert.deepStrictEqual(named.channels, ["p.retry-1"])
      assert.deepInclude(channels.consumer({ ...consumer, pattern: {} as never }, 2), {
        channel: "orders.g.retry-2",
        group: "g.retry-2",
        name: "s",
        from: "earliest",
        pattern: undefined,
        deadLetterChannel: undefined
      })
    }))

  it.effect("F11 a reader looks at a message at its time, and at the end of the delay where the rest is as long as any delay", () =>
    Effect.gen(function*() {
      const { channels, foreign, original, unreadable, waiting } = yield* setUp
      const due = (due: number, tier: number) => {
        const headers = Retries.toOutgoing(original, "c", { attempts: 1, failures: 1, named: 0, at: 1000, due }).headers
        return channels.due(Deliveries.make({ headers }), tier)
      }
      assert.deepStrictEqual([channels.due(waiting, 1), due(2999, 1), due(3000, 1), due(61_999, 2)], [
        2000,
        2999,
        2000,
        61_999
      ])
      assert.strictEqual(due(62_000, 2), 61_000)
      // at once, for their reader makes dead letters of them
      assert.deepStrictEqual([channels.due(foreign, 1), channels.due(unreadable, 1)], [0, 0])
    }))

  it.effect("F11 X1 the handler sees the message as it was, when its time has come; its hooks are run", () =>
    Effect.gen(function*() {
      const { channels, consumer, foreign, waiting } = yield* setUp
      const seen: Array<Delivery> = []
      const own = channels.consumer({
        ...consumer,
        handle: (delivery) => {
          seen.push(delivery)
          return consumer.handle(delivery)
        }
      }, 1)
      yield* TestClock.setTime(1990)
      const early = (yield* own.handle(waiting)) as Outcome.Retry
      assert.deepStrictEqual([Duration.toMillis(early.after!), seen, waiting.hooks], [10, [], undefined])
      yield* TestClock.setTime(2000)
      assert.strictEqual(yield* own.handle(waiting), 2)
      const { channel, headers, key, origin, partition, position, timestamp } = seen[0]!
      assert.strictEqual(origin.group, "g")
      assert.deepStrictEqual(
        { channel, headers: { ...headers }, key, partition, position, timestamp },
        { channel: "orders", headers: { trace: "t" }, key: "k", partition: 2, position: 3, timestamp: 4 }
      )
      assert.strictEqual(waiting.hooks?.length, 1)
      const odd = (yield* own.handle(foreign)) as Outcome.DeadLetter
      assert.deepStrictEqual([odd._tag, String(odd.error)], ["DeadLetter", "Error: orders.g.retry-1 holds retries"])
    }))

  it.effect("F13 a dead letter is that of the message as it was, or of one that cannot be read, as it is", () =>
    Effect.gen(function*() {
      const { channels, consumer, foreign, original, unreadable, waiting } = yield* setUp
      const composed: Array<readonly [Delivery, unknown, number, string]> = []
      const reader = channels.consumer({
        ...consumer,
        deadLetter: (...all) => {
          composed.push(all)
          return new Outgoing("letters", new Uint8Array(0), undefined, {})
        }
      }, 1)
      for (const each of [waiting, foreign, unreadable]) reader.deadLetter(each, own, 5, "bare")
      for (const [, ...rest] of composed) assert.deepStrictEqual(rest, [own, 5, "bare"])
      const [first, ...others] = composed.map(([delivery]) => delivery)
      assert.deepStrictEqual([first!.channel, first!.position, others], ["orders", original.position, [
        foreign,
        unreadable
      ]])
    }))
})

describe("F11 X19 decisions on a message of a retry channel", () => {
  const retry = Outcome.Retry()
  const reason = (verdict: Verdict) => verdict._tag === "GiveUp" ? String(verdict.outcome.error) : verdict._tag

  it.effect("F11 the reason of one without an error is the limit that it reached; a broker may write its dead letter", () =>
    Effect.gen(function*() {
      const { channels, limits, original, waiting } = yield* setUp
      const [first, second] = [0, 1].map((tier) => new ChannelRetries(limits, false, { channels, tier }))
      const after = (milliseconds: number) => Outcome.Retry({ after: milliseconds })
      const named = "Error: Given up: its errors named waits of 501 ms together"
      assert.strictEqual(reason(first!.decide(original, after(501), undefined, 2000)), named)
      assert.strictEqual(reason(second!.decide(waiting, after(481), undefined, 2000)), named)
      assert.strictEqual(reason(second!.decide(waiting, after(480), undefined, 2000)), "Hold")
      const headers = { ...waiting.headers, [Retries.names.failures]: "2" }
      const last = Deliveries.make({ channel: waiting.channel, headers })
      assert.strictEqual(reason(second!.decide(last, retry, undefined, 2000)), "Error: Given up: 3 attempts failed")
      const native = new ChannelRetries(limits, true, { channels, tier: 0 })
      assert.deepInclude(native.decide(original, after(501), own, 2000), {
        _tag: "Settle",
        outcome: Outcome.DeadLetter(own)
      })
    }))

  it.effect("F11 one in its own channel begins anew, though it has the headers of a retry", () =>
    Effect.gen(function*() {
      const { channels, limits, waiting } = yield* setUp
      const verdict = new ChannelRetries(limits, false, { channels, tier: 0 }).decide(waiting, retry, own, 2000)
      const sent = verdict._tag === "Publish" ? verdict.outgoing : undefined
      assert.strictEqual(sent?.channel, "orders.g.retry-1")
      assert.strictEqual(sent?.headers[Retries.names.failures], "1")
    }))

  it.effect("F11 X15 one that waits in its lane shows its error and since when it fails, until it is settled", () =>
    Effect.gen(function*() {
      const { channels, limits, original } = yield* setUp
      const policy = new ChannelRetries(limits, false, { channels, tier: 0 })
      for (const now of [100, 150]) {
        const verdict = policy.decide(original, Outcome.Retry({ after: 50 }), own, now)
        if (verdict._tag === "Hold") policy.held(original, verdict)
      }
      assert.deepInclude(policy.costOf(original), { since: 100, waited: 100, error: own })
      const verdict = policy.decide(original, retry, own, 200)
      const sent = verdict._tag === "Publish" ? verdict.outgoing : undefined
      assert.strictEqual(sent?.headers[Retries.names.named], "100")
      policy.settled(original)
      assert.strictEqual(policy.costOf(original), undefined)
    }))
})
