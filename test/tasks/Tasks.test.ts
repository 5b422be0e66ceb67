import { assert, describe, it } from "@effect/vitest"
import {
  Broker,
  BrokerError,
  Lanes,
  MemoryBroker,
  Middleware,
  Publisher,
  Retry,
  Stack,
  Subscription,
  TaskStore
} from "@millrace/core"
import { Task, Tasks, Worker } from "@millrace/tasks"
import { Cause, Deferred, Effect, type Exit, Fiber, Layer, Schema, Stream } from "effect"
import { TestClock } from "effect/testing"
import { Broken, Busy, memory, pass, running } from "./support.ts"

const Double = Task.make("double", { payload: Schema.Finite, success: Schema.Finite, error: Broken })

const doubling = Worker.on(
  Double,
  (number) => number < 0 ? Effect.fail(new Broken({ reason: "negative" })) : Effect.succeed(number * 2)
)

const recordOf = <A, E, G>(handle: Tasks.Handle<A, E, G>) =>
  Effect.map(handle.record, (record) => {
    assert(record !== undefined)
    return record
  })

const errorOf = <A, E>(exit: Exit.Exit<A, E>): unknown => exit._tag === "Failure" ? Cause.squash(exit.cause) : undefined

describe("Tasks", () => {
  it.effect("X11 a task is enqueued, runs on a worker, and its handle answers its typed result", () =>
    Effect.gen(function*() {
      const handle = yield* Tasks.enqueue(Double, 21, { metadata: { customer: "c1" } })
      assert.isTrue(handle.isNew)
      assert.strictEqual(yield* handle.result, 42)
      const record = yield* recordOf(handle)
      assert.strictEqual(record.state, "succeeded")
      assert.deepStrictEqual(record.attempts.map(({ ending, number }) => [number, ending]), [[1, "succeeded"]])
      assert.strictEqual(yield* (yield* Tasks.handle(Double, handle.id)).result, 42)
      const found = yield* Tasks.find({ metadata: { customer: "c1" } })
      assert.deepStrictEqual(found.map(({ id }) => id), [handle.id])
    }).pipe(Effect.provide(running([doubling]).pipe(Layer.provide(memory)))))

  it.effect("X11 an error of the task's own type ends it, without a retry or a dead letter", () =>
    Effect.gen(function*() {
      const handle = yield* Tasks.enqueue(Double, -1)
      const error = yield* Effect.flip(handle.result)
      assert.deepStrictEqual(error, new Broken({ reason: "negative" }))
      const record = yield* recordOf(handle)
      assert.strictEqual(record.attempts.length, 1)
      const broker = yield* Broker.Broker
      assert.deepStrictEqual(Array.from(yield* Stream.runCollect(broker.browse("tasks.dead-letters"))), [])
    }).pipe(Effect.provide(running([doubling]).pipe(Layer.provideMerge(memory)))))

  it.effect("X11 failed attempts are retried by the engine, listed with their errors, and set no result", () =>
    Effect.gen(function*() {
      let runs = 0
      const flaky = Worker.on(Double, (number, { attempt }) => {
        runs++
        return attempt < 3 ? Effect.fail(new Busy({ message: `run ${attempt}` })) : Effect.succeed(number)
      })
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 1)
        yield* TestClock.adjust("500 millis")
        const between = yield* recordOf(handle)
        assert.strictEqual(between.state, "retrying")
        assert.strictEqual(between.result, undefined)
        yield* pass(10_000)
        assert.strictEqual(yield* handle.result, 1)
        const record = yield* recordOf(handle)
        assert.deepStrictEqual(record.attempts.map(({ ending, error }) => [ending, error?.tag, error?.message]), [
          ["failed", "Busy", "run 1"],
          ["failed", "Busy", "run 2"],
          ["succeeded", undefined, undefined]
        ])
        assert.strictEqual(runs, 3)
      }).pipe(Effect.provide(running([flaky]).pipe(Layer.provide(memory))))
    }))

  it.effect("X11 a task that keeps failing becomes a dead letter, and its result is the failure", () =>
    Effect.gen(function*() {
      const handle = yield* Tasks.enqueue(Double, 1)
      yield* pass(20_000)
      const error = yield* Effect.flip(handle.result)
      assert(error._tag === "TaskFailed")
      assert.deepStrictEqual([error.tag, error.message], ["Busy", "always"])
      const broker = yield* Broker.Broker
      assert.strictEqual((yield* Stream.runCollect(broker.browse("tasks.dead-letters"))).length, 1)
      // a duplicate of its message is acknowledged without a run
      assert.strictEqual((yield* recordOf(handle)).attempts.length, 3)
    }).pipe(
      Effect.provide(
        running([Worker.on(Double, () => Effect.fail(new Busy({ message: "always" })))], {
          subscription: { hold: { attempts: 3 } }
        }).pipe(Layer.provideMerge(memory))
      )
    ))

  it.effect("X11 a defect ends the task as failed, and a restart runs it again with all its attempts", () =>
    Effect.gen(function*() {
      let isMended = false
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 1)
        const error = yield* Effect.flip(handle.result)
        assert(error._tag === "TaskFailed")
        isMended = true
        assert.isTrue(yield* Tasks.restart(handle.id))
        yield* pass(2_000)
        assert.strictEqual(yield* handle.result, 1)
        assert.isFalse(yield* Tasks.restart(handle.id))
      }).pipe(
        Effect.provide(
          running([
            Worker.on(Double, (number) => isMended ? Effect.succeed(number) : Effect.die(new Error("a bug")))
          ]).pipe(Layer.provide(memory))
        )
      )
    }))

  it.effect("X11 an unknown task is a dead letter, and its result tells so", () =>
    Effect.gen(function*() {
      const handle = yield* Tasks.enqueue(Task.make("other", { payload: Schema.Finite }), 1)
      const error = yield* Effect.flip(handle.result)
      assert(error._tag === "TaskFailed")
      assert.strictEqual(error.tag, "UnknownTask")
      const broker = yield* Broker.Broker
      yield* broker.publish(Publisher.message(Tasks.channel("tasks"), new Uint8Array(0)))
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Stream.runCollect(broker.browse("tasks.dead-letters"))).length, 2)
      // the queue goes on
      assert.strictEqual(yield* (yield* Tasks.enqueue(Double, 2)).result, 4)
    }).pipe(Effect.provide(running([doubling]).pipe(Layer.provideMerge(memory)))))

  it.effect("X11 a delayed task runs when it is due and not before, and not after it was cancelled", () =>
    Effect.gen(function*() {
      const later = yield* Tasks.enqueue(Double, 1, { delay: "10 minutes" })
      const at = yield* Tasks.enqueue(Double, 2, { at: new Date(300_000) })
      const never = yield* Tasks.enqueue(Double, 3, { delay: "10 minutes" })
      yield* pass(299_000, 1_000)
      assert.strictEqual((yield* recordOf(at)).state, "pending")
      yield* pass(2_000)
      assert.strictEqual(yield* at.result, 4)
      assert.strictEqual(yield* never.cancel, "cancelled")
      yield* pass(298_000, 1_000)
      assert.strictEqual((yield* recordOf(later)).state, "pending")
      yield* pass(3_000)
      assert.strictEqual(yield* later.result, 2)
      assert.strictEqual((yield* Effect.flip(never.result))._tag, "TaskCancelled")
      assert.deepStrictEqual((yield* recordOf(never)).attempts, [])
    }).pipe(Effect.provide(running([doubling]).pipe(Layer.provide(memory)))))

  it.effect("X11 a running task is interrupted by its cancellation", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      let interrupted = false
      const slow = Worker.on(Double, () =>
        Effect.onInterrupt(
          Effect.andThen(Deferred.succeed(started, undefined), Effect.never),
          () => Effect.sync(() => interrupted = true)
        ))
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 1)
        yield* Deferred.await(started)
        assert.strictEqual(yield* handle.cancel, "requested")
        assert.strictEqual((yield* Effect.flip(handle.result))._tag, "TaskCancelled")
        assert.isTrue(interrupted)
        assert.strictEqual(yield* handle.cancel, "cancelled")
        assert.strictEqual((yield* recordOf(handle)).attempts[0]?.ending, "cancelled")
      }).pipe(Effect.provide(running([slow]).pipe(Layer.provide(memory))))
    }))

  it.effect("X11 an id is one task, and a unique key has one at a time", () =>
    Effect.gen(function*() {
      const first = yield* Tasks.enqueue(Double, 1, { id: "a", delay: "1 hour" })
      const second = yield* Tasks.enqueue(Double, 1, { id: "a", delay: "1 hour" })
      assert.deepStrictEqual([first.isNew, second.isNew, second.id], [true, false, "a"])
      assert.strictEqual((yield* Effect.flip(Tasks.enqueue(Double, 2, { id: "a" })))._tag, "TaskConflict")
      const unique = { by: "customer 1" }
      const all = yield* Effect.all(
        Array.from({ length: 20 }, (_, i) => Tasks.enqueue(Double, i, { unique, delay: "1 minute" })),
        { concurrency: "unbounded" }
      )
      const [made, ...none] = all.filter(({ isNew }) => isNew)
      assert.deepStrictEqual(none, [])
      assert.isTrue(all.every(({ id }) => id === made!.id))
      yield* pass(62_000, 1_000)
      yield* made!.result
      assert.isTrue((yield* Tasks.enqueue(Double, 3, { unique })).isNew)
    }).pipe(Effect.provide(running([doubling]).pipe(Layer.provide(memory)))))

  it.effect("X11 a task expires if no worker begins it in time", () =>
    Effect.gen(function*() {
      const tasks = Tasks.layer().pipe(Layer.provideMerge(memory))
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 1, { expires: "1 minute" })
        yield* pass(61_000, 1_000)
        yield* Subscription.run(
          Subscription.make(Tasks.channel("tasks"), { group: "workers" }, Worker.handler([doubling]))
        )
        assert.strictEqual((yield* Effect.flip(handle.result))._tag, "TaskExpired")
      }).pipe(Effect.scoped, Effect.provide(tasks))
    }))

  it.effect("X11 progress arrives in order, the newest each time, and ends with the task", () =>
    Effect.gen(function*() {
      const Count = Task.make("count", { payload: Schema.Finite, progress: Schema.Finite })
      const counting = Worker.on(Count, (to, { progress }) =>
        Effect.forEach(
          Array.from({ length: to }, (_, i) => i + 1),
          (at) => Effect.andThen(progress(at), Effect.sleep("1 second")),
          { discard: true }
        ))
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Count, 3)
        const fiber = yield* Effect.forkChild(Stream.runCollect(handle.progress), { startImmediately: true })
        yield* pass(5_000)
        assert.deepStrictEqual(Array.from(yield* Fiber.join(fiber)), [1, 2, 3])
        yield* handle.result
      }).pipe(Effect.provide(running([counting]).pipe(Layer.provide(memory))))
    }))

  it.effect("X11 all middlewares stand around a worker, and a retry inside stays one attempt", () =>
    Effect.gen(function*() {
      let runs = 0
      const outcomes: Array<string | undefined> = []
      const flaky = Worker.on(
        Double,
        (number) =>
          Effect.suspend(() => ++runs < 3 ? Effect.fail(new Busy({ message: "again" })) : Effect.succeed(number))
      )
      const stack = Stack.start()
        .use(
          Middleware.make()({ name: "Outcomes", stage: "consume" }, (next) => (message) => {
            message.after((_exit, outcome) => void outcomes.push(outcome?._tag))
            return next(message)
          })
        )
        .use(Retry.middleware({ times: 2 }))
      const worker = Subscription.make(
        Tasks.channel("tasks"),
        { group: "workers", lanes: Lanes.unordered(4) },
        stack.handle(Worker.handler([flaky]))
      )
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 5)
        yield* pass(10_000)
        assert.strictEqual(yield* handle.result, 5)
        assert.strictEqual(runs, 3)
        assert.deepStrictEqual((yield* recordOf(handle)).attempts.map(({ ending }) => ending), ["succeeded"])
        assert.deepStrictEqual(outcomes, ["Ack"])
      }).pipe(Effect.provide(Layer.merge(Subscription.layer(worker), Tasks.layer()).pipe(Layer.provide(memory))))
    }))

  it.effect("X11 a drained worker gives its task back, and spends no attempt", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const worker = (implementation: Worker.Implementation<Task.TaskValueError, never>) =>
        Subscription.run(
          Subscription.make(
            Tasks.channel("tasks"),
            { group: "workers", grace: { drain: 0 } },
            Worker.handler([implementation])
          )
        )
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 4)
        const running = yield* worker(
          Worker.on(Double, () => Effect.andThen(Deferred.succeed(started, undefined), Effect.never))
        )
        yield* Deferred.await(started)
        yield* running.drain
        const record = yield* recordOf(handle)
        assert.deepStrictEqual([record.state, record.begun], ["retrying", 0])
        yield* worker(Worker.on(Double, (number) => Effect.succeed(number)))
        assert.strictEqual(yield* handle.result, 4)
        assert.deepStrictEqual((yield* recordOf(handle)).attempts.map(({ ending }) => ending), [
          "released",
          "succeeded"
        ])
      }).pipe(Effect.scoped, Effect.provide(Tasks.layer().pipe(Layer.provideMerge(memory))))
    }))

  it.effect("X11 a task stays stored while the broker is unreachable, and is published when it is back", () =>
    Effect.gen(function*() {
      let isDown = true
      const flaky = Layer.effect(
        Broker.Broker,
        Effect.map(Broker.Broker, (broker) =>
          Broker.Broker.of({
            ...broker,
            publish: (message) =>
              isDown
                ? Effect.fail(
                  BrokerError.make({ system: "memory", operation: "publish", reason: "Unreachable", message: "down" })
                )
                : broker.publish(message)
          }))
      ).pipe(Layer.provide(MemoryBroker.layer()))
      yield* Effect.gen(function*() {
        const handle = yield* Tasks.enqueue(Double, 3)
        yield* pass(25_000, 500)
        assert.strictEqual((yield* recordOf(handle)).state, "pending")
        isDown = false
        yield* pass(25_000, 500)
        assert.strictEqual(yield* handle.result, 6)
      }).pipe(Effect.provide(running([doubling]).pipe(Layer.provide([flaky, TaskStore.layerMemory()]))))
    }))

  it.effect("X11 a priority is refused by a broker that has none, when it is built", () =>
    Effect.gen(function*() {
      const layer = Tasks.layer({ priorities: "broker" }).pipe(Layer.provide(memory))
      const error = yield* Effect.flip(Effect.scoped(Layer.build(layer)))
      assert.strictEqual(
        error.message,
        "memory orders no messages by priority: leave out priorities, and give urgent tasks a queue of their own."
      )
      const refused = Effect.flip(Tasks.enqueue(Double, 1, { priority: 5 }))
      assert.strictEqual(
        (yield* Effect.provide(refused, Tasks.layer().pipe(Layer.provide(memory))))._tag,
        "TaskRefused"
      )
    }))

  it("X11 wrong options are refused with a sentence", () => {
    assert.throws(() => Worker.handler([doubling, doubling]), "Worker.handler: the task double is implemented twice")
    assert.throws(
      () => Task.make("", { payload: Schema.String }),
      "Task.make: name must have 1 to 255 characters, got 0"
    )
    assert.throws(
      () =>
        Effect.runSync(
          Effect.provide(
            Tasks.enqueue(Double, 1, { delay: 1, at: new Date(0) }),
            Tasks.layer().pipe(Layer.provide(memory))
          )
        ),
      "Tasks.enqueue: delay and at exclude each other"
    )
  })

  it.effect("X11 a cancellation of an unknown id says so", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* Tasks.cancel("none"), "missing")
      assert.strictEqual(yield* Tasks.read("none"), undefined)
      const handle = yield* Tasks.handle(Double, "none")
      const error = errorOf(yield* Effect.exit(handle.result))
      assert.instanceOf(error, Tasks.TaskMissing)
    }).pipe(Effect.provide(Tasks.layer().pipe(Layer.provide(memory)))))
})
