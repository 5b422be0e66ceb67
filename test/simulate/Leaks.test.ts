import { assert, describe, it } from "@effect/vitest"
import * as Core from "@millrace/core"
import { Effect, Exit, Scope } from "effect"
import { TestClock } from "effect/testing"
import { grow } from "./greenhouse.ts"
import { keepers } from "./plants.ts"
import type { Subject } from "./settings.ts"
import { collectGarbage } from "../engine/collectGarbage.ts"

/** How each message ends; the trouble is over before the consumer ends. */
const ends = ["done", "slow", "retried", "dead letter", "durable", "kept"] as const

/**
 * A consumer that has had messages of every end, lost its leases, was paused and drained. Answers how many of its messages can
 * still be reached, while the broker and what runs the consumer can be.
 */
const reachable = ({ Channel, Engine, Lanes, MemoryBroker, Outgoing, Subscription }: Subject) =>
  Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 2 })
    const seen: Array<WeakRef<object>> = []
    const broker = Engine.make({
      ...memory.driver,
      consume: (options, sink) =>
        memory.driver.consume(options, {
          ...sink,
          offer: (lease, batch) => {
            for (const delivery of batch) seen.push(new WeakRef(delivery))
            return sink.offer(lease, batch)
          }
        })
    })
    const subscription = Subscription.make(
      Channel.bytes("c"),
      {
        group: "g",
        name: "s",
        lanes: Lanes.key(4),
        backoff: { base: 10, cap: 50 },
        grace: { drain: 100 },
        hold: { attempts: 3 }
      },
      (delivery): Effect.Effect<void, { readonly _tag: "Busy"; readonly failure: "transient" }> => {
        const busy = Effect.fail({ _tag: "Busy", failure: "transient" } as const)
        switch (delivery.headers["end"] as (typeof ends)[number]) {
          case "slow":
            return Effect.sleep(20)
          case "retried":
            return delivery.attempt === 1 ? busy : Effect.void
          case "dead letter":
            return Effect.die("x")
          case "durable":
            delivery.after(() => Effect.sleep(30))
            return Effect.void
          case "kept":
            return Effect.sleep("1 hour")
          default:
            return Effect.void
        }
      }
    )
    const scope = yield* Scope.make()
    const running = yield* Effect.provideService(broker.consume(subscription.consumer), Scope.Scope, scope)
    const publish = Effect.forEach(
      ends,
      (end, i) =>
        memory.broker.publishAll(
          Array.from({ length: 4 }, (_, k) => new Outgoing("c", new Uint8Array(8), `k${i}.${k % 2}`, { end }))
        ),
      { discard: true }
    )
    yield* publish
    yield* TestClock.adjust(5)
    // leases are lost in the middle
    yield* memory.stop
    yield* memory.start
    yield* TestClock.adjust("1 second")
    yield* publish
    yield* running.pause
    yield* memory.stop
    yield* memory.start
    yield* TestClock.adjust("1 second")
    yield* running.resume
    yield* TestClock.adjust("1 second")
    const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
    yield* TestClock.adjust("1 minute")
    assert.isDefined(closing.pollUnsafe())
    // what a turn of the event loop has used is kept until it ends
    let left = seen.length
    for (let round = 0; round < 10 && left > 0; round++) {
      yield* Effect.promise(() => new Promise((resolve) => setImmediate(resolve)))
      collectGarbage()
      left = seen.filter((one) => one.deref() !== undefined).length
    }
    const { state } = yield* running.health
    return { left, seen: seen.length, state }
  })

describe("X16 after the end of a consumer that can still be reached", () => {
  it.effect("X16 none of its messages can be", () =>
    Effect.gen(function*() {
      const { left, seen, state } = yield* reachable(Core)
      assert.isAbove(seen, 40)
      assert.deepStrictEqual([left, state], [0, "stopped"])
    }))

  it.effect.each(keepers.map((plant) => [plant.name, plant] as const))(
    "X16 %s is found",
    ([, plant]) =>
      Effect.gen(function*() {
        const subject = yield* Effect.promise(() => grow(plant))
        assert.isAbove((yield* reachable(subject)).left, 0, plant.about)
      })
  )
})
