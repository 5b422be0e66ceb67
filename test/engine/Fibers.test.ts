import { Channel, Engine, MemoryBroker, Subscription } from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { TestClock } from "effect/testing"
import { message, refusal } from "./altered.ts"

const Orders = Channel.bytes("c")
const count = 200

/** A memory broker, and a subscription that counts the messages that it has handled. */
const started = (change: (memory: MemoryBroker.MemoryBroker) => MemoryBroker.MemoryBroker["driver"], arm: () => void) =>
  Effect.gen(function*() {
    const memory = yield* MemoryBroker.make({ partitions: 1 })
    const handled = new Set<number>()
    const running = yield* Engine.make(change(memory)).consume(
      Subscription.make(Orders, { group: "g", name: "s" }, ({ position }) =>
        Effect.sync(() => {
          if (handled.size === 0) arm()
          handled.add(position)
        })).consumer
    )
    yield* memory.broker.publishAll(Array.from({ length: count }, () => message()))
    yield* TestClock.adjust("10 seconds")
    const { lastError, state } = yield* running.health
    return { handled: handled.size, positions: memory.positions("c", "g"), lastError: String(lastError), state }
  }).pipe(Effect.scoped)

const goesOn = (error: string) => ({ handled: count, positions: [count], lastError: error, state: "running" as const })

describe("a defect of a fiber of the engine is shown, and the fiber starts again", () => {
  it.effect("F2 X15 the loop that starts messages", () =>
    Effect.gen(function*() {
      const clock = yield* Clock.Clock
      let isArmed = false
      // the loop reads the clock to end its slice of time
      const odd: Clock.Clock = Object.create(clock, {
        currentTimeMillisUnsafe: {
          value: () => {
            if (!isArmed) return clock.currentTimeMillisUnsafe()
            isArmed = false
            throw new Error("the clock throws")
          }
        }
      })
      const arm = () => {
        isArmed = true
      }
      const shown = yield* Effect.provideService(started(({ driver }) => driver, arm), Clock.Clock, odd)
      assert.deepStrictEqual(shown, goesOn("Error: the clock throws"))
      assert.isFalse(isArmed)
    }))

  it.effect("F2 X15 the lives of a source", () =>
    Effect.gen(function*() {
      let lives = 0
      let isArmed = false
      const change = ({ driver }: MemoryBroker.MemoryBroker): MemoryBroker.MemoryBroker["driver"] => ({
        ...driver,
        // read between two lives, to see whether the last one has settled anything
        get capabilities() {
          if (!isArmed) return driver.capabilities
          isArmed = false
          throw new Error("the capabilities throw")
        },
        consume: (options, sink) =>
          ++lives > 1 ? driver.consume(options, sink) : Effect.suspend(() => {
            sink.ready()
            isArmed = true
            return Effect.fail(refusal("Lost"))
          })
      })
      assert.deepStrictEqual(yield* started(change, () => {}), goesOn("Error: the capabilities throw"))
    }))
})
