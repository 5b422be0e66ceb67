import type { Driver } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Metric } from "effect"
import { TestClock } from "effect/testing"
import { refusal } from "./altered.ts"
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
      const scope = yield* Effect.scope
      const start = yield* Effect.forkIn(
        Effect.flip(Effect.scoped(broker.consume(subscribed(
          undefined,
          {}
        )))),
        scope
      )
      yield* TestClock.adjust(1)
      yield* Fiber.interrupt(start)
      assert.deepStrictEqual(events, ["connected", "stopped", "closed"])
    }).pipe(Effect.scoped))

  it.effect("X4 leaves no fiber behind", () =>
    Effect.gen(function*() {
      let fibers = 0
      const metrics: Metric.FiberRuntimeMetricsService = {
        recordFiberStart: () => void fibers++,
        recordFiberEnd: () => void fibers--
      }
      const { broker, lives } = yield* scripted({}, ({ sink }) => Effect.sync(sink.ready))
      yield* Effect.gen(function*() {
        const before = fibers
        const running = yield* broker.consume(subscribed(() => Effect.sleep(10)))
        const lease = committing()
        lives[0]!.sink.open(lease)
        yield* lives[0]!.sink.offer(lease, [delivery(0)])
        yield* TestClock.adjust(1)
        assert.isAbove(fibers, before)
        const drain = yield* Effect.forkChild(running.drain, { startImmediately: true })
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(drain)
        assert.strictEqual(fibers, before)
      }).pipe(Effect.scoped, Effect.provideService(Metric.FiberRuntimeMetrics, metrics))
    }))
})
