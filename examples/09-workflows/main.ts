/**
 * Messages that start workflows: `--engine` changes one Layer, and nothing else.
 */
import * as NodeRuntime from "@effect/platform-node/NodeRuntime"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Health, MemoryBroker, Subscriptions } from "@millrace/core"
import { Console, Effect, Layer } from "effect"
import { CliConfig, CliError, Command, Flag, GlobalFlag } from "effect/cli"
import { advanced, simple, withWorkflow } from "./consumers.ts"
import * as Engines from "./engines.ts"
import { produce, published } from "./producer.ts"
import { Tally } from "./tally.ts"

const flags = {
  engine: Flag.Literals("engine", Engines.names).pipe(
    Flag.withDescription("Runs the workflows (default: memory)"),
    Flag.withDefault("memory")
  ),
  orders: Flag.Int("orders").pipe(
    Flag.filter((n) => n >= 1 && n <= 10_000, (n) => `an integer from 1 to 10000, and ${n} is none`),
    Flag.withDescription("How many orders each consumer gets, from 1 to 10000 (default: 100)"),
    Flag.withDefault(100)
  )
}

const program = Effect.fn("program")(function*(orders: number) {
  const tallies = { simple: new Tally(), withWorkflow: new Tally(), advanced: new Tally() }
  const subscriptions = yield* Subscriptions.Registry
  yield* Effect.all([
    subscriptions.start(simple(tallies.simple)),
    subscriptions.start(withWorkflow(tallies.withWorkflow)),
    subscriptions.start(advanced(tallies.advanced))
  ], { concurrency: "unbounded" })
  yield* produce(orders)

  const isDone = Effect.map(
    subscriptions.list,
    (all) => all.every(({ settled }) => settled === published(orders))
  )
  yield* Effect.repeat(Effect.delay(isDone, "50 millis"), { until: (done) => done })

  const show = (name: string, tally: Tally) =>
    Console.log(`${name}: ${[...tally.counts].sort().map(([how, count]) => `${how} ${count}`).join(", ")}`)
  yield* show("simple", tallies.simple)
  // a duplicate joins the execution, or finds that it has ended
  const { withWorkflow: started } = tallies
  yield* Console.log(
    `with workflow: ${started.of("Started")} started, ${started.of("Joined") + started.of("AlreadyDone")} duplicates`
  )
  const { advanced: chosen } = tallies
  const duplicates = chosen.of("Joined") + chosen.of("AlreadyDone")
  yield* Console.log(
    `advanced: ${chosen.of("inline")} inline, ${chosen.of("Started")} by workflow, ${duplicates} duplicates, ${
      published(orders) - chosen.of("inline") - chosen.of("Started") - duplicates
    } duplicates without a run or dead letters`
  )
})

const start = Command.make(
  "workflows",
  flags,
  ({ engine, orders }) => {
    const live = Layer.mergeAll(Engines.layers[engine], Subscriptions.layer()).pipe(
      Layer.provideMerge(MemoryBroker.layer())
    )
    return program(orders).pipe(
      Effect.scoped,
      Effect.provide(live),
      // every error of the parts is a sentence that says what to do
      Effect.mapError((error) => new CliError.UserError({ cause: error, userMessage: error.message }))
    )
  }
).pipe(
  Command.withDescription("Publishes orders whose messages start workflows, on the engine of your choice"),
  Command.withExamples([
    { command: "workflows --engine postgres", description: "On a PostgreSQL that is started for the run" },
    { command: "workflows --engine temporal", description: "On Temporal's test server" }
  ])
)

Command.run(start, { version: "0.1.0" }).pipe(
  Effect.provide(Layer.merge(NodeServices.layer, CliConfig.layer({ builtIns: [GlobalFlag.Help] }))),
  // a signal ends a run in order: exit code 0
  NodeRuntime.runMain({ teardown: Health.teardown })
)
