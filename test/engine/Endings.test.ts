import { Channel, type Delivery, type Driver, Lanes, Retries, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, type Duration, Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { altered, isLetter, lines, message, refusal } from "./altered.ts"

const Orders = Channel.bytes("c")

class Busy extends Data.TaggedError("Busy")<{ readonly retryAfter?: Duration.Duration | undefined }> {
  readonly failure = "transient" as const
}

describe("the scope of a message", () => {
  it.effect("F18 of one that waits is not that of the next one, which ends first", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const { broker } = yield* altered({ partitions: 1 }, {})
      const open = ({ position }: Delivery) =>
        Effect.acquireRelease(Effect.void, () => Effect.sync(() => void events.push(`${position} is closed`)))
      const subscription = Subscription.make(
        Orders,
        { group: "g", name: "s", lanes: Lanes.unordered(2) },
        (delivery) =>
          delivery.position > 0 ? open(delivery) : Effect.andThen(open(delivery), Effect.sleep(100)).pipe(
            Effect.andThen(Effect.sync(() => void events.push("0 ends")))
          )
      )
      yield* broker.consume(subscription.consumer)
      yield* broker.publishAll([message("a"), message("b"), message("c")])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(events, ["1 is closed", "2 is closed", "0 ends", "0 is closed"])
    }).pipe(Effect.scoped))

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

describe("a driver that does not end", () => {
  type Consume = ReturnType<Driver.Driver["consume"]>

  /** A driver whose consume effect is changed. */
  const ending = (change: (consume: Consume, life: number) => Consume) => {
    let lives = 0
    return altered({ partitions: 1 }, {
      driver: (driver) => ({ ...driver, consume: (options, sink) => change(driver.consume(options, sink), ++lives) })
    })
  }

  const drained: ReadonlyArray<readonly ["stop" | "close", (consume: Consume) => Consume]> = [
    ["stop", (consume) => Effect.onInterrupt(consume, () => Effect.never)],
    ["close", (consume) => Effect.andThen(Effect.addFinalizer(() => Effect.never), consume)]
  ]
  for (const [step, change] of drained) {
    it.effect(`X4 does not hold a drain when it does not ${step}, and a line says so`, () => {
      const warned = lines("Warn")
      return Effect.gen(function*() {
        const { broker, memory } = yield* ending(change)
        const { consumer } = Subscription.make(
          Orders,
          { group: "g", name: "s", grace: { drain: 10 } },
          () => Effect.void
        )
        const running = yield* broker.consume(consumer)
        yield* broker.publish(message("a"))
        yield* TestClock.adjust("1 second")
        const drain = yield* Effect.forkChild(running.drain)
        yield* TestClock.adjust("4 seconds")
        assert.isUndefined(drain.pollUnsafe())
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(drain)
        assert.deepStrictEqual([(yield* running.health).state, memory.positions("c", "g")], ["stopped", [1]])
        const told = `The memory driver of s did not ${step} within 5000 ms; the source goes on without it`
        assert.deepStrictEqual(warned.found, [told])
      }).pipe(Effect.scoped, Effect.provide(warned.layer))
    })
  }

  it.effect("X4 does not keep its source from starting again when it does not close", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* ending((consume, life) =>
        life === 1
          ? Effect.andThen(
            Effect.addFinalizer(() => Effect.never),
            Effect.raceFirst(consume, Effect.delay(Effect.fail(refusal("Lost")), "1 second"))
          )
          : consume
      )
      const { consumer } = Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void)
      yield* broker.consume(consumer)
      yield* TestClock.adjust("1 second")
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(memory.positions("c", "g"), [1])
    }).pipe(Effect.scoped))

  it.effect("X4 a drain between two lives gives hooks the time of a drain", () =>
    Effect.gen(function*() {
      const { broker } = yield* ending((consume) =>
        Effect.raceFirst(consume, Effect.delay(Effect.fail(refusal("Lost")), "1 second"))
      )
      let ended: string | undefined
      const options = {
        group: "g",
        name: "s",
        grace: { drain: "20 seconds" },
        restart: { base: "10 seconds", cap: "10 seconds" }
      } as const
      const { consumer } = Subscription.make(Orders, options, (delivery) => {
        delivery.after(() =>
          Effect.sleep("5 seconds").pipe(
            Effect.onExit(({ _tag }) => Effect.sync(() => ended = _tag))
          )
        )
        return Effect.never
      })
      const running = yield* broker.consume(consumer)
      yield* broker.publish(message("a"))
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual([(yield* running.health).state, ended], ["restarting", undefined])
      const drain = yield* Effect.forkChild(running.drain)
      yield* TestClock.adjust("5 seconds")
      yield* Fiber.join(drain)
      assert.strictEqual(ended, "Success")
    }).pipe(Effect.scoped))

  it.effect("F11 a broker that does not answer when a retry channel is declared fails the start", () =>
    Effect.gen(function*() {
      const { broker } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({
          ...driver,
          capabilities: { ...driver.capabilities, delay: false },
          declare: () => Effect.never
        })
      })
      const retries = Retries.delayed(["1 second"])
      const { consumer } = Subscription.make(Orders, { group: "g", name: "s", retries }, () => Effect.void)
      const start = yield* Effect.forkChild(Effect.flip(broker.consume(consumer)))
      yield* TestClock.adjust("6 seconds")
      assert.match(
        (yield* Fiber.join(start)).message,
        /did not answer within 5000 ms when s declared its retry channel c\./
      )
    }).pipe(Effect.scoped))
})
