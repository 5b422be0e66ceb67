import { assert, describe, it } from "@effect/vitest"
import { Channel, Health, Outcome, Retries, Subscription } from "@millrace/core"
import { Effect, Layer, Metric } from "effect"
import { TestClock } from "effect/testing"
import { altered, type Handle, isLetter, lines, message, refusal } from "./altered.ts"

const Orders = Channel.bytes("c")
const transient = { failure: "transient" as const, _tag: "Busy" as const }

describe("messages that do not move", () => {
  const ways: Record<string, { readonly state: string; readonly handle: Handle<typeof transient> }> = {
    "a dead letter": { state: "dead letter", handle: () => Effect.die("x") },
    "a retry": { state: "retry", handle: () => Effect.fail(transient) },
    "a durable effect": {
      state: "durable effect",
      handle: (delivery) => {
        delivery.after(() => Effect.never)
        return Effect.void
      }
    },
    "a durable effect of a retry": {
      state: "durable effect",
      handle: (delivery) => {
        delivery.after(() => Effect.never)
        return Effect.fail(transient)
      }
    },
    "a handler": { state: "running", handle: () => Effect.never }
  }
  for (const [name, { handle, state }] of Object.entries(ways)) {
    it.effect(`X15 ${name}: health, the check and one Warn line show it within seconds`, () =>
      Effect.gen(function*() {
        const warnings = lines("Warn")
        yield* Effect.gen(function*() {
          const { broker } = yield* altered({ partitions: 1 }, {
            driver: (driver) => ({
              ...driver,
              publish: (batch) => isLetter(batch) ? Effect.fail(refusal("NotFound")) : driver.publish(batch)
            })
          })
          const subscription = Subscription.make(
            Orders,
            {
              group: "g",
              name: "billing",
              grace: { drain: 0 },
              // a handler may run for longer than a message may wait
              stalled: { running: state === "running" ? "10 seconds" : "1 hour" },
              backoff: { base: "1 hour", cap: "1 hour" }
            },
            handle
          )
          const running = yield* broker.consume(subscription.consumer)
          yield* broker.publishAll([message("a"), message("b")])
          yield* TestClock.adjust("9 seconds")
          assert.deepStrictEqual((yield* running.health).stuck, 0)
          assert.deepStrictEqual(warnings.found.filter((line) => line.includes("stuck")), [])
          yield* TestClock.adjust("2 seconds")
          const health = yield* running.health
          assert.strictEqual(health.lanes[0]!.state, state)
          assert.strictEqual(health.lanes[0]!.position, 0)
          assert.isAtLeast(health.stuck, 1)
          if (state === "dead letter") assert.strictEqual((health.lastError as { reason: string }).reason, "NotFound")
          const told = warnings.found.filter((line) => line.includes("stuck"))
          assert.strictEqual(told.length, 1)
          assert.match(
            told[0]!,
            /^billing is stuck for \d+ ms: the message of c, partition 0, position 0, attempt \d, /
          )
          const report = yield* Health.report().pipe(
            Effect.provide(Health.layer([Health.subscription(running, { name: "billing", stuck: "10 seconds" })]))
          )
          assert.containSubset(report.checks, [{ name: "billing", status: "degraded" }])
          yield* Effect.forkChild(running.drain)
          yield* TestClock.adjust("1 minute")
        }).pipe(Effect.provide(warnings.layer), Effect.scoped)
      }))
  }

  it.effect("X15 a commit that the broker does not answer is shown and told", () =>
    Effect.gen(function*() {
      const warnings = lines("Warn")
      yield* Effect.gen(function*() {
        const { broker } = yield* altered({ partitions: 1 }, {
          lease: (lease) => ({ ...lease, commit: () => Effect.never })
        })
        const running = yield* broker.consume(
          Subscription.make(Orders, { group: "g", name: "billing" }, () => Effect.void).consumer
        )
        yield* broker.publish(message("a"))
        yield* TestClock.adjust("11 seconds")
        const { leases, stuck } = yield* running.health
        assert.strictEqual(stuck, 1)
        assert.isDefined(leases[0]!.settlingSince)
        const told = warnings.found.filter((line) => line.includes("stuck"))
        assert.strictEqual(told.length, 1)
        yield* Effect.forkChild(running.drain)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* running.health).state, "stopped")
      }).pipe(Effect.provide(warnings.layer), Effect.scoped)
    }))
})

describe("dead letters without Log in the chain", () => {
  for (const [writer, deadLetter] of [["engine", false], ["broker", true]] as const) {
    it.effect(`F13 H4 each is one Warn line and one count, written by the ${writer}`, () =>
      Effect.gen(function*() {
        const warnings = lines("Warn")
        yield* Effect.gen(function*() {
          const { broker } = yield* altered({ partitions: 1, settlement: "message" }, {
            driver: (driver) => ({ ...driver, capabilities: { ...driver.capabilities, deadLetter } })
          })
          const running = yield* broker.consume(
            Subscription.make(
              Orders,
              { group: "g", name: "billing", hold: { attempts: 3 }, backoff: { base: 10 } },
              () => Effect.fail(transient)
            ).consumer
          )
          yield* broker.publishAll([message("a"), message("b")])
          yield* TestClock.adjust("1 minute")
          assert.strictEqual((yield* running.health).deadLetters, 2)
          const told = warnings.found.filter((line) => line.includes("dead letter"))
          assert.deepStrictEqual(told, Array(2).fill("A message of c became a dead letter of billing"))
          const counted = (yield* Metric.snapshot).filter(({ id }) => id.startsWith("millrace."))
          const countOf = (id: string) =>
            counted.filter((each) => each.id === id).map(({ attributes, state }) => [
              attributes?.["error.type"],
              Number((state as { count: number | bigint }).count)
            ])
          assert.deepStrictEqual(countOf("millrace.dead_letters"), [["Busy", 2]])
          assert.deepStrictEqual(countOf("millrace.retries"), [["Busy", 4]])
        }).pipe(
          Effect.provide(Layer.merge(warnings.layer, Layer.succeed(Metric.MetricRegistry, new Map()))),
          Effect.scoped
        )
      }))
  }
})

describe("retries in retry channels", () => {
  const ends: ReadonlyArray<readonly [tag: string, end: () => Effect.Effect<unknown, typeof transient>]> = [
    ["Busy", () => Effect.fail(transient)],
    ["Retry", () => Effect.succeed(Outcome.Retry())],
    ["Retry", () => Effect.succeed(Outcome.Retry({ after: "2500 millis" }))]
  ]
  for (const [tag, end] of ends) {
    it.effect(`F11 H4 are counted when a handler ran, whether it failed or answered: ${tag}`, () =>
      Effect.gen(function*() {
        let attempts = 0
        const { broker } = yield* altered({ partitions: 1 }, {})
        const options = { group: "g", name: "s", retries: Retries.delayed(["1 second", "2 seconds"]) }
        const { consumer } = Subscription.make(Orders, options, () => ++attempts < 3 ? end() : Effect.void)
        yield* broker.consume(consumer)
        yield* broker.publish(message("a"))
        yield* TestClock.adjust("1 minute")
        const found = (yield* Metric.snapshot).filter(({ id }) => id === "millrace.retries")
        // the retry of a message that waited in a retry channel counts for that channel
        const counts = found.flatMap(({ attributes, state }) =>
          Array<unknown>(Number((state as { count: number | bigint }).count)).fill(attributes?.["error.type"])
        )
        assert.deepStrictEqual([attempts, counts], [3, [tag, tag]])
      }).pipe(Effect.scoped, Effect.provideService(Metric.MetricRegistry, new Map())))
  }
})

describe("a dead letter channel", () => {
  it.effect("F13 is declared when the subscription starts", () =>
    Effect.gen(function*() {
      const { broker, memory } = yield* altered({ partitions: 1 }, {})
      yield* broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer)
      assert.deepStrictEqual(memory.ends("c.dead-letters"), [0])
    }).pipe(Effect.scoped))

  it.effect("F13 that cannot be declared is told in one sentence, and the subscription starts", () =>
    Effect.gen(function*() {
      const warnings = lines("Warn")
      yield* Effect.gen(function*() {
        const { broker, memory } = yield* altered({ partitions: 1 }, {
          driver: (driver) => ({ ...driver, declare: () => Effect.fail(refusal("Permission")) })
        })
        yield* broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer)
        assert.strictEqual(warnings.found.length, 1)
        assert.match(
          warnings.found[0]!,
          /^The dead letter channel c\.dead-letters of s could not be declared: create it/
        )
        yield* broker.publish(message("a"))
        yield* TestClock.adjust(10)
        assert.deepStrictEqual(memory.positions("c", "g"), [1])
      }).pipe(Effect.provide(warnings.layer), Effect.scoped)
    }))

  it.effect("F13 whose declaration is not answered does not keep the subscription from starting", () =>
    Effect.gen(function*() {
      const { broker } = yield* altered({ partitions: 1 }, {
        driver: (driver) => ({ ...driver, declare: () => Effect.never })
      })
      const fiber = yield* Effect.forkChild(
        broker.consume(Subscription.make(Orders, { group: "g", name: "s" }, () => Effect.void).consumer)
      )
      yield* TestClock.adjust("10 seconds")
      assert.isDefined(fiber.pollUnsafe())
    }).pipe(Effect.scoped))
})
