import { type Delivery, Eager, type Envelope, type Message, Outgoing, RateLimit, Settlement } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Layer, pipe } from "effect"
import * as fc from "fast-check"
import { TestClock } from "effect/testing"
import { Table } from "../../packages/core/src/middleware/rateLimit/gcra.ts"
import { deliver, runChain } from "./support.ts"

interface Numbers {
  readonly limit: number
  readonly window: number
  readonly burst: number
}

/** The reference: a bucket of whole parts, filled before each message; a message takes `window` parts, a millisecond brings `limit`. */
class Bucket {
  readonly numbers: Numbers
  private parts: bigint
  private last = 0
  constructor(numbers: Numbers) {
    this.numbers = numbers
    this.parts = BigInt(numbers.burst * numbers.window)
  }
  take(now: number, within: number): number {
    const [limit, window, burst] = [this.numbers.limit, this.numbers.window, this.numbers.burst].map(BigInt) as [
      bigint,
      bigint,
      bigint
    ]
    const filled = this.parts + BigInt(now - this.last) * limit
    this.parts = filled > burst * window ? burst * window : filled
    this.last = now
    const lacking = window - this.parts
    const wait = lacking <= 0n ? 0 : Number((lacking + limit - 1n) / limit)
    if (wait <= within) this.parts -= window
    return wait
  }
}

const numbers = fc.record({
  limit: fc.oneof(fc.integer({ min: 1, max: 20 }), fc.constantFrom(100, 997, 1000, 100_000)),
  window: fc.constantFrom(1, 7, 60, 999, 1000, 60_000),
  burst: fc.integer({ min: 1, max: 20 })
})

/** Steps between messages: mostly bursts, sometimes a pause. */
const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.constant(0) },
    fc.integer({ min: 0, max: 50 }),
    fc.integer({ min: 0, max: 100_000 })
  ),
  {
    minLength: 1,
    maxLength: 120
  }
)

/** More than the limit allows between any two turns, or undefined. A wait is rounded up to the clock's millisecond. */
const excess = (turns: ReadonlyArray<number>, { burst, limit, window }: Numbers, rounded = 0) => {
  for (let i = 0; i < turns.length; i++) {
    for (let j = i; j < turns.length; j++) {
      const most = burst + Math.floor((turns[j]! - turns[i]! + rounded) * limit / window)
      if (j - i + 1 > most) return `${j - i + 1} from ${turns[i]} to ${turns[j]}, at most ${most}`
    }
  }
  return undefined
}

const start = 1_700_000_000_000

describe("the count of one key", () => {
  it("F12 agrees with a bucket of whole tokens at every message", () => {
    fc.assert(
      fc.property(numbers, steps, fc.integer({ min: 0, max: 3000 }), (policy, steps, within) => {
        const table = new Table(policy, 1, start)
        const bucket = new Bucket(policy)
        let now = 0
        for (const step of steps) {
          now += step
          assert.strictEqual(table.take("key", start + now, within), bucket.take(now, within))
        }
      }),
      { numRuns: 500 }
    )
  })

  it("F12 lets no more than burst + rate * t pass over any time t, so never twice the rate at an edge", () => {
    fc.assert(
      fc.property(
        numbers,
        steps,
        fc.oneof(fc.constant(0), fc.integer({ min: 0, max: 3000 })),
        (policy, steps, within) => {
          const table = new Table(policy, 1, start)
          const turns: Array<number> = []
          let now = 0
          for (const step of steps) {
            now += step
            const wait = table.take("key", start + now, within)
            if (wait <= within) turns.push(now + wait)
          }
          assert.deepStrictEqual(turns, turns.toSorted((a, b) => a - b), "turns are in the order of arrival")
          assert.isUndefined(excess(turns, policy, within === 0 ? 0 : 1))
        }
      ),
      { numRuns: 1000 }
    )
  })

  it("F12 the wait it answers is exact: then the message passes, and a millisecond earlier it does not", () => {
    fc.assert(
      fc.property(numbers, steps, fc.integer({ min: 0, max: 100 }), (policy, steps, within) => {
        const table = new Table(policy, 1, start)
        let now = start
        for (const step of steps) {
          now += step
          const wait = table.take("key", now, within)
          if (wait <= within) continue
          assert.isAbove(table.take("key", now + wait - within - 1, within), within)
          assert.isAtMost(table.take("key", now + wait - within, within), within)
          now += wait - within
        }
      }),
      { numRuns: 500 }
    )
  })

  it("F12 a clock that is set back stops nobody and gives nobody more", () => {
    const table = new Table({ limit: 10, window: 1000, burst: 2 }, 1, start)
    assert.deepStrictEqual([0, 0, 0].map(() => table.take("key", start, 0)), [0, 0, 100])
    const back = start - 3_600_000
    assert.strictEqual(table.take("key", back, 0), 100)
    assert.strictEqual(table.take("key", back + 99, 0), 1)
    assert.strictEqual(table.take("key", back + 100, 0), 0)
  })

  it("F12 a year later the count is as exact as at the start", () => {
    const table = new Table({ limit: 997, window: 1000, burst: 1 }, 1, start)
    const later = start + 365 * 86_400_000
    let passed = 0
    for (let now = later; now < later + 1000; now++) if (table.take("key", now, 0) === 0) passed++
    assert.isAtLeast(passed, 500)
    const bucket = new Bucket({ limit: 997, window: 1000, burst: 1 })
    let expected = 0
    for (let now = 0; now < 1000; now++) if (bucket.take(now, 0) === 0) expected++
    assert.strictEqual(passed, expected)
  })
})

describe("the counts of many keys", () => {
  const operations = fc.array(fc.tuple(fc.integer({ min: 0, max: 12 }), fc.integer({ min: 0, max: 40 })), {
    maxLength: 400
  })

  it("F12 keys that come and go never get more than their limit, with room for few of them", () => {
    fc.assert(
      fc.property(numbers, fc.integer({ min: 1, max: 8 }), operations, (policy, capacity, operations) => {
        const table = new Table(policy, capacity, start)
        const turns = new Map<number, Array<number>>()
        let now = 0
        for (const [key, step] of operations) {
          now += step
          if (table.take(String(key), start + now, 0) === 0) turns.set(key, [...turns.get(key) ?? [], now])
          assert.isAtMost(table.size, capacity)
        }
        for (const [, each] of turns) assert.isUndefined(excess(each, policy))
      }),
      { numRuns: 500 }
    )
  })

  it("F12 a key with its whole burst makes room, and the others keep their counts", () => {
    const table = new Table({ limit: 1, window: 1000, burst: 1 }, 2, start)
    assert.strictEqual(table.take("old", start, 0), 0)
    assert.strictEqual(table.take("busy", start + 999, 0), 0)
    assert.strictEqual(table.take("new", start + 1000, 0), 0)
    assert.strictEqual(table.take("busy", start + 1000, 0), 999)
    assert.strictEqual(table.take("new", start + 1000, 0), 1000)
  })

  it("F12 a key that found no room and then finds some has no second burst", () => {
    const table = new Table({ limit: 1, window: 1000, burst: 5 }, 1, start)
    assert.strictEqual(table.take("first", start, 0), 0)
    assert.deepStrictEqual([0, 0, 0, 0, 0, 0].map(() => table.take("second", start, 0)), [0, 0, 0, 0, 0, 1000])
    assert.deepStrictEqual([0, 0].map(() => table.take("second", start + 1000, 0)), [0, 1000])
  })

  it("F12 every key with its whole burst is found in its turn", () => {
    const table = new Table({ limit: 1, window: 1000, burst: 3 }, 3, start)
    for (const key of ["busy", "busy", "busy", "a", "b"]) assert.strictEqual(table.take(key, start, 0), 0)
    for (const key of ["c", "c", "c", "d", "d", "d"]) assert.strictEqual(table.take(key, start + 1000, 0), 0)
    assert.strictEqual(table.take("busy", start + 1000, 0), 0)
    assert.strictEqual(table.take("busy", start + 1000, 0), 1000)
  })

  it("F12 keys are counted apart while there is room", () => {
    const table = new Table({ limit: 1, window: 1000, burst: 1 }, 5000, start)
    for (let i = 0; i < 5000; i++) assert.strictEqual(table.take(`key ${i}`, start, 0), 0)
    for (let i = 0; i < 5000; i++) assert.strictEqual(table.take(`key ${i}`, start, 0), 1000)
  })
})

const pass = (_message: Envelope) => Exit.succeed("passed")
const passed = (exit: Exit.Exit<unknown, unknown>) => exit._tag === "Success"

/** What a refusal says: key, limit, window, time to come back, and the policies that it is over. */
const told = (exit: Exit.Exit<unknown, unknown>) => {
  const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : exit
  assert.instanceOf(error, RateLimit.RateLimited)
  const { key, limit, retryAfter, violated, window } = error
  return [key, limit, Duration.toMillis(window), Duration.toMillis(retryAfter), violated]
}

const memory = Effect.provide(RateLimit.layerMemory())

/** Which of the messages pass, one after the other at one instant. */
const through = <M extends Envelope & Partial<Pick<Delivery, "hooks">>, E>(
  handler: (message: M) => Effect.Effect<unknown, E, RateLimit.Store>,
  messages: ReadonlyArray<M>
) => Effect.map(Effect.forEach(messages, (message) => runChain(handler, message)), (exits) => exits.map(passed))

describe("RateLimit", () => {
  it.effect("F12 takes 100 a second of a channel by default, and refuses the rest with the time to come back", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware()(pass)
      const exits = yield* Effect.replicateEffect(Effect.suspend(() => runChain(handler, deliver())), 101)
      assert.strictEqual(exits.filter(passed).length, 100)
      const refused = exits[100]!
      assert.deepStrictEqual(told(refused), ["orders", 100, 1000, 10, ["channel"]])
      const outcome = Settlement.ofExit({ entries: {}, table: Settlement.table }, refused)
      assert.isTrue(outcome._tag === "Retry" && Duration.toMillis(outcome.after ?? 0) === 10)
      yield* TestClock.adjust("9 millis")
      assert.isFalse(passed(yield* runChain(handler, deliver())))
      yield* TestClock.adjust("1 millis")
      assert.isTrue(passed(yield* runChain(handler, deliver())))
    }).pipe(memory))

  it.effect("F12 limits by channel, by consumer, by key of a channel, and by a function", () =>
    Effect.gen(function*() {
      const once = { limit: 1 } as const
      const orders = deliver({ key: "1" })
      const others = [
        deliver({ key: "2" }),
        deliver({ key: "1", group: "shipping" }),
        deliver({ key: "1", channel: "payments" })
      ]
      const messages = [orders, orders, ...others]
      assert.deepStrictEqual(
        yield* through(RateLimit.middleware({ ...once, by: "channel" })(pass), messages),
        [true, false, false, false, true]
      )
      assert.deepStrictEqual(
        yield* through(
          RateLimit.middleware({ ...once, by: "consumer" })((_: Message<Uint8Array>) => Exit.void),
          messages
        ),
        [true, false, false, true, false]
      )
      assert.deepStrictEqual(
        yield* through(RateLimit.middleware({ ...once, by: "key" })(pass), messages),
        [true, false, true, false, true]
      )
      const byBoth = pipe(
        (_message: Delivery) => Exit.void,
        RateLimit.middleware({ ...once, name: "both", by: (message) => `${message.key} ${message.origin.group}` })
      )
      assert.deepStrictEqual(yield* through(byBoth, messages), [true, false, true, true, false])
    }).pipe(memory))

  it.effect("F12 messages without a key share the limit of their channel", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware({ limit: 1, by: "key" })(pass)
      assert.deepStrictEqual(
        yield* through(handler, [deliver(), deliver(), deliver({ channel: "payments" }), deliver({ key: "orders" })]),
        [true, false, true, true]
      )
    }).pipe(memory))

  it.effect("F12 limits of one name and the same numbers share their counts, others do not", () =>
    Effect.gen(function*() {
      const limits = [
        RateLimit.middleware({ limit: 1 }),
        RateLimit.middleware({ limit: 1 }),
        RateLimit.middleware({ limit: 1, name: "other" }),
        RateLimit.middleware({ limit: 1, window: "2 seconds" })
      ]
      const passes = yield* Effect.forEach(limits, (limit) => runChain(limit(pass), deliver()))
      assert.deepStrictEqual(passes.map(passed), [true, false, true, true])
    }).pipe(memory))

  it.effect("F12 many fibers at once get no more than the limit, each at its turn and in order", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      const turns: Array<readonly [index: number, at: number]> = []
      const handler = RateLimit.middleware({
        limit: 50,
        burst: 5,
        onExceeded: "delay",
        maximumDelay: "10 seconds"
      })((message: Message<unknown>) =>
        Effect.sync(() => void turns.push([message.position, clock.currentTimeMillisUnsafe()]))
      )
      const fibers = yield* Effect.forEach(
        Array.from({ length: 505 }, (_, position) => deliver({ position })),
        (message) => Effect.forkChild(runChain(handler, message), { startImmediately: true })
      )
      yield* TestClock.adjust("9999 millis")
      assert.strictEqual(turns.length, 504)
      yield* TestClock.adjust("1 millis")
      assert.isTrue((yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))).every(passed))
      assert.deepStrictEqual(turns.map(([index]) => index), Array.from({ length: 505 }, (_, i) => i))
      assert.deepStrictEqual(
        turns.map(([, at]) => at),
        Array.from({ length: 505 }, (_, i) => Math.max(0, i - 4) * 20)
      )
    }).pipe(memory))

  it.effect("F12 a wait beyond the maximum is refused at once, and spends nothing", () =>
    Effect.gen(function*() {
      const options = { limit: 1, onExceeded: "delay", maximumDelay: "1500 millis" } as const
      const handler = RateLimit.middleware(options)(pass)
      const run = Effect.suspend(() => runChain(handler, deliver()))
      assert.isTrue(passed(yield* run))
      const waiting = yield* Effect.forkChild(run, { startImmediately: true })
      assert.deepStrictEqual(told(yield* run), ["orders", 1, 1000, 500, ["channel"]])
      assert.deepStrictEqual(told(yield* run), ["orders", 1, 1000, 500, ["channel"]])
      yield* TestClock.adjust("500 millis")
      const next = yield* Effect.forkChild(run, { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      assert.isTrue(passed(yield* Fiber.join(waiting)))
      yield* TestClock.adjust("999 millis")
      assert.isUndefined(next.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      assert.isTrue(passed(yield* Fiber.join(next)))
    }).pipe(memory))

  it.effect("F12 F11 a consumer waits at most half of what its broker allows an attempt, a publisher the maximum", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware({ limit: 1, onExceeded: "delay", maximumDelay: "10 seconds" })(pass)
      const message = deliver({ channel: "held", holdLimit: 1998 })
      assert.isTrue(passed(yield* runChain(handler, message)))
      const refused = yield* runChain(handler, message)
      assert.isTrue(Exit.isFailure(refused))
      const outcome = Settlement.ofExit({ entries: {}, table: Settlement.table }, refused)
      assert.isTrue(outcome._tag === "Retry" && Duration.toMillis(outcome.after ?? 0) === 1)
      const outgoing = new Outgoing("held", new Uint8Array(), undefined, {})
      const fiber = yield* Effect.forkChild(runChain(handler, outgoing), { startImmediately: true })
      yield* TestClock.adjust("1 seconds")
      assert.isTrue(passed(yield* Fiber.join(fiber)))
    }).pipe(memory))

  it.effect("F12 interrupting a wait never runs the handler", () =>
    Effect.gen(function*() {
      let ran = 0
      const handler = RateLimit.middleware({ limit: 1, onExceeded: "delay" })((_: Envelope) => Effect.sync(() => ran++))
      yield* runChain(handler, deliver())
      const fiber = yield* Effect.forkChild(Effect.suspend(() => handler(deliver())), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(ran, 1)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
    }).pipe(memory))

  it.effect("F12 a store that cannot be asked sends the message back, and one that is asked late is awaited", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware()(pass)
      const down = new RateLimit.RateLimitUnavailable({ message: "down" })
      const lease = { renew: () => Effect.fail(down), release: () => Effect.fail(down) }
      const failing = Layer.succeed(RateLimit.Store, { ...lease, take: () => Effect.fail(down) })
      const exit = yield* runChain(handler, deliver()).pipe(Effect.provide(failing))
      assert.deepStrictEqual<unknown>(exit, Exit.fail(down))
      assert.strictEqual(Settlement.ofExit({ entries: {}, table: Settlement.table }, exit)._tag, "Retry")
      const late = Layer.succeed(RateLimit.Store, {
        ...lease,
        take: () => Effect.as(Effect.yieldNow, { isAdmitted: true, wait: 0, verdicts: [], at: 0, lease: 0 })
      })
      assert.isTrue(passed(yield* runChain(handler, deliver()).pipe(Effect.provide(late))))
    }))

  it.effect("F12 X9 memory answers at once", () =>
    Effect.gen(function*() {
      const handler = RateLimit.middleware({ limit: 1 })(pass)
      assert.isTrue(yield* Effect.sync(() => Eager.isDone(handler(deliver()))))
      assert.isTrue(yield* Effect.sync(() => Eager.isDone(handler(deliver()))))
    }).pipe(memory))

  it("options out of range are refused when the middleware is built", () => {
    for (const limit of [0, -1, 1.5, Number.NaN, Infinity]) {
      assert.throws(() => RateLimit.middleware({ limit }), RangeError, "RateLimit: limit must be an integer from 1")
      assert.throws(() => RateLimit.middleware({ burst: limit }), RangeError, "RateLimit: burst")
      assert.throws(() => RateLimit.layerMemory({ capacity: limit }), RangeError, "RateLimit: capacity")
    }
    assert.throws(() => RateLimit.middleware({ window: 0 }), RangeError, "RateLimit: window")
    assert.throws(() => RateLimit.middleware({ window: "400 micros" }), RangeError, "RateLimit: window")
    assert.throws(() => RateLimit.middleware({ maximumDelay: "-1 millis" }), RangeError, "RateLimit: maximumDelay")
  })
})
