import { type Driver, Lanes } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Effect, Exit, Fiber, Metric, Scope } from "effect"
import { TestClock } from "effect/testing"
import { lines, refusal } from "./altered.ts"
import { delivery, scripted, started, starting, subscribed } from "./scripted.ts"

const committing = (commit: Driver.Lease["commit"] = () => Effect.void): Driver.Lease => ({ partition: 0, commit })

describe("X4 the end of a connection", () => {
  it.effect("X4 interrupts what runs, and closes its scope, before there is another", () =>
    Effect.gen(function*() {
      const steps: Array<string> = []
      const { events, lives, running } = yield* started(() =>
        Effect.onInterrupt(Effect.never, () =>
          Effect.delay(Effect.sync(() => void steps.push("interrupted", ...events)), 10))
      )
      const { sink } = lives[0]!
      const lease = committing()
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0)])
      yield* TestClock.adjust(1)
      yield* lives[0]!.end(refusal("Lost"))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(steps, ["interrupted", "connected"])
      assert.deepStrictEqual(events, ["connected", "closed", "connected"])
      assert.deepInclude(yield* running.health, { leases: [], pending: 0, restarts: 1 })
    }).pipe(Effect.scoped))

  it.effect("X4 a finalizer of the driver that throws is the last error, and there is another connection", () =>
    Effect.gen(function*() {
      const { broker, lives } = yield* scripted({}, () => Effect.addFinalizer(() => Effect.die("broken")))
      const start = yield* starting(broker)
      yield* TestClock.adjust(1)
      lives[0]!.sink.ready()
      const running = yield* Fiber.join(start)
      yield* lives[0]!.end()
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual([lives.length, (yield* running.health).lastError], [2, "broken"])
    }).pipe(Effect.scoped))

  for (const life of [0, 1]) {
    it.effect(`X3 a refused commit ends connection ${life + 1}, also where the driver offers as it is called`, () =>
      Effect.gen(function*() {
        const refused = refusal("Permission")
        let lives = 0
        const { broker } = yield* scripted({
          consume: (_, sink) => {
            sink.ready()
            const lease = committing(() => lives === life + 1 ? Effect.fail(refused) : Effect.void)
            if (lives++ === life) {
              sink.open(lease)
              void sink.offer(lease, [delivery(0)])
              return Effect.never
            }
            return lives <= life ? Effect.void : Effect.never
          }
        })
        const running = yield* broker.consume(subscribed(undefined, { restart: { base: 0 } }))
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(lives, life + 2)
        assert.strictEqual((yield* running.health).lastError, refused)
      }).pipe(Effect.scoped))
  }
})

describe("X4 the drain of a source", () => {
  it.effect("X4 stops the driver, lets handlers end, commits, and only then leaves the group", () =>
    Effect.gen(function*() {
      const { events, lives, running } = yield* started(() =>
        Effect.andThen(Effect.sleep(50), Effect.sync(() => void events.push("handled")))
      )
      const { sink } = lives[0]!
      const lease = committing(() => Effect.andThen(Effect.sleep(5), Effect.sync(() => void events.push("committed"))))
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0)])
      yield* TestClock.adjust(1)
      const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
      yield* TestClock.adjust(100)
      yield* Fiber.join(drain)
      assert.deepStrictEqual(events, ["connected", "stopped", "handled", "committed", "closed"])
    }).pipe(Effect.scoped))

  it.effect("X4 has its time once, whatever handlers do", () =>
    Effect.gen(function*() {
      const { lives, running } = yield* started(() => Effect.uninterruptible(Effect.sleep("1 hour")), {
        grace: { drain: 10 }
      })
      const { sink } = lives[0]!
      const lease = committing()
      sink.open(lease)
      yield* sink.offer(lease, [delivery(0)])
      yield* TestClock.adjust(1)
      const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
      yield* TestClock.adjust(1009)
      assert.isUndefined(drain.pollUnsafe())
      yield* TestClock.adjust(1)
      yield* Fiber.join(drain)
      yield* TestClock.adjust("1 hour")
    }).pipe(Effect.scoped))

  it.effect("X4 fails a start that is not over", () =>
    Effect.gen(function*() {
      const { broker, events } = yield* scripted()
      const scope = yield* Scope.make()
      const start = yield* Effect.forkChild(Effect.flip(Scope.provide(broker.consume(subscribed()), scope)))
      yield* TestClock.adjust(1)
      yield* Scope.close(scope, Exit.void)
      const { message, reason } = yield* Fiber.join(start)
      assert.deepStrictEqual([reason, message], [
        "Lost",
        "Subscription s was drained before its source was ready."
      ])
      assert.deepStrictEqual(events, ["connected", "stopped", "closed"])
    }))

  for (const isStarted of [true, false]) {
    it.effect(`X4 leaves no fiber behind, and none has ended by a defect, where the start ${isStarted ? "was well" : "failed"}`, () =>
      Effect.gen(function*() {
        let fibers = 0
        const defects: Array<string> = []
        const metrics: Metric.FiberRuntimeMetricsService = {
          recordFiberStart: () => void fibers++,
          recordFiberEnd: (_, exit) => {
            fibers--
            if (exit._tag === "Failure" && Cause.hasDies(exit.cause)) defects.push(Cause.pretty(exit.cause))
          }
        }
        const { broker, lives } = yield* scripted(
          {},
          (life) => isStarted ? Effect.sync(life.sink.ready) : life.end(refusal("Credentials"))
        )
        yield* Effect.gen(function*() {
          const before = fibers
          const start = yield* Effect.exit(broker.consume(subscribed(() => Effect.sleep(10))))
          assert.strictEqual(Exit.isSuccess(start), isStarted)
          if (Exit.isSuccess(start)) {
            const lease = committing()
            lives[0]!.sink.open(lease)
            yield* lives[0]!.sink.offer(lease, [delivery(0)])
            yield* TestClock.adjust(1)
            assert.isAbove(fibers, before)
            const drain = yield* Effect.forkChild(start.value.drain, { startImmediately: true })
            yield* TestClock.adjust("1 second")
            yield* Fiber.join(drain)
          }
          assert.deepStrictEqual([fibers, defects], [before, []])
        }).pipe(Effect.scoped, Effect.provideService(Metric.FiberRuntimeMetrics, metrics))
      }))
  }
})

describe("F2 a defect of the engine", () => {
  /** Provides a clock that throws as often as `arm` says. */
  const withClock = Effect.map(Clock.Clock, (clock) => {
    let faults = 0
    let thrown = 0
    const throwing: Clock.Clock = {
      ...clock,
      currentTimeMillis: clock.currentTimeMillis,
      currentTimeNanos: clock.currentTimeNanos,
      monotonicTimeNanos: clock.monotonicTimeNanos,
      sleep: (duration) => clock.sleep(duration),
      currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
      monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
      currentTimeMillisUnsafe: () => {
        if (faults === 0) return clock.currentTimeMillisUnsafe()
        faults--
        thrown++
        throw new Error("no time")
      }
    }
    return {
      arm: (count: number) => void (faults = count),
      thrown: () => thrown,
      provide: Effect.provideService(Clock.Clock, throwing)
    }
  })

  for (const base of [0, 200]) {
    it.effect(`F2 in its loop is logged, shown, and starts the source again, after a base of ${base} ms`, () => {
      const errors = lines("Error")
      return Effect.gen(function*() {
        const { arm, provide } = yield* withClock
        const handled: Array<number> = []
        const { broker, lives } = yield* scripted({}, ({ sink }) => {
          sink.ready()
          sink.open(leases[lives.length - 1]!)
          return Effect.void
        })
        const leases = [committing(), committing()]
        const running = yield* provide(
          broker.consume(
            subscribed(({ position }) => Effect.sync(() => void handled.push(position)), { restart: { base } })
          )
        )
        yield* TestClock.adjust(10)
        // what resumes wakes the loop
        yield* running.pause
        arm(1)
        yield* running.resume
        yield* TestClock.adjust(0)
        assert.strictEqual(String((yield* running.health).lastError), "Error: no time")
        assert.deepStrictEqual(errors.found, ["The engine of s failed; it starts again"])
        yield* TestClock.adjust(Math.max(base, 1))
        assert.strictEqual(lives.length, 2)
        yield* lives[1]!.sink.offer(leases[1]!, [delivery(0)])
        yield* TestClock.adjust(10)
        assert.deepStrictEqual([handled, (yield* running.health).restarts], [[0], 1])
      }).pipe(Effect.scoped, Effect.provide(errors.layer))
    })
  }

  it.effect("F2 that comes again and again is no hot loop, also with a base of 0 ms", () =>
    Effect.gen(function*() {
      const { arm, provide, thrown } = yield* withClock
      const { broker } = yield* scripted({}, ({ sink }) => Effect.sync(sink.ready))
      const running = yield* provide(broker.consume(subscribed(undefined, { restart: { base: 0 } })))
      yield* running.pause
      arm(1000)
      yield* running.resume
      yield* TestClock.adjust(5)
      arm(0)
      // the lines that report it ask for the time, too
      assert.isAbove(thrown(), 4)
      assert.isBelow(thrown(), 100)
    }).pipe(Effect.scoped))

  it.effect("F2 between two connections is logged, shown, and followed by the next connection", () => {
    const errors = lines("Error")
    return Effect.gen(function*() {
      const { arm, provide } = yield* withClock
      const { broker, lives } = yield* scripted({}, ({ sink }) => Effect.sync(sink.ready))
      const running = yield* provide(broker.consume(subscribed()))
      yield* TestClock.adjust(10)
      arm(1)
      yield* lives[0]!.end(refusal("Lost"))
      yield* TestClock.adjust(99)
      assert.deepStrictEqual([lives.length, String((yield* running.health).lastError)], [1, "Error: no time"])
      assert.deepStrictEqual(errors.found, ["The engine of s failed; it starts again"])
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([lives.length, (yield* running.health).state], [2, "running"])
    }).pipe(Effect.scoped, Effect.provide(errors.layer))
  })
})

describe("W8 what health shows of a source", () => {
  it.effect("W8 its leases, in the order of their partitions, each with its channel", () =>
    Effect.gen(function*() {
      const { lives, running } = yield* started()
      const { sink } = lives[0]!
      const { commit } = committing()
      const leases = [10, 2, 1].map((partition): Driver.Lease => ({
        commit,
        partition,
        channel: partition === 2 ? "d" : undefined
      }))
      for (const lease of leases) sink.open(lease)
      yield* sink.offer(leases[1]!, [delivery(6)])
      yield* TestClock.adjust(1)
      const health = yield* running.health
      assert.deepStrictEqual(health.partitions, [1, 2, 10])
      assert.deepStrictEqual(
        health.leases.map(({ channel, partition, pending, position }) => [channel, partition, pending, position]),
        [["c", 10, 0, undefined], ["d", 2, 0, 7], ["c", 1, 0, undefined]]
      )
    }).pipe(Effect.scoped))

  it.effect("W8 the first hundred messages that wait, the oldest first", () =>
    Effect.gen(function*() {
      const { lives, running } = yield* started(() => Effect.sleep(10), { lanes: Lanes.unordered(200) })
      const { sink } = lives[0]!
      const lease = committing()
      sink.open(lease)
      const shown: Array<ReadonlyArray<number>> = []
      const oldest: Array<object | undefined> = []
      for (const count of [99, 1, 1]) {
        const from = (yield* running.health).pending
        yield* sink.offer(lease, Array.from({ length: count }, (_, i) => delivery(from + i, `k${from + i}`)))
        yield* TestClock.adjust(1)
        const health = yield* running.health
        shown.push(health.lanes.map(({ position }) => position))
        oldest.push(health.oldest)
      }
      // what runs is over before the test can fail, so that its drain waits for nothing
      yield* TestClock.adjust("1 second")
      const first = { key: "k0", position: 0, partition: 0, since: 0 }
      assert.deepStrictEqual(shown, [99, 100, 100].map((length) => Array.from({ length }, (_, i) => i)))
      assert.deepStrictEqual(oldest, [first, first, first])
      assert.deepInclude(yield* running.health, { lanes: [], oldest: undefined })
    }).pipe(Effect.scoped))
})
