import { Lanes, MemoryBroker, Subscription, TaskStore } from "@millrace/core"
import { type Task, Tasks, Worker } from "@millrace/tasks"
import { Data, Effect, Layer, Schema } from "effect"
import { TestClock } from "effect/testing"

export const memory = Layer.merge(MemoryBroker.layer(), TaskStore.layerMemory())

export class Busy extends Data.TaggedError("Busy")<{ readonly message: string }> {
  readonly failure = "transient" as const
}

/** Runs a worker and the tasks' service on the given broker and store, in memory by default. */
export const running = (
  implementations: ReadonlyArray<
    Worker.Implementation<Busy | Worker.TaskLost | TaskStore.TaskStoreUnavailable | Task.TaskValueError, never>
  >,
  options: {
    readonly tasks?: Tasks.Options
    readonly worker?: Worker.Options
    readonly subscription?: Partial<Subscription.Options>
  } = {}
) =>
  Layer.merge(
    Subscription.layer(Subscription.make(
      Tasks.channel("tasks"),
      { group: "workers", lanes: Lanes.unordered(16), ...options.subscription },
      Worker.handler(implementations, options.worker)
    )),
    Tasks.layer(options.tasks)
  )

export class Broken extends Schema.TaggedError<Broken>()("Broken", { reason: Schema.String }) {}

/** Lets virtual time pass in small steps, so that work between them runs. */
export const pass = (millis: number, step = 100) =>
  Effect.gen(function*() {
    for (let passed = 0; passed < millis; passed += step) yield* TestClock.adjust(Math.min(step, millis - passed))
  })
