import { type Broker, type Delivery, Outcome } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { TestClock } from "effect/testing"
import { type InFlight, keyOf, laneHealth, StallMonitor } from "../../packages/core/src/internal/engine/stalls.ts"
import { lines, refusal } from "./altered.ts"
import { fakeLease } from "./support.ts"

const setUp = Effect.fnUntraced(function*(stalled: { readonly running: number; readonly waiting: number }) {
  const warnings = lines("Warn")
  const clock = yield* Clock.Clock
  let sleeps = 0
  const counted: Clock.Clock = {
    ...clock,
    sleep: (duration) => {
      sleeps++
      return clock.sleep(duration)
    }
  }
  const context = yield* Effect.context<never>().pipe(
    Effect.provide(warnings.layer),
    Effect.provideService(Clock.Clock, counted)
  )
  const lease = yield* fakeLease({ isSlow: true })
  const inFlight: Array<InFlight> = []
  const told: Array<readonly [number, string]> = []
  const monitor = new StallMonitor({ name: "billing", stalled }, context, clock, {
    inFlight: () => inFlight,
    leases: () => [lease.state]
  })
  /** The lines up to a time, each with the second in which it came. */
  const until = Effect.fnUntraced(function*(seconds: number, step = 1) {
    while (clock.currentTimeMillisUnsafe() < Math.round(seconds * 1000)) {
      const before = warnings.found.length
      yield* TestClock.adjust(step * 1000)
      for (const line of warnings.found.slice(before)) told.push([clock.currentTimeMillisUnsafe() / 1000, line])
    }
    return told.map(([at]) => at)
  })
  const add = (
    options: Partial<InFlight> = {},
    delivery: Delivery = Deliveries.make({ channel: "c", position: 7 })
  ) => {
    const one: InFlight = {
      delivery,
      state: "retry",
      since: clock.currentTimeMillisUnsafe(),
      error: undefined,
      behind: 0,
      ...options
    }
    inFlight.push(one)
    monitor.watch()
    return one
  }
  /** A commit that the broker does not answer. */
  const commit = Effect.suspend(() => {
    for (const each of lease.take(3)) lease.settle(each, Outcome.Ack)
    return Effect.forkChild(lease.state.tell(), { startImmediately: true })
  })
  return { monitor, add, commit, inFlight, lease, sleeps: () => sleeps, until, told, warnings }
})

const seconds = (running: number, waiting: number) => ({ running: running * 1000, waiting: waiting * 1000 })

describe("X15 messages that do not move", () => {
  it.effect("X15 are told of at doubling intervals, and anew when all had moved", () =>
    Effect.gen(function*() {
      const { add, inFlight, told, until } = yield* setUp(seconds(300, 10))
      add()
      assert.deepStrictEqual(yield* until(100), [10, 20, 40, 80])
      assert.strictEqual(
        told[2]![1],
        "billing is stuck for 40000 ms: the message of c, partition 0, position 7, attempt 1, waits for its next attempt"
      )
      inFlight[0] = { ...inFlight[0]!, since: 105_000 }
      // the look at 110 seconds finds none
      assert.deepStrictEqual((yield* until(155)).slice(4), [120, 130, 150])
      inFlight.length = 0
      assert.deepStrictEqual((yield* until(300)).slice(7), [])
      add()
      assert.deepStrictEqual((yield* until(330)).slice(7), [310, 320])
    }))

  const odd = {
    "only messages that wait are told": ["retry", seconds(Number.POSITIVE_INFINITY, 5), [5, 10, 20, 40]],
    "only handlers are told": ["running", seconds(5, Number.POSITIVE_INFINITY), [5, 10, 20, 40]],
    "no wait is short enough": ["retry", seconds(300, 0), [0.001, 0.002, 0.004, 0.008, 0.016, 0.032]]
  } as const
  for (const [name, [state, stalled, expected]] of Object.entries(odd)) {
    it.effect(`X15 intervals double also where ${name}`, () =>
      Effect.gen(function*() {
        const { add, inFlight, told, until } = yield* setUp(stalled)
        add({ state })
        const [pace] = expected
        const end = expected.at(-1)! + pace
        yield* until(end, pace)
        inFlight.length = 0
        yield* until(end + 4 * pace, pace)
        add({ state })
        yield* until(end + 8 * pace, pace)
        const again = [5, 6, 8].map((looks) => end + looks * pace)
        assert.deepStrictEqual(
          told.map(([at]) => Math.round(at * 1000)),
          [...expected, ...again].map((at) => Math.round(at * 1000))
        )
      }))
  }

  it.effect("X15 each kind by its own limit, the oldest first: handlers that run, messages and commits that wait", () =>
    Effect.gen(function*() {
      const { add, commit, monitor, until } = yield* setUp(seconds(30, 10))
      yield* commit
      yield* until(1)
      add({ state: "running" })
      yield* until(2)
      add()
      const stuck = (at: number) => Effect.map(until(at), () => monitor.stuck().map(({ since }) => since))
      assert.deepStrictEqual(yield* stuck(9), [])
      assert.deepStrictEqual(yield* stuck(10), [0])
      assert.deepStrictEqual(yield* stuck(12), [0, 2000])
      assert.deepStrictEqual(yield* stuck(30), [0, 2000])
      assert.deepStrictEqual(yield* stuck(31), [0, 1000, 2000])
      // of equal times, messages come before commits
      add({ since: 0 })
      assert.match(monitor.stuck()[0]!.text, /^the message /)
    }))

  it.effect("X15 a line names the oldest, its error, and how many more there are", () =>
    Effect.gen(function*() {
      const { add, commit, told, until } = yield* setUp(seconds(30, 10))
      yield* until(1)
      add(
        { state: "dead letter", error: refusal("NotFound") },
        Deliveries.make({ channel: "d", partition: 4, attempt: 3 })
      )
      yield* until(2)
      add({ state: "parked" })
      yield* commit
      yield* until(11)
      yield* until(21)
      const oldest =
        "the message of d, partition 4, position 0, attempt 3, waits until the broker confirms its dead letter (BrokerError)"
      assert.deepStrictEqual(told, [
        [11, `billing is stuck for 10000 ms: ${oldest}`],
        [21, `billing is stuck for 20000 ms: ${oldest}, and 2 more`]
      ])
    }))

  const texts: Record<Broker.LaneState, string> = {
    running: "runs its handler",
    retry: "waits for its next attempt",
    "delayed retry": "waits until the broker confirms its delayed retry",
    "dead letter": "waits until the broker confirms its dead letter",
    parked: "is parked, since the broker refuses its dead letter in every form",
    "durable effect": "waits until an effect of a hook is durable"
  }
  it.effect("X15 a line says for what a message waits", () =>
    Effect.gen(function*() {
      const { add, monitor, until } = yield* setUp(seconds(1, 1))
      for (const state of Object.keys(texts) as Array<Broker.LaneState>) add({ state })
      yield* until(1)
      const place = "the message of c, partition 0, position 7, attempt 1, "
      assert.deepStrictEqual(monitor.stuck().map(({ text }) => text), Object.values(texts).map((text) => place + text))
    }))

  it.effect("X15 a commit that is not answered is watched by itself", () =>
    Effect.gen(function*() {
      const { commit, lease, monitor, told, until } = yield* setUp(seconds(300, 10))
      yield* commit
      monitor.watch()
      assert.deepStrictEqual(yield* until(45), [10, 20, 40])
      assert.match(told[0]![1], /^billing is stuck for 10000 ms: the broker has not answered a commit of partition 0$/)
      yield* lease.answer()
      assert.deepStrictEqual(yield* until(200), [10, 20, 40])
    }))

  it.effect("X15 no timer runs where nothing is in flight, only one where much is, and none after the end", () =>
    Effect.gen(function*() {
      const { add, inFlight, monitor, sleeps, told, until } = yield* setUp(seconds(300, 10))
      monitor.end()
      const other = yield* setUp(seconds(300, 10))
      other.add()
      other.add()
      assert.strictEqual(other.sleeps(), 1)
      yield* until(10)
      assert.deepStrictEqual([other.told.length, other.sleeps()], [0, 2])
      other.inFlight.length = 0
      yield* until(30)
      assert.strictEqual(other.sleeps(), 2)
      other.add({ since: 0 })
      other.monitor.end()
      yield* until(60)
      assert.deepStrictEqual(other.warnings.found.length, 1)
      add()
      inFlight.length = 1
      yield* until(90)
      assert.deepStrictEqual([told, sleeps()], [[], 0])
    }))
})

describe("X15 what health shows of a message in flight", () => {
  it("X15 its place, key and attempt; a key that its driver cannot read is left out", () => {
    const delivery = Deliveries.make({ channel: "c", partition: 1, position: 2, key: "k", attempt: 3 })
    const one = { state: "retry" as const, since: 4, error: "e", behind: 5 }
    const shown = { channel: "c", partition: 1, position: 2, key: "k", attempt: 3, ...one }
    assert.deepStrictEqual(laneHealth({ delivery, ...one }), shown)
    const unreadable = Object.defineProperty(Deliveries.make(), "key", {
      get: () => {
        throw new Error("the driver cannot read")
      }
    })
    assert.deepStrictEqual([keyOf(delivery), keyOf(unreadable), keyOf(Deliveries.make())], ["k", undefined, undefined])
  })
})
