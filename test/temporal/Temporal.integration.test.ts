import { assert, it } from "@effect/vitest"
import { Idempotency, type Message } from "@millrace/core"
import { Temporal, TemporalWorker } from "@millrace/temporal"
import { Deliveries } from "@millrace/testing"
import { Temporal as Server } from "@millrace/testing/servers"
import { SignalWorkflow, StartWorkflow, WorkflowStarter, WorkflowType } from "@millrace/workflow"
import { Effect, Layer, Schema } from "effect"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll } from "vitest"
import { describeServer } from "../services/describe.ts"
import { suite } from "../workflow/suite.ts"
import { double, Refused } from "../workflow/workflows.ts"

const workflows = { path: fileURLToPath(new URL("workflows.ts", import.meta.url)) }

describeServer("Temporal", Server.own(), (server) => {
  const taskQueue = "tests"
  let stop: (() => Promise<void>) | undefined
  beforeAll(async () => {
    const worker = TemporalWorker.layer({
      address: server().address,
      taskQueue,
      workflows,
      activities: [double],
      // the test server of Java knows no sticky queues
      cachedWorkflows: 0
    })
    const started = Promise.withResolvers<void>()
    const controller = new AbortController()
    const ended = Effect.runPromiseExit(
      Effect.scoped(Effect.andThen(
        Layer.build(worker),
        Effect.andThen(Effect.sync(started.resolve), Effect.never)
      )),
      { signal: controller.signal }
    )
    void ended.then((exit) => started.reject(exit))
    await started.promise
    stop = async () => {
      controller.abort()
      await ended
    }
  }, 120_000)
  afterAll(() => stop?.(), 60_000)

  // the address is there when tests run, not when they are collected
  const engine = Layer.unwrap(Effect.sync(() => Temporal.layer({ address: server().address, taskQueue })))
  it.live(
    "T5 a worker in Java runs the workflow, and its results, errors and signals have their types",
    () =>
      Effect.gen(function*() {
        const { args, command } = yield* server().java(fileURLToPath(new URL("java", import.meta.url)), "JavaWorker")
        const worker = yield* Effect.acquireRelease(
          Effect.sync(() =>
            spawn(command, [...args, server().address, "java"], { stdio: ["ignore", "pipe", "ignore"] })
          ),
          (child) => Effect.sync(() => child.kill("SIGKILL"))
        )
        yield* Effect.promise(() => once(worker.stdout, "data"))
        const key = (message: Message<Uint8Array>) => message.key
        const payload = (message: Message<Uint8Array>) => ({ n: Number(message.headers["n"]) })
        const Payload = Schema.Struct({ n: Schema.Number })
        const Double = WorkflowType.make("JavaDouble", { payload: Payload, success: Schema.Number, error: Refused })
        const double = StartWorkflow.handler({ workflow: Double, key, payload, await: "result" })
        const good = yield* double(Deliveries.make({ key: "good", headers: { n: "21" } }))
        assert.deepStrictEqual(good.result, { _tag: "Completed", value: 42 })
        const bad = yield* double(Deliveries.make({ key: "bad", headers: { n: "-1" } }))
        assert.strictEqual(bad.result._tag === "Failed" ? bad.result.error?.why : bad.result._tag, "-1 is not accepted")

        const Hold = WorkflowType.make("JavaHold", { payload: Payload, success: Schema.String })
        const hold = StartWorkflow.handler({ workflow: Hold, key, payload })
        yield* hold(Deliveries.make({ key: "held", headers: { n: "1" } }))
        const go = SignalWorkflow.handler({
          workflow: Hold,
          key,
          signal: "go",
          schema: Schema.String,
          payload: () => "now"
        })
        yield* go(Deliveries.make({ key: "held" }))
        const starter = yield* WorkflowStarter.Service
        assert.deepStrictEqual(yield* starter.result({ workflow: "JavaHold", execution: "JavaHold/held" }), {
          _tag: "Completed",
          value: "\"now\""
        })
      }).pipe(
        Effect.scoped,
        Effect.provide(Layer.merge(
          Layer.unwrap(Effect.sync(() => Temporal.layer({ address: server().address, taskQueue: "java" }))),
          Idempotency.layerMemory()
        ))
      ),
    120_000
  )

  suite("Temporal", engine, { prefix: "t", races: 50, refusesUnknown: false })
})
