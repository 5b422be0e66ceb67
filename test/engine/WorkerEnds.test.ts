import { type BrokerError, Lanes, Outcome, Retries } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Data, Deferred, Effect, Exit, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { toOutgoing } from "../../packages/core/src/broker/Retries.ts"
import { collectGarbage } from "./collectGarbage.ts"
import { lines } from "./altered.ts"
import { startWorker } from "./workers.ts"

class Busy extends Data.TaggedError("Busy") {
  readonly failure = "transient" as const
}

/** What the handler of the message with this key does. */
const handlers: Record<string, Effect.Effect<unknown, unknown>> = {
  ok: Exit.void,
  never: Effect.never,
  "never b": Effect.never,
  "never c": Effect.never,
  slow: Effect.sleep(50),
  slower: Effect.sleep(100),
  deaf: Effect.uninterruptible(Effect.sleep(50)),
  fails: Exit.fail(new Busy()),
  "fails later": Effect.andThen(Effect.sleep(50), Exit.fail(new Busy())),
  dies: Exit.die("broken"),
  "dies deaf": Effect.uninterruptible(Effect.andThen(Effect.sleep(50), Effect.die("broken"))),
  "fails deaf": Effect.uninterruptible(Effect.andThen(Effect.sleep(50), Exit.fail(new Busy()))),
  releases: Effect.as(Effect.sleep(50), Outcome.Release)
}

const start = (options: Parameters<typeof startWorker>[1] = {}) =>
  startWorker(({ key }) => handlers[key!]!, { subscription: { lanes: Lanes.key(9) }, ...options })

describe("X4 a drain", () => {
  it.effect("X4 lets running handlers end, starts nothing more, and tells the broker what is done", () =>
    Effect.gen(function*() {
      const { drain, log, messages, open, sink, worker } = yield* start({ settlement: "message" })
      yield* sink.offer(open(), messages("slow", "slow", "never"))
      const drained = yield* Effect.forkChild(worker.drain(100), { startImmediately: true })
      assert.isTrue(worker.draining)
      yield* TestClock.adjust(99)
      assert.deepStrictEqual([drained.pollUnsafe(), log], [undefined, ["settle 0 Ack"]])
      yield* TestClock.adjust(1)
      yield* Fiber.join(drained)
      assert.deepStrictEqual(log, ["settle 0 Ack", "settle 2 Release", "settle 1 Release"])
      assert.strictEqual(worker.leases.all.size, 0)
      yield* drain()
    }).pipe(Effect.scoped))

  it.effect("X4 holds no message that fails meanwhile, and waits for none that is held", () =>
    Effect.gen(function*() {
      const { inFlight, log, messages, open, sink, worker } = yield* start({
        settlement: "message",
        capabilities: { delay: false }
      })
      yield* sink.offer(open(), messages("fails", "fails later", "never"))
      const running = ["1 running, 0 behind", "2 running, 0 behind"]
      assert.deepStrictEqual(inFlight(), [...running, "0 retry, 0 behind"])
      const drained = yield* Effect.forkChild(worker.drain(1000), { startImmediately: true })
      yield* Effect.yieldNow
      assert.deepStrictEqual(inFlight(), running)
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(inFlight(), running.slice(1))
      yield* TestClock.adjust(950)
      yield* Fiber.join(drained)
      assert.deepStrictEqual([inFlight(), log.toSorted()], [
        [],
        [0, 1, 2].map((position) => `settle ${position} Release`)
      ])
    }).pipe(Effect.scoped))

  it.effect("X4 holds no message either that fails while the source ends its driver", () =>
    Effect.gen(function*() {
      const { inFlight, messages, open, sink, worker } = yield* start({ capabilities: { delay: false } })
      yield* sink.offer(open(), messages("fails later"))
      worker.draining = true
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(inFlight(), [])
    }).pipe(Effect.scoped))

  it.effect("X4 leaves no timer behind, which would keep the process alive", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let timers = 0
      const counting: Clock.Clock = {
        ...clock,
        sleep: (duration) =>
          Effect.suspend(() => {
            timers++
            return Effect.onExit(clock.sleep(duration), () => Effect.sync(() => void timers--))
          })
      }
      yield* Effect.gen(function*() {
        const { drain, open, sink, worker } = yield* startWorker(({ key }) => handlers[key!]!, {
          subscription: { lanes: Lanes.key(9), retries: Retries.delayed(["1 hour"]) },
          tier: 1
        })
        const at = clock.currentTimeMillisUnsafe()
        const original = Deliveries.make({ channel: "c", key: "ok" })
        const waiting = (key: string, due: number) => {
          const progress = { attempts: 1, failures: 1, named: 0, at, due }
          const { channel, headers } = toOutgoing(original, "c.g.retry-1", progress)
          return Deliveries.make({ channel, key, headers })
        }
        // one waits for its time, and the other is watched for a stall
        yield* sink.offer(open(), [waiting("ok", at + 3_600_000), waiting("never", at)])
        yield* TestClock.adjust(10)
        assert.strictEqual(timers, 2)
        yield* Effect.forkChild(drain(10))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual([timers, worker.settled, worker.leases.all.size], [0, 0, 0])
      }).pipe(Effect.provideService(Clock.Clock, counting))
    }).pipe(Effect.scoped))

  it.effect("X4 tells the broker at once what its handler releases", () =>
    Effect.gen(function*() {
      const { log, messages, open, sink, worker } = yield* start({ settlement: "message" })
      yield* sink.offer(open(), messages("releases", "never"))
      const drained = yield* Effect.forkChild(worker.drain(1000), { startImmediately: true })
      yield* TestClock.adjust(50)
      assert.deepStrictEqual([log, worker.settled], [["settle 0 Release"], 0])
      yield* TestClock.adjust(950)
      yield* Fiber.join(drained)
      assert.deepStrictEqual(log, ["settle 0 Release", "settle 1 Release"])
    }).pipe(Effect.scoped))

  it.effect("F13 gives up what the broker has not confirmed: no dead letter, no durable effect is waited for", () =>
    Effect.gen(function*() {
      const { failed, inFlight, log, messages, open, published, sink, worker } = yield* startWorker((delivery) => {
        if (delivery.key === "hooked") delivery.after(() => Effect.never)
        return delivery.key === "hooked" ? Exit.void : Exit.die("broken")
      }, { settlement: "message", publish: () => Effect.never, subscription: { lanes: Lanes.key(9) } })
      yield* sink.offer(open(), messages("dies", "hooked"))
      assert.deepStrictEqual(inFlight(), ["0 dead letter, 0 behind", "1 durable effect, 0 behind"])
      const drained = yield* Effect.forkChild(worker.drain(100), { startImmediately: true })
      yield* TestClock.adjust(1099)
      assert.isUndefined(drained.pollUnsafe())
      yield* TestClock.adjust(1)
      yield* Fiber.join(drained)
      assert.deepStrictEqual([inFlight(), failed, published.length], [[], [], 1])
      assert.deepStrictEqual([worker.settled, worker.deadLetters, worker.dropped], [0, 0, 0])
      assert.deepStrictEqual(log.slice(1), ["settle 0 Release", "settle 1 Release"])
    }).pipe(Effect.scoped))
})

describe("X4 a revoke", () => {
  it.effect("X4 lets the handlers of its lease end, holds nothing, and leaves other leases alone", () =>
    Effect.gen(function*() {
      const { inFlight, log, messages, open, sink } = yield* start({
        settlement: "message",
        capabilities: { delay: false }
      })
      const lease = open()
      yield* sink.offer(lease, messages("slower", "fails", "fails later"))
      yield* sink.offer(open(1), messages("never", "fails"))
      const close = yield* Effect.forkChild(sink.close(lease, "revoke"), { startImmediately: true })
      yield* Effect.yieldNow
      const others = ["3 running, 0 behind", "4 retry, 0 behind"]
      assert.deepStrictEqual(inFlight(), ["0 running, 0 behind", "2 running, 0 behind", ...others])
      yield* TestClock.adjust(50)
      assert.deepStrictEqual(inFlight(), ["0 running, 0 behind", ...others])
      yield* TestClock.adjust(50)
      yield* Fiber.join(close)
      assert.deepStrictEqual(inFlight(), others)
      assert.deepStrictEqual(log.toSorted(), ["settle 0 Ack", "settle 1 Release", "settle 2 Release"])
    }).pipe(Effect.scoped))

  it.effect("X4 interrupts handlers that do not end within `grace.revoke`", () =>
    Effect.gen(function*() {
      const { log, messages, open, sink } = yield* start({
        settlement: "message",
        subscription: { lanes: Lanes.key(9), grace: { revoke: 20 } }
      })
      const lease = open()
      yield* sink.offer(lease, messages("never"))
      const close = yield* Effect.forkChild(sink.close(lease, "revoke"), { startImmediately: true })
      yield* TestClock.adjust(19)
      assert.deepStrictEqual([close.pollUnsafe(), log], [undefined, []])
      yield* TestClock.adjust(1)
      yield* Fiber.join(close)
      assert.deepStrictEqual(log, ["settle 0 Release"])
    }).pipe(Effect.scoped))
})

describe("X4 the loss of a lease", () => {
  it.effect("X4 settles, counts, publishes and holds nothing more of its messages, however they end", () =>
    Effect.gen(function*() {
      const { failed, inFlight, log, messages, open, published, sink, worker } = yield* start({
        settlement: "message",
        capabilities: { delay: false }
      })
      const lease = open()
      yield* sink.offer(lease, messages("never", "slow", "deaf", "dies deaf", "fails deaf", "fails"))
      yield* sink.close(lease, "lost")
      yield* TestClock.adjust(1)
      const deaf = [2, 3, 4].map((position) => `${position} running, 0 behind`)
      assert.deepStrictEqual(inFlight(), deaf)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual([inFlight(), failed, log, published.length], [[], [], [], 0])
      assert.deepStrictEqual([worker.settled, worker.deadLetters, worker.leases.room.pending], [0, 0, 0])
    }).pipe(Effect.scoped))

  it.effect("X4 gives up its dead letters and durable effects", () =>
    Effect.gen(function*() {
      let interrupted = 0
      const endless = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
      const { failed, inFlight, messages, open, sink, worker } = yield* startWorker((delivery) => {
        if (delivery.key === "hooked") delivery.after(() => endless)
        return delivery.key === "hooked" ? Exit.void : Exit.die("broken")
      }, { publish: () => endless, subscription: { lanes: Lanes.key(9) } })
      const lease = open()
      yield* sink.offer(lease, messages("dies", "hooked"))
      assert.strictEqual(inFlight().length, 2)
      yield* sink.close(lease, "lost")
      yield* TestClock.adjust(1)
      assert.deepStrictEqual([inFlight(), interrupted, failed, worker.dropped], [[], 2, [], 0])
    }).pipe(Effect.scoped))

  it.effect("X4 a drain waits for handlers and hooks of leases that were lost before", () =>
    Effect.gen(function*() {
      for (const key of ["deaf", "hooked"]) {
        let isDone = false
        const { messages, open, sink, worker } = yield* startWorker((delivery) => {
          const done = Effect.map(Effect.sleep(50), () => void (isDone = true))
          if (key === "deaf") return Effect.uninterruptible(done)
          // hooks of an interrupted handler run after the loss
          delivery.after(() => done)
          return Effect.never
        })
        const lease = open()
        yield* sink.offer(lease, messages("a"))
        yield* sink.close(lease, "lost")
        yield* TestClock.adjust(1)
        const drained = yield* Effect.forkChild(worker.drain(1000), { startImmediately: true })
        yield* TestClock.adjust(48)
        assert.deepStrictEqual([isDone, drained.pollUnsafe()], [false, undefined])
        yield* TestClock.adjust(2)
        yield* Fiber.join(drained)
        assert.isTrue(isDone)
      }
    }).pipe(Effect.scoped))

  // one message is held, one runs and fills the lanes, and two wait; or all of them wait
  for (const [name, others] of [["held, running and waiting", 2], ["in the intake", 3]] as const) {
    it.effect(`X6 keeps none of its messages: ${name}`, () =>
      Effect.gen(function*() {
        const { inFlight, loop, messages, open, sink, worker } = yield* start({
          capabilities: { delay: false },
          subscription: { lanes: Lanes.key(3), inFlight: { messages: 8 } }
        })
        yield* sink.offer(open(1), messages("never", "never b", "never c").slice(0, others))
        const refs = yield* Effect.gen(function*() {
          const lease = open()
          const all = messages("fails", "never", "fails", "ok")
          yield* sink.offer(lease, all)
          const found = [...all.map((each) => new WeakRef<object>(each)), new WeakRef(worker.leases.all.get(lease)!)]
          yield* sink.close(lease, "lost")
          return found
        })
        yield* TestClock.adjust(1000)
        for (let turn = 0; turn < 5; turn++) {
          yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
          collectGarbage()
        }
        assert.deepStrictEqual(refs.map((ref) => ref.deref()), refs.map(() => undefined))
        assert.deepStrictEqual([loop.pollUnsafe(), inFlight().length], [undefined, others])
      }).pipe(Effect.scoped))
  }
})

describe("X19 stalls", () => {
  const warnings = (text: string, run: (found: ReadonlyArray<string>) => Effect.Effect<void>) =>
    Effect.gen(function*() {
      const { found, layer } = lines("Warn")
      yield* Effect.provide(run(found), layer)
      assert.deepStrictEqual(found.filter((line) => line.includes("is stuck")).length > 0, true)
      assert.include(found.at(-1), text)
    })

  const stalled = { waiting: 10, running: 20 }
  const cases: Record<string, () => Effect.Effect<unknown, unknown>> = {
    "runs its handler": () => Effect.never,
    "waits for its next attempt": () => Exit.fail(new Busy()),
    "waits until the broker confirms its dead letter": () => Exit.die("x")
  }
  for (const [text, handle] of Object.entries(cases)) {
    it.effect(`X19 a message that ${text} is reported`, () =>
      warnings(text, () =>
        Effect.scoped(Effect.gen(function*() {
          const { drain, messages, open, sink } = yield* startWorker(handle, {
            publish: () => Effect.never,
            subscription: { stalled }
          })
          yield* sink.offer(open(), messages("a"))
          yield* TestClock.adjust(50)
          yield* Effect.forkChild(drain())
          yield* TestClock.adjust(5000)
        }))))
  }

  it.effect("X19 a message that waits until an effect of a hook is durable is reported", () =>
    warnings("waits until an effect of a hook is durable", () =>
      Effect.scoped(Effect.gen(function*() {
        const { drain, messages, open, sink } = yield* startWorker((delivery) => {
          delivery.after(() => Effect.never)
          return Exit.void
        }, { subscription: { stalled } })
        yield* sink.offer(open(), messages("a"))
        yield* TestClock.adjust(50)
        yield* Effect.forkChild(drain())
        yield* TestClock.adjust(5000)
      }))))

  it.effect("X19 a commit that the broker does not answer is reported, and nothing after a drain", () =>
    warnings("the broker has not answered a commit of partition 0", (found) =>
      Effect.scoped(Effect.gen(function*() {
        const call = Deferred.makeUnsafe<void, BrokerError.BrokerError>()
        const { messages, open, sink, worker } = yield* startWorker(() => Exit.void, {
          subscription: { stalled },
          lease: (lease) => ({ ...lease, commit: () => Deferred.await(call) })
        })
        yield* sink.offer(open(), messages("a"))
        yield* TestClock.adjust(50)
        const drained = yield* Effect.forkChild(worker.drain(0))
        yield* TestClock.adjust(5000)
        yield* Fiber.join(drained)
        const count = found.length
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(found.length, count)
      }))))
})
