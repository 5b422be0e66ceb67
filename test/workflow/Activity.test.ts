import { assert, describe, it } from "@effect/vitest"
import { Audit, Idempotency, type Message, RateLimit, Retry } from "@millrace/core"
import { Deliveries } from "@millrace/testing"
import { Activity, EffectWorkflows, Execution, StartWorkflow, WorkflowType } from "@millrace/workflow"
import { Data, Effect, Exit, Fiber, Layer, pipe, Schema } from "effect"
import { TestClock } from "effect/testing"

class Down extends Data.TaggedError("Down")<{}> {
  readonly failure = "dependency" as const
}
class Wrong extends Data.TaggedError("Wrong")<{}> {
  readonly failure = "permanent" as const
}
class Declined extends Schema.TaggedError<Declined>()("Declined", { by: Schema.String }) {}

const Job = WorkflowType.make("Job", { payload: Schema.String, success: Schema.String, error: Declined })

const start = StartWorkflow.handler({
  workflow: Job,
  key: (message: Message<Uint8Array>) => message.key,
  payload: (message: Message<Uint8Array>) => message.key ?? "",
  await: "result"
})

/** The end of a workflow whose code is `body`. */
const ended = (
  body: (payload: string) => Effect.Effect<string, Declined, Execution.Current>,
  key = "k"
) =>
  Effect.provide(
    Effect.map(Effect.suspend(() => start(Deliveries.make({ key }))), ({ result }) => result),
    Layer.merge(EffectWorkflows.layerMemory(EffectWorkflows.implement(Job, body)), Idempotency.layerMemory())
  )

const through = <A, E, R>(effect: Effect.Effect<A, E, R>, time: "10 minutes" | "1 second" = "10 minutes") =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect)
    yield* TestClock.adjust(time)
    return yield* Fiber.join(fiber)
  })

describe("Activity", () => {
  it.effect("T5 runs a handler as a step, and its own errors reach the workflow with their type", () =>
    Effect.gen(function*() {
      const charge = Activity.make(
        "charge",
        { payload: Schema.String, success: Schema.String, error: Declined },
        (message: Message<string>) =>
          message.payload === "no" ? Effect.fail(new Declined({ by: "bank" })) : Effect.succeed(`${message.channel} ok`)
      )
      const body = (payload: string) =>
        Effect.catchTag(charge.execute(payload), "Declined", ({ by }) => Effect.succeed(`declined by ${by}`))
      assert.deepStrictEqual(yield* through(ended(body, "yes")), { _tag: "Completed", value: "charge ok" })
      assert.deepStrictEqual(yield* through(ended(body, "no")), { _tag: "Completed", value: "declined by bank" })
    }))

  it.effect("T5 runs again after a failure that may pass, and not after one that lasts", () =>
    Effect.gen(function*() {
      let calls = 0
      const flaky = Activity.make(
        "flaky",
        { payload: Schema.String, success: Schema.String },
        (message: Message<string>) =>
          ++calls < 4 ? Effect.fail(new Down()) : Effect.succeed(`attempt ${message.attempt}`)
      )
      assert.deepStrictEqual(yield* through(ended((payload) => flaky.execute(payload))), {
        _tag: "Completed",
        value: "attempt 4"
      })
      let wrongs = 0
      const wrong = Activity.make("wrong", { payload: Schema.String, success: Schema.String }, (_: Message<string>) => {
        wrongs++
        return Effect.fail(new Wrong())
      })
      const end = yield* through(ended((payload) => wrong.execute(payload)))
      assert.strictEqual(end._tag, "Failed")
      assert.strictEqual(wrongs, 1)
    }))

  it.effect("T5 fails for good after the last of `attempts`", () =>
    Effect.gen(function*() {
      let calls = 0
      const down = Activity.make(
        "down",
        { payload: Schema.String, success: Schema.String, attempts: 3 },
        (_: Message<string>) => {
          calls++
          return Effect.fail(new Down())
        }
      )
      const end = yield* through(ended((payload) => down.execute(payload)))
      assert.strictEqual(end._tag === "Failed" ? end.message : end._tag, "The activity down failed: ")
      assert.strictEqual(calls, 3)
    }))

  it.effect("T5 middlewares of consumers stand around an activity: retry, rate limit, audit before the step counts", () =>
    Effect.gen(function*() {
      let writes = 0
      const store = Layer.provideMerge(
        Layer.effect(
          Audit.Store,
          Effect.map(Audit.Store, (own) => ({
            ...own,
            append: (entry: Audit.Entry) =>
              ++writes === 1
                ? Effect.fail(
                  new Audit.AuditError({ operation: "append", reason: "Full", message: "the disk is full" })
                )
                : own.append(entry)
          }))
        ),
        Audit.layerMemory()
      )
      let calls = 0
      const charge = Activity.make(
        "charge",
        { payload: Schema.String, success: Schema.String },
        pipe(
          (message: Message<string>) => ++calls === 1 ? Effect.fail(new Down()) : Effect.succeed(message.payload),
          Retry.middleware(),
          RateLimit.middleware({ limit: 10 }),
          Audit.middleware()
        )
      )
      const end = yield* through(
        ended((payload) => Effect.provide(charge.execute(payload), Layer.merge(store, RateLimit.layerMemory())))
      )
      assert.deepStrictEqual(end, { _tag: "Completed", value: "k" })
      // one retry in place, and one attempt more because the row was not durable
      assert.strictEqual(calls, 3)
      assert.strictEqual(writes, 2)
    }))

  it.effect("T5 steps of one name are numbered, and a replay repeats none", () =>
    Effect.gen(function*() {
      const runs: Array<string> = []
      const step = Activity.make(
        "step",
        { payload: Schema.Number, success: Schema.Number },
        (message: Message<number>) => {
          runs.push(message.headers["message-id"] ?? "")
          return Effect.succeed(message.payload + 1)
        }
      )
      const end = yield* through(ended(() =>
        Effect.gen(function*() {
          const one = yield* step.execute(0)
          yield* Execution.sleep("night", "8 minutes")
          const two = yield* step.execute(one)
          return String(two)
        })
      ))
      assert.deepStrictEqual(end, { _tag: "Completed", value: "2" })
      assert.deepStrictEqual(runs, ["Job/k/step", "Job/k/step#2"])
    }))

  it.effect("T5 values that their schemas refuse fail the workflow and name the schema", () =>
    Effect.gen(function*() {
      const odd = Activity.make(
        "odd",
        { payload: Schema.String, success: Schema.NonEmptyString },
        (_: Message<string>) => Effect.succeed("")
      )
      const end = yield* through(ended((payload) => odd.execute(payload)))
      assert.include(end._tag === "Failed" ? end.message : "", "the result of odd is not one of its schema")
    }))

  it("T5 wrong options are refused when it is built", () => {
    const handler = () => Effect.void
    assert.throws(() => Activity.make("", { payload: Schema.String }, handler), /name must be 1 to 100 characters/)
    assert.throws(
      () => Activity.make("a", { payload: Schema.String, attempts: 0 }, handler),
      "Activity: attempts must be an integer from 1, got 0"
    )
    assert.throws(() => WorkflowType.make("a/b", { payload: Schema.String }), /WorkflowType: name must be/)
    const body = () => Effect.succeed("")
    assert.throws(
      () => EffectWorkflows.layerMemory(EffectWorkflows.implement(Job, body), EffectWorkflows.implement(Job, body)),
      /got Job twice/
    )
  })

  it.effect("T5 an activity that is interrupted runs its hooks", () =>
    Effect.gen(function*() {
      let outcome: string | undefined
      const slow = Activity.make("slow", { payload: Schema.String }, (message: Message<string>) => {
        message.after((_, settled) => {
          outcome = settled?._tag
          return undefined
        })
        return Effect.never
      })
      const call = { workflow: "w", execution: "w/1", step: "slow", headers: {}, payload: "\"x\"", attempt: 1 }
      const fiber = yield* Effect.forkChild(slow.attempt(call), { startImmediately: true })
      yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(fiber)))
      assert.strictEqual(outcome, "Release")
    }))
})
