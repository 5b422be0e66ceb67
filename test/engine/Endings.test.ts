import { Channel, Lanes, Retries, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, type Duration, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { altered, isLetter, message, refusal } from "./altered.ts"

const Orders = Channel.bytes("c")

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter?: Duration.Duration | undefined }> {
  readonly failure = "transient" as const
}

describe("the scope of a message", () => {
  for (const when of ["at once", "later"] as const) {
    it.effect(`F13 F18 a finalizer that fails ${when} skips no hook, and hooks are told the dead letter`, () =>
      Effect.gen(function*() {
        const told: Array<string> = []
        const { broker, memory } = yield* altered({ partitions: 1 }, {})
        const subscription = Subscription.make(Orders, { group: "g", name: "s" }, (delivery) => {
          delivery.after((_, outcome) => void told.push(outcome!._tag))
          return Effect.addFinalizer(() =>
            when === "at once" ? Effect.die("x") : Effect.andThen(Effect.sleep(1), Effect.die("x"))
          )
        })
        yield* broker.consume(subscription.consumer)
        yield* broker.publish(message("a"))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual([told, memory.ends("c.dead-letters"), memory.positions("c", "g")], [
          ["DeadLetter"],
          [1],
          [1]
        ])
      }).pipe(Effect.scoped))
  }

  for (const end of ["lost", "drained"] as const) {
    it.effect(`F18 a lease that is ${end} while the scope closes lets it close, and then the hooks run`, () =>
      Effect.gen(function*() {
        let isFreed = false
        let hooks = 0
        const { broker, memory } = yield* altered({ partitions: 1 }, {})
        const subscription = Subscription.make(Orders, { group: "g", name: "s", grace: { drain: 10 } }, (delivery) => {
          delivery.after(() => void hooks++)
          return Effect.acquireRelease(
            Effect.void,
            () => Effect.andThen(Effect.sleep(5000), Effect.sync(() => void (isFreed = true)))
          )
        })
        const running = yield* broker.consume(subscription.consumer)
        yield* broker.publish(message("a"))
        yield* TestClock.adjust(10)
        const ended = yield* Effect.forkChild(end === "lost" ? memory.stop : running.drain)
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(ended)
        assert.deepStrictEqual([isFreed, hooks], [true, 1])
      }).pipe(Effect.scoped))
  }
})

describe("late failures", () => {
  it.effect("O3 a delayed retry that the broker refuses, of a message whose lane went on, keeps no other message of its key back", () =>
    Effect.gen(function*() {
      const handled: Array<number> = []
      let isHookDone = false
      const { broker, memory } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          publish: (batch) =>
            batch.some(({ channel }) => channel.includes(".retry-"))
              ? Effect.andThen(Effect.sleep(5), Effect.fail(refusal("TooLarge")))
              : isLetter(batch)
              ? Effect.andThen(Effect.sleep(5), driver.publish(batch))
              : driver.publish(batch)
        })
      })
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", lanes: Lanes.key(4), retries: Retries.delayed(["1 minute"]) },
        (delivery) => {
          if (delivery.position === 0) {
            delivery.after(() => isHookDone ? undefined : Effect.andThen(Effect.sleep(10), Effect.fail(new Busy({}))))
            return Effect.void
          }
          return Effect.andThen(Effect.sleep(100), Effect.sync(() => void handled.push(delivery.position)))
        }
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publishAll([message("a"), message("a"), message("a"), message("a")])
      yield* TestClock.adjust("10 seconds")
      isHookDone = true
      assert.deepStrictEqual([handled, memory.ends("c.dead-letters"), memory.positions("c", "g")], [[1, 2, 3], [1], [
        4
      ]])
    }).pipe(Effect.scoped))
})

describe("finalizers of a message that is to run again", () => {
  it.effect("F13 change no retry when they fail, and health shows the failure", () =>
    Effect.gen(function*() {
      let attempts = 0
      const told: Array<string> = []
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      const subscription = Subscription.make(Orders, { group: "g", name: "s" }, (delivery) => {
        delivery.after((_, outcome) => void told.push(outcome!._tag))
        if (++attempts > 1) return Effect.void
        return Effect.andThen(Effect.addFinalizer(() => Effect.die("broken")), Effect.fail(new Busy({})))
      })
      const running = yield* broker.consume(subscription.consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([told, memory.ends("c.dead-letters"), memory.positions("c", "g")], [
        ["Retry", "Ack"],
        [0],
        [1]
      ])
      assert.strictEqual((yield* running.health).lastError, "broken")
    }).pipe(Effect.scoped))
})
