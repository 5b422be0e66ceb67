import {
  Batch,
  Broker,
  Channel,
  DeadLetters,
  Decode,
  Description,
  type Handler,
  Lanes,
  MemoryBroker,
  type Message,
  Metrics,
  Outcome,
  Publisher,
  Retry,
  Stack,
  Subscription,
  Timeout
} from "@millrace/core"
import { assert, describe, it } from "@effect/vitest"
import { Data, Effect, Exit, Fiber, Layer, pipe, Result, Schema, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import * as fc from "fast-check"
import { deliver, runChain } from "./support.ts"

type Bytes = Message<Uint8Array>

class Full extends Data.TaggedError("Full")<{ readonly position: number }> {
  readonly failure = "permanent" as const
}

const run = <E>(handler: Handler<Bytes, unknown, E>, positions: ReadonlyArray<number>) =>
  Effect.forEach(
    positions,
    (position) => Effect.forkChild(runChain(handler, deliver({ position })), { startImmediately: true })
  )

const positionsOf = (messages: ReadonlyArray<Bytes>) => messages.map(({ position }) => position)

describe("Batch", () => {
  it("F20 every message is in one batch, in order, none larger than size, and each gets its own item", () =>
    fc.assert(fc.asyncProperty(
      fc.integer({ min: 1, max: 7 }),
      fc.array(fc.tuple(fc.integer({ min: 0, max: 30 }), fc.constantFrom("answer", "outcome", "fail")), {
        maxLength: 40
      }),
      (size, arrivals) =>
        Effect.runPromise(
          Effect.gen(function*() {
            const batches: Array<ReadonlyArray<number>> = []
            const itemOf = (position: number) => {
              const what = arrivals[position]![1]
              return what === "answer"
                ? Result.succeed(position)
                : what === "fail"
                ? Result.fail(new Full({ position }))
                : Outcome.Reject(position)
            }
            const handler = Batch.handler({ size, wait: 20 }, (messages: ReadonlyArray<Bytes>) => {
              batches.push(positionsOf(messages))
              return Effect.as(Effect.sleep(messages[0]!.position), positionsOf(messages).map(itemOf))
            })
            const fibers: Array<Fiber.Fiber<Exit.Exit<unknown, unknown>>> = []
            for (let position = 0; position < arrivals.length; position++) {
              yield* TestClock.adjust(arrivals[position]![0])
              fibers.push(...yield* run(handler, [position]))
            }
            yield* TestClock.adjust("1 minute")
            const exits = yield* Effect.forEach(fibers, Fiber.join)
            assert.deepStrictEqual(batches.flat(), arrivals.map((_, i) => i))
            for (const batch of batches) assert.isTrue(batch.length >= 1 && batch.length <= size)
            exits.forEach((exit, position) => {
              const item = itemOf(position)
              assert.deepStrictEqual(
                exit,
                Outcome.isOutcome(item)
                  ? Exit.succeed(item)
                  : Result.isSuccess(item)
                  ? Exit.succeed(item.success)
                  : Exit.fail(item.failure)
              )
            })
          }).pipe(Effect.provide(TestClock.layer()))
        )
    )))

  it.effect("F20 a batch runs when it is full, or when its first message has waited", () =>
    Effect.gen(function*() {
      const batches: Array<ReadonlyArray<number>> = []
      const handler = Batch.handler({ size: 3, wait: "20 millis" }, (messages: ReadonlyArray<Bytes>) =>
        Effect.sync(() => void batches.push(positionsOf(messages))))
      yield* run(handler, [0, 1])
      assert.deepStrictEqual(batches, [])
      yield* run(handler, [2])
      assert.deepStrictEqual(batches, [[0, 1, 2]])
      yield* run(handler, [3])
      yield* TestClock.adjust("19 millis")
      yield* run(handler, [4])
      assert.strictEqual(batches.length, 1)
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(batches, [[0, 1, 2], [3, 4]])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(batches.length, 2)
    }))

  it.effect("F20 a failure or a defect of the whole is that of each", () =>
    Effect.gen(function*() {
      const failing = Batch.handler({ size: 2 }, (_: ReadonlyArray<Bytes>) => Effect.fail(new Full({ position: -1 })))
      const dying = Batch.handler({ size: 2 }, (_: ReadonlyArray<Bytes>): Effect.Effect<void> => {
        throw new Error("broken")
      })
      const wrong = Batch.handler({ size: 2 }, (_: ReadonlyArray<Bytes>) => Effect.succeed([Outcome.Ack]))
      for (const fiber of yield* run(failing, [0, 1])) {
        assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail(new Full({ position: -1 })))
      }
      for (const handler of [dying, wrong]) {
        for (const fiber of yield* run(handler, [0, 1])) assert.isTrue(Exit.hasDies(yield* Fiber.join(fiber)))
      }
    }))

  it.effect("F20 whoever is interrupted leaves a batch that has not begun; one that nobody waits for is interrupted", () =>
    Effect.gen(function*() {
      const batches: Array<ReadonlyArray<number>> = []
      let interrupted = 0
      const handler = Batch.handler({ size: 3, wait: 20 }, (messages: ReadonlyArray<Bytes>) => {
        batches.push(positionsOf(messages))
        return Effect.onInterrupt(Effect.never, () => Effect.sync(() => void interrupted++))
      })
      const [first, second, third] = yield* run(handler, [0, 1, 2].slice(0, 2))
      assert.isUndefined(third)
      yield* Fiber.interrupt(first!)
      yield* TestClock.adjust(20)
      assert.deepStrictEqual(batches, [[1]])
      yield* Fiber.interrupt(second!)
      assert.strictEqual(interrupted, 1)
      // nobody is left before it began: it never does
      const [lonely] = yield* run(handler, [3])
      yield* Fiber.interrupt(lonely!)
      yield* TestClock.adjust("1 second")
      assert.strictEqual(batches.length, 1)
      const three = yield* run(handler, [4, 5, 6])
      yield* Fiber.interrupt(three[0]!)
      yield* Fiber.interrupt(three[1]!)
      assert.deepStrictEqual([batches.length, interrupted], [2, 1])
      yield* Fiber.interrupt(three[2]!)
      assert.strictEqual(interrupted, 2)
    }))

  it.effect("F20 a time limit outside is that of each message, and the rest of the batch goes on", () =>
    Effect.gen(function*() {
      const handler = pipe(
        Batch.handler(
          { size: 2, wait: "1 second" },
          (messages: ReadonlyArray<Bytes>) => Effect.as(Effect.sleep("3 seconds"), messages.map(() => "done"))
        ),
        Timeout.middleware({ after: "3500 millis" })
      )
      const [early] = yield* run(handler, [0])
      yield* TestClock.adjust("900 millis")
      const [late] = yield* run(handler, [1])
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Fiber.join(late!), Exit.succeed("done"))
      assert.isTrue(Exit.isFailure(yield* Fiber.join(early!)))
    }))
})

const Order = Schema.Struct({ id: Schema.Int })
const Orders = Channel.make("orders", { payload: Order })
const memory = MemoryBroker.layer({ partitions: 1 })

const publish = (count: number) => Publisher.make(Orders).publishAll(Array.from({ length: count }, (_, id) => ({ id })))

describe("a subscription of batches", () => {
  it.effect("F20 the middlewares of single messages stay: an item's failure is retried or dead-lettered alone", () =>
    Effect.gen(function*() {
      const calls = new Map<number, number>()
      const batches: Array<number> = []
      const handler = pipe(
        Batch.handler({ size: 5 }, (messages: ReadonlyArray<Message<typeof Order.Type>>) => {
          batches.push(messages.length)
          return Effect.succeed(
            messages.map(({ payload: { id } }): Result.Result<Outcome.Ack | Outcome.DeadLetter, Full> => {
              calls.set(id, (calls.get(id) ?? 0) + 1)
              return id === 3 && calls.get(id) === 1
                ? Result.fail(new Full({ position: id }))
                : Result.succeed(id === 7 ? Outcome.DeadLetter("seven") : Outcome.Ack)
            })
          )
        }),
        Retry.when(() => true, { times: 2 }),
        Decode.middleware(Orders),
        Metrics.middleware()
      )
      const running = yield* Subscription.run(
        Subscription.make(Orders, { group: "g", lanes: Lanes.unordered(10) }, handler)
      )
      yield* publish(10)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual([...calls.values()], Array.from({ length: 10 }, (_, id) => id === 3 ? 2 : 1))
      assert.deepStrictEqual(batches, [5, 5, 1])
      const letters = yield* Stream.runCollect(DeadLetters.list("orders.dead-letters"))
      assert.deepStrictEqual(letters.map(({ position }) => position), [7])
      assert.strictEqual((yield* running.health).settled, 10)
    }).pipe(Effect.scoped, Effect.provide([memory, Metrics.layer])))

  it.effect("F20 a drain lets a batch that waits run, and nothing of it is lost or comes twice", () =>
    Effect.gen(function*() {
      const { broker, positions } = yield* MemoryBroker.make({ partitions: 1 })
      yield* Effect.gen(function*() {
        const seen: Array<number> = []
        const handler = Batch.handler(
          { size: 100, wait: "5 seconds" },
          (messages: ReadonlyArray<Bytes>) =>
            Effect.andThen(Effect.sleep("1 second"), Effect.sync(() => void seen.push(...positionsOf(messages))))
        )
        const scope = yield* Scope.make()
        yield* Scope.provide(
          Subscription.run(Subscription.make(Orders, { group: "g", lanes: Lanes.unordered(100) }, handler)),
          scope
        )
        yield* publish(7)
        yield* TestClock.adjust("1 second")
        const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("10 seconds")
        assert.isDefined(closing.pollUnsafe())
        assert.deepStrictEqual(seen, [0, 1, 2, 3, 4, 5, 6])
        assert.deepStrictEqual(positions("orders", "g"), [7])
      }).pipe(Effect.provide(Layer.succeed(Broker.Broker, broker)))
    }))

  it.effect("F20 with lanes by key no two messages of a key are in one batch, and each key keeps its order", () =>
    Effect.gen(function*() {
      const batches: Array<ReadonlyArray<string>> = []
      const handler = Batch.handler(
        { size: 4 },
        (messages: ReadonlyArray<Bytes>) =>
          Effect.sync(() => void batches.push(messages.map(({ key, position }) => `${key}${position}`)))
      )
      yield* Subscription.run(Subscription.make(Channel.bytes("a"), { group: "g", lanes: Lanes.key(4) }, handler))
      const publisher = Publisher.make(Channel.bytes("a"))
      for (const key of ["x", "y", "x", "z", "x", "y"]) yield* publisher.publish(new Uint8Array(1), { key })
      yield* TestClock.adjust("1 second")
      for (const batch of batches) {
        const keys = batch.map((name) => name[0])
        assert.strictEqual(new Set(keys).size, keys.length)
      }
      assert.deepStrictEqual(batches.flat().filter((name) => name.startsWith("x")), ["x0", "x2", "x4"])
      assert.strictEqual(batches.flat().length, 6)
    }).pipe(Effect.scoped, Effect.provide(memory)))

  it("F20 lanes that cannot fill a batch are refused with a sentence, wherever the handler stands", () => {
    const handler = Stack.start().use(Metrics.middleware()).handle(
      Batch.handler({ size: 10, wait: "1 second" }, (_: ReadonlyArray<Bytes>) => Effect.void)
    )
    const make = (options: Omit<Subscription.Options, "group">) => () =>
      Subscription.make(Channel.bytes("a"), { group: "g", ...options }, handler)
    assert.throws(make({}), RangeError, "lanes must run messages side by side where a handler takes 10 together")
    assert.throws(make({ lanes: Lanes.unordered(9) }), RangeError, "the limit of lanes must be from 10")
    assert.throws(make({ lanes: Lanes.key(9) }), RangeError, "the limit of lanes must be from 10")
    const lanes = Lanes.unordered(10)
    assert.throws(make({ lanes, inFlight: { messages: 9 } }), RangeError, "inFlight.messages must be from 10")
    assert.throws(make({ lanes, grace: { revoke: "1 second" } }), RangeError, "grace must be longer")
    assert.isDefined(make({ lanes })())
    assert.include(Description.toText(handler), "(batch: 10, wait: 1000 ms)")
  })

  it("F20 wrong options are refused when it is built", () => {
    const none = (_: ReadonlyArray<Bytes>) => Effect.void
    assert.throws(() => Batch.handler({ size: 0 }, none), RangeError, "Batch: size must be an integer from 1, got 0")
    assert.throws(() => Batch.handler({ size: 1, wait: Infinity }, none), RangeError, "Batch: wait must be a finite")
  })
})
