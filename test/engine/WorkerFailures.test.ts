import { DeadLetters, type Delivery, Lanes, Outcome, Retries } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { assert, describe, it } from "@effect/vitest"
import { Data, Duration, Effect, Exit, Logger, References } from "effect"
import { TestClock } from "effect/testing"
import { collectGarbage } from "./collectGarbage.ts"
import { refusal } from "./altered.ts"
import { type Options, startWorker } from "./workers.ts"

class Busy extends Data.TaggedError("Busy") {
  readonly failure = "transient" as const
}
class Wrong extends Data.TaggedError("Wrong") {
  readonly failure = "permanent" as const
}

class Throttled extends Data.TaggedError("Throttled") {
  readonly failure = "throttled" as const
  readonly retryAfter = Duration.millis(2500)
}

/** The first message ends so, all others well. */
const first = (exit: Exit.Exit<unknown, unknown>) => (delivery: Delivery): Effect.Effect<unknown, unknown> =>
  delivery.position === 0 && delivery.attempt === 1 ? exit : Exit.void

const delayed = Retries.delayed([1000, 5000])

describe("F11 F13 who retries, and who writes the dead letter", () => {
  interface Case extends Options {
    readonly exit: Exit.Exit<unknown, unknown>
    readonly log: ReadonlyArray<string>
    readonly counts: ReadonlyArray<string>
    readonly letters?: number
  }
  const settlement = "message"
  const byBroker = { settlement, capabilities: { deadLetter: true } } as const
  const letter = ["millrace.dead_letters c Wrong: 1"]
  const cases: Record<string, Case> = {
    "a dead letter of the engine": {
      settlement,
      exit: Exit.fail(new Wrong()),
      log: ["publish c.dead-letters", "settle 0 DeadLetter", "settle 1 Ack"],
      counts: letter,
      letters: 1
    },
    "a dead letter of the broker": {
      ...byBroker,
      exit: Exit.fail(new Wrong()),
      log: ["settle 0 DeadLetter", "settle 1 Ack"],
      counts: letter,
      letters: 1
    },
    "a dead letter of the broker, where retries have channels": {
      ...byBroker,
      exit: Exit.fail(new Wrong()),
      subscription: { retries: delayed },
      tier: 0,
      log: ["settle 0 DeadLetter", "settle 1 Ack"],
      counts: letter,
      letters: 1
    },
    "a dead letter of the engine, where retries have channels": {
      settlement,
      exit: Exit.fail(new Wrong()),
      subscription: { retries: delayed },
      tier: 0,
      log: ["publish c.dead-letters", "settle 0 DeadLetter", "settle 1 Ack"],
      counts: letter,
      letters: 1
    },
    "a retry of the broker": {
      settlement,
      exit: Exit.fail(new Busy()),
      subscription: { lanes: Lanes.unordered(4) },
      log: ["settle 0 Retry", "settle 1 Ack"],
      counts: ["millrace.retries c Busy: 1"]
    },
    "a retry that a handler asks for": {
      settlement,
      exit: Exit.succeed(Outcome.Retry()),
      subscription: { lanes: Lanes.unordered(4) },
      log: ["settle 0 Retry", "settle 1 Ack"],
      counts: ["millrace.retries c Retry: 1"]
    },
    "a retry in a lane, which the engine holds": {
      settlement,
      exit: Exit.fail(new Busy()),
      log: ["settle 0 Ack", "settle 1 Ack"],
      counts: ["millrace.retries c Busy: 1"]
    },
    "a retry that a handler asks for in its lane": {
      settlement,
      exit: Exit.succeed(Outcome.Retry()),
      log: ["settle 0 Ack", "settle 1 Ack"],
      counts: ["millrace.retries c Retry: 1"]
    },
    "a retry in a channel of its own": {
      settlement,
      exit: Exit.fail(new Busy()),
      subscription: { retries: delayed },
      tier: 0,
      log: ["publish c.g.retry-1", "settle 0 Ack", "settle 1 Ack"],
      counts: ["millrace.retries c Busy: 1"]
    },
    "a retry in a channel of its own that a handler asks for": {
      settlement,
      exit: Exit.succeed(Outcome.Retry()),
      subscription: { retries: delayed },
      tier: 0,
      log: ["publish c.g.retry-1", "settle 0 Ack", "settle 1 Ack"],
      counts: ["millrace.retries c Retry: 1"]
    }
  }
  for (const [name, { counts, exit, letters = 0, log, ...options }] of Object.entries(cases)) {
    it.effect(`F11 F13 ${name}`, () =>
      Effect.gen(function*() {
        const bench = yield* startWorker(first(exit), options)
        yield* bench.sink.offer(bench.open(), bench.messages("a", "a"))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual([bench.log, bench.counts(), bench.worker.deadLetters], [log, counts, letters])
        assert.deepStrictEqual([bench.inFlight(), bench.failed, bench.worker.settled], [[], [], 2])
      }).pipe(Effect.scoped))
  }

  /** A worker of the first retry channel, and a message as the worker of the subscription's own channel has left it there. */
  const retried = (
    handle: (delivery: Delivery) => Effect.Effect<unknown, unknown>,
    options: Options = {},
    error: Busy | Throttled = new Busy()
  ) =>
    Effect.gen(function*() {
      const given = { ...options, settlement, subscription: { retries: delayed } } as const
      const own = yield* startWorker(() => Exit.fail(error), { ...given, tier: 0 })
      yield* own.sink.offer(own.open(), own.messages("a"))
      const [left] = own.published
      const waiting = Deliveries.make({
        channel: left!.channel,
        key: left!.key,
        headers: left!.headers,
        body: left!.payload
      })
      return { waiting, reader: yield* startWorker(handle, { ...given, tier: 1 }) }
    })

  it.effect("F13 the engine writes the dead letter of a message in a retry channel, and the broker none", () =>
    Effect.gen(function*() {
      for (const deadLetter of [false, true]) {
        const { reader, waiting } = yield* retried(() => Exit.fail(new Wrong()), { capabilities: { deadLetter } })
        yield* reader.sink.offer(reader.open(), [waiting])
        yield* TestClock.adjust(999)
        assert.deepStrictEqual(reader.log, [])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(reader.log, ["publish c.dead-letters", "settle 0 Ack"])
        assert.deepStrictEqual([reader.worker.deadLetters, reader.worker.settled], [1, 1])
      }
    }).pipe(Effect.scoped))

  it.effect("F11 a failed attempt of a retry channel is counted, passing a message on is not", () =>
    Effect.gen(function*() {
      const { reader, waiting } = yield* retried(() => Exit.fail(new Busy()))
      yield* reader.sink.offer(reader.open(), [waiting])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(reader.log, ["publish c.g.retry-2", "settle 0 Ack"])
      assert.deepStrictEqual(reader.counts(), ["millrace.retries c.g.retry-1 Busy: 1"])
      // 2.5 seconds, of which the channel waits for one: its reader passes the message on
      const other = yield* retried(() => Exit.void, {}, new Throttled())
      yield* other.reader.sink.offer(other.reader.open(), [other.waiting])
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual([other.reader.log, other.reader.counts()], [["publish c.g.retry-1", "settle 0 Ack"], []])
    }).pipe(Effect.scoped))
})

describe("F22 what the broker refuses", () => {
  for (
    const [name, exit, reason] of [["an error", Exit.fail(new Busy()), "Busy"], [
      "none",
      Exit.succeed(Outcome.Retry()),
      "Given up: the broker refuses its delayed retry"
    ]] as const
  ) {
    for (const when of ["at once", "later"] as const) {
      it.effect(`F22 a delayed retry refused for good is a dead letter, confirmed ${when}, with ${name} of its own`, () =>
        Effect.gen(function*() {
          const handled: Array<string> = []
          const bench = yield* startWorker((delivery) => {
            handled.push(`${delivery.position} after ${bench.published.length}`)
            return first(exit)(delivery)
          }, {
            settlement: "message",
            subscription: { retries: delayed, lanes: Lanes.key(4) },
            tier: 0,
            publish: ([outgoing]) =>
              outgoing!.channel.includes("retry")
                ? Effect.andThen(Effect.sleep(5), Effect.fail(refusal("TooLarge")))
                : when === "later"
                ? Effect.sleep(5)
                : Exit.void
          })
          yield* bench.sink.offer(bench.open(), bench.messages("a", "a"))
          yield* TestClock.adjust(100)
          // the lane goes on when the dead letter is confirmed
          assert.deepStrictEqual(handled, ["0 after 0", "1 after 2"])
          assert.deepStrictEqual(
            bench.log,
            ["publish c.g.retry-1", "publish c.dead-letters", "settle 0 DeadLetter", "settle 1 Ack"]
          )
          const { headers } = bench.published[1]!
          const told = `${headers[DeadLetters.names.errorType]} ${headers[DeadLetters.names.errorMessage]}`
          assert.include(told, reason)
          assert.deepStrictEqual([bench.inFlight(), bench.worker.dropped, bench.worker.deadLetters], [[], 0, 1])
        }).pipe(Effect.scoped))
    }
  }

  it.effect("F22 a dead letter refused in every form is dropped where the subscription says so: counted, logged, told as Reject", () =>
    Effect.gen(function*() {
      const found: Array<{ readonly text: string } & Record<string, unknown>> = []
      const logger = Logger.make<unknown, void>(({ fiber, logLevel, message }) => {
        const text = `${logLevel} ${String(Array.isArray(message) ? message[0] : message)}`
        found.push({ text, ...fiber.getRef(References.CurrentLogAnnotations) })
      })
      const place = { channel: "c", partition: 0, position: 0, attempt: 1, error: "Wrong" }
      const run = (publish: Options["publish"]) =>
        Effect.gen(function*() {
          const bench = yield* startWorker(first(Exit.fail(new Wrong())), {
            settlement: "message",
            subscription: { refusedDeadLetter: "drop" },
            publish
          })
          yield* bench.sink.offer(bench.open(), bench.messages("a", "a"))
          yield* TestClock.adjust(100)
          const { worker: { deadLetters, dropped, settled } } = bench
          const settles = bench.log.filter((line) => line.startsWith("settle"))
          return { settles, numbers: [settled, deadLetters, dropped], counts: bench.counts() }
        }).pipe(Effect.scoped, Effect.provide(Logger.layer([logger])))
      assert.deepStrictEqual(yield* run(() => Exit.fail(refusal("TooLarge"))), {
        settles: ["settle 0 Reject", "settle 1 Ack"],
        numbers: [2, 0, 1],
        counts: ["millrace.dead_letters.dropped c Wrong: 1"]
      })
      assert.deepStrictEqual(found.map(({ text, ...rest }) => [text.split(" ")[0], rest]), [["Error", place]])
      assert.include(found[0]?.text, "its message is dropped")
      found.length = 0
      assert.deepStrictEqual(yield* run(() => Exit.void), {
        settles: ["settle 0 DeadLetter", "settle 1 Ack"],
        numbers: [2, 1, 0],
        counts: ["millrace.dead_letters c Wrong: 1"]
      })
      assert.deepStrictEqual(found.map(({ text, ...rest }) => [text.split(" ")[0], rest]), [["Warn", place]])
      assert.include(found[0]?.text, "became a dead letter of s")
    }))
})

describe("F13 X19 code that throws", () => {
  const odd: Record<string, Options["consumer"] & object> = {
    "a handler that throws": {
      handle: ({ position }) => {
        if (position > 0) return Exit.void
        throw new Error("thrown")
      }
    },
    "a handler that returns no effect": {
      handle: ({ position }) => position > 0 ? Exit.void : JSON.parse("1")
    },
    "an entry of settle that throws": {
      settle: (exit) => {
        if (Exit.isSuccess(exit)) return Outcome.Ack
        throw new Error("thrown")
      }
    },
    "an entry of settle that answers no outcome": {
      settle: (exit) => Exit.isSuccess(exit) ? Outcome.Ack : JSON.parse("1")
    }
  }
  const reasons = ["thrown", "instead of an Effect", "thrown", "An entry of settle answered number"]
  for (const [at, [name, consumer]] of Object.entries(odd).entries()) {
    it.effect(`F13 ${name} makes a dead letter that says why, and the lane goes on`, () =>
      Effect.gen(function*() {
        const bench = yield* startWorker(first(Exit.fail(new Busy())), { consumer, settlement: "message" })
        yield* bench.sink.offer(bench.open(), bench.messages("a", "a"))
        assert.deepStrictEqual(bench.log, ["publish c.dead-letters", "settle 0 DeadLetter", "settle 1 Ack"])
        assert.include(bench.published[0]!.headers[DeadLetters.names.errorMessage], reasons[at])
        assert.deepStrictEqual(bench.failed, [])
      }).pipe(Effect.scoped))
  }

  for (const when of ["at once", "later", "again"] as const) {
    it.effect(`X19 a throw where nothing should throw, ${when}, is told to the source, and the lane stays shut`, () =>
      Effect.gen(function*() {
        const handled: Array<number> = []
        const bench = yield* startWorker((delivery) => {
          handled.push(delivery.position)
          if (when === "again" && delivery.attempt === 1) return Exit.fail(new Busy())
          return when === "later" && delivery.position === 0 ? Effect.sleep(5) : Exit.void
        })
        const [broken, next] = bench.messages("a", "a")
        let reads = 0
        Object.defineProperty(broken!, "hooks", {
          get: () => {
            if (when === "again" && reads++ === 0) return undefined
            throw new Error("unreadable")
          }
        })
        yield* bench.sink.offer(bench.open(), when === "at once" ? [broken!] : [broken!, next!])
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(bench.failed.map(String), ["Error: unreadable"])
        assert.deepStrictEqual([handled, bench.log], [when === "again" ? [0, 0] : [0], []])
      }).pipe(Effect.scoped))
  }
})

describe("F11 what held messages have cost", () => {
  it.effect("F11 a message that has failed as often as it may becomes a dead letter, with its attempts", () =>
    Effect.gen(function*() {
      let attempts = 0
      const bench = yield* startWorker(() => {
        attempts++
        return Exit.fail(new Busy())
      }, { subscription: { hold: { attempts: 3 } } })
      yield* bench.sink.offer(bench.open(), bench.messages("a"))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual([attempts, bench.log, bench.counts()], [
        3,
        ["publish c.dead-letters", "commit 1"],
        ["millrace.retries c Busy: 2", "millrace.dead_letters c Busy: 1"]
      ])
      assert.strictEqual(bench.published[0]!.headers[DeadLetters.names.attempts], "3")
    }).pipe(Effect.scoped))

  it.effect("X6 nothing is kept of a message that was held and is settled", () =>
    Effect.gen(function*() {
      const bench = yield* startWorker(first(Exit.fail(new Busy())))
      const lease = bench.open()
      const refs = yield* Effect.gen(function*() {
        const all = bench.messages("a", "a")
        yield* bench.sink.offer(lease, all)
        yield* TestClock.adjust(1000)
        return all.map((each) => new WeakRef<object>(each))
      })
      // the last one may still be on the stack
      yield* bench.sink.offer(lease, bench.messages("a"))
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(bench.log, ["commit 2", "commit 3"])
      for (let turn = 0; turn < 5; turn++) {
        yield* Effect.promise(() => new Promise<void>((resolve) => setImmediate(resolve)))
        collectGarbage()
      }
      assert.deepStrictEqual(refs.map((ref) => ref.deref()), [undefined, undefined])
    }).pipe(Effect.scoped))
})
