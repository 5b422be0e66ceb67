import { assert, it } from "@effect/vitest"
import { Broker, TaskStore } from "@millrace/core"
import { Tasks } from "@millrace/tasks"
import { Postgres, RabbitMq, Redis } from "@millrace/testing/servers"
import { Effect, Layer, Random, Redacted } from "effect"
import { type ChildProcess, spawn } from "node:child_process"
import { describeServer } from "../services/describe.ts"
import { brokerOf, type Kind, storeOf, taskOf } from "./killed.ts"

const script = new URL("./killed.ts", import.meta.url).pathname

/** How many tasks run while workers are killed; more by hand. */
const count = Number(process.env["MILLRACE_TASKS"] ?? 1_500)

const mostKills = 8

const storm = (
  store: readonly [Kind, string],
  broker: readonly [Kind, string]
) =>
  Effect.gen(function*() {
    const queue = `kill_${store[0]}_${broker[0]}_${(yield* Random.nextIntBetween(0, 1e9)).toString(36)}`
    const Work = taskOf(queue)
    let kills = 0
    const workers = new Set<ChildProcess>()
    /** Starts a worker, kills it some time after it is ready, and starts the next one; the last ones live. */
    const start = (): void => {
      const worker = spawn(process.execPath, ["--no-warnings", script, ...store, ...broker, queue], {
        stdio: ["ignore", "pipe", "inherit"]
      })
      workers.add(worker)
      worker.stdout.once("data", () => {
        if (kills >= mostKills) return
        const after = 100 + 150 * kills++
        setTimeout(() => {
          worker.kill("SIGKILL")
          workers.delete(worker)
          start()
        }, after)
      })
    }
    for (const _ of [1, 2]) start()
    yield* Effect.gen(function*() {
      yield* Effect.flatMap(Broker.Broker, (broker) => broker.declare({ channel: queue }))
      const all = yield* Effect.forEach(
        Array.from({ length: count }, (_, i) => i),
        (i) => Tasks.enqueue(Work, i, { id: `${queue}-${i}`, delay: i % 7 === 0 ? "1 second" : 0 }),
        { concurrency: 64 }
      )
      const results = yield* Effect.forEach(all, ({ result }) => result, { concurrency: "unbounded" }).pipe(
        Effect.timeout("4 minutes")
      )
      assert.deepStrictEqual(results, Array.from({ length: count }, (_, i) => i))
      assert.isAbove(kills, 2)
      const tasks = yield* TaskStore.Store
      for (const { id } of all) {
        const record = yield* tasks.read(id)
        assert(record !== undefined)
        assert.strictEqual(record.state, "succeeded")
        assert.strictEqual(record.attempts.filter(({ ending }) => ending === "succeeded").length, 1)
        assert.strictEqual(record.attempts.at(-1)?.ending, "succeeded")
      }
    }).pipe(
      Effect.ensuring(Effect.sync(() => workers.forEach((worker) => worker.kill("SIGKILL")))),
      Effect.provide(
        Tasks.layer({ handoff: "2 seconds" }).pipe(
          Layer.provideMerge(Layer.merge(storeOf(...store, queue), brokerOf(...broker)))
        )
      )
    )
  })

describeServer("tasks in Redis under kill -9", Redis.own(), (redis) => {
  it.live(
    "X11 each task has one result while workers are killed: Redis",
    () => storm(["redis", Redacted.value(redis().url)], ["redis", Redacted.value(redis().url)]),
    300_000
  )
})

describeServer("tasks in PostgreSQL under kill -9", Postgres.own(), (postgres) => {
  describeServer("over RabbitMQ", RabbitMq.own(), (rabbitmq) => {
    it.live(
      "X11 each task has one result while workers are killed: PostgreSQL and RabbitMQ",
      () => storm(["postgres", Redacted.value(postgres().url)], ["rabbitmq", Redacted.value(rabbitmq().url)]),
      300_000
    )
  })
})
