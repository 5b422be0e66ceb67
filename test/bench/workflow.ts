import { Idempotency, type Message } from "@millrace/core"
import { Temporal } from "@millrace/temporal"
import { Deliveries } from "@millrace/testing"
import { Temporal as Server } from "@millrace/testing/servers"
import { EffectWorkflows, StartWorkflow, type WorkflowStarter, WorkflowType } from "@millrace/workflow"
import { Client, Connection } from "@temporalio/client"
import { Effect, Exit, Layer, Schema, Scope } from "effect"
import { Workflow, WorkflowEngine } from "effect/workflow"
import { type Bench, type Measured, scaled, type Shared, stopwatch } from "./Bench.ts"

const addressName = "MILLRACE_BENCH_TEMPORAL"
const taskQueue = "bench"
const inFlight = 32

const address = (): string => {
  const found = process.env[addressName]
  if (found === undefined) throw new Error(`${addressName} is set by the process that starts the variants`)
  return found
}

/** One Temporal for all variants. */
const share = async (): Promise<Shared> => {
  const scope = Scope.makeUnsafe()
  const close = () => Effect.runPromise(Scope.close(scope, Exit.void))
  try {
    const server = await Effect.runPromise(Scope.provide(Server.own({ heap: "1g" }), scope))
    return { environment: { [addressName]: server.address }, close }
  } catch (error) {
    await close()
    throw error
  }
}

const payload = { payload: Schema.Struct({ id: Schema.String, amount: Schema.Number }) }
const Job = WorkflowType.make("Job", payload)
const start = StartWorkflow.handler({
  workflow: Job,
  key: (message: Message<Uint8Array>) => message.key,
  payload: (message: Message<Uint8Array>) => ({ id: message.key ?? "", amount: 90 })
})

let next = 0
const key = () => `${process.pid}-${next++}`

/** Calls, `inFlight` at a time, after a first round that is not counted. */
const timed = async (count: number, lanes: number, call: () => Promise<unknown>): Promise<Measured> => {
  const run = (count: number) =>
    Promise.all(Array.from({ length: lanes }, async () => {
      for (let i = 0; i < count / lanes; i++) await call()
    }))
  await run(Math.ceil(count / 4))
  const stop = stopwatch()
  await run(count)
  return stop(count)
}

const many =
  <E, R>(layer: Layer.Layer<R, E>, one: () => Effect.Effect<unknown, unknown, R>, of: number) =>
  async (): Promise<
    Measured
  > => {
    const count = scaled(of)
    const lane = (count: number) =>
      Effect.forEach(
        Array.from({ length: inFlight }),
        () => Effect.forEach(Array.from({ length: Math.ceil(count / inFlight) }), one, { discard: true }),
        { concurrency: "unbounded", discard: true }
      )
    return Effect.runPromise(Effect.provide(
      Effect.gen(function*() {
        yield* lane(count / 4)
        const stop = stopwatch()
        yield* lane(count)
        return stop(count)
      }),
      layer
    ))
  }

const ours = (engine: Layer.Layer<WorkflowStarter.Service>, of: number) =>
  many(
    Layer.merge(engine, Idempotency.layerMemory({ capacity: 1_000_000 })),
    () => start(Deliveries.make({ key: key() })),
    of
  )

const Bare = Workflow.make("Job", { ...payload, idempotencyKey: ({ id }: { readonly id: string }) => id })

/** T5: starting a workflow for a message, beside the engine's own call. */
export const workflow: Bench = {
  name: "workflow",
  about:
    "starts of workflows for messages, 32 in flight, beside the bare engines: Effect in memory, and Temporal's test server",
  rounds: 3,
  share,
  variants: [
    {
      name: "millrace, Effect",
      whose: "millrace",
      run: ours(EffectWorkflows.layerMemory(EffectWorkflows.implement(Job, () => Effect.void)), 10_000)
    },
    {
      name: "Effect",
      whose: "peer",
      run: many(
        Layer.provideMerge(Bare.toLayer(() => Effect.void), WorkflowEngine.layerMemory),
        () => Bare.execute({ id: key(), amount: 90 }, { discard: true }),
        10_000
      )
    },
    {
      name: "millrace, Temporal",
      whose: "millrace",
      run: () => ours(Temporal.layer({ address: address(), taskQueue }), 3_000)()
    },
    {
      name: "Temporal",
      whose: "peer",
      run: async () => {
        const connection = await Connection.connect({ address: address() })
        const client = new Client({ connection })
        const measured = await timed(scaled(3_000), inFlight, () => {
          const id = key()
          return client.workflow.start("Job", { workflowId: `Job/${id}`, taskQueue, args: [{ id, amount: 90 }] })
        })
        await connection.close()
        return measured
      }
    },
    {
      name: "Temporal, a connection for each",
      whose: "peer",
      run: () =>
        timed(scaled(200), 1, async () => {
          const connection = await Connection.connect({ address: address() })
          const id = key()
          await new Client({ connection }).workflow.start("Job", {
            workflowId: `Job/${id}`,
            taskQueue,
            args: [{ id, amount: 90 }]
          })
          await connection.close()
        })
    }
  ],
  goals: [
    {
      id: "T5",
      text: "times the starts of Effect's bare engine",
      target: 0.9,
      better: "higher",
      measured: (of) => of("millrace, Effect")["perSecond"]! / of("Effect")["perSecond"]!
    },
    {
      id: "T5",
      text: "times the starts of Temporal's bare client",
      target: 0.95,
      better: "higher",
      measured: (of) => of("millrace, Temporal")["perSecond"]! / of("Temporal")["perSecond"]!
    },
    {
      id: "T5",
      text: "times the starts of a connection for each message",
      target: 20,
      better: "higher",
      measured: (of) => of("millrace, Temporal")["perSecond"]! / of("Temporal, a connection for each")["perSecond"]!
    }
  ]
}
